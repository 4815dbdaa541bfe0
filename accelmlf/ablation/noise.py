"""How much a measurement in stretches has measured, why it ended, and how noisy it was."""

import statistics
from collections.abc import Sequence

from accelmlf.ablation.result import Ablation
from accelmlf.ablation.stored import CLIPPED, NUM_ROUNDS, ROUND_VARIANCE, STEPS_PER_STRETCH
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
        of_process = max(variance - of_stretch * statistics.fmean(1 / number for number in rounds), 0.0)
        between = (
            f", the speed of an arm from generation to generation by {variance**0.5:.1%}, of which its process is "
            f"{of_process**0.5:.1%}"
        )
    return [
        f"{counted(len(rounds), 'generation')} of {len(steps)} fresh processes, {_span(rounds)} rounds each, stretches "
        f"of {_span(counts)} steps{ended}",
        f"noise floor: {first} against itself is {null.figure}; the speed of a stretch varies by "
        f"{of_stretch**0.5:.1%}{between}; {clipped:.0%} of the stretches were so far off that they count as nearer",
    ]


def _span(numbers: Sequence[int]) -> str:
    return f"{min(numbers)}" if len(set(numbers)) == 1 else f"{min(numbers)} to {max(numbers)}"
