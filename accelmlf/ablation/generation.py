"""One generation: every arm in a fresh process, warm, and rounds in which each trains a stretch in random order."""

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import numpy as np

from accelmlf.ablation.effects import MIN_TO_POOL
from accelmlf.ablation.rounds import Generation
from accelmlf.errors import AccelmlfError, MemoryExhaustedError, ProcessKilledError
from accelmlf.many_runs.child_run import is_fatal
from accelmlf.many_runs.warm_run import Ready, WarmRun, warm_run
from accelmlf.measure.cost import Cost
from accelmlf.settings.run import RunConfig

MEMORY_SHARE = 0.8
"""Of free memory that warm runs may fill together."""

Round = Mapping[str, Cost]
"""Arm -> what its stretch has cost, in the order in which they were trained."""


class TooManyAtOnceError(MemoryExhaustedError):
    """Memory holds only `fits` of the arms."""

    def __init__(self, fits: int) -> None:
        rule, remedy = f"memory holds {fits} of the arms at once", "Use a smaller batch_size"
        super().__init__("factors", fits, rule, remedy)
        self.fits = fits


@dataclass
class Turns:
    """What some arms that were held warm together have measured."""

    ready: dict[str, Ready] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    failed: dict[str, AccelmlfError] = field(default_factory=dict)
    start_s: float = 0.0
    rounds_s: float = 0.0
    long_blocks: dict[str, Cost] = field(default_factory=dict)
    """Arm -> what it has cost alone for a while, after the last round of all."""

    @property
    def arms(self) -> tuple[str, ...]:
        """Those that have not failed."""
        return tuple(arm for arm in self.ready if arm not in self.failed)

    def reduced(self) -> tuple[tuple[str, ...], Generation]:
        """The arms that have not failed, and what their rounds say of them."""
        seconds = [[turn[arm].train_s / turn[arm].images for arm in self.arms] for turn in self.rounds]
        return self.arms, Generation.of(np.array(seconds))

    def place(self, arm: str, number: int) -> int:
        """Of an arm's stretch in a round, from 0."""
        return list(self.rounds[number]).index(arm)

    def carried_over(self) -> dict[str, float]:
        """Arm -> how much slower, in logarithms, the stretches after its own were; of two arms there is no telling."""
        arms, reduced = self.reduced()
        if len(arms) < MIN_TO_POOL or not self.rounds:
            return {}
        places = [[self.place(arm, number) for arm in arms] for number in range(len(self.rounds))]
        found = zip(arms, reduced.carried_over(np.array(places)).tolist(), strict=True)
        return {arm: value for arm, value in found if not math.isnan(value)}


def take_turns(
    configs: Mapping[str, RunConfig],
    weights: str,
    steps: Mapping[str, int],
    chance: random.Random,
    num_rounds: Callable[[float, float], int],
    watch: Callable[[Turns, int], None],
    *,
    anew: bool = False,
    long_s: Callable[[Turns], float] = lambda _: 0.0,
) -> Turns:
    """Start and warm up a process for each arm, and let all of them train stretches in turn, round after round.

    `steps`: of the stretches of arms that have been measured before. `num_rounds` is asked with what the start and the
    first round took; `watch` after each round, with how many there will be. `anew`: without what earlier processes have
    kept. `long_s` is asked after the last round for how long each arm trains alone, if at all.

    Raises:
        TooManyAtOnceError: memory does not hold all of them.
        AccelmlfError: a failure that every arm would share, or a process that was killed.
    """
    turns, runs = Turns(), dict[str, WarmRun]()
    with ExitStack() as held:
        started_s = time.perf_counter()
        for arm in chance.sample(list(configs), len(configs)):
            try:
                runs[arm] = held.enter_context(warm_run(configs[arm], weights, steps.get(arm), anew=anew))
            except AccelmlfError as error:
                if runs and isinstance(error, MemoryExhaustedError):  # the others have it
                    raise TooManyAtOnceError(len(runs)) from None
                turns.failed[arm] = own_failure(error)
                continue
            turns.ready[arm] = ready = runs[arm].ready
            fits = 1 + int(MEMORY_SHARE * ready.free_bytes / max(ready.memory_bytes, 1))
            if len(runs) == 1 and fits < len(configs):
                raise TooManyAtOnceError(fits)
        turns.start_s = time.perf_counter() - started_s
        started_s, wanted = time.perf_counter(), 1
        while runs and len(turns.rounds) < wanted:
            turns.rounds.append(one_round(runs, chance, turns))
            turns.rounds_s = time.perf_counter() - started_s
            wanted = wanted if len(turns.rounds) > 1 else num_rounds(turns.start_s, turns.rounds_s)
            watch(turns, wanted)
        if runs and (seconds := long_s(turns)):
            for arm in chance.sample(list(runs), len(runs)):
                with suppress(AccelmlfError):  # what it has measured before stands
                    turns.long_blocks[arm] = runs[arm].long_block(seconds)
    return turns


def one_round(runs: dict[str, WarmRun], chance: random.Random, turns: Turns) -> Round:
    """A stretch of every run, in random order; a run that fails leaves."""
    costs: dict[str, Cost] = {}
    for arm in chance.sample(list(runs), len(runs)):
        try:
            costs[arm] = runs[arm].stretch()
        except AccelmlfError as error:
            turns.failed[arm] = own_failure(error)
            del runs[arm]
    return costs


def own_failure(error: AccelmlfError) -> AccelmlfError:
    """The failure of one arm, which says nothing of the others; raises any other."""
    if isinstance(error, ProcessKilledError) or is_fatal(error):
        raise error
    return error


def groups_of(arms: Sequence[str], fits: int) -> list[tuple[str, ...]]:
    """The arms as they can be held at once: all; or each beside the first; or each alone."""
    if fits >= len(arms):
        return [tuple(arms)]
    first, *others = arms
    return [(first, other) for other in others] if fits > 1 else [(arm,) for arm in arms]


def joined(groups: Sequence[tuple[tuple[str, ...], Generation]], first: str) -> dict[str, float]:
    """log seconds per picture of each arm, from all groups; beside the `first` one where it was held with it."""
    found: dict[str, float] = {}
    of_first = [float(g.locations[arms.index(first)]) for arms, g in groups if first in arms]
    level = float(np.mean(of_first)) if of_first else 0.0
    for arms, generation in groups:
        shift = level - float(generation.locations[arms.index(first)]) if first in arms else 0.0
        found |= {arm: float(x) + shift for arm, x in zip(arms, generation.locations, strict=True)}
    return found
