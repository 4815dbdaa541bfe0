"""Whether the machine was there for a process: what it got of its cores, and what others had. psutil at most."""

import multiprocessing
import os
import resource
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psutil

from accelmlf.machine.memory import CGROUP

MAX_MISSING_SHARE = 0.05
"""Above this share of missing processor time a run supports no claim.

Seen on two cores with a training of two threads: at most 0.02 alone; 0.06 to 0.07 beside a process that is busy a fifth
of the time, which makes a step 1.3 times as long; 0.34 beside one that is always busy (3 times), 0.5 beside two.
"""
NOTEWORTHY_S = 0.1
"""Somebody's turn on a core is some milliseconds, which is half of a tiny epoch and no reason to end anything."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Presence:
    """What a process got of the machine in a stretch of time. What the system does not tell is None."""

    cpu_s: float
    """Of all its threads, in user and system mode."""
    system_s: float
    minor_faults: int
    involuntary_switches: int
    waited_s: float | None
    """Its threads together, ready to run and without a core (Linux: schedstat's run delay)."""
    others_s: float | None
    """Processor time of all other processes on the cores that it may use; its own loader processes are none."""
    stolen_s: float | None
    """What the host of a virtual machine gave to others of those cores (proc(5), steal)."""
    throttled_s: float | None
    """What its container was kept from for its limit (cgroup v2)."""

    @property
    def missing_s(self) -> float | None:
        """Processor time that the process asked for and others had.

        Its threads also wait for each other, where they are more than the cores, and for its loader processes; so a
        wait counts as far as others can have caused it.
        """
        if self.waited_s is None or self.others_s is None or self.lost_s is None:
            return None
        return min(self.waited_s, self.others_s + (self.throttled_s or 0.0)) + self.lost_s

    @property
    def lost_s(self) -> float | None:
        """Of what the host took of the cores that it may use, its own share: as much as it had of what was used."""
        if self.stolen_s is None or self.others_s is None:
            return None
        used_s = self.cpu_s + self.others_s
        return self.stolen_s * self.cpu_s / used_s if used_s else self.stolen_s

    @property
    def missing_share(self) -> float | None:
        """The same of all that it asked for, which is what it got, waited for and lost to the host; 0 to 1."""
        if self.missing_s is None or self.waited_s is None or self.lost_s is None:
            return None
        asked_s = self.cpu_s + self.waited_s + self.lost_s
        return self.missing_s / asked_s if asked_s else 0.0


def total_presence(stretches: Sequence[Presence | None]) -> Presence | None:
    """Several stretches as one; what one of them lacks has no sum."""
    known = [presence for presence in stretches if presence is not None]
    if not known or len(known) < len(stretches):
        return None
    columns = {part.name: [getattr(presence, part.name) for presence in known] for part in fields(Presence)}
    sums: dict[str, Any] = {name: None if None in values else sum(values) for name, values in columns.items()}
    return Presence(**sums)


@dataclass(frozen=True)
class Counters:
    """What the system has counted so far, of this process and of its cores; some 0.2 ms to read."""

    cpu_s: float
    system_s: float
    minor_faults: int
    involuntary_switches: int
    waits_s: dict[str, float] | None
    """By thread: one that ends takes its own with it."""
    others_s: float | None
    stolen_s: float | None
    throttled_s: float | None

    @classmethod
    def read(cls) -> "Counters":
        """Now."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = usage.ru_utime + usage.ru_stime
        busy_s, stolen_s = core_times()
        others_s = None if busy_s is None else busy_s - cpu_s - children_cpu_s()
        switches, waits_s = usage.ru_nivcsw, thread_waits_s()
        return cls(cpu_s, usage.ru_stime, usage.ru_minflt, switches, waits_s, others_s, stolen_s, throttled_s())

    def since(self, before: "Counters") -> Presence:
        """The difference, never negative."""
        grown: dict[str, Any] = {}
        for part in fields(Presence):
            now, then = getattr(self, part.name, None), getattr(before, part.name, None)
            grown[part.name] = None if now is None or then is None else max(now - then, 0)
        if self.waits_s is not None and before.waits_s is not None:
            old = before.waits_s
            grown["waited_s"] = sum(max(now - old.get(thread, 0.0), 0.0) for thread, now in self.waits_s.items())
        return Presence(**grown)


def thread_waits_s(tasks: Path = Path("/proc/self/task")) -> dict[str, float] | None:
    """How long each thread of this process has been ready to run and had no core; None where nobody counts."""
    waits, times_run = {}, 0
    with suppress(OSError):
        for thread in tasks.iterdir():
            with suppress(OSError), (thread / "schedstat").open("rb") as file:  # it may have ended
                _, delay_ns, runs = map(int, file.read().split())
                waits[thread.name], times_run = delay_ns / 1e9, times_run + runs
    return waits if times_run else None  # a kernel that does not count gives zeros


def core_times(stat: Path = Path("/proc/stat")) -> tuple[float, float] | tuple[None, None]:
    """Seconds that the cores of this process have been busy, whoever had them, and that the host gave away."""
    try:
        lines = [line.split() for line in stat.read_text().splitlines() if line.startswith("cpu")]
    except OSError:
        return None, None
    own = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = [[int(count) for count in counts[:8]] for name, *counts in lines if name in own]
    # user, nice, system, idle, iowait, irq, softirq, steal: proc(5)
    busy = sum(sum(core[:3]) + sum(core[5:7]) for core in ticks)
    return busy / TICKS_PER_S, sum(core[7] for core in ticks) / TICKS_PER_S


def children_cpu_s() -> float:
    """Processor time of the processes that this one has started: those it has waited for, and its loaders."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = ended.ru_utime + ended.ru_stime
    for child in multiprocessing.active_children():
        with suppress(psutil.Error):
            times = psutil.Process(child.pid).cpu_times()
            seconds += times.user + times.system
    return seconds


def throttled_s(group: Path = CGROUP) -> float | None:
    """How long the limit of its container has kept this process and its like from running; None without a limit."""
    try:
        counts = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
        return int(counts["throttled_usec"]) / 1e6
    except (OSError, ValueError, KeyError):
        return None


class MissingCores:
    """What a person is told of a run that does not get its cores: once, and again when it is twice as bad."""

    def __init__(self) -> None:
        self.told_above = MAX_MISSING_SHARE

    def note(self, when: str, presence: Presence | None) -> str | None:
        """A line about `epoch 3`, say, or None where there is nothing new to tell."""
        missing_s, share = (presence.missing_s, presence.missing_share) if presence else (None, None)
        if missing_s is None or share is None or missing_s < NOTEWORTHY_S or share <= self.told_above:
            return None
        self.told_above = 2 * share
        return (
            f"note: {share:.0%} of the processor time that {when} asked for went to others; end what else runs "
            "on this machine, or set OMP_NUM_THREADS to the number of cores that are free"
        )
