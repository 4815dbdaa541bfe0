"""What is written for people names what the tables have."""

import re
from collections import Counter
from pathlib import Path

import pytest

from accelmlf.entry_points import ENTRY_POINTS
from accelmlf.settings.fields import field_help, settable_fields
from accelmlf.settings.run import RunConfig
from accelmlf.techniques.catalogue import TECHNIQUES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
TEXTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


RECORDS = (RunConfig, *(entry.record for entry in ENTRY_POINTS.values() if entry.record is not None))


@pytest.mark.parametrize(("record", "name"), [(record, name) for record in RECORDS for name in settable_fields(record)])
def test_the_readme_gives_each_setting_with_its_default_and_help(record: type, name: str) -> None:
    default = settable_fields(record)[name].metadata["default_text"]
    assert f"| `{name}` | {default} | {field_help(record)[name]} |" in README


@pytest.mark.parametrize("word", TECHNIQUES)
def test_the_readme_gives_each_technique_with_its_needs(word: str) -> None:
    assert f"| `{word}` | {TECHNIQUES[word].does} | {TECHNIQUES[word].needs} |" in README


def test_the_picture_has_every_module() -> None:
    picture = CONTRIBUTING.split("```")[1]
    modules = {path.stem for path in (ROOT / "accelmlf").glob("*.py")} - {"__init__", "__main__"}
    assert modules <= set(re.findall(r"\w+", picture))


def test_every_link_to_a_file_of_the_project_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", README + CONTRIBUTING)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def pieces(text: str) -> list[str]:
    """Paragraphs, blocks of code and entries of lists, and the rows of tables, without the lines that rule these."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        parts = re.split(r"\n(?=\||- |\* |\d+\. )", block.strip())
        found += [" ".join(part.split()) for part in parts if not re.fullmatch(r"[|:\-\s]*", part)]
    return found


def repeated(text: str) -> list[str]:
    """What is there twice. The head of a table may be."""
    heads = {" ".join(head.split()) for head in re.findall(r"(\|.*\|)\n\|[-:| ]+\|", text)}
    return [piece for piece, times in Counter(pieces(text)).items() if times > 1 and piece not in heads]


@pytest.mark.parametrize("name", TEXTS)
def test_no_text_has_a_placeholder_or_says_anything_twice(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "@@" not in text
    assert repeated(text) == []
    assert len(pieces(text)) > 3
    for piece in (pieces(text)[1], "| a | row |", "- an entry"):  # the control: each kind would be found
        assert repeated(f"{text}\n\n{piece}\n\nbetween\n\n{piece}\n") == [piece]
