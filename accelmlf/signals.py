"""Signals that ask a process to end, as exceptions, so that what a run holds open is closed. Standard library only."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from accelmlf.errors import Interrupted

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def hold() -> None:
    """Keep signals waiting while modules are imported (until `release`): an import cut in half cannot be repeated.

    From here on the end of `mlflow run` counts as one: it may come while the imports go on.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    _end_with_parent()


def release() -> None:
    """Let signals through; one that was held arrives here."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


@contextmanager
def as_exceptions() -> Iterator[None]:
    """Signals raise Interrupted. What the caller of this process ignores stays ignored."""

    def interrupt(number: int, _: FrameType | None) -> None:
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


def ignore_interrupt(*_: object) -> None:
    """For loader processes: Ctrl-C reaches the whole group, and the parent is the one that ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with_parent() -> None:
    """Under `mlflow run`, have Linux send SIGTERM when that process dies, or training would go on unseen.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    if sys.platform == "linux" and os.environ.get("MLFLOW_RUN_ID"):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
