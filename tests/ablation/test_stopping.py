"""A measurement in stretches ends by its width or its budget, and by nothing that it says."""

import inspect

import pytest

from accelmlf.ablation.rounds import FIRST_ROUNDS, MAX_ROUNDS, MIN_ROUNDS, rounds_for
from accelmlf.ablation.stopping import (
    BUDGET,
    MIN_GENERATIONS,
    PLANNED_GENERATIONS,
    PRECISION,
    Limits,
    Spent,
    rounds_of_next,
    stop_reason,
    time_left_s,
)

ONE = Spent(start_s=30.0, rounds_s=50.0, num_rounds=20)
WIDE, NARROW, EDGE = 0.0201, 0.0199, 0.02


def reason(generations: int, half_width: float | None, *, budget_s: float = 1e6) -> str | None:
    return stop_reason([ONE] * generations, half_width, Limits(0.02, budget_s))


def test_a_generation_is_what_its_start_and_its_rounds_have_taken() -> None:
    assert (ONE.total_s, ONE.round_s) == (80.0, 2.5)


@pytest.mark.parametrize(
    ("generations", "half_width", "expected"),
    [
        (MIN_GENERATIONS, NARROW, PRECISION),
        (MIN_GENERATIONS, EDGE, PRECISION),
        (MIN_GENERATIONS, WIDE, None),
        (MIN_GENERATIONS, None, None),
        (MIN_GENERATIONS - 1, NARROW, None),  # so few degrees of freedom that it may be narrow by chance
        (MIN_GENERATIONS + 5, NARROW, PRECISION),
        (0, None, None),
    ],
)
def test_it_ends_where_every_interval_is_narrow_enough_after_four_generations(
    generations: int, half_width: float | None, expected: str | None
) -> None:
    assert reason(generations, half_width) == expected


@pytest.mark.parametrize(
    ("generations", "budget_s", "expected"),
    [(0, 1.0, None), (1, 159.9, BUDGET), (1, 160.0, None), (3, 319.9, BUDGET), (3, 320.0, None), (9, 700.0, BUDGET)],
)
def test_no_generation_begins_that_would_not_end_within_the_budget(
    generations: int, budget_s: float, expected: str | None
) -> None:
    assert reason(generations, WIDE, budget_s=budget_s) == expected


def test_the_last_generation_says_how_long_the_next_one_takes() -> None:
    slow = Spent(200.0, 100.0, 5)
    for order, expected in (([ONE, slow], BUDGET), ([slow, ONE], None)):
        assert stop_reason(order, WIDE, Limits(0.02, 500.0)) == expected


def test_a_result_that_is_narrow_enough_is_said_to_be_so_though_the_budget_is_spent() -> None:
    assert reason(MIN_GENERATIONS, NARROW, budget_s=1.0) == PRECISION
    assert reason(MIN_GENERATIONS, WIDE, budget_s=1.0) == BUDGET  # the control


def test_what_the_intervals_say_is_no_reason_to_end() -> None:
    """It is not even told: neither where they lie nor whether they leave 1 out."""
    assert set(inspect.signature(stop_reason).parameters) == {"spent", "half_width", "limits"}


def test_where_generations_are_asked_for_they_are_made_though_the_budget_is_spent() -> None:
    for count in range(5):
        found = [stop_reason([ONE] * count, WIDE, Limits(0.02, 100.0, least)) for least in (1, 3)]
        assert found == [BUDGET if count >= 1 else None, BUDGET if count >= 3 else None]
    left_s = [time_left_s([ONE] * count, None, Limits(0.02, 100.0, 3)) for count in (1, 2, 3)]
    assert left_s == [160.0, 80.0, 0.0]
    assert time_left_s([ONE], None, Limits(0.02, 100.0)) == 20.0  # the control


# --- rounds ---


def test_the_first_generations_have_twenty_rounds_where_the_budget_holds_six_of_them() -> None:
    assert rounds_of_next(30.0, 2.5, [], None, 1e6) == FIRST_ROUNDS
    assert rounds_of_next(30.0, 2.5, [ONE] * 2, None, 1e6) == FIRST_ROUNDS


def test_later_ones_have_as_many_as_their_noise_asks_for() -> None:
    variances = (0.04**2, 0.01**2)
    assert rounds_of_next(50.0, 2.5, [ONE] * 3, variances, 1e6) == rounds_for(50.0, 2.5, *variances) == 18


@pytest.mark.parametrize("before", range(PLANNED_GENERATIONS))
def test_a_budget_that_is_short_leaves_each_generation_fewer_rounds_and_time_for_six_of_them(before: int) -> None:
    per_generation_s = 30.0 + 10.5 * 2.5
    spent = [Spent(30.0, 25.0, 10)] * before
    rounds = rounds_of_next(30.0, 2.5, spent, None, PLANNED_GENERATIONS * per_generation_s)
    assert 10 <= rounds <= 13
    total_s = sum(generation.total_s for generation in spent)
    total_s += (PLANNED_GENERATIONS - before) * (30.0 + rounds * 2.5)
    assert total_s <= PLANNED_GENERATIONS * per_generation_s


@pytest.mark.parametrize("before", [0, PLANNED_GENERATIONS, PLANNED_GENERATIONS + 5])
@pytest.mark.parametrize("budget_s", [1.0, 500.0, 1e6])
@pytest.mark.parametrize("variances", [None, (1.0, 1e-9), (1e-9, 1.0), (1.0, -1.0)])
def test_a_generation_has_some_rounds_and_not_too_many(
    before: int, budget_s: float, variances: tuple[float, float] | None
) -> None:
    assert MIN_ROUNDS <= rounds_of_next(30.0, 2.5, [ONE] * before, variances, budget_s) <= MAX_ROUNDS


@pytest.mark.parametrize(
    ("done", "half_width", "generations"),
    [(1, None, None), (4, 0.04, 12), (4, 0.021, 1), (2, 0.001, 2), (10, 0.03, 13), (10, 0.2, None)],
    ids=["one says nothing", "twice as wide is four times as many", "nearly", "at least four", "some", "the budget"],
)
def test_the_time_left_is_that_of_the_generations_that_halve_a_width_four_times(
    done: int, half_width: float | None, generations: int | None
) -> None:
    spent, budget_s = [Spent(10.0, 30.0, 10)] * done, 1_000.0
    left_s = time_left_s(spent, half_width, Limits(0.02, budget_s))
    assert left_s == (budget_s - 40.0 * done if generations is None else 40.0 * generations)
