"""The files that a run leaves beside its metrics."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from accelmlf.config import RunConfig
from accelmlf.costs import PHASES
from accelmlf.figures import draw_confusion_matrix, draw_curves
from accelmlf.models import MODEL_FILE, save_weights
from accelmlf.records import EpochMetrics, RunSummary


def write_opening(folder: Path, config: RunConfig, environment: dict[str, Any]) -> None:
    """config.json and environment.json: known before the first picture is read."""
    _write_json(folder / "config.json", config.as_texts())
    _write_json(folder / "environment.json", environment)


def write_closing(
    folder: Path,
    config: RunConfig,
    epochs: Sequence[EpochMetrics],
    summary: RunSummary,
    class_names: tuple[str, ...],
    model: nn.Module,
) -> None:
    """epochs.csv, curves.png and, if kept, the weights; of the test set, if read, its matrix and its report."""
    rows = [epoch.as_metrics() for epoch in epochs]
    with (folder / "epochs.csv").open("w", newline="") as file:
        columns = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(file, ["epoch", *columns])
        writer.writeheader()
        writer.writerows({"epoch": epoch.epoch, **row} for epoch, row in zip(epochs, rows, strict=True))
    title = f"{config.model} on {config.dataset}, {config.arm}: {config.techniques}, "
    title += f"batch {config.batch_size} x {config.accumulation_steps}"
    phases = [phase for phase in (*PHASES, "other") if f"time/{phase}_s" in rows[0]]
    draw_curves(rows, phases, config.target_accuracy, title, folder / "curves.png")
    if (test := summary.test) is not None:
        test_title = f"test accuracy {test.accuracy:.4f}, F1 {test.f1_macro:.4f}"
        draw_confusion_matrix(test.confusion(), class_names, test_title, folder / "confusion_matrix.png")
        _write_json(folder / "classification_report.json", test.report(class_names))
    if config.save_model:
        save_weights(model, folder / MODEL_FILE, model=config.model)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
