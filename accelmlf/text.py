"""What is written for people: lines on a terminal, Markdown, and one file of HTML made of it."""

import base64
import html
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from tqdm import tqdm

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
body { overflow-wrap: break-word; }
h1, h2, h3, h4 { line-height: 1.25; margin: 1.6em 0 .5em; }
table { margin: 1rem 0; border-collapse: collapse; font-size: .9rem; }
table { display: block; overflow-x: auto; max-width: 100%; }
th, td { min-width: 6rem; overflow-wrap: normal; }
th, td { border: 1px solid #8886; padding: .3rem .55rem; text-align: left; vertical-align: top; }
th { background: #8882; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .6rem; background: #8882; }
code { font-size: .9em; }
p:has(> img) { overflow-x: auto; }
img { width: 100%; min-width: 40rem; height: auto; background: white; }
"""


def plain(text: str) -> str:
    """Text as Markdown that shows just this text, on one line."""
    text = re.sub(r"([\\`*{}<>|#~&]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:]))", r"\\\1", " ".join(text.split()))
    text = re.sub(r"^([-+=])(?=\1|\s|$)", r"\\\1", text)  # the start of a list, a rule, or the line below a heading
    return re.sub(r"^(\d+)(?=[.)](\s|$))", r"\1\\", text)


def heading(text: str, level: int) -> str:
    return f"{'#' * level} {plain(text)}"


def listed(items: Sequence[str]) -> str:
    return "\n".join(f"- {plain(item)}" for item in items)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: str) -> str:
    """A block that shows just this text: its fence is longer than any in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def picture(title: str, file: str) -> str:
    return f"![{plain(title)}]({file})"


def as_html(markdown: str, title: str, folder: Path) -> str:
    """One page that needs nothing else: pictures, files of `folder`, are inside it. HTML in the text is just text."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    own = {path.name: _inside(path) for path in folder.glob("*.png")}
    body = re.sub(r'src="([^"]*)"', lambda found: f'src="{own.get(found[1], "")}"', body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _inside(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def say(text: str) -> None:
    """A line on standard output, at once, beside whatever bar is being drawn."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def counted(number: int, noun: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def short(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:#.3g}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [f"  {line}".rstrip() for line in lines]


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.2f} h"
    )
