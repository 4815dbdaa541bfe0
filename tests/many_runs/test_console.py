"""What a person sees of many runs: lines in a file, a bar on a terminal, and never both."""

import dataclasses
import io
import sys

import pytest

from accelmlf.machine.presence import Presence
from accelmlf.many_runs import console as runs_console
from accelmlf.many_runs.console import TELL_EVERY_S, RunsConsole
from tests.search.makers import make_epoch


class Terminal(io.StringIO):
    """Standard error as a terminal, where tqdm draws."""

    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """To be called in the test itself: pytest sets standard error anew when the fixtures are done."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert err == ""  # there is no terminal, so there is no bar
    return out.splitlines()


@pytest.mark.parametrize("left", ["", "  left 01:30"])
def test_a_run_that_begins_is_one_line_with_the_time_left(capsys: pytest.CaptureFixture[str], left: str) -> None:
    RunsConsole().begins("run 2 of 8, block 1", "baseline (batch 32 x 1)", 3, left)
    assert lines(capsys) == [f"run 2 of 8, block 1: baseline (batch 32 x 1){left}"]


def test_without_a_terminal_quick_runs_show_no_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    console = RunsConsole()
    for number in (1, 2):
        console.begins(f"run {number} of 2", "an arm", 50)
        for epoch in range(1, 51):
            console.epoch(make_epoch(epoch, 0.5, float(epoch)))
        console.stop()
    assert lines(capsys) == ["run 1 of 2: an arm", "run 2 of 2: an arm"]


def test_without_a_terminal_a_long_run_says_at_most_once_a_minute_that_it_lives(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = RunsConsole()
    console.begins("run 1 of 2", "an arm", 9)
    lines(capsys)
    for number in (3, 4):
        console.told_s -= TELL_EVERY_S  # a minute later
        for _ in range(2):
            console.epoch(make_epoch(number, 0.25, 12.34))
    said = "accuracy 0.2500, 12.3 s of training"
    assert lines(capsys) == [f"  epoch 3: {said}", f"  epoch 4: {said}"]
    monkeypatch.setattr(runs_console, "TELL_EVERY_S", 0.0)  # the control: it is the minute that keeps it quiet
    console.epoch(make_epoch(5, 0.25, 12.34))
    assert len(lines(capsys)) == 1


def test_each_run_says_once_that_others_had_its_cores(capsys: pytest.CaptureFixture[str]) -> None:
    epoch, console = make_epoch(1, 0.5, 1.0), RunsConsole()
    presence = Presence(6.0, 0.0, 0, 0, waited_s=4.0, others_s=4.0, stolen_s=0.0, throttled_s=None)
    crowded = dataclasses.replace(epoch, cost=dataclasses.replace(epoch.cost, presence=presence))
    for number in (1, 2):
        console.begins(f"run {number} of 3", "an arm", 3)
        for each in (epoch, crowded, crowded):
            console.epoch(each)
    console.begins("run 3 of 3", "an arm", 3)
    console.epoch(epoch)
    said = lines(capsys)
    assert [line[:9] for line in said] == ["run 1 of ", "  note: 4", "run 2 of ", "  note: 4", "run 3 of "]


def test_a_run_that_begins_is_a_sign_of_life_itself(capsys: pytest.CaptureFixture[str]) -> None:
    console = RunsConsole()
    console.told_s -= TELL_EVERY_S
    console.begins("run 2 of 2", "an arm", 9)
    console.epoch(make_epoch(1, 0.5, 1.0))
    assert lines(capsys) == ["run 2 of 2: an arm"]


def test_on_a_terminal_there_is_a_bar_of_epochs_and_no_lines_of_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen, console = terminal(monkeypatch), RunsConsole()
    console.begins("run 1 of 2, block 1", "an arm", 3)
    for epoch in (1, 2, 3):
        console.told_s -= TELL_EVERY_S
        console.bar.mininterval = 0.0
        console.epoch(make_epoch(epoch, 0.25 * epoch, 1.5 * epoch))
    drawn = screen.getvalue()
    assert "run 1 of 2, block 1" in drawn and "3/3" in drawn
    assert "accuracy 0.7500, 4.5 s of training" in drawn
    console.stop()
    assert capsys.readouterr().out.splitlines() == ["run 1 of 2, block 1: an arm"]


def test_the_bar_of_a_run_is_gone_when_the_next_begins_and_when_all_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal(monkeypatch)
    console = RunsConsole()
    console.begins("run 1 of 2", "an arm", 3)
    first = console.bar
    console.begins("run 2 of 2", "an arm", 3)
    assert first.disable and not console.bar.disable  # tqdm's word for a bar that is closed
    console.stop()
    assert console.bar.disable
    console.stop()  # as often as one likes


def test_a_line_is_written_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    RunsConsole().say("  target not reached")
    assert lines(capsys) == ["  target not reached"]
