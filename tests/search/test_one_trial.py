"""One trial of Optuna ends as a value, whatever its objective raises and whoever else has ended it."""

import itertools
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import TrialPruned
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from accelmlf.errors import DivergedError, Interrupted, StudyError
from accelmlf.search.one_trial import Ended, TrialFailedError, run_one_trial
from accelmlf.search.storage import study_errors
from accelmlf.search.study import open_study

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Heartbeat of storage"),
]

names = (f"one-trial-{number}" for number in itertools.count())
ERRORS = [
    DivergedError("epoch", 3, "the loss is not finite", "Use a smaller learning_rate"),
    TrialFailedError("one too many"),
    AssertionError("like one of Optuna's own"),
    ValueError("like one of Optuna's own"),
    Interrupted(15),
    SystemExit(3),
    KeyboardInterrupt(),
]


@pytest.fixture
def study(url: str) -> optuna.Study:
    return open_study(url, next(names), {})


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials(deepcopy=False)]


def raising(error: BaseException) -> Callable[[optuna.Trial], float]:
    def objective(_: optuna.Trial) -> float:
        raise error

    return objective


def test_a_value_and_a_pruned_trial_are_ends_without_an_error(study: optuna.Study) -> None:
    assert run_one_trial(study, lambda _: 1.5) == Ended(0)
    assert run_one_trial(study, raising(TrialPruned())) == Ended(1)
    assert states(study) == [TrialState.COMPLETE, TrialState.PRUNED]
    assert study.trials[0].value == 1.5


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_an_objective_raises_comes_back_and_fails_its_trial(study: optuna.Study, error: BaseException) -> None:
    ended = run_one_trial(study, raising(error))
    assert (ended.number, ended.given_up) == (0, False)
    assert ended.error is error
    assert states(study) == [TrialState.FAIL]
    assert run_one_trial(study, lambda _: 1.0) == Ended(1)  # and the next one can be run


def test_optuna_itself_would_leave_the_trial_of_a_signal_running(study: optuna.Study) -> None:
    """The control."""
    with pytest.raises(Interrupted):
        study.optimize(raising(Interrupted(15)), n_trials=1, catch=(Exception,))
    assert states(study) == [TrialState.RUNNING]


def test_a_trial_sends_heartbeats_while_it_runs(study: optuna.Study, url: str) -> None:
    found: list[int] = []

    def objective(trial: optuna.Trial) -> float:
        with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
            query = "select count(*) from trial_heartbeats where trial_id = ?"
            deadline_s = time.monotonic() + 30
            while not (count := database.execute(query, [trial._trial_id]).fetchone()[0]):
                assert time.monotonic() < deadline_s
            found.append(count)
        database.close()
        return 1.0

    run_one_trial(study, objective)
    assert found == [1]


# --- another worker has given it up ---


def fail(study: optuna.Study, number: int) -> None:
    """As another worker does it."""
    study.tell(number, state=TrialState.FAIL)


@pytest.mark.parametrize("error", [None, *ERRORS], ids=lambda error: type(error).__name__)
def test_a_trial_that_was_given_up_is_known_as_that_whatever_its_objective_ends_with(
    study: optuna.Study, error: BaseException | None
) -> None:
    def objective(trial: optuna.Trial) -> float:
        fail(study, trial.number)
        if error is not None:
            raise error
        return 1.0

    ended = run_one_trial(study, objective)
    assert ended == Ended(0, error, given_up=True)
    assert states(study) == [TrialState.FAIL]
    assert run_one_trial(study, lambda _: 1.0) == Ended(1)


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED])
def test_an_objective_that_finds_its_trial_ended_needs_no_error_of_its_own(
    study: optuna.Study, state: TrialState
) -> None:
    def objective(trial: optuna.Trial) -> float:
        study.tell(trial.number, state=state)
        trial.set_user_attr("outcome", "completed")
        return 1.0

    assert run_one_trial(study, objective) == Ended(0, None, given_up=True)
    assert states(study) == [state]


# --- what keeps Optuna from asking or telling ---


def spoil(url: str) -> None:
    """Take a storage its trials."""
    with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
        database.execute("drop table trials")
    database.close()


def test_a_storage_that_cannot_give_a_trial_is_its_own_error(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    study = open_study(url, "s", {})
    spoil(url)
    with pytest.raises(StudyError, match=r"^storage=sqlite:"), study_errors(url):
        run_one_trial(study, lambda _: 1.0)


def spoiling(url: str, error: BaseException | None) -> Callable[[optuna.Trial], float]:
    def objective(_: optuna.Trial) -> float:
        spoil(url)
        if error is not None:
            raise error
        return 1.0

    return objective


@pytest.mark.parametrize("error", [None, ERRORS[0]], ids=["a value", "a failure"])
def test_a_storage_that_cannot_be_told_is_its_own_error_and_no_assertion_of_optuna(
    tmp_path: Path, error: BaseException | None
) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    study = open_study(url, "s", {})
    with pytest.raises(StudyError, match=r"^storage=sqlite:"), study_errors(url):
        run_one_trial(study, spoiling(url, error))


def test_optuna_itself_would_hide_what_its_storage_says(tmp_path: Path) -> None:
    """The control."""
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    study = open_study(url, "s", {})
    with pytest.raises(Exception) as caught:  # noqa: PT011
        study.optimize(spoiling(url, None), n_trials=1, catch=(Exception,))
    assert not isinstance(caught.value, SQLAlchemyError)


def test_a_signal_comes_before_a_storage_that_cannot_be_told(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    study = open_study(url, "s", {})
    signal = Interrupted(15)
    assert run_one_trial(study, spoiling(url, signal)) == Ended(0, signal)


def test_a_signal_in_the_middle_of_telling_is_that_signal(study: optuna.Study) -> None:
    class SamplerCutShort(RandomSampler):
        def after_trial(self, *_: object) -> None:
            raise Interrupted(15)

    study.sampler = SamplerCutShort()
    with pytest.raises(Interrupted):
        run_one_trial(study, lambda _: 1.0)
    assert states(study) == [TrialState.COMPLETE]
