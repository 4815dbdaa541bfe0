"""Which points a search has, which of them can run, and how a point becomes a run."""

import dataclasses
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from accelmlf.errors import ConfigError
from accelmlf.search.settings import TuneConfig
from accelmlf.search.space import ACCUMULATION_CHOICES, LEARNING_RATE_SPAN, Point, SearchSpace, in_words, make_space
from accelmlf.settings.fields import parse_setting
from accelmlf.settings.recipes import RECIPES, resolve
from accelmlf.settings.run import RunConfig
from accelmlf.settings.technique_list import TechniqueList
from accelmlf.techniques.stack import technique_sets
from tests.search.makers import parse_tune

CPU_SETS = technique_sets(torch.device("cpu"), "memory")
THREE_SETS = tuple(map(TechniqueList.parse, ("none", "amp:bf16", "channels_last", "amp:bf16,channels_last")))
DIGITS = 1_078
"""Training pictures of the embedded data set."""


def space_of(
    tune: TuneConfig | None = None,
    *,
    model: str = "resnet50",
    train_images: int = DIGITS,
    sets: Sequence[TechniqueList] = (),
    has_batch_norm: bool = True,
    **given: Any,
) -> SearchSpace:
    base = resolve({"model": model, **given})
    return make_space(tune or TuneConfig(), base, train_images, sets, has_batch_norm)[0]


@pytest.mark.parametrize("row", RECIPES, ids="-".join)
def test_the_default_space_is_around_the_recipe_and_holds_it(row: tuple[str, str, str]) -> None:
    model, dataset, weights = row
    base = resolve({"model": model, "dataset": dataset, "weights": weights})
    space, left_out = make_space(TuneConfig(), base, 50_000, (), has_batch_norm=model != "vit")
    assert not left_out
    assert space.batch_sizes == tuple(base.batch_size * factor // 2 for factor in (1, 2, 4, 8))
    assert space.accumulation_choices == ACCUMULATION_CHOICES
    assert space.point_of(base) in space
    assert space.size == len(space.grid) == 12
    assert space.names == ("batch_size", "accumulation_steps")


def test_the_grid_is_every_combination_once() -> None:
    space = space_of(parse_tune({"batch_sizes": "8,16", "accumulation_choices": "1,3"}), sets=THREE_SETS)
    points = {tuple(sorted(point.items())) for point in space.grid}
    assert len(points) == len(space.grid) == space.size == 2 * 2 * 4
    assert all(point in space for point in space.grid)


def test_default_points_that_cannot_run_are_left_out_and_named() -> None:
    base = resolve({"model": "resnet50"})
    space, left_out = make_space(TuneConfig(), base, 300, (), has_batch_norm=True)
    assert left_out == ["128 x 4"]
    assert {"batch_size": 128, "accumulation_steps": 4} not in space
    assert {"batch_size": 128, "accumulation_steps": 2} in space
    assert space.size == 11


@pytest.mark.parametrize(
    ("texts", "setting", "point"),
    [
        ({"batch_sizes": "8,200", "accumulation_choices": "1,2"}, "batch_sizes=8,200", "200 x 2 steps"),
        ({"batch_sizes": "301", "accumulation_choices": "1"}, "batch_sizes=301", "301 x 1 steps"),
        ({"accumulation_choices": "1,64"}, "accumulation_choices=1,64", "16 x 64 steps"),
        ({"batch_sizes": "1048576", "accumulation_choices": "1048576"}, "batch_sizes=1048576", "1048576 x 1048576"),
    ],
)
def test_points_that_were_asked_for_and_cannot_run_are_refused(texts: dict[str, str], setting: str, point: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space_of(parse_tune(texts), train_images=300)
    line = str(caught.value)
    assert line.startswith(f"{setting}: ")
    assert point in line and "300 training pictures" in line and "\n" not in line


def test_an_effective_batch_of_the_whole_training_set_can_run() -> None:
    assert space_of(parse_tune({"batch_sizes": "150", "accumulation_choices": "2"}), train_images=300).size == 1
    with pytest.raises(ConfigError):
        space_of(parse_tune({"batch_sizes": "150", "accumulation_choices": "2"}), train_images=299)


def test_a_default_space_without_a_possible_point_is_refused() -> None:
    with pytest.raises(ConfigError, match="no point has an effective batch within the 15 training pictures"):
        space_of(train_images=15)
    assert space_of(train_images=16).size == 1


def test_batch_normalisation_needs_two_pictures() -> None:
    asked = parse_tune({"batch_sizes": "1,8"})
    with pytest.raises(ConfigError, match=r"^batch_sizes=1,8: the BatchNorm of resnet50 .*Use 2 or more"):
        space_of(asked)
    assert space_of(asked, model="vit", has_batch_norm=False).batch_sizes == (1, 8)


@pytest.mark.parametrize(("has_batch_norm", "batches"), [(True, (2, 4, 8)), (False, (1, 2, 4, 8))])
def test_the_default_batches_around_a_tiny_one_are_possible_and_different(
    has_batch_norm: bool, batches: tuple[int, ...]
) -> None:
    space = space_of(batch_size=2, model="vit", has_batch_norm=has_batch_norm)
    assert space.batch_sizes == batches
    assert len(space.grid) == len(batches) * 3


@pytest.mark.parametrize("rate", [3e-3, 2e-5, 1e-3, 0.0123456])
def test_the_learning_rate_is_searched_from_a_fifth_to_five_times_the_recipes(rate: float) -> None:
    space = space_of(parse_tune({"search_learning_rate": "true"}), learning_rate=rate)
    assert space.learning_rates is not None
    assert space.learning_rates == pytest.approx((rate / LEARNING_RATE_SPAN, rate * LEARNING_RATE_SPAN), rel=5e-3)
    assert [float(f"{bound:.3g}") for bound in space.learning_rates] == list(space.learning_rates)
    assert space.size == math.inf
    assert space.names[-1] == "learning_rate"
    assert space_of(learning_rate=rate).learning_rates is None


def test_a_searched_learning_rate_is_typed_with_three_digits_inside_the_range() -> None:
    space = space_of(parse_tune({"search_learning_rate": "true"}))
    assert space.learning_rates is not None
    low, high = space.learning_rates
    chance = random.Random(0)
    rates = [float(space.random_point(space.grid, chance)["learning_rate"]) for _ in range(500)]
    assert all(low <= rate <= high and rate == float(f"{rate:.3g}") for rate in rates)
    below = sum(rate < math.sqrt(low * high) for rate in rates)
    assert 200 < below < 300  # as many in the lower half of the logarithm as in the upper
    assert (space.rounded(low / 2), space.rounded(high * 2), space.rounded(0.00123456)) == (low, high, 0.00123)


def test_a_point_outside_the_range_of_the_learning_rate_is_not_in_the_space() -> None:
    space = space_of(parse_tune({"search_learning_rate": "true"}))
    point = dict(space.grid[0])
    assert {**point, "learning_rate": 0.003} in space
    assert {**point, "learning_rate": 0.3} not in space
    assert {**point, "batch_size": 7, "learning_rate": 0.003} not in space


def test_only_sets_of_techniques_that_run_together_are_points() -> None:
    texts = ("none", "workers:2", "pin_memory", "resident", "workers:2,pin_memory")
    sets = tuple(map(TechniqueList.parse, texts))
    space = space_of(sets=sets)
    assert space.technique_words == ("workers:2", "pin_memory", "resident")
    found = {space.settings(point)["techniques"] for point in space.grid}
    assert found == set(sets)
    assert space.size == 12 * len(sets)
    point: dict[str, Any] = {"batch_size": 32, "accumulation_steps": 1, **dict.fromkeys(space.technique_words, False)}
    assert point in space
    assert {**point, "resident": True, "pin_memory": True} not in space


def test_without_a_search_of_techniques_they_are_no_part_of_a_point() -> None:
    space = space_of()
    assert space.technique_words == ()
    assert "techniques" not in space.settings(space.grid[0])


def test_every_technique_of_this_processor_is_switched_on_and_off() -> None:
    space = space_of(sets=CPU_SETS)
    for word in space.technique_words:
        assert {point[word] for point in space.grid} == {False, True}
    assert {space.settings(point)["techniques"] for point in space.grid} == set(CPU_SETS)


def test_what_was_seen_is_not_left_to_see() -> None:
    space = space_of(parse_tune({"batch_sizes": "8,16", "accumulation_choices": "1,2"}))
    seen = space.grid[1:3]
    assert space.unseen(seen) == [space.grid[0], space.grid[3]]
    assert space.unseen(space.grid) == []
    assert space.unseen([]) == space.grid
    with_rate = space_of(parse_tune({"search_learning_rate": "true"}))
    assert with_rate.unseen(with_rate.grid) == with_rate.grid


@pytest.mark.parametrize(
    "change",
    [
        {"batch_sizes": (8, 32)},
        {"accumulation_choices": (1,)},
        {"learning_rates": (0.001, 0.01)},
        {"technique_sets": (TechniqueList(), TechniqueList(("amp:bf16",)))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_spaces_that_differ_have_texts_that_differ(change: dict[str, Any]) -> None:
    space = space_of(parse_tune({"batch_sizes": "8,16"}))
    assert space.as_texts() == dataclasses.replace(space).as_texts()
    assert dataclasses.replace(space, **change).as_texts() != space.as_texts()
    assert all(isinstance(text, str) and text for text in space.as_texts().values())


# --- a point and its run ---


@pytest.mark.parametrize("sets", [(), THREE_SETS, CPU_SETS], ids=["no techniques", "three", "this processor's"])
@pytest.mark.parametrize("with_rate", [False, True])
@pytest.mark.parametrize("model", ["resnet50", "efficientnet_b0", "vit"])
def test_the_settings_of_a_point_are_a_run_at_that_point(
    model: str, with_rate: bool, sets: Sequence[TechniqueList]
) -> None:
    space = space_of(TuneConfig(search_learning_rate=with_rate), model=model, sets=sets)
    chance = random.Random(0)
    for point in space.grid:
        whole = space.random_point([point], chance) if with_rate else point
        config = resolve({"model": model, **space.settings(whole)})
        assert space.point_of(config) == whole
        for name, value in space.settings(whole).items():
            assert getattr(config, name) == value
            assert parse_setting(name, str(value), RunConfig) == value


def test_the_learning_rate_follows_the_batch_unless_it_is_searched() -> None:
    space = space_of()
    rates = {resolve({"model": "resnet50", **space.settings(point)}).learning_rate for point in space.grid}
    assert len(rates) > 1
    searched = space_of(TuneConfig(search_learning_rate=True))
    rates = {
        resolve({"model": "resnet50", **searched.settings({**point, "learning_rate": 0.002})}).learning_rate
        for point in searched.grid
    }
    assert rates == {0.002}


def test_the_recipes_own_point_may_lie_outside() -> None:
    space = space_of(parse_tune({"batch_sizes": "8,16"}))
    own = space.point_of(resolve({"model": "resnet50"}))
    assert own == {"batch_size": 32, "accumulation_steps": 1}
    assert own not in space


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ({"batch_size": 64, "accumulation_steps": 2}, "batch 64 x 2"),
        ({"batch_size": 64, "accumulation_steps": 2, "learning_rate": 3e-5}, "batch 64 x 2, learning rate 3e-05"),
        ({"batch_size": 1, "accumulation_steps": 1, "amp:bf16": True, "pin_memory": False}, "batch 1 x 1, amp:bf16"),
        ({"batch_size": 1, "accumulation_steps": 1, "a": True, "b": True}, "batch 1 x 1, a+b"),
        ({"batch_size": 1, "accumulation_steps": 1, "a": False}, "batch 1 x 1, no technique"),
    ],
)
def test_a_point_is_said_in_words(point: Point, words: str) -> None:
    assert in_words(point) == words


def test_different_points_are_said_in_different_words() -> None:
    space = space_of(TuneConfig(search_learning_rate=True), sets=CPU_SETS)
    chance = random.Random(0)
    points = [space.random_point([point], chance) for point in space.grid]
    different = {frozenset(point.items()) for point in points}  # chance may draw one twice
    assert len({in_words(point) for point in points}) == len(different)


def test_a_space_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(space_of(), "batch_sizes", 1)  # noqa: B010
