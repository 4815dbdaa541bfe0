"""How much a measurement in stretches has measured, why it ended, and how noisy it was."""

import math
import statistics
from collections.abc import Sequence

from accelmlf.ablation.effects import SECONDS_PER_PICTURE
from accelmlf.ablation.result import Ablation
from accelmlf.ablation.rounds import process_variance
from accelmlf.ablation.stored import CARRIED_OVER, CLIPPED, LONG, NUM_ROUNDS, PLAIN, ROUND_VARIANCE, STEPS_PER_STRETCH
from accelmlf.many_runs.comparison import MIN_REPEATS, as_ratio, t_interval
from accelmlf.many_runs.pooled import simultaneous
from accelmlf.many_runs.verdicts import FASTER, SLOWER, decided
from accelmlf.text import counted


def how_measured(ablation: Ablation) -> list[str]:
    """Of a measurement in stretches: how much of it there is, why it ended, and how noisy it was."""
    null = ablation.null_effect
    if null is None or null.interval is None:
        return []
    first = ablation.design.arms[0].name
    of_first = [ablation.measured[first][block] for block in sorted(ablation.measured[first])]
    rounds = [int(found[NUM_ROUNDS]) for found in of_first]
    steps = {arm.name: blocks for arm in ablation.design.arms if (blocks := ablation.measured[arm.name])}
    counts = [int(next(iter(blocks.values()))[STEPS_PER_STRETCH]) for blocks in steps.values()]
    of_stretch = statistics.fmean(found[ROUND_VARIANCE] for found in of_first)
    ended = f", ended by {ablation.stopped_by}" if ablation.stopped_by else ", not ended yet"
    clipped = statistics.fmean(found[CLIPPED] for found in of_first)
    between, variance = "", ablation.generation_variance
    if variance is not None:
        of_process = max(process_variance(variance, of_stretch, rounds), 0.0)
        between = (
            f", an arm from generation to generation by {variance**0.5:.1%}, to which its process contributes "
            f"{of_process**0.5:.1%}"
        )
    return [
        f"{counted(len(rounds), 'generation')} of {len(steps)} fresh processes, {_span(rounds)} rounds each, stretches "
        f"of {_span(counts)} steps{ended}",
        f"noise floor: {first} against itself is {null.figure}; a stretch varies by "
        f"{of_stretch**0.5:.1%}{between}; {clipped:.0%} of the stretches were outliers and count in part",
        *carried_over(ablation),
        *stalls(ablation),
        *long_blocks(ablation),
    ]


def long_blocks(ablation: Ablation) -> list[str]:
    """Contrasts that come out otherwise where each arm trains alone for a while; empty where none did."""
    found = []
    for contrast in ablation.design.contrasts:
        runs = {arm: [run[LONG] for run in ablation.measured[arm].values() if LONG in run] for arm in contrast.weights}
        interval = ablation.judged(contrast)[0].interval
        if not all(runs.values()) or interval is None or interval.low is None or interval.high is None:
            continue
        alone = sum(weight * math.log(runs[arm][-1]) for arm, weight in contrast.weights.items())
        if not interval.low <= alone <= interval.high:
            found.append(
                f"not at its own steady state: where each arm trains alone for a while, {contrast.name} is "
                f"{math.exp(alone):.2f}x, outside of its interval"
            )
    return found


def stalls(ablation: Ablation) -> list[str]:
    """Contrasts that plain means of all stretches would show otherwise: an arm stalls by itself, and more than another.

    The location of an arm leaves out what is far off, which is right where the machine does it.
    """
    found, confidence = [], simultaneous(len(ablation.design.contrasts))
    for contrast in ablation.design.contrasts:
        blocks = set.intersection(*(set(ablation.measured[arm]) for arm in contrast.weights))
        runs = [{arm: ablation.measured[arm][block] for arm in contrast.weights} for block in blocks]
        both = [run for run in runs if all(PLAIN in figures for figures in run.values())]
        if len(both) < MIN_REPEATS:
            continue
        more = [{arm: math.log(of[PLAIN] / of[SECONDS_PER_PICTURE.metric]) for arm, of in run.items()} for run in both]
        sums = [sum(weight * run[arm] for arm, weight in contrast.weights.items()) for run in more]
        interval = t_interval(sums, confidence=confidence)
        if interval.low is not None and decided(interval) in (FASTER, SLOWER):
            found.append(
                f"stalls: by plain means, in which what is far off counts in full, {contrast.name} comes out "
                f"{as_ratio(interval)} as fast as said: one of its arms stalls more than the other"
            )
    return found


def carried_over(ablation: Ablation) -> list[str]:
    """What the arm that leaves most behind does to the stretch after its own; empty where that was not measured."""
    measured = {arm.name: ablation.measured[arm.name].values() for arm in ablation.design.arms}
    values = {arm: [run[CARRIED_OVER] for run in runs if CARRIED_OVER in run] for arm, runs in measured.items()}
    known = {arm: of_arm for arm, of_arm in values.items() if len(of_arm) >= MIN_REPEATS}
    if not known:
        return []
    intervals = {arm: t_interval(found, confidence=simultaneous(len(known))) for arm, found in known.items()}
    most = max(intervals, key=lambda arm: abs(intervals[arm].mean))
    ratio = as_ratio(intervals[most])
    is_shown = ratio.low is not None and ratio.high is not None and not ratio.low <= 1 <= ratio.high
    verdict = (
        "this is shown; each arm follows each as often" if is_shown else "which is not shown to be more than noise"
    )
    return [f"carry-over: after {most} the next stretch takes {ratio} of the time, {verdict}"]


def _span(numbers: Sequence[int]) -> str:
    return f"{min(numbers)}" if len(set(numbers)) == 1 else f"{min(numbers)} to {max(numbers)}"
