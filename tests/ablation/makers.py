"""What tests of an ablation are made of: the final figures of runs whose truth is known."""

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from accelmlf.ablation.effects import SECONDS_PER_EPOCH, TIME_TO_ACCURACY
from accelmlf.measure.cost import PHASES, Cost
from accelmlf.measure.quality import Quality
from accelmlf.measure.records import RunSummary

Figures = dict[str, float]
Table = dict[str, dict[int, Figures]]
"""Arm -> block -> final figures: a `Measured` that a test may change."""
IMAGES = 1_000
SHARES = {"data_wait": 0.05, "transfer": 0.05, "augment": 0.05, "forward": 0.3, "backward": 0.4, "optimizer": 0.15}
BLOCK_NOISE = 0.5
"""Standard deviation of log seconds: what a block does to all its runs alike."""


def seconds_of(epoch_s: float = 10.0, shares: Mapping[str, float] = SHARES) -> dict[str, float]:
    """Seconds of each phase of an epoch."""
    return {phase: epoch_s * shares[phase] for phase in PHASES if phase in shares}


def figures_of(
    phases_s: Mapping[str, float] | None = None,
    *,
    other_s: float = 0.0,
    num_epochs: int = 10,
    epochs_to_accuracy: int | None = 5,
    accuracy: float = 0.9,
    **captured: Any,
) -> Figures:
    """What a run logs at its end, by the record that logs it; epochs are all alike.

    `captured`: of the costs what not every device has, such as `host_peak_mib=800.0, gpu_joules=5.0` (per epoch).
    None as `epochs_to_accuracy` is a miss of the target.
    """
    phases = dict(seconds_of() if phases_s is None else phases_s)
    epoch_s = sum(phases.values()) + other_s
    joules = captured.pop("gpu_joules", None)
    total = Cost(
        num_epochs * epoch_s,
        {phase: num_epochs * seconds for phase, seconds in phases.items()},
        num_epochs * IMAGES,
        gpu_joules=None if joules is None else num_epochs * joules,
        **{"host_peak_mib": 800.0, **captured},
    )
    time_s = None if epochs_to_accuracy is None else epochs_to_accuracy * epoch_s
    return RunSummary(
        outcome="target_not_reached" if time_s is None else "completed",
        target_accuracy=0.8,
        test=quality_of(accuracy),
        best_eval_accuracy=accuracy,
        time_to_accuracy_s=time_s,
        time_to_accuracy_wall_s=None if time_s is None else time_s + 3.0,
        epochs_to_accuracy=epochs_to_accuracy,
        crossing_epochs=epochs_to_accuracy,
        num_epochs=num_epochs,
        total=total,
        total_train_s=total.train_s,
        median_epoch_s=epoch_s,
        warmup_s=0.5,
        setup_s=1.0,
        tracking_s=0.1,
        test_s=0.2,
        wall_s=total.train_s + 3.0,
    ).as_metrics()


def quality_of(accuracy: float) -> Quality:
    """`accuracy` to three digits."""
    labels = np.zeros(IMAGES, dtype=np.int64)
    return Quality(1.0, labels, (np.arange(IMAGES) >= round(accuracy * IMAGES)).astype(np.int64), num_classes=2)


def measured_from(
    log_seconds: Mapping[str, float],
    repeats: int = 5,
    noise: float = 0.0,
    chance: random.Random | None = None,
    *,
    block_noise: float = BLOCK_NOISE,
    **figures: Any,
) -> Table:
    """Every run of every arm, from the logarithm of what an epoch of it truly takes.

    `noise` is the standard deviation of log seconds of a run. `figures`: as `figures_of` takes them.
    """
    chance = chance or random.Random(0)
    blocks = [chance.gauss(0, block_noise) for _ in range(repeats)]
    return {
        arm: {
            block: figures_of(seconds_of(math.exp(truth + disturbed + chance.gauss(0, noise))), **figures)
            for block, disturbed in enumerate(blocks)
        }
        for arm, truth in log_seconds.items()
    }


def study_of(log_seconds: Mapping[str, float], repeats: int, noise: float, chance: random.Random) -> Table:
    """The same with nothing but the two primary measures, each with noise of its own: for studies by the thousand."""
    blocks = [chance.gauss(0, BLOCK_NOISE) for _ in range(repeats)]
    return {
        arm: {
            block: {
                measure.metric: math.exp(truth + disturbed + chance.gauss(0, noise))
                for measure in (SECONDS_PER_EPOCH, TIME_TO_ACCURACY)
            }
            for block, disturbed in enumerate(blocks)
        }
        for arm, truth in log_seconds.items()
    }
