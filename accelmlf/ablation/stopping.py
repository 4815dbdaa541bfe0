"""When a measurement in stretches ends: by the width of its intervals or its budget, never by what they say.

To stop where a difference shows would make differences of nothing. To stop on width keeps the intervals' word (Chow and
Robbins 1965; Nordin and Schultzberg 2024, arXiv 2405.03487).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from accelmlf.ablation.rounds import FIRST_ROUNDS, MAX_ROUNDS, MIN_ROUNDS, rounds_for

MIN_GENERATIONS = 4
"""With fewer the residual has too few degrees of freedom for its width to be believed."""
PLANNED_GENERATIONS = 6
"""That the budget should hold: with fewer, each has fewer rounds."""
PRECISION, BUDGET, FAILURES = "precision", "budget", "failures"


@dataclass(frozen=True)
class Limits:
    """When a measurement ends: at half a width of its widest interval, of a ratio, or after so many seconds."""

    precision: float
    budget_s: float
    least_generations: int = 1
    """There will be so many even when the budget is used up."""


@dataclass(frozen=True)
class Spent:
    """What one generation has cost: the start of its processes, and all its rounds."""

    start_s: float
    rounds_s: float
    num_rounds: int

    @property
    def total_s(self) -> float:
        return self.start_s + self.rounds_s

    @property
    def round_s(self) -> float:
        return self.rounds_s / self.num_rounds


def stop_reason(spent: Sequence[Spent], half_width: float | None, limits: Limits) -> str | None:
    """Why no further generation is needed, or None. `half_width`: of the widest interval, of a ratio."""
    if len(spent) >= MIN_GENERATIONS and half_width is not None and half_width <= limits.precision:
        return PRECISION
    needed_s = sum(generation.total_s for generation in (*spent, *spent[-1:]))
    return BUDGET if len(spent) >= limits.least_generations and needed_s > limits.budget_s else None


def time_left_s(spent: Sequence[Spent], half_width: float | None, limits: Limits) -> float:
    """How long it will take until no further generation is needed, as far as can be told: widths go with the root."""
    last_s, used_s = (spent[-1].total_s if spent else 0.0), sum(generation.total_s for generation in spent)
    wanted = float("inf") if half_width is None else len(spent) * (half_width / limits.precision) ** 2
    more = max(math.ceil(min(wanted, 1e6)), MIN_GENERATIONS) - len(spent)
    least_s = max(limits.least_generations - len(spent), 0) * last_s
    return min(max(more, 1) * last_s, max(limits.budget_s - used_s, least_s))


def rounds_of_next(
    start_s: float, round_s: float, spent: Sequence[Spent], variances: tuple[float, float] | None, budget_s: float
) -> int:
    """Rounds of a generation whose processes took `start_s` to start.

    `variances`: of a stretch within its round, and of a process, where they are known.
    """
    left = max(PLANNED_GENERATIONS - len(spent), 1)
    affordable = ((budget_s - sum(generation.total_s for generation in spent)) / left - start_s) / round_s
    best = FIRST_ROUNDS if variances is None else rounds_for(start_s, round_s, *variances)
    return max(min(best, MAX_ROUNDS, int(affordable)), MIN_ROUNDS)
