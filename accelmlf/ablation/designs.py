"""The designs of an ablation: which arms are run, and what is read off them.

Every design is a list of arms and a list of contrasts; everything else is one machinery.
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from accelmlf.ablation.settings import (
    ALL,
    BASELINE,
    DEFAULT_BUDGET,
    DEFAULT_PRECISION,
    MOST_ONE_AT_A_TIME,
    RUNS,
    STEPS,
    TUNED,
    UNTUNED,
)
from accelmlf.errors import ConfigError
from accelmlf.settings.fields import pick


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
    is_mixed: bool = False
    """An average into which pairs of other factors are mixed that work together or against one another."""

    @property
    def without(self) -> tuple[str, ...]:
        """The arms of positive weight, in which the factor is off."""
        return tuple(arm for arm, weight in self.weights.items() if weight > 0)

    @property
    def within(self) -> tuple[str, ...]:
        """The arms of negative weight, in which the factor is on."""
        return tuple(arm for arm, weight in self.weights.items() if weight < 0)


@dataclass(frozen=True)
class Design:
    """What an ablation runs, and what it asks of it."""

    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...]
    null: Contrast | None = None
    """Of an arm against itself, where it is measured twice: whose interval must hold 1, and how noisy it all is."""


MAX_ARMS = 32
AGAIN = "again"
"""What the second of two arms that are the same is called by, after the name of the first."""


def one_at_a_time(factors: Sequence[str]) -> Design:
    """One factor at a time: a baseline without any, an arm per factor with it alone, and one with all."""
    arms = [Arm(BASELINE, ()), *(Arm(factor, (factor,)) for factor in factors)]
    arms += [Arm(ALL, tuple(factors))] if len(factors) > 1 else []
    contrasts = [Contrast(arm.name, arm.factors, {BASELINE: 1.0, arm.name: -1.0}) for arm in arms[1:]]
    return Design(tuple(arms), tuple(contrasts))


def leave_one_out(factors: Sequence[str]) -> Design:
    """Leave one out: an arm with all factors, and one without each; an effect is that beside all others."""
    fewer = {factor: tuple(other for other in factors if other != factor) for factor in factors}
    names = {factor: f"all but {factor}" if rest else BASELINE for factor, rest in fewer.items()}
    arms = [Arm(ALL, tuple(factors)), *(Arm(names[factor], rest) for factor, rest in fewer.items())]
    return Design(tuple(arms), tuple(Contrast(f, (f,), {names[f]: 1.0, ALL: -1.0}) for f in factors))


def factorial(factors: Sequence[str]) -> Design:
    """Factorial: an arm per combination; main effects are averaged over the others, interactions over the rest."""
    subsets = [s for size in range(len(factors) + 1) for s in itertools.combinations(factors, size)]
    arms = [Arm("+".join(subset) or BASELINE, subset) for subset in subsets]
    mains = [_main_effect(arms, factor) for factor in factors]
    interactions = [Contrast(f"{a} x {b}", (a, b), _interaction(arms, a, b), True) for a, b in _pairs(factors)]
    return Design(tuple(arms), (*mains, *interactions))


def alone(factors: Sequence[str]) -> Design:
    """Alone: a baseline without any, and an arm per factor; for many factors, or such as cannot be on together."""
    arms = [Arm(BASELINE, ()), *(Arm(factor, (factor,)) for factor in factors)]
    return Design(tuple(arms), tuple(Contrast(f, (f,), {BASELINE: 1.0, f: -1.0}) for f in factors))


def with_preset(factors: Sequence[str]) -> Design:
    """With the preset: one factor at a time, and the recipe's tuned arm beside them."""
    design = one_at_a_time(factors)
    last = design.arms[-1]
    contrasts = (
        Contrast(TUNED, (TUNED,), {BASELINE: 1.0, TUNED: -1.0}),
        Contrast(f"{last.name} against {TUNED}", (*last.factors, TUNED), {TUNED: 1.0, last.name: -1.0}),
    )
    return Design((*design.arms, Arm(TUNED, (TUNED,))), (*design.contrasts, *contrasts))


def screening(factors: Sequence[str]) -> Design:
    """Screening: few of all combinations, of which each says something of every factor; for main effects alone.

    Each factor is on in half of the arms and each pair of factors in a quarter, so that a main effect is an average
    over all arms. Pairs that work together or against one another are mixed into it. Source: Plackett and Burman 1946,
    The design of optimum multifactorial experiments; where the number of arms is a power of two as here, the same as a
    fractional factorial.
    """
    from scipy.linalg import hadamard

    signs = hadamard(1 << len(factors).bit_length())[
        :, 1 : len(factors) + 1
    ]  # the first row is of ones: no factor is on
    subsets = [tuple(f for f, sign in zip(factors, row, strict=True) if sign < 0) for row in signs]
    arms = [Arm("+".join(subset) or BASELINE, subset) for subset in subsets]
    effects = (replace(_main_effect(arms, factor), is_mixed=True) for factor in factors)
    return Design(tuple(arms), tuple(effects))


def _main_effect(arms: Sequence[Arm], factor: str) -> Contrast:
    """The mean of the arms without a factor over that of those with it."""
    share = 2 / len(arms)
    return Contrast(factor, (factor,), {arm.name: -share if factor in arm.factors else share for arm in arms})


def preset(factors: Sequence[str]) -> Design:
    """Preset: the recipe untuned and tuned, two arms."""
    del factors
    contrast = Contrast(TUNED, (TUNED,), {UNTUNED: 1.0, TUNED: -1.0})
    return Design((Arm(UNTUNED, ()), Arm(TUNED, (TUNED,))), (contrast,))


def with_twin(design: Design) -> Design:
    """The design with its first arm twice: each contrast with it takes the mean of the two."""
    first = design.arms[0]
    twin = Arm(f"{first.name} {AGAIN}", first.factors)

    def shared(weights: Mapping[str, float]) -> Mapping[str, float]:
        if first.name not in weights:
            return weights
        half = weights[first.name] / 2
        return {**weights, first.name: half, twin.name: half}

    contrasts = tuple(replace(contrast, weights=shared(contrast.weights)) for contrast in design.contrasts)
    null = Contrast(twin.name, (), {first.name: 1.0, twin.name: -1.0})
    return Design((first, twin, *design.arms[1:]), contrasts, null)


def _pairs(factors: Sequence[str]) -> list[tuple[str, str]]:
    return list(itertools.combinations(factors, 2))


def _interaction(arms: Sequence[Arm], one: str, other: str) -> dict[str, float]:
    """Of the speed-up by `one`: with `other` on, minus with it off."""
    share = 4 / len(arms)
    return {
        arm.name: share * (-1.0 if one in arm.factors else 1.0) * (1.0 if other in arm.factors else -1.0)
        for arm in arms
    }


def design_by_number(num_factors: int, *, clash: str | None) -> str:
    """The design of so many factors where none was asked for; `clash` says why they cannot all be on together."""
    return "screening" if num_factors > MOST_ONE_AT_A_TIME and clash is None else "one_at_a_time"


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


COMBINING = ("leave_one_out", "factorial", "screening")
DESIGNS: dict[str, Callable[[Sequence[str]], Design]] = {
    "one_at_a_time": one_at_a_time,
    "leave_one_out": leave_one_out,
    "factorial": factorial,
    "screening": screening,
    "alone": alone,
    "with_preset": with_preset,
    "preset": preset,
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What an ablation was asked for, as its parent run keeps it."""

    design: str
    factors: tuple[str, ...]
    """Those that the device can run, their options included."""
    clash: str | None
    """Why they cannot all be on together, or None."""
    repeats: int
    """Blocks of whole runs; 0 with measure=steps."""
    left_out: tuple[str, ...]
    """Factors that were asked for, with the reason why they are not there."""
    measure: str = RUNS
    """steps or runs. Ablations of the first version have no word of it: they were of whole runs."""
    precision: float = DEFAULT_PRECISION
    """Half the width of an interval that is narrow enough, of a ratio."""
    budget: float = DEFAULT_BUDGET
    """Minutes after which a measurement in stretches ends."""

    def as_json(self) -> str:
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> "Asked":
        fields = json.loads(text)
        lists = {name: tuple(fields[name]) for name in ("factors", "left_out")}
        return cls(**{**fields, **lists})

    def as_design(self) -> Design:
        design = make_design(self.design, self.factors, clash=self.clash)
        return with_twin(design) if self.measure == STEPS else design
