"""The settings of an ablation, and its designs: which arms are run, and what is read off them.

Every design is a list of arms and a list of contrasts; everything else is one machinery. Standard library only.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelmlf.config import RunConfig, pick, setting
from accelmlf.errors import ConfigError
from accelmlf.recipes import recipe_for

DEFAULT_FACTORS = "accumulation,amp,pin_memory"
ACCUMULATION, SAME_EFFECTIVE_BATCH = "accumulation", "accumulation:same_effective_batch"
NUMBER_FACTORS = (ACCUMULATION, SAME_EFFECTIVE_BATCH)
"""The factors that are no techniques: numbers beside the batch size."""
BASELINE, ALL, UNTUNED, TUNED = "baseline", "all", "untuned", "tuned"
MAX_ARMS = 32
SET_BY_ABLATION = {"tuned": "design=preset", "accumulation_steps": "factors=accumulation"}
"""Settings of a run that an ablation sets by itself, and what to give instead."""


@dataclass(frozen=True, kw_only=True)
class AblateConfig:
    """The settings of an ablation beside those of its runs."""

    factors: str | None = setting(None, default_text=DEFAULT_FACTORS)
    """Comma list of techniques, accumulation (as the recipe), accumulation:same_effective_batch (micro-batches)."""
    design: str = setting("one_at_a_time", choices=("one_at_a_time", "leave_one_out", "factorial", "preset"))
    """one_at_a_time, leave_one_out, factorial (every combination), or preset (the recipe untuned and tuned)."""
    repeats: int = setting(5, at_least=1, at_most=100)
    """Blocks of one run of every arm, each with a seed of its own; with fewer than 3 there are no verdicts."""

    def __post_init__(self) -> None:
        if self.design == "preset" and self.factors is not None:
            rule = "the preset's factors are those of the recipe"
            raise ConfigError("factors", self.factors, rule, "Leave factors out, or choose another design")

    def factor_words(self) -> tuple[str, ...]:
        """What was typed, word by word."""
        if self.design == "preset":
            return (TUNED,)
        words = tuple(word.strip() for word in (self.factors or DEFAULT_FACTORS).split(","))
        if "" in words:
            raise ConfigError("factors", self.factors, "a name is empty", "Separate the factors by single commas")
        if twice := [word for word in words if words.count(word) > 1]:
            raise ConfigError("factors", self.factors, f"{twice[0]} is there twice", "Name each factor once")
        return words


@dataclass(frozen=True)
class Arm:
    """A combination of factors, those that are on."""

    name: str
    factors: tuple[str, ...]


@dataclass(frozen=True)
class Contrast:
    """A weighted sum over arms of the logarithm of what was measured: positive where a factor is off.

    So of a time it is the logarithm of the speed-up; of an interaction, that of one factor with another one on,
    over that with it off.
    """

    name: str
    factors: tuple[str, ...]
    weights: Mapping[str, float]
    is_interaction: bool = False

    @property
    def without(self) -> tuple[str, ...]:
        """The arms on the side of off."""
        return tuple(arm for arm, weight in self.weights.items() if weight > 0)

    @property
    def within(self) -> tuple[str, ...]:
        """The arms on the side of on."""
        return tuple(arm for arm, weight in self.weights.items() if weight < 0)


@dataclass(frozen=True)
class Design:
    """What an ablation runs, and what it asks of it."""

    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...]


def one_at_a_time(factors: Sequence[str]) -> Design:
    """Nothing; each factor alone; all."""
    arms = [Arm(BASELINE, ()), *(Arm(factor, (factor,)) for factor in factors)]
    arms += [Arm(ALL, tuple(factors))] if len(factors) > 1 else []
    contrasts = [Contrast(arm.name, arm.factors, {BASELINE: 1.0, arm.name: -1.0}) for arm in arms[1:]]
    return Design(tuple(arms), tuple(contrasts))


def leave_one_out(factors: Sequence[str]) -> Design:
    """All; all but one. The effect of a factor is that beside all others."""
    fewer = {factor: tuple(other for other in factors if other != factor) for factor in factors}
    names = {factor: f"all but {factor}" if rest else BASELINE for factor, rest in fewer.items()}
    arms = [Arm(ALL, tuple(factors)), *(Arm(names[factor], rest) for factor, rest in fewer.items())]
    return Design(tuple(arms), tuple(Contrast(f, (f,), {names[f]: 1.0, ALL: -1.0}) for f in factors))


def factorial(factors: Sequence[str]) -> Design:
    """Every combination. Main effects are averaged over the other factors, interactions over the rest."""
    subsets = [s for size in range(len(factors) + 1) for s in itertools.combinations(factors, size)]
    arms = [Arm("+".join(subset) or BASELINE, subset) for subset in subsets]
    mains = [
        Contrast(f, (f,), {arm.name: (-1.0 if f in arm.factors else 1.0) * 2 / len(arms) for arm in arms})
        for f in factors
    ]
    interactions = [Contrast(f"{a} x {b}", (a, b), _interaction(arms, a, b), True) for a, b in _pairs(factors)]
    return Design(tuple(arms), (*mains, *interactions))


def preset(factors: Sequence[str]) -> Design:
    """The recipe untuned and tuned."""
    del factors
    contrast = Contrast(TUNED, (TUNED,), {UNTUNED: 1.0, TUNED: -1.0})
    return Design((Arm(UNTUNED, ()), Arm(TUNED, (TUNED,))), (contrast,))


def _pairs(factors: Sequence[str]) -> list[tuple[str, str]]:
    return list(itertools.combinations(factors, 2))


def _interaction(arms: Sequence[Arm], one: str, other: str) -> dict[str, float]:
    """Of the speed-up by `one`: with `other` on, minus with it off."""
    share = 4 / len(arms)
    return {
        arm.name: share * (-1.0 if one in arm.factors else 1.0) * (1.0 if other in arm.factors else -1.0)
        for arm in arms
    }


def make_design(name: str, factors: Sequence[str], *, clash: str | None = None) -> Design:
    """A design over factors; `clash` says why they cannot all be on together.

    Raises:
        ConfigError: no such design, too many arms, or factors that the design must combine and cannot.
    """
    make = pick(DESIGNS, name, "design")
    if clash is not None and name in COMBINING:
        remedy = "Leave one of them out, or use design=one_at_a_time"
        raise ConfigError("factors", ",".join(factors), f"{name} combines them, and {clash}", remedy)
    if name == "factorial" and 2 ** len(factors) > MAX_ARMS:
        rule = f"every combination of {len(factors)} factors is {2 ** len(factors)} arms, and {MAX_ARMS} are the most"
        raise ConfigError("factors", ",".join(factors), rule, "Give fewer factors, or use design=one_at_a_time")
    design = make(factors)
    if clash is None:
        return design
    contrasts = tuple(contrast for contrast in design.contrasts if ALL not in contrast.weights)
    return Design(tuple(arm for arm in design.arms if arm.name != ALL), contrasts)


def settings_of(arm: Arm, base: RunConfig) -> dict[str, Any]:
    """What an arm sets on top of `base`: the settings of its runs that its factors stand for.

    Raises:
        ConfigError: a batch that cannot be cut into micro-batches.
    """
    if arm.name in (UNTUNED, TUNED):
        return {"tuned": arm.name == TUNED}
    words = [word for word in base.techniques.split(",") if word != "none"]
    words += [factor for factor in arm.factors if factor not in NUMBER_FACTORS]
    steps = recipe_for(base.model, base.dataset, base.weights).tuned.accumulation_steps
    cut = micro_batches(base.batch_size, steps) if SAME_EFFECTIVE_BATCH in arm.factors else 1
    return {
        "techniques": ",".join(words) or "none",
        "batch_size": base.batch_size // cut,
        "accumulation_steps": cut * (steps if ACCUMULATION in arm.factors else 1),
    }


def micro_batches(batch_size: int, steps: int) -> int:
    """How many equal parts of two pictures or more a batch is cut into: `steps`, or the next fewer that divide it."""
    for parts in range(min(steps, batch_size // 2), 1, -1):
        if batch_size % parts == 0:
            return parts
    rule = f"a batch of {batch_size} cannot be cut into equal micro-batches, at most {steps} of them"
    raise ConfigError("factors", SAME_EFFECTIVE_BATCH, rule, "Give another batch_size, or leave it out")


COMBINING = ("leave_one_out", "factorial")
DESIGNS: dict[str, Callable[[Sequence[str]], Design]] = {
    "one_at_a_time": one_at_a_time,
    "leave_one_out": leave_one_out,
    "factorial": factorial,
    "preset": preset,
}
