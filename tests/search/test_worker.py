"""When a trial is stopped, that no winner ever is, and what a search comes to its end by."""

import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from accelmlf.errors import (
    AccelmlfError,
    ConfigError,
    DataError,
    DiskError,
    DivergedError,
    MemoryExhaustedError,
    ProcessKilledError,
    StudyError,
    TrackingError,
)
from accelmlf.many_runs.child_run import MAX_FAILED_IN_A_ROW
from accelmlf.measure.records import EpochMetrics
from accelmlf.search import study as studies
from accelmlf.search.console import SearchConsole
from accelmlf.search.settings import TuneConfig
from accelmlf.search.study import TARGET, open_study
from accelmlf.search.worker import Search
from accelmlf.settings.run import RunConfig
from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.store import open_store
from accelmlf.tracking.tracker import MlflowRun
from tests.search.makers import make_epoch, make_plan

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Heartbeat of storage"),
    pytest.mark.usefixtures("store"),
]

GOAL, EPOCHS, BUDGET_S = 0.9, 10, 1_000.0
FACTS = {"model": "vit"}
names = (f"search-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = f"sqlite:///{tmp_path_factory.mktemp('studies') / 'optuna.db'}"
    open_study(made, "first", FACTS)
    return made


def make_search(
    study: optuna.Study,
    url: str,
    *,
    n_trials: int = 20,
    timeout_s: float | None = None,
    batches: tuple[int, ...] = (8, 16, 32),
) -> Search:
    tune = TuneConfig(n_trials=n_trials, timeout_s=timeout_s, batch_sizes=batches, accumulation_choices=(1,))
    plan = make_plan(tune, target_accuracy=GOAL, epochs=EPOCHS)
    parent = ParentRun(MlflowRun(open_store(), "0" * 32, "0"), "search")  # none that the store knows
    return Search(study, url, plan, parent, SearchConsole(n_trials, timeout_s))


@pytest.fixture
def search(url: str) -> Search:
    return make_search(open_study(url, next(names), FACTS), url, timeout_s=BUDGET_S)


def spend_budget(search: Search) -> None:
    search.started_s = time.monotonic() - BUDGET_S


def add(search: Search, state: TrialState, seconds: float | None = None, *, batch_size: int = 8, **attrs: str) -> None:
    """A trial that has ended; with the outcome target_not_reached it missed the target."""
    kinds = studies.distributions(search.plan.space)
    missed_by = 0.1 if attrs.get("outcome") == "target_not_reached" else 0.0
    search.study.add_trial(
        create_trial(
            state=state,
            value=seconds,
            params={"batch_size": batch_size, "accumulation_steps": 1},
            distributions=kinds,
            user_attrs=attrs,
            constraints={TARGET: missed_by} if state == TrialState.COMPLETE else None,
        )
    )


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
    search: Search, case: Case, expected: str | None, control: Case, otherwise: str | None
) -> None:
    def reason(of: Case) -> str | None:
        search.study = open_study(search.storage, next(names), FACTS)
        if of.best_s is not None:
            add(search, TrialState.COMPLETE, of.best_s + 1, outcome="completed")
            add(search, TrialState.COMPLETE, of.best_s, outcome="completed")
        search.started_s = time.monotonic()
        if of.budget_is_spent:
            spend_budget(search)
        return search.reason_to_stop(make_epoch(of.epoch, of.accuracy, of.elapsed_s), search.plan.config_of(None))

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
    search: Search, state: TrialState, seconds: float | None, outcome: str, expected: str | None
) -> None:
    add(search, state, seconds, outcome=outcome)
    assert search.reason_to_stop(make_epoch(5, 0.5, 30.0), search.plan.config_of(None)) == expected


# --- that no winner ever is ---

Table = list[list[tuple[float, float]]]
"""Of each trial its epochs: accuracy, and seconds of training (whole numbers, so that sums and ties are exact)."""
Rule = Callable[[Search, EpochMetrics, RunConfig], str | None]


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
    search = make_search(optuna.create_study(direction="minimize"), "")
    config, outcomes = search.plan.config_of(None), {}
    for number in order:
        elapsed_s, reached, reason = 0.0, False, None
        for epoch, (accuracy, seconds) in enumerate(table[number], start=1):
            elapsed_s += seconds
            reached = accuracy >= GOAL
            reason = rule(search, make_epoch(epoch, accuracy, elapsed_s), config)
            if reached or reason:
                break
        outcomes[number] = reason or ("completed" if reached else "target_not_reached")
        state = TrialState.PRUNED if reason else TrialState.COMPLETE
        add(search, state, None if reason else elapsed_s, outcome=outcomes[number])
    return outcomes, studies.best_time_s(search.study)


def sooner(search: Search, epoch: EpochMetrics, config: RunConfig) -> str | None:
    """A rule that is not exact: it prunes at 0.9 of the best."""
    position = replace(epoch.position, elapsed_train_s=epoch.elapsed_train_s / 0.9)
    return search.reason_to_stop(replace(epoch, position=position), config)


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
    wrong, pruned = lost(tables, chance, Search.reason_to_stop)
    assert wrong == 0
    assert pruned > 100
    wrong, _ = lost(tables, chance, sooner)  # the control
    assert wrong > 0


# --- what ends a search ---


def test_a_search_goes_on_while_there_is_something_to_run(search: Search) -> None:
    add(search, TrialState.COMPLETE, 1.0, outcome="completed")
    assert not search.is_over()


@pytest.mark.parametrize(
    ("ended_at", "says"),
    [
        ("n_trials", None),
        ("timeout", "the budget of timeout_s is spent"),
        ("failures", f"the last {MAX_FAILED_IN_A_ROW} trials have all failed"),
        ("exhausted", "every point of the space was run: 3 trials finished"),
    ],
)
def test_a_search_says_what_ended_it(
    url: str, ended_at: str, says: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    study = open_study(url, next(names), FACTS)
    search = make_search(study, url, n_trials=2 if ended_at == "n_trials" else 20, timeout_s=BUDGET_S)
    for batch_size in (8, 16, 32) if ended_at == "exhausted" else (8, 16) if ended_at == "n_trials" else (8,):
        assert not search.is_over()
        add(search, TrialState.COMPLETE, 1.0, batch_size=batch_size, outcome="completed")
    if ended_at == "timeout":
        spend_budget(search)
    if ended_at == "failures":
        search.failures_in_a_row["failed"] = MAX_FAILED_IN_A_ROW - 1
        assert not search.is_over()
        search.failures_in_a_row["failed"] += 1
    assert search.is_over()
    assert search.ended_at == ended_at
    out = capsys.readouterr().out
    assert (f"the search ends here: {says}" in out) if says else out == ""


def test_a_waiting_second_try_is_run_even_where_every_point_was(search: Search) -> None:
    for batch_size in (8, 16, 32):
        add(search, TrialState.COMPLETE, 1.0, batch_size=batch_size, outcome="completed")
    assert search.is_over()
    add(search, TrialState.WAITING, batch_size=8)
    assert not search.is_over()


@pytest.mark.parametrize(
    ("kind", "expected", "outcome", "again"),
    [
        (AccelmlfError, True, "failed", False),
        (ProcessKilledError, True, None, True),
        (MemoryExhaustedError, False, "out_of_memory", False),
        (DivergedError, False, "diverged", False),
    ],
)
def test_failures_in_a_row_end_a_search_unless_they_are_those_of_their_points(
    url: str, kind: type[AccelmlfError], expected: bool, outcome: str | None, again: bool
) -> None:
    study = open_study(url, next(names), FACTS)
    search = make_search(study, url, batches=tuple(range(1, 2 * MAX_FAILED_IN_A_ROW)))
    for _ in range(MAX_FAILED_IN_A_ROW):
        assert not search.is_over()
        trial = study.ask(studies.distributions(search.plan.space))
        studies.sign(trial)
        search.note_failure(trial, None, kind("process", 7, "it ended", "Mend it"))
        study.tell(trial, state=TrialState.FAIL)
        assert study.trials[trial.number].user_attrs.get("outcome") == outcome
        assert search.ended_by is None
    assert search.is_over() is expected
    assert (search.ended_at == "failures") is expected
    assert any(trial.state == TrialState.WAITING for trial in study.trials) is again


@pytest.mark.parametrize("kind", [ConfigError, DataError, StudyError, TrackingError, DiskError])
def test_what_no_other_trial_would_survive_ends_the_search_and_leaves_the_point_to_be_tried_again(
    search: Search, kind: type[AccelmlfError]
) -> None:
    trial = search.study.ask(studies.distributions(search.plan.space))
    search.note_failure(trial, None, error := kind("device", 7, "it ended", "Mend it"))
    search.study.tell(trial, state=TrialState.FAIL)
    assert search.ended_by is error
    assert studies.seen_points(search.study, search.plan.space) == []
