"""The factors of an ablation: what each one sets, and which of them this device can run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from accelmlf.ablation.designs import Arm
from accelmlf.ablation.settings import ALL, TUNED, UNTUNED
from accelmlf.errors import ConfigError
from accelmlf.machine.devices import pick_device
from accelmlf.settings.fields import pick
from accelmlf.settings.recipes import recipe_for
from accelmlf.settings.run import RunConfig
from accelmlf.settings.technique_list import TechniqueList, word_and_option
from accelmlf.techniques.base import Technique
from accelmlf.techniques.catalogue import TECHNIQUES
from accelmlf.techniques.stack import build_stack

ACCUMULATION, SAME_EFFECTIVE_BATCH = "accumulation", "accumulation:same_effective_batch"


@dataclass(frozen=True)
class ArmSettings:
    """The settings of a run that factors may change."""

    techniques: TechniqueList
    batch_size: int
    accumulation_steps: int = 1


class Factor:
    """What an ablation turns on and off: a technique, or gradient accumulation in one of its two meanings."""

    label: str
    """How it is written, its option included."""
    acts_on: tuple[str, ...]
    """The phases of an epoch that it is meant to shorten."""
    keeps_bits: bool = False
    """Whether, on a CPU, every number that is learned stays the same to the bit."""

    def apply(self, settings: ArmSettings, recipe_steps: int) -> ArmSettings:
        """The settings with the factor on. `recipe_steps`: accumulation steps of the recipe's tuned arm."""
        raise NotImplementedError

    def left_at_best(self, steps: int) -> float:
        """Of the phases it acts on, the share that is left if it does all it can; `steps` accumulation steps."""
        del steps
        return 0.0


class TechniqueFactor(Factor):
    """A technique of the table. One that this version does not have acts on nothing it knows of."""

    def __init__(self, label: str) -> None:
        self.label = label
        kind = TECHNIQUES.get(word_and_option(label)[0])
        self.acts_on = () if kind is None else kind.acts_on
        self.keeps_bits = kind is not None and kind.keeps_bits

    def apply(self, settings: ArmSettings, recipe_steps: int) -> ArmSettings:
        return replace(settings, techniques=settings.techniques.with_(self.label))


class Accumulation(Factor):
    """As in the paper: the recipe's accumulation steps at the recipe's batch size, so fewer and larger steps."""

    label = ACCUMULATION
    acts_on = ("optimizer",)

    def apply(self, settings: ArmSettings, recipe_steps: int) -> ArmSettings:
        return replace(settings, accumulation_steps=settings.accumulation_steps * recipe_steps)

    def left_at_best(self, steps: int) -> float:
        return 1 / steps


class SameEffectiveBatch(Factor):
    """What accumulation does by itself: the same effective batch, cut into micro-batches."""

    label = SAME_EFFECTIVE_BATCH
    acts_on = ("forward", "backward")

    def apply(self, settings: ArmSettings, recipe_steps: int) -> ArmSettings:
        parts = micro_batches(settings.batch_size, recipe_steps)
        steps = settings.accumulation_steps * parts
        return replace(settings, batch_size=settings.batch_size // parts, accumulation_steps=steps)


def micro_batches(batch_size: int, steps: int) -> int:
    """How many equal parts of two pictures or more a batch is cut into: `steps`, or the next fewer that divide it.

    Raises:
        ConfigError: there is no such number.
    """
    for parts in range(min(steps, batch_size // 2), 1, -1):
        if batch_size % parts == 0:
            return parts
    rule = f"a batch of {batch_size} cannot be cut into equal micro-batches, at most {steps} of them"
    raise ConfigError("factors", SAME_EFFECTIVE_BATCH, rule, "Give another batch_size, or leave it out")


NUMBER_FACTORS: dict[str, Factor] = {factor.label: factor for factor in (Accumulation(), SameEffectiveBatch())}
"""The factors that are no techniques: numbers beside the batch size."""


def factor_of(label: str) -> Factor:
    """The Factor of a label such as accumulation or amp:bf16."""
    return NUMBER_FACTORS.get(label) or TechniqueFactor(label)


def settings_of(arm: Arm, base: RunConfig) -> dict[str, Any]:
    """What an arm sets on top of `base`: the settings of its runs that its factors stand for.

    Raises:
        ConfigError: a batch that cannot be cut into micro-batches.
    """
    if arm.name in (UNTUNED, TUNED):
        return {"tuned": arm.name == TUNED}
    steps = recipe_for(base.model, base.dataset, base.weights).tuned.accumulation_steps
    settings = ArmSettings(base.techniques, base.batch_size, base.accumulation_steps)
    for label in arm.factors:
        settings = factor_of(label).apply(settings, steps)
    return vars(settings)


@dataclass(frozen=True, kw_only=True)
class Factors:
    """What of an ablation's factors this device can run."""

    labels: tuple[str, ...]
    """As they will be, their options included."""
    left_out: tuple[str, ...]
    """The others, each with its reason."""
    clash: str | None
    """Why they cannot all be on together, or None."""


def look_at_factors(words: Sequence[str], config: RunConfig) -> Factors:
    """Each factor with its option as it will be on the device; what it cannot run is left out.

    Raises:
        ConfigError: no such factor, a bad option, or one that is already on, or that replaces what is.
    """
    device = pick_device(config.device)
    labels, left_out, techniques = [], list[str](), []
    if tuple(words) == (ALL,):
        words, left_out = every_technique(config, device)
    for word in words:
        if word in NUMBER_FACTORS:
            labels.append(word)
            continue
        technique = _technique(word, device)
        if config.pipeline not in technique.pipelines:
            rule = f"{technique.label} has nothing to do with pipeline={config.pipeline}"
            raise ConfigError("factors", word, rule, f"Leave it out, or use pipeline={technique.pipelines[0]}")
        if (reason := technique.missing()) is not None:
            left_out.append(f"{technique.label} ({reason})")
            continue
        if technique.label in labels:
            raise ConfigError("factors", ",".join(words), f"{technique.label} is there twice", "Name each factor once")
        if clash := _clash([technique.label], config, device):
            raise ConfigError("factors", word, clash, f"Leave it out, or {config.techniques} in techniques")
        labels.append(technique.label)
        techniques.append(technique.label)
    return Factors(labels=tuple(labels), left_out=tuple(left_out), clash=_clash(techniques, config, device))


def every_technique(config: RunConfig, device: torch.device) -> tuple[list[str], list[str]]:
    """Those that this device and pipeline can run beside what is on already; and such as another one replaces, why."""
    on = config.techniques.words
    known = [kind(word, None, device) for word, kind in TECHNIQUES.items() if word not in on]
    known = [t for t in known if config.pipeline in t.pipelines]
    able = [t for t in known if t.missing() is None]
    able = [t for t in able if _clash([t.label], config, device) is None]
    slow = [t for t in able if t.word == "compile" and device.type == "cpu"]
    able = [t for t in able if t not in slow]
    replaced = {word: t.word for t in able for word in t.replaces}
    left_out = [f"{t.label} ({replaced[t.word]} replaces it)" for t in able if t.word in replaced]
    left_out += [f"{t.label} ({reason})" for t in known if (reason := t.missing()) is not None]
    left_out += [f"{t.label} (on a CPU its processes take minutes to start: name it to have it measured)" for t in slow]
    return [t.word for t in able if t.word not in replaced], left_out


def _technique(word: str, device: torch.device) -> Technique:
    name, option = word_and_option(word)
    known: dict[str, type[Technique] | None] = {**TECHNIQUES, **dict.fromkeys(NUMBER_FACTORS)}
    kind = pick(known, name, "factors", word)
    if kind is None:
        raise ConfigError("factors", word, f"{name} has no such form", f"Use {' or '.join(NUMBER_FACTORS)}")
    try:
        return kind(name, option, device)
    except ConfigError as error:
        raise ConfigError("factors", word, error.rule, error.remedy) from None


def _clash(labels: Sequence[str], config: RunConfig, device: torch.device) -> str | None:
    """Why these cannot be on together with what every arm has on, or None."""
    try:
        build_stack(config.techniques.with_(*labels), device)
    except ConfigError as error:
        return error.rule
    return None
