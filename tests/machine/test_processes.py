"""Who is alive and who holds what, asked of real processes that really end, also by SIGKILL."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from accelmlf.errors import DeviceError
from accelmlf.machine.memory import times_out_of_memory
from accelmlf.machine.processes import identity, is_gone, locked, sole_use

ROOT = Path(__file__).parents[2]
HOLD = """
    with sole_use("cpu", "search"):
        print("holds", flush=True)
        sys.stdin.read()
    print("gave back", flush=True)
    sys.stdin.close()
"""


@contextmanager
def running(body: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process with `folder` as its TMPDIR; gone when the block ends."""
    script = "import os, sys, time\nfrom accelmlf.machine.processes import *\n" + textwrap.dedent(body)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: "subprocess.Popen[str]") -> str:
    """The next line of a process."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


SAYS_WHO = "print(identity(), flush=True)\nsys.stdin.read()"


# --- who is alive ---


def test_this_process_is_not_gone() -> None:
    assert not is_gone(identity())
    assert identity() == identity()


def test_a_living_process_is_not_gone_and_an_ended_one_is(tmp_path: Path) -> None:
    with running(SAYS_WHO, tmp_path) as process:
        owner = said(process)
        assert not is_gone(owner)
        process.communicate("")
        assert process.returncode == 0
        assert is_gone(owner)


def test_a_process_that_was_stopped_is_not_gone(tmp_path: Path) -> None:
    with running(SAYS_WHO, tmp_path) as process:
        owner = said(process)
        process.send_signal(signal.SIGSTOP)
        assert not is_gone(owner)
        process.send_signal(signal.SIGCONT)


def test_a_killed_process_is_gone_before_and_after_its_parent_has_noticed(tmp_path: Path) -> None:
    with running(SAYS_WHO, tmp_path) as process:
        owner = said(process)
        process.kill()
        deadline_s = time.monotonic() + 10
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert psutil.pid_exists(process.pid)  # a zombie: nobody has waited for it yet
        assert is_gone(owner)
        process.wait()
        assert not psutil.pid_exists(process.pid)
        assert is_gone(owner)


def test_another_process_with_the_number_of_an_ended_one_is_not_that_one() -> None:
    place, pid, created = identity().rsplit("/", 2)
    assert is_gone(f"{place}/{pid}/{float(created) - 100:.2f}")
    assert not is_gone(f"{place}/{pid}/{created}")


def test_a_number_that_no_process_has_is_gone() -> None:
    place, _, created = identity().rsplit("/", 2)
    assert is_gone(f"{place}/999999999/{created}")


@pytest.mark.parametrize(
    ("part", "gone"), [(0, False), (1, True), (2, False)], ids=["another machine", "another start", "a container"]
)
@pytest.mark.parametrize("pid", ["own", "999999999"])
def test_of_another_machine_nothing_is_known_and_of_another_start_all(part: int, gone: bool, pid: str) -> None:
    parts = identity().split("/")
    assert len(parts) == 5
    parts[part] = "other"
    parts[3] = parts[3] if pid == "own" else pid
    assert is_gone("/".join(parts)) == gone


def test_two_processes_have_two_identities(tmp_path: Path) -> None:
    with running(SAYS_WHO, tmp_path) as one, running(SAYS_WHO, tmp_path) as other:
        assert len({said(one), said(other), identity()}) == 3


def test_memory_kills_are_counted_where_linux_says() -> None:
    assert times_out_of_memory() >= 0
    assert times_out_of_memory() == times_out_of_memory()


# --- who holds what ---


def test_a_device_that_is_in_use_is_refused_and_the_holder_named(folder: Path) -> None:
    with running(HOLD, folder) as holder:
        assert said(holder) == "holds"
        with pytest.raises(DeviceError, match=f"another search is under way on it .process {holder.pid}") as caught:
            sole_use("cpu", "search").__enter__()
        assert str(caught.value).startswith("device=cpu: ")
        assert caught.value.exit_code == 5


def test_a_device_is_free_when_the_holder_has_given_it_back(folder: Path) -> None:
    with running(HOLD, folder) as holder:
        assert said(holder) == "holds"
        holder.communicate("")
        with sole_use("cpu", "search"):
            pass


def test_a_device_is_free_after_its_holder_was_killed(folder: Path) -> None:
    with running(HOLD, folder) as holder:
        assert said(holder) == "holds"
        holder.kill()
        holder.wait()
        with sole_use("cpu", "search"):
            assert str(os.getpid()) in next(folder.rglob("*.lock")).read_text()


def test_an_error_inside_gives_the_device_back(folder: Path) -> None:
    with pytest.raises(ValueError, match="inside"), sole_use("cpu", "search"):
        raise ValueError("inside")
    with sole_use("cpu", "search"):
        pass


def test_another_device_or_another_purpose_is_free(folder: Path) -> None:
    with running(HOLD, folder) as holder:
        assert said(holder) == "holds"
        with sole_use("cuda:0", "search"), sole_use("cuda:1", "search"), sole_use("cpu", "timed run"):
            assert len(list(folder.rglob("*.lock"))) == 4


def test_who_waits_gets_the_device_when_it_is_free(folder: Path) -> None:
    with running(HOLD, folder) as holder:
        assert said(holder) == "holds"
        ending = threading.Timer(0.3, holder.kill)
        ending.start()
        started_s = time.monotonic()
        with sole_use("cpu", "search", wait_s=10):
            assert 0.2 < time.monotonic() - started_s < 5
        ending.join()


def test_who_waits_in_vain_is_told_when_the_time_is_over(folder: Path) -> None:
    with running(HOLD, folder) as holder:
        assert said(holder) == "holds"
        started_s = time.monotonic()
        with pytest.raises(DeviceError):
            sole_use("cpu", "search", wait_s=0.3).__enter__()
        assert 0.3 <= time.monotonic() - started_s < 5


def test_the_folder_of_the_locks_is_this_users_alone(folder: Path) -> None:
    with sole_use("cpu", "search"):
        (found,) = folder.iterdir()
        assert found.stat().st_mode & 0o777 == 0o700
        assert next(found.iterdir()).stat().st_mode & 0o777 == 0o600


def test_a_lock_file_that_leads_elsewhere_is_not_followed(folder: Path) -> None:
    with sole_use("cpu", "search"):
        lock = next(folder.rglob("*.lock"))
    lock.unlink()
    precious = folder / "precious.txt"
    precious.write_text("precious")
    lock.symlink_to(precious)
    with pytest.raises((OSError, DeviceError)):
        sole_use("cpu", "search").__enter__()
    assert precious.read_text() == "precious"


def test_a_folder_that_leads_elsewhere_is_refused(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (folder / f"accelmlf-{os.getuid()}").symlink_to(elsewhere)
    with pytest.raises(DeviceError, match="not a folder of this user's own") as caught:
        sole_use("cpu", "search").__enter__()
    assert str(caught.value).startswith("TMPDIR=") and "\n" not in str(caught.value)
    assert not list(elsewhere.iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of somebody else")
def test_a_folder_of_somebody_else_is_refused(folder: Path) -> None:
    other = folder / f"accelmlf-{os.getuid()}"
    other.mkdir()
    os.chown(other, 12_345, 12_345)
    with pytest.raises(DeviceError, match="not a folder of this user's own"):
        sole_use("cpu", "search").__enter__()
    os.chown(other, 0, 0)
    with sole_use("cpu", "search"):
        pass


# --- one at a time ---

COUNTS = """
    from pathlib import Path
    counter = Path(os.environ["TMPDIR"]) / "counter"
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(20):
        with {lock}:
            number = int(counter.read_text())
            time.sleep(0.01)
            counter.write_text(str(number + 1))
"""


def counted(folder: Path, lock: str) -> int:
    """What three processes that count to 20 each come to in all."""
    counter = folder / "counter"
    counter.write_text("0")
    body = COUNTS.format(lock=lock)
    with running(body, folder) as one, running(body, folder) as two, running(body, folder) as three:
        processes = (one, two, three)
        assert [said(process) for process in processes] == ["ready"] * 3
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        assert all(process.wait(timeout=30) in (0, 1) for process in processes)
    return int(counter.read_text() or 0)


def test_processes_that_share_a_lock_take_turns(tmp_path: Path) -> None:
    assert counted(tmp_path, 'locked(counter.with_name("lock"))') == 60


def test_processes_without_a_lock_get_in_each_others_way(tmp_path: Path) -> None:
    assert counted(tmp_path, "open(os.devnull)") < 60


def test_a_lock_is_lifted_by_the_death_of_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    body = f"with locked(Path({str(path)!r})):\n    print('holds', flush=True)\n    sys.stdin.read()"
    with running(body, tmp_path) as holder:
        assert said(holder) == "holds"
        ending = threading.Timer(0.2, holder.kill)
        ending.start()
        started_s = time.monotonic()
        with locked(path):
            assert time.monotonic() - started_s > 0.1
        ending.join()
