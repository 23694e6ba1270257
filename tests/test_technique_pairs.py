"""Techniques after one another: each order that recipes allow is run and keeps its promises, the others are refused."""

from itertools import combinations, product

import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.pipeline import compress
from tfcompress.recipe import Recipe
from tfcompress.techniques.base import STAGES, techniques

ENDS = ("post_training", "quantization")
"""What chooses the file's arithmetic, once and last."""

VALUES = {
    "rewriting": ({"rewrites": ["space_to_depth"]}, {"rewrites": ["mean_pooling"]}),
    "blocks": ({"remove": ["first"]}, {"remove": ["second"]}),
    "channels": ({"remove": 0.25, "multiple_of": 4, "per_layer": {"hidden": 0, "deep*": 0}},),
    "low_rank": ({"layers": ["*conv"], "rank": 4}, {"layers": ["hidden"], "rank": 4}),
    "adapters": ({"layers": ["hidden"], "rank": 1},),
    "pruning": ({"final_sparsity": 0.25, "exclude": ["deep*"]}, {"final_sparsity": 0.5, "exclude": ["deep*"]}),
    "clustering": ({"layers": ["out"], "clusters": 8}, {"layers": ["out"], "clusters": 4}),
    "product_quantization": ({"layers": ["deep"], "codewords": 16}, {"layers": ["deeper"], "codewords": 16}),
}
"""What the first and the second step of a technique get here; the others have their defaults."""

CHAINS = {
    "each twice": (
        *("fine_tuning", "adapters", "rewriting", "blocks", "blocks", "channels", "channels", "low_rank", "low_rank"),
        *("rewriting", "equalization", "equalization", "pruning", "pruning", "clustering", "clustering"),
        *("product_quantization", "product_quantization", "equalization", "fine_tuning", "adapters", "quantization"),
    ),
    "backwards": (
        *("equalization", "rewriting", "low_rank", "channels", "blocks", "pruning"),
        *("product_quantization", "clustering", "quantization"),
    ),
    "by calibration": (
        *("fine_tuning", "adapters", "blocks", "channels", "rewriting", "low_rank", "equalization", "pruning"),
        "post_training",
    ),
}


def recipe(chain):
    steps, counts = [], dict.fromkeys(chain, 0)
    for technique in chain:
        given = VALUES.get(technique, ({},))
        values = given[min(counts[technique], len(given) - 1)]
        counts[technique] += 1
        fit = {"fit": {"epochs": 1, "learning_rate": 1e-3}} if techniques()[technique].trains else {}
        steps.append({"technique": technique, "name": f"{technique}_{counts[technique]}", **values, **fit})
    return {"steps": steps, "evaluation": {"latency_seconds": 0.01, "threads": 1}}


def refusal(first, second):
    """What recipes say to `second` after `first`; empty where it may be there."""
    ends = [(), *((end,) for end in ENDS)][: 1 if {first, second} & set(ENDS) else None]
    said = []
    for end in ends:
        try:
            Recipe.model_validate(recipe((first, second, *end)))
        except ValueError as error:
            said.append(str(error))
        else:
            return ""
    return said[-1]


def network():
    layers = kd.keras.layers

    def activated(x, name, filters, **options):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name, **options)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    kd.keras.utils.set_random_seed(0)
    inputs = kd.keras.Input((8, 8, 3))
    x = activated(inputs, "stem", 8)
    for name in ("first", "second"):
        y = layers.Conv2D(8, 3, padding="same", name=f"{name}_closing")(activated(x, f"{name}_opening", 8))
        x = layers.Add(name=name)([x, y])
    x = activated(activated(x, "wide_conv", 32, strides=2), "wide", 24)
    x = layers.Flatten()(layers.AveragePooling2D(4)(x))
    x = layers.Dense(32, activation="tanh", name="hidden")(x)
    x = layers.Dense(32, activation="tanh", name="deep")(x)
    x = layers.Dense(32, activation="tanh", name="deeper")(x)
    return kd.keras.Model(inputs, layers.Dense(4, activation="softmax", name="out")(x))


def test_every_order_that_recipes_allow_is_run_here():
    allowed = {pair for pair in product(techniques(), repeat=2) if not refusal(*pair)}
    assert {pair for chain in CHAINS.values() for pair in combinations(chain, 2)} == allowed


def test_every_other_order_is_refused_with_both_names():
    stages = {name: technique.stage for name, technique in techniques().items()}
    refused = {pair: said for pair in product(techniques(), repeat=2) if (said := refusal(*pair))}
    assert {pair for pair in product(stages, repeat=2) if stages[pair[0]] == STAGES[-1]} <= set(refused)
    for (first, second), said in refused.items():
        by_name = f"{second}_" in said and (f"{first}_" in said or "shared values" in said)
        assert by_name or "exactly one step must choose the file's arithmetic" in said, (first, second)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=list(CHAINS))
def test_each_step_keeps_what_the_earlier_ones_promised(chain, tmp_path):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(96, 8, 8, 3)).astype(np.float32), np.arange(96) % 4
    made = compress(network(), data, recipe(chain), out=tmp_path, overrides=["data.preprocessing=raw"])
    assert made.evidence.artifact.full_integer
    assert all(promise.kept for promise in made.evidence.promises)
    kinds = {promise.kind for promise in made.evidence.promises}
    assert kinds >= {"channels", "zeros"}
    assert ({"distinct", "codewords"} <= kinds) == ("clustering" in chain)
