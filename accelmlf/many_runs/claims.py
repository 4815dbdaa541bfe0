"""Whether runs are fit to be claimed from: what their own records say against it."""

import re
from collections.abc import Callable, Sequence

from accelmlf.machine.presence import MAX_MISSING_SHARE
from accelmlf.many_runs.comparison import MIN_REPEATS
from accelmlf.text import counted
from accelmlf.tracking.stored_runs import StoredRun
from accelmlf.tracking.tags import COMMIT, RESUMED_IN_EPOCH, SKIPPED, UNCOMMITTED, UNFIT

Check = Callable[[StoredRun], str | None]
"""What a run's record says against it; None where that is nothing."""


def resumed_in_epoch(run: StoredRun) -> str | None:
    epoch = run.tags.get(RESUMED_IN_EPOCH)
    return None if epoch is None else f"resumed in the middle of epoch {epoch}, which is timed"


def watched_test_set(run: StoredRun) -> str | None:
    return "validation on the test set" if run.settings.get("validation") == "test" else None


def skipped_technique(run: StoredRun) -> str | None:
    skipped = run.tags.get(SKIPPED, "none")
    return None if skipped == "none" else f"technique skipped: {skipped}"


def unexplained_time(run: StoredRun) -> str | None:
    return run.tags.get(UNFIT)


def shared_gpu(run: StoredRun) -> str | None:
    others = int(run.metrics.get("other_gpu_processes", 0))
    return f"{others} other process{'es' * (others != 1)} on the GPU" if others > 0 else None


def missing_cores(run: StoredRun) -> str | None:
    share = run.metrics.get("missing_cores_share", 0.0)
    if share <= MAX_MISSING_SHARE:
        return None
    return f"cores missing: {share:.0%} of the processor time it asked for went to others"


SLOWDOWNS = {0x8: "hardware", 0x20: "heat, by the driver", 0x40: "heat, by the hardware", 0x80: "power brake"}
"""NVML's bits (nvmlClocksEventReasons) for a GPU in trouble. A power cap is none: large GPUs train at theirs."""


def slowed_gpu(run: StoredRun) -> str | None:
    bits = int(run.metrics.get("gpu_throttle_reasons", 0))
    reasons = [reason for bit, reason in SLOWDOWNS.items() if bits & bit]
    return f"GPU slowed down: {', '.join(reasons)}" if reasons else None


def code_not_committed(run: StoredRun) -> str | None:
    if COMMIT not in run.tags:
        return "code without a commit"
    return "code not committed" if run.tags.get(UNCOMMITTED) != "false" else None


RUN_CHECKS: tuple[Check, ...] = (
    resumed_in_epoch,
    watched_test_set,
    skipped_technique,
    unexplained_time,
    shared_gpu,
    missing_cores,
    slowed_gpu,
    code_not_committed,
)


def marks(run: StoredRun) -> list[str]:
    """Why a run is unfit for a claim; empty where nothing says so."""
    return [mark for check in RUN_CHECKS if (mark := check(run)) is not None]


OF_A_MOMENT, TOLERATED = (missing_cores, unexplained_time), 0.1
"""Marks of a disturbance that passes, and the share of many short runs in which it is no more than noise."""


OF_SPEED: tuple[Check, ...] = (unexplained_time, shared_gpu, missing_cores, slowed_gpu)
"""What speaks against the speed of a run, whatever it has learned and from which code."""


def marks_of_group(
    runs: Sequence[StoredRun],
    repeats: int,
    *,
    of: str = "repeat",
    tolerated: float = 0.0,
    checks: Sequence[Check] = RUN_CHECKS,
) -> list[str]:
    """Why runs of one kind, repeated so often, are unfit: each reason once, its worst case, and how many have it.

    `tolerated`: the share of the runs in which a disturbance that passes is no reason, since an interval holds it.
    """
    found = [f"{counted(repeats, of)}, {MIN_REPEATS} are needed"] if repeats < MIN_REPEATS else []
    for check in checks:
        texts = [mark for run in runs if (mark := check(run)) is not None]
        if len(texts) > (tolerated * len(runs) if check in OF_A_MOMENT else 0):
            how_many = "" if len(texts) == len(runs) else f" ({len(texts)} of {len(runs)} runs)"
            found.append(max(texts, key=_numbers) + how_many)
    commits = {run.tags.get(COMMIT) for run in runs} if code_not_committed in checks else {}
    return found + ([f"code of {len(commits)} commits"] if len(commits) > 1 else [])


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]
