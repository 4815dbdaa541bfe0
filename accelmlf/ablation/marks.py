"""Why an ablation supports no claim."""

import re
from collections.abc import Collection, Sequence

from accelmlf.ablation.result import Ablation
from accelmlf.ablation.settings import RUNS, STEPS, TUNED
from accelmlf.many_runs.claims import OF_SPEED, RUN_CHECKS, TOLERATED, Check, marks_of_group
from accelmlf.many_runs.pooled import simultaneous
from accelmlf.many_runs.verdicts import FASTER, SLOWER
from accelmlf.tracking.tags import ARM


def unfit(ablation: Ablation) -> list[str]:
    """Why the ablation supports no claim; empty where nothing says so.

    What speaks against the recipe's preset alone, where it stands beside what is asked about, is in `unfit_in_words`.
    """
    return _against(ablation, but=_beside(ablation))


def unfit_for_speeds(ablation: Ablation) -> list[str]:
    """Why the speeds of its arms support no claim: not what they have learned, nor arms that failed and have none."""
    return _measured_badly(ablation, _beside(ablation), OF_SPEED)


def unfit_in_words(ablation: Ablation) -> list[str]:
    """A line on why it supports no claim, and one on why it supports none about the preset beside the others."""
    others = unfit(ablation)
    known = {_kind(mark) for mark in others}
    of_preset = [mark for mark in _against(ablation, but=()) if _kind(mark) not in known]
    lines = [f"unfit for a claim: {'; '.join(others)}"] if others else []
    return lines + ([f"unfit for a claim about {TUNED}: {'; '.join(of_preset)}"] if of_preset else [])


def _beside(ablation: Ablation) -> Collection[str]:
    """Arms that are not what is asked about."""
    return (TUNED,) if ablation.asked.design == "with_preset" else ()


def _against(ablation: Ablation, *, but: Collection[str]) -> list[str]:
    return _measured_badly(ablation, but, RUN_CHECKS) + _not_whole(ablation, but)


def _measured_badly(ablation: Ablation, but: Collection[str], checks: Sequence[Check]) -> list[str]:
    """Of arms beside those in `but`: what their runs say against themselves, and all of them together."""
    runs = [run for block in ablation.runs.values() for arm, run in block.items() if arm not in but]
    of, tolerated = ("generation", TOLERATED) if ablation.asked.measure == STEPS else ("repeat", 0.0)
    against = marks_of_group(runs, ablation.num_complete, of=of, tolerated=tolerated, checks=checks)
    if (null := ablation.null_effect) is not None and null.decision in (FASTER, SLOWER):
        by_chance = 100 * (1 - simultaneous(len(ablation.design.contrasts)))
        against.append(
            f"{ablation.design.arms[0].name} against itself is {null.in_words}: the machine was not steady, or this is "
            f"chance, as in {by_chance:.2g} of 100 measurements"
        )
    if len(ablation.looks) > 1:
        looks = ", ".join(ablation.looks) + (" repeats" if ablation.asked.measure == RUNS else "")
        against.append(f"judged more than once, with {looks}, which the verdicts do not allow for")
    return against


def _not_whole(ablation: Ablation, but: Collection[str]) -> list[str]:
    """What is not there of what was asked for, or was made good later; failures of arms in `but` are not counted."""
    against = []
    failures = [run for run in ablation.failures if run.tags[ARM] not in but]
    if failures:
        kinds = ", ".join(sorted({str(run.outcome).replace("_", " ") for run in failures}))
        against.append(f"{len(failures)} of {ablation.num_planned} runs failed ({kinds})")
    if missing := ablation.num_planned - ablation.num_runs - len(ablation.failures):
        against.append(f"{missing} of {ablation.num_planned} runs are missing")
    if ablation.repeated:
        against.append(f"{ablation.repeated} runs failed and were repeated")
    if continued := ablation.blocks_continued:
        against.append(f"cut short and continued later: block {', '.join(map(str, continued))}")
    return against


def _kind(mark: str) -> str:
    """A mark without its figures."""
    return re.sub(r"\d+", "", mark).partition(":")[0].partition(" (")[0]
