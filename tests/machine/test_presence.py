"""What others had of the cores, read beside a real neighbour; and what is said of it."""

import dataclasses
import gc
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from accelmlf.machine import presence
from accelmlf.machine.presence import (
    MAX_MISSING_SHARE,
    TICKS_PER_S,
    Counters,
    MissingCores,
    Presence,
    core_times,
    thread_waits_s,
    throttled_s,
    total_presence,
)
from tests.machine.makers import on_one_core

SPIN_S = 0.2
OF_SYSTEM = ("waited_s", "others_s", "stolen_s", "throttled_s")


def make_presence(**changed: Any) -> Presence:
    """Eight seconds of processor time on a machine that nobody else uses."""
    alone = Presence(8.0, 1.0, 100, 10, waited_s=0.0, others_s=0.0, stolen_s=0.0, throttled_s=None)
    return dataclasses.replace(alone, **changed)


def spin(seconds: float) -> None:
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        pass


def while_spinning(seconds: float = SPIN_S) -> Presence:
    before = Counters.read()
    spin(seconds)
    return Counters.read().since(before)


def shares(count: int) -> Iterator[float]:
    for _ in range(count):
        share = while_spinning().missing_share
        assert share is not None
        yield share


# --- what is read ---


def test_a_process_alone_misses_nothing_and_beside_a_busy_one_about_half() -> None:
    with on_one_core(neighbour=True):
        beside = max(shares(5))
    with on_one_core(neighbour=False):  # the control: others may use this machine too, but not all the time
        alone = next((share for share in shares(20) if share < 0.1), 1.0)
    assert beside > 0.3
    assert alone < beside


@contextmanager
def own_busy_child() -> Iterator[None]:
    child = multiprocessing.get_context("fork").Process(target=spin, args=(60.0,), daemon=True)
    child.start()
    try:
        yield
    finally:
        child.kill()
        child.join()


def test_a_process_that_waits_for_its_own_loaders_misses_nothing() -> None:
    with on_one_core(neighbour=False), own_busy_child():
        for _ in range(20):
            found = while_spinning()
            assert found.waited_s is not None and found.missing_share is not None
            if found.waited_s > 0.2 * SPIN_S and found.missing_share < 0.1:
                return
    raise AssertionError(f"others had {found}")


def test_the_time_of_all_threads_is_counted_and_one_that_ends_takes_nothing_away() -> None:
    before = Counters.read()
    helper = threading.Thread(target=lambda: sum(range(3_000_000)))
    helper.start()
    helper.join()
    found = Counters.read().since(before)
    assert found.cpu_s > 0.01
    assert found.waited_s is not None and found.waited_s >= 0


def test_a_wait_of_a_thread_that_has_ended_hides_no_other() -> None:
    now = Counters.read()
    before = dataclasses.replace(now, waits_s={"1": 5.0, "2": 1.0})
    after = dataclasses.replace(now, waits_s={"2": 1.5, "3": 0.25})
    assert after.since(before).waited_s == 0.75
    assert before.since(after).waited_s == 5.0


def test_pages_that_are_touched_first_are_faults() -> None:
    before = Counters.read()
    block = bytearray(os.urandom(1)) * (32 << 20)
    assert Counters.read().since(before).minor_faults > 100
    del block


def test_reading_is_cheap() -> None:
    def reading_s() -> float:
        start_s = time.perf_counter()
        Counters.read()
        return time.perf_counter() - start_s

    gc.collect()
    assert min(reading_s() for _ in range(20)) < 2e-3  # 0.1 to 0.2 ms; a hundred threads are ten times as many files


def test_only_the_cores_of_this_process_count(tmp_path: Path) -> None:
    stat, own = tmp_path / "stat", min(os.sched_getaffinity(0))
    lines = [
        "cpu  1 1 1 1 1 1 1 1 0 0",
        f"cpu{own} 100 20 30 999 999 4 6 50 7 7",
        "cpu99999 1 1 1 1 1 1 1 1 0 0",
        "intr 5 5",
    ]
    stat.write_text("\n".join(lines))
    assert core_times(stat) == (160 / TICKS_PER_S, 50 / TICKS_PER_S)


# --- what the system does not tell ---


def test_where_nobody_counts_there_is_nothing_and_no_error(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert (thread_waits_s(gone), core_times(gone), throttled_s(gone)) == (None, (None, None), None)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "schedstat").write_text("0 0 0\n")  # a kernel that was built without
    (tmp_path / "2").mkdir()  # a thread that has just ended
    assert thread_waits_s(tmp_path) is None
    (tmp_path / "2" / "schedstat").write_text("9 2500000000 4\n")  # the control
    assert thread_waits_s(tmp_path) == {"1": 0.0, "2": 2.5}


@pytest.mark.parametrize(
    ("text", "seconds"), [("nr_throttled 3\nthrottled_usec 2500000\n", 2.5), ("usage_usec 7\n", None)]
)
def test_a_container_without_a_limit_was_kept_from_nothing_that_is_known(
    tmp_path: Path, text: str, seconds: float | None
) -> None:
    (tmp_path / "cpu.stat").write_text(text)
    assert throttled_s(tmp_path) == seconds


def test_another_system_has_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "thread_waits_s", lambda: None)
    monkeypatch.setattr(presence, "core_times", lambda: (None, None))
    monkeypatch.setattr(presence, "throttled_s", lambda: None)
    found = while_spinning(0.01)
    assert [getattr(found, name) for name in OF_SYSTEM] == [None] * 4
    assert (found.missing_s, found.missing_share) == (None, None)
    assert found.cpu_s > 0


# --- the share ---


@pytest.mark.parametrize(
    ("changed", "share"),
    [
        ({}, 0.0),
        ({"waited_s": 8.0, "others_s": 9.0}, 0.5),
        ({"waited_s": 8.0}, 0.0),  # its own threads
        ({"waited_s": 8.0, "others_s": 4.0}, 0.25),
        ({"others_s": 100.0}, 0.0),  # on cores that it did not need
        ({"stolen_s": 2.0}, 0.2),
        ({"stolen_s": 4.0, "others_s": 8.0}, 0.2),  # half of what was used was its own, so of what was taken, too
        ({"waited_s": 2.0, "throttled_s": 5.0}, 0.2),
        ({"cpu_s": 0.0}, 0.0),
        ({"waited_s": None}, None),
        ({"others_s": None}, None),
    ],
)
def test_what_is_missing_is_what_was_waited_for_as_far_as_others_had_it(
    changed: dict[str, float | None], share: float | None
) -> None:
    assert make_presence(**changed).missing_share == share


def test_stretches_together_are_sums_and_what_one_lacks_has_none() -> None:
    one, other = make_presence(waited_s=1.0), make_presence(waited_s=2.0, cpu_s=4.0, minor_faults=7, throttled_s=1.0)
    total = total_presence([one, other])
    assert total is not None
    assert (total.cpu_s, total.minor_faults, total.waited_s, total.throttled_s) == (12.0, 107, 3.0, None)
    assert total_presence([one]) == one
    assert total_presence([one, None]) is None
    assert total_presence([]) is None


# --- what is said ---


def missing(share: float, cpu_s: float = 8.0) -> Presence:
    wait_s = cpu_s * share / (1 - share)
    return make_presence(cpu_s=cpu_s, waited_s=wait_s, others_s=wait_s)


def test_it_is_said_once_and_again_when_it_is_twice_as_bad() -> None:
    told = MissingCores()
    said = [
        told.note(f"epoch {epoch}", missing(share))
        for epoch, share in enumerate((0.01, 0.2, 0.2, 0.3, 0.43, 0.44, 0.2), start=1)
    ]
    assert [epoch for epoch, note in enumerate(said, start=1) if note] == [2, 5]
    assert said[4] == (
        "note: 43% of the processor time that epoch 5 asked for went to others; end what else runs on this machine, "
        "or set OMP_NUM_THREADS to the number of cores that are free"
    )


@pytest.mark.parametrize(
    "quiet", [None, make_presence(waited_s=None), missing(0.9 * MAX_MISSING_SHARE), missing(0.5, cpu_s=0.01)]
)
def test_nothing_is_said_of_what_is_not_known_or_little_or_a_moment(quiet: Presence | None) -> None:
    told = MissingCores()
    assert told.note("epoch 1", quiet) is None
    assert told.note("epoch 2", missing(1.1 * MAX_MISSING_SHARE)) is not None  # the control
