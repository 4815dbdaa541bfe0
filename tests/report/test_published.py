"""What is said to be published is what was published."""

import dataclasses
import re

import pytest

from accelmlf.data.datasets import DATASETS
from accelmlf.models.families import MODELS
from accelmlf.report.groups import EPOCH_WORDS
from accelmlf.report.paper import CELLS, Cell
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.recipes import RECIPES
from accelmlf.settings.run import RunConfig


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of the paper's tables, with the figures of its logs where the tables are rounded or mixed up."""

    untuned_min: float
    tuned_min: float
    untuned_percent: float | None
    tuned_percent: float
    is_of_training: bool = False
    says: tuple[str, ...] = ()


PUBLISHED = {
    ("efficientnet_b0", "cifar10"): Published(1.8 * 60, 60, 96.45, 95.93, says=("1:42:12", "1:11:49")),
    ("vit", "cifar10"): Published(4.2 * 60, 2 * 60, 97, 97, says=("estimat", "5 %")),
    ("resnet50", "cifar10"): Published(86, 46, 92, 92),
    ("efficientnet_b0", "cifar100"): Published(1.7 * 60, 1.1 * 60, 83.63, 81, says=("swapped",)),
    ("resnet50", "cifar100"): Published(85, 18, 75.2, 75.2, says=("18 min", "machine")),
    ("vit", "cifar100"): Published(6.2 * 60, 2.5 * 60, None, 84, is_of_training=True, says=("2.5", "under-trained")),
}


def minutes(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"min": 1, "h": 60}[unit]


def percent(text: str) -> float | None:
    found = re.search(r"([\d.]+) %", text)
    return None if found is None else float(found[1])


def row_of(cell: Cell) -> tuple[str, str]:
    return cell.model, cell.dataset


def test_each_cell_is_there_once() -> None:
    assert sorted(map(row_of, CELLS)) == sorted(PUBLISHED)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.model} {cell.dataset}")
def test_a_cell_holds_the_published_figures(cell: Cell) -> None:
    published = PUBLISHED[row_of(cell)]
    assert minutes(cell.untuned_time) == pytest.approx(published.untuned_min)
    assert minutes(cell.tuned_time) == pytest.approx(published.tuned_min)
    assert percent(cell.untuned_accuracy) == published.untuned_percent
    assert percent(cell.tuned_accuracy) == published.tuned_percent
    assert ("training" in cell.tuned_accuracy) is published.is_of_training
    for words in published.says:
        assert words in cell.remark


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.model} {cell.dataset}")
def test_no_two_cells_have_been_mixed_up(cell: Cell) -> None:
    """The control: any other row of the publication would be noticed."""
    for other in CELLS:
        times = minutes(other.untuned_time), minutes(other.tuned_time)
        published = PUBLISHED[row_of(cell)]
        assert (times == pytest.approx((published.untuned_min, published.tuned_min))) is (other is cell)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.model} {cell.dataset}")
def test_a_cell_can_be_measured(cell: Cell) -> None:
    assert cell.model in MODELS
    assert cell.dataset in DATASETS
    assert {(model, dataset) for model, dataset, _ in RECIPES} >= {row_of(cell)}


def test_every_way_of_validation_says_what_its_epochs_are() -> None:
    assert set(EPOCH_WORDS) == set(settable_fields(RunConfig)["validation"].metadata["choices"])
    assert "45,000-picture epochs" in EPOCH_WORDS["split"]
    assert "50,000-picture epochs" in EPOCH_WORDS["test"] and "test set watched" in EPOCH_WORDS["test"]
