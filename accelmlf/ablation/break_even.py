"""What a factor costs once, in set-up and warm-up, beside what it saves an epoch: after how many epochs it pays."""

import math
import statistics

from accelmlf.ablation.designs import Contrast
from accelmlf.ablation.effects import Measured
from accelmlf.text import short

NOTICEABLE_EPOCHS = 1.0
"""What pays within an epoch is not worth a word."""
ONCE = ("setup_s", "warmup_s")


def break_even(contrast: Contrast, measured: Measured, num_epochs: int) -> str | None:
    """`costs 41.0 s once and saves 2.90 s an epoch: pays after 15 epochs, not in a run of 10`.

    None where it saves none. Of a factor that saves time: whether that is shown is for the verdict to say.
    """
    if contrast.is_interaction:
        return None
    once_s = -_mean(contrast, measured, *ONCE)
    saved_s = _mean(contrast, measured, "mean_epoch_s")
    if not saved_s > 0 or not once_s > NOTICEABLE_EPOCHS * saved_s:
        return None
    epochs = math.ceil(once_s / saved_s)
    place = f"in this run of {num_epochs}" if epochs <= num_epochs else f"not in a run of {num_epochs}"
    return f"costs {once_s:.1f} s once and saves {short(saved_s)} s an epoch: pays after {epochs:,} epochs, {place}"


def _mean(contrast: Contrast, measured: Measured, *metrics: str) -> float:
    """The weighted sum over arms of what some figures come to together; not a number where an arm has none."""
    total = 0.0
    for arm, weight in contrast.weights.items():
        values = [
            sum(run[m] for m in metrics) for run in measured.get(arm, {}).values() if all(m in run for m in metrics)
        ]
        total += weight * (statistics.fmean(values) if values else math.nan)
    return total
