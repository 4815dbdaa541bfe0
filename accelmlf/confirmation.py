"""The search's best points and the recipe's own setting once more, with fresh seeds: a search picks lucky seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from accelmlf.comparison import CONFIDENCE, Ratio, block_orders, paired_ratio
from accelmlf.errors import AccelmlfError, Interrupted
from accelmlf.family import Family
from accelmlf.isolation import TimedRun
from accelmlf.records import EpochMetrics, RunSummary
from accelmlf.search import is_fatal
from accelmlf.search_console import SearchConsole
from accelmlf.study import TrialRecord
from accelmlf.tuning import Point, Protocol, in_words

CONFIRMATION = "confirmation"
NUM_BEST = 3


@dataclass
class Arm:
    """A point that is confirmed. Of each seed its time to the target (None: missed) and its test accuracy then."""

    point: Point
    is_recipe: bool
    times_s: dict[int, float | None] = field(default_factory=dict)
    test_accuracies: dict[int, float] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    """The outcome of a seed that ended with an error, which counts as a miss."""

    @property
    def name(self) -> str:
        return in_words(self.point) + (" (the recipe's own)" if self.is_recipe else "")

    @property
    def reached_s(self) -> list[float]:
        return [seconds for seconds in self.times_s.values() if seconds is not None]

    @property
    def always_reached(self) -> bool:
        return bool(self.times_s) and len(self.reached_s) == len(self.times_s)

    @property
    def mean_s(self) -> float | None:
        """Geometric mean; None with any miss, because a miss is no number."""
        return statistics.geometric_mean(self.reached_s) if self.always_reached else None

    def speedup_over(self, other: "Arm", *, confidence: float = CONFIDENCE) -> Ratio | None:
        """How many times sooner than `other` the target is reached, paired by seed; None with any miss."""
        if not (self.always_reached and other.always_reached and self.times_s.keys() == other.times_s.keys()):
            return None
        seeds = sorted(self.times_s)
        times = ([arm.times_s[seed] or 0.0 for seed in seeds] for arm in (other, self))
        return paired_ratio(*times, confidence=confidence)


@dataclass(frozen=True)
class Confirmation:
    """The arms, best first, the recipe's own among them."""

    arms: list[Arm]

    @property
    def winner(self) -> Arm:
        return self.arms[0]

    @property
    def recipe(self) -> Arm:
        return next(arm for arm in self.arms if arm.is_recipe)

    @property
    def is_faster(self) -> bool:
        """Whether the winner beats the recipe, the choice among several candidates paid for (Bonferroni, Holm's
        first step): the best of three that are no better than the recipe would pass at 95 % twice as often.
        """
        candidates = len(self.arms) - 1
        if self.winner.is_recipe or not candidates:
            return False
        ratio = self.winner.speedup_over(self.recipe, confidence=1 - (1 - CONFIDENCE) / candidates)
        return ratio is not None and ratio.low is not None and ratio.low > 1


def best_points(records: Sequence[TrialRecord]) -> list[Point]:
    """Of the trials that reached the target the soonest, at most three."""
    winners = [r for r in records if r.time_to_accuracy_s is not None and r.point is not None]
    winners.sort(key=lambda r: r.time_to_accuracy_s or math.inf)
    return [r.point for r in winners[:NUM_BEST] if r.point is not None]


def confirm(protocol: Protocol, records: Sequence[TrialRecord], family: Family, console: SearchConsole) -> Confirmation:
    """Blocks of one repeat of every arm, in random order within a block; finished runs of a killed search are kept."""
    own = protocol.space.point_of(protocol.base)
    arms = [Arm(point, point == own) for point in best_points(records)]
    arms += [] if any(arm.is_recipe for arm in arms) else [Arm(own, is_recipe=True)]
    kept = {(tags["accelmlf.point"], int(tags["accelmlf.config.seed"])): (tags, metrics)
            for tags, metrics in family.children(CONFIRMATION)
            if tags["accelmlf.outcome"] in ("completed", "target_not_reached")}  # fmt: skip
    repeats = protocol.tune.confirm_repeats
    num_epochs = protocol.base.epochs
    console.say(f"\nconfirmation: {len(arms)} settings x {repeats} fresh seed{'s' * (repeats > 1)}, interleaved")
    for block, order in enumerate(block_orders(range(len(arms)), repeats, protocol.base.seed)):
        seed = protocol.base.seed + 1 + block
        for arm in (arms[index] for index in order):
            if (found := kept.get((in_words(arm.point), seed))) is not None:
                _, metrics = found
                arm.times_s[seed] = metrics.get("time_to_accuracy_s")
                arm.test_accuracies[seed] = metrics["final_accuracy"]
            else:
                number = sum(len(other.times_s) for other in arms) + 1
                console.begins(f"confirmation {number} of {len(arms) * repeats}, seed {seed}", arm.point, num_epochs)
                run_once(protocol, arm, seed, family, console)
                console.stop()
    arms.sort(key=lambda arm: (-len(arm.reached_s), arm.mean_s or math.inf))
    return Confirmation(arms)


def run_once(protocol: Protocol, arm: Arm, seed: int, family: Family, console: SearchConsole) -> None:
    """One repeat of one arm, the test set read at its end."""
    config = protocol.config_of(None if arm.is_recipe else arm.point, seed=seed)
    tags = {"accelmlf.point": in_words(arm.point)}
    run_id = family.start_child(f"confirmation, seed {seed}: {arm.name}", CONFIRMATION, tags)

    def watch(epoch: EpochMetrics) -> None:
        console.epoch(epoch)

    try:
        summary = TimedRun(config, run_id, protocol.device_key, read_test=True).train(watch)
    except (AccelmlfError, Interrupted) as error:
        family.end_child(run_id, error.outcome, str(error))
        if isinstance(error, Interrupted) or is_fatal(error):
            raise
        arm.times_s[seed], arm.failures[seed] = None, error.outcome
        console.say(f"  {error.outcome.replace('_', ' ')}: {error}")
        return
    family.end_child(run_id, summary.outcome)
    arm.times_s[seed] = summary.time_to_accuracy_s
    if summary.test is not None:
        arm.test_accuracies[seed] = summary.test.accuracy
    console.say(f"  {described(summary)}")


def described(summary: RunSummary) -> str:
    reached = summary.time_to_accuracy_s
    target = "target not reached" if reached is None else f"target after {reached:.1f} s of training"
    return target if summary.test is None else f"{target}, test accuracy {summary.test.accuracy:.4f}"
