from pathlib import Path

import pytest

from tfcompress import keras_door as kd
from tfcompress.evaluate import Delegation, delegation

OFFICIAL = Path(__file__).parents[3] / "shared" / "models" / "mlperf_tiny_ic"


def test_xnnpack_leaves_an_int8_softmax(tiny_net):
    assert delegation(tiny_net.int8) == Delegation(delegated=4, total=5, left=("SOFTMAX",))


def test_xnnpack_takes_the_whole_float_net(tiny_net):
    found = delegation(tiny_net.float)
    assert found.delegated == found.total == 5
    assert found.left == ()


def test_what_is_left_is_in_the_order_it_runs(convert_function):
    function = lambda x: kd.tf.argmax(kd.tf.exp(kd.tf.cumsum(x, axis=1)) * 2.0, axis=1)  # noqa: E731
    path = convert_function(function, [1, 8])
    found = delegation(path.read_bytes())
    assert [name for name in found.left if name != "EXP"] == ["CUMSUM", "ARG_MAX"]
    assert found.delegated + len(found.left) == found.total


def test_an_operator_that_computes_nothing_is_not_delegated(tmp_path):
    class Counter(kd.tf.Module):
        def __init__(self):
            super().__init__()
            self.total = kd.tf.Variable(kd.tf.zeros([1, 4]))

        @kd.tf.function(input_signature=[kd.tf.TensorSpec([1, 4])])
        def add(self, x):
            self.total.assign(x * 2.0)
            return x * 3.0

    counter = Counter()
    converter = kd.tf.lite.TFLiteConverter.from_concrete_functions([counter.add.get_concrete_function()], counter)
    converter.experimental_enable_resource_variables = True
    path = tmp_path / "counter.tflite"
    path.write_bytes(converter.convert())
    assert "ASSIGN_VARIABLE" in delegation(path).left


@pytest.mark.skipif(not OFFICIAL.exists(), reason="the official files are not here")
def test_the_official_resnet8():
    assert delegation(OFFICIAL / "pretrainedResnet_quant.tflite") == Delegation(
        delegated=14, total=16, left=("AVERAGE_POOL_2D", "SOFTMAX")
    )
    assert delegation(OFFICIAL / "pretrainedResnet.tflite").left == ()


def test_xnnpack_takes_the_widening_of_float16_constants(tiny_net):
    found = delegation(tiny_net.float16)
    assert found.left == ()
    assert found.delegated == found.total > 5, "DEQUANTIZE operators come on top"
