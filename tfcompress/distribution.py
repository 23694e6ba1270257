"""Training on several devices or machines: TensorFlow's strategies, and what has to be the same on all of them."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.vocabulary.errors import RecipeError, TrainingError
from tfcompress.vocabulary.state import State

Strategy = Literal["mirrored", "multi_worker"]
"""`mirrored`: all devices of this machine; `multi_worker`: those of all processes that TF_CONFIG names."""


@dataclass(frozen=True)
class Distribution:
    """Where training runs; one device, unless there is a strategy.

    A batch is the recipe's, split over the replicas: the loss of each counts by its share of the examples, and
    BatchNormalization takes statistics of the whole batch, so that training is that of one device but for the order of
    sums. What each replica has for itself: Dropout, the directions that gradients of teachers are matched along, and in
    quantization-aware training the ranges of activations, whose mean is taken. Moving variances are not corrected for
    the size of the batch, as by Keras' synchronized BatchNormalization.

    Args:
        strategy: of TensorFlow. Defaults to none.
    """

    strategy: Any = None

    @property
    def replicas(self) -> int:
        """Among how many a batch is split."""
        return 1 if self.strategy is None else self.strategy.num_replicas_in_sync

    @property
    def has_others(self) -> bool:
        """Whether other processes train the same model."""
        return self.strategy is not None and self.strategy.extended._in_multi_worker_mode()

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run's folder, converts and measures."""
        return not self.has_others or self.strategy.cluster_resolver.task_id == 0

    @property
    def identity(self) -> dict[str, Any]:
        """What of it the weights depend on; empty for one device."""
        return {} if self.strategy is None else {"replicas": self.replicas}

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Where models to be trained, and their optimizers, are made."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def twin(self, state: State, make: Callable[[], State]) -> State:
        """What is trained in the place of `state`: itself on one device, or what `make` makes for all of them.

        Args:
            state: prepared for training, of this process alone; stays as it is.
            make: makes the same once more: a model with the same variables in the same order.
        """
        if self.strategy is None:
            return state
        with self.scope():
            again = make()
        copy_variables(state.model, again.model)
        for layer in again.model._flatten_layers():
            if self.replicas > 1 and isinstance(layer, kd.keras.layers.BatchNormalization):
                layer.synchronized, layer.fused = True, False
        return again

    def balanced(self, loss: Any) -> Any:
        """`loss` of which each replica's part counts by its share of the examples: the last batch may not divide."""
        if self.replicas == 1:
            return loss
        if not isinstance(loss, kd.keras.losses.Loss):
            return lambda targets, outputs: loss(targets, outputs) * relative_share(targets)
        if loss.reduction == kd.keras.losses.Reduction.SUM:
            return loss
        weighted = copy.copy(loss)
        weighted.call = lambda targets, outputs: loss.call(targets, outputs) * relative_share(targets)
        return weighted

    def spread(self, batches: Any) -> Any:
        """`batches`, a `tf.data.Dataset`, told to split each among processes instead of files."""
        if self.strategy is None:
            return batches
        options = kd.tf.data.Options()
        options.experimental_distribute.auto_shard_policy = kd.tf.data.experimental.AutoShardPolicy.DATA
        return batches.with_options(options)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Name the end of another process, which ends what all do together.

        Raises:
            TrainingError: another process has ended.
        """
        errors = kd.tf.errors
        lost = (errors.UnavailableError, errors.AbortedError, errors.CancelledError, errors.InternalError)
        try:
            yield
        except lost as error:
            if not self.has_others:
                raise
            raise TrainingError(
                "All processes of a multi_worker run must stay until its end, and one has ended or cannot be reached: "
                f"{str(error).splitlines()[0]} Remedy: see what it says; the same commands go on where they stopped."
            ) from error

    def agreed(self, value: Any) -> Any:
        """The chief's `value`, which is plain, in every process."""
        return json.loads(self._of_chief(json.dumps(value).encode())) if self.has_others else value

    def agreed_arrays(self, arrays: Mapping[str, np.ndarray] | None) -> Mapping[str, np.ndarray] | None:
        """The chief's named arrays, or None, in every process."""
        if not self.has_others:
            return arrays
        buffer = io.BytesIO()
        if arrays is not None:
            np.savez(buffer, **arrays)
        content = self._of_chief(buffer.getvalue())
        if not content:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}

    def _of_chief(self, content: bytes) -> bytes:
        size = int(self._variable_of_chief(np.array([len(content)], np.int64))[0])
        # One value more, for TensorFlow's broadcast of none ends the process.
        padded = np.zeros((size // 4 + 1) * 4, np.uint8)
        if self.is_chief:
            padded[:size] = np.frombuffer(content, np.uint8)
        return self._variable_of_chief(padded.view(np.int32)).tobytes()[:size]

    def _variable_of_chief(self, values: np.ndarray) -> np.ndarray:
        # A variable begins with what the chief gives it.
        with self.scope():
            return kd.tf.Variable(values, trainable=False).numpy()


def distribution(name: str | None) -> Distribution:
    """The distribution of this name; None for one device.

    Args:
        name: see `Strategy`. `multi_worker` waits for the processes that the environment's TF_CONFIG names, as
            TensorFlow defines it, and has to come before anything else that TensorFlow does.

    Raises:
        RecipeError: there is no such strategy, or no TF_CONFIG for it.
    """
    if name is None:
        return Distribution()
    if name not in get_args(Strategy):
        raise RecipeError(f"strategy must be one of {', '.join(get_args(Strategy))}. Received: {name!r}.")
    if name == "mirrored":
        kinds = ("GPU", "CPU")
        devices = next(found for kind in kinds if (found := kd.tf.config.list_logical_devices(kind)))
        # Collective operations of masks and those of normalizations meet under one key and abort; sums do not.
        sums = kd.tf.distribute.ReductionToOneDevice()
        return Distribution(kd.tf.distribute.MirroredStrategy([device.name for device in devices], sums))
    _check_cluster(os.environ.get("TF_CONFIG", ""))
    try:
        return Distribution(kd.tf.distribute.MultiWorkerMirroredStrategy())
    except RuntimeError as error:
        raise RecipeError(
            f"strategy multi_worker has to be the first thing that TensorFlow does in a process: {error} "
            "Remedy: a process of its own, such as tfcompress compress --strategy=multi_worker."
        ) from error


def _check_cluster(text: str) -> None:
    """Refuse a TF_CONFIG that does not say which processes there are, and which of them is this one."""
    try:
        tree = json.loads(text)
        workers, task = tree["cluster"]["worker"], tree["task"]
        named = task["type"] == "worker" and workers[int(task["index"])] and set(tree["cluster"]) == {"worker"}
    except (ValueError, KeyError, TypeError, IndexError):
        named = False
    if not named:
        raise RecipeError(
            "strategy multi_worker needs the environment's TF_CONFIG to name all processes, as workers, and which of "
            f"them this is. Received: {text or 'none'}. Remedy, for the first of two: TF_CONFIG="
            """'{"cluster": {"worker": ["10.0.0.1:1234", "10.0.0.2:1234"]}, "task": {"type": "worker", "index": 0}}'"""
        )


def relative_share(batch: Any) -> Any:
    """What of a whole batch this replica has, `[n, ...]`, relative to an equal share: 1 on one device."""
    replicas = kd.tf.distribute.get_strategy().num_replicas_in_sync
    if replicas == 1:
        return 1.0
    own = kd.tf.cast(kd.tf.shape(batch)[0], kd.tf.float32)
    return own * replicas / kd.tf.distribute.get_replica_context().all_reduce("SUM", own)


def copy_variables(source: Any, target: Any) -> None:
    """Give the variables of the model `target` the values of those of `source`, which are the same in number, order
    and shape."""
    for mine, other in zip(target.weights, source.weights, strict=True):
        mine.assign(other.numpy())
