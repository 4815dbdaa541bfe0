"""The paper's table with ours in it."""

import itertools
import statistics
from collections.abc import Sequence

from accelmlf import markdown
from accelmlf.commands import command_line
from accelmlf.designs import BASELINE, TUNED
from accelmlf.paper import CELLS, EPOCH_WORDS, Cell
from accelmlf.run_groups import Group, duration, numbered


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
            settings = {"model": cell.model, "dataset": cell.dataset, "design": "preset", "repeats": "3"}
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
        markdown.table(head, rows),
        *(["Not in this table, because they are not the recipe's arms:", markdown.listed(aside)] if aside else []),
        markdown.code("\n".join(commands)),
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
