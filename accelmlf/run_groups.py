"""Runs that can be compared, together; and what cannot, with the reason."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from accelmlf.ablation_result import ABLATION, ARM_RUN
from accelmlf.checks import marks_of_group
from accelmlf.commands import PRESET_ARMS, SET_BY_ARM, command_or_nothing
from accelmlf.config import as_text
from accelmlf.recipes import resolve
from accelmlf.stored_runs import StoredRun

SEARCH, REPORT = "search", "report"
VARIES = ("seed", "save_model", "data_dir", "device")
"""Settings that may differ within a group; the device is part of the machine."""
PROTOCOL = ("pipeline", "validation")
"""Settings that may differ from the recipe in the comparison with the paper, where they are named."""


@dataclass(frozen=True)
class Group:
    """Runs of the same settings on the same data and hardware; they differ in their seed."""

    runs: Sequence[StoredRun]

    @property
    def settings(self) -> Mapping[str, str]:
        return self.runs[0].settings

    @property
    def arm(self) -> str:
        return self.settings["arm"]

    @property
    def machine(self) -> str:
        return self.runs[0].machine

    @property
    def in_words(self) -> str:
        """The arm and all that sets it apart from its recipe."""
        settings = self.settings
        what = (
            f"{self.arm}: {settings['techniques']}, batch {settings['batch_size']} x {settings['accumulation_steps']}"
        )
        others = [
            f"{name}={settings[name]}" for name in self.departures() if name not in (*SET_BY_ARM, "learning_rate")
        ]
        return ", ".join([what, *others])

    def departures(self) -> list[str]:
        """Settings that are not the recipe's, those of the protocol among them."""
        own = resolve(
            {name: self.settings[name] for name in ("model", "dataset")} | {"tuned": self.arm.startswith("tuned")}
        )
        texts = own.as_texts()
        left = (*VARIES, "arm", "tuned", "effective_batch_size", *(SET_BY_ARM if self.arm in PRESET_ARMS else ()))
        return [name for name, text in self.settings.items() if name not in left and texts.get(name) != text]

    def figures(self, metric: str) -> list[float]:
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]

    def median(self, metric: str) -> float | None:
        figures = self.figures(metric)
        return statistics.median(figures) if figures else None

    @property
    def reached(self) -> int:
        return sum(run.metrics.get("reached_target", 0) > 0 for run in self.runs)

    @property
    def seeds(self) -> list[int]:
        return sorted(int(run.settings["seed"]) for run in self.runs)

    @property
    def marks(self) -> list[str]:
        """Why it supports no claim. The same seed twice is no repeat of its own, but a repeat of the clock's."""
        return marks_of_group(self.runs, len(self.runs))

    @property
    def command(self) -> str:
        """What repeats its first run."""
        return command_or_nothing({**self.settings, "seed": as_text("seed", self.seeds[0])})


@dataclass(frozen=True)
class Sorted:
    """What a tracking store holds, sorted for a report."""

    groups: Sequence[Group]
    parents: Mapping[str, Sequence[StoredRun]]
    """Kind (search, ablation) -> the parent runs that have ended well, the last of each study."""
    left_out: Mapping[str, Sequence[StoredRun]]
    """Reason -> runs."""


def sort_runs(runs: Sequence[StoredRun]) -> Sorted:
    """Every run in its group, or left out with a reason; reports themselves are passed over."""
    groups: dict[tuple[object, ...], list[StoredRun]] = {}
    parents: dict[str, list[StoredRun]] = {SEARCH: [], ABLATION: []}
    left_out: dict[str, list[StoredRun]] = {}
    for run in runs:
        if run.kind == REPORT:
            continue
        if reason := reason_to_leave_out(run):
            left_out.setdefault(reason, []).append(run)
        elif run.kind in parents:
            parents[run.kind].append(run)
        else:
            groups.setdefault(key_of(run), []).append(run)
    ordered = sorted(groups.values(), key=lambda found: (found[0].settings["dataset"], found[0].settings["model"]))
    return Sorted([Group(found) for found in ordered], parents, left_out)


def reason_to_leave_out(run: StoredRun) -> str | None:
    """Why a run is in no table; None where it is."""
    if "model" not in run.settings and run.outcome is None:
        return "not a run of this project, or one that ended before it began"
    if run.outcome is None:
        return "under way, or killed without a word"
    if not run.has_ended_well:
        return f"did not complete: {run.outcome.replace('_', ' ')}"
    if "model" not in run.settings:
        return "no settings recorded"
    if "accelmlf.continued_by" in run.tags:
        return "continued by a later start"
    if run.kind in (SEARCH, ABLATION, ARM_RUN, None):
        return None
    return "runs of searches, which end early and are told of by their search"


def key_of(run: StoredRun) -> tuple[object, ...]:
    """What two runs have in common if they may stand together."""
    settings = sorted((name, text) for name, text in run.settings.items() if name not in VARIES)
    return run.machine, run.data_digest, run.tags.get("accelmlf.version.torch"), tuple(settings)
