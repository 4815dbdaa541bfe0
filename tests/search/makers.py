"""What tests of a search are made of: its settings, its trials, and epochs that have the figures one wants."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from accelmlf.measure.cost import Cost
from accelmlf.measure.quality import Quality
from accelmlf.measure.records import EpochMetrics, Position
from accelmlf.search.plan import Plan
from accelmlf.search.settings import TuneConfig
from accelmlf.search.space import Point, make_space
from accelmlf.search.trials import TrialRecord
from accelmlf.settings.recipes import resolve
from accelmlf.settings.technique_list import TechniqueList

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
    return EpochMetrics(Position(number, elapsed_s), 1.0, 0.1, None, quality, Cost(1.0, {}, PICTURES), 0.5)
