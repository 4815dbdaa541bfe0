"""Which arms an ablation has, and what is read off them."""

import itertools
from collections.abc import Iterable, Mapping

import pytest

from accelmlf.ablation.designs import (
    COMBINING,
    DESIGNS,
    MAX_ARMS,
    Arm,
    Contrast,
    Design,
    design_by_number,
    make_design,
    with_twin,
)
from accelmlf.ablation.factors import ACCUMULATION
from accelmlf.ablation.settings import ALL, BASELINE, TUNED, AblateConfig
from accelmlf.errors import ConfigError
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.recipes import RECIPES, resolve
from accelmlf.settings.run import RunConfig

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
    expected = {
        "one_at_a_time": together,
        "leave_one_out": count + 1,
        "factorial": 2**count,
        "screening": 2 ** count.bit_length(),
        "alone": count + 1,
        "with_preset": together + 1,
        "preset": 2,
    }
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
        if contrast.is_interaction or (design == "with_preset" and TUNED in contrast.factors):
            continue  # what the preset has on is the recipe's own
        if design == "screening":
            continue  # its arms differ in several factors at once, which balance
        within, without = arms_of(made, contrast.within), arms_of(made, contrast.without)
        rest = {frozenset(arm.factors) - set(contrast.factors) for arm in within}
        assert all(set(contrast.factors) <= set(arm.factors) for arm in within)
        assert {frozenset(arm.factors) for arm in without} == rest
        assert len(within) == len(without) == len(rest)


@pytest.mark.parametrize("count", range(1, 16))
def test_in_a_screening_every_factor_is_on_in_half_of_the_arms_and_every_pair_in_a_quarter(count: int) -> None:
    factors = [f"factor {number}" for number in range(count)]
    made = make_design("screening", factors)
    assert count < len(made.arms) <= 2 * count
    on = [[factor in arm.factors for factor in factors] for arm in made.arms]
    assert all(sum(column) == len(made.arms) / 2 for column in zip(*on, strict=True))
    pairs = itertools.combinations(range(count), 2)
    assert all(sum(row[a] and row[b] for row in on) == len(made.arms) / 4 for a, b in pairs)
    assert made.arms[0].factors == ()


def test_a_screening_finds_what_each_factor_is_worth_where_none_depends_on_another() -> None:
    factors = [f"factor {number}" for number in range(7)]
    worth = {factor: 0.1 * number - 0.3 for number, factor in enumerate(factors)}
    made = make_design("screening", factors)
    seconds = {arm.name: 1.0 - sum(worth[factor] for factor in arm.factors) for arm in made.arms}
    found = {c.name: sum(weight * seconds[arm] for arm, weight in c.weights.items()) for c in made.contrasts}
    assert found == pytest.approx(worth)
    twice = with_twin(made)
    again = seconds | {twice.arms[1].name: seconds[twice.arms[0].name]}
    assert {c.name: sum(w * again[arm] for arm, w in c.weights.items()) for c in twice.contrasts} == pytest.approx(
        worth
    )


@pytest.mark.parametrize(("count", "clash", "design"), [
    (5, None, "one_at_a_time"),
    (6, None, "screening"),
    (6, "resident replaces workers", "one_at_a_time"),
])  # fmt: skip
def test_many_factors_are_screened_where_they_can_be_on_together(count: int, clash: str | None, design: str) -> None:
    assert design_by_number(count, clash=clash) == design


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
    preset = [(TUNED,)] if design == "with_preset" else []
    assert alone == [*((factor,) for factor in factors), *preset]


@ONE_TO_FOUR
def test_alone_is_one_at_a_time_without_all_together(count: int) -> None:
    alone, beside_all = (make_design(design, FACTORS[:count]) for design in ("alone", "one_at_a_time"))
    without_all = [contrast for contrast in beside_all.contrasts if ALL not in contrast.weights]
    assert alone.arms == tuple(arm for arm in beside_all.arms if arm.name != ALL)
    assert alone.contrasts == tuple(without_all)
    assert (alone == beside_all) == (count == 1)  # the control


@ONE_TO_FOUR
def test_the_preset_is_set_beside_the_baseline_and_beside_all_together(count: int) -> None:
    made, without = (make_design(design, FACTORS[:count]) for design in ("with_preset", "one_at_a_time"))
    assert made.arms == (*without.arms, Arm(TUNED, (TUNED,)))
    *others, alone, against = made.contrasts
    last = without.arms[-1].name  # of one factor that alone is all together
    assert tuple(others) == without.contrasts
    assert (alone.name, alone.weights) == (TUNED, {BASELINE: 1.0, TUNED: -1.0})
    assert (against.name, against.weights) == (f"{last} against {TUNED}", {TUNED: 1.0, last: -1.0})
    assert against.factors == (*FACTORS[:count], TUNED)


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
    assert names("alone", 2) == [BASELINE, "amp", "workers:2"]
    assert names("alone", 1) == [BASELINE, "amp"]
    assert names("with_preset", 2) == [BASELINE, "amp", "workers:2", ALL, TUNED]
    assert names("with_preset", 1) == [BASELINE, "amp", TUNED]
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


# --- the first arm twice ---


@EVERY_DESIGN
@ONE_TO_FOUR
def test_an_arm_that_is_measured_twice_is_the_first_and_differs_from_itself_in_its_name_alone(
    design: str, count: int
) -> None:
    made = make_design(design, FACTORS[:count])
    twice = with_twin(made)
    first, twin, *others = twice.arms
    assert (first, *others) == made.arms
    assert twin == Arm(f"{first.name} again", first.factors)
    assert twice.null is not None and twice.null.weights == {first.name: 1.0, twin.name: -1.0}
    assert made.null is None  # the control


@EVERY_DESIGN
@ONE_TO_FOUR
def test_what_is_compared_with_an_arm_that_is_there_twice_is_compared_with_the_mean_of_both(
    design: str, count: int
) -> None:
    made = make_design(design, FACTORS[:count])
    twice = with_twin(made)
    first, twin = (arm.name for arm in twice.arms[:2])
    seconds = {arm.name: 0.1 * number**2 for number, arm in enumerate(made.arms)}
    of_twice = {**seconds, first: seconds[first] - 0.3, twin: seconds[first] + 0.3}
    for before, after in zip(made.contrasts, twice.contrasts, strict=True):
        found, expected = (
            sum(weight * values[arm] for arm, weight in contrast.weights.items())
            for contrast, values in ((after, of_twice), (before, seconds))
        )
        assert found == pytest.approx(expected)
        assert (after.name, after.factors, after.is_interaction) == (
            before.name,
            before.factors,
            before.is_interaction,
        )
        assert after.weights.get(first) == after.weights.get(twin)
        assert (first in after.weights) == (first in before.weights)
        assert sum(after.weights.values()) == pytest.approx(0)


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


@pytest.mark.parametrize("design", ["one_at_a_time", "with_preset"])
def test_a_design_that_has_all_together_leaves_out_the_arm_that_cannot_be(design: str) -> None:
    factors = ("workers:2", "resident")
    clashing, free = (make_design(design, factors, clash=clash) for clash in (CLASH, None))
    assert clashing.arms == tuple(arm for arm in free.arms if arm.name != ALL)
    assert clashing.contrasts == tuple(c for c in free.contrasts if ALL not in c.weights)
    assert Arm(ALL, factors) in free.arms  # the control
    assert len(clashing.contrasts) < len(free.contrasts)


def test_alone_has_no_arm_that_cannot_be() -> None:
    factors = ("workers:2", "resident")
    assert make_design("alone", factors, clash=CLASH) == make_design("alone", factors)


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
