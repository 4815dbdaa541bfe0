"""What tests of a report are made of: runs as a store gives them back, a way into a real one, a page as it is read."""

import itertools
import shlex
import uuid
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, Metric

from accelmlf.settings.fields import parse_setting
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig
from accelmlf.tracking.stored_runs import StoredRun
from accelmlf.tracking.tags import OUTCOME, SETTING
from tests.ablation.makers import figures_of

CPU = {"device": "cpu", "cpu": "Some CPU", "cpu_threads_used": "8"}
GPU = {**CPU, "device": "cuda:0", "gpu": "Some GPU"}
PAPER = {"model": "resnet50", "dataset": "cifar10"}
CLEAN = {
    "accelmlf.version.torch": "2.15.0",
    "accelmlf.code.commit": "c0ffee",
    "accelmlf.code.uncommitted_changes": "false",
    "accelmlf.skipped_techniques": "none",
}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a|b",
    "a\\|b\\",
    "[x](http://evil)",
    "![x](http://evil/x.png)",
    "[x]: http://evil",
    "<http://evil>",
    "&lt;b&gt; &amp;",
    "one\ntwo\n\nthree",
    "before\n```\n[x](http://evil)\n# after",
    "~~~\n[x](http://evil)",
    "`tick` ``two``",
    "*a* **b** ***",
    "_a_ __b__ ___",
    "__init__.py",
    "# heading #",
    "- item",
    "1. one",
    "> said",
    "---",
    "| a | b |",
    "$HOME `id` $(id); it's",
    "x" * 300,
    "é ü 名 \N{PILE OF POO}",
)
"""Texts that mean something to Markdown, HTML or a shell."""


def settings_of(given: Mapping[str, Any], hardware: Mapping[str, str] = GPU) -> dict[str, str]:
    """Every resolved setting as a run on that hardware records it; by default of a cell of the paper's table."""
    texts = resolve({**PAPER, "device": hardware["device"], **given}).as_texts()
    if texts["arm"] == "tuned":
        whole = {"techniques": "amp:bf16,pin_memory"}
        texts |= whole if "gpu" in hardware else {"arm": "tuned_partial", "techniques": "amp:bf16"}
    return texts


def make_run(
    name: str = "a run",
    given: Mapping[str, Any] | None = None,
    *,
    hardware: Mapping[str, str] = GPU,
    outcome: str | None = "completed",
    metrics: Mapping[str, float] | None = None,
    digest: str | None = "abc",
    tags: Mapping[str, str | None] | None = None,
) -> StoredRun:
    """A run whose record has nothing against it. `metrics` and `tags` are on top of that; None takes a tag out."""
    texts = settings_of(given or {}, hardware)
    own: dict[str, str | None] = {f"{SETTING}{setting}": text for setting, text in texts.items()}
    own |= {f"accelmlf.hardware.{part}": text for part, text in hardware.items()}
    own |= {**CLEAN, "accelmlf.arm": texts["arm"], OUTCOME: outcome}
    if texts["arm"] == "tuned_partial":
        own["accelmlf.skipped_techniques"] = "pin_memory"
    own |= tags or {}
    return StoredRun(
        run_id=uuid.uuid4().hex,
        name=name,
        started_ms=1,
        tags={tag: text for tag, text in own.items() if text is not None},
        metrics=figures_of() if metrics is None else {**figures_of(), **metrics},
        data_digest=digest,
    )


def make_runs(count: int, given: Mapping[str, Any] | None = None, **what: Any) -> list[StoredRun]:
    """The same with one seed after another."""
    return [make_run(given={**(given or {}), "seed": seed}, **what) for seed in range(count)]


def foreign(name: str = "not ours", tags: Mapping[str, str] | None = None) -> StoredRun:
    """A run of some other project."""
    return StoredRun(
        run_id=uuid.uuid4().hex, name=name, started_ms=1, tags=tags or {}, metrics={"loss": 1.0}, data_digest=None
    )


def put(client: mlflow.MlflowClient, experiment_id: str, run: StoredRun) -> StoredRun:
    """`run` in a real store, and as it came out; one without an outcome is left open."""
    made = client.create_run(experiment_id, start_time=run.started_ms, tags=dict(run.tags), run_name=run.name)
    run_id = made.info.run_id
    client.log_batch(run_id, metrics=[Metric(name, value, 1, 0) for name, value in run.metrics.items()])
    if run.data_digest is not None:
        data = Dataset(name="pictures", digest=run.data_digest, source_type="local", source="{}")
        client.log_inputs(run_id, datasets=[DatasetInput(data, [])])
    if run.outcome is not None:
        client.set_terminated(run_id, "FINISHED")
    return StoredRun.of(client.get_run(run_id))


VOID = ("meta", "link", "img", "br", "hr")
CONTAINERS = ("html", "head", "body", "ul", "ol", "table", "thead", "tbody", "tr", "blockquote")


class Page(HTMLParser):
    """What a reader of HTML finds: elements with their attributes, text, tables, code, and what follows what."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.blocks: list[tuple[str, str]] = []
        """Headings and paragraphs, in order; a table is there with its number among the tables."""
        self.tables: list[list[list[str]]] = []
        self.code: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag in VOID:
            return
        self._open.append(tag)
        if tag == "table":
            self.blocks.append(("table", str(len(self.tables))))
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "pre":
            self.code.append("")
        elif tag in ("p", "li", "h1", "h2", "h3", "h4", "h5", "h6"):
            self.blocks.append((tag, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] in ("style", "title"):
            return
        self.texts.append(data)
        if "pre" in self._open:
            self.code[-1] += data
        elif {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data
        elif self.blocks and self._open[-1] not in CONTAINERS:
            kind, text = self.blocks[-1]
            self.blocks[-1] = (kind, text + data)

    @property
    def text(self) -> str:
        """All of it on one line."""
        return " ".join("".join(self.texts).split())

    def names(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    def rows(self, head: Sequence[str]) -> list[list[str]]:
        """Of every table with this head."""
        return [row for table in self.tables if table[0] == list(head) for row in table[1:]]

    def section(self, title: str) -> list[tuple[str, str]]:
        """The blocks below a heading, up to the next of its level or above."""
        start = next(i for i, (tag, text) in enumerate(self.blocks) if tag[0] == "h" and text == title)
        level = self.blocks[start][0]
        found = []
        for tag, text in self.blocks[start + 1 :]:
            if tag[0] == "h" and tag <= level:
                break
            found.append((tag, text))
        return found

    def titled(self, head: Sequence[str], title: str) -> list[tuple[str, list[list[str]]]]:
        """The tables with this head in a section: the paragraph before, and the rows."""
        blocks = self.section(title)
        return [
            (before, rows[1:])
            for (_, before), (tag, number) in itertools.pairwise(blocks)
            if tag == "table" and (rows := self.tables[int(number)])[0] == list(head)
        ]


def typed(line: str) -> RunConfig:
    """The run that a command line stands for."""
    words = shlex.split(line)
    assert words[:2] == ["scripts/run", "-e"] and set(words[3::2]) <= {"-P"}
    texts = dict(word.split("=", 1) for word in words[4::2])
    return resolve({"model": words[2], **{name: parse_setting(name, text, RunConfig) for name, text in texts.items()}})


def as_shown(text: str) -> str:
    """A text as a document shows it: on one line."""
    return " ".join(text.split())
