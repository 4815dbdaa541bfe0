"""The settings of an ablation, and what was typed."""

from typing import Any

import pytest

from accelmlf.ablation.designs import COMBINING, DESIGNS
from accelmlf.ablation.factors import ACCUMULATION, NUMBER_FACTORS, SAME_EFFECTIVE_BATCH
from accelmlf.ablation.settings import (
    BY_NUMBER,
    DEFAULT_FACTORS,
    DESIGN_NAMES,
    MOST_ONE_AT_A_TIME,
    OF_PRESETS,
    RUNS,
    SET_BY_ABLATION,
    STEPS,
    TUNED,
    AblateConfig,
)
from accelmlf.errors import ConfigError
from accelmlf.settings.fields import field_help, parse_setting, settable_fields
from accelmlf.settings.recipes import RECIPES
from accelmlf.settings.run import RunConfig
from accelmlf.techniques.catalogue import TECHNIQUES

FIELDS = settable_fields(AblateConfig)


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_of_an_ablation_has_a_help_text_and_a_default_to_show(name: str) -> None:
    assert field_help(AblateConfig)[name].endswith(".")
    text = FIELDS[name].metadata["default_text"]
    if name == "repeats":  # another number for either way to measure
        of_runs, of_steps = text.split(", ")
        assert of_runs == f"{AblateConfig(measure=RUNS).num_repeats} with measure={RUNS}"
        assert (of_steps, AblateConfig(measure=STEPS).num_repeats) == (f"none with {STEPS}", 0)
        return
    if name == "design":  # it follows from the number of factors
        assert text == f"one_at_a_time, and screening above {MOST_ONE_AT_A_TIME} factors"
        return
    shown = parse_setting(name, text, AblateConfig)
    assert shown == (FIELDS[name].default or DEFAULT_FACTORS)


def test_repeats_are_of_whole_runs_which_stretches_need_none_of() -> None:
    assert AblateConfig().measure == STEPS and AblateConfig().num_repeats == 0
    assert AblateConfig(measure=RUNS).num_repeats > 0
    for measure in (STEPS, RUNS):  # beside stretches, epochs are counted with so many seeds
        assert AblateConfig(measure=measure, repeats=7).num_repeats == 7


def test_no_setting_of_an_ablation_is_also_one_of_its_runs() -> None:
    assert not FIELDS.keys() & settable_fields(RunConfig).keys()
    assert SET_BY_ABLATION.keys() <= settable_fields(RunConfig).keys()
    assert {text.partition("=")[0] for text in SET_BY_ABLATION.values()} <= FIELDS.keys()


def test_the_choices_of_a_design_are_the_table() -> None:
    assert FIELDS["design"].metadata["choices"] == (BY_NUMBER, *DESIGNS) == DESIGN_NAMES
    assert set(COMBINING) < set(DESIGNS)
    assert set(OF_PRESETS) < set(DESIGNS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ("accumulation", "amp", "pin_memory")),
        ("amp", ("amp",)),
        (" amp:bf16 , workers:2", ("amp:bf16", "workers:2")),
        ("accumulation,accumulation:same_effective_batch", (ACCUMULATION, SAME_EFFECTIVE_BATCH)),
    ],
)
def test_factors_are_the_words_that_were_typed(text: str | None, words: tuple[str, ...]) -> None:
    assert AblateConfig(factors=text).factor_words() == words


def test_without_a_word_the_factors_are_those_of_the_paper() -> None:
    words = AblateConfig().factor_words()
    assert set(words) <= {*TECHNIQUES, *NUMBER_FACTORS}
    for recipe in RECIPES.values():
        assert {ACCUMULATION, *recipe.tuned.techniques.labels} == set(words)


@pytest.mark.parametrize("text", ["amp,amp", "amp,workers, amp", "accumulation,amp,accumulation"])
def test_a_factor_that_is_there_twice_is_refused_by_name(text: str) -> None:
    twice = text.split(",", maxsplit=1)[0]
    with pytest.raises(ConfigError) as caught:
        AblateConfig(factors=text).factor_words()
    assert str(caught.value) == f"factors={' '.join(text.split())}: {twice} is there twice. Name each factor once"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", [",", "amp,,workers,", ",,amp"])
def test_a_factor_without_a_name_is_not_said_to_be_there_twice(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^factors=") as caught:
        AblateConfig(factors=text).factor_words()
    assert caught.value.rule.split()[:2] != ["is", "there"]


def test_a_preset_has_factors_of_its_own() -> None:
    assert AblateConfig(design="preset").factor_words() == (TUNED,)
    with pytest.raises(ConfigError) as caught:
        AblateConfig(design="preset", factors="amp")
    assert str(caught.value) == (
        "factors=amp: the preset's factors are those of the recipe. Leave factors out, or choose another design"
    )
    for other in DESIGNS.keys() - {"preset"}:  # the control
        assert AblateConfig(design=other, factors="amp").factor_words() == ("amp",)


@pytest.mark.parametrize(("name", "value"), [("precision", 0.01), ("budget", 30.0)])
def test_whole_runs_take_no_limit_of_stretches(name: str, value: float) -> None:
    limit: dict[str, Any] = {name: value}
    assert getattr(AblateConfig(measure=STEPS, **limit), name) == value  # the control
    with pytest.raises(ConfigError) as caught:
        AblateConfig(measure=RUNS, **limit)
    assert str(caught.value) == f"{name}={value}: measure=runs ends after its repeats. Give repeats, or measure=steps"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("design", "factoral", "design=factoral: unknown design. Did you mean factorial?"),
        ("design", "", f"design=: unknown design. Known: {', '.join(DESIGN_NAMES)}"),
        ("repeats", "0", "repeats=0: outside its range. Give a whole number of at least 1 up to 100"),
        ("repeats", "101", "repeats=101: outside its range. Give a whole number of at least 1 up to 100"),
        ("repeats", "2.5", "repeats=2.5: not a whole number. Give a whole number of at least 1 up to 100"),
        ("measure", "step", "measure=step: unknown measure. Did you mean steps?"),
        ("precision", "0", "precision=0: outside its range. Give a number of at least 0.001 up to 0.5"),
        ("budget", "0", "budget=0: outside its range. Give a number above 0 up to 10000"),
        ("factors", " ", "factors=: empty. Leave factors out for its default"),
        ("factor", "amp", "factor=amp: there is no such setting. Did you mean factors?"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_setting(name, text, AblateConfig)
    assert str(caught.value) == message


@pytest.mark.parametrize(("name", "value"), [("techniques", "amp"), ("batch_size", 16), ("accumulation_steps", 2)])
def test_what_the_preset_sets_cannot_be_given_beside_it(name: str, value: object) -> None:
    given = {"model": "vit", name: value}
    with pytest.raises(ConfigError, match=f"^{name}={value}: design=preset compares the recipe's own arms") as error:
        AblateConfig(design="preset").check_runs(given)
    assert error.value.exit_code == 2
    for other in DESIGNS.keys() - {"preset"}:  # the control
        AblateConfig(design=other).check_runs(given)
    AblateConfig(design="preset").check_runs({"model": "vit"})
