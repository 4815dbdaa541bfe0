"""The entry points beside those that train one run: settings that do not collide, and imports that wait."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from accelmlf.entry_points import ENTRY_POINTS
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.run import RunConfig

ROOT = Path(__file__).parents[1]
ENTRIES = pytest.mark.parametrize("name", ENTRY_POINTS)
HEAVY = {"tune": "optuna", "ablate": "accelmlf.ablation_figures", "report": "markdown_it"}
"""What an entry point needs and a single run does not."""


def loaded_after(*statements: str) -> list[set[str]]:
    """The modules that a fresh process has after one statement and then another."""
    each = "\n".join(f"{statement}\nprint(json.dumps(sorted(sys.modules)))" for statement in statements)
    command = [sys.executable, "-c", f"import json, sys\n{each}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [set(json.loads(line)) for line in ended.stdout.splitlines() if line.startswith("[")]


@ENTRIES
def test_what_an_entry_point_sets_itself_is_a_setting_of_runs_and_what_to_give_instead_is_one_too(name: str) -> None:
    entry = ENTRY_POINTS[name]
    known = {*settable_fields(entry.record), *settable_fields(RunConfig)} - set(entry.set_by_itself)
    assert set(entry.set_by_itself) <= set(settable_fields(RunConfig))
    assert {remedy.partition("=")[0] for remedy in entry.set_by_itself.values()} <= known
    assert not set(entry.set_by_itself) & set(settable_fields(entry.record))


@ENTRIES
def test_a_setting_is_of_the_entry_point_or_of_its_runs(name: str) -> None:
    entry = ENTRY_POINTS[name]
    if entry.has_runs:
        assert not set(settable_fields(entry.record)) & set(settable_fields(RunConfig))
    else:
        assert not entry.set_by_itself
    assert set(settable_fields(entry.record))


@ENTRIES
def test_the_settings_of_an_entry_point_have_defaults_and_do_not_change(name: str) -> None:
    settings = ENTRY_POINTS[name].record()
    first = dataclasses.fields(settings)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, first, "another")


@ENTRIES
def test_an_entry_point_says_what_it_does_in_a_sentence(name: str) -> None:
    does = ENTRY_POINTS[name].does
    assert does[0].isupper() and does.endswith(".") and "\n" not in does


def test_no_entry_point_has_the_settings_of_another() -> None:
    records = [RunConfig, *(entry.record for entry in ENTRY_POINTS.values())]
    assert len(set(records)) == len(ENTRY_POINTS) + 1


def test_the_table_costs_nothing_but_the_standard_library() -> None:
    (loaded,) = loaded_after("import accelmlf.entries")
    assert "accelmlf.entries" in loaded
    assert not loaded & {"torch", "mlflow", "optuna", "scipy", "matplotlib", "markdown_it", "numpy"}


@pytest.mark.slow
def test_a_single_run_does_not_wait_for_what_others_need() -> None:
    assert set(HEAVY) == set(ENTRY_POINTS)
    first, then = loaded_after("import accelmlf.cli", "import accelmlf.tune, accelmlf.ablation, accelmlf.report")
    assert not first & set(HEAVY.values())
    assert then >= set(HEAVY.values())  # the control
