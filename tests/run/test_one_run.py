"""One run as a whole: what its caller may decide after each epoch, and what it must not read."""

from pathlib import Path

import pytest

from accelmlf.measure.records import EpochMetrics
from accelmlf.run.one_run import one_run
from accelmlf.run.tracker import MemoryTracker
from tests.makers import make_config

OF_THE_TEST_SET = {"confusion_matrix.png", "classification_report.json"}
SMALL = {"train_images": 60, "epochs": 4, "save_model": False}


@pytest.fixture(autouse=True)
def somewhere_else(tiny_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_its_caller_ends_a_run_after_an_epoch_and_names_the_outcome() -> None:
    tracker = MemoryTracker()

    def stop_early(epoch: EpochMetrics) -> str | None:
        return "pruned" if epoch.epoch == 2 else None

    summary = one_run(make_config(**SMALL), tracker, stop_early=stop_early)
    assert [epoch.epoch for epoch in tracker.epochs] == [1, 2]
    assert summary.outcome == "pruned"

    never_asked = one_run(make_config(**SMALL, target_accuracy=1.0), MemoryTracker())
    assert never_asked.outcome == "target_not_reached"


def test_ending_early_changes_nothing_before_the_end() -> None:
    whole, part, other = MemoryTracker(), MemoryTracker(), MemoryTracker()
    one_run(make_config(**SMALL), whole)
    one_run(make_config(**SMALL), part, stop_early=lambda epoch: "pruned" if epoch.epoch == 2 else None)
    one_run(make_config(**SMALL, seed=1), other)
    losses = [[epoch.train_loss for epoch in tracker.epochs] for tracker in (whole, part, other)]
    assert losses[1] == losses[0][:2] != losses[2][:2]


def test_a_run_that_chooses_something_does_not_read_the_test_set() -> None:
    blind, seeing = MemoryTracker(), MemoryTracker()
    summary = one_run(make_config(**SMALL), blind, read_test=False)
    assert summary.test is None
    assert not [name for name in summary.as_metrics() if name.startswith("final_") or name == "test_s"]
    assert not OF_THE_TEST_SET & blind.artifacts.keys()

    control = one_run(make_config(**SMALL), seeing)
    assert {"final_accuracy", "final_f1", "final_loss", "test_s"} <= control.as_metrics().keys()
    assert seeing.artifacts.keys() >= OF_THE_TEST_SET
    assert [e.train_loss for e in blind.epochs] == [e.train_loss for e in seeing.epochs]


@pytest.mark.parametrize("quiet", [True, False])
def test_a_quiet_run_says_nothing(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    one_run(make_config(**SMALL), MemoryTracker(), quiet=quiet)
    out, err = capsys.readouterr()
    assert (out == "") == quiet
    assert err == ""
