"""What a person sees of a search: the time that is left, a line for what happens, and no more lines than help."""

from collections.abc import Sequence

import pytest

from accelmlf.many_runs import console as runs_console
from accelmlf.search.console import SearchConsole
from accelmlf.search.space import Point, in_words
from accelmlf.search.trials import TrialRecord
from tests.search.makers import make_epoch, make_record

POINT: Point = {"batch_size": 32, "accumulation_steps": 1}


def done(number: int, seconds: float | None = None, duration_s: float | None = 10.0) -> TrialRecord:
    """A finished trial; without a time to the target it was pruned."""
    outcome = "pruned" if seconds is None else "completed"
    return make_record(number, POINT, outcome, seconds, duration_s=duration_s, train_s=7.0, epochs=3, best_accuracy=0.5)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert err == ""  # there is no terminal, so there is no bar
    return [line for line in out.splitlines() if line]


# --- the time that is left ---


@pytest.mark.parametrize(
    ("durations_s", "timeout_s", "spent_s", "expected"),
    [
        ([], None, 0, 0),
        ([10.0], None, 0, 90),
        ([10.0, 20.0], None, 500, 120),
        ([10.0, None], None, 0, 80),
        ([10.0] * 10, None, 0, 0),
        ([10.0], 1000, 0, 90),
        ([10.0], 100, 40, 60),
        ([10.0], 100, 400, 0),
    ],
    ids=[
        "nothing is known yet",
        "by the trials",
        "by their mean",
        "one of another machine",
        "all are done",
        "the budget is larger",
        "the budget is less",
        "the budget is spent",
    ],
)
def test_the_time_left_is_by_the_trials_or_by_the_budget_where_that_is_less(
    durations_s: Sequence[float | None], timeout_s: float | None, spent_s: float, expected: float
) -> None:
    console = SearchConsole(10, timeout_s)
    console.started_s -= spent_s
    records = [done(number, duration_s=duration) for number, duration in enumerate(durations_s)]
    assert console.left_s(records) == pytest.approx(expected, abs=0.5)


# --- lines ---


def test_an_ended_trial_is_one_line_with_the_best_so_far_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    console = SearchConsole(4, None)
    records = [done(0, 48.2), done(1)]
    console.trial_ended(records[1], records)
    assert lines(capsys) == [
        "  pruned after 7.0 s (3 epochs): it can no longer win  best 48.2 s (trial 0)  2 of 4 finished  left 00:20"
    ]


def test_without_a_time_there_is_no_best_and_after_the_last_trial_no_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failed = make_record(1, POINT, "out_of_memory", error="no room")
    SearchConsole(1, None).trial_ended(failed, [done(0), failed])
    (line,) = lines(capsys)
    assert line == "  out of memory: no room  no trial at the target yet  1 of 1 finished"


@pytest.mark.parametrize(
    ("num_done", "expected"),
    [
        (0, []),
        (2, ["2 of 3 trials are finished already"]),
        (3, ["3 of 3 trials are finished already: nothing is left to search"]),
    ],
)
def test_a_search_that_goes_on_says_what_is_done_already(
    num_done: int, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    failed = make_record(9, POINT, "diverged")
    SearchConsole(3, None).goes_on([*(done(number) for number in range(num_done)), failed])
    assert lines(capsys) == expected


def test_waiting_is_said_once_for_each_number_of_trials(capsys: pytest.CaptureFixture[str]) -> None:
    console = SearchConsole(3, None)
    for running in (2, 2, 2, 1, 1):
        console.waiting(running)
    assert lines(capsys) == ["waiting for 2 trials of other workers", "waiting for 1 trial of other workers"]


def test_without_a_terminal_a_long_trial_says_at_most_once_a_minute_that_it_lives(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = SearchConsole(3, None)
    console.begins("trial 0", in_words(POINT), 100)
    assert lines(capsys) == ["trial 0: batch 32 x 1"]
    for number in range(1, 50):  # quick ones
        console.epoch(make_epoch(number, 0.5, float(number)))
    assert lines(capsys) == []
    for number in (50, 51):
        console.told_s -= runs_console.TELL_EVERY_S  # a minute later
        for epoch in (number, number):
            console.epoch(make_epoch(epoch, 0.25, 12.34))
    console.stop()
    said = "accuracy 0.2500, 12.3 s of training"
    assert lines(capsys) == [f"  epoch 50: {said}", f"  epoch 51: {said}"]
    console.told_s -= runs_console.TELL_EVERY_S
    console.begins("trial 1", in_words(POINT), 100)  # which counts as a sign of life, too
    console.epoch(make_epoch(1, 0.5, 1.0))
    console.stop()
    assert lines(capsys) == ["trial 1: batch 32 x 1"]
