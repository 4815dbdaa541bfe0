"""What a person sees: a bar on a terminal, plain lines elsewhere, a table at the end."""

import os
import pty
import sys
import termios
import threading

import pytest

from accelmlf.machine.presence import MAX_MISSING_SHARE
from accelmlf.run.console import Console
from accelmlf.run.loop import train_epochs
from accelmlf.run.one_run import one_run
from accelmlf.run.tracker import MemoryTracker
from accelmlf.techniques.stack import Skipped
from tests.machine.makers import on_one_core
from tests.makers import make_config, make_splits, make_work

pytestmark = pytest.mark.usefixtures("tiny_model")


def test_elsewhere_than_on_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    one_run(make_config(epochs=2, target_accuracy=0.01), MemoryTracker())
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if not line.startswith("note: ")]  # others may be busy here
    assert lines[0].startswith("tiny on digits (memory), custom: techniques none, batch 16 x 1 steps, 2 epochs on cpu")
    assert lines[1].startswith("pictures: 1,078 train, 359 validation, 360 test; set-up ")
    assert [line[:9] for line in lines[2:4]] == ["epoch 1/2", "epoch 2/2"]
    for part in ("loss ", "validation accuracy ", "F1 ", "images/s", "left 00:00", "data wait ", "backward "):
        assert part in lines[3]
    assert "\r" not in out + err
    table = " ".join(out.split())
    for row in ("test accuracy", "target 0.01 on validation after ", "where it went", "peak memory host "):
        assert row in table


def test_on_a_terminal_a_bar_moves_and_is_gone_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    seen = bytearray()

    def drain() -> None:
        while chunk := os.read(leader, 1000):
            seen.extend(chunk)
            if b"THE END" in seen:
                return

    reader = threading.Thread(target=drain, daemon=True)  # a terminal that nobody reads blocks its writer
    reader.start()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        one_run(make_config(epochs=2), MemoryTracker())
        monkeypatch.undo()
        print("THE END", file=terminal, flush=True)
        reader.join(10)
    os.close(leader)
    shown = seen.decode()
    assert "epoch 1/2:   0%" in shown
    assert "epoch 2/2:" in shown
    assert "loss " in shown and "images/s" in shown
    assert shown.split("\r")[-2].strip() == "THE END"  # what was drawn before it has been wiped


def test_a_missed_target_and_what_was_left_out_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    one_run(make_config(epochs=1, target_accuracy=1.0, accumulation_steps=500), MemoryTracker())
    Console().opening(make_config(), [Skipped("pin_memory", "it needs CUDA")])
    out = " ".join(capsys.readouterr().out.split())
    assert "target 1 on validation not reached" in out
    assert "accumulation_steps=500 is more than an epoch's 68 batches: one step per epoch" in out
    assert "left out: pin_memory (it needs CUDA)" in out


@pytest.mark.slow
def test_a_run_beside_a_busy_process_says_so_once_while_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    with on_one_core(neighbour=True):
        for epoch in train_epochs(make_work(make_config(epochs=3), make_splits(6_000)), max_epochs=3):
            console.epoch(epoch)
            assert epoch.cost.missing_cores_share is not None
            assert epoch.cost.missing_cores_share > MAX_MISSING_SHARE
            assert epoch.as_metrics()["machine/missing_cores_share"] == epoch.cost.missing_cores_share
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["epoch", "note:", "epoch", "epoch"]
    assert "that epoch 1 asked for went to others" in lines[1]
