"""What is written for people names what the tables have."""

import re
from pathlib import Path

import pytest

from accelmlf.config import field_help, settable_fields
from accelmlf.techniques import TECHNIQUES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize("name", settable_fields())
def test_the_readme_gives_each_setting_with_its_default_and_help(name: str) -> None:
    row = f"| `{name}` | {settable_fields()[name].metadata['default_text']} | {field_help()[name]} |"
    assert row in README


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
