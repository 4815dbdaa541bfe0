"""Generations of an ablation in stretches whose truth is known, recorded as the product records them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from accelmlf.ablation.generation import Turns, joined
from accelmlf.ablation.plan import AblationPlan
from accelmlf.ablation.stored import record_generation
from accelmlf.errors import AccelmlfError
from accelmlf.many_runs.warm_run import Ready
from accelmlf.measure.cost import Cost
from accelmlf.tracking.parent_run import ParentRun

IMAGES, IMAGES_PER_EPOCH = 64, 80
SHARES = {"data_wait": 0.1, "forward": 0.3, "backward": 0.5, "optimizer": 0.1}


def turns_of(
    worth: Mapping[str, float],
    *,
    rounds: int = 6,
    noise: float = 0.01,
    process_sd: float = 0.005,
    seed: int = 0,
    failed: Mapping[str, AccelmlfError] | None = None,
    **captured: Any,
) -> Turns:
    """Rounds of arms of which each is so much faster, in logarithms, than an arm that takes 10 ms per picture.

    `failed`: arms that are not there at all. `captured`: as Cost takes it.
    """
    chance, failed = np.random.default_rng(seed), failed or {}
    own = {arm: process_sd * chance.normal() for arm in worth}
    living = [arm for arm in worth if arm not in failed]
    found = []
    for _ in range(rounds):
        turn = {}
        for arm in chance.permutation(living):
            seconds = IMAGES * 0.01 * math.exp(own[arm] - worth[arm] + noise * chance.normal())
            phases = {phase: share * seconds for phase, share in SHARES.items()}
            turn[str(arm)] = Cost(seconds, phases, IMAGES, **captured)
        found.append(turn)
    ready = {arm: Ready(2, 1, IMAGES_PER_EPOCH, 1.0, 0.5, 2**30, 2**33) for arm in living}
    return Turns(ready, list(found), dict(failed), start_s=3.0 * len(living), rounds_s=4.0 * rounds)


def record(parent: ParentRun, plan: AblationPlan, number: int, *turns: Turns) -> None:
    """A generation, as `measure_stretches` leaves it."""
    first = plan.asked.as_design().arms[0].name
    failed = {arm: error for group in turns for arm, error in group.failed.items()}
    record_generation(parent, plan, number, turns, joined([group.reduced() for group in turns], first), failed)
