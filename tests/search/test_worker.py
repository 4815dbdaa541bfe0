"""What a search comes to its end by, and what the end of one trial means for it."""

import itertools
import time
from typing import Any

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
from accelmlf.many_runs.child_run import MAX_FAILED_IN_A_ROW
from accelmlf.search.objective import note_failure
from accelmlf.search.one_trial import Ended, TrialFailedError, run_one_trial
from accelmlf.search.study import open_study, sign, suggest
from accelmlf.search.worker import Worker
from tests.search.makers import BUDGET_S, add_trial, make_worker

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Heartbeat of storage"),
    pytest.mark.usefixtures("store"),
]

FACTS = {"model": "vit"}
names = (f"worker-{number}" for number in itertools.count())


@pytest.fixture
def worker(url: str) -> Worker:
    return make_worker(open_study(url, next(names), FACTS), url, timeout_s=BUDGET_S)


def add(worker: Worker, state: TrialState, seconds: float | None = None, *, batch_size: int = 8, **attrs: Any) -> None:
    add_trial(worker.study, worker.plan.space, state, seconds, batch_size=batch_size, **attrs)


def failing(worker: Worker, error: AccelmlfError) -> Ended:
    """A trial of this worker that ends with an error, as an objective notes it."""

    def objective(trial: optuna.Trial) -> float:
        sign(trial)
        suggest(trial, worker.plan.space)
        note_failure(trial, error)
        raise error

    return run_one_trial(worker.study, objective)


# --- what ends a search ---


def test_a_search_goes_on_while_there_is_something_to_run(worker: Worker) -> None:
    add(worker, TrialState.COMPLETE, 1.0, outcome="completed")
    assert not worker.is_over()


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
    worker = make_worker(study, url, n_trials=2 if ended_at == "n_trials" else 20, timeout_s=BUDGET_S)
    for batch_size in (8, 16, 32) if ended_at == "exhausted" else (8, 16) if ended_at == "n_trials" else (8,):
        assert not worker.is_over()
        add(worker, TrialState.COMPLETE, 1.0, batch_size=batch_size, outcome="completed")
    if ended_at == "timeout":
        worker.deadline_s -= BUDGET_S
    if ended_at == "failures":
        worker.failures_in_a_row["failed"] = MAX_FAILED_IN_A_ROW - 1
        assert not worker.is_over()
        worker.failures_in_a_row["failed"] += 1
    assert worker.is_over()
    assert worker.ended_at == ended_at
    out = capsys.readouterr().out
    assert (f"the search ends here: {says}" in out) if says else out == ""


def test_a_budget_begins_with_its_worker_and_without_one_there_is_no_end(worker: Worker) -> None:
    assert 0 < worker.deadline_s - time.monotonic() <= BUDGET_S
    assert make_worker(worker.study).deadline_s == float("inf")


def test_a_waiting_second_try_is_run_even_where_every_point_was(worker: Worker) -> None:
    for batch_size in (8, 16, 32):
        add(worker, TrialState.COMPLETE, 1.0, batch_size=batch_size, outcome="completed")
    assert worker.is_over()
    add(worker, TrialState.WAITING, batch_size=8)
    assert not worker.is_over()


# --- what the end of a trial means ---


@pytest.mark.parametrize(
    ("kind", "expected", "again"),
    [
        (AccelmlfError, True, False),
        (ProcessKilledError, True, True),
        (MemoryExhaustedError, False, False),
        (DivergedError, False, False),
    ],
)
def test_failures_in_a_row_end_a_search_unless_they_are_those_of_their_points(
    url: str, kind: type[AccelmlfError], expected: bool, again: bool
) -> None:
    study = open_study(url, next(names), FACTS)
    worker = make_worker(study, url, batches=tuple(range(1, 2 * MAX_FAILED_IN_A_ROW)))
    for _ in range(MAX_FAILED_IN_A_ROW):
        assert not worker.is_over()
        worker.judge(failing(worker, kind("process", 7, "it ended", "Mend it")))
    assert worker.is_over() is expected
    assert (worker.ended_at == "failures") is expected
    assert any(trial.state == TrialState.WAITING for trial in study.trials) is again


def test_a_trial_that_finishes_breaks_the_row_and_one_that_says_nothing_does_not(worker: Worker) -> None:
    failure = AccelmlfError("process", 7, "it ended", "Mend it")
    row = []
    for ended in (
        Ended(0, failure),
        Ended(1, TrialFailedError("one too many")),
        Ended(2, None, given_up=True),
        Ended(3, failure, given_up=True),
        Ended(4),
        Ended(5, failure),
    ):
        worker.judge(ended)
        row.append(worker.failures_in_a_row.total())
    assert row == [1, 1, 1, 2, 0, 1]


@pytest.mark.parametrize("kind", [ConfigError, DataError, StudyError, TrackingError, DiskError])
@pytest.mark.parametrize("given_up", [False, True])
def test_what_no_other_trial_would_survive_ends_the_search(
    worker: Worker, kind: type[AccelmlfError], given_up: bool
) -> None:
    error = kind("device", 7, "it ended", "Mend it")
    with pytest.raises(kind) as caught:
        worker.judge(Ended(0, error, given_up))
    assert caught.value is error
    worker.judge(Ended(0, DivergedError("device", 7, "it ended", "Mend it"), given_up))  # the control


@pytest.mark.parametrize("given_up", [False, True])
@pytest.mark.parametrize("error", [Interrupted(15), KeyError("a mistake"), SystemExit(3)])
def test_a_signal_and_a_mistake_of_the_program_end_the_search(
    worker: Worker, error: BaseException, given_up: bool
) -> None:
    with pytest.raises(type(error)) as caught:
        worker.judge(Ended(0, error, given_up))
    assert caught.value is error


def test_an_error_whose_meaning_is_known_ends_the_search_as_what_it_means(worker: Worker) -> None:
    with pytest.raises(MemoryExhaustedError, match="memory ran out"):
        worker.judge(Ended(0, MemoryError()))


def test_a_trial_that_was_given_up_is_said(worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    worker.judge(Ended(3))
    assert capsys.readouterr().out == ""
    worker.judge(Ended(3, given_up=True))
    said = "trial 3 was given up by another worker, which heard nothing from this one\n"
    assert capsys.readouterr().out == said


def test_what_a_killed_process_has_left_is_mended_once(worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    failing(worker, ProcessKilledError("process", 7, "it was killed", "Start it again"))
    states = [[trial.state for trial in worker.study.trials] for _ in range(2) if not worker.is_over()]
    assert states == [[TrialState.FAIL, TrialState.WAITING]] * 2
    assert capsys.readouterr().out == ""  # it was said when it happened
