"""Intervals keep their word in simulated studies of known truth; the order of arms is fair."""

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from accelmlf.many_runs.comparison import (
    CONFIDENCE,
    Interval,
    Ratio,
    as_ratio,
    block_orders,
    t_interval,
)

STUDIES = 2_000
TRUE_RATIO = 1.3
BLOCK_NOISE, RUN_NOISE = 0.5, 0.04
"""Standard deviations of log seconds: what a block does to both arms of a pair, and what each run adds."""
Method = Callable[[list[float], list[float]], tuple[float, float]]


def simulated_pairs(pairs: int, chance: random.Random) -> tuple[list[float], list[float]]:
    """Seconds of a slow and of a fast arm, measured in the same blocks."""
    slow, fast = [], []
    for _ in range(pairs):
        block = 60 * math.exp(chance.gauss(0, BLOCK_NOISE))
        slow.append(block * TRUE_RATIO * math.exp(chance.gauss(0, RUN_NOISE)))
        fast.append(block * math.exp(chance.gauss(0, RUN_NOISE)))
    return slow, fast


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Geometric mean of numerator / denominator with the interval of what each pair says."""
    return as_ratio(t_interval([math.log(a / b) for a, b in zip(numerators, denominators, strict=True)]))


def own_interval(slow: list[float], fast: list[float]) -> tuple[float, float]:
    ratio = paired_ratio(slow, fast)
    assert ratio.low is not None and ratio.high is not None
    return ratio.low, ratio.high


def normal_interval(slow: list[float], fast: list[float]) -> tuple[float, float]:
    """The same with the normal distribution's 1.96, which knows nothing of how few pairs there are."""
    logs = [math.log(a / b) for a, b in zip(slow, fast, strict=True)]
    half = 1.96 * statistics.stdev(logs) / math.sqrt(len(logs))
    mean = statistics.fmean(logs)
    return math.exp(mean - half), math.exp(mean + half)


def bootstrap_interval(slow: list[float], fast: list[float]) -> tuple[float, float]:
    """The percentile bootstrap, which covers too little with so few pairs."""
    logs = [math.log(a / b) for a, b in zip(slow, fast, strict=True)]
    chance = random.Random(0)
    means = sorted(statistics.fmean(chance.choices(logs, k=len(logs))) for _ in range(100))
    return math.exp(means[2]), math.exp(means[97])


def unpaired_interval(slow: list[float], fast: list[float]) -> tuple[float, float]:
    """The same pairs, torn apart."""
    return own_interval(slow, fast[1:] + fast[:1])


def coverage(interval: Method, pairs: int, studies: int = STUDIES) -> float:
    """How many of the simulated studies have an interval that holds the true ratio."""
    chance = random.Random(pairs)
    intervals = (interval(*simulated_pairs(pairs, chance)) for _ in range(studies))
    return sum(low <= TRUE_RATIO <= high for low, high in intervals) / studies


@pytest.mark.parametrize("pairs", [3, 5, 7])
def test_ninety_five_of_a_hundred_intervals_hold_the_true_ratio(pairs: int) -> None:
    assert coverage(own_interval, pairs) == pytest.approx(CONFIDENCE, abs=0.02)


@pytest.mark.parametrize("pairs", [3, 5, 7])
@pytest.mark.parametrize("interval", [normal_interval, bootstrap_interval])
def test_an_interval_that_is_too_narrow_is_found_out(interval: Method, pairs: int) -> None:
    studies = STUDIES if interval is normal_interval else 400
    assert coverage(interval, pairs, studies) < CONFIDENCE - 0.02


def test_pairing_takes_out_what_a_block_does_to_both_arms() -> None:
    chance = random.Random(1)
    widths: dict[str, list[float]] = {"paired": [], "torn apart": []}
    for _ in range(200):
        measured = simulated_pairs(5, chance)
        for name, interval in (("paired", own_interval), ("torn apart", unpaired_interval)):
            low, high = interval(*measured)
            widths[name].append(math.log(high / low))
    assert statistics.median(widths["paired"]) < 0.2 * statistics.median(widths["torn apart"])


@pytest.mark.parametrize(
    ("numerators", "denominators", "mean"),
    [([2.0, 8.0], [1.0, 1.0], 4.0), ([1.0, 1.0], [2.0, 8.0], 0.25)],
)
def test_the_mean_of_ratios_is_geometric_and_inside_its_interval(
    numerators: list[float], denominators: list[float], mean: float
) -> None:
    ratio = paired_ratio(numerators, denominators)
    assert ratio.value == pytest.approx(mean)
    assert ratio.pairs == len(numerators)
    assert ratio.low is not None and ratio.high is not None
    assert ratio.low < ratio.value < ratio.high


def test_the_interval_is_that_of_the_textbook() -> None:
    # logs 0, 1, 2: mean 1, standard deviation 1, t of 2 degrees of freedom 4.302653
    ratio = paired_ratio([1.0, math.e, math.e**2], [1.0, 1.0, 1.0])
    assert ratio.low == pytest.approx(math.exp(1 - 4.302653 / math.sqrt(3)), rel=1e-5)
    assert ratio.high == pytest.approx(math.exp(1 + 4.302653 / math.sqrt(3)), rel=1e-5)


def test_turning_the_ratio_round_turns_its_interval_round() -> None:
    slow, fast = simulated_pairs(5, random.Random(2))
    one, other = paired_ratio(slow, fast), paired_ratio(fast, slow)
    assert one.low is not None and one.high is not None
    assert (other.value, other.low, other.high) == pytest.approx((1 / one.value, 1 / one.high, 1 / one.low))


def test_one_pair_has_a_ratio_and_no_interval() -> None:
    ratio = paired_ratio([2.0], [2.0])
    assert ratio == Ratio(1.0, None, None, 1)
    assert str(ratio) == "1.00x"
    assert "[" in str(paired_ratio([3.0, 3.1], [2.0, 2.0]))


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (Ratio(1.234, 1.1, 1.378, 3), "1.23x [1.10, 1.38]"),
        (Ratio(1.004, 1.002, 1.006, 3), "1.004x [1.002, 1.006]"),
        (Ratio(0.97, 0.94, 0.998, 3), "0.970x [0.940, 0.998]"),
        (Ratio(1.0004, 1.0002, 1.0006, 3), "1.0004x [1.0002, 1.0006]"),
        (Ratio(1.01, 0.98, 1.04, 3), "1.01x [0.98, 1.04]"),
        (Ratio(1.0, 0.979, 1.021, 3), "1.000x [0.979, 1.021]"),
        (Ratio(1.001, 0.986, 1.016, 3), "1.001x [0.986, 1.016]"),
        (Ratio(1.001, 0.989, 1.014, 3), "1.00x [0.99, 1.01]"),
        (Ratio(1.004, None, None, 1), "1.00x"),
    ],
)
def test_a_ratio_is_written_with_its_interval_which_shows_on_which_side_of_one_it_is(ratio: Ratio, text: str) -> None:
    assert str(ratio) == text


@pytest.mark.parametrize("arms", [["one"], ["one", "two"], ["one", "two", "three", "four"], ["same", "same"]])
@pytest.mark.parametrize("repeats", [0, 1, 5])
def test_every_block_runs_every_arm_once(arms: list[str], repeats: int) -> None:
    orders = block_orders(arms, repeats, seed=0)
    assert [Counter(order) for order in orders] == [Counter(arms)] * repeats


def test_the_order_of_blocks_is_that_of_the_seed() -> None:
    arms = range(4)
    assert block_orders(arms, 5, seed=3) == block_orders(arms, 5, seed=3)
    assert block_orders(arms, 5, seed=3) != block_orders(arms, 5, seed=4)


def test_more_repeats_do_not_change_the_blocks_before() -> None:
    assert block_orders(range(4), 7, seed=3)[:3] == block_orders(range(4), 3, seed=3)


@pytest.mark.parametrize("seed", range(5))
def test_the_blocks_of_a_comparison_do_not_share_one_order(seed: int) -> None:
    orders = block_orders(range(4), 5, seed)
    assert len({tuple(order) for order in orders}) >= 3


def test_no_place_in_a_block_belongs_to_an_arm() -> None:
    places = Counter(order.index("one") for order in block_orders(["one", "two", "three"], 3_000, seed=0))
    assert set(places) == {0, 1, 2}
    assert min(places.values()) > 900


def test_the_arms_themselves_are_left_in_their_order() -> None:
    arms = ["one", "two", "three"]
    block_orders(arms, 5, seed=0)
    assert arms == ["one", "two", "three"]


# --- the interval of plain values ---


def test_the_interval_of_values_is_that_of_the_textbook() -> None:
    # Mean 1, standard error 1 / sqrt(3), t of 2 degrees of freedom 4.302653.
    found = t_interval([0.0, 1.0, 2.0])
    assert found.mean == pytest.approx(1)
    assert found.low == pytest.approx(1 - 4.302653 / math.sqrt(3), rel=1e-5)
    assert found.high == pytest.approx(1 + 4.302653 / math.sqrt(3), rel=1e-5)
    assert found.count == 3


def test_turning_values_round_turns_their_interval_round() -> None:
    values = [3.0, 5.0, 4.5, 2.0]
    one, other = t_interval(values), t_interval([-value for value in values])
    assert one.low is not None and one.high is not None
    assert (other.mean, other.low, other.high) == pytest.approx((-one.mean, -one.high, -one.low))


def test_more_confidence_takes_a_wider_interval() -> None:
    values = [3.0, 5.0, 4.5]
    widths = []
    for confidence in (0.5, 0.9, 0.95, 0.99):
        found = t_interval(values, confidence=confidence)
        assert found.low is not None and found.high is not None
        widths.append(found.high - found.low)
    assert widths == sorted(set(widths))


def test_one_value_has_a_mean_and_nothing_else() -> None:
    assert t_interval([2.5]) == Interval(2.5, None, None, 1)
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])


@pytest.mark.parametrize("value", [0.0, 0.25, -2.0])
def test_that_values_tie_does_not_make_them_certain(value: float) -> None:
    assert t_interval([value] * 4) == Interval(value, None, None, 4)
    assert t_interval([*[value] * 3, value + 1e-3]).low is not None  # the control


def test_an_interval_of_logarithms_is_one_of_ratios() -> None:
    ratio = as_ratio(Interval(math.log(2), math.log(1.5), math.log(4), 5))
    assert (ratio.value, ratio.low, ratio.high, ratio.pairs) == pytest.approx((2.0, 1.5, 4.0, 5))
    assert as_ratio(Interval(0.0, None, None, 1)) == Ratio(1.0, None, None, 1)
