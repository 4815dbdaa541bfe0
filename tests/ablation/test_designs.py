"""Which arms an ablation has, what is read off them, and what each arm sets."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping

import pytest

from accelmlf.ablation.designs import COMBINING, DESIGNS, MAX_ARMS, Arm, Contrast, Design, make_design
from accelmlf.ablation.factors import ACCUMULATION, NUMBER_FACTORS, SAME_EFFECTIVE_BATCH, micro_batches, settings_of
from accelmlf.ablation.settings import ALL, BASELINE, DEFAULT_FACTORS, SET_BY_ABLATION, TUNED, AblateConfig
from accelmlf.errors import ConfigError
from accelmlf.settings.fields import field_help, parse_setting, settable_fields
from accelmlf.settings.recipes import RECIPES, follow_batch, recipe_for, resolve
from accelmlf.settings.run import RunConfig
from accelmlf.techniques.catalogue import TECHNIQUES

FACTORS = ("amp:bf16", "channels_last", ACCUMULATION, "workers:2")
FIELDS = settable_fields(AblateConfig)
ROWS = pytest.mark.parametrize("row", RECIPES, ids="-".join)
Row = tuple[str, str, str]
EVERY_DESIGN = pytest.mark.parametrize("design", DESIGNS)
ONE_TO_FOUR = pytest.mark.parametrize("count", [1, 2, 3, 4])


def arms_of(design: Design, names: Iterable[str]) -> list[Arm]:
    by_name = {arm.name: arm for arm in design.arms}
    return [by_name[name] for name in names]


def base_of(row: Row, **given: object) -> RunConfig:
    model, dataset, weights = row
    return resolve({"model": model, "dataset": dataset, "weights": weights, **given})


# --- the settings of an ablation ---


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_of_an_ablation_has_a_help_text_and_a_default_to_show(name: str) -> None:
    assert field_help(AblateConfig)[name].endswith(".")
    shown = parse_setting(name, FIELDS[name].metadata["default_text"], AblateConfig)
    assert shown == (FIELDS[name].default or DEFAULT_FACTORS)


def test_no_setting_of_an_ablation_is_also_one_of_its_runs() -> None:
    assert not FIELDS.keys() & settable_fields(RunConfig).keys()
    assert SET_BY_ABLATION.keys() <= settable_fields(RunConfig).keys()
    assert {text.partition("=")[0] for text in SET_BY_ABLATION.values()} <= FIELDS.keys()


def test_the_choices_of_a_design_are_the_table() -> None:
    assert FIELDS["design"].metadata["choices"] == tuple(DESIGNS)
    assert set(COMBINING) < set(DESIGNS)


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
        assert {ACCUMULATION, *recipe.tuned.techniques.split(",")} == set(words)


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


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("design", "factoral", "design=factoral: unknown design. Did you mean factorial?"),
        ("design", "", "design=: unknown design. Known: one_at_a_time, leave_one_out, factorial, preset"),
        ("repeats", "0", "repeats=0: outside its range. Give a whole number of at least 1 up to 100"),
        ("repeats", "101", "repeats=101: outside its range. Give a whole number of at least 1 up to 100"),
        ("repeats", "2.5", "repeats=2.5: not a whole number. Give a whole number of at least 1 up to 100"),
        ("factors", " ", "factors=: empty. Leave factors out for its default"),
        ("factor", "amp", "factor=amp: there is no such setting. Did you mean factors?"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_setting(name, text, AblateConfig)
    assert str(caught.value) == message


# --- arms and contrasts ---


@EVERY_DESIGN
@ONE_TO_FOUR
def test_the_arms_of_a_design_are_all_different(design: str, count: int) -> None:
    arms = make_design(design, FACTORS[:count]).arms
    assert len({arm.name for arm in arms}) == len(arms)
    assert len({frozenset(arm.factors) for arm in arms}) == len(arms)


@EVERY_DESIGN
@ONE_TO_FOUR
def test_a_design_has_as_many_arms_as_its_name_says(design: str, count: int) -> None:
    together = count + (2 if count > 1 else 1)  # with one factor, all is that one
    expected = {"one_at_a_time": together, "leave_one_out": count + 1, "factorial": 2**count, "preset": 2}
    assert len(make_design(design, FACTORS[:count]).arms) == expected[design]


@EVERY_DESIGN
@ONE_TO_FOUR
def test_a_contrast_weighs_arms_of_its_design_against_one_another(design: str, count: int) -> None:
    made = make_design(design, FACTORS[:count])
    names = {arm.name for arm in made.arms}
    assert len({contrast.name for contrast in made.contrasts}) == len(made.contrasts) > 0
    for contrast in made.contrasts:
        assert contrast.weights.keys() <= names
        assert {*contrast.without, *contrast.within} == contrast.weights.keys()
        assert sum(contrast.weights.values()) == pytest.approx(0)
        # A main effect is a mean against a mean; an interaction is one effect against another.
        side = sum(weight for weight in contrast.weights.values() if weight > 0)
        assert side == pytest.approx(2 if contrast.is_interaction else 1)


@EVERY_DESIGN
@ONE_TO_FOUR
def test_what_a_main_effect_compares_differs_in_its_factors_alone(design: str, count: int) -> None:
    made = make_design(design, FACTORS[:count])
    for contrast in made.contrasts:
        if contrast.is_interaction:
            continue
        within, without = arms_of(made, contrast.within), arms_of(made, contrast.without)
        rest = {frozenset(arm.factors) - set(contrast.factors) for arm in within}
        assert all(set(contrast.factors) <= set(arm.factors) for arm in within)
        assert {frozenset(arm.factors) for arm in without} == rest
        assert len(within) == len(without) == len(rest)


@EVERY_DESIGN
@ONE_TO_FOUR
def test_every_arm_is_compared_with_another(design: str, count: int) -> None:
    made = make_design(design, FACTORS[:count])
    assert {name for contrast in made.contrasts for name in contrast.weights} == {arm.name for arm in made.arms}


@EVERY_DESIGN
@ONE_TO_FOUR
def test_every_factor_has_an_effect_of_its_own(design: str, count: int) -> None:
    factors = (TUNED,) if design == "preset" else FACTORS[:count]
    alone = [c.factors for c in make_design(design, factors).contrasts if len(c.factors) == 1]
    assert alone == [(factor,) for factor in factors]


def test_only_a_factorial_design_tells_of_interactions() -> None:
    for design in DESIGNS:
        found = [c.factors for c in make_design(design, FACTORS).contrasts if c.is_interaction]
        assert found == (list(itertools.combinations(FACTORS, 2)) if design == "factorial" else [])


def test_the_arms_are_called_what_is_on() -> None:
    def names(design: str, count: int) -> list[str]:
        return [arm.name for arm in make_design(design, ("amp", "workers:2")[:count]).arms]

    assert names("one_at_a_time", 2) == [BASELINE, "amp", "workers:2", ALL]
    assert names("one_at_a_time", 1) == [BASELINE, "amp"]
    assert names("leave_one_out", 2) == [ALL, "all but amp", "all but workers:2"]
    assert names("leave_one_out", 1) == [ALL, BASELINE]
    assert names("factorial", 2) == [BASELINE, "amp", "workers:2", "amp+workers:2"]
    assert names("factorial", 1) == [BASELINE, "amp"]
    assert names("preset", 2) == names("preset", 1) == ["untuned", TUNED]


# --- what the weights find ---

WORTH = dict(zip(FACTORS, (0.4, -0.1, 0.05, 0.0), strict=True))
"""Logarithm of the speed-up by each factor alone."""
Pair = tuple[str, str]
TOGETHER: dict[Pair, float] = {pair: 0.01 * 2**n for n, pair in enumerate(itertools.combinations(FACTORS, 2))}
"""What two factors are worth together, beyond what each is alone."""


def log_seconds(arm: Arm, together: Mapping[Pair, float]) -> float:
    """Of an epoch, without noise. The number it starts from must not matter."""
    on = [pair for pair in together if set(pair) <= set(arm.factors)]
    return 3.7 - sum(WORTH[factor] for factor in arm.factors) - sum(together[pair] for pair in on)


def found_by(contrast: Contrast, design: Design, together: Mapping[Pair, float] = TOGETHER) -> float:
    seconds = {arm.name: log_seconds(arm, together) for arm in design.arms}
    return sum(weight * seconds[arm] for arm, weight in contrast.weights.items())


def beside(factor: str, others: Iterable[str]) -> float:
    """What a factor is worth where `others` are on."""
    return WORTH[factor] + sum(worth for pair, worth in TOGETHER.items() if factor in pair and {*pair} & {*others})


@ONE_TO_FOUR
def test_one_at_a_time_finds_what_each_factor_is_worth_alone_and_what_all_are_together(count: int) -> None:
    factors = FACTORS[:count]
    design = make_design("one_at_a_time", factors)
    found = {contrast.name: found_by(contrast, design) for contrast in design.contrasts}
    pairs = sum(TOGETHER[pair] for pair in itertools.combinations(factors, 2))
    all_of_them = {ALL: sum(WORTH[factor] for factor in factors) + pairs} if count > 1 else {}
    assert found == pytest.approx({factor: WORTH[factor] for factor in factors} | all_of_them)


@ONE_TO_FOUR
def test_leaving_one_out_finds_what_a_factor_is_worth_beside_all_others(count: int) -> None:
    factors = FACTORS[:count]
    design = make_design("leave_one_out", factors)
    expected = {factor: beside(factor, set(factors) - {factor}) for factor in factors}
    assert {contrast.name: found_by(contrast, design) for contrast in design.contrasts} == pytest.approx(expected)


@ONE_TO_FOUR
def test_a_factorial_design_finds_mean_effects_and_interactions(count: int) -> None:
    factors = FACTORS[:count]
    design = make_design("factorial", factors)
    expected = {}
    for factor in factors:
        others = [other for other in factors if other != factor]
        subsets = [s for size in range(len(others) + 1) for s in itertools.combinations(others, size)]
        expected[factor] = sum(beside(factor, subset) for subset in subsets) / len(subsets)
    expected |= {f"{a} x {b}": TOGETHER[a, b] for a, b in itertools.combinations(factors, 2)}
    assert {contrast.name: found_by(contrast, design) for contrast in design.contrasts} == pytest.approx(expected)


@pytest.mark.parametrize("together", [{}, TOGETHER], ids=["additive", "with interactions"])
def test_all_designs_find_the_same_where_factors_do_not_touch_one_another(together: Mapping[Pair, float]) -> None:
    found = []
    for name in ("one_at_a_time", "leave_one_out", "factorial"):
        design = make_design(name, FACTORS)
        found.append({c.name: found_by(c, design, together) for c in design.contrasts if c.name in WORTH})
    # With interactions, the control: the designs answer different questions.
    assert all(other == pytest.approx(found[0]) for other in found[1:]) == (not together)


# --- what cannot be combined ---

CLASH = "resident replaces workers, which would do nothing"


@pytest.mark.parametrize("design", COMBINING)
def test_a_design_that_combines_refuses_what_cannot_be_on_together(design: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_design(design, ("workers:2", "resident"), clash=CLASH)
    assert str(caught.value) == (
        f"factors=workers:2,resident: {design} combines them, and {CLASH}. "
        "Leave one of them out, or use design=one_at_a_time"
    )


def test_one_at_a_time_leaves_out_the_arm_that_cannot_be() -> None:
    factors = ("workers:2", "resident")
    clashing, free = (make_design("one_at_a_time", factors, clash=clash) for clash in (CLASH, None))
    assert clashing.arms == free.arms[:-1]
    assert clashing.contrasts == free.contrasts[:-1]
    assert free.arms[-1] == Arm(ALL, factors)


def test_every_combination_of_too_many_factors_is_refused() -> None:
    factors = [f"workers:{n}" for n in range(1, 7)]
    assert len(make_design("factorial", factors[:5]).arms) == MAX_ARMS
    with pytest.raises(ConfigError) as caught:
        make_design("factorial", factors)
    assert str(caught.value) == (
        f"factors={','.join(factors)}: every combination of 6 factors is 64 arms, and 32 are the most. "
        "Give fewer factors, or use design=one_at_a_time"
    )
    for other in DESIGNS.keys() - {"factorial"}:
        assert len(make_design(other, factors).arms) <= MAX_ARMS


def test_a_design_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^design=leave_one_in: unknown design\. Did you mean leave_one_out"):
        make_design("leave_one_in", FACTORS)


# --- what an arm sets ---


def arm_of(*factors: str) -> Arm:
    return Arm("+".join(factors) or BASELINE, factors)


@ROWS
@pytest.mark.parametrize("word", TECHNIQUES)
def test_a_technique_is_added_and_nothing_else(row: Row, word: str) -> None:
    base = base_of(row)
    expected = {"techniques": word, "batch_size": base.batch_size, "accumulation_steps": 1}
    assert settings_of(arm_of(word), base) == expected
    assert settings_of(arm_of(), base) == expected | {"techniques": "none"}


@ROWS
def test_accumulation_is_that_of_the_recipe_at_the_recipes_batch(row: Row) -> None:
    base, tuned = base_of(row), recipe_for(*row).tuned
    expected = {"techniques": "none", "batch_size": tuned.batch_size, "accumulation_steps": tuned.accumulation_steps}
    assert settings_of(arm_of(ACCUMULATION), base) == expected
    assert tuned.accumulation_steps > 1


@ROWS
def test_the_same_effective_batch_is_cut_and_not_added_to(row: Row) -> None:
    base = base_of(row)
    config = base_of(row, **settings_of(arm_of(SAME_EFFECTIVE_BATCH), base))
    assert config.effective_batch_size == base.effective_batch_size
    assert 1 < config.accumulation_steps <= recipe_for(*row).tuned.accumulation_steps
    assert 1 < config.batch_size < base.batch_size


@ROWS
def test_both_kinds_of_accumulation_multiply(row: Row) -> None:
    base = base_of(row)
    alone = {f: base_of(row, **settings_of(arm_of(f), base)) for f in NUMBER_FACTORS}
    both = base_of(row, **settings_of(arm_of(*NUMBER_FACTORS), base))
    assert both.batch_size == alone[SAME_EFFECTIVE_BATCH].batch_size
    assert both.effective_batch_size == alone[ACCUMULATION].effective_batch_size
    steps = alone[SAME_EFFECTIVE_BATCH].accumulation_steps * alone[ACCUMULATION].accumulation_steps
    assert both.accumulation_steps == steps


def test_the_vits_batch_of_seventy_is_fourteen_times_five() -> None:
    base = base_of(("vit", "cifar10", "pretrained"))
    found = settings_of(arm_of(SAME_EFFECTIVE_BATCH), base)
    assert (base.batch_size, found["batch_size"], found["accumulation_steps"]) == (70, 5, 14)
    both = settings_of(arm_of(*NUMBER_FACTORS), base)
    assert (both["batch_size"], both["accumulation_steps"]) == (5, 14 * 15)


@pytest.mark.parametrize("given", ["channels_last", "channels_last,workers:1"])
def test_techniques_that_were_given_are_on_in_every_arm(given: str) -> None:
    base = base_of(("resnet50", "digits", "random"), techniques=given)
    assert settings_of(arm_of(), base)["techniques"] == given
    assert settings_of(arm_of("amp:bf16"), base)["techniques"] == f"{given},amp:bf16"
    assert settings_of(arm_of("amp:bf16", ACCUMULATION), base)["techniques"] == f"{given},amp:bf16"
    assert settings_of(arm_of(ACCUMULATION), base)["techniques"] == given


def test_accumulation_takes_the_batch_that_was_given() -> None:
    base = base_of(("resnet50", "digits", "random"), batch_size=24)
    assert settings_of(arm_of(), base)["batch_size"] == 24
    assert settings_of(arm_of(ACCUMULATION), base)["batch_size"] == 24
    assert settings_of(arm_of(SAME_EFFECTIVE_BATCH), base)["batch_size"] == 12


@ROWS
def test_the_preset_is_the_recipe_untuned_and_tuned(row: Row) -> None:
    base = base_of(row)
    arms = [base_of(row, **settings_of(arm, base)) for arm in make_design("preset", (TUNED,)).arms]
    assert arms == [base_of(row, tuned=tuned) for tuned in (False, True)]
    assert [config.arm for config in arms] == ["baseline", "tuned"]


def all_configs(row: Row, design: str, factors: tuple[str, ...], **given: object) -> Mapping[str, RunConfig]:
    base = base_of(row, **given)
    return {arm.name: base_of(row, **{**given, **settings_of(arm, base)}) for arm in make_design(design, factors).arms}


@ROWS
@pytest.mark.parametrize("design", [name for name in DESIGNS if name != "preset"])
def test_every_arm_is_a_run_that_differs_in_what_its_factors_stand_for(row: Row, design: str) -> None:
    factors = ("amp:bf16", "channels_last", *NUMBER_FACTORS)
    configs = all_configs(row, design, factors)
    base, made = base_of(row), {arm.name: arm for arm in make_design(design, factors).arms}
    assert len({(c.techniques, c.batch_size, c.accumulation_steps) for c in configs.values()}) == len(configs)
    for name, config in configs.items():
        names = [field.name for field in dataclasses.fields(RunConfig)]
        departs = {name for name in names if getattr(config, name) != getattr(base, name)}
        expected = {"techniques_given"}  # what an arm has on was asked for, so a device that lacks it is an error
        expected |= {"techniques", "arm"} if {"amp:bf16", "channels_last"} & {*made[name].factors} else set()
        expected |= {"accumulation_steps", "arm"} if {*NUMBER_FACTORS} & {*made[name].factors} else set()
        expected |= {"batch_size"} if SAME_EFFECTIVE_BATCH in made[name].factors else set()
        expected |= {"learning_rate"} if ACCUMULATION in made[name].factors else set()
        assert departs == expected


@ROWS
def test_the_learning_rate_of_an_arm_follows_its_effective_batch(row: Row) -> None:
    recipe = recipe_for(*row)
    configs = all_configs(row, "factorial", ("amp:bf16", *NUMBER_FACTORS))
    for config in configs.values():
        assert config.learning_rate == follow_batch(recipe, config.effective_batch_size)
    assert configs[SAME_EFFECTIVE_BATCH].learning_rate == configs[BASELINE].learning_rate == recipe.learning_rate
    assert configs[ACCUMULATION].learning_rate > recipe.learning_rate


@ROWS
def test_a_learning_rate_that_was_given_is_that_of_every_arm(row: Row) -> None:
    configs = all_configs(row, "factorial", ("amp:bf16", *NUMBER_FACTORS), learning_rate=0.0123)
    assert {config.learning_rate for config in configs.values()} == {0.0123}


def test_a_batch_is_cut_into_as_many_equal_parts_as_the_recipe_has_steps_or_the_next_fewer() -> None:
    refused = 0
    for batch_size, steps in itertools.product(range(1, 150), range(2, 17)):
        possible = [n for n in range(2, steps + 1) if batch_size % n == 0 and batch_size // n >= 2]
        if possible:
            assert micro_batches(batch_size, steps) == max(possible)
            continue
        refused += 1
        with pytest.raises(ConfigError):
            micro_batches(batch_size, steps)
    assert refused > 0


@pytest.mark.parametrize("batch_size", [1, 2, 3, 33])
def test_a_batch_that_cannot_be_cut_is_refused(batch_size: int) -> None:
    base = base_of(("resnet50", "digits", "random"), batch_size=batch_size)
    with pytest.raises(ConfigError) as caught:
        settings_of(arm_of(SAME_EFFECTIVE_BATCH), base)
    assert str(caught.value) == (
        f"factors=accumulation:same_effective_batch: a batch of {batch_size} cannot be cut into equal "
        "micro-batches, at most 2 of them. Give another batch_size, or leave it out"
    )
    assert settings_of(arm_of(ACCUMULATION), base)["batch_size"] == batch_size  # the control
