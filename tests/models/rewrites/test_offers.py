from tfcompress import keras_door as kd
from tfcompress.models import fingerprint
from tfcompress.models.rewrites import offers


def test_every_layer_without_an_exact_form_gets_an_offer_and_nothing_is_done(layers):
    stack = [
        layers.Input((8, 8, 3)),
        layers.Conv2D(4, 3, activation="elu", name="conv"),
        layers.LayerNormalization(name="norm"),
        layers.PReLU(name="prelu"),
        layers.ELU(name="elu"),
        layers.Activation("mish", name="mish"),
        layers.Activation("swish", name="swish"),
        layers.ReLU(name="relu"),
    ]
    model = kd.keras.Sequential(stack)
    before = fingerprint(model)
    found = offers(model)
    assert [offer.layer for offer in found] == ["conv", "norm", "prelu", "elu", "mish"]
    assert [offer.instead.split()[0].strip(",") for offer in found] == [
        "ReLU",
        "BatchNormalization",
        "LeakyReLU",
        "ReLU",
        "swish",
    ]
    assert all(offer.why for offer in found)
    assert fingerprint(model) == before
