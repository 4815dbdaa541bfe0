"""Runs that can be compared, together; and what cannot, with the reason."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from accelmlf.ablation.designs import Asked
from accelmlf.ablation.settings import BASELINE, TUNED
from accelmlf.ablation.stored import FAILED_BY_ITSELF
from accelmlf.errors import ConfigError
from accelmlf.many_runs.claims import marks_of_group
from accelmlf.settings.commands import command_of
from accelmlf.settings.comparable import FOLLOWS, VARIES, departures
from accelmlf.settings.fields import as_text
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig, batch_in_words
from accelmlf.settings.technique_list import word_and_option
from accelmlf.tracking.stored_runs import StoredRun
from accelmlf.tracking.tags import (
    ABLATION,
    ARM_RUN,
    ARM_STRETCHES,
    ASKED,
    CONFIRMATION,
    CONTINUED_BY,
    REPORT,
    SEARCH,
    TRIAL,
)

PROTOCOL = ("pipeline", "validation")
"""Settings that may differ from the recipe in the comparison with the paper, where they are named."""
OF_ARM = ("techniques", "accumulation_steps", "batch_size", "learning_rate")
"""What tells the two arms of a recipe apart."""
OF_SEARCHES = "runs of searches, which end early and are told of by their search"
PARTS_OF_OTHERS = {
    TRIAL: OF_SEARCHES,
    CONFIRMATION: OF_SEARCHES,
    ARM_STRETCHES: "stretches of ablations, which are no whole runs and are told of by their ablation",
}
"""Kind -> why its runs stand in no table of their own."""


@dataclass(frozen=True)
class Group:
    """Runs of the same settings on the same data and hardware; they differ in their seed."""

    runs: Sequence[StoredRun]
    failures: int = 0
    """How many others of these settings have failed."""

    @property
    def settings(self) -> Mapping[str, str]:
        return self.runs[0].settings

    @property
    def machine(self) -> str:
        return self.runs[0].machine

    @property
    def in_words(self) -> str:
        """The arm and all that sets it apart from its recipe."""
        settings = self.settings
        batch = batch_in_words(settings["batch_size"], settings["accumulation_steps"])
        others = [f"{name}={settings[name]}" for name in departures(settings)]
        return ", ".join([f"{self.preset or settings['arm']}: {settings['techniques']}", batch, *others])

    @property
    def preset(self) -> str | None:
        """baseline or tuned, where it is an arm of the recipe but for its protocol, whatever started it; else None."""
        if set(departures(self.settings)) - set(PROTOCOL):
            return None
        for arm, tuned in ((BASELINE, False), (TUNED, True)):
            texts = resolve({name: self.settings[name] for name in ("model", "dataset")} | {"tuned": tuned}).as_texts()
            if all(_words(self.settings[name]) == _words(texts[name]) for name in OF_ARM):
                return arm
        return None

    def figures(self, metric: str) -> list[float]:
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]

    def accuracies(self) -> list[float]:
        """On the test set, one per seed: the same seed again says nothing new."""
        found = {run.settings["seed"]: run.metrics.get("final_accuracy") for run in self.runs}
        return [accuracy for accuracy in found.values() if accuracy is not None]

    def median(self, metric: str) -> float | None:
        figures = self.figures(metric)
        return statistics.median(figures) if figures else None

    @property
    def reached(self) -> tuple[int, int]:
        """How many of how many runs came to the target, of those whose record says so; a failed one did not."""
        figures = self.figures("reached_target")
        return sum(figure > 0 for figure in figures), len(figures) + self.failures

    @property
    def seeds(self) -> list[int]:
        """Each once: the same seed again repeats the clock, not the training."""
        return sorted({int(run.settings["seed"]) for run in self.runs})

    @property
    def marks(self) -> list[str]:
        """Why it supports no claim."""
        tried = len(self.runs) + self.failures
        failed = [f"{self.failures} of {tried} runs failed"] if self.failures else []
        return marks_of_group(self.runs, len(self.seeds), of="seed") + failed

    @property
    def command(self) -> str:
        """What repeats its first seed; empty where this version cannot."""
        try:
            return command_of({**self.settings, "seed": as_text(self.seeds[0])})
        except ConfigError:
            return ""


def _words(text: str) -> set[str]:
    """A setting's words; of techniques without their options, which the preset leaves to the device."""
    return {word_and_option(word)[0] for word in text.split(",")}


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
    parents: dict[tuple[str, str | None], list[StoredRun]] = {}
    left_out: dict[str, list[StoredRun]] = {}
    for run in sorted(runs, key=lambda run: run.started_ms):
        if run.kind == REPORT:
            continue
        if reason := reason_to_leave_out(run):
            left_out.setdefault(reason, []).append(run)
        elif run.kind in (SEARCH, ABLATION):
            parents.setdefault((run.kind, run.study_id), []).append(run)
        else:
            groups.setdefault(key_of(run), []).append(run)
    failed = [
        run for out in left_out.values() for run in out if run.outcome in FAILED_BY_ITSELF and run.kind != ARM_STRETCHES
    ]
    earlier = [run for starts in parents.values() for run in starts[:-1]]
    if earlier:
        left_out["another start of the same study"] = earlier
    last = {kind: [starts[-1] for (k, _), starts in parents.items() if k == kind] for kind in (SEARCH, ABLATION)}
    ordered = sorted(groups.items(), key=lambda item: [item[1][0].settings[name] for name in ("dataset", "model")])
    return Sorted([Group(found, _failures_of(key, failed)) for key, found in ordered], last, left_out)


def _failures_of(key: tuple[object, ...], failed: Sequence[StoredRun]) -> int:
    """How many of the failed would have been in a group; one that failed early has not recorded its data yet."""
    machine, _, settings = key
    return sum(key_of(run) in (key, (machine, None, settings)) for run in failed if is_readable(run))


def reason_to_leave_out(run: StoredRun) -> str | None:
    """Why a run is in no table; None where it is."""
    if run.kind in PARTS_OF_OTHERS:
        return PARTS_OF_OTHERS[run.kind]
    if not run.settings:
        return "not a run of this project, or one that ended before its settings were known"
    if run.outcome is None:
        return "under way, or killed without a word"
    if not is_readable(run):
        return "settings of another version"
    if not run.has_ended_well and CONTINUED_BY in run.tags:
        return "continued by a later start"
    if not run.has_ended_well:
        return f"did not complete: {run.outcome.replace('_', ' ')}"
    return None if run.kind in (SEARCH, ABLATION, ARM_RUN, None) else f"a run of the unknown kind {run.kind}"


def is_readable(run: StoredRun) -> bool:
    """Whether this version understands all that a report will ask of the run."""
    names = set(RunConfig.__dataclass_fields__)
    try:
        if run.kind == ABLATION:
            Asked.from_json(run.tags[ASKED]).as_design()
        elif run.kind == SEARCH:  # it sets these itself
            return {"model", "dataset", "pipeline", "target_accuracy"} <= run.settings.keys()
        group = Group([run])
        is_understood = group.preset in (None, BASELINE, TUNED) and isinstance(group.command, str)
    except (ConfigError, KeyError, TypeError, ValueError):
        return False
    return is_understood and names <= run.settings.keys() and run.settings["validation"] in EPOCH_WORDS


def key_of(run: StoredRun) -> tuple[object, ...]:
    """What two runs have in common if they may stand together."""
    settings = sorted((name, text) for name, text in run.settings.items() if name not in (*VARIES, *FOLLOWS))
    return run.machine, run.data_digest, tuple(settings)


def numbered(name: str, group: Group) -> str:
    """The shell command that repeats a group, below a comment with its name and seeds."""
    command = group.command or "# no command of this version leads to these settings"
    first, *others = group.seeds
    rest = f"; likewise with seed={', '.join(map(str, others))}" if others else ""
    return f"# {name}, seed {first}{rest}\n{command}"


EPOCH_WORDS = {
    "split": "45,000-picture epochs",
    "test": "50,000-picture epochs, the test set watched, as the paper's CNNs",
}
"""What an epoch of ours is, by `validation`. The paper's ViT has 45,000 pictures, too."""
