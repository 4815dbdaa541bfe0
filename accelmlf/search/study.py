"""The study of a search in Optuna's storage: made, checked, continued, mended after a kill. What its trials say."""

import logging
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import make_url

from accelmlf.errors import StudyError
from accelmlf.machine.processes import identity, is_gone
from accelmlf.search.space import Point, SearchSpace
from accelmlf.search.storage import OPENING_ERRORS, sqlite_lock, study_errors
from accelmlf.search.trials import COME_AGAIN, FINISHED_OUTCOMES, KILLED, TrialRecord

HEARTBEAT_S = 30
"""Twice this without a sign of life, a trial of another machine counts as killed."""
SQLITE_PATIENCE_S = 60
TARGET_CONSTRAINT = "target_accuracy"
"""Target minus best accuracy; above 0 the trial missed."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that count for n_trials."""


def open_study(url: str, name: str, facts: Mapping[str, str]) -> optuna.Study:
    """The study of that name, made where there is none; `facts` is what all its trials have in common.

    Raises:
        StudyError: the storage cannot be used, or holds a study of that name about something else.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    is_sqlite = make_url(url).get_backend_name() == "sqlite"
    with study_errors(url, *OPENING_ERRORS), sqlite_lock(url):
        storage = RDBStorage(
            url,
            engine_kwargs={"connect_args": {"timeout": SQLITE_PATIENCE_S}} if is_sqlite else None,
            heartbeat_interval=HEARTBEAT_S,
        )
        study = optuna.create_study(study_name=name, storage=storage, direction="minimize", load_if_exists=True)
        known = study.user_attrs.get("accelmlf", {"direction": study.direction.name.lower()})
        if not study.get_trials(deepcopy=False) and known == {"direction": "minimize"}:
            study.set_metric_names(["time_to_accuracy_s"])
            if "id" not in study.user_attrs:
                study.set_user_attr("id", uuid.uuid4().hex)
            study.set_user_attr("accelmlf", dict(facts))  # last: from here on the study is complete
            known = facts
    if differences := _differences(known, facts):
        remedy = "Choose another study_name, or give the study's own settings"
        raise StudyError("study_name", name, f"that study is about something else: {differences}", remedy)
    return study


def _differences(known: Mapping[str, str], facts: Mapping[str, str]) -> str:
    names = [name for name in {**known, **facts} if known.get(name) != facts.get(name)]
    shown = [f"{name} was {known.get(name, 'not set')}, now {facts.get(name, 'not set')}" for name in names[:4]]
    return "; ".join(shown + ([f"and {len(names) - 4} more"] if len(names) > 4 else []))


def study_id(study: optuna.Study) -> str:
    """What tells this study from one that has its name after its storage was deleted."""
    return str(study.user_attrs["id"])


def sign(trial: optuna.Trial) -> None:
    """Note on the trial that this process runs it, by which others know whether its process was killed."""
    trial.set_user_attr("owner", identity())


def mend(study: optuna.Study, url: str, space: SearchSpace) -> None:
    """Fail the trials whose process was killed: at once where that can be seen from here, else by their heartbeat.

    Each that had chosen its point gets a second try, also if whoever failed it was killed before it could say so.
    """
    with sqlite_lock(url):
        optuna.storages.fail_stale_trials(study)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            if _is_lost(trial, url):
                with suppress(ValueError, UpdateFinishedTrialError):  # it has come to its end meanwhile
                    study.tell(trial.number, state=TrialState.FAIL)
        tried_again = _retried_numbers(study.get_trials(deepcopy=False))
        for trial in study.get_trials(states=(TrialState.FAIL,)):
            is_first = not RetryHeartbeatStaleTrialCallback.retry_history(trial)
            had_point = chosen_point(trial, space) is not None
            if is_first and had_point and _outcome(trial) == KILLED and trial.number not in tried_again:
                _second_try(study, trial)


def _is_lost(trial: FrozenTrial, url: str) -> bool:
    if (owner := trial.user_attrs.get("owner")) is not None:
        return is_gone(owner)
    # Perhaps killed before it could sign. On a server the heartbeat tells, for clocks of two machines may differ.
    waited = datetime.now() - (trial.datetime_start or datetime.now())
    return make_url(url).get_backend_name() == "sqlite" and waited > timedelta(seconds=2 * HEARTBEAT_S)


def _second_try(study: optuna.Study, trial: FrozenTrial) -> None:
    """The point of a killed trial once more, as Optuna's own callback does it, but without what the first said."""
    history = {"failed_trial": trial.number, "retry_history": [trial.number]}
    params, kinds = trial.params, trial.distributions
    waiting = optuna.create_trial(state=TrialState.WAITING, params=params, distributions=kinds, system_attrs=history)
    study.add_trial(waiting)


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The space in Optuna's words."""
    found: dict[str, BaseDistribution] = {name: CategoricalDistribution(v) for name, v in space.choices.items()}
    if space.learning_rates:
        found["learning_rate"] = FloatDistribution(*space.learning_rates, log=True)
    return found


def suggest(trial: optuna.Trial, space: SearchSpace) -> Point:
    """The trial's point, chosen by the study's sampler or, for a retried trial, the one it had."""
    low, high = space.learning_rates or (0.0, 0.0)
    return {
        **{name: trial.suggest_categorical(name, values) for name, values in space.choices.items()},
        **({"learning_rate": trial.suggest_float("learning_rate", low, high, log=True)} if low else {}),
    }


def chosen_point(trial: FrozenTrial, space: SearchSpace) -> Point | None:
    """The whole point of a trial; None while it has none."""
    params = trial.params
    return {name: params[name] for name in space.names} if set(space.names) <= set(params) else None


def seen_points(study: optuna.Study, space: SearchSpace, before: int | None = None) -> list[Point]:
    """Points that are not to be run again: finished, under way, waiting, or failed for a reason of their own.

    `before`: only those of trials with a lower number.
    """
    trials = study.get_trials(deepcopy=False)
    tried_again = _retried_numbers(trials)  # a killed trial hands its point on to its second try
    kept = [trial for trial in trials[:before] if trial.user_attrs.get("outcome") not in COME_AGAIN]
    points = [chosen_point(trial, space) for trial in kept if trial.number not in tried_again]
    return [point for point in points if point is not None]


def interrupted_points(study: optuna.Study, space: SearchSpace) -> list[Point]:
    """Points of trials that were told to end, or whose budget did."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    points = [chosen_point(trial, space) for trial in trials if trial.user_attrs.get("outcome") == "interrupted"]
    return [point for point in points if point is not None]


def _retried_numbers(trials: list[FrozenTrial]) -> set[int]:
    """The trials that have a second try."""
    return {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Those that count for n_trials: at the target, missed, or pruned."""
    return study.get_trials(deepcopy=False, states=FINISHED)


def reached_target(study: optuna.Study) -> list[FrozenTrial]:
    """The finished trials whose value is a time to the target."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in complete if all(missing_by <= 0 for missing_by in trial.constraints.values())]


def best_time_s(study: optuna.Study) -> float | None:
    """The shortest time to the target so far."""
    return min((trial.value for trial in reached_target(study) if trial.value is not None), default=None)


def records(study: optuna.Study, space: SearchSpace) -> list[TrialRecord]:
    """Every trial but those that never began (another worker had taken the last place)."""
    return [
        record
        for trial in study.get_trials(deepcopy=False)
        if (record := _record(trial, space)).outcome not in ("surplus", "waiting")
    ]


def _outcome(trial: FrozenTrial) -> str:
    """A run's outcome for what has ended by itself, else killed, running or waiting."""
    outcome = str(trial.user_attrs.get("outcome", KILLED))
    if not trial.state.is_finished():
        return trial.state.name.lower()
    if trial.state == TrialState.FAIL and outcome in FINISHED_OUTCOMES:
        return KILLED  # in the moment before it was told to Optuna
    return outcome


def _record(trial: FrozenTrial, space: SearchSpace) -> TrialRecord:
    attrs: dict[str, Any] = trial.user_attrs
    outcome = _outcome(trial)
    done = trial.state in FINISHED
    return TrialRecord(
        number=trial.number,
        point=chosen_point(trial, space),
        outcome=outcome,
        time_to_accuracy_s=trial.value if outcome == "completed" else None,
        best_accuracy=attrs.get("best_accuracy") if done else None,
        epochs=attrs.get("epochs") if done else None,
        train_s=attrs.get("train_s") if done else None,
        saved_at_most_s=attrs.get("saved_at_most_s") if outcome == "pruned" else None,
        run_id=attrs.get("run_id"),
        error=attrs.get("error") if trial.state == TrialState.FAIL else None,
        duration_s=trial.duration.total_seconds() if trial.duration else None,
    )
