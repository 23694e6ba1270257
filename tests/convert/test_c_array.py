import hashlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.convert.arena import arena_bytes
from tfcompress.convert.c_array import MICRO_OPERATORS, write_c_array
from tfcompress.vocabulary.errors import ConversionError, RunFolderError

PROGRAM = """
#include <stdint.h>
#include <stdio.h>
#include "digits.h"
static unsigned char arena[DIGITS_TFLITE_ARENA_BYTES];
int main(void) {
  if ((uintptr_t)digits_tflite % 16 != 0 || sizeof arena == 0) return 1;
  return fwrite(digits_tflite, 1, digits_tflite_len, stdout) != digits_tflite_len;
}
"""


def _convert(path, function, shape):
    concrete = kd.tf.function(function).get_concrete_function(kd.tf.TensorSpec(shape, "float32"))
    path.write_bytes(kd.tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    matrix = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    path = tmp_path_factory.mktemp("model") / "model.tflite"
    return _convert(path, lambda x: kd.tf.nn.softmax(kd.tf.matmul(x, kd.tf.constant(matrix))), [1, 16])


@pytest.mark.parametrize(
    ("compiler", "standard", "language"),
    [("gcc", "c11", "c"), ("gcc", "c17", "c"), ("g++", "c++11", "c++"), ("g++", "c++20", "c++")],
)
def test_a_compiled_program_holds_the_very_bytes(model, tmp_path, compiler, standard, language):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    array = write_c_array(model, tmp_path, "digits")
    main = tmp_path / "main.c"
    main.write_text(PROGRAM)
    program = tmp_path / "program"
    flags = ["-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    subprocess.run([compiler, *flags, str(array.source), str(main), "-o", str(program)], check=True)
    assert subprocess.run([program], check=True, capture_output=True).stdout == model.read_bytes()


def test_what_is_written_is_what_is_said(model, tmp_path):
    array = write_c_array(model, tmp_path / "new" / "folder", "digits")
    content = model.read_bytes()
    numbers = re.findall(r"0x([0-9a-f]{2})", array.source.read_text())
    assert bytes(int(number, 16) for number in numbers) == content
    assert array.bytes == len(content)
    assert array.arena_bytes == arena_bytes(model)
    assert array.operators == ("FULLY_CONNECTED", "SOFTMAX")
    header = array.header.read_text()
    assert hashlib.sha256(content).hexdigest() in header
    assert f"#define DIGITS_TFLITE_ARENA_BYTES {array.arena_bytes}\n" in header
    assert {path.name for path in array.source.parent.iterdir()} == {"digits.c", "digits.h"}


def test_every_operator_that_is_lacking_is_named_and_nothing_written(tmp_path):
    path = _convert(tmp_path / "m.tflite", lambda x: kd.tf.sign(x) + kd.tf.nn.gelu(x), [1, 4])
    with pytest.raises(ConversionError) as refusal:
        write_c_array(path, tmp_path / "out", "net")
    lacking = re.search(r"uses (.*), which it lacks", str(refusal.value))[1].split(", ")
    assert lacking == ["GELU", "SIGN"]
    assert not (tmp_path / "out").exists()


def test_a_custom_operator_is_lacking(tmp_path):
    function = kd.tf.function(lambda x: kd.tf.raw_ops.Betainc(a=x, b=x, x=x))
    converter = kd.tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function(kd.tf.TensorSpec([1, 4], "float32"))]
    )
    converter.allow_custom_ops = True
    path = tmp_path / "custom.tflite"
    path.write_bytes(converter.convert())
    with pytest.raises(ConversionError, match="CUSTOM Betainc"):
        write_c_array(path, tmp_path, "net")


def test_the_list_holds_names_that_tflite_knows():
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    assert set(vars(BuiltinOperator)) >= MICRO_OPERATORS
    assert not MICRO_OPERATORS & {"CUSTOM", "GELU", "CONV_3D", "FLEX"}


@pytest.mark.parametrize("name", ["", "9lives", "my-net", "_net", "a b", "né", "../net"])
def test_a_name_that_is_none_in_c_is_refused(model, tmp_path, name):
    with pytest.raises(ConversionError, match="must be a letter"):
        write_c_array(model, tmp_path, name)
    assert not any(tmp_path.iterdir())


def test_a_failed_write_leaves_the_earlier_files(model, tmp_path, monkeypatch):
    array = write_c_array(model, tmp_path, "digits")
    earlier = array.source.read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RunFolderError, match="No space left"):
        write_c_array(model, tmp_path, "digits")
    assert array.source.read_text() == earlier
    assert {path.name for path in tmp_path.iterdir()} == {"digits.c", "digits.h"}


def test_a_folder_that_is_a_file_is_refused(model, tmp_path):
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(RunFolderError, match="Cannot write"):
        write_c_array(model, place, "digits")
