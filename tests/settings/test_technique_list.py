"""A list of techniques: read, written and added to."""

import pytest

from accelmlf.errors import ConfigError
from accelmlf.settings.technique_list import TechniqueList


@pytest.mark.parametrize(
    ("text", "labels", "words"),
    [
        ("none", (), ()),
        (" none ", (), ()),
        ("amp", ("amp",), ("amp",)),
        (
            "amp:bf16, workers:2 ,channels_last",
            ("amp:bf16", "workers:2", "channels_last"),
            ("amp", "workers", "channels_last"),
        ),
    ],
)
def test_a_text_is_read_and_written_back(text: str, labels: tuple[str, ...], words: tuple[str, ...]) -> None:
    read = TechniqueList.parse(text)
    assert (read.labels, read.words) == (labels, words)
    assert TechniqueList.parse(str(read)) == read


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a name is empty"),
        ("amp,", "a name is empty"),
        ("amp,:bf16", "a name is empty"),
        ("none,amp", "none stands alone"),
        ("auto,amp", "auto stands alone: it measures all of them"),
        ("amp,auto", "auto stands alone: it measures all of them"),
        ("none,auto", "auto stands alone: it measures all of them"),
        ("amp,amp:bf16", "amp is there twice"),
    ],
)
def test_a_text_that_is_no_list_says_why(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refusal:
        TechniqueList.parse(text)
    assert str(refusal.value).startswith(f"techniques={text}: ")


def test_techniques_that_are_still_to_be_chosen_are_a_word_of_their_own() -> None:
    auto = TechniqueList.parse(" auto ")
    assert auto.is_auto and str(auto) == "auto"
    assert TechniqueList.parse(str(auto)) == auto
    for text in ("none", "amp", "amp:auto", "amp,workers"):  # the control
        assert not TechniqueList.parse(text).is_auto
    assert not TechniqueList().is_auto


def test_what_is_added_comes_last_and_only_once() -> None:
    assert str(TechniqueList.parse("workers:2").with_("amp")) == "workers:2,amp"
    assert str(TechniqueList().with_("amp")) == "amp"
    with pytest.raises(ConfigError, match="amp is there twice"):
        TechniqueList.parse("amp:bf16").with_("amp")


def test_a_presets_list_is_the_same_list_but_not_an_order() -> None:
    preset = TechniqueList(("amp",), is_preset=True)
    assert preset == TechniqueList.parse("amp")
    assert preset.is_preset and not preset.with_("workers").is_preset and not TechniqueList.parse("amp").is_preset
