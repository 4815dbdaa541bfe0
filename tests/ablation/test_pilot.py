"""Before an ablation is paid for: what each factor could win at most, what it will cost, and what it can see."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from accelmlf.ablation.designs import DESIGNS, Design, make_design, with_twin
from accelmlf.ablation.factors import ACCUMULATION, SAME_EFFECTIVE_BATCH
from accelmlf.ablation.pilot import (
    PILOT_ROUNDS,
    Forecast,
    Pilot,
    ceilings_in_words,
    forecast,
    hopeless_in_words,
    in_words,
    look_ahead,
)
from accelmlf.ablation.reasons import LOADING
from accelmlf.ablation.settings import TUNED
from accelmlf.ablation.stopping import MIN_GENERATIONS, Limits
from accelmlf.many_runs.comparison import CONFIDENCE, SAME_WITHIN
from accelmlf.run.ceilings import DATA_THERE, FORWARD_ONLY, HALF_BATCH, NO_AUGMENTATION, NO_OPTIMIZER, VARIANTS, WHOLE
from accelmlf.settings.recipes import resolve
from accelmlf.techniques.catalogue import TECHNIQUES
from tests.ablation.plan_makers import GIVEN
from tests.many_runs.makers import serving

CEILINGS = {DATA_THERE: 1.3, NO_AUGMENTATION: 1.1, NO_OPTIMIZER: 1.25, HALF_BATCH: 0.8, FORWARD_ONLY: 3.0}
LOADERS = [word for word in TECHNIQUES if set(TECHNIQUES[word].acts_on) <= LOADING]
OTHERS = [word for word in TECHNIQUES if {"forward", "backward"} & set(TECHNIQUES[word].acts_on)]


def pilot_of(**ceilings: float) -> Pilot:
    return Pilot(10.0, 0.6, 1e-4, CEILINGS | {name.replace("_", " "): most for name, most in ceilings.items()})


# --- what each factor could win ---


@pytest.mark.parametrize("word", LOADERS)
def test_what_acts_on_loading_wins_at_most_what_an_epoch_is_faster_with_the_data_there(word: str) -> None:
    assert pilot_of().ceiling_of(word, 1) == 1.3
    assert pilot_of(data_there=1.01).ceiling_of(word, 1) == 1.01
    # Slower with the data there is noise: it cannot make anything slower.
    assert pilot_of(data_there=0.97).ceiling_of(word, 1) == 1.0


@pytest.mark.parametrize("no_optimizer", [1.0, 1.01, 1.25, 4.0])
def test_what_acts_on_the_optimizer_step_wins_at_most_an_epoch_without_it(no_optimizer: float) -> None:
    pilot = Pilot(10.0, 0.6, 1e-4, CEILINGS | {NO_OPTIMIZER: no_optimizer})
    assert pilot.ceiling_of("fused_optimizer", 1) == pytest.approx(no_optimizer)


@pytest.mark.parametrize("steps", [1, 2, 15])
def test_accumulation_wins_at_most_the_optimizer_steps_that_it_saves(steps: int) -> None:
    # A fifth of an epoch is the optimizer's; one step of so many is left.
    assert pilot_of().ceiling_of(ACCUMULATION, steps) == pytest.approx(1 / (1 - 0.2 * (1 - 1 / steps)))
    fused = pilot_of().ceiling_of("fused_optimizer", steps)
    assert fused == pytest.approx(1.25)  # the control: it may win the whole step


def test_an_epoch_that_is_slower_without_the_optimizer_step_is_noise() -> None:
    pilot = Pilot(10.0, 0.6, 1e-4, CEILINGS | {NO_OPTIMIZER: 0.95})
    assert pilot.ceiling_of("fused_optimizer", 1) == pilot.ceiling_of(ACCUMULATION, 8) == 1.0


@pytest.mark.parametrize("label", [*OTHERS, "amp:bf16", SAME_EFFECTIVE_BATCH, TUNED, "a technique of another version"])
def test_nothing_bounds_what_acts_on_the_passes_or_on_nothing_that_is_known(label: str) -> None:
    assert pilot_of().ceiling_of(label, 2) is None


def test_every_technique_is_bounded_by_something_or_by_nothing() -> None:
    assert {*LOADERS, "fused_optimizer", *OTHERS} == {*TECHNIQUES}


def test_hopeless_is_what_could_not_win_more_than_two_speeds_may_differ_that_are_the_same() -> None:
    labels = ("workers:2", "amp:bf16", ACCUMULATION, "fused_optimizer")
    below, above = 1 + SAME_WITHIN - 0.001, 1 + SAME_WITHIN + 0.001
    assert pilot_of().hopeless(labels, 2) == {}
    assert pilot_of(data_there=below).hopeless(labels, 2) == {"workers:2": below}
    assert pilot_of(data_there=above).hopeless(labels, 2) == {}
    # Of an optimizer step that is 3 % of an epoch, half is too little and the whole is not.
    some = Pilot(10.0, 0.6, 1e-4, CEILINGS | {NO_OPTIMIZER: 1.03})
    assert list(some.hopeless(labels, 2)) == [ACCUMULATION]
    assert list(Pilot(10.0, 0.6, 1e-4, CEILINGS | {NO_OPTIMIZER: 1.01}).hopeless(labels, 2)) == [
        ACCUMULATION,
        "fused_optimizer",
    ]


def test_what_is_hopeless_and_what_is_not_is_said_with_its_number() -> None:
    assert hopeless_in_words({"workers:2": 1.004}) == ["workers:2 has next to nothing to win: at most 1.00x"]
    assert ceilings_in_words(Pilot(10.0, 0.6, 1e-4, CEILINGS | {NO_AUGMENTATION: 0.98})) == (
        "times as fast: 1.30x with its data at hand, 1.00x without augmentation, 1.25x "
        "without the optimizer step, 3.00x by the forward pass alone; 0.80x in batches half as large"
    )


# --- what it will cost and what it can see ---

LIMITS = Limits(precision=0.02, budget_s=720.0)
FIVE = with_twin(make_design("one_at_a_time", ("amp:bf16", "channels_last", "workers:2")))


def ahead(
    of_round: float = 0.02, of_process: float = 0.01, design: Design = FIVE, num_rounds: int = 20, **limits: Any
) -> Forecast:
    """With the standard deviations of a stretch and of a process, in processes that take 20 s to start."""
    start_s, round_s = 20.0, 3.0
    return forecast(design, start_s, round_s, num_rounds, (of_round**2, of_process**2), replace(LIMITS, **limits))


def is_rising(values: Sequence[float]) -> bool:
    return all(before <= after for before, after in itertools.pairwise(values)) and values[0] < values[-1]


NOISES = [0.001, 0.003, 0.01, 0.03, 0.1]


@pytest.mark.parametrize("name", ["of_round", "of_process"])
def test_with_more_noise_it_sees_less_and_costs_no_less(name: str) -> None:
    with_noise: list[Mapping[str, Any]] = [{name: noise} for noise in NOISES]
    found = [ahead(**noise, precision=0.001) for noise in with_noise]  # the budget is used up
    assert is_rising([plan.half_width for plan in found])
    assert is_rising([ahead(**noise).generations for noise in with_noise])


def test_a_larger_budget_sees_more_until_it_is_enough() -> None:
    budgets = [60.0 * minutes for minutes in (6, 8, 12, 20, 40, 80)]
    found = [ahead(precision=0.001, budget_s=budget) for budget in budgets]
    assert is_rising([-plan.half_width for plan in found])
    assert is_rising([plan.generations for plan in found])
    enough = [ahead(precision=0.05, budget_s=budget) for budget in budgets]
    assert {plan.generations for plan in enough} == {MIN_GENERATIONS}  # the control: no more than it takes


@pytest.mark.parametrize("minutes", [0.5, 1.5, 3, 6, 12, 100])
@pytest.mark.parametrize("noise", [0.0001, 0.01, 0.2])
@pytest.mark.parametrize("num_rounds", [5, 40])
def test_there_are_never_more_generations_than_the_budget_holds(minutes: float, noise: float, num_rounds: int) -> None:
    budget_s = 60 * minutes
    plan = ahead(of_process=noise, budget_s=budget_s, num_rounds=num_rounds)
    each_s = 20.0 + 3.0 * num_rounds
    assert plan.seconds == pytest.approx(plan.generations * each_s)
    assert plan.seconds <= budget_s or plan.generations == 1  # without one there would be nothing
    assert plan.generations >= MIN_GENERATIONS or (plan.generations + 1) * each_s > budget_s
    # As many as are needed, and else as many as there can be.
    assert plan.half_width <= LIMITS.precision or (plan.generations + 1) * each_s > budget_s


def test_it_stops_with_the_first_generation_that_is_enough() -> None:
    plan = ahead(of_process=0.03, budget_s=1e5)
    assert MIN_GENERATIONS < plan.generations < 100
    assert plan.half_width <= LIMITS.precision
    shorter = ahead(of_process=0.03, precision=1e-9, budget_s=(plan.generations - 1) * 80.0)
    assert shorter.generations == plan.generations - 1 and shorter.half_width > LIMITS.precision


def test_the_half_width_is_that_of_an_interval_with_the_noise_of_both() -> None:
    from scipy.stats import t

    design = with_twin(make_design("alone", ("amp:bf16", "channels_last")))
    plan = ahead(0.02, 0.01, design, num_rounds=16, precision=1e-9, budget_s=5 * (20.0 + 48.0))
    assert plan.generations == 5
    # Two contrasts of four arms: against the mean of two baselines.
    quantile = t.ppf(1 - (1 - CONFIDENCE) / 2 / 2, 4 * 3)
    assert plan.half_width == pytest.approx(quantile * math.sqrt((0.01**2 + 0.02**2 / 16) * 1.5 / 5))


@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_has_a_forecast(name: str) -> None:
    factors = (TUNED,) if name == "preset" else ("amp:bf16", "channels_last")
    plan = ahead(design=with_twin(make_design(name, factors)))
    assert plan.generations >= MIN_GENERATIONS and 0 < plan.half_width < math.inf


def test_more_factors_are_harder_to_tell_apart() -> None:
    designs = [with_twin(make_design("alone", tuple(TECHNIQUES)[:count])) for count in (2, 4, 8)]
    found = [ahead(design=design, precision=1e-9, budget_s=80.0 * 10).half_width for design in designs]
    assert is_rising(found)  # their intervals hold together


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Forecast(6, 540.0, 0.0213), "about 9 min (6 generations); differences of 2.1% or more"),
        (Forecast(4, 20.0, 0.004), "about 1 min (4 generations); differences of 0.4% or more"),
        (Forecast(1, 90.0, math.inf), "about 2 min (1 generation), where a verdict needs 3: give a larger budget"),
    ],
)
def test_what_it_will_cost_and_what_it_can_see_in_words(plan: Forecast, words: str) -> None:
    assert in_words(plan) == words


def test_one_generation_tells_nothing() -> None:
    assert ahead(budget_s=1.0).half_width == math.inf
    assert ahead(budget_s=161.0).half_width < math.inf  # the control: two do


def test_generations_that_are_asked_for_are_in_the_forecast_of_a_budget_that_is_too_small() -> None:
    assert ahead(budget_s=1.0, least_generations=3).generations == 3
    assert ahead(budget_s=1.0).generations == 1  # the control


# --- a real one ---


@pytest.mark.slow
def test_a_pilot_of_a_real_run_finds_its_parts(store_uri: str) -> None:
    with serving(store_uri):
        pilot = look_ahead(resolve(GIVEN | {"epochs": 1}), "random")
    assert pilot.ceilings.keys() == VARIANTS.keys() - {WHOLE}
    assert pilot.start_s > pilot.stretch_s > 0 and pilot.variance >= 0
    # The way back takes longer than the way there, whatever else the machine has to do.
    assert pilot.ceilings[FORWARD_ONLY] > 1.3
    assert pilot.ceilings[FORWARD_ONLY] > pilot.ceilings[NO_OPTIMIZER] > 0.5
    assert PILOT_ROUNDS > 3  # a median of so many is moved by no single spike
