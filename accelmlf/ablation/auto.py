"""techniques=auto: measure what each technique is worth here, take what is shown faster, together, and say why."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelmlf.ablation import tables
from accelmlf.ablation.ablate import run_ablate
from accelmlf.ablation.effects import Effect
from accelmlf.ablation.factors import look_at_factors
from accelmlf.ablation.plan import speed_key
from accelmlf.ablation.result import Ablation
from accelmlf.ablation.settings import ALL, TUNED, AblateConfig
from accelmlf.machine import isolation
from accelmlf.many_runs.preflight import Preflight, look_in_own_process
from accelmlf.many_runs.verdicts import FASTER, SPEED_VERDICTS
from accelmlf.settings.recipes import resolve
from accelmlf.settings.technique_list import TechniqueList
from accelmlf.text import say
from accelmlf.tracking.store import open_store
from accelmlf.tracking.tags import CHOICE, CHOICE_REASON, SPEED_KEY
from accelmlf.tracking.tracker import RUN_ID

FIRST_LOOK: dict[str, Any] = {"design": "alone", "precision": 0.05, "budget": 8.0}
"""Each technique alone: precise enough to see what is worth having."""
SECOND_LOOK: dict[str, Any] = {"design": "with_preset", "precision": 0.02, "budget": 8.0}
"""Those that are shown faster, alone and together, beside the recipe's preset."""


OF_CODE = ("code not committed", "code without a commit")
"""Marks that say nothing against the speed of a technique."""


@dataclass(frozen=True)
class Choice:
    """Techniques that were chosen by a measurement."""

    techniques: TechniqueList
    reason: str
    """What was measured, and where it is recorded."""


def choose(given: Mapping[str, Any]) -> Choice:
    """The techniques for a run of these settings: by a former measurement of the same, or by one that is made now.

    Raises:
        AccelmlfError: what ends the measurement.
    """
    wanted = resolve(given)
    base = {name: value for name, value in given.items() if name not in ("techniques", "tuned")}
    if wanted.tuned:  # the batch of the preset, with other techniques
        base |= {"batch_size": wanted.batch_size, "accumulation_steps": wanted.accumulation_steps}
    seen = look_in_own_process(resolve(base), False)
    if (former := former_choice(speed_key(seen))) is not None:
        return former
    # The run that MLflow has opened is for the training that follows.
    own_run = os.environ.pop(RUN_ID, None)
    try:
        return measured_choice(base, seen)
    finally:
        if own_run is not None:
            os.environ[RUN_ID] = own_run


def former_choice(key: str) -> Choice | None:
    """The latest of the same key in this experiment; None where there is none."""
    store = open_store()
    runs = store.read_runs(store.own_experiment(), f"tags.`{SPEED_KEY}` = '{key}'")
    found = next((run for run in reversed(runs) if CHOICE in run.tags), None)
    if found is None:
        return None
    text = f"{found.tags[CHOICE_REASON]}, measured before (run {found.run_id})"
    return Choice(TechniqueList.parse(found.tags[CHOICE]), text)


def measured_choice(base: Mapping[str, Any], seen: Preflight) -> Choice:
    """Measured now, in one or two looks."""
    say("techniques=auto: each technique is measured once for this model, data and machine; later runs begin at once")
    factors = candidates(seen)
    if not factors:
        return Choice(TechniqueList(), "there is no technique that this device can run")
    first = measured(AblateConfig(factors=",".join(factors), **FIRST_LOOK), base)
    faster = [effect.contrast.name for effect in speeds(first) if is_faster(effect)]
    if not faster:
        return recorded(first, TechniqueList(), "no technique is shown to be faster")
    second = measured(AblateConfig(factors=",".join(faster), **SECOND_LOOK), base)
    arms = [effect for effect in speeds(second) if is_faster(effect) and TUNED not in effect.contrast.factors]
    if not arms:
        return recorded(second, TechniqueList(), "no technique is shown to be faster")
    best = max(arms, key=lambda effect: effect.interval.mean if effect.interval else 0.0)
    of_several = f", the fastest of {len(arms)} arms, so this is on the optimistic side" if len(arms) > 1 else ""
    return recorded(second, TechniqueList(best.contrast.factors), f"{best.figure} as fast as without{of_several}")


def candidates(seen: Preflight) -> list[str]:
    """The techniques that this device can run, but not `compile` on a CPU, whose processes take minutes to start."""
    found = isolation.call(look_at_factors, (ALL,), seen.config).labels
    return [label for label in found if not (label.startswith("compile") and seen.config.device == "cpu")]


def measured(ablate: AblateConfig, base: Mapping[str, Any]) -> Ablation:
    ablation = run_ablate(ablate, base)
    assert ablation is not None  # it is no dry run
    return ablation


def speeds(ablation: Ablation) -> list[Effect]:
    return [ablation.judged(contrast)[0] for contrast in ablation.design.contrasts]


def is_faster(effect: Effect) -> bool:
    return effect.verdict == SPEED_VERDICTS[FASTER]


def recorded(ablation: Ablation, techniques: TechniqueList, reason: str) -> Choice:
    """The choice, kept with the measurement that it stands on; none by a measurement that supports no claim."""
    place = f"measured now (run {ablation.parent.run_id})"
    if against := [mark for mark in tables.unfit(ablation) if mark not in OF_CODE]:
        return Choice(TechniqueList(), f"the measurement supports no claim ({'; '.join(against)}), {place}")
    open_store().set_tags(ablation.parent.run_id, {CHOICE: str(techniques), CHOICE_REASON: reason})
    return Choice(techniques, f"{reason}, {place}")
