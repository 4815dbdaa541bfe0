"""Processes of their own: what they bring back, how they end, and that nothing of them is left."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest

from accelmlf.errors import AccelmlfError, ConfigError, ProcessKilledError
from accelmlf.machine.isolation import CONTEXT, call, start_server
from accelmlf.machine.signals import ENDING
from accelmlf.settings.fields import parse_setting
from accelmlf.settings.run import RunConfig
from tests.machine.makers import fresh_server


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with fresh_server():
        start_server(["sklearn.datasets"])
        yield


def parsed_far_away(text: str) -> object:
    return parse_setting("epochs", text, RunConfig)


def is_imported(module: str) -> bool:
    return module in sys.modules


def start_method() -> str:
    return multiprocessing.get_start_method()


def fill_memory(size: int) -> int:
    return len(bytes(size))


def kill_without_a_word(_: None) -> None:
    """As it ends whose handlers are not in place yet, or no longer."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)


def test_a_call_brings_its_result_back_from_another_process() -> None:
    assert call(parsed_far_away, "3") == parsed_far_away("3") == 3
    processes = {call(os.getpid) for _ in range(2)}
    assert len(processes | {os.getpid()}) == 3
    assert not any(psutil.pid_exists(pid) for pid in processes - {os.getpid()})


def where_memory_lies() -> int:
    return ctypes.addressof(ctypes.create_string_buffer(100_000))


def answer_where(connection: Connection) -> None:
    connection.send(where_memory_lies())


def test_memory_lies_elsewhere_in_each_process_though_all_are_forked_from_one_server() -> None:
    assert len({call(where_memory_lies) for _ in range(5)}) > 2
    plain = set()  # the control: forked as they are
    for _ in range(5):
        near, far = CONTEXT.Pipe()
        worker = CONTEXT.Process(target=answer_where, args=(far,))
        worker.start()
        plain.add(near.recv())
        worker.join()
    assert len(plain) <= 2


def test_a_signal_to_the_whole_group_does_not_take_the_server_away() -> None:
    server = call(os.getppid)
    for number in ENDING:
        os.kill(server, number)
    assert call(os.getppid) == server
    if sys.platform == "linux":
        assert set(map(int, ENDING)) <= blocked_in(server)
        assert not set(map(int, ENDING)) & blocked_in(os.getpid())  # the control


def blocked_in(pid: int) -> set[int]:
    """The signals that a process holds back, as Linux tells."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigBlk")]
    mask = int(line.split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_a_call_raises_what_the_function_raised() -> None:
    with pytest.raises(ConfigError) as here:
        parsed_far_away("two")
    with pytest.raises(ConfigError) as far_away:
        call(parsed_far_away, text="two")
    assert str(far_away.value) == str(here.value)


@pytest.mark.parametrize(
    ("function", "argument", "kind", "says"),
    [
        (int, "two", AccelmlfError, "ValueError: invalid literal for int"),
        (signal.raise_signal, signal.SIGKILL, ProcessKilledError, "it was killed by SIGKILL"),
        (signal.raise_signal, signal.SIGTERM, ProcessKilledError, "interrupted by SIGTERM"),
        (kill_without_a_word, None, ProcessKilledError, "it was killed by SIGTERM"),
        (signal.raise_signal, signal.SIGSEGV, AccelmlfError, "it died of SIGSEGV"),
        (signal.raise_signal, signal.SIGABRT, AccelmlfError, "it died of SIGABRT"),
        (os._exit, 3, AccelmlfError, "it ended with code 3"),
        (sys.exit, 4, AccelmlfError, "it ended with code 4"),
        (memoryview, b"cannot be pickled", AccelmlfError, "cannot pickle"),
    ],
)
def test_any_other_end_of_a_process_is_one_error_that_says_how(
    function: Callable[[Any], object],
    argument: object,
    kind: type[AccelmlfError],
    says: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(AccelmlfError) as error:
        call(function, argument)
    assert says in str(error.value)
    assert type(error.value) is kind
    assert (error.value.exit_code, error.value.outcome) == (70, kind.outcome)
    assert multiprocessing.active_children() == []


def test_the_next_process_starts_fresh_after_one_that_was_killed() -> None:
    with pytest.raises(AccelmlfError):
        call(signal.raise_signal, signal.SIGKILL)
    assert call(os.path.basename, "a/b") == "b"


@pytest.mark.parametrize(
    ("module", "expected"),
    [("sklearn.datasets", True), ("accelmlf.machine.isolation", True), ("timm", False)],
)
def test_what_the_server_was_told_to_import_is_there_before_a_process_begins(module: str, expected: bool) -> None:
    assert call(is_imported, module) is expected


def test_the_memory_of_a_process_is_gone_when_it_has_ended() -> None:
    before = psutil.Process().memory_info().rss
    assert call(fill_memory, 2**28) == 2**28
    assert psutil.Process().memory_info().rss - before < 2**26
    kept = b"x" * 2**28  # the control
    assert psutil.Process().memory_info().rss - before > 2**27
    del kept


def test_processes_are_started_inside_as_they_are_outside() -> None:
    """multiprocessing hands down the start method of a process: its loaders would import torch on the clock."""
    assert call(start_method) == start_method()
