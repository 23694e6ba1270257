import subprocess
import sys

import pytest
from pydantic import ValidationError

from tfcompress.data.settings import DataSettings
from tfcompress.vocabulary.preprocessing import NAMED


def test_defaults():
    settings = DataSettings()
    assert settings.preprocessing == "auto"
    assert settings.augment.is_off
    assert (settings.batch_size, settings.validation_fraction, settings.calibration_samples) == (128, 0.1, 200)


@pytest.mark.parametrize("value", ["auto", "unit", {"mean": 1, "std": 2}, {"scale": 2, "offset": 1}, NAMED["raw"]])
def test_every_form_of_preprocessing_reads_back_the_same(value):
    settings = DataSettings(preprocessing=value)
    assert DataSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 0),
        ("validation_fraction", 0),
        ("validation_fraction", 1),
        ("calibration_samples", 0),
        ("preprocessing", "bright"),
        ("preprocessing", 3),
        ("augment", {"rotate": 3}),
        ("shuffle", True),
    ],
)
def test_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(ValidationError) as refused:
        DataSettings(**{key: value})
    assert refused.value.error_count() == 1
    assert refused.value.errors()[0]["loc"][0] == key


def test_needs_no_tensorflow():
    heavy = "tensorflow", "tf_keras", "tensorflow_datasets", "sklearn"
    code = f"import sys, tfcompress.data, tfcompress.data.settings; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
