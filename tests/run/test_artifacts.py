import csv
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from accelmlf.measure.cost import PHASES, Cost
from accelmlf.measure.quality import Quality
from accelmlf.measure.records import EpochMetrics, Position, RunSummary
from accelmlf.models.families import build_model
from accelmlf.run.artifacts import write_closing, write_opening
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import MODEL_FILE, RunConfig

NAMES = ("cat", "dog", "fish")


def quality(loss: float = 0.5) -> Quality:
    return Quality(loss, np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2]), 3)


def epochs(count: int, **measured: Any) -> list[EpochMetrics]:
    phases = dict.fromkeys(PHASES, 0.25)
    return [
        EpochMetrics(
            Position(number, 2.0 * number), 1 / number, 0.01, None, quality(), Cost(2.0, phases, 40, **measured), 0.5
        )
        for number in range(1, count + 1)
    ]


def summary() -> RunSummary:
    figures: dict[str, Any] = {field.name: 1.0 for field in dataclasses.fields(RunSummary)}
    return RunSummary(**(figures | {"outcome": "completed", "test": quality(), "total": epochs(1)[0].cost}))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model("vit", "random", num_classes=3, image_size=8)


def config(**settings: Any) -> RunConfig:
    return resolve({"model": "vit", "dataset": "digits", **settings})


def test_a_run_opens_with_its_settings_and_its_machine(tmp_path: Path) -> None:
    write_opening(tmp_path, config(epochs=7), {"hardware": {"cpu": "some"}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "environment.json"]
    assert json.loads((tmp_path / "config.json").read_text()) == config(epochs=7).as_texts() != config().as_texts()
    assert json.loads((tmp_path / "environment.json").read_text()) == {"hardware": {"cpu": "some"}}


@pytest.mark.parametrize("save_model", [True, False])
def test_a_run_closes_with_the_files_of_the_contract(tmp_path: Path, model: nn.Module, save_model: bool) -> None:
    write_closing(tmp_path, config(save_model=save_model), epochs(2), summary(), NAMES, model)
    expected = {"epochs.csv", "curves.png", "confusion_matrix.png", "classification_report.json"}
    assert {path.name for path in tmp_path.iterdir()} == expected | ({MODEL_FILE} if save_model else set())
    for name in ("curves.png", "confusion_matrix.png"):
        with Image.open(tmp_path / name) as image:
            assert np.array(image).std() > 5


@pytest.mark.parametrize("measured", [{}, {"host_peak_mib": 100.5, "gpu_joules": 7.25}])
def test_the_table_of_epochs_has_a_row_per_epoch_and_a_column_per_metric(
    tmp_path: Path, model: nn.Module, measured: dict[str, float]
) -> None:
    run = epochs(3, **measured)
    write_closing(tmp_path, config(), run, summary(), NAMES, model)
    with (tmp_path / "epochs.csv").open(newline="") as file:
        rows = [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]
    assert rows == [{"epoch": epoch.epoch, **epoch.as_metrics()} for epoch in run]
    assert [row["train/loss"] for row in rows] == pytest.approx([1, 1 / 2, 1 / 3])
    assert ("energy/gpu_joules" in rows[0]) == bool(measured)


def test_the_report_is_plain_json_and_of_the_test_set(tmp_path: Path, model: nn.Module) -> None:
    write_closing(tmp_path, config(), epochs(1), summary(), NAMES, model)
    report = json.loads((tmp_path / "classification_report.json").read_text())
    assert {*NAMES, "macro avg"} <= report.keys()
    assert math.isclose(report["macro avg"]["f1-score"], quality().f1_macro)


def test_the_weights_that_were_saved_build_the_model_again(tmp_path: Path, model: nn.Module) -> None:
    write_closing(tmp_path, config(), epochs(1), summary(), NAMES, model)
    again = build_model("vit", str(tmp_path / MODEL_FILE), num_classes=3, image_size=8)
    torch.manual_seed(1)
    other = build_model("vit", "random", num_classes=3, image_size=8)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert not torch.equal(next(other.parameters()), next(model.parameters()))


@pytest.mark.slow
def test_a_run_loads_what_draws_only_when_it_draws(tmp_path: Path) -> None:
    code = f"""
import sys
from accelmlf.run import artifacts, one_run
print("matplotlib" in sys.modules)
artifacts.draw_confusion_matrix(artifacts.np.eye(2), ["cat", "dog"], "", {str(tmp_path / "matrix.png")!r})
print("matplotlib" in sys.modules)"""
    root = Path(__file__).parents[2]
    said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "True"]
