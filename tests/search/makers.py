"""What tests of a search are made of: its settings, its trials, and epochs that have the figures one wants."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial

from accelmlf.measure.cost import Cost
from accelmlf.measure.quality import Quality
from accelmlf.measure.records import EpochMetrics
from accelmlf.search.console import SearchConsole
from accelmlf.search.objective import Objective
from accelmlf.search.plan import Plan
from accelmlf.search.settings import TuneConfig
from accelmlf.search.space import Point, SearchSpace, make_space
from accelmlf.search.study import TARGET, distributions
from accelmlf.search.trials import TrialRecord
from accelmlf.search.worker import Worker
from accelmlf.settings.recipes import resolve
from accelmlf.settings.technique_list import TechniqueList
from accelmlf.tracking.parent_run import Family
from accelmlf.tracking.tracker import MlflowRun

PICTURES = 1_000


def make_plan(tune: TuneConfig | None = None, sets: Sequence[TechniqueList] = (), **given: Any) -> Plan:
    given = {"save_model": False, "model": "vit", "device": "cpu", **given}
    tune, base = tune or TuneConfig(), resolve(given)
    space, _ = make_space(tune, base, given.get("train_images", 1_078), sets, has_batch_norm=False)
    return Plan(tune=tune, given=given, base=base, space=space, device_key="cpu")


def make_record(
    number: int, point: Point | None, outcome: str, seconds: float | None = None, **figures: Any
) -> TrialRecord:
    names = ("best_accuracy", "epochs", "train_s", "saved_at_most_s", "run_id", "error", "duration_s")
    values: dict[str, Any] = dict.fromkeys(names) | figures
    return TrialRecord(number=number, point=point, outcome=outcome, time_to_accuracy_s=seconds, **values)


def make_epoch(number: int, accuracy: float, elapsed_s: float) -> EpochMetrics:
    """`accuracy` to three digits."""
    labels = np.zeros(PICTURES, dtype=np.int64)
    predictions = (np.arange(PICTURES) >= round(accuracy * PICTURES)).astype(np.int64)
    quality = Quality(1.0, labels, predictions, num_classes=2)
    return EpochMetrics(number, 1.0, 0.1, None, quality, Cost(1.0, {}, PICTURES), 0.5, elapsed_s)


GOAL, EPOCHS, BUDGET_S = 0.9, 10, 1_000.0
"""Of the trials of `make_worker` and `make_objective`: target accuracy, epochs; and a budget that lasts."""


def make_worker(
    study: optuna.Study,
    url: str = "",
    *,
    n_trials: int = 20,
    timeout_s: float | None = None,
    batches: tuple[int, ...] = (8, 16, 32),
) -> Worker:
    """One whose parent run is in no store."""
    tune = TuneConfig(n_trials=n_trials, timeout_s=timeout_s, batch_sizes=batches, accumulation_choices=(1,))
    plan = make_plan(tune, target_accuracy=GOAL, epochs=EPOCHS)
    family = Family(MlflowRun("0" * 32, "0"), "search", study.study_name, "no-study-of-the-store")
    return Worker(study, url, plan, family, SearchConsole(n_trials, timeout_s))


def make_objective(study: optuna.Study, *, deadline_s: float = math.inf, n_trials: int = 20) -> Objective:
    worker = make_worker(study, n_trials=n_trials)
    return Objective(study, worker.plan, worker.family, worker.console, deadline_s)


def add_trial(
    study: optuna.Study,
    space: SearchSpace,
    state: TrialState,
    seconds: float | None = None,
    *,
    batch_size: int = 8,
    accumulation_steps: int = 1,
    **attrs: Any,
) -> None:
    """A trial that has ended; with the outcome target_not_reached it missed the target."""
    missed_by = 0.1 if attrs.get("outcome") == "target_not_reached" else 0.0
    study.add_trial(
        create_trial(
            state=state,
            value=seconds,
            params={"batch_size": batch_size, "accumulation_steps": accumulation_steps},
            distributions=distributions(space),
            user_attrs=attrs,
            constraints={TARGET: missed_by} if state == TrialState.COMPLETE else None,
        )
    )
