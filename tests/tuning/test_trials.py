import pytest

from tfcompress.run_folder import RunFolder
from tfcompress.tuning.oracles import Proposal
from tfcompress.tuning.trials import RECORD_FILE, Trials
from tfcompress.vocabulary.errors import RunFolderError


@pytest.fixture
def folder(tmp_path):
    with RunFolder(tmp_path / "search", {"seed": 0}) as folder:
        yield folder


def test_trials_are_read_back_as_they_were_at_every_moment(folder):
    trials = Trials(folder)
    first, second = trials.begin(Proposal(0, {"bits": 4}, 0)), trials.begin(Proposal(1, {"bits": 8}, 0))
    assert [trial.values for trial in Trials(folder).running] == [{"bits": 4}, {"bits": 8}]
    ended = trials.end(second, status="infeasible", reason="exceeds bytes by 10", measured={"bytes": 110.0})
    read = Trials(folder)
    assert read.ended == (ended,) == trials.ended
    assert read.running == (first,)
    third = read.begin(Proposal(2, {"bits": 2}, 1, 9, 3, 1))
    assert Trials(folder)[2].proposal == third.proposal == Proposal(2, {"bits": 2}, 1, 9, 3, 1)
    read.end(third, status="failed", reason="NaN")
    assert [trial.number for trial in Trials(folder).ended] == [1, 2]
    assert [trial.has_artifact for trial in read] == [False, True, False]


def test_a_damaged_or_missing_record_is_named(folder):
    trials = Trials(folder)
    for number, bits in enumerate((2, 4)):
        trials.begin(Proposal(number, {"bits": bits}, 0))
    record = folder.file(f"trials/0000/{RECORD_FILE}")
    record.write_text('{"number": 0')
    with pytest.raises(RunFolderError, match=r"trials/0000/trial\.json is damaged"):
        Trials(folder)
    record.unlink()
    with pytest.raises(RunFolderError, match="lacks some of its trials"):
        Trials(folder)
