"""Time to accuracy from its parts: seconds per picture, which stretches measure, times the epochs to accuracy.

The epochs need no quiet machine, only seeds; the speed needs no seeds. What only moves data leaves every bit of what is
learned as it is on a CPU, and so the epochs, too.
"""

import math
from collections.abc import Mapping, Sequence

from accelmlf.ablation.designs import Arm, Contrast, Design
from accelmlf.ablation.effects import TIME_TO_ACCURACY, Effect
from accelmlf.ablation.factors import factor_of
from accelmlf.many_runs.comparison import MIN_REPEATS, as_ratio
from accelmlf.many_runs.pooled import Estimate, PooledTable, simultaneous
from accelmlf.text import counted

CROSSING, WHOLE_EPOCHS = "crossing_epochs", "epochs_to_accuracy"
"""Of a run: the second is what runs of the first versions have, too."""
EQUAL_WITHIN = 0.05
"""Epochs to accuracy that differ by no more are the same to whoever waits for them."""


def keeps_epochs(factors: Sequence[str], device: str) -> bool:
    """Whether the epochs to accuracy stay what they are without them, to the bit."""
    return device == "cpu" and all(factor_of(label).keeps_bits for label in factors)


def learning_alike(design: Design, device: str) -> dict[str, Arm]:
    """Arm -> the first arm that learns as it does, to the bit: whose epochs to accuracy are counted."""
    firsts: dict[tuple[str, ...], Arm] = {}
    found = {}
    for arm in design.arms:
        what_counts = tuple(label for label in arm.factors if not keeps_epochs([label], device))
        found[arm.name] = firsts.setdefault(what_counts, arm)
    return found


class EpochsToAccuracy:
    """Epochs to accuracy of the arms of a design, counted with several seeds.

    `figures`: arm -> number of the seed -> the final figures of its run.
    """

    def __init__(self, design: Design, device: str, figures: Mapping[str, Mapping[int, Mapping[str, float]]]) -> None:
        self.device, self.comparisons, self.figures = device, len(design.contrasts), figures
        self.like = learning_alike(design, device)

    def weights(self, contrast: Contrast) -> dict[str, float]:
        """Of the arms that were counted: those of all arms that learn as they do."""
        sums: dict[str, float] = {}
        for arm, weight in contrast.weights.items():
            name = self.like[arm].name
            sums[name] = sums.get(name, 0.0) + weight
        return {arm: weight for arm, weight in sums.items() if weight}

    def effect(self, contrast: Contrast, speed: Estimate) -> Effect | None:
        """Of a contrast on time to accuracy: speed and epochs together. None where no epochs were counted."""
        runs = {arm: self.figures.get(arm, {}) for arm in self.weights(contrast)}
        if not runs or not all(runs.values()):
            return None
        reached = {arm: (sum(WHOLE_EPOCHS in run for run in of.values()), len(of)) for arm, of in runs.items()}
        if any(hits < count for hits, count in reached.values()):
            return Effect(contrast, TIME_TO_ACCURACY, None, reached, {})
        together = speed + self.epochs(contrast)
        return Effect(contrast, TIME_TO_ACCURACY, together.interval(simultaneous(self.comparisons)), {}, {})

    def epochs(self, contrast: Contrast) -> Estimate:
        """Of the logarithm of their ratio, without over with, beside all arms that were counted with the same seeds."""
        weights = self.weights(contrast)
        seeds = set.intersection(*(set(self.figures[arm]) for arm in weights))
        beside = {
            arm: {seed: math.log(found.get(CROSSING, found[WHOLE_EPOCHS])) for seed, found in of.items()}
            for arm, of in self.figures.items()
            if arm in weights or (seeds <= of.keys() and all(WHOLE_EPOCHS in found for found in of.values()))
        }
        return PooledTable.of(beside).estimate(weights)

    def in_words(self, contrast: Contrast, speed: Effect, effect: Effect | None) -> str:
        """What is known of the time to accuracy. `effect`: on it, where epochs were counted."""
        # What differs in epochs cancels, of an interaction, too; in a screening it does so on average.
        if not self.weights(contrast) or keeps_epochs(contrast.factors, self.device):
            return f"the same epochs, to the bit, so {speed.in_words}"
        if speed.absent:
            return "no verdict without one on speed"
        if effect is None:
            return "epochs not counted (repeats=8 does)"
        if effect.interval is None or effect.interval.count < MIN_REPEATS:
            return effect.in_words
        ratio = as_ratio(self.epochs(contrast).interval(simultaneous(self.comparisons)))
        seeds = counted(ratio.pairs, "seed")
        if ratio.low and ratio.high and 1 / (1 + EQUAL_WITHIN) <= ratio.low <= ratio.high <= 1 + EQUAL_WITHIN:
            return f"at equal epochs (within {100 * EQUAL_WITHIN:g} %, {seeds}), so {speed.in_words}"
        return f"{effect.in_words}, of which {ratio} by epochs ({seeds})"
