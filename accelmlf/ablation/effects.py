"""What each factor of an ablation is worth: contrasts within blocks, their intervals, and verdicts in words."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from accelmlf.ablation.designs import Contrast
from accelmlf.many_runs.comparison import CONFIDENCE, MIN_REPEATS, Interval, as_ratio, holm, t_interval
from accelmlf.measure.cost import PHASES

SIGNIFICANCE = 1 - CONFIDENCE
Measured = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Arm -> block -> the final figures of a run that ended well, by their logged names."""


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
    is_primary: bool = False
    """Declared beforehand to be what a verdict is about."""
    factor: float = 1.0
    """From the logged figure to the unit."""


SECONDS_PER_EPOCH = Measure("median_epoch_s", "seconds per epoch", is_speed=True, is_primary=True)
TIME_TO_ACCURACY = Measure("time_to_accuracy_s", "time to accuracy", is_speed=True, is_primary=True)
MEASURES = (
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
    """Of the mean difference, or of the mean logarithm of the ratio; None where there is nothing to compare."""
    reached: Mapping[str, tuple[int, int]]
    """Where the target was missed: of each arm, how many of how many runs reached it; a failed run did not."""
    absent: Mapping[str, int]
    """Of each arm, how many runs have failed or are not there."""
    adjusted_p: float | None = None
    """Holm's; None where there is no verdict."""

    @property
    def can_have_verdict(self) -> bool:
        """A primary measure, at the target in every run, measured in every block of at least three."""
        complete = self.interval is not None and not self.reached and not self.absent
        enough = self.interval is not None and self.interval.count >= MIN_REPEATS
        return self.measure.is_primary and complete and enough

    @property
    def verdict(self) -> str | None:
        """faster, slower or no difference shown; of interactions likewise; None where there is none."""
        if self.adjusted_p is None or self.interval is None:
            return None
        words = ("worth more together", "worth less together") if self.contrast.is_interaction else ("faster", "slower")
        if self.adjusted_p > SIGNIFICANCE:
            return "no interaction shown" if self.contrast.is_interaction else "no difference shown"
        return words[0] if self.interval.mean > 0 else words[1]

    @property
    def figure(self) -> str:
        """The ratio or the difference, with its interval."""
        if self.interval is None:
            return ""
        if self.measure.is_ratio:
            return str(as_ratio(self.interval))
        return self.interval.as_difference(self.measure.unit)

    @property
    def is_held_back(self) -> bool:
        """Whether its own interval leaves "no difference" out, and the correction for many comparisons does not."""
        if self.adjusted_p is None or self.interval is None or self.interval.p_value is None:
            return False
        return self.interval.p_value <= SIGNIFICANCE < self.adjusted_p

    @property
    def in_words(self) -> str:
        """`faster: 1.62x [1.55, 1.70]`, or why there is no verdict."""
        return next(words for say in WORDS if (words := say(self)) is not None)


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
    no_verdict = f"no verdict: {_counts(effect.absent)}"
    return f"{effect.figure}; {no_verdict}" if effect.figure else no_verdict


def too_few_repeats(effect: Effect) -> str | None:
    if not effect.measure.is_primary or effect.interval is None or effect.interval.count >= MIN_REPEATS:
        return None
    return f"{effect.figure}, no verdict with fewer than {MIN_REPEATS} repeats"


def judged(effect: Effect) -> str | None:
    if effect.verdict is None:
        return None
    corrected = " after Holm's correction" if effect.is_held_back else ""
    return f"{effect.verdict}{corrected}: {effect.figure}"


def figure_alone(effect: Effect) -> str:
    return effect.figure


WORDS: tuple[Callable[[Effect], str | None], ...] = (
    target_missed,
    runs_absent,
    too_few_repeats,
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
    """Every contrast of every measure that was captured; the verdicts of all primary ones are corrected together.

    `failed`: arm -> how many of its runs diverged, ran out of memory or broke. What is neither there nor has failed is
    missing.
    """
    failed = failed or {}
    known = {name for blocks in measured.values() for figures in blocks.values() for name in figures}
    measures = [measure for measure in MEASURES if measure.metric in known or measure is TIME_TO_ACCURACY]
    found = [_effect(contrast, measure, measured, repeats, failed) for contrast in contrasts for measure in measures]
    judged = [index for index, effect in enumerate(found) if effect.can_have_verdict]
    p_values = [interval.p_value for index in judged if (interval := found[index].interval) is not None]
    for index, adjusted in zip(judged, holm([1.0 if p is None else p for p in p_values]), strict=True):
        found[index] = replace(found[index], adjusted_p=adjusted)
    return found


def _effect(
    contrast: Contrast, measure: Measure, measured: Measured, repeats: int, failed: Mapping[str, int]
) -> Effect:
    runs = {arm: measured.get(arm, {}) for arm in contrast.weights}
    absent = {arm: repeats - len(blocks) for arm, blocks in runs.items() if len(blocks) < repeats}
    reached = _reached(runs, failed) if measure is TIME_TO_ACCURACY else {}
    interval = None if reached else _interval(contrast, measure, runs, repeats)
    return Effect(contrast, measure, interval, reached, absent)


def _reached(runs: Measured, failed: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Of each arm, how many of how many runs reached the target; empty where all did."""
    metric = TIME_TO_ACCURACY.metric
    hits = {arm: sum(metric in figures for figures in blocks.values()) for arm, blocks in runs.items()}
    counts = {arm: (hits[arm], len(blocks) + failed.get(arm, 0)) for arm, blocks in runs.items()}
    return counts if any(k < n for k, n in counts.values()) else {}


def _interval(contrast: Contrast, measure: Measure, runs: Measured, repeats: int) -> Interval | None:
    """Over the blocks in which every arm has the figure; None where there is none, or one that has no logarithm.

    What is paired is of one block, so that what disturbs a block cancels.
    """
    blocks = [block for block in range(repeats) if all(measure.metric in runs[arm].get(block, {}) for arm in runs)]
    sign = 1.0 if measure.is_speed else -1.0

    def value(arm: str, block: int) -> float:
        figure = measure.factor * runs[arm][block][measure.metric]
        return math.log(figure) if measure.is_ratio else figure

    try:
        values = [sign * sum(weight * value(arm, b) for arm, weight in contrast.weights.items()) for b in blocks]
    except ValueError:  # a ratio of nothing: no pictures per second, no memory
        return None
    return t_interval(values) if values else None
