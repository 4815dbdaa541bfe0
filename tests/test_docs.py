"""What is written for people names what the tables have, leads somewhere, and says each thing once."""

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from accelmlf.data.datasets import DATASETS
from accelmlf.entry_points import ENTRY_POINTS
from accelmlf.settings.fields import field_help, settable_fields
from accelmlf.settings.run import RunConfig
from accelmlf.techniques.catalogue import TECHNIQUES

ROOT = Path(__file__).parents[1]
PAGES = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
TEXTS = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *PAGES)}
README, CONTRIBUTING, PARAMETERS = (TEXTS[name] for name in ("README.md", "CONTRIBUTING.md", "docs/parameters.md"))
SETTINGS_CLASSES = (RunConfig, *filter(None, (entry.settings_class for entry in ENTRY_POINTS.values())))
EACH_TEXT = pytest.mark.parametrize("name", TEXTS)


def links(name: str) -> list[str]:
    """Those of a text that do not leave the project."""
    return re.findall(r"\]\((?!http)([^)]+)\)", TEXTS[name])


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a text."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# what the tables have


@pytest.mark.parametrize(
    ("settings_class", "name"),
    [(kind, name) for kind in SETTINGS_CLASSES for name in settable_fields(kind)],
)
def test_the_page_of_parameters_gives_each_setting_with_its_default_and_help(settings_class: type, name: str) -> None:
    default = settable_fields(settings_class)[name].metadata["default_text"]
    assert f"| `{name}` | {default} | {field_help(settings_class)[name]} |" in PARAMETERS


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_page_of_pictures_has_each_data_set(dataset: str) -> None:
    head = [line.split("|")[1] for line in TEXTS["docs/pictures.md"].splitlines() if line.startswith("| `")]
    assert any(f"`{dataset}`" in names for names in head)


@pytest.mark.parametrize("word", TECHNIQUES)
def test_the_page_of_parameters_gives_each_technique_with_its_needs(word: str) -> None:
    assert f"| `{word}` | {TECHNIQUES[word].does} | {TECHNIQUES[word].needs} |" in PARAMETERS


def test_the_picture_is_the_contract_and_has_every_room() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    picture = CONTRIBUTING.split("```")[1].strip().splitlines()
    assert [line.partition("  ")[0] for line in picture] == layers
    assert all(line.partition("  ")[2].strip() for line in picture)
    package = ROOT / "accelmlf"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")} | {path.stem for path in package.glob("*.py")}
    assert {name for row in layers for name in row.split(" | ")} == rooms - {"__init__", "__main__"}


# what leads somewhere


@EACH_TEXT
def test_every_link_to_a_file_of_the_project_leads_somewhere(name: str) -> None:
    for link in links(name):
        path, _, anchor = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_a_link_is_found_and_a_heading_that_is_not_there_is_missed() -> None:
    assert len(links("README.md")) > len(PAGES) > 5
    assert "ways-to-run" in anchors(PARAMETERS) and "ways-to-walk" not in anchors(PARAMETERS)
    assert "makes-venv-on-first-use-trains" not in anchors("```\n# makes .venv on first use, trains\n```\n")


@EACH_TEXT
def test_every_file_that_a_text_names_is_there(name: str) -> None:
    rooms = "|".join(path.parent.name for path in (ROOT / "accelmlf").glob("*/__init__.py"))
    for found in re.findall(r"`((?:accelmlf|tests|examples|scripts|docs)/[\w/]+\.\w+)`", TEXTS[name]):
        assert (ROOT / found).exists(), found
    for module, after in re.findall(rf"`((?:{rooms})/\w+)(?:\.(\w+))?`", TEXTS[name]):
        if (name, module.partition("/")[0]) == ("docs/records.md", "machine"):
            continue  # there it is a group of metrics
        path = ROOT / f"accelmlf/{module}.py"
        assert path.exists(), module
        assert after in ("", "py") or re.search(rf"\b{after}\b", path.read_text()), f"{module}.{after}"


@pytest.mark.parametrize("page", PAGES)
def test_the_readme_leads_to_every_page(page: str) -> None:
    assert f"]({page})" in README


def test_every_picture_and_every_example_is_shown() -> None:
    shown = {((ROOT / name).parent / link.partition("#")[0]).resolve() for name in TEXTS for link in links(name)}
    files = {*(ROOT / "docs").glob("*.png"), *(ROOT / "examples").glob("*.py")}
    assert len(files) > 5
    assert files <= shown


# what the first page says


def test_the_readme_is_a_page() -> None:
    assert len(README.splitlines()) <= 150


def test_what_the_readme_claims_is_measured_on_a_page() -> None:
    ratio = r"\d\.\d\dx \[\d\.\d\d, \d\.\d\d\]"
    claims = re.findall(ratio, README.partition("\n## ")[0].replace("**", ""))
    measured = [found for page in PAGES for found in re.findall(ratio, TEXTS[page].replace("**", ""))]
    assert len(claims) > 3
    assert set(claims) <= set(measured)


# what is said once


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


@EACH_TEXT
def test_no_text_has_a_placeholder_or_says_anything_twice(name: str) -> None:
    text = TEXTS[name]
    assert "@@" not in text
    assert repeated(text) == []
    assert len(pieces(text)) > 3
    for piece in (pieces(text)[1], "| a | row |", "- an entry"):  # the control: each kind would be found
        assert repeated(f"{text}\n\n{piece}\n\nbetween\n\n{piece}\n") == [piece]


def test_no_two_texts_say_the_same_below_their_headings() -> None:
    together = "\n\n".join(re.sub(r"^##+ .*$", "", text, flags=re.MULTILINE) for text in TEXTS.values())
    assert repeated(together) == []
    taken = next(piece for piece in pieces(PARAMETERS) if piece.startswith("| `amp` |"))
    assert repeated(f"{together}\n\n{taken}\n") == [taken]
