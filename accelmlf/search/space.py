"""The space that a search searches: its points, which of them can run, and their settings."""

import itertools
import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from accelmlf.errors import ConfigError
from accelmlf.search.settings import SET_BY_SEARCH, TuneConfig
from accelmlf.settings.fields import as_text, settable_fields
from accelmlf.settings.run import RunConfig, batch_in_words, least_batch_size, require_trainable_batch
from accelmlf.settings.technique_list import TechniqueList

Value = int | float | bool
Point = Mapping[str, Value]
"""A choice of all that is searched: batch_size, accumulation_steps, perhaps learning_rate, perhaps techniques."""

BATCH_FACTORS, ACCUMULATION_CHOICES = (0.5, 1.0, 2.0, 4.0), (1, 2, 4)
LEARNING_RATE_SPAN = 5.0
MAX_LEARNING_RATE: float = settable_fields(RunConfig)["learning_rate"].metadata["at_most"]
MAX_DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The space of a search: lists of values, a range of learning rates, and what of it can run."""

    batch_sizes: tuple[int, ...]
    accumulation_choices: tuple[int, ...]
    learning_rates: tuple[float, float] | None
    """Lowest and highest; None where the rate follows the effective batch."""
    technique_sets: tuple[TechniqueList, ...]
    """Those that can run together; empty where the techniques are not searched."""
    max_effective_batch: int

    @cached_property
    def technique_words(self) -> tuple[str, ...]:
        """The techniques that are on or off."""
        return tuple(dict.fromkeys(word for together in self.technique_sets for word in together.labels))

    @cached_property
    def choices(self) -> dict[str, tuple[Value, ...]]:
        """Every searched name that has a list of values."""
        switches = dict.fromkeys(self.technique_words, (False, True))
        return {"batch_size": self.batch_sizes, "accumulation_steps": self.accumulation_choices, **switches}

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.choices, "learning_rate") if self.learning_rates else tuple(self.choices)

    @cached_property
    def grid(self) -> list[Point]:
        """Every possible point, without the learning rate."""
        grid = itertools.product(*self.choices.values())
        points: list[Point] = [dict(zip(self.choices, values, strict=True)) for values in grid]
        return [point for point in points if self._is_possible(point)]

    @property
    def size(self) -> float:
        """How many points there are; infinite with a learning rate."""
        return math.inf if self.learning_rates else len(self.grid)

    def __contains__(self, point: Point) -> bool:
        if self.learning_rates:
            low, high = self.learning_rates
            if not low <= point["learning_rate"] <= high:
                return False
        listed = all(point[name] in values for name, values in self.choices.items())
        return listed and self._is_possible(point)

    @cached_property
    def _together(self) -> set[frozenset[str]]:
        return {frozenset(together.labels) for together in self.technique_sets} or {frozenset()}

    def _is_possible(self, point: Point) -> bool:
        chosen = frozenset(word for word in self.technique_words if point[word])
        effective = point["batch_size"] * point["accumulation_steps"]
        return chosen in self._together and effective <= self.max_effective_batch

    def unseen(self, seen: Collection[Point]) -> list[Point]:
        """The grid without what was seen; the whole grid where a learning rate makes every point new."""
        return self.grid if self.learning_rates else [point for point in self.grid if point not in seen]

    def random_point(self, seen: Collection[Point], chance: random.Random) -> Point:
        """A point that is not in `seen` (any point where all are)."""
        if self.learning_rates is None:
            return chance.choice(self.unseen(seen) or self.grid)
        low, high = map(math.log, self.learning_rates)
        point: Point = {}
        for _ in range(MAX_DRAWS):
            point = {**chance.choice(self.grid), "learning_rate": self.rounded(math.exp(chance.uniform(low, high)))}
            if point not in seen:
                break
        return point

    def rounded(self, learning_rate: float) -> float:
        """Three digits, and inside the space."""
        assert self.learning_rates is not None
        low, high = self.learning_rates
        return min(max(three_digits(learning_rate), low), high)

    def settings(self, point: Point) -> dict[str, Any]:
        """The settings of a run that `point` stands for."""
        searched: dict[str, Any] = {name: point[name] for name in ("batch_size", "accumulation_steps")}
        if self.learning_rates:
            searched["learning_rate"] = point["learning_rate"]
        if self.technique_sets:
            searched["techniques"] = TechniqueList(tuple(word for word in self.technique_words if point[word]))
        return searched

    def point_of(self, config: RunConfig) -> Point:
        """The point at which a run stands, in the space or not."""
        words = config.techniques.labels
        point: dict[str, Value] = {word: word in words for word in self.technique_words}
        point |= {"batch_size": config.batch_size, "accumulation_steps": config.accumulation_steps}
        return point | ({"learning_rate": config.learning_rate} if self.learning_rates else {})

    def as_texts(self) -> dict[str, str]:
        """What is searched, in words that can be compared."""
        texts = {name: ",".join(map(str, values)) for name, values in self.choices.items() if name in SET_BY_SEARCH}
        texts["learning_rate"] = "{:g} to {:g}".format(*self.learning_rates) if self.learning_rates else "not searched"
        texts["techniques"] = ",".join(self.technique_words) or "not searched"
        return texts


def make_space(
    tune: TuneConfig, base: RunConfig, train_images: int, technique_sets: Sequence[TechniqueList], has_batch_norm: bool
) -> tuple[SearchSpace, list[str]]:
    """The space that the settings ask for around the recipe's own run, and the default points left out of it.

    Raises:
        ConfigError: a point asked for that cannot run, or no point that can.
    """
    batches = tune.batch_sizes or default_batch_sizes(base.batch_size, has_batch_norm)
    steps = tune.accumulation_choices or ACCUMULATION_CHOICES
    require_trainable_batch(base.model, batches[0], has_batch_norm, name="batch_sizes", given=as_text(batches))
    for batch, step in asked_pairs(tune, batches, steps):
        if batch * step > train_images:
            rule = f"{batch} x {step} steps is an effective batch larger than the {train_images} training pictures"
            name, given = ("batch_sizes", batches) if tune.batch_sizes else ("accumulation_choices", steps)
            raise ConfigError(name, as_text(given), rule, "Leave out the large values")
    space = SearchSpace(
        batch_sizes=batches,
        accumulation_choices=steps,
        learning_rates=learning_rates_around(base.learning_rate) if tune.search_learning_rate else None,
        technique_sets=tuple(technique_sets),
        max_effective_batch=train_images,
    )
    if not space.grid:
        rule = f"no point has an effective batch within the {train_images} training pictures"
        raise ConfigError("batch_sizes", as_text(batches), rule, "Give smaller batch_sizes")
    pairs = itertools.product(batches, steps)
    return space, [f"{batch} x {step}" for batch, step in pairs if batch * step > train_images]


def default_batch_sizes(recipe: int, has_batch_norm: bool) -> tuple[int, ...]:
    """Half, one, two and four times the recipe's batch size, each once and none that cannot be trained on."""
    least = least_batch_size(has_batch_norm)
    return tuple(dict.fromkeys(max(least, round(recipe * factor)) for factor in BATCH_FACTORS))


def asked_pairs(tune: TuneConfig, batches: Sequence[int], steps: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The (batch size, accumulation steps) that a user asked for; every other pair is a default, which may be left out.

    A value that was typed is asked for with each that was typed for the other list, or with the least of its defaults.
    """
    if tune.batch_sizes or tune.accumulation_choices:
        of_batches = batches if tune.batch_sizes else batches[:1]
        of_steps = steps if tune.accumulation_choices else steps[:1]
        yield from itertools.product(of_batches, of_steps)


def learning_rates_around(rate: float) -> tuple[float, float]:
    """The lowest and the highest learning rate of a search around the recipe's, of three digits each."""
    low, high = three_digits(rate / LEARNING_RATE_SPAN), three_digits(rate * LEARNING_RATE_SPAN)
    return low, min(high, MAX_LEARNING_RATE)


def in_words(point: Point) -> str:
    """`batch 64 x 2, learning rate 0.003, amp:bf16`."""
    switches = [name for name, value in point.items() if value is True]
    parts = [batch_in_words(point["batch_size"], point["accumulation_steps"])]
    parts += [f"learning rate {point['learning_rate']:g}"] if "learning_rate" in point else []
    if any(isinstance(value, bool) for value in point.values()):
        parts.append("+".join(switches) or "no technique")
    return ", ".join(parts)


def three_digits(number: float) -> float:
    """Rounded to three significant digits, as one would type it."""
    return float(f"{number:.3g}")
