import os
import subprocess
import sys

import numpy as np
import pytest

from tfcompress import contained
from tfcompress import keras_door as kd
from tfcompress.evaluate import delegation, io_types, measure_latency, open_interpreter, predict
from tfcompress.vocabulary.errors import EvaluationError


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
def test_every_kernel_set_runs_the_file(tiny_net, kernels):
    interpreter = open_interpreter(tiny_net.float, kernels=kernels)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tiny_net.samples[:1])
    interpreter.invoke()
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(output, tiny_net.keras(tiny_net.samples[:1]), atol=1e-5)


def test_only_xnnpack_kernels_bring_a_delegate(tiny_net):
    def names(kernels):
        return {node["op_name"] for node in open_interpreter(tiny_net.int8, kernels=kernels)._get_ops_details()}

    assert "DELEGATE" in names("xnnpack")
    assert "DELEGATE" not in names("builtin") | names("reference")


def test_bytes_are_as_good_as_a_path(tiny_net):
    assert open_interpreter(tiny_net.int8.read_bytes()).get_input_details()[0]["dtype"] is np.int8


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(EvaluationError, match=r"gone\.tflite"):
        open_interpreter(tmp_path / "gone.tflite")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
def test_a_truncated_file_is_refused(tiny_net, tmp_path, keep):
    content = tiny_net.int8.read_bytes()
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(EvaluationError, match=r"broken\.tflite"):
        open_interpreter(broken)


def test_a_file_of_another_kind_is_refused(tmp_path):
    other = tmp_path / "image.tflite"
    other.write_bytes(b"\x89PNG" * 100)
    with pytest.raises(EvaluationError, match="Flatbuffer"):
        open_interpreter(other)


def test_native_code_says_nothing_to_the_terminal(tiny_net):
    # A process of its own: the delegate's line comes with the first one only.
    code = "import sys; from tfcompress.evaluate import open_interpreter; open_interpreter(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, tiny_net.float], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_an_error_repeats_what_native_code_said_last(tiny_net, monkeypatch, capfd):
    def failing(**_):
        for line in range(5):
            os.write(2, f"line {line}\n".encode())
        raise RuntimeError("no")

    monkeypatch.setattr(kd.litert, "Interpreter", failing)
    with pytest.raises(EvaluationError, match=r"no; line 2; line 3; line 4\."):
        open_interpreter(tiny_net.float)
    assert capfd.readouterr().err == ""


def test_a_crash_of_litert_is_an_error_of_every_measurement_and_the_next_one_works(tiny_net, tmp_path, monkeypatch):
    # In a new child, and there only, LiteRT is what crashes as soon as it is looked at.
    (tmp_path / "ai_edge_litert.py").write_text("import ctypes; ctypes.string_at(0)")
    monkeypatch.syspath_prepend(tmp_path)
    for measured in (io_types, delegation, lambda file: measure_latency({"net": file}), predict_zeros):
        contained.end_idle()
        with pytest.raises(EvaluationError, match=r"native code ended its process by a segmentation fault"):
            measured(tiny_net.int8)
    monkeypatch.undo()
    assert io_types(tiny_net.int8).input.dtype == "int8"


def predict_zeros(file):
    return predict(file, np.zeros((1, 8, 8, 1)))
