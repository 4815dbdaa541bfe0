"""What the rounds of one generation say: a location per arm that spikes do not move, and how noisy they were.

A round is one stretch of every arm, in random order; a generation is a set of processes, one per arm, and its rounds.
Source of the number of rounds: Kalibera and Jones 2013, Rigorous benchmarking in reasonable time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]
"""Seconds per picture [rounds, arms]."""

HUBER = 1.345
"""In standard deviations: what is farther off counts as if it were there. 95 % efficient where noise is normal."""
MAD_TO_SD = 1.4826
FIRST_ROUNDS, MIN_ROUNDS, MAX_ROUNDS = 20, 5, 40


@dataclass(frozen=True)
class Generation:
    """The rounds of one set of processes, reduced to what is compared."""

    locations: Seconds
    """log seconds per picture [arms]; their differences are those within rounds."""
    round_variance: float
    """Of one stretch's log seconds within its round: that of a location is as many times less as there are rounds."""
    clipped: float
    """Share of stretches that were so far off that they were drawn in."""
    residuals: Seconds
    """log seconds per picture [rounds, arms], without what the round and the arm explain."""

    @classmethod
    def of(cls, seconds: Seconds) -> "Generation":
        if not seconds.size:  # every arm has failed
            return cls(np.empty(0), 0.0, 0.0, seconds)
        logs = np.log(seconds)
        # Against the round's mean: against its median, arms that differ would be biased by spikes, which go one way.
        of_rounds = logs.mean(1, keepdims=True)
        level = float(np.median(of_rounds))
        relative = logs - (of_rounds if logs.shape[1] > 1 else level)
        found, clipped, variances = zip(*(_huber(column) for column in relative.T), strict=True)
        locations = np.array(found) + level
        arms = logs.shape[1]
        left = (arms - 1) / arms if arms > 1 else 1.0  # the round's mean has taken its part of each
        return cls(locations, float(np.mean(variances)) / left, float(np.mean(clipped)), relative - np.array(found))

    def carried_over(self, places: npt.NDArray[np.int64]) -> Seconds:
        """Of each arm [arms], how much slower, in logarithms, stretches were right after its own than after others'.

        `places`: of each stretch in its round [rounds, arms], from 0. Not a number where nothing came after it.
        """
        in_order = np.argsort(places, axis=1)
        trained, after = in_order.ravel(), np.take_along_axis(self.residuals, in_order, axis=1).ravel()
        # By chance an arm is the last of one round and the first of the next.
        is_other = trained[1:] != trained[:-1]
        before, after = trained[:-1][is_other], after[1:][is_other]
        count = places.shape[1]
        means = [
            [after[at].mean() if at.any() else math.nan for at in (before == arm, before != arm)]
            for arm in range(count)
        ]
        # The mean of its round has taken a part of each.
        found: Seconds = np.array(means) @ [1.0, -1.0] * count / (count - 1)
        return found


def _huber(values: Seconds) -> tuple[float, float, float]:
    """Huber's location of values, the share that it drew in, and the variance of the location times their count.

    Source of the variance: Huber 1981, Robust Statistics, section 6.7.
    """
    location = float(np.median(values))
    scale = MAD_TO_SD * float(np.median(np.abs(values - location)))
    if scale == 0.0:
        return float(np.mean(values)), 0.0, float(np.var(values))
    limit = HUBER * scale
    for _ in range(50):
        drawn_in = np.clip(values, location - limit, location + limit)
        moved = float(drawn_in.mean())
        if abs(moved - location) < 1e-9:
            break
        location = moved
    influences = np.clip(values - location, -limit, limit)
    clipped = float((np.abs(values - location) > limit).mean())
    return location, clipped, float((influences**2).sum()) / (len(values) - 1) / (1 - clipped) ** 2


def process_variance(between: float, of_stretch: float, rounds: Sequence[int]) -> float:
    """Of a process's own log speed: what is between generations that rounds do not explain; by chance below 0."""
    return between - of_stretch * float(np.mean([1 / number for number in rounds]))


def rounds_for(start_s: float, round_s: float, round_variance: float, process_variance: float) -> int:
    """How many rounds a generation should have, so that the interval is narrowest for the time it all takes.

    `start_s`: what it costs to start and warm up its processes. `process_variance`: of a process's own log speed.
    """
    if process_variance <= 0.0:
        return MAX_ROUNDS
    best = math.sqrt(start_s / round_s * round_variance / process_variance)
    return min(max(round(best), MIN_ROUNDS), MAX_ROUNDS)
