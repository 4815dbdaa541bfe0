"""What has to be known before many runs are started: device, techniques, data. In a process of its own (isolation)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from accelmlf.machine import isolation
from accelmlf.machine.devices import device_key
from accelmlf.machine.facts import describe, own_code_state
from accelmlf.models.families import build_model, has_batch_norm
from accelmlf.run.plan import settle
from accelmlf.run.workload import load_data
from accelmlf.settings.run import RunConfig
from accelmlf.settings.technique_list import TechniqueList
from accelmlf.techniques.stack import Skipped, technique_sets


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """A run's settings as this device would run them, and what they rest on."""

    config: RunConfig
    skipped: list[Skipped]
    environment: dict[str, Any]
    sizes: dict[str, int]
    data_digest: str
    technique_sets: tuple[TechniqueList, ...]
    """Those that this device can run together, the empty one among them; empty unless asked for."""
    device_key: str
    """What names the device on this machine, whatever a process calls it."""
    has_batch_norm: bool


def look_in_own_process(config: RunConfig, with_technique_sets: bool) -> Preflight:
    """`look` in a process of its own: this one never touches the device."""
    return isolation.call(look, config, with_technique_sets, own_code_state())


def look(config: RunConfig, with_technique_sets: bool, code: Mapping[str, str] | None = None) -> Preflight:
    """The facts of a run that is not started: nothing is trained, pictures are listed or fetched but not kept.

    `code`: the state of the code, asked for before its files can have changed.

    Raises:
        AccelmlfError: a device, a technique or data that is not there.
    """
    config, techniques, skipped = settle(config)
    splits = load_data(replace(config, pipeline="stream"))  # a stream's sources do not read every picture
    model = build_model(config.model, "random", num_classes=splits.num_classes, image_size=config.image_size)
    return Preflight(
        config=config,
        skipped=skipped,
        environment=describe(techniques.device, code),
        sizes=splits.sizes(),
        data_digest=splits.digest,
        technique_sets=technique_sets(techniques.device, config.pipeline) if with_technique_sets else (),
        device_key=device_key(techniques.device),
        has_batch_norm=has_batch_norm(model),
    )
