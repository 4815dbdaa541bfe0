"""One of many runs: its process, what it leaves in the store and on the console, and what its failure means for all."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from accelmlf import errors
from accelmlf.errors import (
    AccelmlfError,
    DeviceError,
    DivergedError,
    Interrupted,
    ProcessKilledError,
    one_line,
)
from accelmlf.machine.isolation import call
from accelmlf.machine.processes import sole_use
from accelmlf.many_runs.child_run import (
    MAX_FAILED_IN_A_ROW,
    MAX_OF_ANY_KIND_IN_A_ROW,
    Child,
    TimedRun,
    described,
    failure_of_all,
    is_fatal,
    run_child,
    too_many,
    train_child,
)
from accelmlf.many_runs.console import RunsConsole
from accelmlf.measure.records import EpochMetrics, RunSummary
from accelmlf.settings.recipes import resolve
from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.stored_runs import StoredRun
from tests.many_runs.makers import serving
from tests.tracking.makers import parent_run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"model": "vit", "device": "cpu", "train_images": 60, "epochs": 2, "target_accuracy": 0.01}
SMALL |= {"save_model": False}
CHILD = Child("baseline, seed 0", "ablation run", {"accelmlf.ablation_arm": "baseline", "accelmlf.block": "0"})
DEVICE = f"device-of-child-{os.getpid()}"
"""A name that nothing else on this machine waits for."""


@pytest.fixture(scope="module", autouse=True)
def _server(store_uri: str) -> Iterator[None]:
    with serving(store_uri):
        yield


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


def run(own: ParentRun, console: RunsConsole, **settings: Any) -> RunSummary | AccelmlfError:
    return run_child(CHILD, resolve(SMALL | settings), DEVICE, own, console)


def child_of(own: ParentRun) -> StoredRun:
    (found,) = own.children(CHILD.kind)
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
    with parent_run("ablation") as own:
        summary = run(own, console, target_accuracy=target)
        child = child_of(own)
    assert isinstance(summary, RunSummary) and summary.outcome == child.outcome == outcome
    assert child.tags["mlflow.parentRunId"] == own.run.run_id
    assert child.name == "baseline, seed 0"
    assert {name: child.tags[name] for name in CHILD.tags} == CHILD.tags
    assert status(store, child) == "FINISHED"
    assert child.metrics["final_accuracy"] == (summary.test.accuracy if summary.test else None)
    assert (console.epochs, console.stops) == ([1, 2], 1)
    (line,) = (said for said in capsys.readouterr().out.splitlines() if "note: " not in said)  # others may be busy here
    assert line == f"  {described(summary)}" and line.startswith(f"  {says}")
    assert line.endswith(f"test accuracy {child.metrics['final_accuracy']:.4f}")
    assert f"  {described(replace(summary, test=None))}, test accuracy " in line


def test_a_failure_that_says_nothing_about_other_runs_is_returned_recorded_and_told(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Watching()
    with parent_run("ablation") as own:
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
    with parent_run("ablation") as own:
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
    with parent_run("ablation") as own:
        with pytest.raises(kind):
            run(own, console, epochs=5000)
        child = child_of(own)
    assert (status(store, child), child.outcome) == ("KILLED", "interrupted")
    assert child.name == "baseline, seed 0 (interrupted)"
    assert (console.epochs, console.stops) == ([1], 1)
    assert multiprocessing.active_children() == []


# --- a run that is trained and closed below its parent ---


def started(own: ParentRun) -> str:
    return own.start_child(CHILD.name, CHILD.kind, CHILD.tags)


def test_a_started_run_is_trained_and_closed_and_reads_the_test_set_unless_told_not_to(
    store: mlflow.MlflowClient,
) -> None:
    config = resolve(SMALL)
    with parent_run("search") as own:
        summaries = [train_child(own, started(own), config, DEVICE, read_test=read) for read in (True, False)]
        whole, blind = own.children(CHILD.kind)
    assert [summary.test is not None for summary in summaries] == [True, False]
    assert "final_accuracy" in whole.metrics and "final_accuracy" not in blind.metrics
    assert whole.outcome == blind.outcome == "completed"
    assert (whole.name, blind.name) == (CHILD.name, CHILD.name)


def test_a_run_that_was_stopped_early_is_closed_with_the_word_it_was_stopped_with(store: mlflow.MlflowClient) -> None:
    with parent_run("search") as own:
        summary = train_child(own, started(own), resolve(SMALL), DEVICE, stop_early=lambda _: "pruned", read_test=False)
        child = child_of(own)
    assert (summary.outcome, summary.num_epochs) == ("pruned", 1)
    assert (status(store, child), child.outcome, child.name) == ("KILLED", "pruned", f"{CHILD.name} (pruned)")


class GivenUpError(Exception):
    """Of whoever is asked between two epochs, and none of this project's."""


@pytest.mark.parametrize(
    "error",
    [GivenUpError("nobody waits"), GivenUpError(), DivergedError("loss", "nan", "not finite", "x"), Interrupted(15)],
    ids=["foreign", "without a word", "ours", "a signal"],
)
def test_whatever_ends_a_run_is_raised_after_the_run_was_closed(
    store: mlflow.MlflowClient, error: BaseException
) -> None:
    def fails(_: EpochMetrics) -> None:
        raise error

    with parent_run("search") as own:
        with pytest.raises(type(error)) as ended:
            train_child(own, started(own), resolve(SMALL | {"epochs": 5000}), DEVICE, stop_early=fails)
        child = child_of(own)
    assert ended.value is error
    # Its own process was told to end, and has closed it first.
    assert (status(store, child), child.outcome, child.name) == ("KILLED", "interrupted", f"{CHILD.name} (interrupted)")
    assert multiprocessing.active_children() == []


# --- the process of a run ---


def timed_run(
    store: mlflow.MlflowClient, *, read_test: bool = False, device: str = DEVICE, **settings: Any
) -> TimedRun:
    """A run of a second or two, below nobody."""
    small = {"model": "vit", "device": "cpu", "train_images": 150, "epochs": 2, "image_size": 8, "save_model": False}
    experiment = store.get_experiment_by_name("isolation")
    experiment_id = store.create_experiment("isolation") if experiment is None else experiment.experiment_id
    run_id = store.create_run(experiment_id).info.run_id
    return TimedRun(resolve(small | settings), run_id, device, read_test)


def go_on(_: EpochMetrics) -> None: ...


def process_of_run() -> psutil.Process:
    (worker,) = multiprocessing.active_children()
    return psutil.Process(worker.pid)


def state(store: mlflow.MlflowClient, run_id: str) -> tuple[str, str | None]:
    run = store.get_run(run_id)
    return run.info.status, run.data.tags.get("accelmlf.outcome")


def assert_gone(processes: list[psutil.Process], within_s: float = 15) -> None:
    _, alive = psutil.wait_procs(processes, within_s)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def is_imported(module: str) -> bool:
    return module in sys.modules


def start_method() -> str:
    return multiprocessing.get_start_method()


@pytest.mark.parametrize(
    ("module", "expected"),
    [("torch", True), ("transformers.models.vit.modeling_vit", True), ("sklearn.datasets", True), ("timm", False)],
)
def test_what_a_run_needs_is_imported_before_its_process_begins(module: str, expected: bool) -> None:
    assert call(is_imported, module) is expected


@pytest.mark.parametrize("read_test", [False, True])
def test_a_run_is_trained_and_tracked_and_reads_the_test_set_only_when_told(
    store: mlflow.MlflowClient, read_test: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    run, epochs, processes = timed_run(store, read_test=read_test), list[EpochMetrics](), list[psutil.Process]()

    def watch(epoch: EpochMetrics) -> None:
        epochs.append(epoch)
        processes.append(process_of_run())

    summary = run.train(watch)
    assert_gone(processes[:1], within_s=0)
    assert processes[0].pid != os.getpid()
    assert multiprocessing.active_children() == []
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    assert summary.total_train_s == epochs[-1].elapsed_train_s
    assert (summary.test is not None) is read_test
    assert state(store, run.run_id) == ("FINISHED", summary.outcome)
    metrics = store.get_run(run.run_id).data.metrics
    of_test = {"final_accuracy", "final_f1", "final_loss", "test_s"}
    assert metrics.keys() & of_test == (of_test if read_test else set())
    files = {"confusion_matrix.png", "classification_report.json"}
    assert {item.path for item in store.list_artifacts(run.run_id)} & files == (files if read_test else set())
    assert metrics["best_eval_accuracy"] == summary.best_eval_accuracy
    history = store.get_metric_history(run.run_id, "eval/accuracy")
    assert [point.value for point in history] == [epoch.quality.accuracy for epoch in epochs]
    out, err = capfd.readouterr()
    assert "epoch" not in out + err  # whoever asked for it speaks


def test_loader_processes_work_inside_and_change_no_bit(store: mlflow.MlflowClient) -> None:
    loaders: set[psutil.Process] = set()

    def losses(**settings: Any) -> list[float]:
        epochs: list[EpochMetrics] = []

        def watch(epoch: EpochMetrics) -> None:
            epochs.append(epoch)
            for process in process_of_run().children(recursive=True):
                loaders.add(process)
                if start_method() == "fork":  # and not begun anew with all its imports
                    assert process.cmdline() == process_of_run().cmdline()

        timed_run(store, **settings).train(watch)
        return [epoch.train_loss for epoch in epochs]

    plain = losses()
    assert not loaders
    assert losses(techniques="workers:1") == plain
    assert loaders
    assert_gone(list(loaders))
    assert losses(seed=1) != plain


def test_who_asked_for_a_run_can_end_it_after_any_epoch(store: mlflow.MlflowClient) -> None:
    run, asked = timed_run(store, epochs=50), list[int]()

    def stop_after_two(epoch: EpochMetrics) -> str | None:
        asked.append(epoch.epoch)
        return "pruned" if epoch.epoch == 2 else None

    summary = run.train(stop_after_two)
    assert (asked, summary.outcome) == ([1, 2], "pruned")
    assert state(store, run.run_id) == ("KILLED", "pruned")
    assert len(store.get_metric_history(run.run_id, "eval/accuracy")) == 2
    assert "final_accuracy" not in store.get_run(run.run_id).data.metrics


@pytest.mark.parametrize("techniques", ["none", "workers:1"])
@pytest.mark.parametrize("error", [ZeroDivisionError(), Interrupted(signal.SIGTERM)], ids=["error", "signal"])
def test_leaving_by_an_exception_ends_the_process_and_closes_its_run(
    store: mlflow.MlflowClient, error: BaseException, techniques: str
) -> None:
    run, processes = timed_run(store, epochs=5000, techniques=techniques), list[psutil.Process]()

    def fails(_: EpochMetrics) -> None:
        worker = process_of_run()
        processes.extend([worker, *worker.children(recursive=True)])
        raise error

    with pytest.raises(type(error)):
        run.train(fails)
    assert_gone(processes[:1], within_s=0)
    assert_gone(processes)
    assert state(store, run.run_id) == ("KILLED", "interrupted")


def test_what_ends_a_run_ends_its_train_with_the_same_error(store: mlflow.MlflowClient) -> None:
    run = timed_run(store, learning_rate=100.0, epochs=9)
    with pytest.raises(DivergedError, match="learning_rate=100") as error:
        run.train(go_on)
    assert state(store, run.run_id) == ("FAILED", "diverged")
    assert store.get_run(run.run_id).data.tags["accelmlf.error"] == str(error.value)


def test_a_run_whose_process_is_killed_is_an_error_that_says_so(store: mlflow.MlflowClient) -> None:
    run = timed_run(store, epochs=5000)
    started_s = time.monotonic()
    with pytest.raises(ProcessKilledError, match="it was killed by SIGKILL") as error:
        run.train(lambda _: process_of_run().kill())
    assert error.value.outcome == "interrupted"
    assert time.monotonic() - started_s < 30
    assert state(store, run.run_id) == ("RUNNING", None)  # nobody was left to close it: that is the parent's
    store.set_terminated(run.run_id)


def test_a_run_whose_process_alone_is_told_to_end_closes_itself_and_is_the_same_error(
    store: mlflow.MlflowClient,
) -> None:
    run = timed_run(store, epochs=5000)
    with pytest.raises(ProcessKilledError, match="interrupted by SIGTERM"):
        run.train(lambda _: process_of_run().terminate())
    assert state(store, run.run_id) == ("KILLED", "interrupted")


def test_a_terminal_s_signal_does_not_reach_the_run(store: mlflow.MlflowClient) -> None:
    sessions: set[int] = set()
    timed_run(store).train(lambda _: sessions.add(os.getsid(process_of_run().pid)))
    assert os.getsid(0) not in sessions
    assert len(sessions) == 1


@pytest.mark.parametrize("same_device", [True, False])
def test_a_run_waits_for_the_one_before_it_on_the_same_device(store: mlflow.MlflowClient, same_device: bool) -> None:
    released_s: list[float] = []
    ended_s: list[float] = []
    summaries: list[RunSummary] = []
    run = timed_run(store, device=DEVICE if same_device else DEVICE + "-2", epochs=1)

    def train() -> None:
        summaries.append(run.train(go_on))
        ended_s.append(time.monotonic())

    other = threading.Thread(target=train)
    with sole_use(DEVICE, "timed run"):
        other.start()
        other.join(5 if same_device else 60)
        released_s.append(time.monotonic())
    other.join(60)
    assert len(summaries) == 1
    assert (ended_s[0] > released_s[0]) is same_device
    assert summaries[0].total_train_s < 4  # and its clocks did not run meanwhile
    assert summaries[0].wall_s > 2 or not same_device


ASKING = """
import sys
from accelmlf.many_runs.child_run import TimedRun
from accelmlf.settings.recipes import resolve

if __name__ == "__main__":
    given = {"model": "vit", "device": "cpu", "train_images": 150, "epochs": 5000, "save_model": False}
    run = TimedRun(resolve(given), sys.argv[1], sys.argv[2], False)
    run.train(lambda epoch: print("epoch", epoch.epoch, flush=True))
"""


def test_a_run_ends_and_is_closed_when_the_process_that_asked_for_it_is_killed(
    store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "asking.py").write_text(ASKING)
    run = timed_run(store)
    command = [sys.executable, str(tmp_path / "asking.py"), run.run_id, DEVICE + "-3"]
    output = tmp_path / "output.txt"
    with output.open("wb") as file:
        asking = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 90
        while "epoch 1\n" not in output.read_text():
            assert asking.poll() is None and time.monotonic() < deadline, output.read_text()
            time.sleep(0.05)
        family = psutil.Process(asking.pid).children(recursive=True)
        assert len(family) >= 3  # the server, its tracker of resources, the run
    finally:
        asking.kill()
        asking.wait(10)
    assert_gone(family)
    assert state(store, run.run_id) == ("KILLED", "interrupted")
    assert "Traceback" not in output.read_text()


# --- what its failure means for the others ---

KINDS: list[type[AccelmlfError]] = [AccelmlfError, *AccelmlfError.__subclasses__()]
OF_ITS_POINT = {"AccelmlfError", "DivergedError", "MemoryExhaustedError", "ProcessKilledError"}
"""What another point, or another process, may survive."""
FEW, MANY = MAX_FAILED_IN_A_ROW, MAX_OF_ANY_KIND_IN_A_ROW


@pytest.mark.parametrize("kind", KINDS)
def test_what_every_other_run_would_die_of_ends_the_search_and_nothing_else_does(kind: type[AccelmlfError]) -> None:
    assert is_fatal(kind("device", "x", "rule", "remedy")) is (kind.__name__ not in OF_ITS_POINT)


@pytest.mark.parametrize(("setting", "expected"), [("device", True), ("techniques", False), ("TMPDIR", False)])
def test_a_device_that_is_gone_ends_the_search_and_a_technique_that_it_lacks_does_not(
    setting: str, expected: bool
) -> None:
    assert is_fatal(errors.DeviceError(setting, "x", "rule", "remedy")) is expected


@pytest.mark.parametrize(
    ("in_a_row", "expected"),
    [
        ({}, False),
        ({"failed": FEW - 1}, False),
        ({"failed": FEW}, True),
        ({"interrupted": FEW - 1}, False),
        ({"interrupted": FEW}, True),
        ({"failed": FEW - 2, "interrupted": 2}, True),
        ({"failed": FEW - 2, "interrupted": 1}, False),
        ({"out_of_memory": MANY - 1}, False),
        ({"out_of_memory": MANY}, True),
        ({"diverged": MANY - 1}, False),
        ({"out_of_memory": MANY // 2, "diverged": MANY - MANY // 2}, True),
        ({"out_of_memory": MANY - FEW, "failed": FEW - 1}, False),
        ({"out_of_memory": MANY - FEW + 1, "failed": FEW - 1}, True),
    ],
    ids=str,
)
def test_errors_in_a_row_end_a_search_sooner_than_points_that_do_not_fit(
    in_a_row: dict[str, int], expected: bool
) -> None:
    assert too_many(Counter(in_a_row)) is expected


@pytest.mark.parametrize(
    ("outcome", "kind", "code"),
    [
        ("out_of_memory", errors.MemoryExhaustedError, 7),
        ("diverged", errors.DivergedError, 6),
        ("failed", AccelmlfError, 70),
        ("killed", AccelmlfError, 70),
    ],
)
def test_a_search_of_which_nothing_was_finished_ends_as_its_last_trial_did(
    outcome: str, kind: type[AccelmlfError], code: int
) -> None:
    found = failure_of_all("trial", 7, outcome, "batch_size=64: memory ran out. Use less")
    assert (type(found), found.exit_code) == (kind, code)
    assert str(found).startswith("trial=7: no trial has finished; this was the last: batch_size=64: memory ran out")
    assert one_line(str(found)) == str(found)
    assert f"this was the last: {outcome}. " in str(failure_of_all("trial", 7, outcome, None))


def test_whatever_has_failed_is_called_by_its_kind_and_name() -> None:
    error = str(failure_of_all("run", "baseline, seed 3", "diverged", "loss=nan: not finite"))
    assert error.startswith("run=baseline, seed 3: no run has finished; this was the last: loss=nan: not finite. ")
