"""Another allocator is there from the first byte of a process, or is refused; glibc's own can be left again."""

import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from accelmlf.errors import ConfigError, DeviceError
from accelmlf.machine import isolation
from accelmlf.settings.technique_list import TechniqueList
from accelmlf.techniques import allocators
from accelmlf.techniques.allocators import environment_of, glibc_mallopt, is_loaded, library_of
from accelmlf.techniques.stack import TechniqueStack, build_stack

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
JEMALLOC = TechniqueList.parse("channels_last,allocator:jemalloc")


def stack_of(text: str) -> TechniqueStack:
    return build_stack(TechniqueList.parse(text), CPU)[0]


@pytest.mark.parametrize(
    ("preloaded", "libc", "says"),
    [("", "musl", "it needs glibc"), ("/usr/lib/libjemalloc.so.2", "glibc", "LD_PRELOAD has put another allocator")],
)
def test_an_allocator_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, preloaded: str, libc: str, says: str
) -> None:
    monkeypatch.setenv("LD_PRELOAD", preloaded)
    monkeypatch.setattr("platform.libc_ver", lambda: (libc, "1"))
    with pytest.raises(DeviceError, match=says):
        stack_of("allocator")


STEPS_OF_A_NETWORK = """
import sys
import torch
import torch.nn.functional as F
from accelmlf.machine.presence import Counters
from accelmlf.models.families import build_model
from accelmlf.settings.technique_list import TechniqueList
from accelmlf.techniques.stack import build_stack

torch.set_num_threads(1)
model = build_model("efficientnet_b0", "random", num_classes=10, image_size=32)
pictures, labels = torch.randn(32, 3, 32, 32), torch.arange(32) % 10

def faults(steps):
    before = Counters.read()
    for _ in range(steps):
        model.zero_grad()
        F.cross_entropy(model(pictures), labels).backward()
    return Counters.read().since(before).minor_faults / steps

techniques, _ = build_stack(TechniqueList.parse(sys.argv[1]), torch.device("cpu"))
with techniques.process_context():
    faults(5)  # until the heap has its size
    within = faults(4)
faults(1)
print(within, faults(4))
"""


@pytest.mark.slow
@pytest.mark.skipif(glibc_mallopt() is None, reason="no glibc")
def test_an_allocator_that_keeps_memory_spares_a_training_its_page_faults_until_it_is_left() -> None:
    def faults_per_step(techniques: str) -> tuple[float, float]:
        command = [sys.executable, "-c", STEPS_OF_A_NETWORK, techniques]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        within, after = map(float, ended.stdout.split())
        return within, after

    without, _ = faults_per_step("none")
    kept, after = faults_per_step("allocator")
    assert kept < 0.2 * without
    assert after > 0.3 * without  # the control: it was the switch


# --- those that a process is started with ---


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A library by the name of jemalloc, which allocates nothing, where the linker finds it."""
    (tmp_path / "nothing.c").write_text("int nothing;")
    library = tmp_path / "libjemalloc.so.2"
    command = [
        "cc",
        "-shared",
        "-fPIC",
        "-Wl,-soname,libjemalloc.so.2",
        "-o",
        str(library),
        str(tmp_path / "nothing.c"),
    ]
    subprocess.run(command, check=True)
    (tmp_path / "libjemalloc.so").symlink_to(library)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    library_of.cache_clear()
    yield library.name
    library_of.cache_clear()


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("ctypes.util.find_library", lambda _: None)
    library_of.cache_clear()
    yield
    library_of.cache_clear()


@pytest.mark.usefixtures("not_installed")
@pytest.mark.parametrize("name", allocators.LIBRARIES)
def test_one_that_is_not_installed_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match=f"^techniques=allocator:{name}: .*{name} is not installed"):
        stack_of(f"allocator:{name}")
    assert environment_of(TechniqueList.parse(f"allocator:{name}")) == {}


def test_what_a_process_needs_before_it_begins(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert environment_of(JEMALLOC) == {"LD_PRELOAD": installed}
    assert environment_of(TechniqueList.parse("channels_last,allocator")) == {}
    monkeypatch.setenv("LD_PRELOAD", "libother.so")
    assert environment_of(JEMALLOC) == {"LD_PRELOAD": f"libother.so {installed}"}


def look(library: str) -> tuple[bool, bool]:
    """In a process of its own: whether the library is there, and whether the technique can be used."""
    with stack_of(str(JEMALLOC)).process_context():
        return is_loaded(library), bool(environment_of(JEMALLOC))


def answer(connection: Connection, library: str) -> None:
    connection.send(look(library))


@pytest.mark.slow
def test_a_process_that_was_started_with_it_has_it_and_one_that_was_not_says_so(installed: str) -> None:
    with isolation.process(answer, installed, environment=environment_of(JEMALLOC)) as talk:
        assert talk.receive() == (True, False)
    assert "LD_PRELOAD" not in os.environ or installed not in os.environ["LD_PRELOAD"]
    with pytest.raises(ConfigError, match=f"not started with it. Start it with LD_PRELOAD={installed}"):
        look(installed)  # the control


@pytest.mark.slow
def test_a_run_starts_itself_again_with_it(installed: str, tmp_path: Path) -> None:
    settings = ["--techniques", "allocator:jemalloc", "--train_images", "60", "--epochs", "1", "--device", "cpu"]
    own = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    command = [sys.executable, "-m", "accelmlf", "vit", *settings]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "epoch 1/1" in ended.stdout and installed not in ended.stderr


@pytest.mark.slow
@pytest.mark.skipif(library_of("jemalloc") is None, reason="no jemalloc")
def test_the_real_one_allocates() -> None:
    code = "import ctypes; print(bool(ctypes.CDLL(None).malloc_stats_print))"
    environment = {**os.environ, **environment_of(JEMALLOC)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "True"
