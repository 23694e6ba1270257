import pytest
from pydantic import ValidationError

from tfcompress.vocabulary.training import EarlyStopping, Fit, Task


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": -1}, {"learning_rate": 0}, {"learning_rate": float("nan")}, {"optimizer": "adamm"}, {"epoch": 1}],
)
def test_a_fit_out_of_range_or_misspelt_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Fit(**wrong)


def test_patience_is_at_least_one_epoch():
    with pytest.raises(ValidationError):
        EarlyStopping(patience=0)


def test_a_task_takes_names_and_callables_and_nothing_else():
    assert Task(loss="mse", metric=abs).metric is abs
    with pytest.raises(ValidationError, match="Keras name"):
        Task(loss=3)
