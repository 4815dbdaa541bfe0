"""scripts/environment with the real uv and a small index of its own: made, repaired, shared, and what can go wrong."""

import base64
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SCRIPT = 'set -euo pipefail; source scripts/environment; ensure "$0"; exec python -c "import small; print(small.V)"'
MADE = ("accelmlf: making or repairing .venv", "accelmlf: .venv is ready")


@dataclass(frozen=True)
class Place:
    """A folder with the script, locks of its own and an index of three tiny packages."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def start(self, lock: str = "requirements.lock", **variables: str) -> "subprocess.Popen[str]":
        environment = {name: text for name, text in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
        environment.pop("PYTHON", None)
        return subprocess.Popen(
            ["bash", "-c", SCRIPT, lock],
            cwd=self.folder,
            env=environment | self.variables | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, lock: str = "requirements.lock", code: int = 0, **variables: str) -> list[str]:
        """What is said on the way; the package can be imported where it went well."""
        process = self.start(lock, **variables)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        assert out == ("1\n" if code == 0 else ""), err
        return err.splitlines()

    def packages(self) -> Path:
        (packages,) = self.folder.glob(".venv/lib/*/site-packages")
        return packages


def add_wheel(index: Path, name: str, version: str) -> str:
    """A package of one module in an index; the line that a lock has of it."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"V = {version.split('.', maxsplit=1)[0]}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    (index / name).mkdir(parents=True, exist_ok=True)
    wheel = index / name / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    links = [f'<a href="{path.name}">{path.name}</a>' for path in sorted((index / name).glob("*.whl"))]
    (index / name / "index.html").write_text("\n".join(links))
    return f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.fixture(scope="module")
def uv_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip would make of an index: an environment with pip, and with the uv of this one."""
    uv = pytest.importorskip("uv", reason="of requirements-dev.txt")
    folder = tmp_path_factory.mktemp("uv") / ".uv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (packages,) = folder.glob("lib/*/site-packages")
    (packages / "uv").symlink_to(Path(uv.__file__).parent)
    (folder / "bin" / "uv").symlink_to(uv.find_uv_bin())
    return folder


@pytest.fixture
def place(uv_environment: Path, tmp_path: Path) -> Place:
    folder, index = tmp_path / "a clone", tmp_path / "index"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "environment", folder / "scripts")
    said = subprocess.run([uv_environment / "bin" / "uv", "--version"], capture_output=True, text=True, check=True)
    lines = [add_wheel(index, name, version) for name, version in (("small", "1.0"), ("uv", said.stdout.split()[1]))]
    (folder / "requirements.lock").write_text(lines[0])
    (folder / "requirements-dev.lock").write_text("".join([*lines, add_wheel(index, "tool", "3.0")]))
    (folder / ".uv").symlink_to(uv_environment)
    cache = {"UV_CACHE_DIR": str(tmp_path / "cache"), "PIP_CONFIG_FILE": os.devnull}
    return Place(folder, {"PIP_INDEX_URL": index.as_uri(), **cache})


def test_it_is_made_once_and_a_second_start_says_nothing_and_takes_no_time(place: Place) -> None:
    said = place.run()
    assert (said[0].startswith(MADE[0]), said[-1]) == (True, MADE[1])
    started = time.monotonic()
    assert place.run(PIP_INDEX_URL="http://127.0.0.1:9") == []
    assert time.monotonic() - started < 2


def delete_package(place: Place) -> None:
    (place.packages() / "small.py").unlink()


def delete_python(place: Place) -> None:
    (place.folder / ".venv" / "bin" / "python").unlink()


def be_killed_on_the_way(place: Place) -> None:
    (place.folder / ".venv" / "accelmlf").unlink()
    (place.packages() / "small.py").unlink()


def take_another_python(place: Place) -> None:
    settings = place.folder / ".venv" / "pyvenv.cfg"
    settings.write_text(re.sub(r"version(_info)? = .*", "version = 3.99.0", settings.read_text()))


def leave_nothing_but_a_folder(place: Place) -> None:
    shutil.rmtree(place.folder / ".venv")
    (place.folder / ".venv").mkdir()


@pytest.mark.parametrize(
    "damage",
    [delete_package, delete_python, be_killed_on_the_way, take_another_python, leave_nothing_but_a_folder],
    ids=lambda damage: damage.__name__,
)
def test_what_was_damaged_is_repaired_by_the_next_start(place: Place, damage: object) -> None:
    place.run()
    assert callable(damage)
    damage(place)
    assert place.run()[-1] == MADE[1]
    assert place.run() == []


def test_what_a_user_has_added_is_no_damage(place: Place) -> None:
    """The control of the above."""
    place.run()
    (place.packages() / "mine.py").write_text("")
    assert place.run() == []


def test_a_folder_that_was_moved_is_repaired_too(place: Place) -> None:
    place.run()
    moved = Place(place.folder.rename(place.folder.with_name("moved")), place.variables)
    assert moved.run()[-1] == MADE[1]
    assert str(moved.folder) in (moved.folder / ".venv" / "bin" / "activate").read_text()


def test_the_tools_of_development_come_on_top_and_stay(place: Place) -> None:
    place.run()
    assert not (place.packages() / "tool.py").exists()
    assert place.run("requirements-dev.lock")[-1] == MADE[1]
    before = (place.packages() / "tool.py").stat()
    assert place.run() == place.run("requirements-dev.lock") == []
    assert (place.packages() / "tool.py").stat() == before


def test_another_lock_is_another_environment(place: Place) -> None:
    place.run("requirements-dev.lock")
    (place.folder / "requirements.lock").write_text((place.folder / "requirements.lock").read_text() + "\n")
    (place.folder / "requirements-dev.lock").write_text((place.folder / "requirements-dev.lock").read_text() + "\n")
    assert place.run()[-1] == MADE[1]
    assert not (place.packages() / "tool.py").exists()  # what the lock has not is not there


def test_a_file_that_is_not_the_one_of_the_lock_is_refused(place: Place) -> None:
    lock = place.folder / "requirements.lock"
    lock.write_text(re.sub("sha256:.", lambda hit: "sha256:" + ("1" if hit[0][-1] == "0" else "0"), lock.read_text()))
    said = place.run(code=70)
    assert "Hash mismatch" in "\n".join(said) and said[-1].startswith("accelmlf: error: ")


def test_indexes_of_pip_s_own_settings_are_used(place: Place, tmp_path: Path) -> None:
    """An index that has another version of the package comes first; pip would take the other one all the same."""
    for name in ("small", "uv", "tool"):
        add_wheel(tmp_path / "other", name, "0.1")
    settings = tmp_path / "pip.conf"
    first, second = (tmp_path / "other").as_uri(), place.variables["PIP_INDEX_URL"]
    settings.write_text(f"[global]\nindex-url = {first}\nextra-index-url =\n    {first}\n    {second}\n")
    place.variables.pop("PIP_INDEX_URL")
    assert place.run(PIP_CONFIG_FILE=str(settings))[-1] == MADE[1]
    assert place.run("requirements-dev.lock", code=70, PIP_INDEX_URL=first, PIP_CONFIG_FILE=os.devnull)  # the control


def test_a_second_start_waits_for_the_first_and_says_so(place: Place) -> None:
    with (place.folder / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = place.start()
        assert process.stderr is not None
        assert process.stderr.readline() == "accelmlf: another process is at work on .venv; waiting for it\n"
        assert not (place.folder / ".venv").exists()
    out, err = process.communicate(timeout=60)
    assert (out, err.splitlines()[-1]) == ("1\n", MADE[1])


def test_starts_at_the_same_time_make_it_once(place: Place) -> None:
    processes = [place.start() for _ in range(3)]
    said = [process.communicate(timeout=120) for process in processes]
    assert [out for out, _ in said] == ["1\n"] * 3
    assert sum(MADE[0] in err for _, err in said) == 1


@contextlib.contextmanager
def silent_index() -> Iterator[socket.socket]:
    """An index that takes a connection and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(60)
        yield server


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_script_alone_ends_what_it_has_started(place: Place, number: signal.Signals) -> None:
    with silent_index() as server:
        process = place.start(PIP_INDEX_URL=f"http://127.0.0.1:{server.getsockname()[1]}/simple")
        connection, _ = server.accept()
        children = psutil.Process(process.pid).children(recursive=True)
        assert any(child.name() == "uv" for child in children)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        connection.close()
    assert process.returncode == 128 + number
    assert err.splitlines()[-1] == "accelmlf: interrupted; run it again to go on"
    _, alive = psutil.wait_procs(children, timeout=10)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    assert place.run()[-1] == MADE[1]


def test_an_index_that_cannot_be_reached_is_one_line(place: Place) -> None:
    said = place.run(code=70, PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert said[-1].startswith("accelmlf: error: the package index cannot be reached. Check the network and pip's")
    assert place.run()[-1] == MADE[1]


def command(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_disk_without_space_is_one_line_and_its_code(place: Place, tmp_path: Path) -> None:
    command(tmp_path / "bin", "df", "printf 'Filesystem Blocks Used Available\\ndisk 9 9 8000000 99%% /\\n'")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    said = place.run(code=9, PATH=path)
    assert said == [f"accelmlf: error: {place.folder}: less than 8 GiB free. Use a larger disk"]
    (place.folder / ".venv").mkdir()  # the control: what is there already may need less
    assert place.run(PATH=path)[-1] == MADE[1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's disk that is always full")
def test_a_disk_that_becomes_full_is_one_line_and_its_code(place: Place) -> None:
    script = "source scripts/environment; visibly bash -c 'echo something >/dev/full'"
    ended = subprocess.run(["bash", "-c", script], cwd=place.folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 9
    assert ended.stderr.splitlines()[-1].startswith("accelmlf: error: the disk is full: 8 GiB are needed here")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_one_line_and_its_code(place: Place) -> None:
    place.folder.chmod(0o555)
    said = place.run(code=9)
    place.folder.chmod(0o755)
    assert said == [f"accelmlf: error: {place.folder}: no right to write there, or the disk is full"]


def test_a_python_that_is_too_old_is_passed_over_or_refused(place: Place, tmp_path: Path) -> None:
    command(tmp_path / "bin", "python3", "exit 1")  # as an old one does, when it is asked whether it is new enough
    for minor in range(11, 15):
        command(tmp_path / "bin", f"python3.{minor}", "exit 1")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    rule = "no Python 3.11 or newer. Install one and name it: PYTHON=/path/to/python3.11"
    assert place.run(code=70, PATH=path) == [f"accelmlf: error: python3: {rule}"]
    assert place.run(code=70, PYTHON="python2") == [f"accelmlf: error: PYTHON=python2: {rule}"]
    (tmp_path / "bin" / "python3.12").unlink()
    (tmp_path / "bin" / "python3.12").symlink_to(sys.executable)
    assert place.run(PATH=path)[-1] == MADE[1]


def test_a_system_without_the_venv_module_is_told_what_to_install(place: Place, tmp_path: Path) -> None:
    text = "The virtual environment was not created successfully because ensurepip is not available."
    command(tmp_path, "python", f'case $2 in venv) echo "{text}"; exit 1 ;; *) exec {sys.executable} "$@" ;; esac')
    (place.folder / ".uv").unlink()
    said = place.run(code=70, PYTHON=str(tmp_path / "python"))
    assert said[-1].endswith("has no venv module. Debian and Ubuntu: apt install python3-venv")


# --- the locks ---

LOCKS = ("requirements.lock", "requirements-dev.lock")


def locked(name: str) -> dict[str, str]:
    """What a lock has of each package: its line, and the hashes of its files."""
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    return {entry.partition(" \\")[0]: entry for entry in re.findall(r"^\S.*\\\n(?: .*\n?)+", text, flags=re.MULTILINE)}


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_a_lock_has_a_version_and_hashes_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    for entry in locked(name).values():
        first, *hashes = entry.replace(" \\", "").splitlines()
        assert re.fullmatch(r"[a-z0-9-]+==[^ ]+( ; .+)?", first)
        assert hashes and all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", line) for line in hashes)
    entries = "".join(locked(name).values())
    assert entries == "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    assert "://" not in text and "index" not in text and "find-links" not in text


@pytest.mark.parametrize(("name", "source"), [(name, name.replace(".lock", ".txt")) for name in LOCKS])
def test_a_lock_has_the_versions_that_the_requirements_name(name: str, source: str) -> None:
    wanted = re.findall(r"^[\w-]+==[^\s;]+", (ROOT / source).read_text(), flags=re.MULTILINE)
    assert wanted
    assert {line.replace("_", "-") for line in wanted} <= {line.partition(" ;")[0] for line in locked(name)}


def test_the_lock_of_development_has_all_of_the_other_and_its_header_says_how_it_is_made() -> None:
    run, dev = (locked(name) for name in LOCKS)
    assert run.items() < dev.items()
    for name in LOCKS:
        assert re.search(rf"^#    uv pip compile --universal .*-o {name}$", (ROOT / name).read_text(), re.MULTILINE)
