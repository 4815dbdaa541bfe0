"""A verdict is read off an interval, and what has none is not decided."""

import math

import pytest

from accelmlf.many_runs.comparison import Interval
from accelmlf.many_runs.verdicts import SPEED_VERDICTS, decided


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.01, 1.5, "faster"),
        (0.5, 0.99, "slower"),
        (0.99, 1.03, "not decided yet"),
        (0.97, 1.01, "not decided yet"),
        (0.5, 2.0, "not decided yet"),
        (0.985, 1.015, "the same within 2 %"),
        (1.005, 1.015, "the same within 2 %"),
        (0.985, 0.995, "the same within 2 %"),
    ],
)
def test_a_verdict_is_read_off_the_limits(low: float, high: float, verdict: str) -> None:
    interval = Interval((math.log(low) + math.log(high)) / 2, math.log(low), math.log(high), 5)
    assert SPEED_VERDICTS[decided(interval)] == verdict


@pytest.mark.parametrize("mean", [0.0, 0.5, -0.5])
def test_without_limits_nothing_is_decided(mean: float) -> None:
    assert SPEED_VERDICTS[decided(Interval(mean, None, None, 1))] == "not decided yet"
