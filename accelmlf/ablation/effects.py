"""What each factor of an ablation is worth: contrasts within blocks, their intervals, and verdicts in four words."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from accelmlf.ablation.designs import Contrast
from accelmlf.many_runs.comparison import CONFIDENCE, MIN_REPEATS, SAME_WITHIN, Interval, as_ratio
from accelmlf.many_runs.pooled import Estimate, PooledTable, simultaneous
from accelmlf.many_runs.verdicts import SPEED_VERDICTS, UNDECIDED, decided, supports_verdict
from accelmlf.measure.cost import PHASES

Measured = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Arm -> block -> the final figures of a run that ended well, by their logged names."""


ARMS_AT_ONCE, MIN_TO_POOL = "arms_at_once", 3
"""A figure of arms that were held warm: how many of them shared their rounds."""


@dataclass(frozen=True)
class Measure:
    """A figure of a run that arms are compared by."""

    metric: str
    title: str
    unit: str = ""
    """Of a difference; a ratio has none."""
    is_ratio: bool = True
    is_speed: bool = False
    """The ratio is without / with, as for times: above 1 is better. Else with / without."""
    has_verdict: bool = False
    """Declared beforehand to be what a verdict is about."""
    factor: float = 1.0
    """From the logged figure to the unit."""


SECONDS_PER_PICTURE = Measure("seconds_per_image", "seconds per picture", is_speed=True, has_verdict=True)
SECONDS_PER_EPOCH = Measure("median_epoch_s", "seconds per epoch", is_speed=True, has_verdict=True)
TIME_TO_ACCURACY = Measure("time_to_accuracy_s", "time to accuracy", is_speed=True, has_verdict=True)
MEASURES = (
    SECONDS_PER_PICTURE,
    SECONDS_PER_EPOCH,
    TIME_TO_ACCURACY,
    Measure("mean_images_per_s", "images per second"),
    *(Measure(f"mean_{phase}_s", phase.replace("_", " "), "s per epoch", is_ratio=False) for phase in PHASES),
    Measure("peak_gpu_allocated_mib", "peak GPU memory, allocated"),
    Measure("peak_gpu_reserved_mib", "peak GPU memory, reserved"),
    Measure("peak_host_mib", "peak host memory, main process"),
    Measure("mean_gpu_joules", "GPU energy per epoch"),
    Measure("final_accuracy", "test accuracy", "points", is_ratio=False, factor=100.0),
)


@dataclass(frozen=True)
class Effect:
    """One contrast of one measure."""

    contrast: Contrast
    measure: Measure
    interval: Interval | None
    """Of the mean difference, or of the mean logarithm of the ratio; None where there is nothing to compare.

    Where the measure has verdicts it is simultaneous: all contrasts of the measure lie in theirs in 95 % of ablations.
    """
    reached: Mapping[str, tuple[int, int]]
    """Where the target was missed: of each arm, how many of how many runs reached it; a failed run did not."""
    absent: Mapping[str, int]
    """Of each arm, how many runs have failed or are not there."""

    @property
    def can_have_verdict(self) -> bool:
        """A measure with verdicts, at the target in every run, measured in every block of at least three."""
        is_complete = self.measure.has_verdict and not self.reached and not self.absent
        return is_complete and self.interval is not None and supports_verdict(self.interval)

    @property
    def decision(self) -> int | None:
        """What the interval shows: FASTER, SLOWER, SAME or UNDECIDED; None where there is no verdict."""
        return decided(self.interval) if self.can_have_verdict and self.interval is not None else None

    @property
    def verdict(self) -> str | None:
        """The same in one of four words."""
        return None if self.decision is None else VERDICTS[kind_of(self.contrast)][self.decision]

    @property
    def figure(self) -> str:
        """The ratio or the difference, with its interval."""
        if self.interval is None:
            return ""
        if self.measure.is_ratio:
            return str(as_ratio(self.interval))
        return self.interval.as_difference(self.measure.unit)

    @property
    def in_words(self) -> str:
        """`faster: 1.62x [1.55, 1.70]`, or why there is no verdict."""
        return next(words for say in WORDS if (words := say(self)) is not None)


INTERACTION, MIXED = "interaction", "mixed"
VERDICTS = {
    "": SPEED_VERDICTS,
    MIXED: tuple(f"{word} on average" for word in SPEED_VERDICTS[:UNDECIDED]) + SPEED_VERDICTS[UNDECIDED:],
    INTERACTION: (
        "worth more together",
        "worth less together",
        f"no interaction above {100 * SAME_WITHIN:g} %",
        "not decided yet",
    ),
}
"""By kind of contrast, in the order of what is `decided`."""


def kind_of(contrast: Contrast) -> str:
    """A key of VERDICTS."""
    return INTERACTION if contrast.is_interaction else MIXED if contrast.is_mixed else ""


def target_missed(effect: Effect) -> str | None:
    if not effect.reached:
        return None
    is_pair = len(effect.reached) == 2
    counts = ", ".join(f"{k} of {n} ({arm})" for arm, (k, n) in effect.reached.items() if k < n or is_pair)
    absent = f" ({_counts(effect.absent)})" if effect.absent else ""
    return f"target reached in {counts}: no verdict{absent}"


def runs_absent(effect: Effect) -> str | None:
    if not effect.absent:
        return None
    in_generations = f"{' and '.join(effect.absent)} failed, and was measured no more"
    why = in_generations if effect.measure is SECONDS_PER_PICTURE else _counts(effect.absent)
    no_verdict = f"no verdict: {why}"
    return f"{effect.figure}; {no_verdict}" if effect.figure else no_verdict


def too_few_blocks(effect: Effect) -> str | None:
    if not effect.measure.has_verdict or effect.interval is None or effect.interval.count >= MIN_REPEATS:
        return None
    blocks = "generations" if effect.measure is SECONDS_PER_PICTURE else "repeats"
    return f"{effect.figure}, no verdict with fewer than {MIN_REPEATS} {blocks}"


def judged(effect: Effect) -> str | None:
    return None if effect.verdict is None else f"{effect.verdict}: {effect.figure}"


def figure_alone(effect: Effect) -> str:
    return effect.figure


WORDS: tuple[Callable[[Effect], str | None], ...] = (
    target_missed,
    runs_absent,
    too_few_blocks,
    judged,
    figure_alone,
)
"""What is said of an effect: the first that has anything to say."""


def _counts(absent: Mapping[str, int]) -> str:
    runs = ", ".join(f"{count} run{'s' * (count > 1)} of {arm}" for arm, count in absent.items())
    return f"{runs} failed or missing"


def effects(
    contrasts: Sequence[Contrast], measured: Measured, repeats: int, failed: Mapping[str, int] | None = None
) -> list[Effect]:
    """Every contrast of every measure that was captured.

    `failed`: arm -> how many of its runs diverged, ran out of memory or broke. What is neither there nor has failed is
    missing.
    """
    known = {name for blocks in measured.values() for figures in blocks.values() for name in figures}
    of_runs = SECONDS_PER_PICTURE.metric not in known
    measures = [m for m in MEASURES if m.metric in known or (m is TIME_TO_ACCURACY and of_runs)]
    count, failed = len(contrasts), failed or {}
    return [_effect(contrast, m, measured, repeats, failed, count) for contrast in contrasts for m in measures]


def _effect(
    contrast: Contrast,
    measure: Measure,
    measured: Measured,
    repeats: int,
    failed: Mapping[str, int],
    comparisons: int,
) -> Effect:
    runs = {arm: measured.get(arm, {}) for arm in contrast.weights}
    absent = {arm: repeats - len(blocks) for arm, blocks in runs.items() if len(blocks) < repeats}
    reached = _reached(runs, failed) if measure is TIME_TO_ACCURACY else {}
    interval = None if reached else interval_of(contrast, measure, measured, comparisons)
    return Effect(contrast, measure, interval, reached, absent)


def _reached(runs: Measured, failed: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Of each arm, how many of how many runs reached the target; empty where all did."""
    metric = TIME_TO_ACCURACY.metric
    hits = {arm: sum(metric in figures for figures in blocks.values()) for arm, blocks in runs.items()}
    counts = {arm: (hits[arm], len(blocks) + failed.get(arm, 0)) for arm, blocks in runs.items()}
    return counts if any(k < n for k, n in counts.values()) else {}


def interval_of(contrast: Contrast, measure: Measure, measured: Measured, comparisons: int) -> Interval | None:
    """Of a contrast, over the blocks in which its arms have the figure; None where there is none, or no logarithm.

    One of a measure with verdicts holds simultaneously with those of `comparisons` contrasts.
    """
    estimate = estimate_of(contrast, measure, measured)
    if estimate is None:
        return None
    return estimate.interval(simultaneous(comparisons) if measure.has_verdict else CONFIDENCE)


def are_not_all_held_together(measured: Measured) -> bool:
    """Whether memory held only an arm or two at once: their noise is then not alike, and is not pooled."""
    at_once = (figures.get(ARMS_AT_ONCE) for blocks in measured.values() for figures in blocks.values())
    return any(number is not None and number < MIN_TO_POOL for number in at_once)


def estimate_of(contrast: Contrast, measure: Measure, measured: Measured) -> Estimate | None:
    """Of a contrast: by the residual of all arms that were measured beside its own where the measure has verdicts.

    None where there is nothing to compare.
    """

    def value(figure: float) -> float:
        amount = math.log(figure) if measure.is_ratio else measure.factor * figure
        return amount if measure.is_speed else -amount

    def of_arm(blocks: Mapping[int, Mapping[str, float]]) -> dict[int, float]:
        found = {block: figures[measure.metric] for block, figures in blocks.items() if measure.metric in figures}
        if measure.is_ratio and 0 in found.values():  # nothing has no ratio: no pictures per second, no memory
            return {}
        return {block: value(figure) for block, figure in found.items()}

    values = {arm: of_arm(blocks) for arm, blocks in measured.items()}
    own = PooledTable.of({arm: values.get(arm, {}) for arm in contrast.weights})
    if not own.num_blocks:
        return None
    if not measure.has_verdict or are_not_all_held_together(measured):
        return own.alone(contrast.weights)
    beside = PooledTable.of({arm: found for arm, found in values.items() if len(found) >= own.num_blocks})
    table = beside if beside.num_blocks == own.num_blocks else own
    return table.estimate(contrast.weights)
