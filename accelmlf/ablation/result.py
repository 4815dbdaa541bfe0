"""An ablation as the tracking store has it: its design, its runs, and what they say."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from accelmlf.ablation.designs import Arm, Asked, Contrast, Design
from accelmlf.ablation.effects import (
    SECONDS_PER_EPOCH,
    SECONDS_PER_PICTURE,
    TIME_TO_ACCURACY,
    Effect,
    Measure,
    Measured,
    effects,
    estimate_of,
    interval_of,
)
from accelmlf.ablation.factors import ACCUMULATION
from accelmlf.ablation.reasons import Case, why
from accelmlf.ablation.settings import STEPS
from accelmlf.ablation.stored import FAILED_BY_ITSELF, complete_generations, place_of
from accelmlf.ablation.time_to_accuracy import EpochsToAccuracy
from accelmlf.many_runs.pooled import PooledTable
from accelmlf.many_runs.verdicts import FASTER
from accelmlf.tracking.stored_runs import StoredRun
from accelmlf.tracking.tags import ABLATION, ARM, ARM_RUN, ARM_STRETCHES, ASKED, BLOCK, KIND, OWNER, STOPPED_BY


@dataclass(frozen=True)
class Ablation:
    """One ablation, complete or not."""

    parent: StoredRun
    asked: Asked
    runs: Mapping[int, Mapping[str, StoredRun]]
    """Block -> arm -> the run that ended well."""
    failures: Sequence[StoredRun]
    """The last run of each place in which none ended well, where that was its own fault."""
    looks: Sequence[str]
    """Each number of repeats, or precision and budget, with which it was judged, this one among them."""
    repeated: int = 0
    """Runs that failed and whose place another one has taken."""
    stopped_by: str | None = None
    """Why a measurement in stretches has ended, precision or budget; None of whole runs, or while it goes on."""
    counted: Mapping[int, Mapping[str, StoredRun]] = field(default_factory=dict)
    """Of a measurement in stretches: number of the seed -> arm -> the run in which epochs to accuracy were counted."""

    @classmethod
    def of(cls, parent: StoredRun, children: Sequence[StoredRun]) -> "Ablation":
        """`children`: all runs of the study; those of other kinds are passed over."""
        asked = Asked.from_json(parent.tags[ASKED])
        arms = asked.as_design().arms
        if asked.measure == STEPS:
            return cls._of_stretches(parent, asked, children)
        runs = [run for run in children if run.tags.get(KIND) == ARM_RUN]
        blocks = {block: found for block, found in blocks_of(runs, arms).items() if block < asked.repeats}
        broken = [run for run in runs if run.outcome in FAILED_BY_ITSELF and int(run.tags[BLOCK]) < asked.repeats]
        failed = {
            (run.tags[BLOCK], run.tags[ARM]): run
            for run in broken
            if run.tags[ARM] not in blocks.get(int(run.tags[BLOCK]), {})
        }
        looks = [str(look) for look in sorted({one.repeats for one in judged(asked, children)})]
        return cls(parent, asked, blocks, list(failed.values()), looks, len(broken) - len(failed))

    @classmethod
    def _of_stretches(cls, parent: StoredRun, asked: Asked, children: Sequence[StoredRun]) -> "Ablation":
        """A block is a generation that is complete."""
        arms = asked.as_design().arms
        whole_runs = [run for run in children if run.tags.get(KIND) == ARM_RUN]
        counted = blocks_of(whole_runs, arms)
        for run in whole_runs:  # one that diverged, say, has not reached the target
            if run.outcome in FAILED_BY_ITSELF:
                counted.setdefault(int(run.tags[BLOCK]), {}).setdefault(run.tags[ARM], run)
        runs = [run for run in children if run.tags.get(KIND) == ARM_STRETCHES]
        blocks = complete_generations(runs, [arm.name for arm in arms])
        failed = {run.tags[ARM]: run for run in runs if run.outcome in FAILED_BY_ITSELF}
        stopped_by = parent.tags.get(STOPPED_BY)
        limits = sorted({(-one.precision, one.budget) for one in judged(asked, children)})
        looks = [f"{-precision:.1%} in {budget:g} min" for precision, budget in limits]
        return cls(parent, asked, blocks, list(failed.values()), looks, stopped_by=stopped_by, counted=counted)

    @property
    def num_blocks(self) -> int:
        """Repeats of whole runs that were asked for, or generations that there are."""
        return len(self.runs) if self.asked.measure == STEPS else self.asked.repeats

    @cached_property
    def null_effect(self) -> Effect | None:
        """Of an arm against itself; None where it was not measured twice."""
        if self.design.null is None:
            return None
        count = len(self.design.contrasts)
        interval = interval_of(self.design.null, SECONDS_PER_PICTURE, self.measured, count)
        return Effect(self.design.null, SECONDS_PER_PICTURE, interval, {}, {})

    @cached_property
    def design(self) -> Design:
        return self.asked.as_design()

    @property
    def settings(self) -> dict[str, str]:
        """Of its runs, as far as they have them in common."""
        return self.parent.settings

    @property
    def title(self) -> str:
        settings, design = self.settings, self.asked.design.replace("_", " ")
        return f"{settings['model']} on {settings['dataset']}, pipeline={settings['pipeline']}, {design}"

    @property
    def question(self) -> str:
        """The title, after what was asked for."""
        return f"{', '.join(self.asked.factors)}: {self.title}"

    def time_in_words(self, contrast: Contrast) -> str:
        """What is known of the time to accuracy of a contrast."""
        speed, *on_time = self.judged(contrast)
        if self.asked.measure == STEPS:
            return self.epochs_to_accuracy.in_words(contrast, speed, on_time[0] if on_time else None)
        return on_time[0].in_words

    @cached_property
    def epochs_to_accuracy(self) -> EpochsToAccuracy:
        """As whole runs have counted them, beside a measurement in stretches."""
        figures: dict[str, dict[int, Mapping[str, float]]] = {}
        for seed, runs in self.counted.items():
            for arm, run in runs.items():
                figures.setdefault(arm, {})[seed] = run.metrics
        return EpochsToAccuracy(self.design, self.settings["device"], figures)

    @property
    def generation_variance(self) -> float | None:
        """Of an arm's log speed between generations, the noise of its rounds in it; None of less than two of them."""
        values = {
            arm: {block: math.log(figures[SECONDS_PER_PICTURE.metric]) for block, figures in blocks.items()}
            for arm, blocks in self.measured.items()
            if len(blocks) == self.num_blocks  # one that failed later has less
        }
        is_enough = self.num_blocks > 1 and len(values) > 1
        return PooledTable.of(values).variance if is_enough else None

    @cached_property
    def measured(self) -> Measured:
        return {
            arm.name: {block: run.metrics for block, runs in self.runs.items() if (run := runs.get(arm.name))}
            for arm in self.design.arms
        }

    @cached_property
    def effects(self) -> list[Effect]:
        failed = Counter(run.tags[ARM] for run in self.failures)
        return effects(self.design.contrasts, self.measured, self.num_blocks, failed)

    def effects_of(self, contrast: Contrast) -> list[Effect]:
        return [effect for effect in self.effects if effect.contrast is contrast]

    @property
    def speed(self) -> Measure:
        """What its verdicts on speed are about."""
        return SECONDS_PER_PICTURE if self.asked.measure == STEPS else SECONDS_PER_EPOCH

    def judged(self, contrast: Contrast) -> list[Effect]:
        """Its effects on the measures that carry a verdict: the speed first, then, of whole runs, time to accuracy."""
        of = {effect.measure: effect for effect in self.effects_of(contrast)}
        absent = Effect(contrast, self.speed, None, {}, dict.fromkeys(contrast.weights, self.num_blocks))
        speed, on_time = of.get(self.speed, absent), of.get(TIME_TO_ACCURACY) or self.counted_effect(contrast)
        return [speed, on_time] if on_time else [speed]

    def is_faster(self, contrast: Contrast) -> bool:
        """Whether that is shown."""
        return self.judged(contrast)[0].decision == FASTER

    def counted_effect(self, contrast: Contrast) -> Effect | None:
        """On time to accuracy, from speed and counted epochs; None of whole runs, and where none were counted."""
        estimate = estimate_of(contrast, SECONDS_PER_PICTURE, self.measured)
        if self.asked.measure != STEPS or estimate is None:
            return None
        return self.epochs_to_accuracy.effect(contrast, estimate)

    def reason(self, contrast: Contrast) -> str:
        """What the phases say about it."""
        pipeline, device = self.settings["pipeline"], self.settings["device"]
        count = len(self.design.contrasts)
        return why(Case(contrast, self.measured, self.accumulation_steps, pipeline, device, count))

    def settings_of(self, arm: str) -> dict[str, str]:
        """Of an arm's runs; empty where it has none."""
        return next((run.settings for runs in self.runs.values() if (run := runs.get(arm))), {})

    @property
    def accumulation_steps(self) -> int:
        """Of the arms that accumulate as the recipe does; 1 where there is none."""
        arms = [self.settings_of(arm.name) for arm in self.design.arms if ACCUMULATION in arm.factors]
        return min((int(settings["accumulation_steps"]) for settings in arms if settings), default=1)

    @property
    def blocks_continued(self) -> list[int]:
        """Blocks, from 1, that one start has begun and another one ended: not measured side by side."""
        return [block + 1 for block, runs in self.runs.items() if len({r.tags.get(OWNER) for r in runs.values()}) > 1]

    @property
    def num_runs(self) -> int:
        """How many have ended well."""
        return sum(map(len, self.runs.values()))

    @property
    def num_complete(self) -> int:
        """Blocks that each arm has at least; in stretches an arm that has failed is not asked for any more."""
        return min((len(blocks) for arm, blocks in self.measured.items() if arm not in self.left_out), default=0)

    @property
    def left_out(self) -> set[str]:
        """Arms that were measured no more once they had failed."""
        return {run.tags[ARM] for run in self.failures} if self.asked.measure == STEPS else set()

    @property
    def num_planned(self) -> int:
        """Runs, those of arms that were left out as far as there are any."""
        living = self.num_blocks * sum(arm.name not in self.left_out for arm in self.design.arms)
        return living + sum(len(self.measured[arm]) + 1 for arm in self.left_out)


def judged(asked: Asked, runs: Sequence[StoredRun]) -> list[Asked]:
    """What one study was asked for, each time that somebody was told its verdicts, this time among them."""
    ended = [run for run in runs if run.kind == ABLATION and run.outcome == "completed" and ASKED in run.tags]
    return [asked, *(Asked.from_json(run.tags[ASKED]) for run in ended)]


def blocks_of(runs: Sequence[StoredRun], arms: Sequence[Arm]) -> dict[int, dict[str, StoredRun]]:
    """Block -> arm -> run. A block is of one device, the one that has most of it; of the same arm the first counts."""
    found: dict[int, dict[tuple[str, str], dict[str, StoredRun]]] = {}
    names = {arm.name for arm in arms}
    for run in runs:
        if run.has_ended_well and run.tags[ARM] in names:
            places = found.setdefault(int(run.tags[BLOCK]), {})
            places.setdefault(place_of(run), {}).setdefault(run.tags[ARM], run)
    return {block: max(places.values(), key=len) for block, places in sorted(found.items())}
