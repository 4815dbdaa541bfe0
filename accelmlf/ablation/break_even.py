"""What a factor costs once, in set-up and warm-up, beside what it saves an epoch: after how many epochs it pays."""

import math
from dataclasses import dataclass

from accelmlf.ablation.designs import Contrast
from accelmlf.ablation.effects import Measured
from accelmlf.many_runs.comparison import t_interval
from accelmlf.text import short

NOTICEABLE_EPOCHS = 1.0
"""What pays within an epoch is not worth a word."""
ONCE, EPOCH = ("setup_s", "warmup_s"), ("mean_epoch_s",)


@dataclass(frozen=True)
class BreakEven:
    """What is paid once, in seconds, what is saved an epoch, and the epochs that a run has."""

    once_s: float
    saved_s: float
    num_epochs: int

    @property
    def epochs(self) -> int:
        """After so many it pays."""
        return math.ceil(self.once_s / self.saved_s)

    @property
    def pays(self) -> bool:
        """In this run."""
        return self.epochs <= self.num_epochs

    def __str__(self) -> str:
        """`costs 41.0 s once and saves 2.90 s an epoch: pays after 15 epochs, not in a run of 10`."""
        place = f"in this run of {self.num_epochs}" if self.pays else f"not in a run of {self.num_epochs}"
        costs = f"costs {self.once_s:.1f} s once and saves {short(self.saved_s)} s an epoch"
        return f"{costs}: pays after {self.epochs:,} epochs, {place}"


def break_even(contrast: Contrast, measured: Measured, num_epochs: int) -> BreakEven | None:
    """None where a factor saves no time, or costs nothing worth a word, or no more than starts differ by themselves.

    Of a factor that saves time: whether that is shown is for the verdict to say.
    """
    saved, once = differences(contrast, measured, EPOCH), differences(contrast, measured, ONCE)
    if contrast.is_interaction or not saved or not once:
        return None
    paid, saved_s = t_interval([-seconds for seconds in once]), t_interval(saved).mean
    is_noise = paid.low is not None and paid.low <= 0
    if saved_s <= 0 or is_noise or paid.mean <= NOTICEABLE_EPOCHS * saved_s:
        return None
    return BreakEven(paid.mean, saved_s, num_epochs)


def differences(contrast: Contrast, measured: Measured, metrics: tuple[str, ...]) -> list[float]:
    """Of each block that has them of every arm, the weighted sum of what some figures come to together."""
    of_arms = {
        arm: {
            block: sum(run[m] for m in metrics)
            for block, run in measured.get(arm, {}).items()
            if all(m in run for m in metrics)
        }
        for arm in contrast.weights
    }
    blocks = set.intersection(*(set(found) for found in of_arms.values()))
    return [sum(w * of_arms[arm][block] for arm, w in contrast.weights.items()) for block in sorted(blocks)]
