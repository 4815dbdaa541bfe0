"""The entry points: settings that do not collide, and imports that wait until they are needed."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from accelmlf.entry_points import ENTRY_POINTS
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.run import RunConfig
from tests.test_cli import run_cli

ROOT = Path(__file__).parents[1]
ENTRIES = pytest.mark.parametrize("name", ENTRY_POINTS)
OWN = {name: entry.settings_class for name, entry in ENTRY_POINTS.items() if entry.settings_class is not None}
WITH_SETTINGS = pytest.mark.parametrize("name", OWN)
HEAVY = ("torch", "torchvision", "timm", "transformers", "mlflow", "optuna", "matplotlib", "scipy", "sklearn", "numpy")


@ENTRIES
def test_what_an_entry_point_sets_itself_is_a_setting_of_runs_and_what_to_give_instead_is_one_too(name: str) -> None:
    entry = ENTRY_POINTS[name]
    own = set(settable_fields(OWN[name])) if name in OWN else set()
    known = {*own, *settable_fields(RunConfig)} - set(entry.set_by_itself)
    assert set(entry.set_by_itself) | set(entry.defaults) <= set(settable_fields(RunConfig))
    remedies = {remedy.partition("=")[0] for remedy in entry.set_by_itself.values()}
    assert remedies <= known or remedies == {"another entry point, or main with model"}
    assert not set(entry.set_by_itself) & own


@ENTRIES
def test_a_setting_is_of_the_entry_point_or_of_its_runs(name: str) -> None:
    entry = ENTRY_POINTS[name]
    if entry.takes_runs and name in OWN:
        assert not set(settable_fields(OWN[name])) & set(settable_fields(RunConfig))
    assert entry.takes_runs or (not entry.set_by_itself and not entry.defaults)


@WITH_SETTINGS
def test_the_settings_of_an_entry_point_have_defaults_and_do_not_change(name: str) -> None:
    settings = OWN[name]()
    first = dataclasses.fields(settings)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, first, "another")


@ENTRIES
def test_an_entry_point_says_what_it_does_in_a_sentence(name: str) -> None:
    does = ENTRY_POINTS[name].does
    assert does[0].isupper() and does.endswith(".") and "\n" not in does


def test_no_entry_point_has_the_settings_of_another() -> None:
    assert len({RunConfig, *OWN.values()}) == len(OWN) + 1


# --- what is imported for an answer ---


def loaded_after(*arguments: str) -> set[str]:
    """Which of the heavy packages a command has imported when it ends."""
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('LOADED', *(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr))\n"
        "from accelmlf.cli import main\n"
        f"main({arguments!r})\n"
    )
    environment = {name: text for name, text in os.environ.items() if name != "MLFLOW_RUN_ID"}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("LOADED")]
    return set(line.split()[1:])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("tune", "--help"),
        ("resnet50", "--epohcs", "3"),
        ("resnet",),
        ("main", "--model", "resnet"),
        ("ablate", "--repeats", "0"),
        ("tune", "--model", "resnet5"),
        ("tune", "--validation", "test"),
        ("ablate", "--design", "preset", "--techniques", "amp"),
        ("ablate", "--factors", "amp,amp"),
        ("ablate", "--techniques", "auto"),
        ("tune", "--techniques", "auto"),
    ],
    ids=" ".join,
)
def test_help_and_a_usage_error_import_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert loaded_after(*arguments) == set()


@pytest.mark.parametrize("entry", ["tune", "ablate"])
@pytest.mark.parametrize("dry_run", [(), ("--dry_run",)], ids=["", "dry run"])
def test_techniques_that_are_to_be_chosen_are_refused_in_one_line_by_what_is_a_measurement_itself(
    entry: str, dry_run: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = "techniques=auto: it is a measurement itself, and of a single run. Leave techniques out"
    assert run_cli(capsys, entry, "--techniques", "auto", *dry_run) == (2, "", f"accelmlf: error: {refusal}\n")


def test_a_dry_run_chooses_no_techniques_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("resnet50", "--dry_run", "--device", "cpu")
    code, said, _ = run_cli(capsys, *command, "--techniques", "auto")
    line, _, plan = said.partition("\n")
    assert line == "techniques=auto: a measurement chooses them, which a dry run does not make; without any:"
    assert run_cli(capsys, *command) == (code, plan, "") == (0, plan, "")


def test_a_dry_run_imports_torch_and_nothing_that_only_a_run_needs() -> None:
    loaded = loaded_after("resnet50", "--dry_run", "--device", "cpu")
    assert "torch" in loaded  # the control: it asks for the device
    assert not loaded & {"mlflow", "optuna", "matplotlib", "torchvision", "timm", "transformers", "scipy", "sklearn"}
