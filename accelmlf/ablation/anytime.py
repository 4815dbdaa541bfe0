"""What rounds say while they go on: an interval that may be looked at after each of them.

Within one set of processes the order of a round is random, so the difference of two arms in it is distributed about
their true difference alike to both sides, whatever drifts, spikes or is correlated in time. That alone carries a
confidence sequence: a bound that holds at all rounds together (self-normalised sums: de la Pena, Lai and Shao 2009;
Howard, Ramdas, McAuliffe and Sekhon 2021, arXiv 1810.08240).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from accelmlf.ablation.rounds import MAD_TO_SD
from accelmlf.many_runs.comparison import CONFIDENCE

FIRST = 8
"""Rounds that only say how far off a round can be."""
CLIPPED_AT = 2.0
"""In standard deviations of the rounds before."""
TIGHTEST_AT = 20.0
"""In sums of squares, about as many rounds: where the sequence is made to be narrowest."""
FARTHEST = 3.0
"""Logarithm of the largest ratio that is told from larger ones."""


def anytime_interval(differences: Sequence[float], comparisons: int = 1) -> tuple[float, float] | None:
    """Of the difference that holds for these very processes, all `comparisons` at all rounds together (95 %).

    `differences`: of log seconds, a value per round, in their order. None before the first rounds have been.
    """
    values = np.array(differences, dtype=np.float64)
    if len(values) <= FIRST:
        return None
    scales = np.array([CLIPPED_AT * MAD_TO_SD * _mad(values[:end]) for end in range(FIRST, len(values))])
    level = 2 * math.log(comparisons / (1 - CONFIDENCE))
    mixture = TIGHTEST_AT / (level + math.log(1 + level))
    later, scales = values[FIRST:], np.maximum(scales, 1e-12)

    def is_kept(theta: float) -> bool:
        signs = np.clip((later - theta) / scales, -1, 1)
        squares = float((signs**2).sum()) + mixture
        return float(signs.sum()) ** 2 < squares * (math.log(squares / mixture) + level)

    middle = float(np.median(later))
    return _edge(is_kept, middle, -FARTHEST), _edge(is_kept, middle, FARTHEST)


def _edge(is_kept: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where a set of values ends between one in it and one that is not."""
    outside += inside
    for _ in range(40):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if is_kept(middle) else (inside, middle)
    return outside


def _mad(values: npt.NDArray[np.float64]) -> float:
    return float(np.median(np.abs(values - np.median(values))))
