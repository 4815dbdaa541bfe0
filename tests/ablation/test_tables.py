"""What an ablation leaves says what its runs have measured, in words, in Markdown, in CSV and in MLflow."""

import csv
import math
import random
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Metric

from accelmlf.ablation.effects import MEASURES
from accelmlf.ablation.factors import ACCUMULATION, SAME_EFFECTIVE_BATCH
from accelmlf.ablation.files import PICTURES, curves_of, draw, write_tables
from accelmlf.ablation.marks import unfit
from accelmlf.ablation.result import Ablation
from accelmlf.ablation.settings import RUNS
from accelmlf.ablation.tables import (
    ARM_HEAD,
    HOW_TO_READ,
    HOW_VERDICTS_ARE_MADE,
    arm_rows,
    as_lines,
    as_markdown,
    metric_name,
    metrics,
    other_rows,
    reasons,
    verdict,
    verdict_rows,
)
from accelmlf.many_runs.comparison import Ratio, as_ratio
from accelmlf.many_runs.pooled import PooledTable, simultaneous
from accelmlf.text import as_html
from accelmlf.tracking.store import Store
from tests.ablation.makers import Table, figures_of, measured_from
from tests.ablation.test_result import ARMS, ablation_of, asked, parent_of, stored

CLEAR = {"baseline": 1.0, "amp:bf16": 0.5, "channels_last": 1.01, "all": 0.55}
"""Logarithms of the seconds of an epoch: one factor that helps, and one that does nothing."""
HOSTILE = "<script>alert(1)</script> | a **bold** _word_ `x` [a](http://b) ![c](d.png) # - 1. \\ &amp; é $x^$"


def table_of(repeats: int = 3, noise: float = 0.002) -> Table:
    return measured_from(CLEAR, repeats, noise, random.Random(1))


@pytest.fixture
def ablation() -> Ablation:
    return ablation_of(asked(), table_of())


def with_misses(*places: tuple[str, int], repeats: int = 3) -> Table:
    """The same where some runs have missed the target."""
    table = table_of(repeats)
    for arm, block in places:
        table[arm][block] = figures_of(epochs_to_accuracy=None)
    return table


def ratio_of(ablation: Ablation, arm: str, metric: str) -> Ratio:
    """Times as fast as the baseline, by all that its arms have measured."""
    logs = {
        name: {block: math.log(figures[metric]) for block, figures in blocks.items()}
        for name, blocks in ablation.measured.items()
    }
    confidence = simultaneous(len(ablation.design.contrasts))
    return as_ratio(PooledTable.of(logs).interval({"baseline": 1.0, arm: -1.0}, confidence=confidence))


def row_of(rows: Sequence[Sequence[str]], name: str) -> Sequence[str]:
    (row,) = [row for row in rows if row[0] == name]
    return row


# --- in words ---


def test_every_arm_has_a_row_with_the_figures_of_its_runs_in_the_order_of_the_blocks(ablation: Ablation) -> None:
    rows = arm_rows(ablation)
    assert [row[0] for row in rows] == list(ARMS)
    for arm, settings, epochs, target, accuracy in rows:
        config = ablation.runs[0][arm].settings
        assert settings == f"batch 32 x 1, learning rate 0.001, {config['techniques']}"
        runs = [ablation.runs[block][arm].metrics for block in range(3)]
        seconds = [float(text) for text in epochs.split(", ")]
        assert seconds == pytest.approx([run["median_epoch_s"] for run in runs], rel=0.005)
        assert target == ", ".join(f"{run['time_to_accuracy_s']:.1f}" for run in runs)
        assert accuracy == ", ".join(f"{run['final_accuracy']:.4f}" for run in runs)
    assert len({row[2] for row in rows}) == len(ARMS)


def test_a_miss_is_a_word_in_its_place_and_no_number() -> None:
    rows = arm_rows(ablation_of(asked(), with_misses(("all", 1))))
    assert row_of(rows, "all")[3].split(", ")[1] == "missed"
    assert "missed" not in "".join(text for row in rows for text in row if row[0] != "all")
    assert len(row_of(rows, "all")[2].split(", ")) == 3  # its epochs were measured


def test_an_arm_of_which_no_run_is_left_has_an_empty_row() -> None:
    table = table_of()
    table["all"].clear()
    assert row_of(arm_rows(ablation_of(asked(), table)), "all") == ["all", "", "", "", ""]


def test_verdicts_follow_from_what_was_measured(ablation: Ablation) -> None:
    rows = verdict_rows(ablation)
    assert [row[0] for row in rows] == ["amp:bf16", "channels_last", "all"]
    for arm, says in (("amp:bf16", "faster: "), ("channels_last", "the same within 2 %: "), ("all", "faster: ")):
        for metric, text in zip(("median_epoch_s", "time_to_accuracy_s"), row_of(rows, arm)[1:], strict=True):
            assert text == f"{says}{ratio_of(ablation, arm, metric)}"


def test_a_miss_is_counted_and_leaves_no_verdict_on_time_and_no_mean() -> None:
    ablation = ablation_of(asked(), with_misses(("all", 1), ("baseline", 0)))
    for contrast in ablation.design.contrasts:
        on_epochs, on_target = ablation.judged(contrast)
        assert on_epochs.interval is not None and on_epochs.verdict is not None
        assert on_target.interval is None and on_target.verdict is None
    says = "target reached in 2 of 3 (baseline), 2 of 3 (all): no verdict"
    assert row_of(verdict_rows(ablation), "all")[2] == says
    assert not [name for name in metrics(ablation) if name.startswith("time_to_accuracy")]


def test_a_miss_that_does_not_concern_a_contrast_leaves_its_verdict() -> None:
    ablation = ablation_of(asked(), with_misses(("all", 1)))
    assert "faster" in row_of(verdict_rows(ablation), "amp:bf16")[2]
    assert row_of(verdict_rows(ablation), "all")[2] == "target reached in 3 of 3 (baseline), 2 of 3 (all): no verdict"


def test_a_screening_says_of_its_figures_that_they_are_averages_with_pairs_in_them() -> None:
    six = ("amp:bf16", "channels_last", "fused_optimizer", "workers:2", "pin_memory", "tf32")
    screened = asked("screening", six)
    seconds = {arm.name: 1.0 - 0.3 * ("tf32" in arm.factors) for arm in screened.as_design().arms}
    ablation = ablation_of(screened, measured_from(seconds, 3, 0.002, random.Random(1)))
    assert row_of(verdict_rows(ablation), "tf32")[1].startswith("faster on average: 1.3")
    assert row_of(verdict_rows(ablation), "workers:2")[1].startswith("the same within 2 % on average: ")
    said = "a screening: each figure is an average over combinations of the others, into which pairs are mixed"
    assert said in "\n".join(as_lines(ablation)) and said in as_markdown(ablation)
    alone = ablation_of(asked(), table_of())  # the control
    assert "on average" not in as_markdown(alone) and said not in as_markdown(alone)


@pytest.mark.parametrize("repeats", [1, 2])
def test_few_repeats_leave_numbers_and_no_verdict(repeats: int) -> None:
    ablation = ablation_of(asked(repeats=repeats), table_of(repeats))
    for _, *texts in verdict_rows(ablation):
        for text in texts:
            assert "x" in text and text.endswith("no verdict with fewer than 3 repeats")
            assert not [word for word in ("faster", "slower", "same", "decided") if word in text]
    assert f"{repeats} repeat{'s' * (repeats > 1)}, 3 are needed" in unfit(ablation)


def test_a_failure_leaves_no_verdict_to_its_contrasts_and_the_others_theirs() -> None:
    table = table_of()
    del table["channels_last"][2]
    rows = verdict_rows(ablation_of(asked(), table))
    for text in row_of(rows, "channels_last")[1:]:
        assert text.endswith("no verdict: 1 run of channels_last failed or missing")
        assert "same" not in text and "decided" not in text
    for text in row_of(rows, "amp:bf16")[1:]:
        assert text.startswith("faster: ")


def test_all_verdicts_stand_on_one_line(ablation: Ablation) -> None:
    line = verdict(ablation)
    assert "\n" not in line
    assert line.startswith("with pipeline=memory: ")
    for name, on_epochs, on_target in verdict_rows(ablation):
        assert f"{name}: {on_epochs} (seconds per epoch), {on_target} (time to accuracy)" in line


def test_the_console_shows_arms_verdicts_and_reasons(ablation: Ablation) -> None:
    text = "\n".join(as_lines(ablation))
    for row in [ARM_HEAD[RUNS], *arm_rows(ablation), *verdict_rows(ablation)]:
        assert all(cell in text for cell in row)
    assert reasons(ablation)
    assert text.index("why:") < text.index(reasons(ablation)[0])
    assert "unfit" not in text


def test_a_reason_stands_beside_the_factor_that_it_is_about(ablation: Ablation) -> None:
    found = reasons(ablation)
    assert [text.split(": ")[0] for text in found] == [
        contrast.name for contrast in ablation.design.contrasts if ablation.reason(contrast)
    ]
    on_amp = next(text for text in found if text.startswith("amp:bf16: "))
    assert "forward and backward" in on_amp and on_amp.endswith(".")


# --- metrics ---


def test_the_metrics_are_the_ratios_of_the_runs_with_their_intervals(ablation: Ablation) -> None:
    figures = metrics(ablation)
    for arm, name in (("amp:bf16", "amp_bf16"), ("channels_last", "channels_last"), ("all", "all")):
        for metric, group in (
            ("median_epoch_s", "epoch_speedup"),
            ("time_to_accuracy_s", "time_to_accuracy_speedup"),
        ):
            ratio = ratio_of(ablation, arm, metric)
            own = [figures.pop(f"{group}/{name}{end}") for end in ("", "_low", "_high")]
            assert own == pytest.approx([ratio.value, ratio.low, ratio.high])
    assert figures == {}


def test_one_repeat_has_a_ratio_and_no_interval() -> None:
    figures = metrics(ablation_of(asked(repeats=1), table_of(1)))
    assert figures and not [name for name in figures if name.endswith(("_low", "_high"))]


@pytest.mark.parametrize("design", ["one_at_a_time", "leave_one_out", "factorial"])
def test_mlflow_takes_the_metrics_of_any_factors_and_confuses_none(store: mlflow.MlflowClient, design: str) -> None:
    factors = (ACCUMULATION, SAME_EFFECTIVE_BATCH, "amp:bf16", "compile:max-autotune-no-cudagraphs")
    what = asked(design, factors, repeats=2)
    truth = {arm.name: 1.0 for arm in what.as_design().arms}
    ablation = ablation_of(what, measured_from(truth, 2, 0.01, random.Random(2)))
    figures = metrics(ablation)
    assert len({metric_name(contrast) for contrast in ablation.design.contrasts}) == len(ablation.design.contrasts)
    assert len(figures) == 6 * len(ablation.design.contrasts)
    run_id = store.create_run("0").info.run_id
    store.log_batch(run_id, metrics=[Metric(name, value, 0, 0) for name, value in figures.items()])
    assert store.get_run(run_id).data.metrics == pytest.approx(figures)


# --- Markdown ---


class Page(HTMLParser):
    """What a page holds: its tags, the cells of its tables, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.pieces: list[str] = []
        self.in_cell = False
        self.feed(text.partition("<body>")[2])

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        self.in_cell = tag in ("td", "th")
        if self.in_cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def page_of(ablation: Ablation, folder: Path, level: int = 1) -> Page:
    return Page(as_html(as_markdown(ablation, level=level), "a title", folder))


def test_the_document_holds_every_table_whole(ablation: Ablation, tmp_path: Path) -> None:
    page = page_of(ablation, tmp_path)
    assert page.rows == [
        ["", "seconds per epoch", "time to accuracy"],
        *verdict_rows(ablation),
        ARM_HEAD[RUNS],
        *arm_rows(ablation),
        ["", *(contrast.name for contrast in ablation.design.contrasts)],
        *other_rows(ablation),
    ]
    assert page.tags.count("table") == 3
    for sentence in [*reasons(ablation), HOW_TO_READ[RUNS], HOW_VERDICTS_ARE_MADE]:
        assert sentence in page.text


def test_the_document_says_what_was_measured_where_and_what_was_left_out(tmp_path: Path) -> None:
    what = asked(left_out=("pin_memory (it needs CUDA, and the device is cpu)", "tf32 (it needs CUDA, too)"))
    tags = {"accelmlf.command": "scripts/run -e ablate -P model=vit", "accelmlf.hardware.gpu": "H100 SXM"}
    text = page_of(ablation_of(what, table_of(), parent_tags=tags, pipeline="stream"), tmp_path).text
    for fact in (
        "vit on digits, pipeline=stream, one at a time",
        "10 epochs",
        "target 0.9 on validation",
        "3 repeats, 12 of 12 runs",
        "on H100 SXM, a processor, ? threads, torch ?",
        "left out: pin_memory (it needs CUDA, and the device is cpu)",
        "left out: tf32 (it needs CUDA, too)",
        "scripts/run -e ablate -P model=vit",
    ):
        assert fact in text
    assert "left out" not in page_of(ablation_of(asked(), table_of()), tmp_path).text  # the control


@pytest.mark.parametrize("level", [1, 4])
def test_the_document_is_a_piece_of_another_at_any_level(ablation: Ablation, tmp_path: Path, level: int) -> None:
    tags = page_of(ablation, tmp_path, level).tags
    assert [tag for tag in tags if tag in ("h1", "h2", "h3", "h4", "h5", "h6")] == [
        f"h{level}",
        f"h{level + 1}",
        f"h{level + 1}",
    ]


def test_what_is_shown_without_verdict_has_none(ablation: Ablation) -> None:
    rows = other_rows(ablation)
    titles = [measure.title for measure in MEASURES if not measure.has_verdict]
    assert [row[0] for row in rows] == [title for title in titles if "GPU" not in title]  # which was not captured
    cells = [cell for row in rows for cell in row[1:]]
    assert all(cells)
    assert not [cell for cell in cells if "faster" in cell or "slower" in cell or "same" in cell]


def test_what_was_captured_on_a_gpu_has_rows_of_its_own() -> None:
    table = {
        arm: {
            block: figures_of(
                gpu_peak_allocated_mib=100.0 * (1 + number), gpu_peak_reserved_mib=512.0, gpu_joules=5.0 * (4 - number)
            )
            for block in range(3)
        }
        for number, arm in enumerate(ARMS)
    }
    rows = other_rows(ablation_of(asked(), table))
    assert row_of(rows, "peak GPU memory, allocated")[1] == "2.00x"
    assert row_of(rows, "GPU energy per epoch")[1] == "0.75x"


def test_hostile_text_is_shown_as_the_text_that_it_is(tmp_path: Path) -> None:
    tags = {"accelmlf.hardware.cpu": HOSTILE, "accelmlf.command": HOSTILE}
    tags |= {f"accelmlf.config.{name}": HOSTILE for name in ("epochs", "pipeline")}
    bad = ablation_of(asked(left_out=(HOSTILE,)), table_of(), parent_tags=tags)
    plain = ablation_of(asked(left_out=("x",)), table_of(), parent_tags={"accelmlf.command": "x"}, pipeline="stream")
    page, good = page_of(bad, tmp_path), page_of(plain, tmp_path)
    assert page.tags == good.tags  # no script, no link, no picture, no emphasis, no table torn apart
    assert [len(row) for row in page.rows] == [len(row) for row in good.rows]
    for text in (f"left out: {HOSTILE}", f"on {HOSTILE}, ? threads", f"{HOSTILE} epochs, ", f"\n{HOSTILE}\n"):
        assert text in f"\n{page.text}"
    assert "script" in Page(f"<body>{HOSTILE}").tags  # the control: it is hostile


@pytest.mark.parametrize("command", ["a\n```\n\n<b>b</b> **c**\n\n```\nd", "~~~", "````", "    x"])
def test_a_command_is_shown_as_it_is_and_cannot_leave_its_block(command: str, tmp_path: Path) -> None:
    page = page_of(ablation_of(asked(), table_of(), parent_tags={"accelmlf.command": command}), tmp_path)
    good = page_of(ablation_of(asked(), table_of(), parent_tags={"accelmlf.command": "good"}), tmp_path)
    assert page.tags == good.tags
    assert page.text.strip().endswith(command.strip())


# --- CSV ---


def csv_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_are_three_files(store: mlflow.MlflowClient, ablation: Ablation, tmp_path: Path) -> None:
    write_tables(tmp_path, Store(store), ablation)
    assert {path.name for path in tmp_path.iterdir()} == {"ablation.md", "effects.csv", "runs.csv"}
    assert (tmp_path / "ablation.md").read_text() == as_markdown(ablation)


def test_the_table_of_runs_holds_every_final_figure_of_every_run(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    table = with_misses(("all", 1))
    table["all"][1]["eval/accuracy"] = 0.5  # of an epoch, and no figure of the run
    ablation = ablation_of(asked(), table)
    write_tables(tmp_path, Store(store), ablation)
    rows = csv_of(tmp_path / "runs.csv")
    assert len(rows) == 12
    for row in rows:
        run = ablation.runs[int(row["block"])][row["arm"]]
        assert (row["run_id"], row["seed"], row["outcome"]) == (run.run_id, row["block"], run.outcome)
        figures = {name: float(text) for name, text in list(row.items())[5:] if text}
        assert figures == {name: value for name, value in run.metrics.items() if "/" not in name}
    (missed,) = [row for row in rows if row["time_to_accuracy_s"] == ""]
    assert (missed["arm"], missed["block"], missed["outcome"]) == ("all", "1", "target_not_reached")
    assert {row["reached_target"] for row in rows} == {"0.0", "1.0"}


def test_the_table_of_effects_holds_every_measure_of_every_factor(
    store: mlflow.MlflowClient, ablation: Ablation, tmp_path: Path
) -> None:
    write_tables(tmp_path, Store(store), ablation)
    rows = csv_of(tmp_path / "effects.csv")
    assert [(row["factor"], row["measure"]) for row in rows] == [
        (effect.contrast.name, effect.measure.metric) for effect in ablation.effects
    ]
    by = {(row["factor"], row["measure"]): row for row in rows}
    ratio, row = ratio_of(ablation, "amp:bf16", "median_epoch_s"), by["amp:bf16", "median_epoch_s"]
    numbers = [float(row[name]) for name in ("value", "low", "high", "blocks")]
    assert numbers == pytest.approx([ratio.value, ratio.low, ratio.high, 3])
    assert (row["kind"], row["verdict"]) == ("ratio", "faster")
    shorter = by["amp:bf16", "mean_forward_s"]
    differences = [
        ablation.runs[b]["amp:bf16"].metrics["mean_forward_s"] - ablation.runs[b]["baseline"].metrics["mean_forward_s"]
        for b in range(3)
    ]
    assert float(shorter["value"]) == pytest.approx(math.fsum(differences) / 3)
    assert shorter["kind"] == "difference in s per epoch"


def test_only_what_was_declared_to_be_judged_has_a_verdict(
    store: mlflow.MlflowClient, ablation: Ablation, tmp_path: Path
) -> None:
    write_tables(tmp_path, Store(store), ablation)
    judged = {measure.metric for measure in MEASURES if measure.has_verdict}
    for row in csv_of(tmp_path / "effects.csv"):
        assert bool(row["verdict"]) == (row["measure"] in judged)


def test_a_ratio_without_a_number_says_why_in_the_table(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    write_tables(tmp_path, Store(store), ablation_of(asked(), with_misses(("all", 1))))
    by = {(row["factor"], row["measure"]): row for row in csv_of(tmp_path / "effects.csv")}
    row = by["all", "time_to_accuracy_s"]
    assert row["verdict"] == "target reached in 3 of 3 (baseline), 2 of 3 (all): no verdict"
    assert {row[name] for name in ("value", "low", "high", "blocks")} == {""}
    assert by["all", "median_epoch_s"]["value"] != ""


def test_one_repeat_leaves_values_without_limits(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    write_tables(tmp_path, Store(store), ablation_of(asked(repeats=1), table_of(1)))
    rows = csv_of(tmp_path / "effects.csv")
    assert all(row["value"] and row["blocks"] == "1" for row in rows)
    assert {row[name] for row in rows for name in ("low", "high", "verdict")} == {""}


def test_a_table_keeps_whatever_text_there_is(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    hostile = 'a "quoted", text\nof two lines'
    runs = [stored(arm, 0, tags={"accelmlf.config.seed": hostile}) for arm in ARMS]
    write_tables(tmp_path, Store(store), Ablation.of(parent_of(asked(repeats=1)), runs))
    assert {row["seed"] for row in csv_of(tmp_path / "runs.csv")} == {hostile}


def test_an_ablation_without_a_run_leaves_tables_all_the_same(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    write_tables(tmp_path, Store(store), Ablation.of(parent_of(asked()), []))
    assert csv_of(tmp_path / "runs.csv") == []
    assert len(csv_of(tmp_path / "effects.csv")) == 3
    assert "0 of 12 runs" in (tmp_path / "ablation.md").read_text()


# --- curves and pictures ---


def test_curves_are_those_of_the_runs_by_arm_and_block(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    what, runs = asked(factors=("amp:bf16",), repeats=2), []
    expected: dict[str, list[tuple[list[float], list[float]]]] = {"baseline": [], "amp:bf16": []}
    for block in (0, 1):
        for arm in ("amp:bf16", "baseline"):
            run_id = store.create_run("0").info.run_id
            clock = [1.0 + block, 3.0 + len(arm)]
            accuracy = [0.25, 0.5 + block / 4]
            for step in (2, 1):  # not in order
                store.log_metric(run_id, "time/elapsed_train_s", clock[step - 1], step=step)
                store.log_metric(run_id, "eval/accuracy", accuracy[step - 1], step=step)
            runs.append(stored(arm, block, what=what, run_id=run_id))
            expected[arm].append((clock, accuracy))
    ablation = Ablation.of(parent_of(what), runs[::-1])
    found = {arm: [(list(s), list(a)) for s, a in curves] for arm, curves in curves_of(Store(store), ablation).items()}
    assert found == expected
    assert list(found) == ["baseline", "amp:bf16"]
    draw(tmp_path, Store(store), ablation, prefix="1234-")
    assert {path.name for path in tmp_path.glob("*.png")} == {f"1234-{name}" for name in PICTURES}
