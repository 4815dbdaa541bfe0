"""The examples run as their first lines say, teach what they say they teach, and leave nothing behind."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
pytestmark = pytest.mark.slow


@functools.cache
def output_of(name: str, folder: Path) -> str:
    """What an example prints when it is run from an empty folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"examples.{name}"]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_and_leaves_nothing_behind(name: str, folder: Path) -> None:
    assert f".venv/bin/python -m examples.{name}" in EXAMPLES[name].read_text().partition("import")[0]
    assert output_of(name, folder)
    assert list(folder.iterdir()) == []


def test_one_run_prints_its_epochs_and_its_final_figures(folder: Path) -> None:
    lines = output_of("one_run", folder).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch ")] == ["1", "2", "3"]
    assert {"final_accuracy", "total_train_s", "mean_forward_s", "peak_host_mib"} <= {line.split()[0] for line in lines}


def test_the_technique_leaves_the_learning_curve_alone(folder: Path) -> None:
    found = re.findall(r"^(\S+) +loss ([\d. ]+)  optimizer", output_of("my_own_technique", folder), flags=re.MULTILINE)
    curves = {words: [float(loss) for loss in losses.split()] for words, losses in found}
    assert set(curves) == {"none", "foreach_optimizer"}
    assert curves["foreach_optimizer"] == pytest.approx(curves["none"], abs=2e-4)
    assert curves["none"] != pytest.approx([curves["none"][0]] * 3, abs=2e-4)  # the control: there is a curve


@pytest.mark.parametrize("name", ["my_own_data_set", "my_own_model"])
def test_what_is_ones_own_is_learned(name: str, folder: Path) -> None:
    assert re.search(r"target 0\.\d on validation +after \d", output_of(name, folder))
