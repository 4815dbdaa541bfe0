"""The paper's published results, and ours in their places.

Source: Accelerating Neural Network Training: A Brief Review (arXiv 2312.10024), its tables and the logs of its code.
"""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from accelmlf import text
from accelmlf.ablation.settings import BASELINE, RUNS, TUNED
from accelmlf.report.groups import EPOCH_WORDS, Group, numbered
from accelmlf.settings.commands import command_line
from accelmlf.text import duration


@dataclass(frozen=True)
class Cell:
    """One model on one data set, as published. The GPU is recorded nowhere."""

    model: str
    dataset: str
    untuned_time: str
    untuned_accuracy: str
    tuned_time: str
    tuned_accuracy: str
    remark: str


CELLS = (
    Cell("resnet50", "cifar10", "86 min", "92 %", "46 min", "92 %", "one accuracy for both"),
    Cell(
        "resnet50",
        "cifar100",
        "85 min",
        "75.2 %",
        "18 min",
        "75.2 %",
        "one accuracy for both; the 18 min are of another machine",
    ),
    Cell("efficientnet_b0", "cifar10", "1.8 h", "96.45 %", "1 h", "95.93 %", "its logs say 1:42:12 and 1:11:49"),
    Cell(
        "efficientnet_b0", "cifar100", "1.7 h", "83.63 %", "1.1 h", "about 81 %", "train and test are swapped in print"
    ),
    Cell(
        "vit", "cifar10", "4.2 h", "97 %", "2 h", "97 %", "one accuracy for both; 4.2 h is estimated from 5 % of a run"
    ),
    Cell("vit", "cifar100", "6.2 h", "not given", "2.5 h", "84 % (training)", "under-trained: loss near 2.5"),
)


def paper_section(groups: Sequence[Group]) -> list[str]:
    """Six cells, as published and, right below, as measured here."""
    head = ["cell", "measured by", "untuned", "accuracy", "tuned", "accuracy", "remark"]
    rows: list[list[str]] = []
    commands: list[str] = []
    for cell in CELLS:
        name = f"{cell.model} {cell.dataset}"
        figures = [cell.untuned_time, cell.untuned_accuracy, cell.tuned_time, cell.tuned_accuracy]
        rows.append([name, "the paper", *figures, cell.remark])
        places = places_of(cell, groups)
        for place, arms in places.items():
            pairs = itertools.zip_longest(arms[BASELINE], arms[TUNED])
            rows += [
                [name, place, *arm_cells(one), *arm_cells(other), marks_in_words((one, other))] for one, other in pairs
            ]
            commands += [numbered(f"{name}, {group.in_words}", group) for group in (*arms[BASELINE], *arms[TUNED])]
        if not places:
            settings = {"model": cell.model, "dataset": cell.dataset, "design": "preset"}
            settings |= {"measure": RUNS, "repeats": "3"}
            rows.append([name, "here", "no runs", "", "no runs", "", ""])
            commands.append(f"# to measure {name}\n{command_line('ablate', settings)}")
    cells = {(cell.model, cell.dataset) for cell in CELLS}
    aside = [
        f"{group.settings['model']} {group.settings['dataset']}, {group.in_words} ({len(group.runs)} runs)"
        for group in groups
        if (group.settings["model"], group.settings["dataset"]) in cells and group.preset is None
    ]
    return [
        "The paper has one clock for training and evaluation, and records neither its GPU nor how often it ran; our "
        "clock is that of training alone, the median of n runs, and our accuracy the mean on the test set.",
        "The paper loads pictures as pipeline=stream does; what memory pinning is worth has to be asked there.",
        text.table(head, rows),
        *(["Not in this table, because they are not the recipe's arms:", text.listed(aside)] if aside else []),
        text.code("\n".join(commands)),
    ]


def places_of(cell: Cell, groups: Sequence[Group]) -> dict[str, dict[str, list[Group]]]:
    """Machine and protocol -> arm -> its groups; more than one where techniques differ in their options."""
    places: dict[str, dict[str, list[Group]]] = {}
    for group in groups:
        settings = group.settings
        if (settings["model"], settings["dataset"]) == (cell.model, cell.dataset) and group.preset is not None:
            data = f"data {group.runs[0].data_digest}"
            words = f"pipeline={settings['pipeline']}, {EPOCH_WORDS[settings['validation']]}, {data}"
            place = places.setdefault(f"here: {group.machine}, {words}", {BASELINE: [], TUNED: []})
            place[group.preset].append(group)
    return places


def arm_cells(group: Group | None) -> list[str]:
    """Time and accuracy of an arm."""
    if group is None:
        return ["no runs", ""]
    accuracy = group.accuracies()
    mean = f"{statistics.fmean(accuracy):.2%}" if accuracy else ""
    techniques = "" if group.settings["techniques"] == "none" else f", {group.settings['techniques']}"
    return [f"{duration(group.median('total_train_s'))}, n = {len(group.runs)}{techniques}", mean]


def marks_in_words(groups: Sequence[Group | None]) -> str:
    marks = dict.fromkeys(mark for group in groups if group is not None for mark in group.marks)
    return f"unfit for a claim: {'; '.join(marks)}" if marks else ""
