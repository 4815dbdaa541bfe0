"""The report: all that a tracking store holds, what can be claimed from it, and what cannot."""

import datetime
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from accelmlf import ablation_report, markdown
from accelmlf.ablation_result import ABLATION, Ablation
from accelmlf.checks import marks_of_group
from accelmlf.console import say
from accelmlf.errors import recognise, redact
from accelmlf.family import claim
from accelmlf.paper import CELLS, EPOCH_WORDS, Cell
from accelmlf.reporting import ReportConfig
from accelmlf.run_groups import PROTOCOL, REPORT, SEARCH, Group, Sorted, sort_runs
from accelmlf.stored_runs import StoredRun, experiment_named, name_of, read_runs
from accelmlf.tracking import MlflowTracker, tracking_uri

DEMONSTRATION = "digits"
RULES = (
    "Times are of the training clock: from the request for an epoch's first batch to the end of its last step. Set-up, "
    "warm-up, validation and the test are not on it. The test set is read once, at the end.",
    "Runs stand together only where settings, data, hardware and torch are the same. Ratios are given only where arms "
    "were interleaved in one ablation or confirmation, never between runs that happen to be in the same store.",
    "A run is fit for a claim where its own record has nothing against it: at least 3 repeats, no validation on the "
    "test set, no technique skipped, phases that add up, no other process on the GPU, committed code.",
)


def run_report(config: ReportConfig) -> None:
    """Read, sort, write, and keep the result in MLflow too.

    Raises:
        AccelmlfError: an experiment that is not there, a store that does not answer, a folder that cannot be written.
    """
    with MlflowTracker().run() as parent:
        claim(parent, REPORT)
        experiment_id = experiment_named(config.experiment_name) if config.experiment_name else parent.experiment_id
        runs = read_runs(experiment_id)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            text = as_markdown(runs, name_of(experiment_id), place)
            try:
                (place / "report.md").write_text(text)
                (place / "report.html").write_text(markdown.as_html(text, "accelmlf report", place))
                output = Path(config.output)
                shutil.copytree(place, output, dirs_exist_ok=True)
            except OSError as error:
                raise recognise(error, batch_size=0) from error
            parent.log_artifacts(place)
    say(f"{output / 'report.html'}, {output / 'report.md'}: {len(runs)} runs read")


def as_markdown(runs: Sequence[StoredRun], experiment: str, folder: Path) -> str:
    """The report; its pictures go to `folder`."""
    found = sort_runs(runs)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    store = redact(tracking_uri())
    measured = [group for group in found.groups if group.settings["dataset"] != DEMONSTRATION]
    demonstrated = [group for group in found.groups if group.settings["dataset"] == DEMONSTRATION]
    parts = [
        markdown.heading("What is each technique worth?", 1),
        markdown.plain(f"Experiment {experiment} in {store}, {now}: {len(runs)} runs read."),
        markdown.heading("The paper's table, and ours", 2),
        *paper_section(found.groups),
        markdown.heading("Measured", 2),
        *data_section(found, runs, measured, folder, demonstration=False),
        markdown.heading("Demonstration: the digits", 2),
        "The embedded data set of 1,797 small pictures shows that everything works, and what a technique is worth for "
        "networks and pictures of this size; it says nothing about CIFAR.",
        *data_section(found, runs, demonstrated, folder, demonstration=True),
        markdown.heading("Left out", 2),
        *left_out_section(found),
        markdown.heading("How to read this", 2),
        markdown.listed(RULES),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# --- the paper's table ---


def paper_section(groups: Sequence[Group]) -> list[str]:
    """Six cells, as published and as measured here, where it was."""
    published = [
        [f"{c.model} {c.dataset}", c.untuned_time, c.untuned_accuracy, c.tuned_time, c.tuned_accuracy, c.remark]
        for c in CELLS
    ]
    ours = [row for cell in CELLS for row in rows_of_cell(cell, groups)]
    empty = [f"{cell.model} {cell.dataset}" for cell in CELLS if not rows_of_cell(cell, groups)]
    aside = [
        f"{g.settings['model']} {g.settings['dataset']}, {g.in_words} ({len(g.runs)} runs)"
        for g in groups
        if is_other_protocol(g)
    ]
    return [
        "As published (GPU and number of runs not recorded; one clock for training and evaluation):",
        markdown.table(["", "untuned", "accuracy", "tuned", "accuracy", "remark"], published),
        "Ours (training clock, median; test accuracy, mean; n runs):" if ours else "",
        markdown.table(["", "hardware", "protocol", "untuned", "accuracy", "tuned", "accuracy"], ours) if ours else "",
        markdown.plain(f"No runs: {', '.join(empty)}.") if empty else "",
        *(["Not in this table, because their settings are not the recipe's:", markdown.listed(aside)] if aside else []),
    ]


def rows_of_cell(cell: Cell, groups: Sequence[Group]) -> list[list[str]]:
    """A row for each machine and protocol that the cell was measured on."""
    places: dict[tuple[str, str], dict[str, Group]] = {}
    for group in groups:
        settings = group.settings
        if (settings["model"], settings["dataset"]) == (cell.model, cell.dataset) and is_of_recipe(group):
            protocol = f"pipeline={settings['pipeline']}, {EPOCH_WORDS[settings['validation']]}"
            places.setdefault((group.machine, protocol), {})[group.arm] = group
    nothing = ["no runs", ""]
    return [
        [
            f"{cell.model} {cell.dataset}",
            *place,
            *_arm(arms.get("baseline"), nothing),
            *_arm(arms.get("tuned"), nothing),
        ]
        for place, arms in places.items()
    ]


def _arm(group: Group | None, nothing: list[str]) -> list[str]:
    if group is None:
        return nothing
    accuracy = group.figures("final_accuracy")
    mean = f"{sum(accuracy) / len(accuracy):.2%}" if accuracy else ""
    note = " (unfit for a claim)" if group.marks else ""
    return [f"{duration(group.median('total_train_s'))}, n = {len(group.runs)}{note}", mean]


def is_of_recipe(group: Group) -> bool:
    """Whether only what is named in the table may differ from the paper's recipe."""
    return group.arm in ("baseline", "tuned") and not set(group.departures()) - set(PROTOCOL)


def is_other_protocol(group: Group) -> bool:
    cells = {(cell.model, cell.dataset) for cell in CELLS}
    return (group.settings["model"], group.settings["dataset"]) in cells and not is_of_recipe(group)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.2f} h"
    )


# --- groups, ablations, searches ---


def data_section(
    found: Sorted, runs: Sequence[StoredRun], groups: Sequence[Group], folder: Path, *, demonstration: bool
) -> list[str]:
    """What was measured on some data: ablations first, because they alone compare."""

    def here(run: StoredRun) -> bool:
        return (run.settings["dataset"] == DEMONSTRATION) is demonstration

    ablations = [part for run in found.parents[ABLATION] if here(run) for part in ablation_part(run, runs, folder)]
    searches = [part for run in found.parents[SEARCH] if here(run) for part in search_part(run, runs)]
    parts = []
    if ablations:
        parts += [markdown.heading("Ablations", 3), *ablations]
    if searches:
        parts += [markdown.heading("Searches", 3), *searches]
    if groups:
        parts += [markdown.heading("Runs", 3), *group_part(groups)]
    return parts or ["No runs."]


def ablation_part(parent: StoredRun, runs: Sequence[StoredRun], folder: Path) -> list[str]:
    ablation = Ablation.of(parent, [run for run in runs if run.study_id == parent.study_id])
    ablation_report.draw(folder, ablation, prefix=f"{parent.run_id[:8]}-")
    pictures = [
        markdown.picture(title, f"{parent.run_id[:8]}-{name}") for name, title in ablation_report.PICTURES.items()
    ]
    return [ablation_report.as_markdown(ablation, level=4), *pictures]


def search_part(parent: StoredRun, runs: Sequence[StoredRun]) -> list[str]:
    tags, settings = parent.tags, parent.settings
    confirming = [r for r in runs if r.study_id == parent.study_id and r.kind == "confirmation" and r.has_ended_well]
    repeats = int(parent.metrics.get("confirmed_reached", 0))
    against = marks_of_group(confirming, repeats) if confirming else ["not confirmed"]
    facts = [
        f"{settings['model']} on {settings['dataset']}, pipeline {settings['pipeline']}, "
        f"target {settings['target_accuracy']}, on {parent.machine}",
        f"{int(parent.metrics.get('finished_trials', 0))} trials, ended by {tags.get('accelmlf.ended_at', '?')}",
        tags.get("accelmlf.verdict", "no verdict recorded"),
        *([f"unfit for a claim: {'; '.join(against)}"] if against else []),
    ]
    commands = [tags[name] for name in ("accelmlf.command", "accelmlf.winner_command") if name in tags]
    name = tags.get("accelmlf.study", parent.name)
    return [markdown.heading(name, 4), markdown.listed(facts), markdown.code("\n".join(commands)) if commands else ""]


def group_part(groups: Sequence[Group]) -> list[str]:
    """A table per data set, model and hardware: what stands in one table may be looked at together."""
    tables: dict[str, list[Group]] = {}
    for group in groups:
        settings = group.settings
        title = f"{settings['model']} on {settings['dataset']}, {group.machine}, data {group.runs[0].data_digest}"
        tables.setdefault(title, []).append(group)
    head = ["arm", "runs", "training", "s per epoch", "time to target", "test accuracy", "fit for a claim"]
    parts = []
    for title, members in tables.items():
        commands = [group.command for group in members if group.command]
        parts += [markdown.plain(title), markdown.table(head, [group_row(group) for group in members])]
        parts.append(markdown.code("\n".join(commands)) if commands else "")
    return parts


def group_row(group: Group) -> list[str]:
    accuracy = group.figures("final_accuracy")
    n, reached = len(group.runs), group.reached
    at_target = duration(group.median("time_to_accuracy_s")) if reached == n else f"reached in {reached} of {n}"
    spread = f"{sum(accuracy) / n:.4f} ({min(accuracy):.4f} to {max(accuracy):.4f})" if len(accuracy) == n else ""
    return [
        group.in_words,
        f"{n} (seeds {', '.join(map(str, group.seeds))})",
        duration(group.median("total_train_s")),
        f"{group.median('median_epoch_s') or 0:.2f}",
        at_target,
        spread,
        "no: " + "; ".join(group.marks) if group.marks else "yes",
    ]


def left_out_section(found: Sorted) -> list[str]:
    """What is in no table above, and why."""
    if not found.left_out:
        return ["Nothing."]
    return [markdown.table(["runs", "why", "which"], [left_out_row(*item) for item in found.left_out.items()])]


def left_out_row(reason: str, runs: Sequence[StoredRun]) -> list[str]:
    names = [run.name for run in runs[:5]]
    return [str(len(runs)), reason, ", ".join(names) + (", ..." if len(runs) > 5 else "")]
