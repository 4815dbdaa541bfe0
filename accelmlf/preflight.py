"""What has to be known before many runs are started: device, techniques, data. In a process of its own (isolation)."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import torch

from accelmlf import environment
from accelmlf.config import RunConfig
from accelmlf.errors import ConfigError
from accelmlf.experiment import load_data, settle
from accelmlf.models import build_model, has_batch_norm
from accelmlf.stack import NO_TECHNIQUES, Skipped, build_stack
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
