"""The pictures of an ablation show what was measured, whatever came of it, and nothing of them is cut off."""

import itertools
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from accelmlf.ablation.designs import Asked
from accelmlf.ablation.effects import VERDICTS
from accelmlf.ablation.factors import ACCUMULATION, SAME_EFFECTIVE_BATCH
from accelmlf.ablation.plots import COLOURS, UNDECIDED, Curves, draw_accuracy, draw_forest, draw_phases
from accelmlf.ablation.result import Ablation
from accelmlf.measure.cost import PHASE_COLOURS, PHASES
from tests.ablation.makers import Table, figures_of, measured_from, seconds_of
from tests.ablation.test_result import ablation_of, asked
from tests.pixels import drawn, is_cut_off

FACTORS = (ACCUMULATION, "channels_last")
LONG = (ACCUMULATION, SAME_EFFECTIVE_BATCH, "compile:max-autotune-no-cudagraphs")
TEN = ("tf32", "cudnn_benchmark", "workers:4", "prefetch", "pin_memory", "channels_last", "amp:bf16",
       "fused_optimizer", ACCUMULATION, SAME_EFFECTIVE_BATCH)  # fmt: skip
EVERY_KIND = {
    "one at a time": asked("one_at_a_time", FACTORS),
    "leave one out": asked("leave_one_out", FACTORS),
    "factorial": asked("factorial", FACTORS),
    "preset": asked("preset", ("tuned",)),
    "long names": asked("leave_one_out", LONG),
    "long names of combinations": asked("factorial", LONG),
    "twelve arms": asked("one_at_a_time", TEN),
}
SAME = VERDICTS[""][2]
Drawing = Callable[[Ablation, Path], None]


def table_of(what: Asked, *, step: float = 0.1, noise: float = 0.01) -> Table:
    """Each arm is a little faster than the one before it."""
    truth = {arm.name: 1.0 - step * number for number, arm in enumerate(what.as_design().arms)}
    return measured_from(truth, what.repeats, noise, random.Random(0))


def curves(ablation: Ablation) -> Curves:
    """Three epochs of each run."""
    return {
        arm: [([1.0, 2.0, 3.0 + block], [0.2, 0.5, 0.9]) for block in sorted(blocks)]
        for arm, blocks in ablation.measured.items()
    }


def draw_curves(ablation: Ablation, path: Path) -> None:
    draw_accuracy(ablation, curves(ablation), path)


DRAWINGS: dict[str, Drawing] = {"forest": draw_forest, "phases": draw_phases, "accuracy": draw_curves}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def savefig(figure: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def picture(drawing: Drawing, ablation: Ablation, path: Path) -> npt.NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawing(ablation, path)
    return drawn(path)


def labels_of(figure: Figure) -> Iterator[Text]:
    """Every text that a person is meant to read."""
    candidates: list[Text] = [*figure.texts]
    for legend in figure.legends:
        candidates += legend.get_texts()
    for axis in figure.axes:
        candidates += [axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts]
        candidates += [*ticks_of(axis.yaxis), *ticks_of(axis.xaxis)]
    for text in candidates:
        if text.get_visible() and text.get_text().strip():
            yield text


def ticks_of(axis: Axis) -> list[Text]:
    """The labels of the ticks that are drawn: there are more, beyond what is in view."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


def renderer_of(figure: Figure) -> Any:
    """What says how large a text is, when all is in its place."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def outside(figure: Figure) -> list[str]:
    """Texts that leave the picture."""
    renderer = renderer_of(figure)
    whole = figure.bbox
    found = []
    for text in labels_of(figure):
        box = text.get_window_extent(renderer)
        if box.x0 < whole.x0 - 1 or box.x1 > whole.x1 + 1 or box.y0 < whole.y0 - 1 or box.y1 > whole.y1 + 1:
            found.append(text.get_text())
    return found


def overlapping(figure: Figure, texts: Sequence[Text]) -> list[tuple[str, str]]:
    """Pairs of texts of which one lies on the other."""
    renderer = renderer_of(figure)
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text()]
    return [(a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2) if one.padded(-1).overlaps(other)]


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("name", DRAWINGS)
def test_a_picture_has_a_sensible_size_and_holds_all_its_words(
    tmp_path: Path, seen: list[Figure], name: str, kind: str
) -> None:
    what = EVERY_KIND[kind]
    pixels = picture(DRAWINGS[name], ablation_of(what, table_of(what)), tmp_path / "picture.png")
    height, width, _ = pixels.shape
    assert 900 <= width <= 2400 and 200 <= height <= 1400
    assert not is_cut_off(pixels)
    assert outside(seen[0]) == []


@pytest.mark.parametrize("repeats", [1, 5])
@pytest.mark.parametrize("name", DRAWINGS)
def test_a_picture_is_drawn_of_any_number_of_repeats(
    tmp_path: Path, seen: list[Figure], name: str, repeats: int
) -> None:
    what = asked("factorial", FACTORS, repeats=repeats)
    assert not is_cut_off(picture(DRAWINGS[name], ablation_of(what, table_of(what)), tmp_path / "picture.png"))
    assert outside(seen[0]) == []


def without_the_target(table: Table) -> Table:
    return {arm: {b: figures_of(epochs_to_accuracy=None) for b in blocks} for arm, blocks in table.items()}


def without_one_arm(table: Table) -> Table:
    return {arm: {} if number == 1 else blocks for number, (arm, blocks) in enumerate(table.items())}


def without_any(table: Table) -> Table:
    return {arm: {} for arm in table}


def with_one_miss(table: Table) -> Table:
    last = list(table)[-1]
    return {**table, last: {**table[last], 1: figures_of(epochs_to_accuracy=None)}}


def without_two_phases(table: Table) -> Table:
    """As the pipeline `stream` on a CPU measures them."""
    shares = {"data_wait": 0.2, "forward": 0.3, "backward": 0.4, "optimizer": 0.1}
    return {
        arm: {block: figures_of(seconds_of(figures["mean_epoch_s"], shares)) for block, figures in blocks.items()}
        for arm, blocks in table.items()
    }


SPOILT: dict[str, Callable[[Table], Table]] = {
    "nothing but misses": without_the_target,
    "one miss": with_one_miss,
    "an arm that always failed": without_one_arm,
    "no run at all": without_any,
    "phases that were not captured": without_two_phases,
}


@pytest.mark.parametrize("spoil", SPOILT)
@pytest.mark.parametrize("name", DRAWINGS)
def test_a_picture_is_drawn_whatever_came_of_it(tmp_path: Path, seen: list[Figure], name: str, spoil: str) -> None:
    what = EVERY_KIND["factorial"]
    ablation = ablation_of(what, SPOILT[spoil](table_of(what)))
    assert not is_cut_off(picture(DRAWINGS[name], ablation, tmp_path / "picture.png"))
    assert outside(seen[0]) == []


@pytest.mark.parametrize("text", ["a$x^$b", "50$_{", "under_score^ <b>& %s {0} é"])
@pytest.mark.parametrize("name", DRAWINGS)
def test_a_model_and_a_factor_may_be_called_anything(tmp_path: Path, seen: list[Figure], name: str, text: str) -> None:
    what = asked(factors=(text, "channels_last"))
    ablation = ablation_of(what, table_of(what), parent_tags={"accelmlf.config.model": text})
    picture(DRAWINGS[name], ablation, tmp_path / "picture.png")
    words = [label.get_text() for label in labels_of(seen[0])]
    assert text in words and any(word.startswith(f"{text} on digits") for word in words)


# --- the forest ---


def forest(ablation: Ablation, path: Path, seen: list[Figure]) -> Figure:
    picture(draw_forest, ablation, path)
    return seen[-1]


def test_the_forest_has_a_row_per_contrast_from_top_to_bottom_and_a_panel_per_measure(
    tmp_path: Path, seen: list[Figure]
) -> None:
    what = EVERY_KIND["factorial"]
    ablation = ablation_of(what, table_of(what))
    figure = forest(ablation, tmp_path / "forest.png", seen)
    assert [axis.get_title() for axis in figure.axes] == ["seconds per epoch", "time to accuracy"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        contrast.name + (" (interaction)" if contrast.is_interaction else "") for contrast in ablation.design.contrasts
    ]
    for panel, axis in enumerate(figure.axes):
        assert axis.yaxis_inverted()
        for row, contrast in enumerate(ablation.design.contrasts):
            effect = ablation.judged(contrast)[panel]
            (text,) = [text for text in texts_of_rows(axis) if round(text.get_position()[1] + 0.17) == row]
            assert text.get_text() == effect.figure
            assert text.get_position()[0] == pytest.approx(float(effect.figure.partition("x")[0]), abs=0.006)


def texts_of_rows(axis: Axes) -> list[Text]:
    """Without the two words that say which side of 1 is which."""
    texts = [text for text in axis.texts if text.get_text().strip() not in ("slower", "faster")]
    assert len(texts) == len(axis.texts) - 2
    return texts


def colours_of(figure: Figure, panel: int = 0) -> list[str]:
    """The colour of each point, in the order of the rows."""
    points = [line for line in figure.axes[panel].lines if line.get_marker() == "o"]
    return [to_hex(line.get_color()) for line in points]


def test_a_verdict_has_a_colour_and_what_is_undecided_has_another(tmp_path: Path, seen: list[Figure]) -> None:
    what = asked(factors=("amp:bf16", "channels_last", "fused_optimizer"), clash="they clash")
    truth = {"baseline": 1.0, "amp:bf16": 0.5, "channels_last": 1.5, "fused_optimizer": 1.0}
    ablation = ablation_of(what, measured_from(truth, 3, 0.002, random.Random(1)))
    verdicts = [ablation.judged(contrast)[0].verdict for contrast in ablation.design.contrasts]
    assert verdicts == ["faster", "slower", SAME]
    figure = forest(ablation, tmp_path / "forest.png", seen)
    for panel in (0, 1):
        assert colours_of(figure, panel) == [COLOURS["faster"], COLOURS["slower"], COLOURS[SAME]]
    assert len({COLOURS["faster"], COLOURS["slower"], COLOURS[SAME], UNDECIDED}) == 4
    noisy = ablation_of(what, measured_from(dict.fromkeys(truth, 1.0), 3, 0.1, random.Random(1)))
    assert [noisy.judged(contrast)[0].verdict for contrast in noisy.design.contrasts] == ["not decided yet"] * 3
    assert colours_of(forest(noisy, tmp_path / "noisy.png", seen)) == [UNDECIDED] * 3
    few = asked(factors=what.factors, clash="they clash", repeats=2)  # the control: no verdicts, no colours
    figure = forest(ablation_of(few, measured_from(truth, 2, 0.005)), tmp_path / "few.png", seen)
    assert colours_of(figure) == [UNDECIDED] * 3


def test_a_miss_is_words_in_the_place_of_a_ratio(tmp_path: Path, seen: list[Figure]) -> None:
    what = EVERY_KIND["one at a time"]
    figure = forest(ablation_of(what, with_one_miss(table_of(what))), tmp_path / "forest.png", seen)
    on_epochs, on_target = ([text.get_text() for text in texts_of_rows(axis)] for axis in figure.axes)
    assert len(on_epochs) == len(on_target) == 3
    assert all("x [" in text for text in on_epochs)
    assert [text for text in on_target if "x [" not in text] == ["target reached:\nall 2 of 3"]
    assert len(colours_of(figure, 1)) == 2


@pytest.mark.parametrize("speedup", [20.0, 1 / 20.0, 7.9, 1.001])
def test_a_ratio_far_from_one_is_read_inside_its_own_panel(tmp_path: Path, seen: list[Figure], speedup: float) -> None:
    what = asked(factors=("amp:bf16", "channels_last"), clash="they clash")
    truth = {"baseline": 1.0, "amp:bf16": 1.0 - float(np.log(speedup)), "channels_last": 0.9}
    figure = forest(ablation_of(what, measured_from(truth, 3, 0.01)), tmp_path / "forest.png", seen)
    renderer = renderer_of(figure)
    for axis in figure.axes:
        panel = axis.get_window_extent(renderer)
        assert panel.width > 0.25 * figure.bbox.width
        for text in axis.texts:
            box = text.get_window_extent(renderer)
            assert panel.x0 - 0.1 * panel.width < (box.x0 + box.x1) / 2 < panel.x1 + 0.1 * panel.width
    assert outside(figure) == []
    left, right = (axis.get_tightbbox(renderer) for axis in figure.axes)
    assert left is not None and right is not None and left.x1 <= right.x0 + 1


@pytest.mark.parametrize("noise", [0.005, 0.5])
@pytest.mark.parametrize("kind", ["factorial", "twelve arms", "long names"])
def test_no_words_of_a_forest_lie_on_others(tmp_path: Path, seen: list[Figure], kind: str, noise: float) -> None:
    what = EVERY_KIND[kind]
    figure = forest(ablation_of(what, table_of(what, noise=noise)), tmp_path / "forest.png", seen)
    for axis in figure.axes:
        ticks = ticks_of(axis.xaxis)
        assert len(ticks) >= 2 and "1x" in [label.get_text() for label in ticks]
        assert overlapping(figure, ticks) == []
        assert overlapping(figure, axis.texts) == []
    assert overlapping(figure, figure.axes[0].get_yticklabels()) == []
    titles = [*figure.texts, *(axis.title for axis in figure.axes)]
    assert overlapping(figure, titles) == []


def test_words_that_lie_on_others_or_leave_the_picture_are_found() -> None:
    figure = Figure(figsize=(4, 4))
    texts = [figure.text(0.1, 0.5, "one"), figure.text(0.8, 0.5, "two")]
    assert (overlapping(figure, texts), outside(figure)) == ([], [])
    texts += [figure.text(0.11, 0.5, "three"), figure.text(0.9, 0.1, "a long word")]
    assert overlapping(figure, texts) == [("one", "three")]
    assert outside(figure) == ["a long word"]


# --- phases ---


def bars_of(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    """Phase -> where its bar begins and how long it is, arm after arm."""
    (axis,) = figure.axes
    return {str(bars.get_label()): [(bar.get_x(), bar.get_width()) for bar in bars] for bars in axis.containers}


def test_the_bars_are_the_mean_seconds_of_each_phase_one_after_the_other(tmp_path: Path, seen: list[Figure]) -> None:
    what = EVERY_KIND["one at a time"]
    table: Mapping[str, Mapping[int, dict[str, float]]] = {
        arm.name: {block: figures_of(seconds_of(5.0 + number + block), other_s=0.1 * number) for block in range(3)}
        for number, arm in enumerate(what.as_design().arms)
    }
    picture(draw_phases, ablation_of(what, table), tmp_path / "phases.png")
    bars, (axis,) = bars_of(seen[0]), seen[0].axes
    assert list(bars) == [phase.replace("_", " ") for phase in (*PHASES, "other")]
    assert [label.get_text() for label in axis.get_yticklabels()] == list(table)
    assert axis.yaxis_inverted()
    for row, blocks in enumerate(table.values()):
        at = 0.0
        for phase in (*PHASES, "other"):
            start, width = bars[phase.replace("_", " ")][row]
            assert start == pytest.approx(at)
            assert width == pytest.approx(np.mean([run[f"mean_{phase}_s"] for run in blocks.values()]))
            at += width
        assert at == pytest.approx(np.mean([run["mean_epoch_s"] for run in blocks.values()]))
        assert axis.texts[row].get_text() == f"  {at:.2f} s"


def test_phases_that_were_not_captured_are_not_in_the_legend(tmp_path: Path, seen: list[Figure]) -> None:
    what = EVERY_KIND["one at a time"]
    pixels = picture(draw_phases, ablation_of(what, without_two_phases(table_of(what))), tmp_path / "phases.png")
    assert "transfer" not in bars_of(seen[0]) and "augment" not in bars_of(seen[0])
    (legend,) = seen[0].legends
    assert [text.get_text() for text in legend.get_texts()] == list(bars_of(seen[0]))
    colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    large = {f"#{bytes(colour).hex()}" for colour, count in zip(colours, counts, strict=True) if count > 3000}
    assert {phase for phase, colour in PHASE_COLOURS.items() if colour in large} == {
        "data_wait",
        "forward",
        "backward",
        "optimizer",
    }


def test_an_arm_that_never_ran_has_no_bar(tmp_path: Path, seen: list[Figure]) -> None:
    what = EVERY_KIND["one at a time"]
    picture(draw_phases, ablation_of(what, without_one_arm(table_of(what))), tmp_path / "phases.png")
    names = [label.get_text() for label in seen[0].axes[0].get_yticklabels()]
    assert names == ["baseline", "channels_last", "all"]


# --- accuracy ---


def test_there_is_a_line_per_run_and_one_for_the_target(tmp_path: Path, seen: list[Figure]) -> None:
    what = EVERY_KIND["one at a time"]
    ablation = ablation_of(what, table_of(what), parent_tags={"accelmlf.config.target_accuracy": "0.75"})
    picture(draw_curves, ablation, tmp_path / "accuracy.png")
    (axis,) = seen[0].axes
    *lines, target = axis.lines
    assert set(np.asarray(target.get_ydata())) == {0.75}
    expected = [run for runs in curves(ablation).values() for run in runs]
    assert len(lines) == len(expected) == 12
    for line, (seconds, accuracy) in zip(lines, expected, strict=True):
        assert list(np.asarray(line.get_xdata())) == seconds
        assert list(np.asarray(line.get_ydata())) == accuracy
    (legend,) = seen[0].legends
    names = [arm.name for arm in what.as_design().arms]
    assert [text.get_text() for text in legend.get_texts()] == [*names, "target 0.75"]


@pytest.mark.parametrize("kind", ["one at a time", "twelve arms"])
def test_the_runs_of_an_arm_look_alike_and_those_of_two_arms_do_not(
    tmp_path: Path, seen: list[Figure], kind: str
) -> None:
    what = EVERY_KIND[kind]
    ablation = ablation_of(what, table_of(what))
    picture(draw_curves, ablation, tmp_path / "accuracy.png")
    *lines, _ = seen[0].axes[0].lines
    looks = [(to_hex(line.get_color()), line.get_linestyle()) for line in lines]
    assert [looks[at : at + 3] for at in range(0, len(looks), 3)] == [[look] * 3 for look in looks[::3]]
    assert len(set(looks)) == len(what.as_design().arms)
