"""Ours stand in the cell that they are of, beside nothing that they cannot be compared with."""

from collections.abc import Sequence
from typing import Any

import pytest

from accelmlf.report.groups import EPOCH_WORDS, sort_runs
from accelmlf.report.paper import CELLS, Cell, paper_section, places_of
from accelmlf.tracking.stored_runs import StoredRun
from tests.report.makers import CPU, GPU, make_run, make_runs

EVERY_CELL = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.model} {cell.dataset}")


def given_by(cell: Cell, **settings: Any) -> dict[str, Any]:
    return {"model": cell.model, "dataset": cell.dataset, **settings}


def ours(cell: Cell, runs: Sequence[StoredRun]) -> dict[str, dict[str, list[int]]]:
    """Place -> arm -> of each of its groups, how many runs."""
    places = places_of(cell, sort_runs(runs).groups)
    return {
        place: {arm: [len(group.runs) for group in groups] for arm, groups in arms.items()}
        for place, arms in places.items()
    }


@EVERY_CELL
@pytest.mark.parametrize("validation", EPOCH_WORDS)
@pytest.mark.parametrize("pipeline", ["memory", "stream"])
def test_both_arms_of_a_recipe_are_one_row_of_their_cell_and_of_no_other(
    cell: Cell, validation: str, pipeline: str
) -> None:
    given = given_by(cell, validation=validation, pipeline=pipeline)
    runs = [*make_runs(3, given), *make_runs(2, {**given, "tuned": True})]
    ((place, arms),) = ours(cell, runs).items()
    assert arms == {"baseline": [3], "tuned": [2]}
    assert "Some GPU" in place and f"pipeline={pipeline}" in place and EPOCH_WORDS[validation] in place
    assert not [other for other in CELLS if other is not cell and ours(other, runs)]


@EVERY_CELL
@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 3},
        {"batch_size": 32},
        {"learning_rate": 0.5},
        {"accumulation_steps": 7},
        {"techniques": "channels_last"},
        {"techniques": "amp:bf16"},
        {"train_images": 45_000},
        {"stop_at_target": True},
        {"image_size": 16},
        {"weights": "./other.safetensors"},
        {"target_accuracy": 0.5},
        {"dataset": "digits"},
        {"dataset": "folder"},
    ],
    ids=str,
)
def test_any_other_setting_is_in_no_row(cell: Cell, change: dict[str, Any]) -> None:
    for tuned in (False, True):
        runs = make_runs(3, {**given_by(cell, tuned=tuned), **change})
        assert not [other for other in CELLS if ours(other, runs)]
        assert ours(cell, make_runs(3, given_by(cell, tuned=tuned)))  # the control


@EVERY_CELL
def test_what_a_device_left_of_tuned_is_in_no_row(cell: Cell) -> None:
    runs = make_runs(3, given_by(cell, tuned=True), hardware=CPU)
    assert {run.settings["arm"] for run in runs} == {"tuned_partial"}
    assert ours(cell, runs) == {}


def test_rows_are_of_one_machine_protocol_and_data() -> None:
    cell = CELLS[0]
    runs = [
        make_run(given=given_by(cell)),
        make_run(given=given_by(cell, tuned=True), hardware={**GPU, "gpu": "Other GPU"}),
        make_run(given=given_by(cell), hardware=CPU),
        make_run(given=given_by(cell), digest="other"),
        make_run(given=given_by(cell), tags={"accelmlf.version.torch": "2.11.0"}),
        make_run(given=given_by(cell, validation="test")),
        make_run(given=given_by(cell, pipeline="stream")),
    ]
    places = ours(cell, runs)
    assert len(places) == len(runs)
    assert all(sorted(arms.values()) == [[], [1]] for arms in places.values())


def test_techniques_with_other_options_each_have_a_row_that_names_them() -> None:
    cell = CELLS[0]
    other = {"techniques": "amp:fp16,pin_memory", "accumulation_steps": 2}
    runs = [*make_runs(3, given_by(cell, tuned=True)), *make_runs(4, given_by(cell, **other))]
    ((_, arms),) = ours(cell, runs).items()
    assert arms == {"baseline": [], "tuned": [3, 4]}
    table = next(part for part in paper_section(sort_runs(runs).groups) if part.startswith("| cell"))
    assert "n = 3, amp:bf16,pin_memory" in table and "n = 4, amp:fp16,pin_memory" in table


def test_a_mark_of_both_arms_is_told_once() -> None:
    given = {"validation": "test"}
    runs = [*make_runs(3, given), *make_runs(3, {**given, "tuned": True})]
    table = next(part for part in paper_section(sort_runs(runs).groups) if part.startswith("| cell"))
    assert table.count("validation on the test set") == 1
    assert "unfit for a claim" not in next(
        part for part in paper_section(sort_runs(make_runs(3)).groups) if part.startswith("| cell")
    )
