"""One of many runs: below its parent in MLflow, in a process of its own; and what its failure means for the others."""

import signal
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from accelmlf.errors import (
    AccelmlfError,
    ConfigError,
    DataError,
    DeviceError,
    DiskError,
    DivergedError,
    Interrupted,
    MemoryExhaustedError,
    ProcessKilledError,
    StudyError,
    TrackingError,
)
from accelmlf.machine import isolation, signals
from accelmlf.machine.facts import own_code_state
from accelmlf.machine.processes import TIMED_RUN, sole_use
from accelmlf.many_runs.console import RunsConsole
from accelmlf.measure.records import EpochMetrics, RunSummary
from accelmlf.run.one_run import StopEarly, never, one_run
from accelmlf.settings.run import RunConfig
from accelmlf.techniques.allocators import environment_of
from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.store import open_store
from accelmlf.tracking.tracker import MlflowTracker

WAIT_FOR_DEVICE_S = 60.0
MAX_FAILED_IN_A_ROW, MAX_OF_ANY_KIND_IN_A_ROW = 5, 25
"""Points that need too much memory, or diverge, say something about the space: there may be more of them."""


@dataclass(frozen=True)
class TimedRun:
    """One run in a process of its own, epoch by epoch."""

    config: RunConfig
    run_id: str
    device_key: str
    """What names the device on this machine, whatever the process calls it."""
    read_test: bool
    code: Mapping[str, str] = field(default_factory=own_code_state)
    """The state of the code that the server has imported."""

    def train(self, stop_early: StopEarly) -> RunSummary:
        """Trains it to its end. `stop_early` is asked here after each epoch, while the training clock stands still.

        Raises:
            AccelmlfError: what ended the run; it is closed in the tracking store unless its process was killed.
        """
        with isolation.process(_train, self, environment=environment_of(self.config.techniques)) as talk:
            while not isinstance(message := talk.receive(), RunSummary):
                talk.send(stop_early(message))
            return message


def _train(connection: Connection, run: TimedRun) -> None:
    started_s = time.perf_counter()

    def ask(epoch: EpochMetrics) -> str | None:
        try:
            connection.send(epoch)
            answer: str | None = connection.recv()
        except (EOFError, OSError):  # who asked for this run has died
            raise Interrupted(signal.SIGTERM) from None
        return answer

    # A search that was killed leaves its run behind for a moment; two at once would slow each other down.
    with sole_use(run.device_key, TIMED_RUN, wait_s=WAIT_FOR_DEVICE_S):
        summary = one_run(
            run.config,
            MlflowTracker(open_store(), run.run_id),
            started_s=started_s,
            stop_early=ask,
            read_test=run.read_test,
            quiet=True,
            code=run.code,
        )
    connection.send(summary)


def train_child(
    parent: ParentRun,
    run_id: str,
    config: RunConfig,
    device_key: str,
    *,
    stop_early: StopEarly = never,
    read_test: bool = True,
) -> RunSummary:
    """Train a run that `parent` has started, in a process of its own, and close it whatever ends it.

    Raises:
        BaseException: what ended it, be it its process, a signal or `stop_early`.
    """
    try:
        summary = TimedRun(config, run_id, device_key, read_test).train(stop_early)
    except BaseException as error:
        if isinstance(error, Interrupted):
            signals.ignore_from_now_on()
        with suppress(AccelmlfError):  # the first error is the one to tell
            parent.end_child(run_id, getattr(error, "outcome", "failed"), str(error) or type(error).__name__)
        raise
    parent.end_child(run_id, summary.outcome)
    return summary


@dataclass(frozen=True)
class Child:
    """How a run is called below its parent."""

    name: str
    kind: str
    tags: Mapping[str, str]


def run_child(
    child: Child, config: RunConfig, device_key: str, parent: ParentRun, console: RunsConsole
) -> RunSummary | AccelmlfError:
    """Start one run, train it and read the test set; a failure that says nothing about other runs is returned.

    Raises:
        AccelmlfError: a failure that every other run would share, or a process that was killed.
    """
    run_id = parent.start_child(child.name, child.kind, child.tags)
    try:
        summary = train_child(parent, run_id, config, device_key, stop_early=console.epoch)
    except AccelmlfError as error:
        if isinstance(error, ProcessKilledError) or is_fatal(error):
            raise
        console.say(f"  {error.outcome.replace('_', ' ')}: {error}")
        return error
    finally:
        console.stop()
    console.say(f"  {described(summary)}")
    return summary


def described(summary: RunSummary) -> str:
    """Where the target was reached, and the accuracy on the test set."""
    reached = summary.time_to_accuracy_s
    target = "target not reached" if reached is None else f"target after {reached:.1f} s of training"
    return target if summary.test is None else f"{target}, test accuracy {summary.test.accuracy:.4f}"


def is_fatal(error: AccelmlfError) -> bool:
    """Whether every other run would end like this one."""
    if isinstance(error, DeviceError):
        return error.setting == "device"
    return isinstance(error, (ConfigError, DataError, TrackingError, DiskError, StudyError))


def too_many(in_a_row: Counter[str]) -> bool:
    """Whether so many runs in a row have failed, counted by outcome, that the next would too."""
    errors = in_a_row["failed"] + in_a_row["interrupted"]
    return errors >= MAX_FAILED_IN_A_ROW or in_a_row.total() >= MAX_OF_ANY_KIND_IN_A_ROW


def failure_of_all(what: str, name: object, outcome: str, error: str | None) -> AccelmlfError:
    """What many runs end with of which none has finished: the failure of the last, a `what` called `name`."""
    kinds = (MemoryExhaustedError, DivergedError, AccelmlfError)
    kind = next(kind for kind in kinds if kind.outcome in (outcome, "failed"))
    rule = f"no {what} has finished; this was the last: {error or outcome}"
    return kind(what, name, rule, "Mend that first")
