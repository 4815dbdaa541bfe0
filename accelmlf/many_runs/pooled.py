"""What many arms of many blocks say together: a two-way table whose residual is pooled, and simultaneous intervals.

A contrast that estimates its own variance from three or four blocks has a t quantile that hides all but the largest
effects; the arms of an interleaved block share their noise, so its variance is estimated from all of them.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from accelmlf.many_runs.comparison import CONFIDENCE, Interval, t_quantile

UNEVEN = 4.0
"""An arm whose variance is so many times that of the others is not pooled with them."""
DECIMALS = 10
"""What is smaller is rounding: values that tie have no noise, not a very small one."""
MIN_BLOCKS = 4
"""With fewer an arm that looks uneven is so by chance too often."""


@dataclass(frozen=True)
class Estimate:
    """A mean, its variance, and the degrees of freedom that this was estimated with."""

    mean: float
    variance: float
    degrees: float
    count: int

    def __add__(self, other: "Estimate") -> "Estimate":
        """The sum of two that have nothing to do with one another (Satterthwaite 1946, Welch 1947)."""
        count = min(self.count, other.count)
        if not (self.variance and other.variance):  # nothing says how far off a part may be
            return Estimate(self.mean + other.mean, 0.0, 0.0, count)
        variance = self.variance + other.variance
        parts = sum(part.variance**2 / max(part.degrees, 1) for part in (self, other))
        return Estimate(self.mean + other.mean, variance, variance**2 / parts, count)

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Student's; without limits where nothing says how noisy it is."""
        if self.degrees < 1 or not self.variance:
            return Interval(self.mean, None, None, self.count)
        half = t_quantile(confidence, self.degrees) * math.sqrt(self.variance)
        return Interval(self.mean, self.mean - half, self.mean + half, self.count)


@dataclass(frozen=True)
class PooledTable:
    """Values [blocks, arms], such as log seconds, of blocks in which every arm was measured."""

    arms: tuple[str, ...]
    values: npt.NDArray[np.float64]

    @classmethod
    def of(cls, values: Mapping[str, Mapping[int, float]]) -> "PooledTable":
        """From arm -> block -> value; a block in which an arm is missing is left out."""
        blocks = sorted(set.intersection(*(set(of_arm) for of_arm in values.values()))) if values else []
        table = [[values[arm][block] for arm in values] for block in blocks]
        return cls(tuple(values), np.array(table, dtype=np.float64).reshape(len(blocks), len(values)))

    @property
    def num_blocks(self) -> int:
        return len(self.values)

    @functools.cached_property
    def residuals(self) -> npt.NDArray[np.float64]:
        """What neither the block nor the arm explains [blocks, arms]."""
        table = self.values
        explained = table.mean(0, keepdims=True) + table.mean(1, keepdims=True) - table.mean()
        rest: npt.NDArray[np.float64] = (table - explained).round(DECIMALS)
        return rest

    @functools.cached_property
    def uneven(self) -> frozenset[str]:
        """Arms that are much noisier than the others: to pool these with them would flatter them."""
        # Of two arms both residuals are the same.
        if len(self.arms) < 3 or self.num_blocks < MIN_BLOCKS:
            return frozenset()
        squares = (self.residuals**2).sum(0)
        others = (squares.sum() - squares) / (len(self.arms) - 1)
        return frozenset(arm for arm, noisy in zip(self.arms, squares > UNEVEN * others, strict=True) if noisy)

    def contrast(self, weights: Mapping[str, float]) -> npt.NDArray[np.float64]:
        """The weighted sum over arms [blocks]."""
        sums: npt.NDArray[np.float64] = self.values @ np.array([weights.get(arm, 0.0) for arm in self.arms])
        return sums.round(DECIMALS)

    def interval(self, weights: Mapping[str, float], *, confidence: float = CONFIDENCE) -> Interval:
        """Of the mean of a contrast whose arms are all in the table.

        No limits where nothing says how noisy it is: less than two blocks, or values that all tie.
        """
        return self.estimate(weights).interval(confidence)

    def estimate(self, weights: Mapping[str, float]) -> Estimate:
        """The mean of a contrast whose arms are all in the table, and how far off it may be.

        By the residual of the arms that are alike; by the contrast's own values where it has an uneven arm.
        """
        sums = self.contrast(weights)
        is_own = self.uneven & {arm for arm, weight in weights.items() if weight}
        degrees = (self.num_blocks - 1) * (len(self.arms) - len(self.uneven) - 1)
        if is_own or degrees < 2:
            return self.alone(weights)
        variance = self.variance * sum(weight**2 for weight in weights.values())
        return Estimate(float(sums.mean()), variance / self.num_blocks, degrees, self.num_blocks)

    def alone(self, weights: Mapping[str, float]) -> Estimate:
        """As `estimate`, by the contrast's own values and nothing else."""
        sums = self.contrast(weights)
        variance = float(sums.var(ddof=1)) / self.num_blocks if self.num_blocks > 1 else 0.0
        return Estimate(float(sums.mean()), variance, self.num_blocks - 1, self.num_blocks)

    @functools.cached_property
    def variance(self) -> float:
        """Of a value within its block, pooled over the arms that are alike; needs two blocks and two such arms."""
        alike = [index for index, arm in enumerate(self.arms) if arm not in self.uneven]
        rest = replace(self, arms=tuple(self.arms[index] for index in alike), values=self.values[:, alike]).residuals
        return float((rest**2).sum()) / ((len(rest) - 1) * (len(alike) - 1))


def simultaneous(comparisons: int) -> float:
    """The confidence of each of so many intervals with which all of them hold in 95 % of all studies (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / max(comparisons, 1)
