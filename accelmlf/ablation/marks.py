"""Why an ablation supports no claim."""

from collections.abc import Collection

from accelmlf.ablation.result import Ablation
from accelmlf.ablation.settings import RUNS, STEPS, TUNED
from accelmlf.many_runs.claims import TOLERATED, marks_of_group
from accelmlf.many_runs.pooled import simultaneous
from accelmlf.many_runs.verdicts import FASTER, SLOWER


def unfit(ablation: Ablation) -> list[str]:
    """Why the ablation supports no claim; empty where nothing says so.

    What speaks against the recipe's preset alone, where it stands beside what is asked about, is in `unfit_in_words`.
    """
    return _against(ablation, but=[TUNED] if ablation.asked.design == "with_preset" else [])


def _against(ablation: Ablation, *, but: Collection[str]) -> list[str]:
    runs = [run for block in ablation.runs.values() for arm, run in block.items() if arm not in but]
    if ablation.asked.measure == STEPS:
        against = marks_of_group(runs, ablation.num_complete, of="generation", tolerated=TOLERATED)
    else:
        against = marks_of_group(runs, ablation.num_complete)
    if (null := ablation.null_effect) is not None and null.decision in (FASTER, SLOWER):
        by_chance = 100 * (1 - simultaneous(len(ablation.design.contrasts)))
        against.append(
            f"{ablation.design.arms[0].name} against itself is {null.in_words}: the machine was not steady, or this is "
            f"chance, as in {by_chance:.2g} of 100 measurements"
        )
    if failures := ablation.failures:
        kinds = ", ".join(sorted({str(run.outcome).replace("_", " ") for run in failures}))
        against.append(f"{len(failures)} of {ablation.num_planned} runs failed ({kinds})")
    if missing := ablation.num_planned - ablation.num_runs - len(failures):
        against.append(f"{missing} of {ablation.num_planned} runs are missing")
    if ablation.repeated:
        against.append(f"{ablation.repeated} runs failed and were repeated")
    if continued := ablation.blocks_continued:
        against.append(f"cut short and continued later: block {', '.join(map(str, continued))}")
    if len(ablation.looks) > 1:
        looks = ", ".join(ablation.looks) + (" repeats" if ablation.asked.measure == RUNS else "")
        against.append(f"judged more than once, with {looks}, which the verdicts do not allow for")
    return against


def unfit_in_words(ablation: Ablation) -> list[str]:
    """A line on why it supports no claim, and one on why it supports none about the preset beside the others."""
    others = unfit(ablation)
    known = {_kind(mark) for mark in others}
    of_preset = [mark for mark in _against(ablation, but=[]) if _kind(mark) not in known]
    lines = [f"unfit for a claim: {'; '.join(others)}"] if others else []
    return lines + ([f"unfit for a claim about {TUNED}: {'; '.join(of_preset)}"] if of_preset else [])


def _kind(mark: str) -> str:
    """A mark without its figures."""
    return mark.partition(":")[0].partition(" (")[0]
