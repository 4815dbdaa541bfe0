"""One trial of Optuna, run to its end whatever it raises; how it ended is a value."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import optuna
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError

from accelmlf.errors import Interrupted


class TrialFailedError(Exception):
    """Raised by an objective to fail its trial for a reason that says nothing about other trials."""


@dataclass(frozen=True)
class Ended:
    """How a trial ended."""

    number: int
    error: BaseException | None = None
    """What its objective raised; None with a value, when it was pruned, or when it found itself given up."""
    given_up: bool = False
    """Whether another worker had failed the trial meanwhile, because it heard nothing from this one."""


def run_one_trial(study: optuna.Study, objective: Callable[[optuna.Trial], float]) -> Ended:
    """Ask for a trial, evaluate `objective` on it and tell Optuna its end.

    It goes through `study.optimize`, which alone sends the heartbeats by which workers elsewhere know that it lives.

    Raises:
        Exception: what kept Optuna from asking or telling, such as its storage.
        Interrupted: a signal outside the objective.
    """
    ended: list[Ended] = []  # none where Optuna could not ask

    def observed(trial: optuna.Trial) -> float:
        error: BaseException | None = None
        try:
            return objective(trial)
        except (TrialPruned, UpdateFinishedTrialError):
            raise
        except Exception as raised:
            error = raised
            raise
        except BaseException as raised:  # which Optuna lets through, and leaves the trial running
            error = raised
            raise TrialFailedError(str(raised)) from raised
        finally:
            ended.append(Ended(trial.number, error))

    try:
        study.optimize(observed, n_trials=1, catch=(Exception,))
    except Exception as raised:
        reason = _behind(raised)
        cannot_be_told = isinstance(reason, (ValueError, UpdateFinishedTrialError))
        if ended and cannot_be_told and study.get_trials(deepcopy=False)[ended[0].number].state.is_finished():
            return replace(ended[0], given_up=True)
        if not ended or not isinstance(ended[0].error, Interrupted):  # a signal comes before what a storage says
            raise reason from reason.__cause__
    return ended[0]


def _behind(error: BaseException) -> BaseException:
    """What Optuna hides: where it cannot tell, its clean-up fails too, on the state that the trial does not have."""
    while isinstance(error, (AssertionError, UnboundLocalError)) and error.__context__ is not None:
        error = error.__context__
    return error
