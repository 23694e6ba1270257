"""Every kind of layer: the counterpart computes the same with the same weights, and can be cloned."""

import numpy as np
import pytest
from fixtures.keras_3 import randomised, sequential

from tfcompress import keras_door as kd
from tfcompress.models import clone, fingerprint
from tfcompress.models.translation import translate
from tfcompress.vocabulary.errors import ModelError

layers = kd.keras_3.layers

ACTIVATIONS = (
    *("elu", "gelu", "linear", "mish", "relu", "selu", "sigmoid", "softmax", "softplus", "softsign", "tanh", "silu"),
    *("swish", "exponential", "leaky_relu", "relu6", "hard_sigmoid", "hard_silu", "hard_swish", "log_sigmoid", "celu"),
    *("hard_tanh", "tanh_shrink", "soft_shrink", "hard_shrink", "squareplus", "sparse_sigmoid", "log_softmax"),
)

FAMILIES = {
    "convolutions in one dimension": lambda: sequential(
        layers.Conv1D(4, 3, padding="causal", dilation_rate=2),
        layers.DepthwiseConv1D(3),
        layers.SeparableConv1D(5, 3, activation="relu6"),
        layers.Conv1DTranspose(4, 3, strides=2),
        shape=(16, 3),
    ),
    "convolutions in two dimensions": lambda: sequential(
        layers.Conv2D(4, 3, kernel_regularizer="l2", kernel_constraint="non_neg", strides=2, padding="same"),
        layers.Conv2DTranspose(4, 3, strides=2, padding="same", output_padding=1),
        layers.SeparableConv2D(4, 3, depth_multiplier=2),
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        layers.Conv2D(4, 3, groups=2, activation="hard_sigmoid"),
        shape=(16, 16, 3),
    ),
    "three dimensions": lambda: sequential(
        layers.Conv3D(4, 3),
        layers.Conv3DTranspose(2, 2),
        layers.MaxPooling3D(),
        layers.ZeroPadding3D(1),
        layers.Cropping3D(1),
        layers.UpSampling3D(2),
        layers.AveragePooling3D(2),
        layers.GlobalAveragePooling3D(),
        shape=(8, 8, 8, 2),
    ),
    "pooling and shapes in one dimension": lambda: sequential(
        layers.MaxPooling1D(),
        layers.ZeroPadding1D(1),
        layers.Cropping1D(1),
        layers.UpSampling1D(2),
        layers.AveragePooling1D(2),
        layers.Permute((2, 1)),
        layers.Reshape((4, -1)),
        layers.GlobalMaxPooling1D(),
        layers.RepeatVector(3),
        layers.GlobalAveragePooling1D(),
        shape=(16, 3),
    ),
    "pooling and shapes in two dimensions": lambda: sequential(
        layers.MaxPooling2D(),
        layers.AveragePooling2D(2, padding="same"),
        layers.ZeroPadding2D(((1, 2), (0, 1))),
        layers.Cropping2D(1),
        layers.UpSampling2D(2, interpolation="bilinear"),
        layers.GlobalMaxPooling2D(keepdims=True),
        layers.GlobalAveragePooling2D(),
        layers.Flatten(),
        shape=(16, 16, 3),
    ),
    "recurrent": lambda: sequential(
        layers.LSTM(4, return_sequences=True, recurrent_activation="hard_sigmoid"),
        layers.GRU(4, return_sequences=True),
        layers.GRU(4, reset_after=False, return_sequences=True),
        layers.Bidirectional(layers.LSTM(3, return_sequences=True), merge_mode="sum"),
        layers.Bidirectional(
            layers.GRU(3, return_sequences=True),
            backward_layer=layers.SimpleRNN(3, return_sequences=True, go_backwards=True),
        ),
        layers.TimeDistributed(layers.Dense(4)),
        layers.SimpleRNN(3, return_sequences=True),
        layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)], return_sequences=True),
        layers.RNN(layers.SimpleRNNCell(3)),
        shape=(5, 3),
    ),
    "masked tokens": lambda: sequential(
        layers.Embedding(20, 4, mask_zero=True),
        layers.Bidirectional(layers.GRU(3, return_sequences=True)),
        layers.GlobalAveragePooling1D(),
        shape=(9,),
        dtype="int32",
    ),
    "tokens that come as floats, of any number": lambda: sequential(
        layers.Embedding(20, 4), layers.GlobalAveragePooling1D(), shape=(None,)
    ),
    "masked steps": lambda: sequential(layers.Masking(0.0), layers.LSTM(3), shape=(5, 3)),
    "convolutional recurrent": lambda: sequential(layers.ConvLSTM2D(3, 3), shape=(3, 6, 6, 2)),
    "normalizations": lambda: sequential(
        layers.LayerNormalization(),
        layers.GroupNormalization(2),
        layers.UnitNormalization(),
        layers.BatchNormalization(synchronized=True),
        layers.EinsumDense("abc,cd->abd", output_shape=(5, 6), bias_axes="d"),
        layers.BatchNormalization(axis=1, scale=False),
        shape=(5, 4),
    ),
    "batch renormalization": lambda: sequential(layers.BatchNormalization(renorm=True), shape=(5, 4)),
    "activations by name": lambda: sequential(*map(layers.Activation, ACTIVATIONS), shape=(5, 4)),
    "activations as layers": lambda: sequential(
        layers.LeakyReLU(0.1),
        layers.PReLU(shared_axes=[1]),
        layers.ELU(0.3),
        layers.ReLU(5, 0.1, 0.2),
        layers.Softmax(),
        shape=(5, 4),
    ),
    "for training only": lambda: sequential(
        layers.Dropout(0.3, seed=3),
        layers.GaussianNoise(0.1),
        layers.SpatialDropout1D(0.2),
        layers.GaussianDropout(0.1),
        layers.AlphaDropout(0.1),
        layers.ActivityRegularization(0.1),
        layers.Identity(),
        layers.Dense(3),
        shape=(5, 4),
    ),
    "images": lambda: sequential(
        layers.Rescaling(1 / 255.0, offset=-0.5),
        layers.Resizing(10, 10),
        layers.CenterCrop(8, 8),
        layers.RandomFlip("horizontal"),
        layers.RandomRotation(0.1),
        layers.RandomZoom(0.1),
        layers.RandomContrast(0.1),
        layers.RandomTranslation(0.1, 0.1),
        layers.RandomBrightness(0.1),
        layers.Normalization(mean=[1.0, 2, 3], variance=[1.0, 4, 9]),
        shape=(12, 12, 3),
    ),
    "categories": lambda: sequential(
        layers.Discretization([0.0, 1.0]), layers.CategoryEncoding(4, output_mode="multi_hot"), shape=(4,)
    ),
    "functions of the user's": lambda: sequential(
        layers.Lambda(lambda x: kd.keras_3.ops.relu(x) * 3), layers.Dense(3, activation=lambda x: x * x), shape=(4,)
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_translated(family):
    model = FAMILIES[family]()
    translated = translate(model)
    assert [layer.name for layer in translated.layers[1:]] == [layer.name for layer in model.layers]
    if family != "functions of the user's":  # Byte code is not the same twice.
        assert fingerprint(clone(translated)) == fingerprint(translated)
    assert sum(weight.shape.num_elements() for weight in translated.weights) == sum(
        int(np.prod(weight.shape)) for weight in model.weights
    )


def test_attention():
    inputs = kd.keras_3.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4, seed=1)(inputs, inputs, use_causal_mask=True)
    y = layers.AdditiveAttention()([layers.Attention()([inputs, x]), x])
    x, scores = layers.MultiHeadAttention(2, 4, value_dim=3)(query=y, key=x, value=y, return_attention_scores=True)
    translate(randomised(kd.keras_3.Model(inputs, [x, scores])))


def test_states_of_recurrent_layers():
    inputs = kd.keras_3.Input((5, 3))
    outputs, *states = layers.LSTM(4, return_state=True)(inputs)
    outputs = layers.Add()([outputs, layers.LSTM(4)(inputs, initial_state=states)])
    translate(randomised(kd.keras_3.Model(inputs, outputs)))


def test_what_training_needs_is_kept():
    model = sequential(
        layers.Dense(4, kernel_regularizer=kd.keras_3.regularizers.L1L2(0.1, 0.2), kernel_constraint="max_norm"),
        layers.Dropout(0.3),
        layers.BatchNormalization(momentum=0.7, epsilon=0.01),
        shape=(4,),
    )
    model.layers[0].trainable = False
    dense, dropout, norm = translate(model).layers[1:]
    assert (dense.kernel_regularizer.l1, dense.kernel_regularizer.l2) == pytest.approx((0.1, 0.2))
    assert isinstance(dense.kernel_constraint, kd.keras.constraints.MaxNorm)
    assert not dense.trainable
    assert (dropout.rate, norm.momentum, norm.epsilon, norm.trainable) == (0.3, 0.7, 0.01, True)


def test_adapted_statistics_become_constants():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3, 2, (50, 4)))
    translated = translate(kd.keras_3.Sequential([kd.keras_3.Input((4,)), layer]))
    np.testing.assert_allclose(translated(np.full((1, 4), 3.0)), layer(np.full((1, 4), 3.0)), rtol=1e-5)


def test_mixed_precision_becomes_float32():
    model = sequential(
        layers.Conv2D(4, 3, dtype="mixed_float16"),
        layers.BatchNormalization(dtype="mixed_float16"),
        layers.Flatten(dtype="mixed_bfloat16"),
        layers.Dense(3),
        shape=(8, 8, 3),
    )
    translated = translate(model)
    assert {layer.compute_dtype for layer in translated.layers} == {"float32"}
    np.testing.assert_array_equal(translated.get_weights()[0], model.get_weights()[0])
    assert model.layers[0].compute_dtype == "float16"


def test_hard_swish_reaches_the_converter_as_one_operator():
    model = translate(sequential(layers.Conv2D(2, 3, activation="hard_silu"), shape=(6, 6, 1)))
    converted = kd.tf.lite.TFLiteConverter.from_keras_model(model).convert()
    interpreter = kd.litert.Interpreter(model_content=converted)
    names = {operator["op_name"] for operator in interpreter._get_ops_details()}
    assert "HARD_SWISH" in names


class TestRefusals:
    """What cannot be translated is named with reason and remedy."""

    @pytest.mark.parametrize(
        ("layer", "shape", "message"),
        [
            (lambda: layers.RMSNormalization(name="odd"), (4,), r"odd \(RMSNormalization\).*Use LayerNormalization"),
            (lambda: layers.AdaptiveAveragePooling2D(2, name="odd"), (4, 4, 1), r"odd .*no such layer.*Replace it"),
            (lambda: layers.LayerNormalization(rms_scaling=True, name="odd"), (4,), r"odd .*no rms_scaling=True"),
            (lambda: layers.Conv2D(2, 1, data_format="channels_first", name="odd"), (3, 4, 4), "channels_last"),
            (lambda: layers.Activation("sparsemax", name="odd"), (4,), r"no activation 'sparsemax'.*custom_objects"),
            (lambda: layers.SpectralNormalization(layers.Dense(2), name="odd"), (4,), "odd .*beside Keras 3"),
            (lambda: layers.Hashing(3, name="odd"), (1,), "odd .*vocabulary.*outside the model"),
        ],
    )
    def test_a_layer(self, layer, shape, message):
        with pytest.raises(ModelError, match=message):
            translate(kd.keras_3.Sequential([kd.keras_3.Input(shape), layer()]))

    def test_grouped_attention(self):
        inputs = kd.keras_3.Input((6, 8))
        model = kd.keras_3.Model(inputs, layers.GroupQueryAttention(4, 4, 2, name="odd")(inputs, inputs))
        with pytest.raises(ModelError, match=r"odd \(GroupedQueryAttention\).*Use MultiHeadAttention"):
            translate(model)

    def test_quantized_weights_and_adapters(self):
        model = sequential(layers.Dense(4, name="few_bits"), layers.Dense(4, name="adapted"), shape=(4,))
        model.layers[0].quantize("int8")
        model.layers[1].enable_lora(2)
        with pytest.raises(ModelError, match=r"few_bits.*quantized already \(int8\).*float model.*adapted.*LoRA"):
            translate(model)
