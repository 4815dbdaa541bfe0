"""An interval that is looked at again and again while rounds go on errs no more often than it may, over all looks."""

import functools
import math

import numpy as np
import pytest

from accelmlf.ablation.anytime import CLIPPED_AT, FARTHEST, FIRST, anytime_interval
from accelmlf.many_runs.comparison import CONFIDENCE, t_interval
from tests.ablation.noise import CALM, MACHINES, NOISY, rounds_of

ROUNDS, STUDIES = 200, 80
LOOKS = (*range(FIRST + 1, 50, 5), *range(50, ROUNDS + 1, 15))


def differences(machine: str, seed: int, rounds: int = ROUNDS) -> list[float]:
    """Of two arms of five that are alike, round by round."""
    log_seconds = rounds_of(MACHINES[machine], rounds, 5, np.random.default_rng(seed))
    values: list[float] = (log_seconds[:, 0] - log_seconds[:, 1]).tolist()
    return values


def limits(values: list[float], comparisons: int = 1) -> tuple[float, float]:
    found = anytime_interval(values, comparisons)
    assert found is not None
    return found


def plain(values: list[float]) -> tuple[float, float]:
    found = t_interval(values)
    assert found.low is not None and found.high is not None
    return found.low, found.high


@functools.cache
def ever_wrong(machine: str) -> tuple[float, float]:
    """In which share of studies an interval has left the truth out at any look: this one, and Student's."""
    wrong, wrong_plain = 0, 0
    for seed in range(STUDIES):
        values = differences(machine, seed)
        wrong += any(not low <= 0 <= high for low, high in (limits(values[:look]) for look in LOOKS))
        wrong_plain += any(not low <= 0 <= high for low, high in (plain(values[:look]) for look in LOOKS))
    return wrong / STUDIES, wrong_plain / STUDIES


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_two_arms_that_are_alike_are_ever_told_apart_in_at_most_five_of_a_hundred_measurements(machine: str) -> None:
    assert ever_wrong(machine)[0] <= 1 - CONFIDENCE


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_student_s_interval_looked_at_as_often_errs_far_more_often(machine: str) -> None:
    assert ever_wrong(machine)[1] > 3 * (1 - CONFIDENCE)


def test_a_true_difference_is_found_and_kept() -> None:
    values = [value + 0.3 for value in differences("noisy", 1)]
    low, high = limits(values)
    assert 0 < low < 0.3 < high < 0.4


def test_more_rounds_make_it_narrower_and_more_comparisons_wider() -> None:
    values = differences("calm", 2)
    widths = [high - low for low, high in (limits(values[:look]) for look in (20, 50, 200))]
    assert widths == sorted(widths, reverse=True)
    few, many = limits(values, 1), limits(values, 10)
    assert many[0] < few[0] < few[1] < many[1]


def test_before_the_first_rounds_have_been_there_is_none() -> None:
    values = differences("calm", 3)
    assert [anytime_interval(values[:count]) for count in (0, 1, FIRST)] == [None] * 3
    assert anytime_interval(values[: FIRST + 1]) is not None


def test_a_spike_weighs_no_more_than_it_may() -> None:
    values = differences("calm", 4, 60)
    spiked, wild = values.copy(), values.copy()
    spiked[40] += 0.5
    wild[40] += 500.0
    assert limits(wild) == pytest.approx(limits(spiked), abs=1e-3)  # the rounds after are measured by the median
    assert plain(wild)[1] > 10 > plain(spiked)[1]  # the control


def test_it_turns_with_the_difference() -> None:
    values = differences("noisy", 5, 80)
    low, high = limits(values)
    turned_low, turned_high = limits([-value for value in values])
    assert (turned_low, turned_high) == pytest.approx((-high, -low), abs=1e-4)


@pytest.mark.parametrize("values", [[0.1] * 30, [0.0] * 30])
def test_values_that_are_all_alike_are_no_error(values: list[float]) -> None:
    low, high = limits(values)
    assert low <= values[0] <= high or math.isclose(low, values[0], abs_tol=1e-9)
    assert high - low < 2 * FARTHEST


def test_the_machines_of_these_simulations_are_what_they_are_called() -> None:
    chance = np.random.default_rng(6)
    noisy, calm = (rounds_of(machine, 2_000, 4, chance) for machine in (NOISY, CALM))
    assert 5 * calm.std() < noisy.std()
    for values in (noisy, calm):
        assert ((values - values.mean()) ** 3).mean() > 0  # spikes are to one side
        assert values.mean(0) == pytest.approx(values.mean(), abs=0.02 * CLIPPED_AT)
