"""What a record of a trial says of itself, and what a line says of it."""

from dataclasses import replace

import pytest

from accelmlf.search.space import Point
from accelmlf.search.trials import COME_AGAIN, FINISHED_OUTCOMES, KILLED, TrialRecord, in_short, times_s
from tests.search.makers import make_record

POINT: Point = {"batch_size": 32, "accumulation_steps": 1}
PRUNED = make_record(0, POINT, "pruned", train_s=7.0, epochs=3, best_accuracy=0.5)
REACHED = replace(PRUNED, outcome="completed", time_to_accuracy_s=48.2)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (REACHED, "target after 48.2 s of training (3 epochs)"),
        (replace(REACHED, epochs=1), "target after 48.2 s of training (1 epoch)"),
        (
            replace(PRUNED, outcome="target_not_reached"),
            "target not reached: 0.5000 at best in 7.0 s (3 epochs)",
        ),
        (PRUNED, "pruned after 7.0 s (3 epochs): it can no longer win"),
        (make_record(0, POINT, "diverged", error="not finite"), "diverged: not finite"),
        (make_record(0, None, "killed"), "killed"),
    ],
)
def test_a_trial_in_short_says_what_became_of_it(record: TrialRecord, expected: str) -> None:
    assert in_short(record) == expected


@pytest.mark.parametrize(
    ("outcomes", "is_finished", "has_failed"),
    [
        (FINISHED_OUTCOMES, True, False),
        (("out_of_memory", "diverged", "failed", KILLED), False, True),
        (("running", *COME_AGAIN), False, False),
    ],
    ids=["finished", "failed", "neither"],
)
def test_a_trial_has_finished_or_failed_or_said_nothing(
    outcomes: tuple[str, ...], is_finished: bool, has_failed: bool
) -> None:
    for outcome in outcomes:
        record = make_record(0, POINT, outcome)
        assert (record.is_finished, record.has_failed) == (is_finished, has_failed)


def test_only_who_reached_the_target_has_a_time_to_it() -> None:
    assert times_s([PRUNED, REACHED, make_record(1, None, "killed")]) == [48.2]
    assert times_s([PRUNED]) == []
