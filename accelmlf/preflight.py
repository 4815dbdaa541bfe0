"""What has to be known before many runs are started: device, techniques, data. In a process of its own (isolation)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from accelmlf import environment
from accelmlf.config import RunConfig, pick
from accelmlf.designs import NUMBER_FACTORS
from accelmlf.errors import ConfigError
from accelmlf.experiment import load_data, settle
from accelmlf.models import build_model, has_batch_norm
from accelmlf.stack import NO_TECHNIQUES, Skipped, build_stack
from accelmlf.technique import Technique
from accelmlf.techniques import TECHNIQUES


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """A run's settings as this device would run them, and what they rest on."""

    config: RunConfig
    skipped: list[Skipped]
    environment: dict[str, Any]
    sizes: dict[str, int]
    data_digest: str
    technique_sets: tuple[str, ...]
    """Comma lists of techniques that this device can run together, `none` among them; empty unless asked for."""
    device_key: str
    """What names the device on this machine, whatever a process calls it."""
    has_batch_norm: bool


def look(config: RunConfig, with_technique_sets: bool) -> Preflight:
    """The facts of a run that is not started: nothing is trained, pictures are listed or fetched but not kept.

    Raises:
        AccelmlfError: a device, a technique or data that is not there.
    """
    config, techniques, skipped = settle(config)
    splits = load_data(replace(config, pipeline="stream"))  # a stream's sources do not read every picture
    model = build_model(config.model, "random", num_classes=splits.num_classes, image_size=config.image_size)
    return Preflight(
        config=config,
        skipped=skipped,
        environment=environment.describe(techniques.device),
        sizes=splits.sizes(),
        data_digest=splits.digest,
        technique_sets=technique_sets(techniques.device, config.pipeline) if with_technique_sets else (),
        device_key=device_key(techniques.device),
        has_batch_norm=has_batch_norm(model),
    )


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
    device = environment.pick_device(config.device)
    labels, left_out, techniques = [], [], []
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


def _technique(word: str, device: torch.device) -> Technique:
    name, _, option = word.partition(":")
    known: dict[str, type[Technique] | None] = {**TECHNIQUES, **dict.fromkeys(NUMBER_FACTORS)}
    kind = pick(known, name, "factors", word)
    if kind is None:
        raise ConfigError("factors", word, f"{name} has no such form", f"Use {' or '.join(NUMBER_FACTORS)}")
    try:
        return kind(name, option if ":" in word else None, device)
    except ConfigError as error:
        raise ConfigError("factors", word, error.rule, error.remedy) from None


def _clash(labels: Sequence[str], config: RunConfig, device: torch.device) -> str | None:
    """Why these cannot be on together with what every arm has on, or None."""
    given = [word for word in config.techniques.split(",") if word != NO_TECHNIQUES]
    try:
        build_stack(",".join([*given, *labels]) or NO_TECHNIQUES, device, from_preset=False)
    except ConfigError as error:
        return error.rule
    return None


def technique_sets(device: torch.device, pipeline: str) -> tuple[str, ...]:
    """Every set of techniques, with their default options, that the device and the pipeline can run together."""
    known = [kind(word, None, device) for word, kind in TECHNIQUES.items() if pipeline in kind.pipelines]
    labels = [technique.label for technique in known if technique.missing() is None]
    subsets = (subset for size in range(len(labels) + 1) for subset in itertools.combinations(labels, size))
    possible = []
    for subset in subsets:
        try:
            stack, _ = build_stack(",".join(subset) or NO_TECHNIQUES, device, from_preset=False)
        except ConfigError:  # one replaces another
            continue
        possible.append(stack.label)
    return tuple(possible)


def device_key(device: torch.device) -> str:
    """The GPU's own identifier, because CUDA_VISIBLE_DEVICES renumbers them; or cpu."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else device.type
