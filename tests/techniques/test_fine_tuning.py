"""Fine-tuning: the model as it is, trained, with every promise kept."""

import numpy as np
from fixtures import models

from tfcompress.callbacks.keep_promises import keep_promises
from tfcompress.techniques.clustering import Clustering
from tfcompress.techniques.fine_tuning import FineTuning
from tfcompress.techniques.pruning import Pruning
from tfcompress.vocabulary.promises import broken_by
from tfcompress.vocabulary.state import State


def test_it_trains_a_copy_and_keeps_what_was_promised():
    net = models.dense()
    inputs = models.inputs_for(net)
    state = models.run(Pruning(final_sparsity=0.5, frequency=1, layers=["out"]), State(net), inputs)
    state = models.run(Clustering(clusters=8, layers=["hidden"]), state, inputs, epochs=0)
    before = state.model.get_weights()
    step = FineTuning()
    prepared = step.prepare(state, models.plan_for(inputs))
    assert prepared.model is not state.model
    models.train(prepared.model, inputs, epochs=2, callbacks=[*step.callbacks(prepared), *keep_promises(prepared)])
    after = step.finish(prepared)
    assert after.promises == state.promises
    assert {promise.kind for promise in after.promises} == {"zeros", "distinct"}
    for promise in after.promises:
        layer, _, attribute = promise.weight.rpartition("/")
        assert not broken_by(getattr(after.model.get_layer(layer), attribute).numpy(), [promise])
    changed = [not np.array_equal(a, b) for a, b in zip(before, after.model.get_weights(), strict=True)]
    # Shared values stay as they are; the biases and what is not zero of the other kernel learn.
    assert changed == [False, True, True, True]
    assert all(np.array_equal(a, b) for a, b in zip(before, state.model.get_weights(), strict=True))


def test_it_judges_no_layers_and_promises_nothing():
    net = models.conv_bn()
    assert FineTuning().verdicts(net) == ()
    assert FineTuning().check(State(net)) is None
    assert FineTuning().promised(State(net)) == ()
