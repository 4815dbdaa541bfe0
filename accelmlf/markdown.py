"""Documents: pieces of Markdown, and the one file of HTML that is made of them."""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
body { overflow-wrap: break-word; }
h1, h2, h3, h4 { line-height: 1.25; margin: 1.6em 0 .5em; }
table { border-collapse: collapse; display: block; overflow-x: auto; max-width: 100%; font-size: .9rem; }
th, td { min-width: 4.5rem; overflow-wrap: normal; }
th, td { border: 1px solid #8886; padding: .3rem .55rem; text-align: left; vertical-align: top; }
th { background: #8882; }
pre { overflow-x: auto; padding: .6rem; background: #8882; }
code { font-size: .9em; }
img { max-width: 100%; height: auto; background: white; }
"""


def plain(text: str) -> str:
    """Text as Markdown that shows just this text, on one line."""
    text = re.sub(r"([\\`*{}<>|#~&]|(?<!\w)_|_(?!\w)|\](?=[(\[:]))", r"\\\1", " ".join(text.split()))
    return re.sub(r"^([-+]|\d+(?=[.)]))(?=[.)]?(\s|$))", _escaped_start, text)


def _escaped_start(found: "re.Match[str]") -> str:
    """What would begin a list, so that it does not."""
    return f"\\{found[1]}" if found[1] in "-+" else f"{found[1]}\\"


def heading(text: str, level: int) -> str:
    return f"{'#' * level} {plain(text)}"


def listed(items: Sequence[str]) -> str:
    return "\n".join(f"- {plain(item)}" for item in items)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: str) -> str:
    return f"```\n{text}\n```"


def picture(title: str, file: str) -> str:
    return f"![{plain(title)}]({file})"


def as_html(markdown: str, title: str, folder: Path) -> str:
    """One page that needs nothing else: pictures, files of `folder`, are inside it. HTML in the text is just text."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = re.sub(r'src="([^":/]+\.png)"', lambda found: f'src="{_inside(folder / found[1])}"', body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _inside(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
