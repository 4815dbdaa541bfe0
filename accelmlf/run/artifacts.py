"""The files and pictures that a run leaves beside its metrics."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from accelmlf.measure.cost import PHASE_COLOURS, PHASES
from accelmlf.measure.records import EpochMetrics, RunSummary
from accelmlf.models.weights import save_weights
from accelmlf.settings.run import MODEL_FILE, RunConfig


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
    draw_curves(rows, phases, summary.target_accuracy, title, folder / "curves.png")
    if (test := summary.test) is not None:
        test_title = f"test accuracy {test.accuracy:.4f}, F1 {test.f1_macro:.4f}"
        draw_confusion_matrix(test.confusion(), class_names, test_title, folder / "confusion_matrix.png")
        _write_json(folder / "classification_report.json", test.report(class_names))
    if config.save_model:
        save_weights(model, folder / MODEL_FILE, model=config.model)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


MAX_LABELLED_CLASSES = 20


def draw_curves(
    epochs: Sequence[Mapping[str, float]], phases: Sequence[str], target: float, title: str, path: Path
) -> None:
    """Loss, accuracy against the training clock with its target, and where each second of an epoch went.

    `epochs`: the logged metrics of each epoch, in order. `phases`: which of PHASE_COLOURS were measured.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    figure.suptitle(title)
    loss_axis, quality_axis, phase_axis = figure.subplots(1, 3)
    numbers = np.arange(1, len(epochs) + 1)
    clock = [row["time/elapsed_train_s"] for row in epochs]
    loss_axis.plot(numbers, [row["train/loss"] for row in epochs], "o-", markersize=3, label="training")
    loss_axis.plot(numbers, [row["eval/loss"] for row in epochs], "o-", markersize=3, label="validation")
    loss_axis.set(xlabel="epoch", ylabel="loss (cross entropy)", ylim=(0, None))
    quality_axis.plot(clock, [row["eval/accuracy"] for row in epochs], "o-", markersize=3, label="validation accuracy")
    quality_axis.plot(clock, [row["eval/f1_macro"] for row in epochs], ":", label="validation F1 (macro)")
    quality_axis.axhline(target, color="grey", linestyle="--", linewidth=1, label=f"target {target:g}")
    quality_axis.set(xlabel="training clock (s)", ylabel="fraction", ylim=(0, 1.02), xlim=(0, None))
    bottom = np.zeros(len(epochs))
    for phase in phases:
        heights = np.array([row[f"time/{phase}_s"] for row in epochs])
        phase_axis.bar(numbers, heights, bottom=bottom, color=PHASE_COLOURS[phase], label=phase.replace("_", " "))
        bottom += heights
    phase_axis.set(xlabel="epoch", ylabel="seconds of training", ylim=(0, 1.35 * bottom.max()))
    for axis in (loss_axis, quality_axis):
        axis.legend(frameon=False, fontsize=8)
        axis.grid(alpha=0.3)
    phase_axis.legend(frameon=False, fontsize=8, ncols=3, loc="upper center")
    figure.savefig(path, dpi=110)


def draw_confusion_matrix(matrix: npt.NDArray[np.int64], class_names: Sequence[str], title: str, path: Path) -> None:
    """Pictures [class, predicted class]; colours by share of the class, counts where there is room for them."""
    from matplotlib.figure import Figure

    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = 6.5 if len(class_names) <= MAX_LABELLED_CLASSES else 9
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, shrink=0.8, label="share of the class")
    axis.set(xlabel="predicted", ylabel="class", title=title)
    if len(class_names) <= MAX_LABELLED_CLASSES:
        axis.set_xticks(range(len(class_names)), class_names, rotation=45, ha="right", parse_math=False)
        axis.set_yticks(range(len(class_names)), class_names, parse_math=False)
        for row, column in np.ndindex(*matrix.shape):
            if matrix[row, column]:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=110)
