"""Runs in processes of their own: what they bring back, how they end, and that nothing of them is left."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from accelmlf.errors import AccelmlfError, ConfigError, DivergedError, Interrupted, ProcessKilledError
from accelmlf.machine.isolation import call
from accelmlf.machine.processes import sole_use
from accelmlf.many_runs.child_run import TimedRun, start_server
from accelmlf.measure.records import EpochMetrics, RunSummary
from accelmlf.settings.fields import parse_setting
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig

ROOT = Path(__file__).parents[2]
DEVICE = f"device-of-test-{os.getpid()}"
"""A name that no search on this machine waits for."""


@contextmanager
def serving(store_uri: str) -> Iterator[None]:
    """A server whose processes see this store; one that is there already has another environment."""
    from multiprocessing import forkserver, util

    server: Any = forkserver._forkserver
    util.get_temp_dir()  # made once for the whole process, so not below
    # Locks are in there; the name has to be short, because sockets are there, too.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="accelmlf-") as temporary:
        variables = {"OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": store_uri, "TMPDIR": temporary}
        for name, text in variables.items():
            patch.setenv(name, text)
        patch.setattr(tempfile, "tempdir", temporary)
        server._stop()
        try:
            start_server("vit")
            yield
        finally:
            server._stop()


@pytest.fixture(scope="module", autouse=True)
def _server(store_uri: str) -> Iterator[None]:
    with serving(store_uri):
        yield


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


# --- call ---


def parsed_far_away(text: str) -> object:
    return parse_setting("epochs", text, RunConfig)


def is_imported(module: str) -> bool:
    return module in sys.modules


def start_method() -> str:
    return multiprocessing.get_start_method()


def fill_memory(size: int) -> int:
    return len(bytes(size))


def kill_without_a_word(_: None) -> None:
    """As it ends whose handlers are not in place yet, or no longer."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)


def test_a_call_brings_its_result_back_from_another_process() -> None:
    assert call(parsed_far_away, "3") == parsed_far_away("3") == 3
    processes = {call(os.getpid) for _ in range(2)}
    assert len(processes | {os.getpid()}) == 3
    assert not any(psutil.pid_exists(pid) for pid in processes - {os.getpid()})


def test_a_call_raises_what_the_function_raised() -> None:
    with pytest.raises(ConfigError) as here:
        parsed_far_away("two")
    with pytest.raises(ConfigError) as far_away:
        call(parsed_far_away, text="two")
    assert str(far_away.value) == str(here.value)


@pytest.mark.parametrize(
    ("function", "argument", "kind", "says"),
    [
        (int, "two", AccelmlfError, "ValueError: invalid literal for int"),
        (signal.raise_signal, signal.SIGKILL, ProcessKilledError, "it was killed by SIGKILL"),
        (signal.raise_signal, signal.SIGTERM, ProcessKilledError, "interrupted by SIGTERM"),
        (kill_without_a_word, None, ProcessKilledError, "it was killed by SIGTERM"),
        (signal.raise_signal, signal.SIGSEGV, AccelmlfError, "it died of SIGSEGV"),
        (signal.raise_signal, signal.SIGABRT, AccelmlfError, "it died of SIGABRT"),
        (os._exit, 3, AccelmlfError, "it ended with code 3"),
        (sys.exit, 4, AccelmlfError, "it ended with code 4"),
        (memoryview, b"cannot be pickled", AccelmlfError, "cannot pickle"),
    ],
)
def test_any_other_end_of_a_process_is_one_error_that_says_how(
    function: Callable[[Any], object],
    argument: object,
    kind: type[AccelmlfError],
    says: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(AccelmlfError) as error:
        call(function, argument)
    assert says in str(error.value)
    assert type(error.value) is kind
    assert (error.value.exit_code, error.value.outcome) == (70, kind.outcome)
    assert multiprocessing.active_children() == []


def test_the_next_process_starts_fresh_after_one_that_was_killed() -> None:
    with pytest.raises(AccelmlfError):
        call(signal.raise_signal, signal.SIGKILL)
    assert call(os.path.basename, "a/b") == "b"


@pytest.mark.parametrize(
    ("module", "expected"),
    [("torch", True), ("transformers.models.vit.modeling_vit", True), ("sklearn.datasets", True), ("timm", False)],
)
def test_what_a_run_needs_is_imported_before_its_process_begins(module: str, expected: bool) -> None:
    assert call(is_imported, module) is expected


def test_the_memory_of_a_process_is_gone_when_it_has_ended() -> None:
    before = psutil.Process().memory_info().rss
    assert call(fill_memory, 2**28) == 2**28
    assert psutil.Process().memory_info().rss - before < 2**26
    kept = b"x" * 2**28  # the control
    assert psutil.Process().memory_info().rss - before > 2**27
    del kept


def test_processes_are_started_inside_as_they_are_outside() -> None:
    """multiprocessing hands down the start method of a process: its loaders would import torch on the clock."""
    assert call(start_method) == start_method()


# --- runs ---


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
    assert state(store, run.run_id) == ("RUNNING", None)  # nobody was left to close it: that is the family's
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
    assert (summaries[0].wall_s > 4) is same_device


ASKING = """
import sys
from accelmlf.many_runs.child_run import TimedRun, start_server
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
