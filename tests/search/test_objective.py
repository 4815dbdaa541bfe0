"""What a trial is worth, when it is stopped, that no winner ever is, and what it leaves of a failure."""

import itertools
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import optuna
import pytest
from optuna.trial import TrialState

from accelmlf.errors import (
    AccelmlfError,
    ConfigError,
    DataError,
    DiskError,
    DivergedError,
    Interrupted,
    MemoryExhaustedError,
    ProcessKilledError,
    StudyError,
    TrackingError,
)
from accelmlf.measure.clock import HostClock
from accelmlf.measure.records import EpochMetrics, RunSummary
from accelmlf.run.clock import RunClock
from accelmlf.search.objective import Objective
from accelmlf.search.one_trial import Ended, TrialFailedError, run_one_trial
from accelmlf.search.sampling import UnseenPoints
from accelmlf.search.space import Point
from accelmlf.search.study import TARGET_CONSTRAINT, best_time_s, chosen_point, open_study, records, seen_points
from accelmlf.settings.run import RunConfig
from tests.search.makers import EPOCHS, GOAL, add_trial, make_epoch, make_objective

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Heartbeat of storage"),
    pytest.mark.usefixtures("store"),
]

FACTS = {"model": "vit"}
SPENT = -math.inf
"""A deadline that has passed."""
names = (f"objective-{number}" for number in itertools.count())


@pytest.fixture
def study(url: str) -> optuna.Study:
    """One whose trials have different points, as those of a search do."""
    made = open_study(url, next(names), FACTS)
    plan = make_objective(made).plan
    made.sampler = UnseenPoints(plan.space, "grid", plan.space.point_of(plan.base), seed=0)
    return made


# --- when a trial is stopped ---


@dataclass(frozen=True)
class Case:
    accuracy: float = 0.5
    epoch: int = 5
    elapsed_s: float = 30.0
    best_s: float | None = 20.0
    budget_is_spent: bool = False


PAST_THE_BEST = Case()


@pytest.mark.parametrize(
    ("case", "expected", "control", "otherwise"),
    [
        (Case(accuracy=0.95), None, Case(accuracy=0.899), "pruned"),
        (Case(accuracy=GOAL), None, Case(accuracy=0.899), "pruned"),
        (Case(epoch=EPOCHS), None, Case(epoch=EPOCHS - 1), "pruned"),
        (Case(elapsed_s=20.0), "pruned", Case(elapsed_s=19.999), None),
        (PAST_THE_BEST, "pruned", Case(best_s=31.0), None),
        (Case(best_s=None), None, PAST_THE_BEST, "pruned"),
        (Case(best_s=None, budget_is_spent=True), "interrupted", Case(best_s=None), None),
        (Case(budget_is_spent=True), "interrupted", PAST_THE_BEST, "pruned"),
        (Case(budget_is_spent=True, accuracy=GOAL), None, Case(budget_is_spent=True), "interrupted"),
        (Case(budget_is_spent=True, epoch=EPOCHS), None, Case(budget_is_spent=True), "interrupted"),
    ],
    ids=[
        "the target is reached in the same epoch",
        "the target is reached exactly",
        "it was the last epoch",
        "an exact tie with the best",
        "past the best",
        "no best yet",
        "the budget is spent",
        "the budget is spent, past the best",
        "the budget is spent, at the target",
        "the budget is spent, in the last epoch",
    ],
)
def test_a_trial_is_stopped_only_where_it_can_no_longer_win_or_has_no_time_left(
    url: str, case: Case, expected: str | None, control: Case, otherwise: str | None
) -> None:
    def reason(of: Case) -> str | None:
        deadline_s = time.monotonic() + (0 if of.budget_is_spent else 1_000)
        objective = make_objective(open_study(url, next(names), FACTS), deadline_s=deadline_s)
        if of.best_s is not None:
            add_trial(objective.study, objective.plan.space, TrialState.COMPLETE, of.best_s + 1, outcome="completed")
            add_trial(objective.study, objective.plan.space, TrialState.COMPLETE, of.best_s, outcome="completed")
        return objective.reason_to_stop(make_epoch(of.epoch, of.accuracy, of.elapsed_s), objective.plan.config_of(None))

    assert reason(case) == expected
    assert reason(control) == otherwise != expected


@pytest.mark.parametrize(
    ("state", "seconds", "outcome", "expected"),
    [
        (TrialState.COMPLETE, 1.0, "target_not_reached", None),
        (TrialState.PRUNED, None, "pruned", None),
        (TrialState.FAIL, None, "out_of_memory", None),
        (TrialState.COMPLETE, 1.0, "completed", "pruned"),
    ],
    ids=["a miss", "a pruned one", "a failure", "the control: a success"],
)
def test_nothing_is_pruned_by_a_trial_that_did_not_reach_the_target(
    study: optuna.Study, state: TrialState, seconds: float | None, outcome: str, expected: str | None
) -> None:
    objective = make_objective(study)
    add_trial(study, objective.plan.space, state, seconds, outcome=outcome)
    assert objective.reason_to_stop(make_epoch(5, 0.5, 30.0), objective.plan.config_of(None)) == expected


# --- that no winner ever is ---

Table = list[list[tuple[float, float]]]
"""Of each trial its epochs: accuracy, and seconds of training (whole numbers, so that sums and ties are exact)."""
Rule = Callable[[Objective, EpochMetrics, RunConfig], str | None]


def random_table(chance: random.Random) -> Table:
    def one() -> list[tuple[float, float]]:
        steepness, seconds = chance.uniform(0.5, 2.5), chance.randint(1, 6)
        return [
            (round(min(1.0, steepness * epoch / EPOCHS * chance.uniform(0.7, 1.1)), 3), seconds + chance.randint(0, 2))
            for epoch in range(1, EPOCHS + 1)
        ]

    return [one() for _ in range(chance.randint(2, 7))]


def time_to_target(epochs: list[tuple[float, float]]) -> float | None:
    """Without any pruning."""
    elapsed_s = 0.0
    for accuracy, seconds in epochs:
        elapsed_s += seconds
        if accuracy >= GOAL:
            return elapsed_s
    return None


def replay(table: Table, order: list[int], rule: Rule) -> tuple[dict[int, str], float | None]:
    """The outcome of each trial when they are run in this order, and the best time of the study then."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    objective = make_objective(optuna.create_study(direction="minimize"))
    config, outcomes = objective.plan.config_of(None), {}
    for number in order:
        elapsed_s, reached, reason = 0.0, False, None
        for epoch, (accuracy, seconds) in enumerate(table[number], start=1):
            elapsed_s += seconds
            reached = accuracy >= GOAL
            reason = rule(objective, make_epoch(epoch, accuracy, elapsed_s), config)
            if reached or reason:
                break
        outcomes[number] = reason or ("completed" if reached else "target_not_reached")
        state, value = (TrialState.PRUNED, None) if reason else (TrialState.COMPLETE, elapsed_s)
        add_trial(objective.study, objective.plan.space, state, value, outcome=outcomes[number])
    return outcomes, best_time_s(objective.study)


def sooner(objective: Objective, epoch: EpochMetrics, config: RunConfig) -> str | None:
    """A rule that is not exact: it prunes at 0.9 of the best."""
    later = replace(epoch.position, elapsed_train_s=epoch.elapsed_train_s / 0.9)
    return objective.reason_to_stop(replace(epoch, position=later), config)


def lost(tables: list[Table], chance: random.Random, rule: Rule) -> tuple[int, int]:
    """In how many tables the rule lost the best time, and how many trials it pruned."""
    wrong = pruned = 0
    for table in tables:
        order = chance.sample(range(len(table)), len(table))
        outcomes, found_s = replay(table, order, rule)
        times = {number: time_to_target(epochs) for number, epochs in enumerate(table)}
        best_s = min((seconds for seconds in times.values() if seconds is not None), default=None)
        winners = [number for number, seconds in times.items() if seconds is not None and seconds == best_s]
        wrong += found_s != best_s or any(outcomes[number] != "completed" for number in winners)
        pruned += list(outcomes.values()).count("pruned")
    return wrong, pruned


def test_whatever_the_order_pruning_never_costs_the_best_time() -> None:
    chance = random.Random(0)
    tables = [random_table(chance) for _ in range(200)]
    assert sum(any(time_to_target(epochs) is None for epochs in table) for table in tables) > 20  # misses are there
    wrong, pruned = lost(tables, chance, Objective.reason_to_stop)
    assert wrong == 0
    assert pruned > 100
    wrong, _ = lost(tables, chance, sooner)  # the control
    assert wrong > 0


# --- what a trial is worth (trained from a script; tests/end_to_end/test_search.py really trains) ---


@dataclass(frozen=True)
class Scripted(Objective):
    """An objective whose runs have the accuracies of `script`, ten seconds apart, or end with an error."""

    script: tuple[float, ...] = ()
    error: BaseException | None = None
    between: Callable[[optuna.Trial], object] = field(default=lambda _: None)
    """Happens in the middle of the run."""

    def train(
        self, trial: optuna.Trial, point: Point, config: RunConfig, stop_early: Callable[[EpochMetrics], str | None]
    ) -> RunSummary:
        clock, reason = RunClock(config.target_accuracy, HostClock(), time.perf_counter()), None
        for number, accuracy in enumerate(self.script, 1):
            epoch = make_epoch(number, accuracy, 10.0 * number)
            clock.add(epoch)
            if (reason := stop_early(epoch)) or clock.reached:
                break
            self.between(trial)
        if self.error is not None:
            raise self.error
        return clock.summary(None, reason)


def scripted(
    study: optuna.Study,
    script: tuple[float, ...] = (),
    error: BaseException | None = None,
    between: Callable[[optuna.Trial], object] = lambda _: None,
    *,
    deadline_s: float = math.inf,
    n_trials: int = 20,
) -> Scripted:
    plain = make_objective(study, deadline_s=deadline_s, n_trials=n_trials)
    return Scripted(**vars(plain), script=script, error=error, between=between)


def test_a_trial_that_reaches_the_target_is_worth_its_time_to_it(study: optuna.Study) -> None:
    assert run_one_trial(study, scripted(study, (0.5, 0.95, 0.99))) == Ended(0)
    (trial,) = study.trials
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 20.0)
    assert trial.constraints[TARGET_CONSTRAINT] == pytest.approx(GOAL - 0.95)
    kept = {"outcome": "completed", "best_accuracy": 0.95, "epochs": 2, "train_s": 20.0}
    assert trial.user_attrs.items() >= kept.items()
    assert {step: round(1 - value, 3) for step, value in trial.intermediate_values.items()} == {1: 0.5, 2: 0.95}
    assert "saved_at_most_s" not in trial.user_attrs and "error" not in trial.user_attrs


def test_a_miss_is_worth_all_its_training_and_marked_by_its_constraint(study: optuna.Study) -> None:
    run_one_trial(study, scripted(study, (0.5, 0.85) + (0.8,) * (EPOCHS - 2)))
    (trial,) = study.trials
    assert (trial.state, trial.value, trial.user_attrs["outcome"]) == (TrialState.COMPLETE, 100.0, "target_not_reached")
    assert trial.constraints[TARGET_CONSTRAINT] == pytest.approx(GOAL - 0.85)
    assert best_time_s(study) is None


def test_a_pruned_trial_says_what_its_pruning_saved_at_most(study: optuna.Study) -> None:
    run_one_trial(study, scripted(study, (0.5, 0.95)))
    assert run_one_trial(study, scripted(study, (0.1,) * EPOCHS)) == Ended(1)
    pruned = study.trials[1]
    assert (pruned.state, pruned.user_attrs["epochs"]) == (TrialState.PRUNED, 2)
    epoch = make_epoch(1, 0.1, 10.0)
    assert pruned.user_attrs["saved_at_most_s"] == (epoch.cost.train_s + epoch.eval_s) * (EPOCHS - 2)


def test_a_trial_whose_budget_is_spent_is_failed_and_its_point_may_come_again(study: optuna.Study) -> None:
    ended = run_one_trial(study, scripted(study, (0.1,) * EPOCHS, deadline_s=SPENT))
    assert isinstance(ended.error, TrialFailedError)
    (trial,) = study.trials
    assert (trial.state, trial.user_attrs["outcome"]) == (TrialState.FAIL, "interrupted")
    assert trial.user_attrs["error"] == "the budget of timeout_s was spent"
    assert seen_points(study, make_objective(study).plan.space) == []


# --- other workers ---


def test_a_trial_that_is_given_up_while_it_trains_ends_with_its_epoch(study: optuna.Study) -> None:
    objective = scripted(study, (0.1,) * EPOCHS, between=lambda trial: study.tell(trial.number, state=TrialState.FAIL))
    assert run_one_trial(study, objective) == Ended(0, None, given_up=True)
    assert list(study.trials[0].intermediate_values) == [1]
    (record,) = records(study, objective.plan.space)
    assert record.outcome == "killed"


@pytest.mark.parametrize("error", [DivergedError("epoch", 2, "not finite", "Try less"), Interrupted(15)])
def test_what_ended_a_trial_comes_back_even_where_it_was_given_up_and_nothing_can_be_noted(
    study: optuna.Study, error: BaseException
) -> None:
    plain = scripted(study, (0.1,), error)
    given_up = scripted(study, (0.1,), error, lambda trial: study.tell(trial.number, state=TrialState.FAIL))
    assert run_one_trial(study, plain) == Ended(0, error)  # the control
    assert run_one_trial(study, given_up) == Ended(1, error, given_up=True)
    assert [trial.user_attrs.get("error") for trial in study.trials] == [str(error), None]


@pytest.mark.parametrize(
    ("n_trials", "same_point", "is_surplus"), [(1, False, True), (9, True, True), (9, False, False)]
)
def test_a_trial_is_one_too_many_by_its_place_or_by_its_point(
    study: optuna.Study, n_trials: int, same_point: bool, is_surplus: bool
) -> None:
    objective = scripted(study, (0.95,), n_trials=n_trials)
    first, second = (dict(objective.plan.space.grid[index]) for index in (0, 0 if same_point else 1))
    add_trial(study, objective.plan.space, TrialState.RUNNING, batch_size=int(first["batch_size"]))
    study.enqueue_trial(second)
    ended = run_one_trial(study, objective)
    assert isinstance(ended.error, TrialFailedError) is is_surplus
    assert study.trials[1].user_attrs["outcome"] == ("surplus" if is_surplus else "completed")
    assert study.trials[1].state == (TrialState.FAIL if is_surplus else TrialState.COMPLETE)


# --- failures ---


@pytest.mark.parametrize(
    ("kind", "outcome", "is_seen"),
    [
        (AccelmlfError, "failed", True),
        (MemoryExhaustedError, "out_of_memory", True),
        (DivergedError, "diverged", True),
        (ProcessKilledError, None, True),
        *((kind, "interrupted", False) for kind in (ConfigError, DataError, StudyError, TrackingError, DiskError)),
    ],
)
def test_a_failure_leaves_its_point_to_be_tried_again_unless_it_is_the_points_own(
    study: optuna.Study, kind: type[AccelmlfError], outcome: str | None, is_seen: bool
) -> None:
    error = kind("device", 7, "it ended", "Mend it")
    objective = scripted(study, (), error)
    assert run_one_trial(study, objective).error is error
    (trial,) = study.trials
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs.get("outcome") == outcome
    assert trial.user_attrs["error"] == str(error)
    point = chosen_point(trial, objective.plan.space)
    assert seen_points(study, objective.plan.space) == ([point] if is_seen else [])


def test_a_signal_is_noted_on_its_trial_and_comes_back(study: optuna.Study) -> None:
    signal = Interrupted(15)
    assert run_one_trial(study, scripted(study, (), signal)).error is signal
    (trial,) = study.trials
    assert (trial.state, trial.user_attrs["outcome"]) == (TrialState.FAIL, "interrupted")
    assert trial.user_attrs["error"] == "interrupted by SIGTERM"


def test_an_error_of_the_program_is_not_the_points_and_comes_back(study: optuna.Study) -> None:
    error = KeyError("a mistake")
    assert run_one_trial(study, scripted(study, (), error)).error is error
    assert "outcome" not in study.trials[0].user_attrs
