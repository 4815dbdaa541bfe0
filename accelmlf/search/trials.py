"""The trials of a search as records, without Optuna."""

from collections.abc import Iterable
from dataclasses import dataclass

from accelmlf.search.space import Point
from accelmlf.text import counted

FINISHED_OUTCOMES = ("completed", "target_not_reached", "pruned")
"""Outcomes of trials that say something about their point."""
KILLED = "killed"
"""Of a trial whose process ended without a word."""
COME_AGAIN = ("interrupted", "surplus")
"""Failed trials with these outcomes say nothing about their point."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial, without Optuna: what tables, pictures and the confirmation read."""

    number: int
    point: Point | None
    outcome: str
    """completed, target_not_reached, pruned, running, waiting, or why it failed."""
    time_to_accuracy_s: float | None
    best_accuracy: float | None
    epochs: int | None
    train_s: float | None
    saved_at_most_s: float | None
    run_id: str | None
    error: str | None
    duration_s: float | None
    """Wall clock, with set-up and validation."""

    @property
    def is_finished(self) -> bool:
        return self.outcome in FINISHED_OUTCOMES

    @property
    def has_failed(self) -> bool:
        return not self.is_finished and self.outcome not in ("running", *COME_AGAIN)


def in_short(record: TrialRecord) -> str:
    """`target after 48.2 s (6 epochs)`, or what happened instead."""
    epochs = counted(record.epochs or 0, "epoch")
    if record.outcome == "completed":
        return f"target after {record.time_to_accuracy_s:.1f} s of training ({epochs})"
    if record.outcome == "target_not_reached":
        return f"target not reached: {record.best_accuracy:.4f} at best in {record.train_s:.1f} s ({epochs})"
    if record.outcome == "pruned":
        return f"pruned after {record.train_s:.1f} s ({epochs}): it can no longer win"
    return record.outcome.replace("_", " ") + (f": {record.error}" if record.error else "")


def times_s(records: Iterable[TrialRecord]) -> list[float]:
    """The times to the target, of those that reached it."""
    return [record.time_to_accuracy_s for record in records if record.time_to_accuracy_s is not None]
