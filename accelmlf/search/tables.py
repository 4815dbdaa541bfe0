"""The tables of a search: its trials and its confirmation, as aligned lines and as CSV files."""

import csv
from collections.abc import Sequence
from pathlib import Path

from accelmlf.search.confirmation import Candidate, Confirmation, Repeat
from accelmlf.search.space import SearchSpace, in_words
from accelmlf.search.trials import TrialRecord, in_short
from accelmlf.text import aligned


def trial_table(records: Sequence[TrialRecord]) -> list[str]:
    """A line per trial, those at the target first."""
    ordered = sorted(records, key=lambda r: (r.time_to_accuracy_s is None, r.time_to_accuracy_s or 0.0, r.number))
    return aligned([[f"trial {r.number}", in_words(r.point) if r.point else "", in_short(r)] for r in ordered])


def confirmation_table(confirmation: Confirmation) -> list[str]:
    """A line per arm: its time at each seed, the test accuracy then, its verdict and ratio against the recipe."""
    heading = ["confirmed", "training until the target", "test accuracy then", "against the recipe"]
    rows = [[arm.name, _times(arm), _accuracies(arm), _speedup(arm, confirmation)] for arm in confirmation.arms]
    return aligned([heading, *rows])


def _times(arm: Candidate) -> str:
    def one(repeat: Repeat) -> str:
        return (repeat.failure or "missed").replace("_", " ") if repeat.time_s is None else f"{repeat.time_s:.1f} s"

    return ", ".join(one(repeat) for _, repeat in sorted(arm.repeats.items()))


def _accuracies(arm: Candidate) -> str:
    known = [repeat.test_accuracy for _, repeat in sorted(arm.repeats.items())]
    return ", ".join(f"{accuracy:.4f}" for accuracy in known if accuracy is not None)


def _speedup(arm: Candidate, confirmation: Confirmation) -> str:
    if arm.is_recipe:
        return ""
    ratio = confirmation.speedup(arm)
    if ratio is None:
        return f"reached in {len(arm.reached_s)} of {len(arm.repeats)}"
    verdict = confirmation.verdict(arm)
    return str(ratio) if verdict is None else f"{verdict}: {ratio}"


def write_trials(path: Path, records: Sequence[TrialRecord], space: SearchSpace) -> None:
    """A CSV file with a row per trial: number, point, figures, error and run."""
    names = space.names
    columns = ("outcome", "time_to_accuracy_s", "best_accuracy", "epochs", "train_s", "saved_at_most_s", "duration_s")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", *names, *columns, "error", "run_id"])
        for record in records:
            point = [record.point[name] if record.point else "" for name in names]
            values = [getattr(record, name) for name in (*columns, "error", "run_id")]
            writer.writerow([record.number, *point, *("" if value is None else value for value in values)])


def write_confirmation(path: Path, confirmation: Confirmation) -> None:
    """A CSV file with a row per arm and seed; times in seconds, empty for a miss."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        columns = ("time_to_accuracy_s", "test_accuracy", "time_to_accuracy_wall_s", "warmup_s", "failure")
        writer.writerow(["setting", "is_recipe", "seed", *columns])
        for arm in confirmation.arms:
            for seed, r in sorted(arm.repeats.items()):
                values = (r.time_s, r.test_accuracy, r.wall_s, r.warmup_s, r.failure)
                cells = ["" if value is None else value for value in values]
                writer.writerow([in_words(arm.point), arm.is_recipe, seed, *cells])
