"""Memory of this machine and of this process."""

import resource
import sys
from contextlib import suppress
from pathlib import Path

import psutil

MIB = 2**20


def reset_host_peak() -> None:
    """Start the peak of resident memory anew, where the system can (Linux: proc(5), clear_refs)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def host_peak_mib() -> float:
    """Peak resident memory of this process since the reset, or since its start; loader processes are not in it."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    unit = MIB if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


CGROUP = Path("/sys/fs/cgroup")


def free_host_memory_bytes(group: Path = CGROUP) -> int:
    """Free memory of the machine, or of the container where that is less; files that only cache counts as free."""
    free: int = psutil.virtual_memory().available
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        shares = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(shares.get("inactive_file", 0)))
    except (OSError, ValueError):  # no such group, or "max"
        pass
    return free


def times_out_of_memory() -> int:
    """How often Linux has killed a process for memory since it was started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
