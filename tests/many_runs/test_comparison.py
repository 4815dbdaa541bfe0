"""Intervals and corrected p-values keep their word in simulated studies of known truth; the order of arms is fair."""

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable

import pytest

from accelmlf.many_runs.comparison import (
    CONFIDENCE,
    Interval,
    Ratio,
    as_ratio,
    block_orders,
    holm,
    paired_ratio,
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
    [([2.0, 8.0], [1.0, 1.0], 4.0), ([1.0, 1.0], [2.0, 8.0], 0.25), ([3.0, 3.0, 3.0], [1.0, 1.0, 1.0], 3.0)],
)
def test_the_mean_of_ratios_is_geometric_and_inside_its_interval(
    numerators: list[float], denominators: list[float], mean: float
) -> None:
    ratio = paired_ratio(numerators, denominators)
    assert ratio.value == pytest.approx(mean)
    assert ratio.pairs == len(numerators)
    assert ratio.low is not None and ratio.high is not None
    assert ratio.low <= ratio.value * (1 + 1e-12) and ratio.value <= ratio.high * (1 + 1e-12)


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
        (Ratio(1.004, None, None, 1), "1.00x"),
    ],
)
def test_a_ratio_is_written_with_its_interval_which_shows_on_which_side_of_one_it_is(ratio: Ratio, text: str) -> None:
    assert str(ratio) == text


@pytest.mark.parametrize(
    ("numerators", "denominators"), [([1.0, 2.0], [1.0]), ([], []), ([0.0], [1.0]), ([1.0], [0.0]), ([-1.0], [1.0])]
)
def test_what_has_no_ratio_is_refused(numerators: list[float], denominators: list[float]) -> None:
    with pytest.raises((ValueError, ZeroDivisionError)):
        paired_ratio(numerators, denominators)


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


def normal_values(count: int, chance: random.Random) -> list[float]:
    return [chance.gauss(0, 1) for _ in range(count)]


def test_the_interval_of_values_and_its_p_value_are_those_of_the_textbook() -> None:
    # Mean 1, standard error 1 / sqrt(3); Student's distribution with 2 degrees of freedom has a closed form.
    found = t_interval([0.0, 1.0, 2.0])
    t = math.sqrt(3)
    assert found.mean == pytest.approx(1)
    assert found.low == pytest.approx(1 - 4.302653 / math.sqrt(3), rel=1e-5)
    assert found.high == pytest.approx(1 + 4.302653 / math.sqrt(3), rel=1e-5)
    assert found.p_value == pytest.approx(1 - t / math.sqrt(2 + t**2))
    assert found.count == 3


def test_an_interval_leaves_nothing_out_exactly_where_its_p_value_is_small() -> None:
    chance, small = random.Random(3), 0
    for _ in range(500):
        found = t_interval([value + 0.8 for value in normal_values(5, chance)])
        assert found.p_value is not None and found.low is not None and found.high is not None
        assert (found.low > 0 or found.high < 0) == (found.p_value < 1 - CONFIDENCE)
        small += found.p_value < 1 - CONFIDENCE
    assert 50 < small < 450  # both kinds have been there


def test_a_p_value_of_nothing_is_as_often_below_a_number_as_that_number_says() -> None:
    chance = random.Random(4)
    p_values = [p for _ in range(STUDIES) if (p := t_interval(normal_values(4, chance)).p_value) is not None]
    assert len(p_values) == STUDIES
    for level in (0.05, 0.25, 0.5, 0.75):
        error = math.sqrt(level * (1 - level) / STUDIES)
        assert sum(p <= level for p in p_values) / STUDIES == pytest.approx(level, abs=4 * error)


def test_turning_values_round_turns_their_interval_round() -> None:
    values = [3.0, 5.0, 4.5, 2.0]
    one, other = t_interval(values), t_interval([-value for value in values])
    assert one.low is not None and one.high is not None
    assert (other.mean, other.low, other.high) == pytest.approx((-one.mean, -one.high, -one.low))
    assert other.p_value == pytest.approx(one.p_value)


def test_more_confidence_takes_a_wider_interval() -> None:
    values = [3.0, 5.0, 4.5]
    widths = []
    for confidence in (0.5, 0.9, 0.95, 0.99):
        found = t_interval(values, confidence=confidence)
        assert found.low is not None and found.high is not None
        widths.append(found.high - found.low)
    assert widths == sorted(set(widths))


def test_one_value_has_a_mean_and_nothing_else() -> None:
    assert t_interval([2.5]) == Interval(2.5, None, None, None, 1)
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])


@pytest.mark.parametrize(("value", "p_value"), [(0.0, 1.0), (0.25, 0.0), (-2.0, 0.0)])
def test_values_that_are_all_alike_are_sure(value: float, p_value: float) -> None:
    assert t_interval([value] * 4) == Interval(value, value, value, p_value, 4)


# --- the correction for many comparisons ---


def bonferroni(p_values: list[float]) -> list[float]:
    return [min(1.0, len(p_values) * p) for p in p_values]


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([1.0], [1.0]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # as R's p.adjust(method = "holm") has it
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.0, 0.5, 1.0], [0.0, 1.0, 1.0]),
    ],
)
def test_holms_correction_is_that_of_the_textbook(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


def test_an_adjusted_p_value_lies_between_the_raw_one_and_bonferronis_and_keeps_the_order() -> None:
    chance = random.Random(5)
    for _ in range(200):
        raw = [chance.random() ** 3 for _ in range(chance.randint(1, 8))]
        adjusted = holm(raw)
        strict = bonferroni(raw)
        assert all(p <= mine <= most for p, mine, most in zip(raw, adjusted, strict, strict=True))
        order = sorted(range(len(raw)), key=raw.__getitem__)
        assert [adjusted[index] for index in order] == sorted(adjusted)


def test_the_order_of_comparisons_does_not_matter() -> None:
    raw = [0.01, 0.04, 0.03, 0.005, 0.2]
    for seed in range(20):
        order = random.Random(seed).sample(range(len(raw)), len(raw))
        assert holm([raw[index] for index in order]) == [holm(raw)[index] for index in order]


def test_holms_correction_errs_in_five_of_a_hundred_studies_and_none_in_many_more() -> None:
    chance, studies, comparisons = random.Random(6), 20_000, 6
    wrong = {"Holm": 0, "Bonferroni": 0, "none": 0}
    for _ in range(studies):
        raw = [chance.random() for _ in range(comparisons)]
        for name, p_values in (("Holm", holm(raw)), ("Bonferroni", bonferroni(raw)), ("none", raw)):
            wrong[name] += min(p_values) <= 0.05
    # Independent comparisons: what is allowed is 1 - (1 - .05 / 6)^6 = 4.9 %, with a binomial error of .15 %.
    assert wrong["Holm"] / studies == pytest.approx(1 - (1 - 0.05 / comparisons) ** comparisons, abs=0.006)
    assert wrong["Holm"] == wrong["Bonferroni"]
    assert wrong["none"] / studies > 0.2


def test_holm_finds_what_bonferroni_lets_pass() -> None:
    raw = [0.01, 0.02, 0.03]
    assert sum(p <= 0.05 for p in holm(raw)) == 3
    assert sum(p <= 0.05 for p in bonferroni(raw)) == 1


def test_an_interval_of_logarithms_is_one_of_ratios() -> None:
    ratio = as_ratio(Interval(math.log(2), math.log(1.5), math.log(4), 0.01, 5))
    assert (ratio.value, ratio.low, ratio.high, ratio.pairs) == pytest.approx((2.0, 1.5, 4.0, 5))
    assert as_ratio(Interval(0.0, None, None, None, 1)) == Ratio(1.0, None, None, 1)
