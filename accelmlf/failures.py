"""What the failure of one run means for a search of many."""

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
from accelmlf.study import TrialRecord

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


def failure_of(record: TrialRecord) -> AccelmlfError:
    """What a search ends with of whose trials none has finished: the failure of its last."""
    kinds = (MemoryExhaustedError, DivergedError, AccelmlfError)
    kind = next(kind for kind in kinds if kind.outcome in (record.outcome, "failed"))
    rule = f"no trial has finished; this was the last: {record.error or record.outcome}"
    return kind("trial", record.number, rule, "Mend that first")
