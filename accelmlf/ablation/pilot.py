"""Before an ablation in stretches is paid for: what it will cost, what it can see, and what each factor could win.

A short run of the first arm alone says how long a stretch takes, how noisy it is, and how fast the arm would be without
a part of its work.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from accelmlf.ablation.designs import Design
from accelmlf.ablation.factors import factor_of
from accelmlf.ablation.reasons import LOADING
from accelmlf.ablation.rounds import Generation
from accelmlf.ablation.stopping import MIN_GENERATIONS, Limits
from accelmlf.machine.presence import Presence, total_presence
from accelmlf.many_runs.comparison import MIN_REPEATS, SAME_WITHIN, t_quantile
from accelmlf.many_runs.pooled import simultaneous
from accelmlf.many_runs.warm_run import warm_run
from accelmlf.run.ceilings import DATA_THERE, FORWARD_ONLY, HALF_BATCH, NO_AUGMENTATION, NO_OPTIMIZER, VARIANTS, WHOLE
from accelmlf.settings.run import RunConfig
from accelmlf.text import counted

PILOT_ROUNDS = 6
TYPICAL_PROCESS_SD = 0.01
"""Of log speed between processes, until it is measured: what a first forecast stands on."""


@dataclass(frozen=True)
class Pilot:
    """What a short run of the first arm says."""

    start_s: float
    stretch_s: float
    """With its lead-in."""
    variance: float
    """Of log seconds of a stretch."""
    ceilings: Mapping[str, float]
    """Part of the work -> times as fast without it."""
    presence: Presence | None = None
    """What it got of the machine."""

    def ceiling_of(self, label: str, steps: int) -> float | None:
        """Times as fast that a factor could make it at most; None where nothing bounds it."""
        factor = factor_of(label)
        phases, left = set(factor.acts_on), factor.left_at_best(steps)
        if phases and phases <= LOADING:
            return max(self.ceilings[DATA_THERE], 1.0)
        if phases == {"optimizer"}:
            share = 1 - 1 / max(self.ceilings[NO_OPTIMIZER], 1.0)
            return 1 / (1 - share * (1 - left))
        return None

    def hopeless(self, labels: Sequence[str], steps: int) -> dict[str, float]:
        """Factors that could win no more than two speeds may differ that count as the same, and how much that is."""
        ceilings = {label: self.ceiling_of(label, steps) for label in labels}
        return {label: most for label, most in ceilings.items() if most is not None and most < 1 + SAME_WITHIN}


def look_ahead(config: RunConfig, weights: str) -> Pilot:
    """Run the pilot: some stretches of each variant in turn, in one process."""
    with warm_run(config, weights) as run:
        rounds = [{variant: run.stretch(variant) for variant in VARIANTS} for _ in range(PILOT_ROUNDS)]
        ready = run.ready
    seconds = np.array([[turn[v].train_s / turn[v].images for v in VARIANTS] for turn in rounds])
    found = Generation.of(seconds)
    at = dict(zip(VARIANTS, found.locations.tolist(), strict=True))
    # What is compared with the data there is compared with data there.
    base = dict.fromkeys(VARIANTS, WHOLE) | {NO_OPTIMIZER: DATA_THERE, HALF_BATCH: DATA_THERE, FORWARD_ONLY: DATA_THERE}
    ceilings = {variant: math.exp(at[base[variant]] - at[variant]) for variant in VARIANTS if variant != WHOLE}
    whole_s = statistics.median(turn[WHOLE].train_s for turn in rounds)
    stretch_s = whole_s * (1 + ready.lead_in / ready.steps)
    presence = total_presence([cost.presence for turn in rounds for cost in turn.values()])
    return Pilot(ready.setup_s + ready.warmup_s + stretch_s, stretch_s, found.round_variance, ceilings, presence)


@dataclass(frozen=True)
class Forecast:
    """What a measurement will cost and what it can see."""

    generations: int
    seconds: float
    half_width: float
    """Of the intervals of a ratio; infinite where one generation is all there can be."""


def forecast(
    design: Design,
    start_s: float,
    round_s: float,
    num_rounds: int,
    variances: tuple[float, float],
    limits: Limits,
) -> Forecast:
    """How many generations it takes until the intervals are narrow enough, or how many there can be.

    `variances`: of a stretch within its round, and of a process.
    """
    of_round, of_process = variances
    each_s = start_s + num_rounds * round_s
    squares = max(sum(weight**2 for weight in contrast.weights.values()) for contrast in design.contrasts)
    possible = max(int(limits.budget_s / each_s), limits.least_generations)
    generations = min(possible, 2)
    while True:
        generations = generations + 1 if generations < possible else possible
        degrees = (generations - 1) * (len(design.arms) - 1)
        error = math.sqrt((of_process + of_round / num_rounds) * squares / generations)
        half_width = t_quantile(simultaneous(len(design.contrasts)), degrees) * error if degrees else math.inf
        is_enough = generations >= MIN_GENERATIONS and half_width <= limits.precision
        if is_enough or generations >= possible:
            return Forecast(generations, generations * each_s, half_width)


def in_words(plan: Forecast) -> str:
    """`about 9 min; differences of 2 % or more`."""
    how_long = f"about {max(round(plan.seconds / 60), 1)} min ({counted(plan.generations, 'generation')})"
    if plan.generations < MIN_REPEATS:
        return f"{how_long}, where a verdict needs {MIN_REPEATS}: give a larger budget"
    return f"{how_long}; differences of {plan.half_width:.1%} or more"


def hopeless_in_words(hopeless: Mapping[str, float]) -> list[str]:
    return [f"{label} has next to nothing to win: at most {most:.2f}x" for label, most in hopeless.items()]


WITHOUT = {
    DATA_THERE: "with its data at hand",
    NO_AUGMENTATION: "without augmentation",
    NO_OPTIMIZER: "without the optimizer step",
    FORWARD_ONLY: "by the forward pass alone",
}


def ceilings_in_words(pilot: Pilot) -> str:
    """How fast an epoch would be without a part of its work."""
    parts = [f"{max(pilot.ceilings[name], 1.0):.2f}x {text}" for name, text in WITHOUT.items()]
    half = pilot.ceilings[HALF_BATCH]
    return f"times as fast: {', '.join(parts)}; {half:.2f}x in batches half as large"
