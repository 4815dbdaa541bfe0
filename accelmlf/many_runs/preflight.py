"""What has to be known before many runs are started: device, techniques, data; and what they have in common."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from accelmlf import __version__
from accelmlf.machine import isolation
from accelmlf.machine.devices import device_key
from accelmlf.machine.facts import as_tags, decides_speed, describe, own_code_state
from accelmlf.models.families import build_model, has_batch_norm
from accelmlf.run.plan import settle
from accelmlf.run.workload import load_data
from accelmlf.settings.comparable import FOLLOWS, PART_OF_A_STUDY, VARIES
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


def common_facts(seen: Preflight, without: Collection[str] = ()) -> dict[str, str]:
    """All that the runs of a study have in common: what was measured elsewhere could not be compared.

    `without`: settings that the study varies by itself.
    """
    left_out = ({*VARIES, *FOLLOWS} - {*PART_OF_A_STUDY}) | {*without}
    settings = {name: text for name, text in seen.config.as_texts().items() if name not in left_out}
    return {
        **settings,
        **decides_speed(as_tags(seen.environment)),
        "data": seen.data_digest,
        "device_type": seen.config.device.partition(":")[0],
        "accelmlf": __version__,
    }


def digest_of(facts: Mapping[str, Any]) -> str:
    """The same 64 hexadecimal digits for the same facts, whatever their order."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
