"""Signals that ask a process to end, as exceptions, so that what a run holds open is closed. Standard library only."""

import ctypes
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from accelmlf.errors import Interrupted

REPEAT_AFTER_S = 10.0
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def hold() -> None:
    """Keep signals waiting while modules are imported (until `release`): an import cut in half cannot be repeated.

    From here on the end of `mlflow run` counts as one: it may come while the imports go on.
    """
    hold_back()
    _end_with_parent()


def hold_back() -> None:
    """Keep signals waiting until `release`; a process that is started meanwhile keeps them waiting for itself."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


@contextmanager
def held() -> Iterator[None]:
    """Signals wait while modules are imported or processes started, and arrive when the block ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def release() -> None:
    """Let signals through; one that was held arrives here."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


@contextmanager
def as_exceptions() -> Iterator[None]:
    """Signals raise Interrupted. What the caller of this process ignores stays ignored.

    A signal soon after another is the same wish, and must not cut the ending short. One that comes later means that
    the first was swallowed (by a destructor, say), and raises again.
    """
    last_s = -math.inf

    def interrupt(number: int, _: FrameType | None) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= REPEAT_AFTER_S:
            last_s = time.monotonic()
            raise Interrupted(number)

    before = {name: signal.getsignal(name) for name in ENDING if signal.getsignal(name) is not signal.SIG_IGN}
    for name in before:
        signal.signal(name, interrupt)
    try:
        yield
    finally:
        for name, handler in before.items():
            if signal.getsignal(name) is interrupt:  # else the process is on its way out
                signal.signal(name, handler)


def ignore_from_now_on() -> None:
    """Ending is under way, and another signal must not cut it short. To be called where Interrupted was caught."""
    for name in ENDING:
        signal.signal(name, signal.SIG_IGN)


def leave_ending_to_parent(*_: object) -> None:
    """For loader processes: a signal may reach every process of a run, and the parent is the one that ends them.

    If one ended by itself, torch would raise its death in the parent, in the middle of closing the run. The parent
    ends them with SIGTERM too (and waits for that at its own exit, for ever), so it is the sender that decides.
    To be started with signals `held`, or one that comes before this is called ends them all the same.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.excepthook = _say_unless_hung_up
    parent = multiprocessing.parent_process()
    if parent is not None and hasattr(signal, "sigwaitinfo"):  # macOS has it not, and keeps torch's handler
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_when_told_by, args=[parent.pid], daemon=True).start()
    else:
        release()


def _say_unless_hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A parent that is interrupted while it is handed a batch hangs up, and says itself what has happened."""
    if not isinstance(error, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _end_when_told_by(sender: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != sender:
        pass
    os._exit(0)


def _end_with_parent() -> None:
    """Under `mlflow run`, have Linux send SIGTERM when that process dies, or training would go on unseen.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    if sys.platform == "linux" and os.environ.get("MLFLOW_RUN_ID"):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
