"""The files of an ablation: tables in Markdown and CSV, and pictures."""

import csv
from pathlib import Path

from accelmlf.ablation.effects import Effect
from accelmlf.ablation.plots import Curves, draw_accuracy, draw_forest, draw_phases
from accelmlf.ablation.result import Ablation
from accelmlf.ablation.settings import STEPS
from accelmlf.ablation.tables import as_markdown
from accelmlf.many_runs.comparison import as_ratio
from accelmlf.tracking.store import Store

PICTURES = {
    "forest.png": "Times as fast, with simultaneous 95 % intervals",
    "phases.png": "Where the seconds of an epoch go",
    "accuracy.png": "Accuracy against training time",
}
OF_WHOLE_RUNS = ("accuracy.png",)


def pictures_of(ablation: Ablation) -> dict[str, str]:
    """Name -> title of what `draw` leaves."""
    left_out = OF_WHOLE_RUNS if ablation.asked.measure == STEPS else ()
    return {name: title for name, title in PICTURES.items() if name not in left_out}


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


def write_tables(folder: Path, store: Store, ablation: Ablation) -> None:
    """ablation.md, effects.csv and runs.csv; of stretches also stretches.csv, a line for each."""
    (folder / "ablation.md").write_text(as_markdown(ablation))
    with (folder / "effects.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        head = ["factor", "pipeline", "measure", "kind", "value", "low", "high", "blocks", "verdict"]
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
    if ablation.asked.measure == STEPS:
        write_stretches(folder / "stretches.csv", store, ablation)


def write_stretches(path: Path, store: Store, ablation: Ablation) -> None:
    """Every stretch as it was measured, in its generation, its round and its place there."""
    rows: list[dict[str, object]] = []
    for generation, runs in ablation.runs.items():
        for arm, run in runs.items():
            names = sorted(name for name in run.metrics if "/" in name)
            series = {name.partition("/")[2]: store.history(run.run_id, name) for name in names}
            for number, values in enumerate(zip(*series.values(), strict=True), 1):
                place = {"generation": generation, "round": number, "arm": arm, "run_id": run.run_id}
                rows.append(place | dict(zip(series, values, strict=True)))
    rows.sort(key=lambda row: [row[name] for name in ("generation", "round", "place")])
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)


def _effect_row(effect: Effect) -> list[object]:
    kind = "ratio" if effect.measure.is_ratio else f"difference in {effect.measure.unit}"
    row: list[object] = [effect.measure.metric, kind]
    if effect.interval is None:
        return [*row, "", "", "", "", effect.in_words]
    interval = effect.interval
    value, low, high = interval.mean, interval.low, interval.high
    if effect.measure.is_ratio:
        ratio = as_ratio(interval)
        value, low, high = ratio.value, ratio.low, ratio.high
    cells = [value, low, high, interval.count, effect.verdict]
    return [*row, *("" if cell is None else cell for cell in cells)]


def draw(folder: Path, store: Store, ablation: Ablation, *, prefix: str = "") -> None:
    """The pictures of `pictures_of`."""
    draw_forest(ablation, folder / f"{prefix}forest.png")
    draw_phases(ablation, folder / f"{prefix}phases.png")
    if "accuracy.png" in pictures_of(ablation):
        draw_accuracy(ablation, curves_of(store, ablation), folder / f"{prefix}accuracy.png")
