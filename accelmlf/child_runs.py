"""One of many runs: below the parent in MLflow, in a process of its own, on the console."""

from collections.abc import Mapping
from dataclasses import dataclass

from accelmlf.config import RunConfig
from accelmlf.errors import AccelmlfError, Interrupted, ProcessKilledError
from accelmlf.failures import is_fatal
from accelmlf.family import Family
from accelmlf.isolation import TimedRun
from accelmlf.records import RunSummary
from accelmlf.runs_console import RunsConsole


@dataclass(frozen=True)
class Child:
    """How a run is called below its parent."""

    name: str
    kind: str
    tags: Mapping[str, str]


def run_child(
    child: Child, config: RunConfig, device_key: str, family: Family, console: RunsConsole
) -> RunSummary | AccelmlfError:
    """Train one run and read the test set at its end; a failure that says nothing about other runs is returned.

    Raises:
        AccelmlfError: a failure that every other run would share, or a process that was killed.
    """
    run_id = family.start_child(child.name, child.kind, child.tags)
    try:
        summary = TimedRun(config, run_id, device_key, read_test=True).train(console.epoch)
    except (AccelmlfError, Interrupted) as error:
        family.end_child(run_id, error.outcome, str(error))
        if isinstance(error, (Interrupted, ProcessKilledError)) or is_fatal(error):
            raise
        console.say(f"  {error.outcome.replace('_', ' ')}: {error}")
        return error
    finally:
        console.stop()
    family.end_child(run_id, summary.outcome)
    console.say(f"  {described(summary)}")
    return summary


def described(summary: RunSummary) -> str:
    """Where the target was reached, and the accuracy on the test set."""
    reached = summary.time_to_accuracy_s
    target = "target not reached" if reached is None else f"target after {reached:.1f} s of training"
    return target if summary.test is None else f"{target}, test accuracy {summary.test.accuracy:.4f}"
