import dataclasses
import re

import pytest
import torch

from accelmlf.data.augmentation import AUGMENTATIONS, NORMALISATIONS
from accelmlf.data.datasets import DATASETS
from accelmlf.errors import ConfigError
from accelmlf.models.families import MODELS
from accelmlf.run.optimization import OPTIMIZERS, SCHEDULES
from accelmlf.settings.fields import field_help, parse_setting, settable_fields
from accelmlf.settings.recipes import (
    DATASETS_LIKE_CIFAR10,
    RECIPES,
    Preset,
    Recipe,
    follow_batch,
    model_names,
    recipe_for,
    resolve,
)
from accelmlf.settings.run import RunConfig
from accelmlf.techniques.stack import build_stack

ROWS = pytest.mark.parametrize("row", RECIPES, ids="-".join)
Row = tuple[str, str, str]


def test_models_and_data_sets_with_a_recipe_are_those_that_there_are() -> None:
    assert model_names() == list(MODELS)
    assert {data for _, data, _ in RECIPES} | set(DATASETS_LIKE_CIFAR10) == set(DATASETS)


def test_the_help_names_every_data_set() -> None:
    assert set(DATASETS) <= set(re.findall(r"\w+", field_help(RunConfig)["dataset"]))


@pytest.mark.parametrize(("name", "typed"), [("model", "resnet5"), ("dataset", "cifar"), ("dataset", "foldr")])
def test_one_that_there_is_not_is_refused_with_the_nearest(name: str, typed: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}={typed}: unknown {name}. Did you mean "):
        resolve({"model": "vit", name: typed})


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("tuned", [False, True])
def test_every_model_and_dataset_has_a_recipe_in_both_arms(model: str, dataset: str, tuned: bool) -> None:
    config = resolve({"model": model, "dataset": dataset, "tuned": tuned})
    assert (config.model, config.dataset, config.tuned) == (model, dataset, tuned)
    assert config.arm == ("tuned" if tuned else "baseline")
    assert (config.accumulation_steps > 1, "amp" in config.techniques.words) == (tuned, tuned)


@ROWS
def test_what_a_recipe_names_is_in_the_tables(row: Row) -> None:
    recipe = RECIPES[row]
    model, dataset, weights = row
    assert model in MODELS
    assert dataset in DATASETS
    assert (recipe.weights == "random") == (weights == "random")
    assert recipe.augmentation in AUGMENTATIONS
    assert recipe.normalisation in NORMALISATIONS
    assert recipe.optimizer in OPTIMIZERS
    assert recipe.schedule in SCHEDULES
    for arm in (recipe.untuned, recipe.tuned):
        build_stack(arm.techniques, torch.device("cpu"))


@ROWS
def test_a_recipe_holds_what_a_user_could_have_given(row: Row) -> None:
    recipe = RECIPES[row]
    for name, value in (vars(recipe) | vars(recipe.tuned)).items():
        if name in settable_fields(RunConfig) and name != "tuned":
            assert parse_setting(name, str(value), RunConfig) == value


@ROWS
def test_the_arms_differ_in_techniques_accumulation_and_batch_alone(row: Row) -> None:
    model, dataset, weights = row
    arms = [resolve({"model": model, "dataset": dataset, "weights": weights, "tuned": t}) for t in (False, True)]
    different = {f.name for f in dataclasses.fields(RunConfig) if getattr(arms[0], f.name) != getattr(arms[1], f.name)}
    free = {"tuned", "arm", "learning_rate", *(field.name for field in dataclasses.fields(Preset))}
    assert {"tuned", "arm", "techniques", "accumulation_steps"} <= different <= free


@ROWS
def test_the_learning_rate_is_the_recipes_at_its_own_batch_and_follows_any_other(row: Row) -> None:
    recipe = RECIPES[row]
    reference = recipe.untuned.batch_size
    assert follow_batch(recipe, reference) == recipe.learning_rate
    expected = 2.0 if recipe.optimizer == "sgd" else 2**0.5
    assert follow_batch(recipe, 2 * reference) / recipe.learning_rate == pytest.approx(expected, rel=1e-5)
    assert follow_batch(recipe, 1000 * reference) / recipe.learning_rate == pytest.approx(4, rel=1e-5)


@ROWS
def test_a_learning_rate_that_is_given_does_not_follow(row: Row) -> None:
    given = {"model": row[0], "dataset": row[1], "weights": row[2], "learning_rate": 0.0123}
    for batch_size in (8, 16):
        assert resolve({**given, "batch_size": batch_size}).learning_rate == 0.0123


@pytest.mark.parametrize("model", MODELS)
def test_a_folder_is_trained_like_cifar10(model: str) -> None:
    assert recipe_for(model, "folder") == recipe_for(model, "cifar10")
    assert recipe_for(model, "folder") != recipe_for(model, "digits")


@pytest.mark.parametrize("model", ["efficientnet_b0", "vit"])
def test_random_weights_have_a_recipe_of_their_own(model: str) -> None:
    scratch, started = recipe_for(model, "cifar10", "random"), recipe_for(model, "cifar10", "some/folder")
    assert (scratch.image_size, started.image_size) == (32, 224)
    assert recipe_for(model, "cifar10", "pretrained") == recipe_for(model, "cifar10") == started


def test_weights_without_a_row_take_the_other_row_of_that_model_and_data() -> None:
    assert recipe_for("resnet50", "cifar10", "pretrained") == recipe_for("resnet50", "cifar10", "random")
    assert resolve({"model": "resnet50", "dataset": "cifar10", "weights": "pretrained"}).weights == "pretrained"


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Preset)])
def test_a_departure_from_the_preset_makes_the_arm_custom(name: str) -> None:
    preset = resolve({"model": "resnet50", "tuned": True})
    value = getattr(preset, name)
    assert resolve({"model": "resnet50", "tuned": True, name: value}).arm == "tuned"
    other = "channels_last" if name == "techniques" else value + 1
    assert resolve({"model": "resnet50", "tuned": True, name: other}).arm == "custom"


@pytest.mark.parametrize(
    "name", sorted(settable_fields(RunConfig).keys() & {f.name for f in dataclasses.fields(Recipe)})
)
def test_a_given_setting_beats_the_recipe(name: str) -> None:
    plain = resolve({"model": "vit", "dataset": "cifar100"})
    value = getattr(plain, name)
    other = "random" if isinstance(value, str) else value / 2 if isinstance(value, float) else value + 1
    assert getattr(resolve({"model": "vit", "dataset": "cifar100", name: other}), name) == other != value


def test_techniques_that_were_given_are_marked_even_if_they_are_the_presets() -> None:
    assert resolve({"model": "vit", "tuned": True}).techniques.is_preset
    assert not resolve({"model": "vit", "tuned": True, "techniques": "amp,pin_memory"}).techniques.is_preset


@pytest.mark.parametrize(
    ("given", "setting"),
    [({}, "model"), ({"model": "vitt"}, "model"), ({"model": "vit", "dataset": "cifar"}, "dataset")],
)
def test_a_run_without_a_known_model_and_dataset_is_refused(given: dict[str, str], setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(given)
    assert caught.value.setting == setting


def test_a_model_without_a_recipe_for_a_data_set_is_told_those_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, ("vit", "stripes", "random"), RECIPES["vit", "digits", "random"])
    assert resolve({"model": "vit", "dataset": "stripes"}).dataset == "stripes"
    with pytest.raises(ConfigError, match=r"dataset=stripes: there is no recipe of resnet50 for it\. Use digits or "):
        resolve({"model": "resnet50", "dataset": "stripes"})
