"""An ablation in stretches: generations of fresh processes until the intervals are narrow enough, each one recorded.

A process has a speed of its own (where its memory lies, how it was scheduled), so processes that are only held warm
are confidently wrong: what is compared are means over generations. Source: Kalibera and Jones 2013, Rigorous
benchmarking in reasonable time.
"""

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from functools import partial

from tqdm import tqdm

from accelmlf.ablation.designs import Contrast
from accelmlf.ablation.effects import SECONDS_PER_PICTURE, Measured, interval_of
from accelmlf.ablation.generation import TooManyAtOnceError, Turns, groups_of, joined, take_turns
from accelmlf.ablation.live import LiveView
from accelmlf.ablation.pilot import (
    TYPICAL_PROCESS_SD,
    Forecast,
    ceilings_in_words,
    forecast,
    hopeless_in_words,
    in_words,
    look_ahead,
)
from accelmlf.ablation.plan import AblationPlan
from accelmlf.ablation.rounds import process_variance
from accelmlf.ablation.stopping import FAILURES, Limits, Spent, rounds_of_next, stop_reason, time_left_s
from accelmlf.ablation.stored import Kept, kept_generations, record_generation
from accelmlf.errors import AccelmlfError
from accelmlf.machine.presence import MissingCores
from accelmlf.machine.processes import TIMED_RUN, sole_use
from accelmlf.many_runs.child_run import WAIT_FOR_DEVICE_S
from accelmlf.many_runs.comparison import MIN_REPEATS, as_ratio
from accelmlf.many_runs.pooled import PooledTable
from accelmlf.text import counted, say
from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.tracker import MlflowTracker

LONG_BLOCK_S = {"cuda": 60.0}
"""Short stretches in turn share a GPU's temperature and power budget: at the end each arm trains alone for so long."""
LONG_BLOCK_SHARE = 0.25
"""Of the budget, beyond it: what these blocks may take all together."""
TYPICAL_DEGREES = 30
"""What is typical of processes counts, beside what was measured of them, as if it had so many degrees of freedom."""


class Measurement:
    """The generations of one ablation so far, and whether there has to be another one."""

    def __init__(self, plan: AblationPlan, kept: Kept) -> None:
        self.plan, self.design = plan, plan.asked.as_design()
        self.kept, self.fits = kept, len(self.design.arms)
        asked = plan.ablate
        self.limits = Limits(asked.precision, 60.0 * asked.budget, asked.least_generations)

    @property
    def arms(self) -> list[str]:
        """Those that have not failed."""
        return [arm.name for arm in self.design.arms if arm.name not in self.kept.failed]

    @property
    def contrasts(self) -> list[Contrast]:
        """Those none of whose arms has failed."""
        return [c for c in self.design.contrasts if not self.kept.failed.keys() & c.weights.keys()]

    def half_width(self) -> float | None:
        """Of the widest interval of a contrast, of a ratio; None where there is none."""
        return half_width_of(self.contrasts, self.kept.measured, len(self.design.contrasts))

    def stop_reason(self) -> str | None:
        if not self.contrasts:
            return FAILURES
        return stop_reason(self.kept.spent, self.half_width(), self.limits)

    def long_s(self, turns: Turns) -> float:
        """How long each arm trains alone after these rounds, the last of all; 0 where others follow, or on a CPU."""
        kind = self.plan.base.device.partition(":")[0]
        if turns.arms != tuple(self.arms) or kind not in LONG_BLOCK_S:
            return 0.0
        number, (arms, reduced) = self.kept.next_number, turns.reduced()
        found = dict(zip(arms, reduced.locations.tolist(), strict=True))
        measured = {
            arm: {**blocks, number: {SECONDS_PER_PICTURE.metric: math.exp(found[arm])}} if arm in found else blocks
            for arm, blocks in self.kept.measured.items()
        }
        half_width = half_width_of(self.contrasts, measured, len(self.design.contrasts))
        spent = [*self.kept.spent, Spent(turns.start_s, turns.rounds_s, len(turns.rounds))]
        most_s = LONG_BLOCK_SHARE * self.limits.budget_s / len(self.arms)
        return min(LONG_BLOCK_S[kind], most_s) if stop_reason(spent, half_width, self.limits) else 0.0

    def num_rounds(self, start_s: float, round_s: float, groups: int = 1) -> int:
        """Rounds of each of so many groups of arms, one of which took so long."""
        return rounds_of_next(
            groups * start_s, groups * round_s, self.kept.spent, self.variances(), self.limits.budget_s
        )

    def so_far(self, number: int) -> str:
        """After generation `number`: each contrast with its interval, and what is left."""
        count, spent = len(self.design.contrasts), self.kept.spent
        figures = []
        for contrast in (*self.design.contrasts, *filter(None, [self.design.null])):
            interval = interval_of(contrast, SECONDS_PER_PICTURE, self.kept.measured, count)
            figures.append(f"{contrast.name} {as_ratio(interval) if interval else 'failed'}")
        left_s = time_left_s(spent, self.half_width(), self.limits)
        is_over = not spent or self.stop_reason() is not None
        left = "" if is_over else f"; left about {tqdm.format_interval(left_s)}"
        return f"generation {number}: {', '.join(figures)}{left}"

    def forecast(self, start_s: float, round_s: float, num_rounds: int, variances: tuple[float, float]) -> Forecast:
        return forecast(self.design, start_s, round_s, num_rounds, variances, self.limits)

    def variances(self) -> tuple[float, float] | None:
        """Of a stretch within its round, and of what a process has of its own; None before the first generation.

        A few generations say little of processes: theirs counts beside what is typical, by its degrees of freedom.
        """
        kept, table = self.kept, table_of(self.kept.measured, self.arms)
        if not kept.spent:
            return None
        of_round = statistics.fmean(kept.round_variances)
        degrees = (table.num_blocks - 1) * (len(table.arms) - 1)
        if degrees < 1:
            return of_round, TYPICAL_PROCESS_SD**2
        measured = process_variance(table.variance, of_round, [generation.num_rounds for generation in kept.spent])
        own = degrees * measured + TYPICAL_DEGREES * TYPICAL_PROCESS_SD**2
        return of_round, max(own, 0.0) / (degrees + TYPICAL_DEGREES)


def table_of(measured: Measured, arms: Sequence[str]) -> PooledTable:
    """log seconds per picture of arms that were measured, by generation."""
    metric = SECONDS_PER_PICTURE.metric
    values = {arm: {block: math.log(found[metric]) for block, found in measured[arm].items()} for arm in arms}
    return PooledTable.of({arm: of_arm for arm, of_arm in values.items() if of_arm})


def half_width_of(contrasts: Sequence[Contrast], measured: Measured, comparisons: int) -> float | None:
    """Of the widest of the intervals that verdicts are judged by, as a share of the ratio."""
    intervals = [interval_of(contrast, SECONDS_PER_PICTURE, measured, comparisons) for contrast in contrasts]
    ratios = [as_ratio(interval) for interval in intervals if interval is not None]
    widths = [(r.high - r.low) / 2 / r.value for r in ratios if r.low is not None and r.high is not None]
    return max(widths) if len(widths) == len(ratios) and widths else None


def measure_stretches(plan: AblationPlan, parent: ParentRun) -> str:
    """Generation after generation; why no other followed.

    Raises:
        AccelmlfError: what no further process would survive, or the failure of every arm.
    """
    measurement = Measurement(plan, kept_generations(parent, plan))
    weights = MlflowTracker(parent.store).local_weights(plan.base.weights)
    if measurement.kept.spent:
        done = len(measurement.kept.spent)
        say(f"{counted(done, 'generation')} {'is' if done == 1 else 'are'} there already")
    elif measurement.stop_reason() is None:
        with sole_use(plan.seen.device_key, TIMED_RUN, wait_s=WAIT_FOR_DEVICE_S):
            announce_cost(measurement, weights)
    refuse_without_first(measurement)
    while (reason := measurement.stop_reason()) is None:
        number = measurement.kept.next_number
        chance = random.Random(f"{plan.base.seed}/{number}")
        view = LiveView(measurement.design, number, measurement.plan.ablate)
        with sole_use(plan.seen.device_key, TIMED_RUN, wait_s=WAIT_FOR_DEVICE_S):
            turns = one_generation(measurement, weights, chance, view)
        view.close()
        reduced = [turn.reduced() for turn in turns]
        failed = {arm: error for turn in turns for arm, error in turn.failed.items()}
        record_generation(parent, plan, number, turns, joined(reduced, measurement.design.arms[0].name), failed)
        measurement.kept = kept_generations(parent, plan)
        tell_failures(failed)
        say(measurement.so_far(number))
        if failed:  # without them the others may well fit
            measurement.fits = len(measurement.design.arms)
        for arm in measurement.design.arms[:2]:
            if arm.name in failed and len(measurement.kept.spent) < MIN_REPEATS:
                raise failed[arm.name]
    return reason


def refuse_without_first(measurement: Measurement) -> None:
    """Raises AccelmlfError where an earlier start has seen the arm fail that all others are set beside.

    Where there are generations enough from before that, they are judged instead.
    """
    if len(measurement.kept.spent) >= MIN_REPEATS:
        return
    for arm in measurement.design.arms[:2]:
        if (outcome := measurement.kept.failed.get(arm.name)) is not None:
            rule = f"it has failed before ({outcome}), and all others are set beside it"
            raise AccelmlfError("arm", arm.name, rule, "Mend that, and measure afresh with another seed")


def announce_cost(measurement: Measurement, weights: str) -> None:
    """What the measurement will cost, what it can see, and which factors can win next to nothing; from a pilot."""
    plan, design = measurement.plan, measurement.design
    first, arms = plan.configs[design.arms[0].name], len(design.arms)
    pilot = look_ahead(first, weights)
    if note := MissingCores().note("the pilot", pilot.presence):
        say(f"{note}; what the pilot says is rough")
    start_s, round_s = arms * pilot.start_s, arms * pilot.stretch_s
    num_rounds = measurement.num_rounds(start_s, round_s)
    variances = pilot.variance, TYPICAL_PROCESS_SD**2
    say(f"  {in_words(measurement.forecast(start_s, round_s, num_rounds, variances))}")
    say(f"  {ceilings_in_words(pilot)}")
    if design.arms[0].factors:  # what a factor can win is seen where it is off
        return
    steps = max(config.accumulation_steps for config in plan.configs.values())
    for line in hopeless_in_words(pilot.hopeless(plan.asked.factors, steps)):
        say(f"  {line}")


def one_generation(measurement: Measurement, weights: str, chance: random.Random, view: LiveView) -> list[Turns]:
    """All arms that have not failed, as many at once as memory holds."""
    configs = {arm: measurement.plan.configs[arm] for arm in measurement.arms}
    while True:
        groups = groups_of(measurement.arms, measurement.fits)
        try:
            return [
                take_turns(
                    {arm: configs[arm] for arm in group},
                    weights,
                    measurement.kept.steps,
                    chance,
                    partial(measurement.num_rounds, groups=len(groups)),
                    view.round_ended,
                    # Compiled code that is kept is one draw of what a compiler may choose: of one generation not.
                    anew=len(measurement.kept.spent) == 1,
                    long_s=measurement.long_s,
                )
                for group in groups
            ]
        except TooManyAtOnceError as error:
            say(f"memory holds {error.fits} of {len(configs)} arms at once: they are measured in smaller groups")
            measurement.fits = error.fits


def tell_failures(failed: Mapping[str, AccelmlfError]) -> None:
    for arm, error in failed.items():
        say(f"  {arm} is left out from here on, {error.outcome.replace('_', ' ')}: {error}")
