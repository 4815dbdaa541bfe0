"""What every run of a search has in common, and what its study is about."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from accelmlf.many_runs.opened import labels_of_parent
from accelmlf.many_runs.preflight import Preflight, common_facts, digest_of
from accelmlf.search import storage
from accelmlf.search.settings import SET_BY_SEARCH, TuneConfig
from accelmlf.search.space import Point, SearchSpace
from accelmlf.settings.fields import as_text
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig
from accelmlf.techniques.stack import labels_of
from accelmlf.tracking.tags import SAMPLER, SKIPPED, SPACE, under


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


def study_facts(seen: Preflight, space: SearchSpace) -> dict[str, str]:
    """What the trials of one study have in common, and the space of what they have not."""
    searched = {*SET_BY_SEARCH, *space.names, *(("techniques",) if space.technique_sets else ())}
    return common_facts(seen, without=searched) | under("space.", space.as_texts())


def default_name(seen: Preflight, facts: Mapping[str, str]) -> str:
    """The same for the same facts, so that the same command goes on with its study and another one starts its own."""
    return f"{seen.config.model}-{seen.config.dataset}-{digest_of(facts)[:8]}"


def labels(plan: Plan, seen: Preflight, study: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Parameters and tags of the parent run."""
    asked = {f.name: as_text(getattr(plan.tune, f.name)) for f in fields(TuneConfig)}
    asked |= {
        name: as_text(plan.space.choices[key]) for key, name in SET_BY_SEARCH.items() if key in plan.space.choices
    }
    asked |= {"study_name": study["name"], "storage": storage.shown(study["storage"])}
    params, tags = labels_of_parent(seen, asked, SET_BY_SEARCH)
    own = {SAMPLER: study["sampler"], SKIPPED: str(labels_of(seen.skipped))}
    return params, tags | own | under(SPACE, plan.space.as_texts())
