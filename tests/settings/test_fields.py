import dataclasses
import math
from typing import Any

import pytest

from accelmlf.errors import ConfigError
from accelmlf.settings.fields import (
    FALSE_WORDS,
    TRUE_WORDS,
    as_text,
    field_help,
    parse_bool,
    parse_setting,
    pick,
    settable_fields,
    suggest,
    text_of,
)
from accelmlf.settings.recipes import RECIPES, resolve
from accelmlf.settings.run import RunConfig
from accelmlf.settings.technique_list import TechniqueList

FIELDS = settable_fields(RunConfig)
NUMBERS = [name for name, field in FIELDS.items() if field.type in (int, float, int | None)]
BOOLEANS = [name for name, field in FIELDS.items() if field.type is bool]
CHOICES = [name for name, field in FIELDS.items() if field.metadata["choices"]]
TEXTS = [name for name, field in FIELDS.items() if field.type in (str, TechniqueList)]


def step_outside(name: str, bound: float) -> float:
    return abs(bound) * 1e-6 + 1e-9 if FIELDS[name].type is float else 1


def test_every_setting_is_a_number_a_boolean_or_a_text() -> None:
    assert sorted(NUMBERS + BOOLEANS + TEXTS) == sorted(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_a_help_text_of_its_own(name: str) -> None:
    assert field_help(RunConfig)[name].endswith(".")
    assert list(field_help(RunConfig).values()).count(field_help(RunConfig)[name]) == 1


@pytest.mark.parametrize("name", FIELDS)
def test_the_help_shows_a_default_for_every_setting(name: str) -> None:
    field = FIELDS[name]
    shown = field.metadata["default_text"]
    assert shown
    if "recipe" not in shown and "tuned" not in shown and field.default is not dataclasses.MISSING:
        assert parse_setting(name, shown, RunConfig) == field.default


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("row", RECIPES, ids="-".join)
def test_the_text_of_every_setting_means_that_setting(row: tuple[str, str, str], tuned: bool) -> None:
    model, dataset, weights = row
    config = resolve({"model": model, "dataset": dataset, "weights": weights, "tuned": tuned})
    texts = config.as_texts()
    assert {name: parse_setting(name, texts[name], RunConfig) for name in FIELDS} == {
        name: getattr(config, name) for name in FIELDS
    }
    fields = {field.name for field in dataclasses.fields(RunConfig)}
    assert texts.keys() == fields - {"techniques_given"} | {"effective_batch_size"}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_taken_at_its_bounds_and_refused_beyond(name: str) -> None:
    rules = FIELDS[name].metadata
    for bound, taken, sign in ((rules["at_least"], True, -1), (rules["above"], False, -1), (rules["at_most"], True, 1)):
        if math.isinf(bound):
            continue
        refused = [bound + sign * step_outside(name, bound)] + ([] if taken else [bound])
        for value in refused:
            with pytest.raises(ConfigError, match="range") as caught:
                parse_setting(name, str(value), RunConfig)
            assert caught.value.setting == name
        inside = bound if taken else bound + step_outside(name, bound)
        assert parse_setting(name, str(inside), RunConfig) == inside


@pytest.mark.parametrize("text", ["", "many", "1.5", "nan", "inf", "-inf", "1e3", "0x10", "--", "1,000", "1 000"])
@pytest.mark.parametrize("name", [n for n in NUMBERS if FIELDS[n].type is not float])
def test_a_whole_number_is_nothing_but_digits(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}="):
        parse_setting(name, text, RunConfig)


@pytest.mark.parametrize("text", ["", "much", "nan", "inf", "-inf", "1e999", "0,1"])
@pytest.mark.parametrize("name", [n for n in NUMBERS if FIELDS[n].type is float])
def test_a_number_is_finite(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}="):
        parse_setting(name, text, RunConfig)


@pytest.mark.parametrize("name", BOOLEANS)
def test_a_boolean_takes_its_words_in_any_case(name: str) -> None:
    for word in TRUE_WORDS:
        assert [parse_setting(name, form, RunConfig) for form in (word, word.upper(), word.title(), f" {word} ")] == [
            True
        ] * 4
    for word in FALSE_WORDS:
        assert [parse_setting(name, form, RunConfig) for form in (word, word.upper(), word.title())] == [False] * 3


@pytest.mark.parametrize("text", ["", "2", "t", "y", "none", "truee", "01", "yes no"])
def test_a_boolean_takes_nothing_else(text: str) -> None:
    with pytest.raises(ConfigError, match="neither true nor false"):
        parse_bool("tuned", text)


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_takes_its_words_and_suggests_the_nearest(name: str) -> None:
    for choice in FIELDS[name].metadata["choices"]:
        assert parse_setting(name, choice, RunConfig) == choice
        with pytest.raises(ConfigError, match=f"Did you mean .*{choice}"):
            parse_setting(name, choice + "x", RunConfig)


@pytest.mark.parametrize("name", TEXTS)
def test_an_empty_text_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}="):
        parse_setting(name, "  ", RunConfig)


@pytest.mark.parametrize("name", FIELDS)
def test_a_misspelt_setting_is_refused_with_the_right_one(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no such setting.*{name}"):
        parse_setting(name[:-1] + "_", "1", RunConfig)


def test_all_stands_for_every_training_picture() -> None:
    assert parse_setting("train_images", "ALL", RunConfig) is None
    assert text_of("train_images", None, RunConfig) == "all"
    assert text_of("clip_norm", None, RunConfig) == "none"
    with pytest.raises(ConfigError, match="not a whole number"):
        parse_setting("epochs", "all", RunConfig)


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), ((("a", 2.0), ("b", 0.5)), "a:2,b:0.5"), ((), "none"), (3, "3"), (1e-05, "1e-05")],
)
def test_a_value_is_written_as_one_would_type_it(value: Any, text: str) -> None:
    assert as_text(value) == text


def test_a_configuration_cannot_be_changed() -> None:
    config = resolve({"model": "vit"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 3  # type: ignore[misc]


def test_the_effective_batch_size_counts_the_accumulated_pictures() -> None:
    assert (
        resolve({"model": "vit", "batch_size": 6, "accumulation_steps": 7}).as_texts()["effective_batch_size"] == "42"
    )


def test_a_name_that_resembles_nothing_is_answered_with_the_whole_table() -> None:
    assert suggest("zzz", ["one", "two"]) == "Known: one, two"
    assert pick({"one": 1}, "one", "number") == 1
    with pytest.raises(ConfigError, match=r"number=zzz: unknown number\. Known: one"):
        pick({"one": 1}, "zzz", "number")
