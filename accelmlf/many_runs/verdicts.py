"""Verdicts on a speed-up in four words, read off the interval that is printed beside them."""

import math

from accelmlf.many_runs.comparison import MIN_REPEATS, SAME_WITHIN, Interval

FASTER, SLOWER, SAME, UNDECIDED = range(4)
SPEED_VERDICTS = ("faster", "slower", f"the same within {100 * SAME_WITHIN:g} %", "not decided yet")
"""In the order of FASTER, SLOWER, SAME and UNDECIDED."""


def supports_verdict(interval: Interval) -> bool:
    """Whether there is enough behind an interval for any of the four words: blocks, and a difference between them."""
    return interval.count >= MIN_REPEATS and interval.low is not None


def decided(interval: Interval) -> int:
    """What an interval of the logarithm of a speed-up shows; what is shown to be within 2 % is the same."""
    if interval.low is None or interval.high is None:
        return UNDECIDED
    margin = math.log1p(SAME_WITHIN)
    if -margin <= interval.low and interval.high <= margin:
        return SAME
    return FASTER if interval.low > 0 else SLOWER if interval.high < 0 else UNDECIDED
