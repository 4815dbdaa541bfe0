"""What an ablation leaves: its verdicts and reasons in words, tables in Markdown and CSV, pictures."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelmlf.ablation.designs import Contrast
from accelmlf.ablation.effects import Effect
from accelmlf.ablation.plots import Curves, draw_accuracy, draw_forest, draw_phases
from accelmlf.ablation.result import Ablation
from accelmlf.ablation.settings import AblateConfig
from accelmlf.many_runs.claims import marks_of_group
from accelmlf.many_runs.comparison import as_ratio
from accelmlf.settings.comparable import departures
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.run import batch_in_words
from accelmlf.text import aligned, code, heading, listed, short, table
from accelmlf.tracking.store import Store
from accelmlf.tracking.tags import COMMAND, DATA_DIGEST

PICTURES = {
    "forest.png": "Times as fast, with 95 % intervals",
    "phases.png": "Where the seconds of an epoch go",
    "accuracy.png": "Accuracy against training time",
}
HOW_TO_READ = (
    "What is compared is paired within a block (one run of every arm, in random order, with one seed); intervals are "
    "95 % paired t intervals, of ratios on their logarithms. Verdicts are given on seconds per epoch and time to "
    "accuracy alone, corrected together by Holm's method; all else is shown without one."
)


def verdict_rows(ablation: Ablation) -> list[list[str]]:
    """A row per contrast: its name and what is said of it on the two primary measures."""
    return [
        [contrast.name, *(effect.in_words for effect in ablation.primary(contrast))]
        for contrast in ablation.design.contrasts
    ]


def reasons(ablation: Ablation) -> list[str]:
    """A sentence per contrast, where the phases say anything."""
    return [f"{c.name}: {reason}." for c in ablation.design.contrasts if (reason := ablation.reason(c))]


def unfit(ablation: Ablation) -> list[str]:
    """Why the ablation supports no claim; empty where nothing says so."""
    runs = [run for block in ablation.runs.values() for run in block.values()]
    against = marks_of_group(runs, min((len(blocks) for blocks in ablation.measured.values()), default=0))
    if failures := ablation.failures:
        kinds = ", ".join(sorted({str(run.outcome).replace("_", " ") for run in failures}))
        against.append(f"{len(failures)} of {ablation.num_planned} runs failed ({kinds})")
    if missing := ablation.num_planned - ablation.num_runs - len(failures):
        against.append(f"{missing} of {ablation.num_planned} runs are missing")
    if ablation.repeated:
        against.append(f"{ablation.repeated} runs failed and were repeated")
    if continued := ablation.blocks_continued:
        against.append(f"cut short and continued later: block {', '.join(map(str, continued))}")
    if len(ablation.looks) > 1:
        looks = ", ".join(map(str, ablation.looks))
        against.append(f"judged more than once, with {looks} repeats, which the verdicts do not allow for")
    return against


ARM_HEAD = ["arm", "its settings", "seconds per epoch", "time to accuracy (s)", "test accuracy"]


def arm_rows(ablation: Ablation) -> list[list[str]]:
    """A row per arm: what it is, and what its runs measured, each figure in the order of the blocks."""
    rows = []
    for arm in ablation.design.arms:
        blocks, settings = ablation.measured[arm.name], ablation.settings_of(arm.name)
        figures = [blocks[block] for block in sorted(blocks)]
        rows.append(
            [
                arm.name,
                in_words(settings) if settings else "",
                ", ".join(short(run["median_epoch_s"]) for run in figures if "median_epoch_s" in run),
                ", ".join(_time(run) for run in figures),
                ", ".join(f"{run['final_accuracy']:.4f}" for run in figures if "final_accuracy" in run),
            ]
        )
    return rows


def _time(run: Mapping[str, float]) -> str:
    return f"{run['time_to_accuracy_s']:.1f}" if "time_to_accuracy_s" in run else "missed"


def in_words(settings: Mapping[str, str]) -> str:
    """What sets arms apart."""
    batch = batch_in_words(settings["batch_size"], settings["accumulation_steps"])
    return f"{batch}, learning rate {float(settings['learning_rate']):.3g}, {settings['techniques']}"


def as_lines(ablation: Ablation) -> list[str]:
    """The result as it stands on the console."""
    lines = ["", ablation.question, "", *aligned([ARM_HEAD, *arm_rows(ablation)]), ""]
    for name, on_epochs, on_target in verdict_rows(ablation):
        lines += [f"  {name}", f"    seconds per epoch  {on_epochs}", f"    time to accuracy   {on_target}"]
    if why := reasons(ablation):
        lines += ["", "why:", *(f"  {reason}" for reason in why)]
    if against := unfit(ablation):
        lines += ["", f"unfit for a claim: {'; '.join(against)}"]
    return lines


def as_markdown(ablation: Ablation, *, level: int = 1, pictures: Sequence[str] = ()) -> str:
    """The result as a piece of a document; `pictures`: Markdown for them."""
    settings, asked = ablation.settings, ablation.asked
    facts = [
        f"{settings['epochs']} epochs, target {settings['target_accuracy']} on validation, "
        f"data {ablation.parent.tags.get(DATA_DIGEST, 'unknown')}",
        f"{asked.repeats} repeat{'s' * (asked.repeats > 1)}, {ablation.num_runs} of {ablation.num_planned} runs",
        f"on {ablation.parent.machine}",
        *(f"left out: {text}" for text in asked.left_out),
    ]
    of_runs = {name: text for name, text in settings.items() if name not in settable_fields(AblateConfig)}
    common = [name for name in (*departures(of_runs), "techniques") if settings.get(name, "none") != "none"]
    if common:
        facts.insert(1, f"in every arm: {', '.join(f'{name}={settings[name]}' for name in common)}")
    if against := unfit(ablation):
        facts.append(f"unfit for a claim: {'; '.join(against)}")
    parts = [
        heading(ablation.question, level),
        listed(facts),
        table(["", "seconds per epoch", "time to accuracy"], verdict_rows(ablation)),
        table(ARM_HEAD, arm_rows(ablation)),
        *pictures,
    ]
    if why := reasons(ablation):
        parts += [heading("Why", level + 1), listed(why)]
    parts += [
        heading("Everything else that was measured, without verdicts (with it, against without)", level + 1),
        table(["", *(contrast.name for contrast in ablation.design.contrasts)], other_rows(ablation)),
        HOW_TO_READ,
    ]
    if command := ablation.parent.tags.get(COMMAND):
        parts.append(code(command))
    return "\n\n".join(parts) + "\n"


def other_rows(ablation: Ablation) -> list[list[str]]:
    """A row per measure without verdicts, a column per contrast."""
    found = {(effect.measure, effect.contrast.name): effect.figure for effect in ablation.effects}
    measures = dict.fromkeys(effect.measure for effect in ablation.effects if not effect.measure.is_primary)
    names = [contrast.name for contrast in ablation.design.contrasts]
    return [[measure.title, *(found[measure, name] for name in names)] for measure in measures]


def metrics(ablation: Ablation) -> dict[str, float]:
    """The primary ratios with their intervals, by names that MLflow takes."""
    figures: dict[str, float] = {}
    for contrast in ablation.design.contrasts:
        for effect, group in zip(
            ablation.primary(contrast), ("epoch_speedup", "time_to_accuracy_speedup"), strict=True
        ):
            if effect.interval is not None:
                ratio = as_ratio(effect.interval)
                name = f"{group}/{metric_name(contrast)}"
                figures[name] = ratio.value
                if ratio.low is not None and ratio.high is not None:
                    figures |= {f"{name}_low": ratio.low, f"{name}_high": ratio.high}
    return figures


def metric_name(contrast: Contrast) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", contrast.name)


def verdict(ablation: Ablation) -> str:
    """All verdicts on one line."""
    rows = verdict_rows(ablation)
    said = [f"{name}: {on_epochs} per epoch, {on_target} to the target" for name, on_epochs, on_target in rows]
    against = unfit(ablation)
    marks = f"; unfit for a claim: {'; '.join(against)}" if against else ""
    return f"with pipeline={ablation.settings['pipeline']}: " + "; ".join(said) + marks


def curves_of(store: Store, ablation: Ablation) -> Curves:
    """For each arm the clock and the accuracy of each run, from the store."""
    return {
        arm.name: [
            (store.history(run.run_id, "time/elapsed_train_s"), store.history(run.run_id, "eval/accuracy"))
            for _, runs in sorted(ablation.runs.items())
            if (run := runs.get(arm.name))
        ]
        for arm in ablation.design.arms
    }


def write_tables(folder: Path, ablation: Ablation) -> None:
    """ablation.md, effects.csv and runs.csv."""
    (folder / "ablation.md").write_text(as_markdown(ablation))
    with (folder / "effects.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        head = ["factor", "pipeline", "measure", "kind", "value", "low", "high", "pairs", "p", "p_holm", "verdict"]
        writer.writerow(head)
        pipeline = ablation.settings["pipeline"]
        writer.writerows([effect.contrast.name, pipeline, *_effect_row(effect)] for effect in ablation.effects)
    names = sorted(
        {name for runs in ablation.runs.values() for run in runs.values() for name in run.metrics if "/" not in name}
    )
    with (folder / "runs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arm", "block", "seed", "run_id", "outcome", *names])
        for block, runs in ablation.runs.items():
            for arm, run in runs.items():
                figures = [run.metrics.get(name, "") for name in names]
                writer.writerow([arm, block, run.settings["seed"], run.run_id, run.outcome, *figures])


def _effect_row(effect: Effect) -> list[object]:
    kind = "ratio" if effect.measure.is_ratio else f"difference in {effect.measure.unit}"
    row: list[object] = [effect.measure.metric, kind]
    if effect.interval is None:
        return [*row, "", "", "", "", "", "", effect.in_words]
    interval = effect.interval
    value, low, high = interval.mean, interval.low, interval.high
    if effect.measure.is_ratio:
        ratio = as_ratio(interval)
        value, low, high = ratio.value, ratio.low, ratio.high
    p_value = interval.p_value if effect.measure.is_primary else None
    cells = [value, low, high, interval.count, p_value, effect.adjusted_p, effect.verdict]
    return [*row, *("" if cell is None else cell for cell in cells)]


def draw(folder: Path, store: Store, ablation: Ablation, *, prefix: str = "") -> None:
    """The pictures of PICTURES."""
    draw_forest(ablation, folder / f"{prefix}forest.png")
    draw_phases(ablation, folder / f"{prefix}phases.png")
    draw_accuracy(ablation, curves_of(store, ablation), folder / f"{prefix}accuracy.png")
