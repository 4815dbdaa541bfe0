"""No point is run twice: over a whole grid, over restarts, after failures, by any sampler."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from accelmlf.machine.processes import identity
from accelmlf.search.sampling import UnseenPoints, choose
from accelmlf.search.space import Point, SearchSpace
from accelmlf.search.study import distributions, open_study, sign, suggest
from accelmlf.search.trials import COME_AGAIN
from accelmlf.settings.technique_list import TechniqueList

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Heartbeat of storage"),
]

ROOT = Path(__file__).parents[2]
SAMPLERS = ("grid", "random", "tpe")
FACTS = {"model": "resnet50"}
SPACE = SearchSpace(
    batch_sizes=(8, 16, 32),
    accumulation_choices=(1, 4),
    learning_rates=None,
    technique_sets=(TechniqueList(), TechniqueList(("amp:bf16",))),
    max_effective_batch=100,
)
OWN: Point = {"batch_size": 16, "accumulation_steps": 1, "amp:bf16": False}
WITH_RATE = SearchSpace(
    batch_sizes=(8, 16),
    accumulation_choices=(1, 2),
    learning_rates=(6e-4, 0.015),
    technique_sets=(),
    max_effective_batch=100,
)
OWN_WITH_RATE: Point = {"batch_size": 16, "accumulation_steps": 1, "learning_rate": 0.00123457}
Ends = Callable[[optuna.Trial, Point], float]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def seconds_of(point: Point) -> float:
    """A time to accuracy with one best point, for TPE to find."""
    return 1.0 + float(point["batch_size"]) / 8 + abs(float(point["accumulation_steps"]) - 2)


def completes(trial: optuna.Trial, point: Point) -> float:
    return seconds_of(point)


def study_with(
    url: str, name: str, sampler: str, *, space: SearchSpace = SPACE, first: Point = OWN, seed: int = 0
) -> optuna.Study:
    study = open_study(url, name, FACTS)
    study.sampler = UnseenPoints(space, sampler, first, seed)
    return study


def run(study: optuna.Study, trials: int, ends: Ends = completes, space: SearchSpace = SPACE) -> list[Point]:
    """The points of so many trials."""
    points: list[Point] = []

    def objective(trial: optuna.Trial) -> float:
        sign(trial)
        points.append(suggest(trial, space))
        return ends(trial, points[-1])

    study.optimize(objective, n_trials=trials, catch=(KeyError,))
    return points


def in_order(points: list[Point]) -> list[str]:
    return sorted(json.dumps(point, sort_keys=True) for point in points)


# --- never twice ---


@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_a_whole_grid_is_run_and_no_point_twice(url: str, name: str, sampler: str) -> None:
    points = run(study_with(url, name, sampler), len(SPACE.grid))
    assert len(SPACE.grid) == 10  # 32 x 4 is over the limit
    assert in_order(points) == in_order(SPACE.grid)
    assert points[0] == OWN


def test_optunas_own_tpe_would_revisit_points_of_so_small_a_grid() -> None:
    study = optuna.create_study(sampler=TPESampler(multivariate=True, seed=0))
    points = run(study, len(SPACE.grid))
    assert max(Counter(in_order(points)).values()) > 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_that_is_opened_again_goes_on_with_new_points(url: str, name: str, sampler: str) -> None:
    points: list[Point] = []
    for trials in (1, 6, 3):
        points += run(study_with(url, name, sampler), trials)
    assert in_order(points) == in_order(SPACE.grid)


def test_a_sampler_of_optuna_with_the_same_seed_would_begin_anew(url: str, name: str) -> None:
    points: list[Point] = []
    for _ in range(2):
        study = open_study(url, name, FACTS)
        study.sampler = optuna.samplers.RandomSampler(seed=0)
        points += run(study, 3)
    assert points[:3] == points[3:]


PROCESS = """
import json, sys, warnings
warnings.simplefilter("ignore")
from tests.search.test_sampling import SPACE, run, study_with
url, name, sampler = sys.argv[1:]
print(json.dumps(run(study_with(url, name, sampler), 4)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_new_processes_with_the_same_seed_go_on_with_new_points(url: str, name: str, sampler: str) -> None:
    points: list[Point] = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        command = [sys.executable, "-c", PROCESS, url, name, sampler]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        points += json.loads(ended.stdout)
    points += run(study_with(url, name, sampler), len(SPACE.grid) - 8)
    assert in_order(points) == in_order(SPACE.grid)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_workers_that_take_turns_have_points_of_their_own(url: str, name: str, sampler: str) -> None:
    workers = [study_with(url, name, sampler, seed=0) for _ in range(2)]
    under_way = [suggest(workers[number % 2].ask(), SPACE) for number in range(6)]
    assert len(set(in_order(under_way))) == 6


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_a_space_that_is_exhausted_still_answers(url: str, name: str, sampler: str) -> None:
    space = SearchSpace(
        batch_sizes=(16, 32),
        accumulation_choices=(1,),
        learning_rates=None,
        technique_sets=(),
        max_effective_batch=100,
    )
    study = study_with(url, name, sampler, space=space)
    run(study, 2, space=space)
    (more,) = run(study, 1, space=space)  # another worker was faster; whoever asked sees that the point was taken
    assert more in space


@pytest.mark.parametrize(
    ("sampler", "outcome"),
    [
        *((sampler, COME_AGAIN[0]) for sampler in SAMPLERS),
        ("tpe", "out_of_memory"),
        *(("grid", outcome) for outcome in (*COME_AGAIN[1:], "diverged", "failed")),
    ],
)
def test_a_failed_point_comes_again_only_if_the_failure_was_not_its_own(
    url: str, name: str, sampler: str, outcome: str
) -> None:
    failing: list[Point] = []

    def ends(trial: optuna.Trial, point: Point) -> float:
        if trial.number in (0, 3):
            failing.append(point)
            trial.set_user_attr("outcome", outcome)
            raise KeyError(outcome)
        return seconds_of(point)

    study = study_with(url, name, sampler)
    again = 2 if outcome in COME_AGAIN else 0
    points = run(study, len(SPACE.grid) + again, ends)
    assert in_order(points) == in_order(SPACE.grid + failing[:again])
    assert failing[0] == OWN
    assert (points[1] == OWN) == bool(again)  # the recipe's own point is still the first to be known


def test_a_pruned_point_does_not_come_again(url: str, name: str) -> None:
    def ends(trial: optuna.Trial, point: Point) -> float:
        if trial.number % 2:
            trial.report(0.5, 1)
            trial.set_user_attr("outcome", "pruned")
            raise optuna.TrialPruned
        return seconds_of(point)

    study = study_with(url, name, "tpe")
    assert in_order(run(study, len(SPACE.grid), ends)) == in_order(SPACE.grid)
    assert Counter(trial.state for trial in study.trials) == {TrialState.COMPLETE: 5, TrialState.PRUNED: 5}


# --- which one ---


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_recipes_own_point_comes_first(url: str, name: str, sampler: str) -> None:
    for seed, own in enumerate((SPACE.grid[0], SPACE.grid[7], SPACE.grid[-1])):
        assert run(study_with(url, f"{name}-{seed}", sampler, first=own, seed=seed), 1) == [own]


@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_a_recipes_point_outside_the_space_is_not_run(url: str, name: str, sampler: str) -> None:
    outside: Point = {**OWN, "batch_size": 24}
    points = run(study_with(url, name, sampler, first=outside), 2)
    assert all(point in SPACE for point in points)


def test_a_grid_is_run_in_its_order(url: str, name: str) -> None:
    points = run(study_with(url, name, "grid"), len(SPACE.grid))
    assert points == [OWN, *(point for point in SPACE.grid if point != OWN)]


def test_chance_is_that_of_the_seed(url: str, name: str) -> None:
    orders = [run(study_with(url, f"{name}-{n}", "random", seed=seed), 5) for n, seed in enumerate((0, 0, 1))]
    assert orders[0] == orders[1] != orders[2]


def test_a_restart_does_not_change_what_chance_chooses(url: str, name: str) -> None:
    at_once = run(study_with(url, f"{name}-a", "random"), 6)
    in_parts = [run(study_with(url, f"{name}-b", "random"), 2) for _ in range(3)]
    assert [point for part in in_parts for point in part] == at_once


def test_tpe_looks_where_it_was_fast(url: str, name: str) -> None:
    """Of a larger grid, where the best half of the batch sizes is known after a while."""
    space = SearchSpace(
        batch_sizes=tuple(range(1, 21)),
        accumulation_choices=(1, 2, 4),
        learning_rates=None,
        technique_sets=(),
        max_effective_batch=1_000,
    )
    own: Point = {"batch_size": 20, "accumulation_steps": 4}
    means = {}
    for sampler in ("random", "tpe"):
        found = []
        for seed in range(2):
            study = study_with(url, f"{name}-{sampler}-{seed}", sampler, space=space, first=own, seed=seed)
            found += [seconds_of(point) for point in run(study, 13, space=space)[8:]]
        means[sampler] = sum(found) / len(found)
    assert means["tpe"] < means["random"]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_learning_rate_is_inside_its_range_and_has_three_digits(url: str, name: str, sampler: str) -> None:
    study = study_with(url, name, sampler, space=WITH_RATE, first=OWN_WITH_RATE)
    points = run(study, 11, space=WITH_RATE)
    assert points[0] == OWN_WITH_RATE  # the recipe's own is what it is
    rates = [float(point["learning_rate"]) for point in points[1:]]
    assert WITH_RATE.learning_rates is not None
    low, high = WITH_RATE.learning_rates
    assert all(low <= rate <= high for rate in rates)
    assert all(rate == float(f"{rate:.3g}") for rate in rates)
    assert len(set(rates)) > 8
    assert all(point in WITH_RATE for point in points)


@pytest.mark.parametrize(
    "sampler",
    ["random", "tpe"],
)
def test_no_learning_rate_of_three_digits_comes_twice(url: str, name: str, sampler: str) -> None:
    space = SearchSpace(
        batch_sizes=(16,),
        accumulation_choices=(1,),
        learning_rates=(6e-4, 0.015),
        technique_sets=(),
        max_effective_batch=100,
    )
    study = study_with(url, name, sampler, space=space, first=OWN_WITH_RATE)
    points = run(study, 50 if sampler == "random" else 12, space=space)
    assert max(Counter(in_order(points)).values()) == 1


def test_the_sampler_proposes_what_the_space_is(url: str, name: str) -> None:
    study = study_with(url, name, "tpe", space=WITH_RATE, first=OWN_WITH_RATE)
    run(study, 1, space=WITH_RATE)
    assert study.trials[0].distributions == distributions(WITH_RATE)
    assert set(distributions(WITH_RATE)) == set(WITH_RATE.names)


def test_a_second_try_has_the_point_of_the_first_whatever_the_sampler_proposes(url: str, name: str) -> None:
    study = study_with(url, name, "grid")
    waiting: dict[str, Any] = dict(SPACE.grid[8])
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.WAITING, params=waiting, distributions=distributions(SPACE), user_attrs={"owner": "x"}
        )
    )
    assert run(study, 2) == [waiting, OWN]
    assert study.trials[0].user_attrs["owner"] == identity()


# --- which sampler ---


@pytest.mark.parametrize(
    ("asked", "n_trials", "space", "chosen"),
    [
        ("auto", 10, SPACE, "grid"),
        ("auto", 11, SPACE, "grid"),
        ("auto", 9, SPACE, "tpe"),
        ("auto", 100_000, WITH_RATE, "tpe"),
        ("tpe", 100, SPACE, "tpe"),
        ("random", 100, SPACE, "random"),
        ("grid", 1, SPACE, "grid"),
    ],
)
def test_auto_is_the_grid_where_every_point_can_be_run(
    asked: str, n_trials: int, space: SearchSpace, chosen: str
) -> None:
    assert choose(asked, space, n_trials) == chosen


def test_the_sampler_leaves_the_random_generators_of_others_alone(url: str, name: str) -> None:
    random.seed(0)
    before = random.getstate()
    run(study_with(url, name, "tpe"), 7)
    assert random.getstate() == before
