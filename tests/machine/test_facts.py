import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
import torch

from accelmlf.errors import ConfigError, DeviceError
from accelmlf.machine import facts as environment
from accelmlf.machine.devices import pick_device
from accelmlf.machine.facts import PACKAGES, as_tags, code_state, describe

CPU = torch.device("cpu")
GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0
ROOT = Path(environment.__file__).parents[1]


def test_auto_is_the_first_gpu_or_else_the_cpu() -> None:
    assert pick_device("auto") == torch.device("cuda:0" if GPUS else "cpu")
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize(
    "text", ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:1.5", "cpu:0", "auto:0", "cuda 0"]
)
def test_what_is_no_device_is_a_usage_error(text: str) -> None:
    with pytest.raises(ConfigError, match=f"device={text}: not a device. Use auto, cpu, cuda") as caught:
        pick_device(text)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", [f"cuda:{GPUS}", "cuda:99"] + ["cuda"] * (GPUS == 0))
def test_a_gpu_that_is_not_there_is_a_device_error_that_counts_those_that_are(text: str) -> None:
    with pytest.raises(DeviceError, match=f"device={text}: .*finds {GPUS} CUDA device") as caught:
        pick_device(text)
    assert caught.value.exit_code == 5
    assert "device=auto" in caught.value.remedy


def test_the_variable_that_hides_gpus_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(DeviceError) as plain:
        pick_device("cuda:99")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES='5'"):
        pick_device("cuda:99")
    assert "CUDA_VISIBLE_DEVICES" not in str(plain.value)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="needs a machine without an Apple GPU")
def test_an_apple_gpu_that_is_not_there_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match="no Apple GPU"):
        pick_device("mps")


@pytest.mark.gpu
@pytest.mark.skipif(not GPUS, reason="needs a CUDA device")
def test_a_gpu_is_described_with_its_memory_and_driver() -> None:
    assert pick_device("cuda") == pick_device("cuda:0") == torch.device("cuda:0")
    hardware = describe(torch.device("cuda:0"))["hardware"]
    assert hardware["gpu"] == torch.cuda.get_device_name(0)
    assert hardware["gpu_memory_gib"] > 0
    assert hardware["gpu_driver"]


def test_a_description_has_the_hardware_the_versions_and_the_code_as_plain_json() -> None:
    facts = describe(CPU)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["hardware"]["device"] == "cpu"
    assert facts["hardware"]["cpu"]
    assert 0 < facts["hardware"]["memory_gib"] < 1e5
    assert "gpu" not in facts["hardware"]
    assert facts["versions"]["python"] == platform.python_version()
    assert {name: facts["versions"][name] for name in PACKAGES} == {name: metadata.version(name) for name in PACKAGES}


def test_the_number_of_threads_is_that_of_now() -> None:
    before = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            assert describe(CPU)["hardware"]["cpu_threads_used"] == number
    finally:
        torch.set_num_threads(before)


def test_the_state_of_the_code_is_its_commit_or_nothing_outside_a_checkout() -> None:
    asked = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    expected = {asked.stdout.strip()} if asked.returncode == 0 else set()
    state = describe(CPU)["code"]
    assert {state[name] for name in ("commit",) if name in state} == expected
    assert state.get("uncommitted_changes", "true") in ("true", "false")


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "accelmlf").mkdir()
    (tmp_path / "accelmlf" / "__init__.py").write_text("")
    (tmp_path / "README.md").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "README.md")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_code_that_the_repository_found_does_not_track_has_no_state(checkout: Path) -> None:
    assert code_state(checkout) == {}
    git(checkout, "add", "accelmlf")
    git(checkout, "commit", "--quiet", "--message", "second")
    state = code_state(checkout)
    assert len(state["commit"]) == 40
    assert state["uncommitted_changes"] == "false"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("accelmlf/__init__.py", "true"),
        ("accelmlf/new.py", "true"),
        ("accelmlf/deeper/new.py", "true"),
        ("accelmlf/notes.txt", "false"),
        ("elsewhere.py", "false"),
    ],
)
def test_a_changed_or_new_file_of_the_package_is_an_uncommitted_change(
    checkout: Path, changed: str, expected: str
) -> None:
    git(checkout, "add", "accelmlf")
    git(checkout, "commit", "--quiet", "--message", "second")
    (checkout / changed).parent.mkdir(exist_ok=True)
    (checkout / changed).write_text("pass\n")
    assert code_state(checkout)["uncommitted_changes"] == expected


def test_tags_are_flat_texts_and_leave_out_what_is_not_known() -> None:
    facts: dict[str, dict[str, object]]
    facts = {"hardware": {"cpu": "x", "gpu_driver": None}, "versions": {"torch": "2"}, "code": {"commit": "abc"}}
    assert as_tags(facts) == {
        "hardware.cpu": "x",
        "version.torch": "2",
        "code.commit": "abc",
    }
    described = as_tags(describe(CPU))
    assert all(isinstance(value, str) for value in described.values())
    assert {name.partition(".")[0] for name in described} >= {"hardware", "version"}
    assert described["version.torch"] == metadata.version("torch")
