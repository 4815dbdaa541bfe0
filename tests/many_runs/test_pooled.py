"""What many arms say together keeps its word where they are alike, and an arm that is not is judged by itself."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from accelmlf.many_runs.comparison import CONFIDENCE, Interval, t_interval
from accelmlf.many_runs.pooled import PooledTable, simultaneous

ARMS = ("a", "b", "c", "d", "e", "f")
A_TO_B = {"a": 1.0, "b": -1.0}


def table(*rows: list[float], arms: tuple[str, ...] = ARMS) -> PooledTable:
    """A row per block."""
    return PooledTable(arms[: len(rows[0])], np.array(rows))


def limits(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None and interval.high is not None
    return interval.low, interval.high


# --- by hand ---

BY_HAND = table([1.0, 2.0, 6.0], [2.0, 5.0, 5.0], [6.0, 8.0, 10.0])
"""Block means 3, 4, 8; arm means 3, 5, 7; of all 5."""


def test_the_residual_is_what_neither_the_block_nor_the_arm_explains() -> None:
    assert BY_HAND.residuals.tolist() == [[0.0, -1.0, 1.0], [0.0, 1.0, -1.0], [0.0, 0.0, 0.0]]
    assert BY_HAND.variance == 4 / (2 * 2)


def test_the_interval_of_a_contrast_is_that_of_the_two_way_table() -> None:
    # b - a: 1, 3, 2, mean 2; error sqrt(1 * 2 / 3); Student's t of 4 degrees of freedom 2.776445.
    found = BY_HAND.interval({"b": 1.0, "a": -1.0})
    half = 2.776445 * math.sqrt(2 / 3)
    assert found.mean == pytest.approx(2.0) and found.count == 3
    assert limits(found) == pytest.approx((2 - half, 2 + half), rel=1e-5)


def test_the_error_of_a_contrast_follows_from_all_its_weights() -> None:
    # (a + b) / 2 - c: -4.5, -1.5, -3, mean -3; the squares of the weights are 1.5.
    found = BY_HAND.interval({"a": 0.5, "b": 0.5, "c": -1.0})
    half = 2.776445 * math.sqrt(1.5 / 3)
    assert found.mean == pytest.approx(-3.0)
    assert limits(found) == pytest.approx((-3 - half, -3 + half), rel=1e-5)


def test_two_arms_alone_have_the_paired_interval_of_the_textbook() -> None:
    one = table([1.0, 2.0], [2.0, 5.0], [6.0, 8.0], [3.0, 3.5])
    paired = t_interval([-1.0, -3.0, -2.0, -0.5])
    found = one.interval(A_TO_B)
    assert (found.mean, *limits(found)) == pytest.approx((paired.mean, *limits(paired)))


def test_what_a_block_does_to_all_its_arms_changes_nothing() -> None:
    moved = PooledTable(BY_HAND.arms, BY_HAND.values + np.array([[100.0], [-7.0], [0.5]]))
    assert limits(moved.interval(A_TO_B)) == pytest.approx(limits(BY_HAND.interval(A_TO_B)))
    torn = PooledTable(BY_HAND.arms, BY_HAND.values + np.array([[100.0, 0, 0], [-7.0, 0, 0], [0.5, 0, 0]]))
    assert limits(torn.interval(A_TO_B)) != pytest.approx(limits(BY_HAND.interval(A_TO_B)))  # the control


def test_turning_a_contrast_round_turns_its_interval_round() -> None:
    one, other = BY_HAND.interval(A_TO_B), BY_HAND.interval({"a": -1.0, "b": 1.0})
    assert (other.mean, *limits(other)) == pytest.approx((-one.mean, *(-limit for limit in limits(one)[::-1])))


# --- which blocks ---


def test_blocks_with_a_missing_arm_are_left_out() -> None:
    values = {"a": {1: 1.0, 2: 2.0, 4: 4.0}, "b": {4: 40.0, 2: 20.0, 3: 30.0}}
    found = PooledTable.of(values)
    assert (found.arms, found.values.tolist()) == (("a", "b"), [[2.0, 20.0], [4.0, 40.0]])
    whole = PooledTable.of({**values, "b": {**values["b"], 1: 10.0}})  # the control
    assert whole.values.tolist() == [[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]


@pytest.mark.parametrize("values", [{}, {"a": {}}, {"a": {1: 1.0}, "b": {2: 1.0}}])
def test_a_table_may_have_no_block(values: dict[str, dict[int, float]]) -> None:
    found = PooledTable.of(values)
    assert (found.num_blocks, found.values.shape) == (0, (0, len(values)))


@pytest.mark.parametrize("rows", [[[1.0, 2.0, 4.0]], [[1.0, 2.0, 4.0]] * 4], ids=["one block", "ties"])
def test_where_nothing_says_how_noisy_it_is_there_is_no_interval(rows: list[list[float]]) -> None:
    assert table(*rows).interval(A_TO_B) == Interval(-1.0, None, None, len(rows))


@pytest.mark.parametrize("level", [0.1, 1 / 3, 1e3])
def test_values_that_tie_but_for_rounding_have_no_interval_either(level: float) -> None:
    rows = [[block * level + arm * 0.1 for arm in range(4)] for block in range(5)]
    differences = [row[0] - row[1] for row in rows]
    assert level == 1 / 3 or len(set(differences)) > 1  # rounding is there
    found = table(*rows).interval(A_TO_B)
    assert (found.low, found.high) == (None, None)
    rows[0][0] += 1e-6  # the control
    assert table(*rows).interval(A_TO_B).low is not None


# --- simultaneous ---


@pytest.mark.parametrize(("comparisons", "each"), [(0, 0.95), (1, 0.95), (4, 0.9875), (5, 0.99)])
def test_the_error_is_shared_among_the_comparisons(comparisons: int, each: float) -> None:
    assert simultaneous(comparisons) == pytest.approx(each)


def values_of(chance: np.random.Generator, blocks: int, noise: list[float]) -> npt.NDArray[np.float64]:
    """Arms without any difference; what a block does to all of them is ten times their noise."""
    return chance.normal(size=(blocks, len(noise))) * noise + 10 * chance.normal(size=(blocks, 1))


def coverage(blocks: int, noise: list[float], studies: int, confidence: float) -> tuple[npt.NDArray[np.float64], float]:
    """In how many studies the interval of each arm against the first holds 0, and in how many all do."""
    chance, names = np.random.default_rng(blocks), ARMS[: len(noise)]
    held = np.zeros((studies, len(noise) - 1), dtype=bool)
    for study in range(studies):
        found = PooledTable(names, values_of(chance, blocks, noise))
        for index, arm in enumerate(names[1:]):
            low, high = limits(found.interval({names[0]: 1.0, arm: -1.0}, confidence=confidence))
            held[study, index] = low <= 0 <= high
    return held.mean(0), float(held.all(1).mean())


@pytest.mark.parametrize(("blocks", "arms"), [(4, 2), (4, 6), (6, 4), (8, 6)])
def test_all_intervals_hold_together_in_ninety_five_of_a_hundred_studies(blocks: int, arms: int) -> None:
    each, together = coverage(blocks, [0.01] * arms, 700, simultaneous(arms - 1))
    # 700 studies tell .95 to .0082; intervals that share an arm err together, so .95 to .97.
    assert 0.925 < together < 0.985
    assert each.mean() == pytest.approx(simultaneous(arms - 1), abs=0.02)


def test_intervals_that_hold_one_by_one_do_not_hold_together() -> None:
    each, together = coverage(6, [0.01] * 4, 700, CONFIDENCE)
    assert each.mean() == pytest.approx(CONFIDENCE, abs=0.02)
    assert together < 0.92


def test_pooling_makes_intervals_narrow_where_a_contrast_has_few_blocks_of_its_own() -> None:
    chance, ratios = np.random.default_rng(0), []
    for _ in range(200):
        found = PooledTable(ARMS, values_of(chance, 4, [0.01] * 6))
        low, high = limits(found.interval(A_TO_B, confidence=simultaneous(5)))
        own_low, own_high = limits(t_interval(found.contrast(A_TO_B).tolist(), confidence=simultaneous(5)))
        ratios.append((high - low) / (own_high - own_low))
    assert np.median(ratios) < 0.6


# --- an arm that is not like the others ---


def test_an_arm_that_is_much_noisier_gets_its_own_interval_and_the_others_are_pooled_without_it() -> None:
    values = values_of(np.random.default_rng(1), 8, [0.01] * 5 + [0.2])
    found = PooledTable(ARMS, values)
    assert found.uneven == {"f"}
    against = {"a": 1.0, "f": -1.0}
    assert limits(found.interval(against)) == pytest.approx(limits(t_interval(found.contrast(against).tolist())))
    without = PooledTable(ARMS[:5], values[:, :5])
    assert not without.uneven
    assert found.variance == pytest.approx(without.variance)
    assert limits(found.interval(A_TO_B)) == pytest.approx(limits(without.interval(A_TO_B)))


def test_an_arm_as_noisy_as_the_others_is_pooled_with_them() -> None:
    found = PooledTable(ARMS, values_of(np.random.default_rng(1), 8, [0.01] * 6))
    assert found.uneven == frozenset()
    against = {"a": 1.0, "f": -1.0}
    assert limits(found.interval(against)) != pytest.approx(limits(t_interval(found.contrast(against).tolist())))


def test_with_few_blocks_no_arm_is_set_apart_because_it_would_be_by_chance() -> None:
    noise = [0.01] * 5 + [0.2]
    few, enough = (PooledTable(ARMS, values_of(np.random.default_rng(1), blocks, noise)) for blocks in (3, 4))
    assert not few.uneven and enough.uneven == {"f"}


def test_a_noisy_arm_is_not_flattered_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = [0.01] * 5 + [0.1]
    each, _ = coverage(8, noise, 400, CONFIDENCE)
    assert each.min() > 0.92
    monkeypatch.setattr("accelmlf.many_runs.pooled.UNEVEN", math.inf)  # the control: pooled with them
    blind, _ = coverage(8, noise, 400, CONFIDENCE)
    assert blind[-1] < 0.85


def test_of_two_arms_nothing_says_which_one_is_noisy() -> None:
    values = values_of(np.random.default_rng(2), 8, [0.01, 0.5])
    assert PooledTable(ARMS[:2], values).uneven == frozenset()
