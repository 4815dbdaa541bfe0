"""What every run of a search has in common, and what its study is about."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from accelmlf import __version__
from accelmlf.errors import ConfigError
from accelmlf.machine.facts import as_tags
from accelmlf.many_runs.preflight import Preflight
from accelmlf.search import storage
from accelmlf.search.settings import SET_BY_SEARCH, TuneConfig
from accelmlf.search.space import Point, SearchSpace
from accelmlf.settings.fields import as_text, settable_fields
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every run of a search has in common."""

    tune: TuneConfig
    given: Mapping[str, Any]
    base: RunConfig
    """The recipe's own setting, as this device runs it."""
    space: SearchSpace
    device_key: str

    def config_of(self, point: Point | None, **settings: Any) -> RunConfig:
        """The run at a point, up to the target; None is the recipe's own setting."""
        searched = {} if point is None else self.space.settings(point)
        # The device that was found at first: with `auto`, a GPU that is lost would put a CPU's time into the study.
        fixed = {"stop_at_target": True, "device": self.base.device}
        return resolve({**self.given, **searched, **fixed, **settings})


NOT_PART_OF_A_STUDY = ("arm", "data_dir", "device", "effective_batch_size", "save_model", *SET_BY_SEARCH)
"""Settings of a run that may differ between the starts of one study, or that its space describes."""


def refuse(tune: TuneConfig, given: Mapping[str, Any]) -> None:
    """Raises ConfigError for settings of a run that contradict a search."""
    if given.get("validation") == "test":
        remedy = "Leave validation out: the search looks at a part of the training set"
        raise ConfigError("validation", "test", "a search that looks at the test set leaves nothing to test on", remedy)
    if tune.search_techniques and "techniques" in given:
        remedy = "Leave techniques or search_techniques out"
        raise ConfigError("techniques", given["techniques"], "the techniques are searched", remedy)


def study_facts(seen: Preflight, space: SearchSpace) -> dict[str, str]:
    """All that the trials of one study have in common: times on another machine, say, could not be compared."""
    searched = set(space.names) | ({"techniques"} if space.technique_sets else set())
    settings = {
        name: text
        for name, text in seen.config.as_texts().items()
        if name not in NOT_PART_OF_A_STUDY and name not in searched
    }
    hardware, versions = seen.environment["hardware"], seen.environment["versions"]
    named = ("cpu", "cpu_threads_used", "gpu", "cuda", "cudnn")
    machine = {name: str(hardware[name]) for name in named if name in hardware}
    machine["device_type"] = seen.config.device.partition(":")[0]
    searches = {f"space.{name}": text for name, text in space.as_texts().items()}
    return {
        **settings,
        "data": seen.data_digest,
        **searches,
        **machine,
        "torch": versions["torch"],
        "accelmlf": __version__,
    }


def default_name(seen: Preflight, facts: Mapping[str, str]) -> str:
    """The same for the same facts, so that the same command goes on with its study and another one starts its own."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{seen.config.model}-{seen.config.dataset}-{digest[:8]}"


def labels(plan: Plan, seen: Preflight, study: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Parameters and tags of the parent run."""
    asked = {f.name: as_text(getattr(plan.tune, f.name)) for f in fields(TuneConfig)}
    asked |= {
        name: as_text(plan.space.choices[key]) for key, name in SET_BY_SEARCH.items() if key in plan.space.choices
    }
    asked |= {"study_name": study["name"], "storage": storage.shown(study["storage"])}
    texts = seen.config.as_texts()
    params = asked | {key: texts[key] for key in settable_fields(RunConfig) if key not in SET_BY_SEARCH}
    tags = {f"accelmlf.config.{key}": text for key, text in (texts | asked).items()}
    space = {f"accelmlf.space.{key}": text for key, text in plan.space.as_texts().items()}
    skipped = ",".join(technique.label for technique in seen.skipped) or "none"
    others = {
        "accelmlf.sampler": study["sampler"],
        "accelmlf.skipped_techniques": skipped,
        "accelmlf.data_digest": seen.data_digest,
    }
    return params, tags | space | others | as_tags(seen.environment)
