"""Work in a process of its own, one at a time per device: its memory is gone when it ends, and its end harms nobody.

The processes are forked from a server that has imported everything once and has done nothing else: no thread, no
device. So none of them pays for the imports, and each starts as fresh as the first (multiprocessing's forkserver).
Only their memory would be laid out alike, and with it their speed, which is redrawn in each.
"""

import multiprocessing
import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from accelmlf.errors import SMALLER_BATCH, AccelmlfError, Interrupted, MemoryExhaustedError, ProcessKilledError
from accelmlf.machine import signals
from accelmlf.machine.memory import times_out_of_memory

CONTEXT = multiprocessing.get_context("forkserver")
CLOSING_S = 60.0
"""What a process gets to close its run after it was told to end."""
MAX_GAPS, MAX_GAP_BYTES = 64, 2**16
"""Of `displaced_memory`: each among what the heap holds (malloc maps what is twice as large), about 1 MiB in all."""


P = ParamSpec("P")
T = TypeVar("T")


def start_server(modules: Sequence[str]) -> None:
    """Start the server, which imports `modules` in the background. A second call changes nothing.

    To be called with the environment as the work will see it.
    """
    from multiprocessing import resource_tracker
    from multiprocessing.forkserver import ensure_running

    CONTEXT.set_forkserver_preload([__name__, *modules])
    resource_tracker.ensure_running()  # its start lets signals through again
    # The server inherits the mask: a signal to the whole group must not take it away from those that close their runs.
    signals.hold_back()
    try:
        ensure_running()
    finally:
        signals.release()


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result, computed in a process of its own.

    Raises:
        Exception: what the function raised, or that its process died.
    """
    with process(_answer, function, args, kwargs) as talk:
        result: T = talk.receive()
        return result


TRY_AGAIN = "Start it again; a search tries it once more by itself"


class Talk:
    """The connection to a worker process: pickled messages in both directions, and its death as an error."""

    def __init__(self, connection: Connection, worker: Any) -> None:
        self.connection, self.worker, self.kills_before = connection, worker, times_out_of_memory()

    def send(self, message: object) -> None:
        """Raises AccelmlfError where the process has ended."""
        try:
            self.connection.send(message)
        except OSError:
            raise self.death() from None

    def receive(self) -> Any:
        """The next message.

        Raises:
            Exception: the message is one: what ended the work.
            ProcessKilledError, MemoryExhaustedError, AccelmlfError: the process has ended without a word.
        """
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            raise self.death() from None
        if isinstance(message, Interrupted):  # somebody's signal to that process alone
            raise ProcessKilledError("process", self.worker.pid, str(message), TRY_AGAIN)
        if isinstance(message, BaseException):
            raise message
        return message

    def death(self) -> AccelmlfError:
        """The error for a process that ended without a message, from its exit code."""
        self.worker.join(CLOSING_S)
        code = self.worker.exitcode
        if code == -signal.SIGKILL and times_out_of_memory() > self.kills_before:
            rule = "the system killed it for memory"
            return MemoryExhaustedError("process", self.worker.pid, rule, SMALLER_BATCH)
        if code in (-signal.SIGKILL, -signal.SIGTERM):
            rule = f"it was killed by {signal.Signals(-code).name}"
            return ProcessKilledError("process", self.worker.pid, rule, TRY_AGAIN)
        how = f"it died of {signal.Signals(-code).name}" if code and code < 0 else f"it ended with code {code}"
        return AccelmlfError("process", self.worker.pid, how, "Run it alone, with debug=true, to see why")


@contextmanager
def process(
    target: Callable[..., None], *args: Any, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Talk]:
    """A process that runs target(connection, *args); it has ended when the block has.

    One that needs something in its `environment` before it begins is no copy of the server, and imports all by itself.
    """
    context = multiprocessing.get_context("spawn") if environment else CONTEXT
    near, far = context.Pipe()
    worker = context.Process(target=_begin, args=(far, multiprocessing.get_start_method(), target, args))
    try:
        with in_environment(environment):
            worker.start()
        far.close()
        yield Talk(near, worker)
    except BaseException:
        if worker.pid is not None:
            worker.terminate()  # before the connection closes, so that it knows why; ignored where it ends already
        raise
    finally:
        near.close()
        if worker.pid is not None:
            worker.join(CLOSING_S)
        if worker.is_alive():
            worker.kill()
            worker.join()


@contextmanager
def in_environment(added: Mapping[str, str]) -> Iterator[None]:
    """Meanwhile the environment of this process has these, too."""
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin(connection: Connection, start_method: str, target: Callable[..., None], args: tuple[Any, ...]) -> None:
    """Signals as in a process of the command line; those of the terminal reach the one that started this."""
    os.setsid()
    _gaps = displaced_memory()
    # Else the loader processes of a run would come from a fork server of their own, which imports everything first, on
    # the training clock.
    multiprocessing.set_start_method(start_method, force=True)
    with signals.as_exceptions():
        try:
            signals.release()
            threading.Thread(target=_end_with_parent, daemon=True).start()
            target(connection, *args)
        except (Exception, Interrupted) as error:
            signals.ignore_from_now_on()
            _report(connection, error)


def displaced_memory() -> list[bytearray]:
    """Memory of random sizes; while it is held, what follows on the heap lies elsewhere than in the next process.

    Forks of one server have one layout, and an arm's runs a speed in common that no repetition would show: on two cores
    all ResNet50 runs of one server had 23,000 page faults a step, of another 14,000 and took 4 % less time. Sources:
    Mytkowicz et al. 2009, Producing wrong data without doing anything obviously wrong; Curtsinger and Berger 2013,
    Stabilizer.
    """
    chance = random.SystemRandom()  # a run's own draws stay as they are
    return [bytearray(chance.randint(1, MAX_GAP_BYTES)) for _ in range(chance.randint(1, MAX_GAPS))]


def _report(connection: Connection, error: BaseException) -> None:
    try:
        if not isinstance(error, (AccelmlfError, Interrupted)):
            line = f"{type(error).__name__}: {error}"
            known = AccelmlfError("internal", line, "an error of the program", "Run it again with debug=true")
            known.add_note("".join(traceback.format_exception(error)))
            error = known
        connection.send(error)
    except OSError:  # nobody listens any more
        pass


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(CLOSING_S)
    os._exit(128 + signal.SIGTERM)


def _answer(connection: Connection, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    connection.send(function(*args, **kwargs))
