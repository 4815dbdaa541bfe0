"""The report: all that an experiment of a tracking store holds, what can be claimed from it, and what cannot."""

import datetime
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

from accelmlf import text
from accelmlf.ablation import tables
from accelmlf.ablation.files import PICTURES, draw, pictures_of
from accelmlf.ablation.marks import unfit_in_words
from accelmlf.ablation.result import Ablation
from accelmlf.errors import DiskError, redact
from accelmlf.many_runs.claims import marks_of_group
from accelmlf.many_runs.opened import recorded
from accelmlf.report.groups import Group, Sorted, numbered, sort_runs
from accelmlf.report.paper import paper_section
from accelmlf.report.settings import ReportConfig
from accelmlf.settings.recipes import DEMONSTRATIONS
from accelmlf.text import counted, duration, say, short
from accelmlf.tracking.store import Store
from accelmlf.tracking.stored_runs import StoredRun
from accelmlf.tracking.tags import (
    ABLATION,
    COMMAND,
    CONFIRMATION,
    ENDED_AT,
    POINT,
    REPORT,
    SEARCH,
    STUDY,
    VERDICT,
    WINNER_COMMAND,
)

ID_CHARS = 8
"""Of a run's id, in the names of its pictures."""
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
    with recorded(REPORT, name="report") as parent:
        store, name = parent.store, config.experiment_name
        experiment_id = store.experiment_named(name) if name else parent.run.experiment_id
        runs = store.read_runs(experiment_id)
        parent.run.log_written(write, store, runs, experiment_id, Path(config.output))
    output = Path(config.output).resolve()
    first = "" if num_read(runs) else ". First: scripts/run -e resnet50 -P tuned=true"
    say(f"{output / 'report.html'} and report.md beside it: {counted(num_read(runs), 'run')} read{first}")


def write(folder: Path, store: Store, runs: Sequence[StoredRun], experiment_id: str, output: Path) -> None:
    """report.md, report.html and the pictures, and all of them in `output`."""
    document = as_markdown(store, runs, experiment_id, folder)
    (folder / "report.md").write_text(document)
    (folder / "report.html").write_text(text.as_html(document, "accelmlf report", folder))
    copy(folder, output)


def copy(files: Path, output: Path) -> None:
    """Every file of a folder into another one, which need not be there; pictures of former reports go.

    Raises:
        DiskError: it is no folder, or one that cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name in PICTURES:
            for former in output.glob(f"{'[0-9a-f]' * ID_CHARS}-{name}"):
                former.unlink()
        for path in files.iterdir():
            shutil.copyfile(path, output / path.name)
    except OSError as error:
        rule = error.strerror or str(error)
        raise DiskError("output", output, rule, "Give a folder that can be written") from None


def num_read(runs: Sequence[StoredRun]) -> int:
    """Without the reports themselves."""
    return sum(run.kind != REPORT for run in runs)


def as_markdown(store: Store, runs: Sequence[StoredRun], experiment_id: str, folder: Path) -> str:
    """The report; its pictures go to `folder`."""
    found = sort_runs(runs)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    names = store.experiments()
    others = [name for other, name in names.items() if other != experiment_id]
    measured = [group for group in found.groups if group.settings["dataset"] not in DEMONSTRATIONS]
    demonstrated = [group for group in found.groups if group.settings["dataset"] in DEMONSTRATIONS]
    parts = [
        text.heading("What is each technique worth?", 1),
        text.plain(f"Experiment {names[experiment_id]} in {redact(store.uri)}, {now}: {num_read(runs)} runs read."),
        text.plain(f"Not read (experiment_name=...): {', '.join(others)}.") if others else "",
        *short_section(found, runs),
        text.heading("The paper's table, and ours", 2),
        *paper_section(found.groups),
        text.heading("Measured", 2),
        *data_section(store, found, runs, measured, folder, demonstration=False),
        text.heading("Demonstration", 2),
        f"The embedded pictures ({', '.join(DEMONSTRATIONS)}) show that everything works, and what a technique is "
        "worth for networks and pictures of this size; they say nothing about CIFAR.",
        *data_section(store, found, runs, demonstrated, folder, demonstration=True),
        text.heading("Left out", 2),
        *left_out_section(found),
        text.heading("How to read this", 2),
        text.listed(RULES),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def data_section(
    store: Store,
    found: Sorted,
    runs: Sequence[StoredRun],
    groups: Sequence[Group],
    folder: Path,
    *,
    demonstration: bool,
) -> list[str]:
    """What was measured on some data: ablations first, because they alone compare."""

    def here(run: StoredRun) -> bool:
        return (run.settings["dataset"] in DEMONSTRATIONS) is demonstration

    ablations = [
        part for run in found.parents[ABLATION] if here(run) for part in ablation_part(store, run, runs, folder)
    ]
    searches = [part for run in found.parents[SEARCH] if here(run) for part in search_part(run, runs)]
    parts = []
    if ablations:
        parts += [text.heading("Ablations", 3), *ablations]
    if searches:
        parts += [text.heading("Searches", 3), *searches]
    if groups:
        parts += [text.heading("Runs", 3), *group_part(groups)]
    return parts or ["No runs."]


def short_section(found: Sorted, runs: Sequence[StoredRun]) -> list[str]:
    """All verdicts in one table, before everything else."""
    rows = []
    for parent in found.parents[ABLATION]:
        ablation = ablation_of(parent, runs)
        mark = ", a demonstration" if parent.settings["dataset"] in DEMONSTRATIONS else ""
        mark += "".join(f", {line.partition(':')[0]}" for line in unfit_in_words(ablation))
        titles = [ablation.question + mark, *[""] * len(ablation.design.contrasts)]
        rows += [[title, *row] for title, row in zip(titles, tables.verdict_rows(ablation), strict=False)]
    rows += [
        [f"search: {parent.tags.get(STUDY, parent.name)}", "", "", parent.tags.get(VERDICT, "")]
        for parent in found.parents[SEARCH]
    ]
    head = ["asked", "factor", "speed", "time to accuracy"]
    return [text.heading("In short", 2), text.table(head, rows)] if rows else []


def ablation_of(parent: StoredRun, runs: Sequence[StoredRun]) -> Ablation:
    return Ablation.of(parent, [run for run in runs if run.study_id == parent.study_id])


def ablation_part(store: Store, parent: StoredRun, runs: Sequence[StoredRun], folder: Path) -> list[str]:
    ablation = ablation_of(parent, runs)
    mark = f"{parent.run_id[:ID_CHARS]}-"
    draw(folder, store, ablation, prefix=mark)
    pictures = [text.picture(title, mark + name) for name, title in pictures_of(ablation).items()]
    return [tables.as_markdown(ablation, level=4, pictures=pictures)]


def search_part(parent: StoredRun, runs: Sequence[StoredRun]) -> list[str]:
    tags, settings = parent.tags, parent.settings
    facts = [
        f"{settings['model']} on {settings['dataset']}, pipeline={settings['pipeline']}, "
        f"target {settings['target_accuracy']}, on {parent.machine}",
        f"{int(parent.metrics.get('finished_trials', 0))} trials, ended by {tags.get(ENDED_AT, '?')}",
        tags.get(VERDICT, "no verdict: recorded by an earlier version"),
    ]
    repeats, reached = (int(parent.metrics.get(f"confirmed_{name}", 0)) for name in ("repeats", "reached"))
    if repeats:
        facts.append(f"the winner reached the target in {reached} of {repeats} confirming runs")
        if (seconds := parent.metrics.get("confirmed_time_to_accuracy_s")) is not None:
            facts[-1] += f", after {duration(seconds)} of training (geometric mean)"
    if against := marks_of_group(confirming_runs(parent, runs), repeats):
        facts.append(f"unfit for a claim: {'; '.join(against)}")
    commands = [tags[name] for name in (COMMAND, WINNER_COMMAND) if name in tags]
    name = tags.get(STUDY, parent.name)
    return [text.heading(name, 4), text.listed(facts), text.code("\n".join(commands)) if commands else ""]


def confirming_runs(parent: StoredRun, runs: Sequence[StoredRun]) -> list[StoredRun]:
    """Of each setting and seed the last. Settings that a larger search has dropped since are among them."""
    of_study = [run for run in runs if run.study_id == parent.study_id and run.kind == CONFIRMATION]
    last = {(run.tags.get(POINT), run.settings.get("seed")): run for run in of_study if run.has_ended_well}
    return list(last.values())


def group_part(groups: Sequence[Group]) -> list[str]:
    """A table per data set, model and hardware: what stands in one table may be looked at together."""
    by_title: dict[str, list[Group]] = {}
    for group in groups:
        settings = group.settings
        title = f"{settings['model']} on {settings['dataset']}, {group.machine}, data {group.runs[0].data_digest}"
        by_title.setdefault(title, []).append(group)
    head = ["#", "arm", "runs", "training", "s per epoch", "time to target", "test accuracy", "fit for a claim"]
    parts = []
    for title, members in by_title.items():
        rows = [[str(number), *group_row(group)] for number, group in enumerate(members, 1)]
        commands = [numbered(str(number), group) for number, group in enumerate(members, 1)]
        parts += [text.plain(title), text.table(head, rows), text.code("\n".join(commands))]
    return parts


def group_row(group: Group) -> list[str]:
    accuracy, epoch_s = group.accuracies(), group.median("median_epoch_s")
    reached, n = group.reached
    at_target = duration(group.median("time_to_accuracy_s")) if reached == n else f"reached in {reached} of {n}"
    spread = f"{statistics.fmean(accuracy):.4f} ({min(accuracy):.4f} to {max(accuracy):.4f})" if accuracy else ""
    return [
        group.in_words,
        f"{len(group.runs)} (seed{'s' * (len(group.seeds) > 1)} {', '.join(map(str, group.seeds))})",
        duration(group.median("total_train_s")),
        "" if epoch_s is None else short(epoch_s),
        at_target,
        spread,
        "no: " + "; ".join(group.marks) if group.marks else "yes",
    ]


def left_out_section(found: Sorted) -> list[str]:
    """What is in no table above, and why."""
    if not found.left_out:
        return ["Nothing."]
    return [text.table(["runs", "why", "which"], [left_out_row(*item) for item in found.left_out.items()])]


def left_out_row(reason: str, runs: Sequence[StoredRun]) -> list[str]:
    names = [run.name for run in runs[:5]]
    return [str(len(runs)), reason, ", ".join(names) + (", ..." if len(runs) > 5 else "")]
