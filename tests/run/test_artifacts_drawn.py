import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from accelmlf.measure.cost import PHASE_COLOURS, PHASES
from accelmlf.run.artifacts import draw_confusion_matrix, draw_curves
from tests.pixels import drawn

ALL_PHASES = (*PHASES, "other")


def epochs(count: int, *, final_accuracy: float = 0.9, phase_s: float = 0.5) -> list[dict[str, float]]:
    return [
        {
            "train/loss": 2 / number,
            "eval/loss": 2.5 / number,
            "eval/accuracy": final_accuracy * number / count,
            "eval/f1_macro": 0.9 * final_accuracy * number / count,
            "time/elapsed_train_s": 4.0 * number,
            **{f"time/{phase}_s": phase_s for phase in ALL_PHASES},
        }
        for number in range(1, count + 1)
    ]


def curves(path: Path, rows: list[dict[str, float]], target: float = 0.8) -> npt.NDArray[np.uint8]:
    draw_curves(rows, ALL_PHASES, target, "a title", path)
    return drawn(path)


def confusion(path: Path, matrix: npt.NDArray[np.int64], names: list[str]) -> npt.NDArray[np.uint8]:
    draw_confusion_matrix(matrix, names, "a title", path)
    return drawn(path)


def test_every_phase_has_a_colour_of_its_own() -> None:
    assert set(PHASE_COLOURS) == set(ALL_PHASES)
    assert len(set(PHASE_COLOURS.values())) == len(ALL_PHASES)


@pytest.mark.parametrize("count", [1, 2, 60])
def test_curves_are_drawn_for_any_number_of_epochs(tmp_path: Path, count: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert curves(tmp_path / "curves.png", epochs(count)).shape == (440, 1430, 3)


def test_the_curves_show_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    plain = curves(path, epochs(3))
    assert np.array_equal(curves(path, epochs(3)), plain)
    assert not np.array_equal(curves(path, epochs(3, final_accuracy=0.7)), plain)
    assert not np.array_equal(curves(path, epochs(3), target=0.6), plain)
    slow = epochs(3)
    slow[1]["time/forward_s"] *= 2
    assert not np.array_equal(curves(path, slow), plain)


@pytest.mark.parametrize("phases", [("forward", "backward"), ("data_wait", "augment", "other"), ALL_PHASES])
def test_only_the_phases_that_were_measured_are_drawn(tmp_path: Path, phases: tuple[str, ...]) -> None:
    rows = epochs(3)
    for row in rows:
        for phase in set(ALL_PHASES) - set(phases):
            del row[f"time/{phase}_s"]
    draw_curves(rows, phases, 0.8, "a title", tmp_path / "curves.png")
    colours, counts = np.unique(drawn(tmp_path / "curves.png").reshape(-1, 3), axis=0, return_counts=True)
    bars = {f"#{bytes(colour).hex()}" for colour, count in zip(colours, counts, strict=True) if count > 3000}
    assert {phase for phase, colour in PHASE_COLOURS.items() if colour in bars} == set(phases)


@pytest.mark.parametrize(("classes", "side"), [(2, 715), (20, 715), (21, 990), (100, 990)])
def test_a_confusion_matrix_has_room_for_its_classes(tmp_path: Path, classes: int, side: int) -> None:
    matrix = np.eye(classes, dtype=np.int64) * 30
    names = [f"class {number}" for number in range(classes)]
    found = confusion(tmp_path / "matrix.png", matrix, names)
    assert found.shape == (side, side, 3)
    matrix[0, 1] = 30
    assert not np.array_equal(confusion(tmp_path / "matrix.png", matrix, names), found)


def test_a_class_without_pictures_is_drawn_and_divides_by_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        confusion(tmp_path / "matrix.png", np.array([[3, 1], [0, 0]]), ["cat", "dog"])


@pytest.mark.parametrize("name", ["a$x^$b", "50$_{", "under_score^", "<b>&", "%s {0}", "é ü ß"])
def test_a_class_may_be_called_anything(tmp_path: Path, name: str) -> None:
    matrix = np.array([[3, 1], [1, 3]])
    found = confusion(tmp_path / "matrix.png", matrix, [name, "dog"])
    assert not np.array_equal(confusion(tmp_path / "matrix.png", matrix, ["cat", "dog"]), found)
