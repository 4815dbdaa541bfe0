"""Of the rounds of a generation little is left but what the processes are worth: no spike, and no drift."""

import math

import numpy as np
import pytest

from accelmlf.ablation.rounds import FIRST_ROUNDS, MAX_ROUNDS, MIN_ROUNDS, Generation, Seconds, rounds_for

SECONDS: Seconds = np.array([0.010, 0.012, 0.008, 0.010])
"""Per picture, of four arms."""
NOISE = 0.02


def rounds_of(count: int = 20, *, noise: float = NOISE, seed: int = 0) -> Seconds:
    chance = np.random.default_rng(seed)
    found: Seconds = SECONDS * np.exp(noise * chance.normal(size=(count, len(SECONDS))))
    return found


def differences(seconds: Seconds) -> Seconds:
    """Of each arm's location against the first."""
    locations = Generation.of(seconds).locations
    found: Seconds = locations - locations[0]
    return found


TRUE = np.log(SECONDS) - math.log(SECONDS[0])


@pytest.mark.parametrize("count", [1, 5, 40])
def test_without_noise_the_locations_are_the_log_seconds(count: int) -> None:
    found = Generation.of(rounds_of(count, noise=0.0))
    assert found.locations - found.locations[0] == pytest.approx(TRUE)
    assert found.locations.mean() == pytest.approx(np.log(SECONDS).mean(), abs=0.1)
    assert found.round_variance == pytest.approx(0.0, abs=1e-20)


def test_noise_averages_out_over_rounds() -> None:
    errors = [np.abs(differences(rounds_of(40, seed=seed)) - TRUE).max() for seed in range(50)]
    few = [np.abs(differences(rounds_of(5, seed=seed)) - TRUE).max() for seed in range(50)]
    assert np.mean(errors) < 0.6 * np.mean(few) < NOISE


@pytest.mark.parametrize("spike", [1.5, 4.0, 100.0])
def test_a_spike_moves_no_arm_by_much_neither_its_own_nor_another(spike: float) -> None:
    for seed in range(20):
        seconds = rounds_of(seed=seed)
        hit = seconds.copy()
        hit[7, 1] *= spike
        moved = np.abs(differences(hit) - differences(seconds))
        plain = np.log(hit).mean(0) - np.log(seconds).mean(0)  # the control: means
        assert moved.max() < 0.75 * NOISE
        assert spike < 4 or plain[1] > 3 * NOISE


def test_a_spike_is_counted_as_drawn_in() -> None:
    seconds = rounds_of()
    hit = seconds.copy()
    hit[3] *= [1.0, 3.0, 1.0, 1.0]
    plain, spiked = (Generation.of(values).clipped for values in (seconds, hit))
    # A normal value is beyond 1.345 standard deviations in 18 %.
    assert 0.05 < plain < 0.35
    assert spiked != plain
    assert spiked * seconds.size == pytest.approx(round(spiked * seconds.size))


@pytest.mark.parametrize("rate", [0.01, -0.02])
def test_drift_from_round_to_round_cancels(rate: float) -> None:
    seconds = rounds_of()
    drifting = seconds * np.exp(rate * np.arange(len(seconds)))[:, None]
    assert differences(drifting) == pytest.approx(differences(seconds), abs=1e-12)
    torn = seconds.copy()  # the control: a drift that one arm alone has
    torn[:, 2] *= np.exp(rate * np.arange(len(seconds)))
    assert np.abs(differences(torn) - differences(seconds)).max() > 0.05


def test_a_drift_within_rounds_cancels_where_the_order_is_random() -> None:
    chance, count = np.random.default_rng(1), 40
    rate, found, in_order = 0.01, [], []
    for _ in range(60):
        places = np.array([chance.permutation(4) for _ in range(count)])
        found.append(differences(SECONDS * np.exp(rate * places)) - TRUE)
        in_order.append(differences(SECONDS * np.exp(rate * np.arange(4)) * np.ones((count, 1))) - TRUE)
    assert np.abs(np.mean(found, 0)).max() < 0.1 * rate
    assert np.mean(in_order, 0)[3] == pytest.approx(3 * rate)  # the control: always in the same order


@pytest.mark.parametrize("count", [5, 12, 40])
@pytest.mark.parametrize("noise", ["normal", "heavy-tailed"])
def test_the_variance_of_a_stretch_tells_how_far_apart_the_locations_of_generations_are(count: int, noise: str) -> None:
    chance, studies, told = np.random.default_rng(1), 400, []
    locations = []
    for _ in range(studies):
        draw = chance.normal(size=(count, 4)) if noise == "normal" else chance.standard_t(3, size=(count, 4))
        found = Generation.of(np.exp(NOISE * draw))
        locations.append(found.locations - found.locations.mean())
        told.append(found.round_variance / count)
    measured = float((np.array(locations) ** 2).sum() / (3 * studies))
    assert np.mean(told) == pytest.approx(measured, rel=0.2)


def test_a_wild_arm_leaves_the_locations_of_all_finite() -> None:
    wild = rounds_of(40)
    wild[:, 1] *= np.exp(np.random.default_rng(3).normal(size=40))
    calm = Generation.of(rounds_of(40)).round_variance
    assert math.sqrt(calm) == pytest.approx(NOISE, rel=0.3)
    assert math.sqrt(Generation.of(rounds_of(40, noise=0.1)).round_variance) > 3 * math.sqrt(calm)
    assert np.isfinite(Generation.of(wild).locations).all()


# --- what an arm leaves to the next ---

LEFT = 0.03


def after(left: float, *, rounds: int = 200) -> Seconds:
    """What the second of four arms, that makes the next stretch so much slower, is found to leave, and the others."""
    chance = np.random.default_rng(2)
    orders = np.array([chance.permutation(4) for _ in range(rounds)])
    arms = orders.ravel()
    logs = np.log(SECONDS)[arms] + 0.01 * chance.normal(size=arms.size)
    logs[1:] += left * (arms[:-1] == 1) * (arms[1:] != 1)
    seconds = np.empty((rounds, 4))
    np.put_along_axis(seconds, orders, np.exp(logs).reshape(rounds, 4), axis=1)
    found: Seconds = Generation.of(seconds).carried_over(np.argsort(orders, axis=1))
    return found


def test_what_an_arm_leaves_to_the_next_stretch_is_found_and_nothing_where_there_is_nothing() -> None:
    found, nothing = after(LEFT), after(0.0)
    assert found[1] == pytest.approx(LEFT, rel=0.15)
    assert np.abs(nothing).max() < LEFT / 10


def test_an_arm_after_which_nothing_came_has_left_nothing() -> None:
    found = Generation.of(rounds_of(1)).carried_over(np.array([[0, 1, 2, 3]]))
    assert np.isnan(found).tolist() == [False, False, False, True]


# --- how many rounds ---


@pytest.mark.parametrize(
    ("start_s", "round_s", "round_sd", "process_sd", "rounds"),
    [
        (50.0, 2.5, 0.04, 0.01, 18),  # sqrt(20 * 16) = 17.9
        (50.0, 2.5, 0.04, 0.02, 9),
        (100.0, 1.0, 0.03, 0.01, 30),
        (10.0, 5.0, 0.05, 0.01, 7),  # sqrt(2 * 25) = 7.07
        (50.0, 2.5, 0.01, 0.05, MIN_ROUNDS),
        (500.0, 0.5, 0.1, 0.001, MAX_ROUNDS),
        (50.0, 2.5, 0.04, 0.0, MAX_ROUNDS),
    ],
)
def test_the_number_of_rounds_follows_from_what_a_start_costs_and_where_the_noise_is(
    start_s: float, round_s: float, round_sd: float, process_sd: float, rounds: int
) -> None:
    assert rounds_for(start_s, round_s, round_sd**2, process_sd**2) == rounds
    assert MIN_ROUNDS <= FIRST_ROUNDS <= MAX_ROUNDS


def test_a_process_variance_that_comes_out_below_nothing_is_nothing() -> None:
    assert rounds_for(50.0, 2.5, 0.01, -1e-6) == MAX_ROUNDS


def test_no_other_number_of_rounds_makes_the_interval_narrower_in_the_same_time() -> None:
    start_s, round_s, of_round, of_process = 50.0, 2.5, 0.04**2, 0.01**2

    def variance_in_a_day(rounds: int) -> float:
        generations = 86_400 / (start_s + rounds * round_s)
        return (of_process + of_round / rounds) / generations

    best = rounds_for(start_s, round_s, of_round, of_process)
    assert best == min(range(MIN_ROUNDS, MAX_ROUNDS + 1), key=variance_in_a_day)


def test_locations_are_the_speeds_of_the_arms_however_many_are_alike() -> None:
    seconds = np.tile([1.2, 1.2, 1.2, 1.0, 1.0], (6, 1)) * np.exp(np.random.default_rng(1).normal(0, 1e-3, (6, 5)))
    assert np.exp(Generation.of(seconds).locations) == pytest.approx([1.2, 1.2, 1.2, 1.0, 1.0], rel=2e-3)
    assert np.exp(Generation.of(seconds[:, :1]).locations) == pytest.approx([1.2], rel=2e-3)
