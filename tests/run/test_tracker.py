"""The tracker that keeps everything in memory, on a real run."""

from pathlib import Path

import pytest

from accelmlf.run.one_run import one_run
from accelmlf.run.tracker import MemoryTracker, Tracker
from tests.makers import make_config

SMALL = {"train_images": 60, "epochs": 2, "save_model": False}


@pytest.fixture(autouse=True)
def somewhere_else(tiny_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_that_a_run_has_to_tell_is_kept_in_memory_and_nowhere_else(tmp_path: Path) -> None:
    tracker = MemoryTracker()
    summary = one_run(make_config(**SMALL), tracker, quiet=True)
    assert tracker.config == make_config(**SMALL)
    assert tracker.dataset is not None and tracker.dataset.name == "digits"
    assert [epoch.epoch for epoch in tracker.epochs] == [1, 2]
    assert tracker.summary == summary
    assert {"config.json", "epochs.csv", "curves.png"} <= tracker.artifacts.keys()
    assert {"arm", "skipped_techniques", "weights_source"} <= tracker.tags.keys()
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_did_not_come_to_is_not_there() -> None:
    tracker = MemoryTracker()
    with pytest.raises(ZeroDivisionError):
        one_run(make_config(**SMALL), tracker, quiet=True, stop_early=lambda _: str(1 / 0))
    assert (len(tracker.epochs), tracker.summary) == (1, None)
    assert tracker.artifacts.keys() == {"config.json", "environment.json"}


def test_it_knows_no_other_runs_and_has_no_page() -> None:
    tracker: Tracker = MemoryTracker()
    assert tracker.local_weights("runs:/0123") == "runs:/0123"
    with tracker.run() as run:
        assert run.url() is None
