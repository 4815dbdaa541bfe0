"""Which failure ends a search, how many in a row do, and with what a search ends that came to nothing."""

from collections import Counter

import pytest

from accelmlf import errors
from accelmlf.errors import AccelmlfError, one_line
from accelmlf.many_runs.child_run import (
    MAX_FAILED_IN_A_ROW,
    MAX_OF_ANY_KIND_IN_A_ROW,
    failure_of_all,
    is_fatal,
    too_many,
)
from accelmlf.search.trials import TrialRecord

KINDS: list[type[AccelmlfError]] = [AccelmlfError, *AccelmlfError.__subclasses__()]
OF_ITS_POINT = {"AccelmlfError", "DivergedError", "MemoryExhaustedError", "ProcessKilledError"}
"""What another point, or another process, may survive."""
FEW, MANY = MAX_FAILED_IN_A_ROW, MAX_OF_ANY_KIND_IN_A_ROW


def record(outcome: str, error: str | None = None) -> TrialRecord:
    nothing = dict.fromkeys(
        ("point", "time_to_accuracy_s", "best_accuracy", "epochs", "train_s", "saved_at_most_s", "run_id", "duration_s")
    )
    return TrialRecord(number=7, outcome=outcome, error=error, **nothing)


@pytest.mark.parametrize("kind", KINDS)
def test_what_every_other_run_would_die_of_ends_the_search_and_nothing_else_does(kind: type[AccelmlfError]) -> None:
    assert is_fatal(kind("device", "x", "rule", "remedy")) is (kind.__name__ not in OF_ITS_POINT)


@pytest.mark.parametrize(("setting", "expected"), [("device", True), ("techniques", False), ("TMPDIR", False)])
def test_a_device_that_is_gone_ends_the_search_and_a_technique_that_it_lacks_does_not(
    setting: str, expected: bool
) -> None:
    assert is_fatal(errors.DeviceError(setting, "x", "rule", "remedy")) is expected


@pytest.mark.parametrize(
    ("in_a_row", "expected"),
    [
        ({}, False),
        ({"failed": FEW - 1}, False),
        ({"failed": FEW}, True),
        ({"interrupted": FEW - 1}, False),
        ({"interrupted": FEW}, True),
        ({"failed": FEW - 2, "interrupted": 2}, True),
        ({"failed": FEW - 2, "interrupted": 1}, False),
        ({"out_of_memory": MANY - 1}, False),
        ({"out_of_memory": MANY}, True),
        ({"diverged": MANY - 1}, False),
        ({"out_of_memory": MANY // 2, "diverged": MANY - MANY // 2}, True),
        ({"out_of_memory": MANY - FEW, "failed": FEW - 1}, False),
        ({"out_of_memory": MANY - FEW + 1, "failed": FEW - 1}, True),
    ],
    ids=str,
)
def test_errors_in_a_row_end_a_search_sooner_than_points_that_do_not_fit(
    in_a_row: dict[str, int], expected: bool
) -> None:
    assert too_many(Counter(in_a_row)) is expected


@pytest.mark.parametrize(
    ("outcome", "kind", "code"),
    [
        ("out_of_memory", errors.MemoryExhaustedError, 7),
        ("diverged", errors.DivergedError, 6),
        ("failed", AccelmlfError, 70),
        ("killed", AccelmlfError, 70),
    ],
)
def test_a_search_of_which_nothing_was_finished_ends_as_its_last_trial_did(
    outcome: str, kind: type[AccelmlfError], code: int
) -> None:
    found = failure_of_all("trial", 7, outcome, "batch_size=64: memory ran out. Use less")
    assert (type(found), found.exit_code) == (kind, code)
    assert str(found).startswith("trial=7: no trial has finished; this was the last: batch_size=64: memory ran out")
    assert one_line(str(found)) == str(found)
    assert f"this was the last: {outcome}. " in str(failure_of_all("trial", 7, outcome, None))


def test_whatever_has_failed_is_called_by_its_kind_and_name() -> None:
    error = str(failure_of_all("run", "baseline, seed 3", "diverged", "loss=nan: not finite"))
    assert error.startswith("run=baseline, seed 3: no run has finished; this was the last: loss=nan: not finite. ")
