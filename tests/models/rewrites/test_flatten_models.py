from tfcompress import keras_door as kd
from tfcompress.models.rewrites import rewrite


def _inner(layers, name="inner", activation=None):
    return kd.keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(3, 3, padding="same", name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(name="relu"),
        ],
        name=name,
    )


def test_nested_models_are_taken_apart_at_every_depth(layers, randomised, same_outputs):
    deep = kd.keras.Sequential([layers.Input((8, 8, 3)), _inner(layers), layers.MaxPooling2D(name="pool")], name="deep")
    x = inputs = layers.Input((8, 8, 3))
    x = layers.Conv2D(3, 1, name="conv")(x)
    x = layers.Flatten(name="flat")(deep(x))
    model = randomised(kd.keras.Model(inputs, layers.Dense(4, name="fc")(x)))
    done = rewrite(model, ["flatten_models"])
    assert [layer.name for layer in done.model.layers[1:]] == ["conv", "inner_conv", "bn", "relu", "pool", "flat", "fc"]
    assert same_outputs(model, done.model)
    assert done.lineage.place("deep/inner/conv/kernel") == "inner_conv/kernel"
    assert done.lineage.place("deep/inner/bn/gamma") == "bn/gamma"
    assert done.lineage.place("conv/kernel") == "conv/kernel"
    (change,) = done.changes
    assert (change.rewrite, change.layer, change.became) == (
        "flatten_models",
        "deep",
        ("inner_conv", "bn", "relu", "pool"),
    )


def test_a_model_called_twice_shares_its_layers(layers, randomised, same_outputs):
    inner = _inner(layers)
    inputs = layers.Input((8, 8, 3))
    model = randomised(kd.keras.Model(inputs, inner(layers.Add()([inner(inputs), inputs]))))
    flat = rewrite(model, ["flatten_models"]).model
    assert same_outputs(model, flat)
    assert len(flat.get_layer("conv")._inbound_nodes) == 2
    assert flat.count_params() == model.count_params()


def test_two_models_with_layers_of_the_same_names(layers, randomised, same_outputs):
    inputs = layers.Input((8, 8, 3))
    model = randomised(kd.keras.Model(inputs, _inner(layers, "b")(_inner(layers, "a")(inputs))))
    flat = rewrite(model, ["flatten_models"]).model
    assert same_outputs(model, flat)
    assert [layer.name for layer in flat.layers[1:]] == ["conv", "bn", "relu", "b_conv", "b_bn", "b_relu"]


def test_what_a_model_is_told_its_layers_are_told(layers, randomised):
    inputs = layers.Input((8, 8, 3))
    model = randomised(kd.keras.Model(inputs, _inner(layers)(inputs, training=False)))
    flat = rewrite(model, ["flatten_models"]).model
    before = flat.get_layer("bn").moving_mean.numpy()
    flat(kd.tf.random.normal((4, 8, 8, 3)), training=True)
    assert (flat.get_layer("bn").moving_mean.numpy() == before).all()


def test_several_inputs_and_outputs_keep_their_structure(layers, randomised, same_outputs):
    a, b = layers.Input((4,), name="a"), layers.Input((4,), name="b")
    inner = kd.keras.Model([a, b], {"sum": layers.Add()([a, b]), "fc": layers.Dense(2)(a)}, name="inner")
    x, y = layers.Input((4,), name="x"), layers.Input((4,), name="y")
    model = randomised(kd.keras.Model({"x": x, "y": y}, inner([x, y])))
    flat = rewrite(model, ["flatten_models"]).model
    fed = {"x": kd.tf.random.normal((3, 4)), "y": kd.tf.random.normal((3, 4))}
    before, after = model(fed), flat(fed)
    assert before.keys() == after.keys()
    assert all(abs(before[key] - after[key]).numpy().max() < 1e-6 for key in before)
