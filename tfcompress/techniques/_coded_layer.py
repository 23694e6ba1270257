"""The Keras half of product quantization: a layer whose weight is made of code words, which are trained."""

from __future__ import annotations

from typing import Any

from tfcompress import keras_door as kd
from tfcompress.product_codes import Codebook, ProductCode, learn
from tfcompress.techniques._substitution import Substitution

tf = kd.tf


class CodedLayer(Substitution):
    """A layer with a weight of code words: which one each sub-vector is stays, the code words are trained.

    The gradient of a code word is the sum over the sub-vectors that are it (Gong et al. 2014; Stock et al., "And the
    bit goes down", 2020, section 3.3). Code words start from `choose`, not when the layer is built, so that loading a
    model does not choose new ones.

    Args:
        layer: a Keras layer that is built.
        attribute: of `layer`, which holds the weight.
        axis: of the weight, along which sub-vectors lie.
        block: values in a sub-vector; divides the length of `axis`.
        codewords: in a codebook.
        codebook: `layer`, one for all, or `subspace`, one for each place along `axis`.
    """

    def __init__(
        self, layer: Any, attribute: str, *, axis: int, block: int, codewords: int, codebook: Codebook
    ) -> None:
        super().__init__(layer, attribute, "coded")
        self.axis = axis
        self.block = block
        self.codewords = codewords
        self.codebook = codebook

    def build(self, input_shape: Any) -> None:
        """Create the code words and the codes, all zero."""
        super().build(input_shape)
        places = self.variable.shape[self.axis] // self.block
        books = places if self.codebook == "subspace" else 1
        self.words = self.add_weight(name="words", shape=(books, self.codewords, self.block), initializer="zeros")
        rest = list(self.variable.shape)
        del rest[self.axis]
        self.codes = self.add_weight(
            name="codes", shape=(*rest, places), dtype=tf.int32, initializer="zeros", trainable=False
        )

    def choose(self, seed: int) -> None:
        """Choose code words, and codes, to suit the weight that the layer has now."""
        code = learn(
            self.variable.numpy(), self.block, self.codewords, codebook=self.codebook, axis=self.axis, seed=seed
        )
        self.words.assign(code.codebooks)
        self.codes.assign(code.codes)

    def effective(self) -> Any:
        """The weight that is written, differentiable in the code words."""
        books, words, _ = self.words.shape
        place = tf.range(self.codes.shape[-1]) % books
        # Of the reshaped variable the gradient is dense: one sum for each code word, not one entry a sub-vector.
        found = tf.gather(tf.reshape(self.words, [books * words, self.block]), self.codes + words * place)
        last = tf.reshape(found, [*self.codes.shape[:-1], -1])
        order = [*range(last.shape.rank - 1)]
        order.insert(self.axis % last.shape.rank, last.shape.rank - 1)
        return tf.transpose(last, order)

    def code(self) -> ProductCode:
        """The weight as it is written now."""
        return ProductCode(self.codes.numpy(), self.words.numpy(), self.axis)
