"""What is written for people names what the tables have."""

import re
from pathlib import Path

import pytest

from accelmlf.config import RunConfig, field_help, settable_fields
from accelmlf.techniques import TECHNIQUES
from accelmlf.tuning import TuneConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize(
    ("record", "name"), [(record, name) for record in (RunConfig, TuneConfig) for name in settable_fields(record)]
)
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
