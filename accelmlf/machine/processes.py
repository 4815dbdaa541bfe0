"""Processes that share a machine: who holds what, and who is still alive. Standard library and psutil only."""

import fcntl
import hashlib
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from accelmlf.errors import DeviceError

POLL_S = 0.1
TIMED_RUN = "timed run"
"""What has a device for itself while its clock goes."""
MANY_RUNS = "search or ablation"
"""What has a device for itself: two things that time runs on it would slow each other down."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time, the others wait. The system lifts the lock when its holder dies, however it dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def sole_use(device: str, purpose: str, *, wait_s: float = 0.0) -> Iterator[None]:
    """Only one process of this user and machine has `device` (a name that is one device's alone) for `purpose`.

    Raises:
        DeviceError: another one has it and keeps it for `wait_s`.
    """
    path = _private_folder() / f"{purpose}-{device.replace(':', '-')}.lock"
    deadline_s = time.monotonic() + wait_s
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DeviceError("TMPDIR", path, error.strerror or str(error), "Remove that file, or set TMPDIR") from None
    with os.fdopen(descriptor, "r+") as file:
        while not _try_lock(file.fileno()):
            if time.monotonic() >= deadline_s:
                rule = f"another {purpose} is under way on it (process {file.read().strip() or 'unknown'})"
                raise DeviceError("device", device, rule, "Wait for it, end it, or choose another device")
            time.sleep(POLL_S)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def identity() -> str:
    """This process, in words that `is_gone` understands in any process of the same machine."""
    return "/".join((*_place(), str(os.getpid()), _start_of(os.getpid())))


def is_gone(owner: str) -> bool:
    """Whether the process that called itself `owner` has certainly ended. False where it cannot be known from here."""
    if owner.count("/") != 4:
        return False  # not from here
    machine, boot, numbering, pid, start = owner.split("/")
    here = _place()
    if machine == here[0] and boot != here[1]:
        return True  # the machine was started again
    if (machine, boot, numbering) != here:
        return False  # another machine, or a container with process numbers of its own
    try:
        return _start_of(int(pid)) != start or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def machine_of(owner: str) -> str:
    return owner.partition("/")[0]


def is_of_this_machine(owner: str) -> bool:
    return machine_of(owner) == _place()[0]


def _start_of(pid: int) -> str:
    """When a process was started, in ticks since the machine was: the wall clock may be set meanwhile."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()  # proc(5): starttime is field 22, the name field 2
    return fields[19] if fields else f"{psutil.Process(pid).create_time():.2f}"


def _place() -> tuple[str, str, str]:
    """This machine (hashed, for it is logged), this start of it, and the numbering of its processes."""
    boot = _read("/proc/sys/kernel/random/boot_id") or f"{psutil.boot_time():.0f}"
    # Without an id of its own a machine is not known again after a restart: names are not unique.
    name = hashlib.sha256(f"{platform.node()} {_read('/etc/machine-id') or boot}".encode()).hexdigest()[:12]
    try:
        numbering = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        numbering = "all"
    return name, boot, numbering


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _private_folder() -> Path:
    """Where nobody else can put a file that this user would then trust."""
    folder = Path(tempfile.gettempdir()) / f"accelmlf-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not folder.is_dir() or folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise DeviceError("TMPDIR", folder, "not a folder of this user's own", "Set TMPDIR to one")
    return folder


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
