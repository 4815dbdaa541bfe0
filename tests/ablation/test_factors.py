"""What each factor of an ablation sets, and what every arm sets."""

import dataclasses
import itertools
from collections.abc import Mapping

import pytest
import torch

from accelmlf.ablation.designs import DESIGNS, Arm, make_design
from accelmlf.ablation.factors import (
    ACCUMULATION,
    NUMBER_FACTORS,
    SAME_EFFECTIVE_BATCH,
    look_at_factors,
    micro_batches,
    settings_of,
)
from accelmlf.ablation.settings import ALL, BASELINE, TUNED
from accelmlf.errors import ConfigError
from accelmlf.settings.recipes import RECIPES, follow_batch, recipe_for, resolve
from accelmlf.settings.run import RunConfig
from accelmlf.settings.technique_list import TechniqueList
from accelmlf.techniques.catalogue import TECHNIQUES

ROWS = pytest.mark.parametrize("row", RECIPES, ids="-".join)
Row = tuple[str, str, str]


def base_of(row: Row, **given: object) -> RunConfig:
    model, dataset, weights = row
    return resolve({"model": model, "dataset": dataset, "weights": weights, **given})


def arm_of(*factors: str) -> Arm:
    return Arm("+".join(factors) or BASELINE, factors)


@ROWS
@pytest.mark.parametrize("word", TECHNIQUES)
def test_a_technique_is_added_and_nothing_else(row: Row, word: str) -> None:
    base = base_of(row)
    expected = {"techniques": TechniqueList((word,)), "batch_size": base.batch_size, "accumulation_steps": 1}
    assert settings_of(arm_of(word), base) == expected
    assert settings_of(arm_of(), base) == expected | {"techniques": TechniqueList()}


@pytest.mark.parametrize("steps", [1, 4])
def test_micro_batches_that_were_given_are_those_of_every_arm(steps: int) -> None:
    base = base_of(("resnet50", "digits", "random"), accumulation_steps=steps)
    for arm in (arm_of(), arm_of("amp"), arm_of(ACCUMULATION)):
        times = (
            recipe_for("resnet50", "digits", "random").tuned.accumulation_steps if arm.factors == (ACCUMULATION,) else 1
        )
        assert settings_of(arm, base)["accumulation_steps"] == steps * times


@ROWS
def test_accumulation_is_that_of_the_recipe_at_the_recipes_batch(row: Row) -> None:
    base, tuned = base_of(row), recipe_for(*row).tuned
    expected = {
        "techniques": TechniqueList(),
        "batch_size": tuned.batch_size,
        "accumulation_steps": tuned.accumulation_steps,
    }
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
    assert str(settings_of(arm_of(), base)["techniques"]) == given
    assert str(settings_of(arm_of("amp:bf16"), base)["techniques"]) == f"{given},amp:bf16"
    assert str(settings_of(arm_of("amp:bf16", ACCUMULATION), base)["techniques"]) == f"{given},amp:bf16"
    assert str(settings_of(arm_of(ACCUMULATION), base)["techniques"]) == given


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
    configs = dict(all_configs(row, design, factors))
    base, made = base_of(row), {arm.name: arm for arm in make_design(design, factors).arms}
    assert len({(c.techniques, c.batch_size, c.accumulation_steps) for c in configs.values()}) == len(configs)
    if design == "with_preset":  # the recipe's own, whatever the factors
        assert configs.pop(TUNED) == base_of(row, tuned=True) != base
    for name, config in configs.items():
        names = [field.name for field in dataclasses.fields(RunConfig)]
        departs = {name for name in names if getattr(config, name) != getattr(base, name)}
        techniques_on = {"amp:bf16", "channels_last"} & {*made[name].factors}
        # What an arm has on was asked for, so a device that lacks it is an error.
        assert not (techniques_on and config.techniques.is_preset)
        expected = {"techniques", "arm"} if techniques_on else set()
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


# --- which of them this device can run ---


def all_factors(**given: object) -> tuple[str, ...]:
    return look_at_factors((ALL,), base_of(("resnet50", "digits", "random"), device="cpu", **given)).labels


@pytest.mark.parametrize("pipeline", ["memory", "stream"])
def test_all_factors_are_every_technique_that_the_device_and_the_pipeline_can_run_in_minutes(pipeline: str) -> None:
    device = torch.device("cpu")
    known = [kind(word, None, device) for word, kind in TECHNIQUES.items()]
    able = [t for t in known if t.missing() is None and pipeline in t.pipelines and t.word != "compile"]
    expected = [t.label for t in able if not any(t.word in other.replaces for other in able)]
    assert list(all_factors(pipeline=pipeline)) == expected
    assert len(expected) < len(known)  # the control: this device cannot run all of them
    assert ("resident" in expected) == (pipeline == "memory")


@pytest.mark.usefixtures("bf16")
def test_what_is_left_out_of_all_was_not_asked_for_and_each_can_be_named() -> None:
    config = base_of(("resnet50", "digits", "random"), device="cpu")
    everything = look_at_factors((ALL,), config)
    replaced, *lacking, slow = everything.left_out
    assert replaced == "workers:2 (resident replaces it)"
    assert {text.split()[0] for text in lacking} == {"tf32", "cudnn_benchmark", "pin_memory", "prefetch"}
    assert slow.startswith("compile:default (on a CPU its processes take minutes to start")
    assert look_at_factors(("compile",), config).labels == ("compile:default",)
    assert everything == dataclasses.replace(look_at_factors(everything.labels, config), left_out=everything.left_out)
    named = look_at_factors(("amp", "pin_memory"), config)  # the control: what was asked for and cannot be is told
    assert [text.split()[0] for text in named.left_out] == ["pin_memory"]
    assert everything.clash is None


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize(
    ("given", "gone"),
    [("amp:bf16", {"amp:bf16"}), ("workers:1", {"resident"}), ("resident", {"resident"})],
)
def test_of_all_factors_what_is_on_already_or_cannot_be_beside_it_is_none(given: str, gone: set[str]) -> None:
    assert {*all_factors()} - {*all_factors(techniques=given)} == gone


def test_all_is_a_word_by_itself() -> None:
    with pytest.raises(ConfigError, match=r"^factors=all: unknown factors"):
        look_at_factors((ALL, "amp"), base_of(("resnet50", "digits", "random"), device="cpu"))
