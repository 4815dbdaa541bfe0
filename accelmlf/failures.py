"""What the failure of one run means for the others of many."""

from collections import Counter

from accelmlf.errors import (
    AccelmlfError,
    ConfigError,
    DataError,
    DeviceError,
    DiskError,
    DivergedError,
    MemoryExhaustedError,
    StudyError,
    TrackingError,
)

MAX_FAILED_IN_A_ROW, MAX_OF_ANY_KIND_IN_A_ROW = 5, 25
"""Points that need too much memory, or diverge, say something about the space: there may be more of them."""


def is_fatal(error: AccelmlfError) -> bool:
    """Whether every other run would end like this one."""
    if isinstance(error, DeviceError):
        return error.setting == "device"
    return isinstance(error, (ConfigError, DataError, TrackingError, DiskError, StudyError))


def too_many(in_a_row: Counter[str]) -> bool:
    """Whether so many runs in a row have failed, counted by outcome, that the next would too."""
    errors = in_a_row["failed"] + in_a_row["interrupted"]
    return errors >= MAX_FAILED_IN_A_ROW or in_a_row.total() >= MAX_OF_ANY_KIND_IN_A_ROW


def failure_of_all(what: str, name: object, outcome: str, error: str | None) -> AccelmlfError:
    """What many runs end with of which none has finished: the failure of the last, a `what` called `name`."""
    kinds = (MemoryExhaustedError, DivergedError, AccelmlfError)
    kind = next(kind for kind in kinds if kind.outcome in (outcome, "failed"))
    rule = f"no {what} has finished; this was the last: {error or outcome}"
    return kind(what, name, rule, "Mend that first")
