"""The search's best points and the recipe's own setting once more, with fresh seeds: a search picks lucky seeds."""

import math
import statistics
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from accelmlf.errors import AccelmlfError
from accelmlf.machine.processes import is_of_this_machine
from accelmlf.many_runs.child_run import Child, run_child
from accelmlf.many_runs.comparison import Interval, Ratio, as_ratio, block_orders
from accelmlf.many_runs.console import left_in_words
from accelmlf.many_runs.pooled import PooledTable, simultaneous
from accelmlf.many_runs.verdicts import SPEED_VERDICTS, decided, supports_verdict
from accelmlf.search.console import SearchConsole
from accelmlf.search.plan import Plan
from accelmlf.search.space import Point, in_words
from accelmlf.search.trials import TrialRecord
from accelmlf.text import counted
from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.tags import BLOCK, CONFIRMATION, OWNER, POINT

NUM_BEST = 3


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One run of a candidate. A time that is None was a miss, or, with `failure`, an error, which counts as one."""

    time_s: float | None = None
    wall_s: float | None = None
    """From the start of its process to the target, with set-up, warm-up and validation."""
    warmup_s: float | None = None
    test_accuracy: float | None = None
    failure: str | None = None

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, float]) -> "Repeat":
        """What a finished run has logged."""
        names = {
            "time_s": "time_to_accuracy_s",
            "wall_s": "time_to_accuracy_wall_s",
            "warmup_s": "warmup_s",
            "test_accuracy": "final_accuracy",
        }
        return cls(**{field: metrics.get(name) for field, name in names.items()})  # type: ignore[arg-type]


@dataclass
class Candidate:
    """A point that is confirmed, and its repeats by seed."""

    point: Point
    is_recipe: bool
    repeats: dict[int, Repeat] = field(default_factory=dict)

    def note(self, seed: int, repeat: Repeat) -> None:
        self.repeats[seed] = repeat

    @property
    def name(self) -> str:
        return in_words(self.point) + (" (the recipe's own)" if self.is_recipe else "")

    @property
    def reached_s(self) -> list[float]:
        return [repeat.time_s for repeat in self.repeats.values() if repeat.time_s is not None]

    @property
    def always_reached(self) -> bool:
        return bool(self.repeats) and len(self.reached_s) == len(self.repeats)

    @property
    def mean_s(self) -> float | None:
        """Geometric mean; None with any miss, because a miss is no number."""
        return statistics.geometric_mean(self.reached_s) if self.always_reached else None

    @property
    def mean_wall_s(self) -> float | None:
        """Geometric mean of the wall-clock times to the target; None with any miss."""
        walls = [repeat.wall_s for repeat in self.repeats.values() if repeat.wall_s is not None]
        return statistics.geometric_mean(walls) if walls and len(walls) == len(self.repeats) else None


@dataclass(frozen=True)
class Confirmation:
    """The arms, best first, the recipe's own among them."""

    arms: list[Candidate]

    @property
    def winner(self) -> Candidate:
        return self.arms[0]

    @property
    def recipe(self) -> Candidate:
        return next(arm for arm in self.arms if arm.is_recipe)

    @property
    def soonest_on_the_wall(self) -> Candidate | None:
        """Where set-up, warm-up and validation count, too."""
        timed = [arm for arm in self.arms if arm.mean_wall_s is not None]
        return min(timed, key=lambda arm: arm.mean_wall_s or 0.0, default=None)

    @property
    def num_candidates(self) -> int:
        """The arms beside the recipe's own, also those that missed the target: the winner was chosen among all."""
        return len(self.arms) - 1

    def speedup(self, arm: Candidate) -> Ratio | None:
        """How many times sooner than by the recipe the target is reached; None where either missed it.

        The intervals of all candidates hold together in 95 % of confirmations.
        """
        interval = self._log_speedup(arm)
        return None if interval is None else as_ratio(interval)

    def verdict(self, arm: Candidate) -> str | None:
        """What the interval of the speed-up shows, in one of four words; None where there is too little for any."""
        interval = self._log_speedup(arm)
        return SPEED_VERDICTS[decided(interval)] if interval is not None and supports_verdict(interval) else None

    def _log_speedup(self, arm: Candidate) -> Interval | None:
        if arm.is_recipe or not (arm.always_reached and self.recipe.always_reached):
            return None
        reached = [each for each in self.arms if each.always_reached]
        table = PooledTable.of({a.name: {s: math.log(r.time_s or 0.0) for s, r in a.repeats.items()} for a in reached})
        weights = {self.recipe.name: 1.0, arm.name: -1.0}
        return table.interval(weights, confidence=simultaneous(self.num_candidates)) if table.num_blocks else None


def best_points(records: Sequence[TrialRecord]) -> list[Point]:
    """Of the trials that reached the target the soonest, at most three."""
    winners = [r for r in records if r.time_to_accuracy_s is not None and r.point is not None]
    winners.sort(key=lambda r: r.time_to_accuracy_s or math.inf)
    return [r.point for r in winners[:NUM_BEST] if r.point is not None]


def confirm(plan: Plan, records: Sequence[TrialRecord], parent: ParentRun, console: SearchConsole) -> Confirmation:
    """Blocks of one repeat of every candidate, in random order within a block.

    A block that an earlier start has completed on this machine is kept. Of one that was cut short nothing is: what is
    compared has to be measured side by side.
    """
    own = plan.space.point_of(plan.base)
    arms = [Candidate(point, point == own) for point in best_points(records)]
    arms += [] if any(arm.is_recipe for arm in arms) else [Candidate(own, is_recipe=True)]
    repeats, started_s, num_run = plan.tune.confirm_repeats, time.monotonic(), 0
    seeds = [(plan.base.seed + 1 + block) % 2**32 for block in range(repeats)]
    kept = complete_blocks(arms, parent)
    missing = sum(seed not in kept for seed in seeds) * len(arms)
    what = f"{counted(len(arms), 'setting')} x {counted(repeats, 'fresh seed')}"
    done = (
        f", {len(seeds) - missing // len(arms)} of {repeats} blocks done already" if kept else ", interleaved in blocks"
    )
    console.say(f"\nconfirmation: {what}{done}")
    if missing and any(parent.children(CONFIRMATION)):
        console.say("earlier confirming runs that were cut short, or had other settings beside them, are not used")
    for seed, order in zip(seeds, block_orders(range(len(arms)), repeats, plan.base.seed), strict=True):
        block = uuid.uuid4().hex
        for arm in (arms[index] for index in order):
            if seed in kept:
                arm.note(seed, kept[seed][in_words(arm.point)])
                continue
            left = left_in_words(started_s, num_run, missing)
            name = f"confirmation {num_run + 1} of {missing}, seed {seed}"
            console.begins(name, in_words(arm.point), plan.base.epochs, left)
            arm.note(seed, run_once(plan, arm, seed, block, parent, console))
            console.stop()
            num_run += 1
    arms.sort(key=lambda arm: (-len(arm.reached_s), arm.mean_s or math.inf))
    return Confirmation(arms)


def complete_blocks(arms: Sequence[Candidate], parent: ParentRun) -> dict[int, dict[str, Repeat]]:
    """For each seed the repeats, by point, of a block that has all `arms` and was run on this machine."""
    blocks: dict[tuple[str, int], dict[str, Repeat]] = {}
    for run in parent.children(CONFIRMATION):
        if run.has_ended_well and is_of_this_machine(run.tags[OWNER]):
            key = run.tags[BLOCK], int(run.settings["seed"])
            blocks.setdefault(key, {})[run.tags[POINT]] = Repeat.from_metrics(run.metrics)
    wanted = {in_words(arm.point) for arm in arms}
    return {seed: repeats for (_, seed), repeats in blocks.items() if wanted <= repeats.keys()}


def run_once(plan: Plan, arm: Candidate, seed: int, block: str, parent: ParentRun, console: SearchConsole) -> Repeat:
    """One repeat of one candidate, the test set read at its end."""
    config = plan.config_of(None if arm.is_recipe else arm.point, seed=seed)
    tags = {POINT: in_words(arm.point), BLOCK: block}
    child = Child(f"confirmation, seed {seed}: {arm.name}", CONFIRMATION, tags)
    ended = run_child(child, config, plan.device_key, parent, console)
    if isinstance(ended, AccelmlfError):
        return Repeat(failure=ended.outcome)
    return Repeat.from_metrics(ended.as_metrics())
