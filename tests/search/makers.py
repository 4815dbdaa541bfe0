"""What tests of a search are made of: its settings, its trials, and epochs that have the figures one wants."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial

from accelmlf.measure.cost import Cost
from accelmlf.measure.quality import Quality
from accelmlf.measure.records import EpochMetrics, Position
from accelmlf.search.confirmation import Candidate, Repeat
from accelmlf.search.console import SearchConsole
from accelmlf.search.objective import Objective
from accelmlf.search.plan import Plan
from accelmlf.search.settings import TuneConfig
from accelmlf.search.space import Point, SearchSpace, make_space
from accelmlf.search.study import TARGET_CONSTRAINT, distributions
from accelmlf.search.trials import TrialRecord
from accelmlf.search.worker import Worker
from accelmlf.settings.fields import parse_setting
from accelmlf.settings.recipes import resolve
from accelmlf.settings.technique_list import TechniqueList
from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.store import open_store
from accelmlf.tracking.tracker import MlflowRun

PICTURES = 1_000


def parse_tune(texts: Mapping[str, str]) -> TuneConfig:
    """The settings of a search from texts, as the command line makes them."""
    return TuneConfig(**{name: parse_setting(name, text, TuneConfig) for name, text in texts.items()})  # type: ignore[arg-type]


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
    return EpochMetrics(Position(number, elapsed_s), 1.0, 0.1, None, quality, Cost(1.0, {}, PICTURES), 0.5)


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
    parent = ParentRun(MlflowRun(open_store(), "0" * 32, "0"), "search")
    return Worker(study, url, plan, parent, SearchConsole(n_trials, timeout_s))


def make_objective(study: optuna.Study, *, deadline_s: float = math.inf, n_trials: int = 20) -> Objective:
    worker = make_worker(study, n_trials=n_trials)
    return Objective(study, worker.plan, worker.parent, worker.console, deadline_s)


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
            constraints={TARGET_CONSTRAINT: missed_by} if state == TrialState.COMPLETE else None,
        )
    )


OWN: Point = {"batch_size": 32, "accumulation_steps": 1}
FAST: Point = {"batch_size": 64, "accumulation_steps": 1}
SLOW: Point = {"batch_size": 16, "accumulation_steps": 4}

REACHED = [
    make_record(0, OWN, "completed", 48.2, best_accuracy=0.91, epochs=6, train_s=48.2, duration_s=60.0, run_id="a"),
    make_record(1, FAST, "completed", 24.1, best_accuracy=0.9, epochs=5, train_s=24.1, duration_s=30.0, run_id="b"),
    make_record(2, SLOW, "pruned", best_accuracy=0.7, epochs=1, train_s=25.0, saved_at_most_s=90.0, run_id="c"),
    make_record(3, {**SLOW, "batch_size": 128}, "out_of_memory", error='no room, "at all"\nreally', run_id="d"),
    make_record(
        4, {**FAST, "accumulation_steps": 2}, "target_not_reached", best_accuracy=0.88, epochs=10, train_s=55.0
    ),
]
MISSED = [
    make_record(0, OWN, "target_not_reached", best_accuracy=0.85, epochs=2, train_s=9.0),
    make_record(1, FAST, "target_not_reached", best_accuracy=0.875, epochs=2, train_s=8.0),
]


def make_arm(point: Point, *times_s: float | None, is_recipe: bool = False) -> Candidate:
    """Its repeats; on the wall each took a second more, half of it to warm up."""
    repeats = {
        seed: Repeat()
        if seconds is None
        else Repeat(time_s=seconds, wall_s=seconds + 1, warmup_s=0.5, test_accuracy=0.9)
        for seed, seconds in enumerate(times_s, start=1)
    }
    return Candidate(point, is_recipe, repeats)


def make_own(*times_s: float | None) -> Candidate:
    return make_arm(OWN, *times_s, is_recipe=True)
