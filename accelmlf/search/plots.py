"""Pictures of a search, drawn without a display. Matplotlib is imported when something is drawn."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from accelmlf.errors import one_line
from accelmlf.search.confirmation import Confirmation
from accelmlf.search.space import SearchSpace
from accelmlf.search.study import reached_target
from accelmlf.search.trials import TrialRecord
from accelmlf.text import say

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNKNOWN = ("running", "interrupted", "killed")
"""Outcomes that say nothing about a cell."""
MISSED, PRUNED, FAILED, NOT_RUN = "#f2f2f2", "#e3ddd0", "#f3c9c9", "white"
EDGE = "#9a9a9a"
MISSED_HATCH, PRUNED_HATCH = "///", "..."


def draw_time_to_accuracy(records: Sequence[TrialRecord], space: SearchSpace, target: float, path: Path) -> None:
    """Seconds of training to the target over batch size and accumulation steps; misses are hatched.

    With more dimensions than these two a cell shows its best trial.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    batches, steps = space.batch_sizes, space.accumulation_choices
    size = max(6.5, 2.4 + 1.45 * len(batches)), max(4.0, 2.4 + 0.85 * len(steps))  # legend and colour bar need room
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    shown = best_of_cells(records, space)
    times = np.full((len(steps), len(batches)), np.nan)
    for cell, record in shown.items():
        times[cell] = np.nan if record.time_to_accuracy_s is None else record.time_to_accuracy_s
    image = axis.imshow(times, cmap="viridis_r", aspect="auto", origin="lower")
    middle = np.nan
    if np.isfinite(times).any():
        figure.colorbar(image, ax=axis, label=f"training seconds to {target:g} validation accuracy")
        middle = (np.nanmin(times) + np.nanmax(times)) / 2
    for row, column in np.ndindex(*times.shape):
        _draw_cell(axis, row, column, shown.get((row, column)), is_dark=bool(times[row, column] > middle))
    _separate_cells(axis, batches, steps)
    axis.set(xlabel="batch size", ylabel="accumulation steps", title=f"Time to {target:g} validation accuracy")
    legend = [
        Patch(facecolor=MISSED, edgecolor=EDGE, hatch=MISSED_HATCH, label="target missed"),
        Patch(facecolor=PRUNED, edgecolor=EDGE, hatch=PRUNED_HATCH, label="pruned: slower than the best"),
        Patch(facecolor=FAILED, label="failed"),
        Patch(facecolor=NOT_RUN, edgecolor=EDGE, label="not run"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def best_of_cells(records: Sequence[TrialRecord], space: SearchSpace) -> Mapping[tuple[int, int], TrialRecord]:
    """By (index of the accumulation steps, index of the batch size) the trial that a cell shows, where there is one."""
    shown: dict[tuple[int, int], TrialRecord] = {}
    for record in sorted(records, key=_rank):
        if record.point is not None and record.outcome not in UNKNOWN:
            row = space.accumulation_choices.index(int(record.point["accumulation_steps"]))
            column = space.batch_sizes.index(int(record.point["batch_size"]))
            shown.setdefault((row, column), record)
    return shown


def _draw_cell(axis: "Axes", row: int, column: int, record: TrialRecord | None, *, is_dark: bool) -> None:
    """Its text, on the colour of its time or on that of its outcome."""
    from matplotlib.patches import Rectangle

    text, colour, hatch = _cell(record)
    if colour is not None:
        corner = (column - 0.5, row - 0.5)
        axis.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor=EDGE, hatch=hatch, linewidth=0))
    ink = "white" if is_dark else "black"
    box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5} if hatch else None
    axis.text(column, row, text, ha="center", va="center", color=ink, fontsize=9, bbox=box)


def _separate_cells(axis: "Axes", batches: Sequence[int], steps: Sequence[int]) -> None:
    """White lines between the cells, and their values along both sides."""
    axis.set_xticks(np.arange(1, len(batches)) - 0.5, minor=True)
    axis.set_yticks(np.arange(1, len(steps)) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=3)
    axis.tick_params(which="minor", length=0)
    axis.set_xticks(range(len(batches)), [str(batch) for batch in batches])
    axis.set_yticks(range(len(steps)), [str(step) for step in steps])


def _rank(record: TrialRecord) -> tuple[int, float]:
    """What a cell shows first: the best time, else how near its best trial came."""
    if record.time_to_accuracy_s is not None:
        return 0, record.time_to_accuracy_s
    order = {"target_not_reached": 1, "pruned": 2}
    return order.get(record.outcome, 3), -(record.best_accuracy or 0.0)


def _cell(record: TrialRecord | None) -> tuple[str, str | None, str | None]:
    """Text, background (None: the colour of its time) and hatch of a cell."""
    if record is None:
        return "", NOT_RUN, None
    if record.time_to_accuracy_s is not None:
        return f"{record.time_to_accuracy_s:.1f} s", None, None
    if record.outcome == "target_not_reached":
        return f"{record.best_accuracy:.3f}\nat best", MISSED, MISSED_HATCH
    if record.outcome == "pruned":
        return f"> {record.train_s:.1f} s", PRUNED, PRUNED_HATCH
    return record.outcome.replace("_", "\n"), FAILED, None


def draw_confirmation(confirmation: Confirmation, target: float, path: Path) -> None:
    """Each arm's seeds as points and their geometric mean as a bar, best on top."""
    from matplotlib.figure import Figure

    arms = confirmation.arms
    longest = max(len(arm.name) for arm in arms)
    figure = Figure(figsize=(6 + 0.085 * longest, 1.6 + 0.55 * len(arms)), layout="constrained")
    axis = figure.subplots()
    for row, arm in enumerate(arms):
        colour = "#7f7f7f" if arm.is_recipe else "#1f77b4"
        if arm.mean_s is not None:
            axis.barh(row, arm.mean_s, color=colour, alpha=0.35, height=0.6)
        axis.plot(arm.reached_s, [row] * len(arm.reached_s), "o", color=colour, markersize=5)
        ratio = confirmation.speedup(arm)
        missed = len(arm.repeats) - len(arm.reached_s)
        note = f"missed in {missed} of {len(arm.repeats)}" if missed else "" if ratio is None else str(ratio)
        axis.text(max(arm.reached_s, default=0.0), row, f"  {note}", va="center", fontsize=9)
    axis.set_yticks(range(len(arms)), [arm.name for arm in arms])
    axis.invert_yaxis()
    right = max((seconds for arm in arms for seconds in arm.reached_s), default=1.0)
    axis.set(xlabel=f"training seconds to {target:g} validation accuracy (fresh seeds)", xlim=(0, 1.35 * right))
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def draw_optuna_plots(folder: Path, study: optuna.Study) -> None:
    """Optuna's own pictures, each where there are trials enough for it."""
    from optuna.visualization import matplotlib as plots

    seconds = "time to accuracy (s)"
    pair = ["batch_size", "accumulation_steps"]
    # The value of a trial that missed is how long it took, which these two would show as its time to the target.
    reached = optuna.create_study(direction="minimize")
    reached.add_trials(reached_target(study))
    history = f"{seconds}; grey: how long a miss took"
    drawings: dict[str, Callable[[], Any]] = {
        "optimization_history": lambda: plots.plot_optimization_history(study, target_name=history),
        "timeline": lambda: plots.plot_timeline(study),
        "param_importances": lambda: plots.plot_param_importances(reached, target=value_of, target_name=seconds),
        "contour": lambda: plots.plot_contour(reached, params=pair, target_name=seconds),
    }
    for name, draw in drawings.items():
        with _pyplot() as plt:
            try:
                if name in ("param_importances", "contour") and len(reached.trials) < 2:
                    raise ValueError("less than two trials reached the target")
                draw()
                plt.gcf().savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
            except Exception as error:  # experimental code, in a search that has ended well
                say(f"left out: {name}.png ({one_line(str(error))})")


@contextmanager
def _pyplot() -> Iterator[Any]:
    """Pyplot, which Optuna draws with, without a display; backend, style and figures are left as they were.

    Where nobody has chosen a backend, matplotlib cannot be asked to have none again: it stays with the one in here.
    """
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    backend, figures = mpl.get_backend(auto_select=False), set(plt.get_fignums())
    with warnings.catch_warnings(), mpl.rc_context():  # Optuna changes the style of every picture that follows
        warnings.simplefilter("ignore")  # experimental
        plt.switch_backend("agg")
        try:
            yield plt
        finally:
            for number in set(plt.get_fignums()) - figures:
                plt.close(number)
            if backend is not None:
                plt.switch_backend(backend)


def value_of(trial: optuna.trial.FrozenTrial) -> float:
    """The objective value of a finished trial, in seconds."""
    assert trial.value is not None
    return trial.value
