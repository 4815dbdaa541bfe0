"""A plan of an ablation as the command line would make it, for tests of what comes of it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from accelmlf.ablation.designs import Arm, Asked
from accelmlf.ablation.factors import ACCUMULATION, settings_of
from accelmlf.ablation.plan import AblationPlan
from accelmlf.ablation.settings import RUNS, AblateConfig
from accelmlf.many_runs.preflight import Preflight
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig

GIVEN: dict[str, Any] = {"save_model": False, "model": "vit", "device": "cpu", "train_images": 100, "epochs": 2}


FACTORS = (ACCUMULATION, "channels_last")


ARMS = ("baseline", *FACTORS, "all")


def plan_of(
    seen: Preflight,
    design: str = "one_at_a_time",
    factors: Sequence[str] = FACTORS,
    repeats: int = 3,
    clash: str | None = None,
    left_out: Sequence[str] = (),
    measure: str = RUNS,
    **given: Any,
) -> AblationPlan:
    """A plan of what is known of a machine already; `repeats` are of whole runs alone."""
    given = GIVEN | given
    config = replace(resolve({**given, "techniques": given.get("techniques", "none")}), device=seen.config.device)
    config = replace(config, arm=resolve(given).arm)
    ablate = AblateConfig(
        factors=None if design == "preset" else ",".join(factors),
        design=design,
        measure=measure,
        repeats=repeats if measure == RUNS else None,
    )
    asked = Asked(
        design=design,
        factors=tuple(factors),
        clash=clash,
        repeats=ablate.num_repeats,
        left_out=tuple(left_out),
        measure=measure,
        precision=ablate.precision,
    )
    configs = {arm.name: resolve({**given, **settings_of(arm, config)}) for arm in asked.as_design().arms}
    return AblationPlan(ablate=ablate, given=given, seen=replace(seen, config=config), asked=asked, configs=configs)


def differing(one: RunConfig, other: RunConfig) -> set[str]:
    texts, others = one.as_texts(), other.as_texts()
    return {name for name in texts if texts[name] != others[name]}


def arm_of(plan: AblationPlan, name: str) -> Arm:
    return next(arm for arm in plan.asked.as_design().arms if arm.name == name)
