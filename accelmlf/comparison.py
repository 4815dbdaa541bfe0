"""Comparing arms fairly: in what order they run, and what their measurements say."""

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """A ratio of paired measurements, and the interval that holds the true one; None for less than two pairs."""

    value: float
    low: float | None
    high: float | None
    pairs: int

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f}x{interval}"


def paired_ratio(
    numerators: Sequence[float], denominators: Sequence[float], *, confidence: float = CONFIDENCE
) -> Ratio:
    """Geometric mean of numerator / denominator with its paired t interval on log ratios.

    Pairs belong together (one block, one seed), so that what disturbs both alike cancels. With 3 to 7 pairs a t
    interval keeps its word where a bootstrap's real coverage is .73 to .88.
    """
    logs = [math.log(a / b) for a, b in zip(numerators, denominators, strict=True)]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return Ratio(math.exp(mean), None, None, len(logs))
    from scipy.stats import t

    half = float(t.ppf((1 + confidence) / 2, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs))


def block_orders(arms: Sequence[T], repeats: int, seed: int) -> list[list[T]]:
    """For each block (one repeat of every arm) the order of the arms, random and the same for the same seed.

    Drift of the machine then hits all arms alike.
    """
    orders = []
    for block in range(repeats):
        chance = random.Random(f"{seed}/{block}")
        orders.append(chance.sample(list(arms), len(arms)))
    return orders
