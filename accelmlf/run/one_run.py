"""One run, from its configuration to its summary: the only place where the parts meet."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from accelmlf.errors import recognise
from accelmlf.machine.facts import as_tags, describe
from accelmlf.measure.records import EpochMetrics, RunSummary
from accelmlf.run import artifacts
from accelmlf.run.clock import RunClock
from accelmlf.run.console import Console
from accelmlf.run.loop import evaluate, train_epochs
from accelmlf.run.plan import settle
from accelmlf.run.tracker import TrackedRun, Tracker
from accelmlf.run.warmup import warm_up
from accelmlf.run.workload import dataset_record, load_data, prepare
from accelmlf.settings.run import RunConfig
from accelmlf.techniques.stack import Skipped, labels_of

StopEarly = Callable[[EpochMetrics], str | None]
"""After an epoch: the outcome as which the run ends here, or None to go on."""
NO_LABELS: Mapping[str, str] = MappingProxyType({})
"""Nothing else to record of a run."""


def never(_: EpochMetrics) -> None:
    """Every run trains all its epochs."""


def one_run(
    config: RunConfig,
    tracker: Tracker,
    *,
    started_s: float | None = None,
    stop_early: StopEarly = never,
    read_test: bool = True,
    quiet: bool = False,
    code: Mapping[str, str] | None = None,
    labels: Mapping[str, str] = NO_LABELS,
) -> RunSummary:
    """Train, measure and record one run.

    `started_s`: where its wall clock begins (time.perf_counter); default now. `stop_early` is asked after each epoch,
    off the training clock. `read_test=False`: the test set is not touched, for a run that chooses something. `code`:
    the state of the code where another process knows it better. `labels`: what else there is to record of it.

    Raises:
        AccelmlfError: whatever ends the run early, after the tracker has closed it with that outcome.
    """
    started_s = time.perf_counter() if started_s is None else started_s
    console, ended_as = Console(quiet=quiet), None
    with tracker.run() as run, known_errors(config), closing_console(console):
        config, techniques, skipped = settle(config)
        console.opening(config, skipped)
        log_opening(run, config, skipped, describe(techniques.device, code), labels)
        with techniques.process_context():
            splits = load_data(config)
            work = prepare(config, splits, techniques, tracker.local_weights(config.weights))
            run.log_inputs(dataset_record(config, splits), str(work.model.source))
            clock = RunClock(config.target_accuracy, work.meter.clock, started_s)
            warm_up(work)
            clock.ready()
            console.ready(work, splits.sizes(), clock.setup_s, clock.warmup_s)
            for epoch in train_epochs(work, max_epochs=config.epochs, watch=console.watch):
                clock.add(epoch)
                run.log_epoch(epoch)
                console.epoch(epoch)
                ended_as = stop_early(epoch)
                clock.logged()
                if ended_as or (config.stop_at_target and clock.reached):
                    break
            summary = clock.summary(evaluate(work, work.test) if read_test else None, ended_as)
        run.log_summary(summary)
        log_files(run, artifacts.write_closing, config, clock.epochs, summary, splits.class_names, work.model)
        console.closing(summary, run.url())
    return summary


def log_opening(
    run: TrackedRun,
    config: RunConfig,
    skipped: Sequence[Skipped],
    facts: dict[str, Any],
    labels: Mapping[str, str] = NO_LABELS,
) -> None:
    """All that is known before the first picture is read."""
    labels = {
        **labels,
        "arm": config.arm,
        "skipped_techniques": str(labels_of(skipped)),
        **as_tags(facts),
    }
    run.log_config(config, labels)
    log_files(run, artifacts.write_opening, config, facts)


def log_files(run: TrackedRun, write: Callable[..., None], *given: object) -> None:
    """What `write(folder, *given)` leaves in a folder, as artifacts."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), *given)
        run.log_artifacts(Path(folder))


@contextmanager
def known_errors(config: RunConfig) -> Iterator[None]:
    """Memory that ran out, a full disk and the like as the errors of this project."""
    try:
        yield
    except Exception as error:
        known = recognise(error, config.batch_size)
        if known is error:
            raise
        raise known from error


@contextmanager
def closing_console(console: Console) -> Iterator[None]:
    """No bar is left on the screen, whatever ends the run."""
    try:
        yield
    finally:
        console.stop()
