"""Pieces of Markdown show just the text that was put in, and the page needs nothing but itself."""

import base64
import io
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from accelmlf.text import as_html, code, heading, listed, picture, plain, table
from tests.report.makers import HOSTILE, Page, as_shown

ALPHABET = [
    *"\\`*_{}[]()<>#+-.!|~&:;=\"'^$@% \n",
    "a",
    "B",
    "1",
    "10",
    "é",
    "名",
    "\t",
    "&amp;",
    "http://e",
    "__",
    "--",
]

MEAN_NOTHING = ("a|b", "| a | b |", "x" * 300, "é ü 名 \N{PILE OF POO}")
"""To Markdown, outside a table."""


def rendered(markdown: str, *, safe: bool = True) -> Page:
    """What a reader makes of it; not `safe` is the standard, which lets HTML through."""
    return Page(MarkdownIt("commonmark", {"html": not safe}).enable("table").render(markdown))


def shown(markdown: str) -> tuple[str, set[str]]:
    """The text, and the kinds of element around it."""
    page = rendered(markdown, safe=False)
    return page.text, page.names()


def random_texts(seed: int, count: int) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices(ALPHABET, k=chance.randint(1, 12))) for _ in range(count)]


# --- text ---


@pytest.mark.parametrize("text", HOSTILE)
def test_plain_text_shows_just_this_text(text: str) -> None:
    assert shown(plain(text)) == (as_shown(text), {"p"})


@pytest.mark.parametrize("seed", range(8))
def test_any_text_shows_just_this_text(seed: int) -> None:
    for text in random_texts(seed, 500):
        expected = as_shown(text)
        assert shown(plain(text)) == (expected, {"p"} if expected else set()), repr(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_without_escapes_all_that_mean_something_would_show_something_else(text: str) -> None:
    """The control."""
    assert (shown(text) == (as_shown(text), {"p"})) is (text in MEAN_NOTHING)


def test_what_needs_no_escape_stays_readable() -> None:
    for text in ("batch 128 x 2, 1.62x [1.55, 1.70]", "accumulation_steps=2", "1.5 s", "-0.3 points", "a (b), c: d"):
        assert plain(text) == text


# --- pieces ---


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("text", HOSTILE)
def test_a_heading_is_a_heading_of_its_level_with_just_this_text(text: str, level: int) -> None:
    assert shown(heading(text, level)) == (as_shown(text), {f"h{level}"})


def test_a_list_has_an_entry_for_each_text() -> None:
    page = rendered(listed(HOSTILE), safe=False)
    assert page.names() == {"ul", "li"}
    assert [text for tag, text in page.blocks if tag == "li"] == [as_shown(text) for text in HOSTILE]


@pytest.mark.parametrize("seed", range(4))
def test_any_list_has_an_entry_for_each_text(seed: int) -> None:
    texts = [text for text in random_texts(seed, 300) if text.strip()]
    page = rendered(listed(texts), safe=False)
    assert page.names() == {"ul", "li"}
    assert [as_shown(text) for tag, text in page.blocks if tag == "li"] == [as_shown(text) for text in texts]


def cells_of(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[as_shown(cell) for cell in row] for row in rows]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_of_a_table_holds_just_its_text(text: str) -> None:
    rows = [["left", text, "right"], [text, text, text], ["", text, ""]]
    page = rendered(table(["", "b", "c"], rows), safe=False)
    assert page.tables == [[["", "b", "c"], *cells_of(rows)]]
    assert page.names() == {"table", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.parametrize("seed", range(4))
def test_any_table_holds_just_its_texts(seed: int) -> None:
    texts = random_texts(seed, 300)
    rows = [texts[index : index + 3] for index in range(0, 300, 3)]
    page = rendered(table(["a", "b", "c"], rows), safe=False)
    assert page.tables == [[["a", "b", "c"], *cells_of(rows)]]
    assert page.names() == {"table", "thead", "tbody", "tr", "th", "td"}


def test_a_table_of_raw_texts_would_fall_apart() -> None:
    """The control."""
    raw = "| a | b |\n| --- | --- |\n| a|b | <b>c</b> |"
    assert rendered(raw, safe=False).tables != [[["a", "b"], ["a|b", "<b>c</b>"]]]


@pytest.mark.parametrize("text", [*HOSTILE, "one\n  two\n\n\tthree", "```\n```", "````\na\n````", "~~~", "    four"])
def test_code_is_shown_as_it_is(text: str) -> None:
    page = rendered(f"before\n\n{code(text)}\n\nafter", safe=False)
    assert page.code == [f"{text}\n"]
    assert page.names() == {"p", "pre", "code"}
    assert [words for tag, words in page.blocks if tag == "p"] == ["before", "after"]


@pytest.mark.parametrize("title", ["Times as fast, with 95 % intervals", "a_b 1.5 s (c)", "é ü 名", "it's"])
def test_a_picture_has_just_its_title(title: str) -> None:
    page = rendered(picture(title, "a.png"), safe=False)
    assert page.elements == [("p", {}), ("img", {"src": "a.png", "alt": title})]


# --- the page ---


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "red.png").write_bytes(png())
    return tmp_path


def test_pictures_of_the_folder_are_inside_the_page(folder: Path) -> None:
    page = Page(as_html(picture("Red", "red.png") + "\n\ntext\n\n" + picture("Again", "red.png"), "t", folder))
    sources = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert len(sources) == 2
    for source in sources:
        start, data = source.split(",")
        assert start == "data:image/png;base64"
        assert base64.b64decode(data, validate=True) == (folder / "red.png").read_bytes()


def test_a_page_is_whole_and_made_for_a_narrow_screen(folder: Path) -> None:
    html = as_html("# Title\n\ntext", "A <title> & more", folder)
    page = Page(html)
    assert html.startswith("<!doctype html>")
    metas = [attributes for tag, attributes in page.elements if tag == "meta"]
    assert {"charset": "utf-8"} in metas
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas
    assert "<title>A &lt;title&gt; &amp; more</title>" in html
    assert page.blocks == [("h1", "Title"), ("p", "text")]


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<b>", "a <i>b</i>", "<!-- x -->", "<?php ?>"]
)
def test_html_in_a_text_is_just_text(folder: Path, text: str) -> None:
    """Even where somebody forgot `plain`."""
    page = Page(as_html(f"{text}\n\nand {text}", "t", folder))
    body = [tag for tag, _ in page.elements]
    assert set(body[body.index("body") + 1 :]) == {"p"}
    assert page.text == f"{text} and {text}"
    assert text in MarkdownIt("commonmark").render(f"and {text}")  # the control: as a rule it passes


def test_the_style_of_a_page_fetches_nothing(folder: Path) -> None:
    html = as_html("text", "t", folder)
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert "body" in style
    assert "url(" not in style and "@import" not in style and "http" not in html
