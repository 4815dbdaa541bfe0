"""A signal unwinds the stack once, is not lost while modules load, and cannot be swallowed for good."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from accelmlf.errors import Interrupted
from accelmlf.machine import signals

ROOT = Path(__file__).parents[2]


def run_script(body: str) -> "subprocess.CompletedProcess[str]":
    """A process of its own, because what is tested belongs to a process."""
    script = (
        "import os, signal\nfrom accelmlf.machine import signals\nfrom accelmlf.errors import Interrupted\n"
        + textwrap.dedent(body)
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_becomes_an_exception_with_the_shells_exit_code(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)  # nohup, for one, has it ignored, and then it stays so
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as interrupted, signals.as_exceptions():
        os.kill(os.getpid(), number)
    assert interrupted.value.exit_code == 128 + number
    assert str(interrupted.value) == f"interrupted by {number.name}"
    assert signal.getsignal(number) is before


def test_a_signal_during_the_imports_waits_for_their_end() -> None:
    ended = run_script("""
        signals.hold()
        os.kill(os.getpid(), signal.SIGTERM)
        print("still here")
        try:
            with signals.as_exceptions():
                print("handlers are set")
                signals.release()
                print("never here")
        except Interrupted as interrupted:
            print(interrupted)
    """)
    assert ended.stdout.splitlines() == ["still here", "handlers are set", "interrupted by SIGTERM"]


def test_without_holding_it_the_process_would_just_end() -> None:
    ended = run_script("os.kill(os.getpid(), signal.SIGTERM)\nprint('never here')")
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, "")


def test_a_signal_that_a_destructor_swallowed_can_be_sent_again_later() -> None:
    ended = run_script("""
        import time
        signals.REPEAT_AFTER_S = 0.2
        class Swallows:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGTERM)
        try:
            with signals.as_exceptions():
                swallows = Swallows()
                swallows = None
                os.kill(os.getpid(), signal.SIGTERM)
                print("the same wish")
                time.sleep(0.3)
                os.kill(os.getpid(), signal.SIGTERM)
                print("never here")
        except Interrupted as interrupted:
            print(interrupted)
    """)
    assert ended.stdout.splitlines() == ["the same wish", "interrupted by SIGTERM"]


def test_once_ending_is_under_way_more_signals_do_not_cut_it_short() -> None:
    ended = run_script("""
        try:
            with signals.as_exceptions():
                os.kill(os.getpid(), signal.SIGTERM)
        except Interrupted:
            pass
        with signals.as_exceptions():
            signals.ignore_from_now_on()
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            print("closed")
    """)
    assert (ended.returncode, ended.stdout) == (0, "closed\n")


def test_what_the_caller_ignores_stays_ignored() -> None:
    ended = run_script("""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with signals.as_exceptions():
            os.kill(os.getpid(), signal.SIGHUP)
            print("went on")
    """)
    assert ended.stdout == "went on\n"


@pytest.mark.parametrize(("first", "says"), [("signals.leave_ending_to_parent()", False), ("", True)])
def test_a_loader_process_is_silent_when_its_parent_hangs_up(first: str, says: bool) -> None:
    ended = run_script(f"""
        import socket, threading
        from multiprocessing import resource_sharer
        {first}
        address, _ = resource_sharer.DupFd(0)._id  # as a batch is handed over
        parent = socket.socket(socket.AF_UNIX)
        parent.connect(address)
        parent.close()
        sharer = resource_sharer._resource_sharer._thread
        resource_sharer.stop(timeout=10)
        sharer.join()
    """)
    assert ended.returncode == 0
    assert ("Traceback" in ended.stderr) is says, ended.stderr


def test_whatever_else_goes_wrong_in_a_loader_process_is_said() -> None:
    ended = run_script("signals.leave_ending_to_parent()\nraise ValueError('the control')")
    assert "ValueError: the control" in ended.stderr
