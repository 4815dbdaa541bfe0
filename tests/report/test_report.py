"""A report over a real store: what may stand together does, what may not is named, and nothing is lost."""

import base64
import dataclasses
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from PIL import Image

from accelmlf.ablation.designs import Asked
from accelmlf.ablation.factors import settings_of
from accelmlf.ablation.settings import AblateConfig
from accelmlf.cli import main, parsed
from accelmlf.errors import DataError, DeviceError
from accelmlf.models.families import MODELS
from accelmlf.report.groups import sort_runs
from accelmlf.report.paper import CELLS
from accelmlf.report.report import as_markdown, run_report
from accelmlf.report.settings import ReportConfig
from accelmlf.run.one_run import one_run
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig
from accelmlf.text import as_html, duration
from accelmlf.tracking.store import Store, open_store
from accelmlf.tracking.stored_runs import StoredRun
from accelmlf.tracking.tags import (
    ABLATION,
    ARM,
    ARM_RUN,
    ASKED,
    BLOCK,
    CONFIRMATION,
    DEVICE,
    KIND,
    OWNER,
    REPORT,
    SEARCH,
    SETTING,
    STUDY,
    STUDY_ID,
    TRIAL,
)
from accelmlf.tracking.tracker import MlflowTracker
from tests.makers import add_tiny_model, make_config
from tests.report.makers import CPU, GPU, HOSTILE, Page, as_shown, foreign, make_run, make_runs, put, typed

ROOT = Path(__file__).parents[2]
PAPER_HEAD = ["cell", "measured by", "untuned", "accuracy", "tuned", "accuracy", "remark"]
RUNS_HEAD = ["#", "arm", "runs", "training", "s per epoch", "time to target", "test accuracy", "fit for a claim"]
LEFT_OUT_HEAD = ["runs", "why", "which"]
PAPER_SECTION, MEASURED, DEMONSTRATION = "The paper's table, and ours", "Measured", "Demonstration"
EFFICIENTNET, VIT = {"model": "efficientnet_b0", "dataset": "cifar10"}, {"model": "vit", "dataset": "cifar100"}
DIGITS = {"model": "vit", "dataset": "digits"}
TINY = {**DIGITS, "train_images": 60, "epochs": 1, "device": "cpu", "save_model": False, "target_accuracy": 0.01}


# --- a store with everything in it ---


@contextmanager
def tracking_in(uri: str, experiment: str, folder: Path) -> Iterator[None]:
    """What runs here is tracked in an experiment of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("MLFLOW_EXPERIMENT_NAME", experiment)
        patch.chdir(folder)
        mlflow.set_tracking_uri(uri)
        yield


def timed(seconds: Sequence[float], given: Mapping[str, Any], **what: Any) -> list[StoredRun]:
    """A run for each number of seconds, with a seed of its own."""
    return [
        make_run(
            given={**given, "seed": seed}, metrics={"total_train_s": s, "final_accuracy": 0.91 + seed / 100}, **what
        )
        for seed, s in enumerate(seconds)
    ]


def search_runs_of(study: str) -> list[StoredRun]:
    """A search with its trials and its confirmation."""
    of_study = {STUDY_ID: study, STUDY: study}
    parent = {
        **of_study,
        KIND: SEARCH,
        "accelmlf.ended_at": "n_trials",
        "accelmlf.verdict": "winner: batch 192 x 1: 1.99x [1.92, 2.07], faster than the recipe",
        "accelmlf.command": "scripts/run -e tune -P model=efficientnet_b0 -P dataset=cifar10",
        "accelmlf.winner_command": "scripts/run -e efficientnet_b0 -P dataset=cifar10 -P batch_size=192",
    }
    figures = {"finished_trials": 12.0, "confirmed_reached": 3.0, "confirmed_repeats": 3.0}
    trials = [make_run(f"trial {n}", EFFICIENTNET, outcome="pruned", tags={**of_study, KIND: TRIAL}) for n in range(2)]
    confirming = make_runs(3, EFFICIENTNET, tags={**of_study, KIND: CONFIRMATION, "accelmlf.point": "batch 192 x 1"})
    return [make_run("search", EFFICIENTNET, tags=parent, metrics=figures), *trials, *confirming]


def ablation_runs_of(study: str, blocks: int = 3) -> list[StoredRun]:
    """An ablation of one factor on the digits, whole."""
    asked = Asked(
        design="one_at_a_time",
        factors=("channels_last",),
        clash=None,
        repeats=3,
        left_out=("pin_memory (it needs CUDA)",),
    )
    of_study, base = {STUDY_ID: study, STUDY: study}, resolve({**DIGITS, "device": "cpu"})
    command = "scripts/run -e ablate -P model=vit -P factors=channels_last,pin_memory -P measure=runs -P repeats=3"
    tags = {**of_study, KIND: ABLATION, ASKED: asked.as_json(), "accelmlf.command": command}
    runs = [make_run("ablation", DIGITS, hardware=CPU, tags=tags)]
    for block in range(blocks):
        for number, arm in enumerate(asked.as_design().arms):
            runs.append(
                make_run(
                    f"{arm.name}, seed {block}",
                    {**DIGITS, **settings_of(arm, base), "seed": block},
                    hardware=CPU,
                    metrics={
                        "median_epoch_s": 10.0 + block - 5 * number,
                        "time_to_accuracy_s": 50.0 + block - 9 * number,
                    },
                    tags={
                        **of_study,
                        KIND: ARM_RUN,
                        ARM: arm.name,
                        BLOCK: str(block),
                        OWNER: "machine/boot/place/1/1",
                        DEVICE: "cpu",
                    },
                )
            )
    return runs


def without_metrics(run: StoredRun) -> StoredRun:
    return dataclasses.replace(run, metrics={})


EVERYTHING: dict[str, list[StoredRun]] = {
    "baseline": timed([6000, 6600, 9000], {}),
    "tuned": timed([3000, 3060, 3120], {"tuned": True}),
    "the test set watched": timed([7000], {"validation": "test"}),
    "a CPU": timed([8000], {}, hardware=CPU),
    "what a CPU leaves of tuned": timed([5000, 5100, 5200], {"tuned": True}, hardware=CPU),
    "a stream": timed([4000, 4200, 4100], {"tuned": True, "pipeline": "stream"}),
    "few epochs": timed([1111, 1111, 1111], {"epochs": 5}),
    "another batch": timed([2222, 2222, 2222], {"batch_size": 64}),
    "random weights": timed([3333, 3333, 3333], {**EFFICIENTNET, "weights": "random"}),
    "resumed": [
        *timed([100, 110], EFFICIENTNET),
        *timed([120], {**EFFICIENTNET}, tags={"accelmlf.resumed_in_epoch": "4", f"{SETTING}seed": "2"}),
    ],
    "a shared GPU": [
        make_run(given={**EFFICIENTNET, "tuned": True, "seed": seed}, metrics={"other_gpu_processes": 2.0})
        for seed in range(3)
    ],
    "code that is not committed": make_runs(3, VIT, tags={"accelmlf.code.uncommitted_changes": "true"}),
    "somebody's own pictures": make_runs(3, {"dataset": "folder", "data_dir": "my 'own'; <b>pictures</b>"}),
    "an older version": [without_metrics(make_run(given=DIGITS, hardware={"device": "cpu"}, digest=None))],
    "failed": [make_run("<script>alert(1)</script>", outcome="failed", digest="other")],
    "out of memory": [make_run("a|b", outcome="out_of_memory", digest="other")],
    "interrupted": [make_run("[x](http://evil)", outcome="interrupted", digest="other")],
    "under way": [make_run("one\ntwo", outcome=None)],
    "another project": [foreign("x" * 300), foreign("![x](http://evil/x.png)")],
    "another version": [make_run("of tomorrow", tags={f"{SETTING}model": "vgg"})],
    "a search": search_runs_of("the-study"),
    "a search that was continued": [
        make_run(given=EFFICIENTNET, outcome="interrupted", tags={KIND: SEARCH, "accelmlf.continued_by": "x"})
    ],
    "an ablation": ablation_runs_of("the-ablation"),
    "an earlier report": [foreign("report", {KIND: REPORT, "accelmlf.outcome": "completed"})],
}


@dataclass(frozen=True)
class Written:
    """A report, and where it is of."""

    client: mlflow.MlflowClient
    uri: str
    name: str
    folder: Path
    output: Path
    runs: list[StoredRun]

    @property
    def markdown(self) -> str:
        return (self.output / "report.md").read_text()

    @property
    def page(self) -> Page:
        return Page((self.output / "report.html").read_text())

    @property
    def read(self) -> list[StoredRun]:
        """Without reports."""
        return [run for run in self.runs if run.kind != REPORT]


def train_some() -> None:
    """Real runs: of one setting, of a preset that a CPU cannot run whole, of what fails, of a model that is gone."""
    for seed in range(3):
        one_run(resolve({**TINY, "seed": seed}), MlflowTracker(open_store()), quiet=True)
    one_run(resolve({**TINY, "tuned": True}), MlflowTracker(open_store()), quiet=True)
    with pytest.raises(DeviceError):
        one_run(resolve({**TINY, "techniques": "pin_memory"}), MlflowTracker(open_store()), quiet=True)
    with pytest.raises(DataError):
        one_run(resolve({**TINY, "dataset": "folder", "data_dir": "nowhere"}), MlflowTracker(open_store()), quiet=True)
    add_tiny_model()
    one_run(make_config(train_images=60, epochs=1, save_model=False), MlflowTracker(open_store()), quiet=True)
    del MODELS["tiny"]


@pytest.fixture(scope="module")
def written(store_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A report over a real store that holds everything."""
    folder, name = tmp_path_factory.mktemp("report"), "everything [x](http://evil) <i>"
    client = mlflow.MlflowClient(store_uri)
    experiment_id = client.create_experiment(name, folder.as_uri())
    with tracking_in(store_uri, name, folder):
        for runs in EVERYTHING.values():
            for run in runs:
                put(client, experiment_id, run)
        train_some()
        run_report(ReportConfig(output="a/report"))
        return Written(client, store_uri, name, folder, folder / "a" / "report", Store(client).read_runs(experiment_id))


@pytest.fixture(scope="module")
def page(written: Written) -> Page:
    return written.page


def rows_of_paper(page: Page, *, ours: bool) -> list[list[str]]:
    return [row for row in page.rows(PAPER_HEAD) if row[1].startswith("here") is ours]


def our_row(page: Page, cell: str, *words: str) -> list[str]:
    """The one row of ours with all these words."""
    (row,) = [row for row in rows_of_paper(page, ours=True) if row[0] == cell and all(word in row[1] for word in words)]
    return row


# --- the paper's table ---


def test_the_six_published_cells_are_there_as_published(page: Page) -> None:
    published = [
        [f"{c.model} {c.dataset}", c.untuned_time, c.untuned_accuracy, c.tuned_time, c.tuned_accuracy, c.remark]
        for c in CELLS
    ]
    assert [[row[0], *row[2:]] for row in rows_of_paper(page, ours=False)] == published
    assert len(published) == 6


def test_each_published_row_has_ours_right_below(page: Page) -> None:
    cells = [row[0] for row in page.rows(PAPER_HEAD)]
    assert cells == sorted(cells, key=list(dict.fromkeys(cells)).index)
    for cell in dict.fromkeys(cells):
        rows = [row for row in page.rows(PAPER_HEAD) if row[0] == cell]
        assert rows[0][1].startswith("the paper") and len(rows) > 1
        assert all(row[1].startswith("here") for row in rows[1:])


IN_MEMORY, IN_STREAM, SPLIT, WATCHED = "pipeline=memory", "pipeline=stream", "45,000-picture", "50,000-picture"


def test_both_arms_of_a_recipe_stand_beside_the_papers(page: Page) -> None:
    row = our_row(page, "resnet50 cifar10", "Some GPU", IN_MEMORY, SPLIT)
    assert row[2:] == ["110.0 min, n = 3", "92.00%", "51.0 min, n = 3, amp:bf16,pin_memory", "92.00%", ""]


def test_a_test_set_that_was_watched_is_named_and_stands_apart_and_unfit(page: Page) -> None:
    row = our_row(page, "resnet50 cifar10", "Some GPU", IN_MEMORY, WATCHED)
    assert row[2:6] == ["116.7 min, n = 1", "91.00%", "no runs", ""]
    assert "unfit for a claim" in row[6] and "validation on the test set" in row[6] and "1 seed" in row[6]


def test_a_cpu_stands_apart_from_a_gpu_and_what_it_left_of_tuned_is_not_tuned(page: Page) -> None:
    row = our_row(page, "resnet50 cifar10", "here: Some CPU, 8 threads, torch", IN_MEMORY)
    assert row[2:6] == ["2.22 h, n = 1", "91.00%", "no runs", ""]
    tuned = [row for row in page.rows(RUNS_HEAD) if row[1].startswith("tuned_partial: amp:bf16, batch 128 x 2")]
    assert [row[2] for row in tuned] == ["3 (seeds 0, 1, 2)"]
    assert "technique skipped: pin_memory" in tuned[0][-1]


def test_a_stream_stands_apart(page: Page) -> None:
    row = our_row(page, "resnet50 cifar10", IN_STREAM, SPLIT)
    assert row[2:] == ["no runs", "", "68.3 min, n = 3, amp:bf16,pin_memory", "92.00%", ""]


def test_every_row_of_ours_says_how_many_pictures_an_epoch_has(page: Page, written: Written) -> None:
    measured = [row for row in rows_of_paper(page, ours=True) if row[1] != "here"]
    assert len(measured) == 6
    for row in measured:
        assert (SPLIT in row[1]) is not (WATCHED in row[1])
    watched = [row for row in measured if WATCHED in row[1]]
    assert len(watched) == len({run.machine for run in EVERYTHING["the test set watched"]}) == 1


def test_a_cell_that_was_not_measured_says_so_and_how_to(page: Page) -> None:
    without = [row[0] for row in rows_of_paper(page, ours=True) if row[1] == "here"]
    assert without == ["resnet50 cifar100", "efficientnet_b0 cifar100", "vit cifar10"]
    for row in rows_of_paper(page, ours=True):
        if row[1] == "here":
            assert row[2:] == ["no runs", "", "no runs", "", ""]
    lines = [
        line for line in lines_of_code(page) if line.startswith("scripts/run -e ablate") and "design=preset" in line
    ]
    asked = [dict(word.split("=", 1) for word in shlex.split(line)[4::2]) for line in lines]
    for texts in asked:
        own = {name: texts.pop(name) for name in ("design", "measure", "repeats")}
        assert AblateConfig(**parsed(own, AblateConfig)).factor_words() == ("tuned",)
        assert parsed(texts, RunConfig) == texts
    assert [f"{texts['model']} {texts['dataset']}" for texts in asked] == without


def test_other_settings_never_stand_in_the_papers_table_and_are_named_below_it(page: Page) -> None:
    for seconds in (1111, 2222, 3333):
        assert duration(seconds) not in " ".join(cell for row in page.rows(PAPER_HEAD) for cell in row)
        assert len([row for row in page.rows(RUNS_HEAD) if row[3] == duration(seconds)]) == 1
    aside = [text for tag, text in page.section(PAPER_SECTION) if tag == "li"]
    assert len(aside) == 4
    for words in (
        ["resnet50 cifar10, baseline", "epochs=5", "(3 runs)"],
        ["resnet50 cifar10, custom", "batch 64 x 1", "(3 runs)"],
        ["resnet50 cifar10, tuned_partial", "(3 runs)"],
        ["efficientnet_b0 cifar10, baseline", "weights=random", "(3 runs)"],
    ):
        assert len([text for text in aside if all(word in text for word in words)]) == 1


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("efficientnet_b0 cifar10", "resumed in the middle of epoch 4, which is timed (1 of 3 runs)"),
        ("efficientnet_b0 cifar10", "2 other processes on the GPU"),
        ("vit cifar100", "code not committed"),
    ],
)
def test_what_is_against_a_row_stands_in_it(page: Page, cell: str, says: str) -> None:
    row = our_row(page, cell, "Some GPU")
    assert row[6].startswith("unfit for a claim: ") and says in row[6]
    assert our_row(page, "resnet50 cifar10", "Some GPU", IN_MEMORY, SPLIT)[6] == ""  # the control


def test_beside_the_paper_there_are_times_and_no_ratios(page: Page) -> None:
    section = " ".join(cell for row in page.rows(PAPER_HEAD) for cell in row)
    assert "min" in section
    assert not re.search(r"\d\s?x\b", section)


def test_runs_on_two_versions_of_the_data_do_not_hide_one_another(store: object, tmp_path: Path) -> None:
    runs = [*timed([100, 100, 100], {}, digest="one"), *timed([300, 300], {}, digest="two")]
    found = page_of(runs, tmp_path)
    ours = [row for row in rows_of_paper(found, ours=True) if row[1] != "here"]
    assert sorted(row[2] for row in ours) == ["100.0 s, n = 3", "5.0 min, n = 2"]
    assert sorted(len(rows) for _, rows in found.titled(RUNS_HEAD, MEASURED)) == [1, 1]
    together = page_of([*runs[:3], *timed([300, 300], {"epochs": 2}, digest="one")], tmp_path)  # the control
    assert [len(rows) for _, rows in together.titled(RUNS_HEAD, MEASURED)] == [2]


# --- groups, ablations, searches ---


def test_digits_stand_apart_as_a_demonstration(page: Page) -> None:
    measured = [title for title, _ in page.titled(RUNS_HEAD, MEASURED)]
    demonstrated = [title for title, _ in page.titled(RUNS_HEAD, DEMONSTRATION)]
    assert len(measured) >= 5 and len(demonstrated) >= 3
    assert not [title for title in measured if " on digits" in title]
    assert not [title for title in demonstrated if " on digits" not in title]
    assert any("say nothing about CIFAR" in text for _, text in page.section(DEMONSTRATION))


def test_no_table_of_runs_mixes_hardware_or_data(page: Page) -> None:
    tables = page.titled(RUNS_HEAD, MEASURED) + page.titled(RUNS_HEAD, DEMONSTRATION)
    titles = [title for title, _ in tables]
    assert len(set(titles)) == len(titles)
    rows = {title: len(rows) for title, rows in tables}
    gpu = next(title for title in titles if title.startswith("resnet50 on cifar10, Some GPU"))
    cpu = next(title for title in titles if title.startswith("resnet50 on cifar10, Some CPU"))
    assert (rows[gpu], rows[cpu]) == (6, 2)


def test_real_runs_are_one_group_with_their_seeds(page: Page) -> None:
    rows = [row for row in page.rows(RUNS_HEAD) if "train_images=60" in row[1] and row[1].startswith("baseline")]
    ((_, words, runs, training, epoch_s, to_target, accuracy, _),) = rows
    assert "epochs=1" in words
    assert runs == "3 (seeds 0, 1, 2)"
    assert re.fullmatch(r"[\d.]+ s", training) and float(epoch_s) > 0
    assert re.fullmatch(r"[\d.]+ s", to_target)
    assert re.fullmatch(r"0\.\d{4} \(0\.\d{4} to 0\.\d{4}\)", accuracy)
    partial = [
        row for row in page.rows(RUNS_HEAD) if "train_images=60" in row[1] and row[1].startswith("tuned_partial")
    ]
    assert [row[2] for row in partial] == ["1 (seed 0)"]
    assert re.search(r"technique skipped: (amp,)?pin_memory", partial[0][-1])


def test_what_has_nothing_against_it_is_fit_and_nothing_else_is(page: Page) -> None:
    fit = {row[3] for row in page.rows(RUNS_HEAD) if row[-1] == "yes"}
    unfit = {row[3] for row in page.rows(RUNS_HEAD) if row[-1].startswith("no: ")}
    assert {duration(seconds) for seconds in (6600, 3060, 4100, 1111, 2222, 3333)} <= fit
    assert {duration(seconds) for seconds in (7000, 8000, 5100, 110)} <= unfit
    assert len(page.rows(RUNS_HEAD)) == sum(
        row[-1] == "yes" or row[-1].startswith("no: ") for row in page.rows(RUNS_HEAD)
    )


def test_a_figure_that_was_not_recorded_is_absent_and_never_zero(page: Page) -> None:
    (row,) = [
        row for title, rows in page.titled(RUNS_HEAD, DEMONSTRATION) if "unknown processor" in title for row in rows
    ]
    assert row[2] == "1 (seed 0)"
    assert row[3:7] == ["", "", "", ""]


def test_an_ablation_is_told_with_its_verdicts_pictures_and_command(page: Page) -> None:
    section = page.section(DEMONSTRATION)
    headings = [text for tag, text in section if tag in ("h3", "h4")]
    assert "Ablations" in headings and any("vit on digits" in text for text in headings)
    facts = " ".join(text for tag, text in section if tag == "li")
    assert "6 of 6 runs" in facts and "left out: pin_memory (it needs CUDA)" in facts
    verdicts = page.rows(["", "seconds per epoch", "time to accuracy"])
    assert [row[0] for row in verdicts] == ["channels_last"]
    assert verdicts[0][1].startswith("faster: ")
    assert any("factors=channels_last,pin_memory" in line for line in lines_of_code(page))
    assert not [text for tag, text in page.section(MEASURED) if text == "Ablations"]


def test_a_search_is_told_with_its_winner_and_its_commands(page: Page) -> None:
    section = page.section(MEASURED)
    assert ("h3", "Searches") in section and ("h4", "the-study") in section
    facts = [text for tag, text in section if tag == "li"]
    assert "winner: batch 192 x 1: 1.99x [1.92, 2.07], faster than the recipe" in facts
    assert any(text.startswith("12 trials, ended by n_trials") for text in facts)
    assert not [text for text in facts if text.startswith("unfit for a claim")]
    for command in ("accelmlf.command", "accelmlf.winner_command"):
        assert EVERYTHING["a search"][0].tags[command] in lines_of_code(page)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"metrics": {"confirmed_repeats": 2.0}}, "2 repeats"),
        ({"tags": {"accelmlf.code.uncommitted_changes": "true"}}, "code not committed"),
    ],
    ids=["clean", "too few", "not committed"],
)
def test_a_search_is_marked_by_the_runs_that_confirmed_it(
    store: object, tmp_path: Path, change: Mapping[str, Any], says: str | None
) -> None:
    runs = search_runs_of("one")
    changed = [
        dataclasses.replace(
            run, metrics={**run.metrics, **change.get("metrics", {})}, tags={**run.tags, **change.get("tags", {})}
        )
        for run in runs
    ]
    against = [text for _, text in page_of(changed, tmp_path).blocks if text.startswith("unfit for a claim")]
    assert [says in text for text in against if says] == ([True] if says else [])
    assert bool(against) is bool(says)


# --- commands ---


def lines_of_code(page: Page) -> list[str]:
    return [line for code in page.code for line in code.splitlines()]


def meant(texts: Mapping[str, str]) -> dict[str, str]:
    """What a command has to bring back: the techniques of a preset are the device's own."""
    names = [name for name in texts if name not in ("save_model", "arm")]
    preset = texts["arm"] in ("baseline", "tuned", "tuned_partial")
    return {name: texts[name] for name in names if not (preset and name == "techniques")}


def test_every_group_has_a_command_that_leads_to_its_settings(written: Written, page: Page) -> None:
    commands = [line for line in lines_of_code(page) if re.match("scripts/run -e (?!tune|ablate)", line)]
    said = [meant(typed(line).as_texts()) for line in commands]
    groups = sort_runs(written.runs).groups
    assert len(groups) > 12
    for group in groups:
        assert {**meant(group.settings), "seed": str(group.seeds[0])} in said
    assert {**meant(groups[0].settings), "epochs": "77"} not in said  # the control


def test_a_command_of_runs_of_another_recipe_is_not_made_up(store: object, tmp_path: Path) -> None:
    """What an earlier version's recipe decayed by another amount cannot be had from this one."""
    found = page_of(make_runs(3, tags={f"{SETTING}weight_decay": "0.5"}), tmp_path)
    assert "0.5" in found.text or "another version" in found.text
    assert not [line for line in lines_of_code(found) if line.startswith("scripts/run -e resnet50")]


# --- nothing is lost ---


def test_every_run_that_was_read_is_counted_once(written: Written, page: Page) -> None:
    in_groups = sum(int(row[2].split()[0]) for row in page.rows(RUNS_HEAD))
    left_out = sum(int(row[0]) for row in page.rows(LEFT_OUT_HEAD))
    assert in_groups + left_out + len(["the search", "the ablation"]) == len(written.read)
    assert f"{len(written.read)} runs read" in page.text
    assert len(written.runs) == len(written.read) + 2  # an earlier report, and this one


def test_what_is_left_out_is_counted_with_its_reason_and_its_name(page: Page) -> None:
    found = {row[1]: (int(row[0]), row[2]) for row in page.rows(LEFT_OUT_HEAD)}
    expected = {
        "did not complete: failed": (2, "<script>alert(1)</script>"),
        "did not complete: out of memory": (1, "a|b"),
        "did not complete: interrupted": (1, "[x](http://evil)"),
        "under way, or killed without a word": (1, "one two"),
        "continued by a later start": (1, ""),
        "settings of another version": (2, "of tomorrow"),
    }
    for reason, (count, name) in expected.items():
        assert (found[reason][0], name in found[reason][1]) == (count, True), reason
    (others,) = [entry for reason, entry in found.items() if reason.startswith("not a run of this project")]
    assert others[0] == 3 and "![x](http://evil/x.png)" in others[1]
    (searches,) = [entry for reason, entry in found.items() if reason.startswith("runs of searches")]
    assert searches[0] == 5
    assert len(found) == len(expected) + 2


def test_runs_of_another_version_take_no_report_down(store: object, tmp_path: Path) -> None:
    for name in make_run().settings:
        for text in (None, "of another version"):
            runs = [make_run(tags={f"{SETTING}{name}": text}), *make_runs(3, tags={"accelmlf.version.torch": "1"})]
            found = page_of(runs, tmp_path)
            counted = sum(int(row[2].split()[0]) for row in found.rows(RUNS_HEAD))
            assert counted + sum(int(row[0]) for row in found.rows(LEFT_OUT_HEAD)) == 4, name
    search, *_ = search_runs_of("one")
    earlier = {
        name: text for name, text in search.tags.items() if not name.endswith(("verdict", "command", "ended_at"))
    }
    assert "no verdict" in page_of([dataclasses.replace(search, tags=earlier, metrics={})], tmp_path).text


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_an_ablation_whose_runs_were_deleted_is_told_as_what_is_left(
    experiment: str, store: mlflow.MlflowClient, tmp_path: Path, blocks: int
) -> None:
    own = experiment_id(store, experiment)
    found = page_of([put(store, own, run) for run in ablation_runs_of("one", blocks)], tmp_path)
    facts = " ".join(text for tag, text in found.section(DEMONSTRATION) if tag == "li")
    assert f"{2 * blocks} of 6 runs" in facts and "unfit for a claim" in facts
    assert f"{6 - 2 * blocks} of 6 runs are missing" in facts
    assert "faster: " not in found.text


# --- the files ---


def page_of(runs: Sequence[StoredRun], folder: Path, experiment: str = "0") -> Page:
    """A report over runs that need not be in the store; of its experiments it is the id of one."""
    return Page(as_html(as_markdown(open_store(), runs, experiment, folder), "a report", folder))


def assert_needs_nothing(page: Page) -> None:
    """No script, and nothing that leads out of the file."""
    assert not page.names() & {"script", "iframe", "object", "embed", "form", "base", "a", "svg", "video", "audio"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert not {"srcset", "background", "poster", "action", "http-equiv", "ping"} & attributes.keys(), tag
        assert "url(" not in attributes.get("style", "")
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:"), tag


def test_the_page_needs_no_network_and_runs_nothing(written: Written, page: Page) -> None:
    assert_needs_nothing(page)
    style = (written.output / "report.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert style and "url(" not in style and "@import" not in style
    with pytest.raises(AssertionError):  # the control
        assert_needs_nothing(Page('<img src="http://evil/x.png">'))


def test_the_page_is_made_for_a_phone_too(page: Page) -> None:
    viewports = [a["content"] for tag, a in page.elements if tag == "meta" and a.get("name") == "viewport"]
    assert viewports == ["width=device-width, initial-scale=1"]


def test_the_pictures_of_the_ablation_are_in_the_page_and_beside_the_markdown(written: Written, page: Page) -> None:
    sources = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    files = sorted(path.name for path in written.output.iterdir() if path.suffix == ".png")
    assert len(sources) == len(files) == 3
    inside = set()
    for source in sources:
        start, data = source.split(",", 1)
        assert start == "data:image/png;base64"
        content = base64.b64decode(data, validate=True)
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            assert min(picture.size) > 100
        inside.add(content)
    assert inside == {(written.output / name).read_bytes() for name in files}
    assert sorted(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", without_hostile(written.markdown))) == files


def without_hostile(markdown: str) -> str:
    """Without the names that only look like pictures, which are escaped."""
    return "\n".join(line for line in markdown.splitlines() if "evil" not in line)


def test_both_files_say_the_same(written: Written, page: Page) -> None:
    again = Page(as_html(written.markdown, "accelmlf report", written.output))
    assert (again.blocks, again.tables, again.code) == (page.blocks, page.tables, page.code)


def test_the_reports_own_run_holds_the_files_and_is_not_counted(written: Written) -> None:
    own = [run for run in written.runs if run.kind == REPORT and OWNER in run.tags]
    assert [run.outcome for run in own] == ["completed"]
    kept = Path(written.client.get_run(own[0].run_id).info.artifact_uri.removeprefix("file://"))
    files = {path.name: path.read_bytes() for path in written.output.iterdir()}
    assert {"report.md", "report.html"} <= files.keys()
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == files


def at_any_time(text: str) -> str:
    """Without the time, and without the other experiments of the store, of which there may be more by now."""
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC|(?m:^Not read.*$)", "", text)


def test_a_second_report_says_the_same_as_the_first(written: Written) -> None:
    with tracking_in(written.uri, written.name, written.folder):
        run_report(ReportConfig(output="again"))
    again = (written.folder / "again" / "report.md").read_text()
    assert at_any_time(again) == at_any_time(written.markdown)
    assert {path.name for path in (written.folder / "again").iterdir()} == {p.name for p in written.output.iterdir()}


def test_the_experiment_and_the_store_are_named(written: Written, page: Page) -> None:
    assert f"Experiment {written.name} in {written.uri}" in page.text


# --- hostile texts ---


def as_parent(**tags: str) -> list[StoredRun]:
    """A search with tags of its own, given without their prefix."""
    own = {f"accelmlf.{name}": text for name, text in tags.items()}
    return [make_run("search", EFFICIENTNET, tags={KIND: SEARCH, STUDY_ID: "one", STUDY: "study", **own})]


PLACES: dict[str, Callable[[str], list[StoredRun]]] = {
    "the name of a run": lambda text: [make_run(text, outcome="failed")],
    "the name of another project's run": lambda text: [foreign(text)],
    "a processor": lambda text: [make_run(hardware={**CPU, "cpu": text})],
    "a GPU": lambda text: [make_run(hardware={**GPU, "gpu": text})],
    "a version of torch": lambda text: [make_run(tags={"accelmlf.version.torch": text})],
    "a digest": lambda text: [make_run(digest=text)],
    "a technique that was skipped": lambda text: [make_run(tags={"accelmlf.skipped_techniques": text})],
    "a reason to be unfit": lambda text: [make_run(tags={"accelmlf.unfit": text})],
    "an epoch": lambda text: [make_run(tags={"accelmlf.resumed_in_epoch": text})],
    "a kind": lambda text: [make_run(tags={KIND: text})],
    "weights": lambda text: [make_run(given={"weights": text})],
    "a study": lambda text: as_parent(study=text),
    "a verdict": lambda text: as_parent(verdict=text),
    "the end of a search": lambda text: as_parent(ended_at=text),
    "a command": lambda text: as_parent(command=text),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_text_is_shown_and_does_nothing(place: str, store: object, tmp_path: Path) -> None:
    def elements_of(text: str) -> list[str]:
        found = page_of(PLACES[place](text), tmp_path)
        assert_needs_nothing(found)
        assert as_shown(text) in found.text
        return [tag for tag, _ in found.elements]

    harmless = elements_of("harmless")
    for text in HOSTILE:
        assert elements_of(text) == harmless, text


def test_a_hostile_folder_is_shown_in_its_command_and_does_nothing(store: object, tmp_path: Path) -> None:
    harmless = [tag for tag, _ in page_of([make_run(given={"data_dir": "harmless"})], tmp_path).elements]
    for text in HOSTILE:
        found = page_of([make_run(given={"data_dir": text})], tmp_path)
        assert_needs_nothing(found)
        assert [tag for tag, _ in found.elements] == harmless, text
        assert any(shlex.quote(f"data_dir={text}") in code for code in found.code)


@pytest.mark.parametrize("is_read", [True, False])
def test_a_hostile_name_of_an_experiment_does_nothing(
    is_read: bool, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    def elements_of(text: str) -> list[str]:
        made = store.create_experiment(f"{text} {tmp_path.name}", tmp_path.as_uri())
        try:
            found = page_of([], tmp_path, made if is_read else "0")
        finally:
            store.delete_experiment(made)
        assert_needs_nothing(found)
        (line,) = [words for _, words in found.blocks if as_shown(f"{text} {tmp_path.name}") in as_shown(words)]
        assert line.startswith("Experiment" if is_read else "Not read")
        return [tag for tag, _ in found.elements]

    harmless = elements_of("harmless")
    for text in HOSTILE:
        assert elements_of(text) == harmless, text


def test_a_password_of_the_store_is_not_in_the_report(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    class Elsewhere(mlflow.MlflowClient):
        tracking_uri = "http://me:secret@server/path"

    found = as_markdown(Store(Elsewhere(store.tracking_uri)), [], "0", tmp_path)
    assert "server/path" in found and "secret" not in found


# --- the command ---


def end_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["report", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture
def experiment(store: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An experiment of the test's own, with nothing in it."""
    name = f"report-{tmp_path.name}"
    store.create_experiment(name, (tmp_path / "artifacts").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    return name


def test_a_store_with_nothing_in_it_has_a_report_that_says_so(
    experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = end_of(capsys)
    assert (code, err) == (0, "")
    assert f"{tmp_path}/report/report.html and report.md beside it: 0 runs read. First: scripts/run" in out
    found = Page((tmp_path / "report" / "report.html").read_text())
    assert f"Experiment {experiment}" in found.text and "0 runs read" in found.text
    assert [row[1:] for row in rows_of_paper(found, ours=True)] == [["here", "no runs", "", "no runs", "", ""]] * 6
    assert ("p", "No runs.") in found.section(MEASURED) and ("p", "No runs.") in found.section(DEMONSTRATION)
    assert ("p", "Nothing.") in found.section("Left out")
    assert_needs_nothing(found)


@pytest.mark.parametrize("output", ["report", "not/yet/there", "with a space", "there"])
def test_the_files_are_written_into_a_folder_that_is_there_or_not(
    experiment: str, tmp_path: Path, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "report.md").write_text("an earlier one")
    (tmp_path / "there" / "other.txt").write_text("not ours")
    code, out, _ = end_of(capsys, "--output", output)
    assert code == 0
    assert f"{output}/report.html" in out
    for name in ("report.md", "report.html"):
        assert "What is each technique worth?" in (tmp_path / output / name).read_text()
    assert (tmp_path / "there" / "other.txt").read_text() == "not ours"


@pytest.mark.parametrize("output", ["a-file", "a-file/below", "a-folder-in-place"])
def test_an_output_that_cannot_be_written_is_one_line_and_the_code_of_the_disk(
    experiment: str, store: mlflow.MlflowClient, tmp_path: Path, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a-file").write_text("kept")
    (tmp_path / "a-folder-in-place" / "report.html").mkdir(parents=True)
    code, out, err = end_of(capsys, "--output", output)
    assert (code, out) == (9, "")
    assert err.count("\n") == 1
    assert err.startswith(f"accelmlf: error: output={output}: ")
    assert (tmp_path / "a-file").read_text() == "kept"
    (run,) = store.search_runs([experiment_id(store, experiment)])
    assert (run.info.status, run.data.tags["accelmlf.outcome"]) == ("FAILED", "failed")


def experiment_id(store: mlflow.MlflowClient, name: str) -> str:
    found = store.get_experiment_by_name(name)
    assert found is not None
    return str(found.experiment_id)


def test_an_experiment_that_is_not_there_is_refused_with_those_that_are(
    experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = end_of(capsys, "--experiment_name", "everithing")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("accelmlf: error: experiment_name=everithing: ") and experiment in err
    assert not (tmp_path / "report").exists()


def test_another_experiment_can_be_reported_on(
    experiment: str, store: mlflow.MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = store.create_experiment(f"other-{tmp_path.name}", (tmp_path / "other").as_uri())
    for run in [*make_runs(3), foreign()]:
        put(store, other, run)
    code, out, _ = end_of(capsys, "--experiment_name", f"other-{tmp_path.name}")
    assert code == 0
    assert "4 runs read" in out
    found = Page((tmp_path / "report" / "report.html").read_text())
    assert f"Experiment other-{tmp_path.name}" in found.text and "4 runs read" in found.text
    assert [row[2] for row in found.rows(RUNS_HEAD)] == ["3 (seeds 0, 1, 2)"]
    assert len(Store(store).read_runs(other)) == 4  # the report itself is where runs of this start go
    assert [run.kind for run in Store(store).read_runs(experiment_id(store, experiment))] == [REPORT]


@pytest.mark.slow
def test_a_report_of_a_fresh_store_and_of_a_first_run_through_the_real_command_line(tmp_path: Path) -> None:
    variables = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
    variables |= {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def accelmlf(*arguments: str) -> str:
        command = [sys.executable, "-m", "accelmlf", *arguments]
        ended = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert "Traceback" not in ended.stderr
        return ended.stdout

    assert "0 runs read" in accelmlf("report")
    accelmlf("main", *(part for name, value in TINY.items() for part in (f"--{name}", str(value))))
    assert re.search(r"\b1 runs? read", accelmlf("report", "--output", "second"))
    found = Page((tmp_path / "second" / "report.html").read_text())
    ((number, words, runs, *_),) = found.rows(RUNS_HEAD)
    assert (number, runs) == ("1", "1 (seed 0)")
    assert words.startswith("baseline: none") and "epochs=1" in words
    (command,) = [line for line in lines_of_code(found) if line.startswith("scripts/run -e vit")]
    texts, asked = typed(command).as_texts(), resolve(TINY).as_texts()
    assert {name: texts[name] for name in settable_fields(RunConfig) if name != "save_model"} == {
        name: asked[name] for name in settable_fields(RunConfig) if name != "save_model"
    }
