"""The pictures of an ablation: what each factor is worth, where an epoch goes, how accuracy grows."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelmlf.ablation.effects import VERDICTS, Effect
from accelmlf.ablation.result import Ablation
from accelmlf.many_runs.comparison import SAME_WITHIN, as_ratio
from accelmlf.measure.cost import PHASE_COLOURS, PHASES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAME_COLOUR, UNDECIDED = "#1f5fa8", "#6b6b6b"
OF_VERDICTS = ("#2c7a2c", "#b22222", SAME_COLOUR, UNDECIDED)
COLOURS = {word: colour for words in VERDICTS.values() for word, colour in zip(words, OF_VERDICTS, strict=True)}
ARM_COLOURS = ("#6b6b6b", "#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22")
DPI = 120
BEHIND_TEXT = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}


def names_as_they_are(draw: Callable[..., None]) -> Callable[..., None]:
    """A name with dollar signs in it is drawn as it is, not as a formula."""

    @wraps(draw)
    def drawn(*given: Any) -> None:
        import matplotlib as mpl

        with mpl.rc_context({"text.parse_math": False}):
            draw(*given)

    return drawn


@names_as_they_are
def draw_forest(ablation: Ablation, path: Path) -> None:
    """A row per contrast, a panel per measure with verdicts: the ratio with its interval, in the verdict's colour.

    Of a measurement in stretches the last row is the arm that was measured against itself.
    """
    from matplotlib.figure import Figure

    contrasts = ablation.design.contrasts
    rows = [ablation.judged(contrast) for contrast in contrasts]
    names = [f"{contrast.name} (interaction)" if contrast.is_interaction else contrast.name for contrast in contrasts]
    if (null := ablation.null_effect) is not None:
        rows = [effects[:1] for effects in rows]  # speed alone: an arm against itself has no other
        rows, names = [*rows, [null]], [*names, f"{ablation.design.arms[0].name} against itself"]
    width = 8.5 + 0.08 * max(map(len, names))
    figure = Figure(figsize=(width, 1.7 + 0.5 * len(rows)), layout="constrained")
    title = f"{ablation.title}\ntimes as fast, simultaneous 95 % intervals, n = {ablation.num_blocks}"
    figure.suptitle(title, fontsize=10)
    panels = list(zip(*rows, strict=True))
    for axis, measured in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        _forest_panel(axis, measured)
        axis.set_yticks(range(len(rows)), names)
        axis.set(title=measured[0].measure.title, ylim=(len(rows) - 0.5, -0.5))
    figure.savefig(path, dpi=DPI)


def _forest_panel(axis: "Axes", measured: Sequence[Effect]) -> None:
    axis.axvline(1, color="black", linewidth=1, zorder=1)
    axis.axvspan(1 / (1 + SAME_WITHIN), 1 + SAME_WITHIN, color=SAME_COLOUR, alpha=0.15, linewidth=0, zorder=0)
    axis.set_xscale("log")
    ratios = [as_ratio(effect.interval) for effect in measured if effect.interval is not None]
    limits = [1.0, *(limit for ratio in ratios for limit in (ratio.low or ratio.value, ratio.high or ratio.value))]
    # An interval of two or three noisy pairs can span decades; the picture shows what can be read.
    left, right = max(min(limits) / 1.15, 1 / 8), min(max(limits) * 1.15, 8)
    left, right = min(left, 0.8), max(right, 1.25)
    for row, effect in enumerate(measured):
        if effect.interval is None:
            place: dict[str, Any] = {"va": "center", "ha": "center", "transform": axis.get_yaxis_transform()}
            axis.text(0.5, row, _short(effect), fontsize=8, bbox=BEHIND_TEXT, **place)
            continue
        ratio = as_ratio(effect.interval)
        colour = COLOURS.get(effect.verdict or "", UNDECIDED)
        axis.plot([ratio.low or ratio.value, ratio.high or ratio.value], [row, row], color=colour, linewidth=2)
        shown = min(max(ratio.value, left), right)
        axis.plot([shown], [row], "o" if shown == ratio.value else "<" if shown == left else ">", color=colour)
        share = math.log(shown / left) / math.log(right / left)
        side = "left" if share < 0.2 else "right" if share > 0.8 else "center"
        look: dict[str, Any] = {"fontsize": 8, "color": colour, "bbox": BEHIND_TEXT}
        axis.text(shown, row - 0.17, str(ratio), va="bottom", ha=side, **look)
    axis.set_xlim(left, right)
    every = (0.125, 0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 4, 6, 8)
    axis.set_xticks(_apart([tick for tick in every if left <= tick <= right], math.log(right / left)), minor=False)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axis.set_xticks([], minor=True)
    axis.grid(axis="x", alpha=0.3)
    sides: dict[str, Any] = {"transform": axis.get_xaxis_transform(), "fontsize": 7, "color": UNDECIDED, "va": "bottom"}
    axis.text(1, 0.01, "slower  ", ha="right", **sides)
    axis.text(1, 0.01, "  faster", ha="left", **sides)


def _apart(ticks: Sequence[float], span: float) -> list[float]:
    """Of the ticks those that have room for their label, 1 before all others."""
    chosen = [1.0]
    for tick in sorted(ticks, key=lambda tick: abs(math.log(tick))):
        if all(abs(math.log(tick / other)) > span / 9 for other in chosen):
            chosen.append(tick)
    return sorted(chosen)


def _short(effect: Effect) -> str:
    if not effect.reached:
        return "not measured"
    missed = [f"{arm} {k} of {n}" for arm, (k, n) in effect.reached.items() if k < n]
    return "target reached:\n" + ", ".join(missed[:3]) + (" ..." if len(missed) > 3 else "")


@names_as_they_are
def draw_phases(ablation: Ablation, path: Path) -> None:
    """A bar per arm: where the seconds of an epoch went, mean over its runs."""
    from matplotlib.figure import Figure

    arms = [arm.name for arm in ablation.design.arms if ablation.measured[arm.name]]
    figure = Figure(figsize=(9 + 0.06 * max(map(len, arms), default=0), 1.8 + 0.45 * len(arms)), layout="constrained")
    axis = figure.subplots()
    left = dict.fromkeys(arms, 0.0)
    for phase in (*PHASES, "other"):
        name = f"mean_{phase}_s"
        widths = [_mean(ablation.measured[arm].values(), name) for arm in arms]
        if not any(widths):
            continue
        colour = PHASE_COLOURS[phase]
        axis.barh(
            arms, widths, left=[left[arm] for arm in arms], color=colour, label=phase.replace("_", " "), height=0.65
        )
        for arm, seconds in zip(arms, widths, strict=True):
            left[arm] += seconds
    for row, arm in enumerate(arms):
        axis.text(left[arm], row, f"  {left[arm]:.2f} s", va="center", fontsize=9)
    axis.invert_yaxis()
    axis.set(xlabel="seconds per epoch (mean)", xlim=(0, 1.12 * max(left.values(), default=1.0)))
    axis.set_title(f"{ablation.title}\nwhere an epoch goes", fontsize=10)
    if arms:
        figure.legend(loc="outside lower center", ncols=len(PHASES) + 1, frameon=False, fontsize=8)
    figure.savefig(path, dpi=DPI)


def _mean(figures: Iterable[Mapping[str, float]], name: str) -> float:
    values = [run[name] for run in figures if name in run]
    return statistics.fmean(values) if values else 0.0


Curves = Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]
"""Arm -> a run's training clock at the end of each epoch, and its validation accuracy then."""


@names_as_they_are
def draw_accuracy(ablation: Ablation, curves: Curves, path: Path) -> None:
    """Validation accuracy against the training clock, a line per run, and the target."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axis = figure.subplots()
    for index, (arm, runs) in enumerate(curves.items()):
        colour, style = ARM_COLOURS[index % len(ARM_COLOURS)], ("-", "--", ":", "-.")[index // len(ARM_COLOURS) % 4]
        for number, (seconds, accuracy) in enumerate(runs):
            label = arm if number == 0 else None
            axis.plot(seconds, accuracy, style, color=colour, alpha=0.75, linewidth=1.3, marker=".", label=label)
    target = float(ablation.settings["target_accuracy"])
    axis.axhline(target, color="black", linestyle="--", linewidth=1, label=f"target {target:g}")
    axis.set(xlabel="training clock (s)", ylabel="validation accuracy", ylim=(0, 1.02), xlim=(0, None))
    axis.set_title(f"{ablation.title}\none line per run", fontsize=10)
    axis.grid(alpha=0.3)
    columns = max(1, 100 // (8 + max(map(len, curves), default=0)))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    figure.savefig(path, dpi=DPI)
