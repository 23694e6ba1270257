"""The network that is trained in a student's place: the student's own layers, with the teachers beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.distillation.features import attention_loss, hint_loss, projections, tapped
from tfcompress.distillation.gradients import along, directions, gradient_loss, normalized
from tfcompress.distillation.soft_targets import Kind, scores, shares_of, soft_target_loss, temperature_schedule
from tfcompress.distillation.teachers import Engaged
from tfcompress.distribution import relative_share
from tfcompress.vocabulary.distillation import Distillation


class Guide:
    """What a `DistilledStudent` knows of its teachers; no part of the model, so that none of it is trained.

    Args:
        student: the model whose layers are trained.
        settings: what is learned.
        teachers: who teach, in the order of the settings.
        kind: what outputs are.
        from_logits: whether the student's are logits.
        epochs: of the step.
        seed: of projections and directions.
    """

    def __init__(
        self,
        student: Any,
        settings: Distillation,
        teachers: tuple[Engaged, ...],
        *,
        kind: Kind,
        from_logits: bool,
        epochs: int,
        seed: int,
    ) -> None:
        self.settings, self.teachers, self.kind, self.from_logits, self.seed = (
            settings,
            teachers,
            kind,
            from_logits,
            seed,
        )
        self.temperature = kd.tf.Variable(0.0, trainable=False)
        self.schedule = temperature_schedule(settings, epochs)
        self.shares = shares_of(settings)
        self.student = tapped(student, [pair.student for pair in settings.features])
        self.teacher = (
            tapped(teachers[0].network.model, [p.teacher for p in settings.features]) if self.layered else None
        )
        taps = ([], []) if self.teacher is None else (self.student.outputs[1:], self.teacher.outputs[1:])
        self.projections = projections(*taps, settings, seed)
        names = ("loss", "task_loss", *self.losses)
        self.means = {name: kd.keras.metrics.Mean(name) for name in names}

    @property
    def layered(self) -> bool:
        """Whether features are matched."""
        return bool(self.settings.features)

    @property
    def losses(self) -> Mapping[str, float]:
        """The weights of what is learned from teachers, by name; what has none is not computed."""
        settings = self.settings
        weights = {
            "soft_target_loss": settings.weight,
            "feature_loss": settings.feature_weight if self.layered else 0.0,
            "gradient_loss": settings.gradient_weight,
        }
        return {name: weight for name, weight in weights.items() if weight}

    def student_outputs(self, inputs: Any) -> tuple[Any, list[Any]]:
        """The student's outputs and features in training, float32 also where its layers compute in 16 bits."""
        found = kd.tf.nest.flatten(self.student(inputs, training=True))
        outputs, *features = (kd.tf.cast(tensor, kd.tf.float32) for tensor in found)
        return outputs, features

    def student_scores(self, outputs: Any) -> Any:
        """What of the student's outputs is compared; see `soft_targets.scores`."""
        return scores(outputs, self.kind, from_logits=self.from_logits)

    def teacher_scores(self, teacher: Engaged, inputs: Any) -> Any:
        """What a teacher says of what the student is fed, `[batch, ...]`."""
        return scores_of(teacher, teacher.network.outputs_in_graph(teacher.refed(inputs)), self.kind)

    def feature_loss(self, inputs: Any, features: list[Any]) -> Any:
        """The mean over the pairs of features."""
        first = self.teachers[0]
        _, *targets = kd.tf.nest.flatten(self.teacher(first.refed(inputs), training=False))
        compare = attention_loss if self.settings.feature_loss == "attention" else hint_loss
        brought = [
            mine if layer is None else layer(mine) for layer, mine in zip(self.projections, features, strict=True)
        ]
        return kd.tf.add_n([compare(a, b) for a, b in zip(brought, targets, strict=True)]) / len(brought)

    def gradient_loss(self, inputs: Any, gradient: Any, direction: Any) -> Any:
        """How far the student's `gradient` along `direction` is from the first teacher's."""
        first = self.teachers[0]
        theirs = along(direction, lambda fed: normalized(self.teacher_scores(first, fed), self.kind), inputs)
        return gradient_loss(gradient, kd.tf.stop_gradient(theirs))


def scores_of(teacher: Engaged, outputs: Any, kind: Kind) -> Any:
    """A teacher's `outputs` as scores."""
    return scores(outputs, kind, from_logits=teacher.from_logits, step=teacher.network.step)


class DistilledStudent(kd.keras.Model):
    """A Functional model of a student's layers whose training step listens to teachers.

    Projections are layers of it: they are trained and checkpointed with it, and no part of the student. Batches are
    (inputs, targets), and where the teachers' scores are known beforehand (inputs, targets, scores `[batch,
    teachers, ...]`).
    """

    def teach(self, guide: Guide) -> None:
        """Have the training step listen to the teachers of `guide`."""
        self.guide = guide
        self.projections = [layer for layer in guide.projections if layer is not None]

    def begin_epoch(self, epoch: int) -> None:
        """Take the temperature of `epoch`, from 0; the training step is not traced again for it."""
        self.guide.temperature.assign(self.guide.schedule(epoch))

    @property
    def metrics(self) -> list[Any]:
        """The means that Keras resets before each epoch."""
        return list(self.guide.means.values()) if hasattr(self, "guide") else []

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of the optimizer on the weighted sum of the task's loss and what the teachers say."""
        tf, guide, replicas = kd.tf, self.guide, self.distribute_strategy.num_replicas_in_sync
        inputs, targets, *known = data
        with tf.GradientTape() as tape:
            outputs, features, gradient, direction = self._forward(inputs)
            parts = {}
            if "soft_target_loss" in guide.losses:
                theirs = known[0] if known else tf.stack([guide.teacher_scores(t, inputs) for t in guide.teachers], 1)
                parts["soft_target_loss"] = soft_target_loss(
                    guide.student_scores(outputs), tf.stop_gradient(theirs), guide.shares, guide.temperature, guide.kind
                )
            if "feature_loss" in guide.losses:
                parts["feature_loss"] = guide.feature_loss(inputs, features)
            if "gradient_loss" in guide.losses:
                parts["gradient_loss"] = guide.gradient_loss(inputs, gradient, direction)
            # Keras divides the compiled loss by the number of replicas, for gradients are summed over them.
            task = self.compiled_loss(targets, outputs) * replicas
            share = relative_share(targets)
            parts = {name: value * share for name, value in parts.items()}
            total = (1 - guide.settings.weight) * task + tf.add_n([guide.losses[name] * v for name, v in parts.items()])
            if self.losses:
                total += tf.add_n([tf.cast(loss, total.dtype) for loss in self.losses])
            divided = total / replicas
        self.optimizer.minimize(divided, self.trainable_variables, tape=tape)
        for name, value in {"loss": total, "task_loss": task, **parts}.items():
            guide.means[name].update_state(value, sample_weight=tf.shape(inputs)[0])
        return {name: mean.result() for name, mean in guide.means.items()}

    def _forward(self, inputs: Any) -> tuple[Any, list[Any], Any, Any]:
        """The student's outputs and features, and where gradients are matched its own and along what direction."""
        guide, tf = self.guide, kd.tf
        if "gradient_loss" not in guide.losses:
            return *guide.student_outputs(inputs), None, None
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs, features = guide.student_outputs(inputs)
            found = normalized(guide.student_scores(outputs), guide.kind)
            direction = directions(found, guide.seed, self.optimizer.iterations)
            value = tf.reduce_sum(found * direction)
        return outputs, features, tape.gradient(value, inputs), direction
