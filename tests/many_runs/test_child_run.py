"""One of many runs: what it leaves in the store and on the console, and which of its failures end the others."""

import multiprocessing
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import mlflow
import pytest

from accelmlf.errors import AccelmlfError, DeviceError, DivergedError, Interrupted, ProcessKilledError
from accelmlf.many_runs.child_run import Child, described, run_child
from accelmlf.many_runs.console import RunsConsole
from accelmlf.measure.records import EpochMetrics, RunSummary
from accelmlf.settings.recipes import resolve
from accelmlf.tracking.parent_run import Family
from accelmlf.tracking.stored_runs import StoredRun, runs_of_study
from accelmlf.tracking.tracker import MlflowTracker
from tests.machine.test_isolation import serving

SMALL: dict[str, Any] = {"model": "vit", "device": "cpu", "train_images": 60, "epochs": 2, "target_accuracy": 0.01}
SMALL |= {"save_model": False}
CHILD = Child("baseline, seed 0", "ablation run", {"accelmlf.ablation_arm": "baseline", "accelmlf.block": "0"})
DEVICE = f"device-of-child-{os.getpid()}"
"""A name that nothing else on this machine waits for."""


@pytest.fixture(scope="module", autouse=True)
def _server(store_uri: str) -> Iterator[None]:
    with serving(store_uri):
        yield


@contextmanager
def family() -> Iterator[Family]:
    with MlflowTracker().run() as parent:
        opened = Family(parent, "ablation", "the-study", uuid.uuid4().hex)
        opened.log_settings({}, {})
        yield opened


class Watching(RunsConsole):
    """A console that counts, and that does something after an epoch."""

    def __init__(self, after: Any = None) -> None:
        super().__init__()
        self.epochs: list[int] = []
        self.after = after
        self.stops = 0

    def epoch(self, epoch: EpochMetrics) -> None:
        super().epoch(epoch)
        self.epochs.append(epoch.epoch)
        if self.after is not None:
            self.after()

    def stop(self) -> None:
        super().stop()
        self.stops += 1


def run(own: Family, console: RunsConsole, **settings: Any) -> RunSummary | AccelmlfError:
    return run_child(CHILD, resolve(SMALL | settings), DEVICE, own, console)


def child_of(own: Family) -> StoredRun:
    (found,) = [r for r in runs_of_study(own.parent.experiment_id, own.study_id) if r.kind == CHILD.kind]
    return found


def status(store: mlflow.MlflowClient, run: StoredRun) -> str:
    text: str = store.get_run(run.run_id).info.status
    return text


@pytest.mark.parametrize(
    ("target", "outcome", "says"),
    [(0.01, "completed", "target after "), (1.0, "target_not_reached", "target not reached, test accuracy ")],
)
def test_a_run_is_below_its_parent_with_its_tags_and_reads_the_test_set(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str], target: float, outcome: str, says: str
) -> None:
    console = Watching()
    with family() as own:
        summary = run(own, console, target_accuracy=target)
        child = child_of(own)
    assert isinstance(summary, RunSummary) and summary.outcome == child.outcome == outcome
    assert child.tags["mlflow.parentRunId"] == own.parent.run_id
    assert child.name == "baseline, seed 0"
    assert {name: child.tags[name] for name in CHILD.tags} == CHILD.tags
    assert status(store, child) == "FINISHED"
    assert child.metrics["final_accuracy"] == (summary.test.accuracy if summary.test else None)
    assert (console.epochs, console.stops) == ([1, 2], 1)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"  {described(summary)}" and line.startswith(f"  {says}")
    assert line.endswith(f"test accuracy {child.metrics['final_accuracy']:.4f}")
    assert f"  {described(replace(summary, test=None))}, test accuracy " in line


def test_a_failure_that_says_nothing_about_other_runs_is_returned_recorded_and_told(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Watching()
    with family() as own:
        ended = run(own, console, learning_rate=100.0, epochs=9)
        child = child_of(own)
    assert isinstance(ended, DivergedError) and console.stops == 1
    assert (status(store, child), child.outcome) == ("FAILED", "diverged")
    assert child.name == "baseline, seed 0 (diverged)"
    assert child.tags["accelmlf.error"] == str(ended)
    assert capsys.readouterr().out.splitlines()[0] == f"  diverged: {ended}"


@pytest.mark.parametrize(
    ("settings", "kind", "is_raised"),
    [
        ({"device": "cuda:99"}, DeviceError, True),
        ({"techniques": "amp:fp16"}, DeviceError, False),
    ],
    ids=["a device that is not there", "a technique that this device has not"],
)
def test_a_failure_that_every_other_run_would_share_ends_them_all(
    store: mlflow.MlflowClient, settings: dict[str, Any], kind: type[AccelmlfError], is_raised: bool
) -> None:
    with family() as own:
        if is_raised:
            with pytest.raises(kind) as error:
                run(own, Watching(), **settings)
            ended: object = error.value
        else:
            ended = run(own, Watching(), **settings)
        child = child_of(own)
    assert isinstance(ended, kind)
    assert (status(store, child), child.outcome) == ("FAILED", "failed")
    assert child.tags["accelmlf.error"] == str(ended)
    assert child.name.endswith(" (failed)")


def kill_run() -> None:
    (worker,) = multiprocessing.active_children()
    worker.kill()


def interrupt() -> None:
    raise Interrupted(15)


@pytest.mark.parametrize(
    ("after", "kind"), [(kill_run, ProcessKilledError), (interrupt, Interrupted)], ids=["killed", "told to end"]
)
def test_a_run_that_was_ended_from_outside_is_closed_as_interrupted_and_raised(
    store: mlflow.MlflowClient, after: Any, kind: type[BaseException]
) -> None:
    console = Watching(after)
    with family() as own:
        with pytest.raises(kind):
            run(own, console, epochs=5000)
        child = child_of(own)
    assert (status(store, child), child.outcome) == ("KILLED", "interrupted")
    assert child.name == "baseline, seed 0 (interrupted)"
    assert (console.epochs, console.stops) == ([1], 1)
    assert multiprocessing.active_children() == []
