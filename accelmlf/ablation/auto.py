"""techniques=auto: measure what each technique is worth here, take what is shown faster, together, and say why."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from accelmlf.ablation.ablate import run_ablate
from accelmlf.ablation.break_even import break_even
from accelmlf.ablation.designs import Contrast
from accelmlf.ablation.factors import look_at_factors
from accelmlf.ablation.marks import unfit_for_speeds
from accelmlf.ablation.plan import speed_key
from accelmlf.ablation.result import Ablation
from accelmlf.ablation.settings import ALL, TUNED, AblateConfig
from accelmlf.errors import ConfigError
from accelmlf.machine import isolation
from accelmlf.many_runs.comparison import MIN_REPEATS
from accelmlf.many_runs.preflight import Preflight, look_in_own_process
from accelmlf.many_runs.verdicts import FASTER, UNDECIDED
from accelmlf.settings.recipes import resolve
from accelmlf.settings.technique_list import NONE, TechniqueList
from accelmlf.text import say
from accelmlf.tracking.store import open_store
from accelmlf.tracking.stored_runs import StoredRun
from accelmlf.tracking.tags import CHOICE, CHOICE_REASON, CHOICE_REFUSED, SKIPPED, SPEED_KEY, STUDY_ID
from accelmlf.tracking.tracker import RUN_ID

FIRST_LOOK: dict[str, Any] = {"design": "alone", "precision": 0.05, "budget": 8.0, "least_generations": MIN_REPEATS}
"""Each technique alone: precise enough to see what is worth having."""
SECOND_LOOK: dict[str, Any] = {**FIRST_LOOK, "design": "with_preset", "precision": 0.02}
"""Those that are shown faster, alone and together, beside the recipe's preset."""


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
    if (former := former_choice(seen)) is not None:
        return former
    # The run that MLflow has opened is for the training that follows.
    own_run = os.environ.pop(RUN_ID, None)
    try:
        return measured_choice(base, seen)
    finally:
        if own_run is not None:
            os.environ[RUN_ID] = own_run


def former_choice(seen: Preflight) -> Choice | None:
    """By the latest measurement of the same in this experiment, for as many epochs as now; None where there is none."""
    found = measured_before(speed_key(seen), CHOICE)
    if not found:
        return None
    store, last = open_store(), found[-1]
    ablation = Ablation.of(last, store.runs_of_study(store.own_experiment(), last.tags[STUDY_ID]))
    best = fastest(ablation, seen.config.epochs)
    return Choice(techniques_of(best), f"{in_words(ablation, best)}, measured before (run {last.run_id})")


def measured_before(key: str, tag: str) -> list[StoredRun]:
    """Measurements of the same key that have the tag, the latest last."""
    store = open_store()
    runs = store.read_runs(store.own_experiment(), f"tags.`{SPEED_KEY}` = '{key}'")
    return [run for run in runs if tag in run.tags]


def measured_choice(base: Mapping[str, Any], seen: Preflight) -> Choice:
    """Measured now, in one or two looks."""
    say(
        "techniques=auto: for this model, data and machine each technique is measured once, alone and then what is "
        f"faster together, for {FIRST_LOOK['budget']:g} and {SECOND_LOOK['budget']:g} min at most, or as long as "
        f"{MIN_REPEATS} generations take; later runs begin at once"
    )
    factors = isolation.call(look_at_factors, (ALL,), seen.config).labels
    if not factors:
        return Choice(TechniqueList(), "there is no technique that this device can run")
    # One that supported no claim is not gone on with: what speaks against it stays.
    refused = len(measured_before(speed_key(seen), CHOICE_REFUSED))
    base = {**base, "seed": (seen.config.seed + refused) % 2**32}
    first = measured(AblateConfig(factors=",".join(factors), **FIRST_LOOK), base)
    faster = [contrast.name for contrast in first.design.contrasts if first.is_faster(contrast)]
    if not faster or unfit_for_speeds(first):
        return recorded(first, None)
    second = second_look(faster, base)
    return recorded(second, fastest(second, seen.config.epochs))


def measured(ablate: AblateConfig, base: Mapping[str, Any]) -> Ablation:
    ablation = run_ablate(ablate, base)
    assert ablation is not None  # it is no dry run
    return ablation


def second_look(factors: Sequence[str], base: Mapping[str, Any]) -> Ablation:
    """At factors alone and together, beside the recipe's preset where that can run."""
    ablate = AblateConfig(factors=",".join(factors), **SECOND_LOOK)
    try:
        return measured(ablate, base)
    except ConfigError as error:  # its batch, say, needs more pictures than there are
        say(f"the recipe's preset is not measured beside them: {error}")
        return measured(replace(ablate, design="one_at_a_time"), base)


def fastest(ablation: Ablation, epochs: int) -> Contrast | None:
    """Of the arms that are shown faster than without techniques and pay in a run of so many epochs."""

    def pays(contrast: Contrast) -> bool:
        once = break_even(contrast, ablation.measured, epochs)
        return once is None or once.pays

    def times_as_fast(contrast: Contrast) -> float:
        interval = ablation.judged(contrast)[0].interval
        return interval.mean if interval is not None else 0.0

    own = [contrast for contrast in ablation.design.contrasts if TUNED not in contrast.factors]
    return max((c for c in own if ablation.is_faster(c) and pays(c)), key=times_as_fast, default=None)


def recorded(ablation: Ablation, best: Contrast | None) -> Choice:
    """The choice, kept with the measurement that it stands on; none by a measurement that supports no claim."""
    run_id, place = ablation.parent.run_id, f"measured now (run {ablation.parent.run_id})"
    if against := unfit_for_speeds(ablation):
        open_store().set_tags(run_id, {CHOICE_REFUSED: "; ".join(against)})
        text = f"the measurement supports no claim ({'; '.join(against)}), {place}; the next start measures afresh"
        return Choice(TechniqueList(), text)
    techniques, reason = techniques_of(best), in_words(ablation, best)
    open_store().set_tags(run_id, {CHOICE: str(techniques), CHOICE_REASON: reason})
    return Choice(techniques, f"{reason}, {place}")


def techniques_of(best: Contrast | None) -> TechniqueList:
    return TechniqueList(best.factors if best else ())


def in_words(ablation: Ablation, best: Contrast | None) -> str:
    """Why the best of its arms was chosen, or none."""
    speeds = [ablation.judged(contrast)[0] for contrast in ablation.design.contrasts]
    own = [effect for effect in speeds if TUNED not in effect.contrast.factors]
    if best is None:
        if faster := [effect.contrast.name for effect in own if effect.decision == FASTER]:
            return f"what is shown faster ({', '.join(faster)}) costs more to start than it saves in so few epochs"
        undecided = [effect.contrast.name for effect in own if effect.decision == UNDECIDED]
        return "no technique is shown to be faster" + (f" ({', '.join(undecided)}: not decided)" if undecided else "")
    text = f"{ablation.judged(best)[0].figure} as fast as without"
    beside_preset = [effect for effect in speeds if {*effect.contrast.factors} == {*best.factors, TUNED}]
    if beside_preset:
        lacks = next((run.tags.get(SKIPPED, NONE) for arms in ablation.runs.values() if (run := arms.get(TUNED))), NONE)
        text += f" and {beside_preset[0].figure} as fast as the recipe's preset"
        text += "" if lacks == NONE else f" (without {lacks}, which this device lacks)"
    num_faster = sum(effect.decision == FASTER for effect in own)
    return text + (f", the fastest of {num_faster} arms, so this is on the optimistic side" if num_faster > 1 else "")
