"""Runs that can be compared, together; and what cannot, with the reason."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from accelmlf.ablation_result import ASKED, FAILED_BY_ITSELF, Asked
from accelmlf.checks import marks_of_group
from accelmlf.commands import command_of
from accelmlf.config import RunConfig, as_text
from accelmlf.errors import ConfigError
from accelmlf.paper import EPOCH_WORDS
from accelmlf.recipes import resolve
from accelmlf.stored_runs import ABLATION, ARM_RUN, CONFIRMATION, CONTINUED_BY, REPORT, SEARCH, TRIAL, StoredRun

VARIES = ("seed", "save_model", "data_dir", "device")
"""Settings that may differ within a group; the kind of device is part of the machine."""
PROTOCOL = ("pipeline", "validation")
"""Settings that may differ from the recipe in the comparison with the paper, where they are named."""
OF_ARM = ("techniques", "accumulation_steps", "batch_size", "learning_rate")
"""What tells the two arms of a recipe apart."""
FOLLOWS = ("arm", "tuned", "effective_batch_size")
BASELINE, TUNED = "baseline", "tuned"
OF_SEARCHES = "runs of searches, which end early and are told of by their search"


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
        batch = f"batch {settings['batch_size']} x {settings['accumulation_steps']}"
        others = [f"{name}={settings[name]}" for name in self.departures()]
        return ", ".join([f"{settings['arm']}: {settings['techniques']}", batch, *others])

    def departures(self) -> list[str]:
        """Settings that are not the recipe's. Techniques and batch are an arm's own, and the rate follows the batch."""
        texts = recipe_texts(self.settings)
        left = (*VARIES, *FOLLOWS, "techniques", "accumulation_steps", "batch_size")
        return [name for name, text in self.settings.items() if name not in left and texts.get(name) != text]

    @property
    def preset(self) -> str | None:
        """baseline or tuned, where it is an arm of the paper's recipe, whatever started it; else None."""
        if set(self.departures()) - set(PROTOCOL):
            return None
        for arm, tuned in ((BASELINE, False), (TUNED, True)):
            texts = resolve({name: self.settings[name] for name in ("model", "dataset")} | {"tuned": tuned}).as_texts()
            if all(_words(self.settings[name]) == _words(texts[name]) for name in OF_ARM):
                return arm
        return None

    def figures(self, metric: str) -> list[float]:
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]

    def median(self, metric: str) -> float | None:
        figures = self.figures(metric)
        return statistics.median(figures) if figures else None

    @property
    def reached(self) -> tuple[int, int]:
        """How many of how many runs came to the target, of those whose record says so."""
        figures = self.figures("reached_target")
        return sum(figure > 0 for figure in figures), len(figures)

    @property
    def seeds(self) -> list[int]:
        """Each once: the same seed again repeats the clock, not the training."""
        return sorted({int(run.settings["seed"]) for run in self.runs})

    @property
    def marks(self) -> list[str]:
        """Why it supports no claim."""
        tried = len(self.runs) + self.failures
        failed = [f"{self.failures} of {tried} runs failed"] if self.failures else []
        return marks_of_group(self.runs, len(self.seeds)) + failed

    @property
    def command(self) -> str:
        """What repeats its first seed; empty where this version cannot."""
        try:
            return command_of({**self.settings, "seed": as_text("seed", self.seeds[0])})
        except ConfigError:
            return ""


def _words(text: str) -> set[str]:
    """A setting's words; of techniques without their options, which the preset leaves to the device."""
    return {word.partition(":")[0] for word in text.split(",")}


def recipe_texts(settings: Mapping[str, str]) -> dict[str, str]:
    """The recipe's settings with an arm's own batch, so that the learning rate is the one that follows it.

    Weights that are not the recipe's own have their own row, and are the departure.

    Raises:
        ConfigError: a model or data set that this version does not know.
    """
    row: dict[str, object] = {name: settings[name] for name in ("model", "dataset")}
    batch = {name: int(settings[name]) for name in ("batch_size", "accumulation_steps")}
    weights = resolve(row).weights
    own = {} if settings["weights"] == weights else {"weights": settings["weights"]}
    return resolve({**row, **batch, **own}).as_texts() | {"weights": weights}


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
    failed = [key_of(run) for out in left_out.values() for run in out if run.outcome in FAILED_BY_ITSELF]
    earlier = [run for starts in parents.values() for run in starts[:-1]]
    if earlier:
        left_out["another start of the same study"] = earlier
    last = {kind: [starts[-1] for (k, _), starts in parents.items() if k == kind] for kind in (SEARCH, ABLATION)}
    ordered = sorted(groups.items(), key=lambda item: [item[1][0].settings[name] for name in ("dataset", "model")])
    return Sorted([Group(found, failed.count(key)) for key, found in ordered], last, left_out)


def reason_to_leave_out(run: StoredRun) -> str | None:
    """Why a run is in no table; None where it is."""
    if run.kind in (TRIAL, CONFIRMATION):
        return OF_SEARCHES
    if not run.settings:
        return "not a run of this project, or one that ended before its settings were known"
    if run.outcome is None:
        return "under way, or killed without a word"
    if not is_readable(run):
        return "settings of another version"
    if CONTINUED_BY in run.tags:
        return "continued by a later start"
    if not run.has_ended_well:
        return f"did not complete: {run.outcome.replace('_', ' ')}"
    return None if run.kind in (SEARCH, ABLATION, ARM_RUN, None) else f"a run of the unknown kind {run.kind}"


def is_readable(run: StoredRun) -> bool:
    """Whether this version understands all that a report will ask of the run."""
    names = set(RunConfig.__dataclass_fields__) - {"techniques_given"}
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
    settings = sorted((name, text) for name, text in run.settings.items() if name not in VARIES)
    return run.machine, run.data_digest, tuple(settings)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.2f} h"
    )


def numbered(name: str, group: Group) -> str:
    """The command of a line, under its name and all its seeds."""
    command = group.command or "# no command of this version leads to these settings"
    return f"# {name}, seeds {', '.join(map(str, group.seeds))}\n{command}"
