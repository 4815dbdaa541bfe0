"""The machine: what a result must say about hardware, versions and code."""

import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import torch  # it takes seconds, and who reads facts of other machines does not need it

PACKAGES = ("torch", "torchvision", "timm", "transformers", "mlflow", "optuna", "scikit-learn", "numpy", "pillow")
DECIDES_SPEED = (
    "hardware.cpu",
    "hardware.cpu_threads_used",
    "hardware.gpu",
    "hardware.cuda",
    "hardware.cudnn",
    "version.torch",
)
"""Facts of `as_tags` without which two times cannot be compared: other hardware, or other kernels on it."""


def describe(device: "torch.device", code: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Hardware, versions and the state of the code, as environment.json has them.

    `code`: the state of the code where another process knows it better; default `own_code_state`.
    """
    import torch

    hardware: dict[str, Any] = {
        "device": str(device),
        "cpu": cpu_name(),
        "cpu_cores": psutil.cpu_count(logical=False),
        "cpu_threads_used": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        hardware |= {
            "gpu": properties.name,
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "gpu_driver": _gpu_driver(),
        }
    software = {"python": platform.python_version(), "system": platform.platform()}
    return {
        "hardware": hardware,
        "versions": software | versions(),
        "code": own_code_state() if code is None else dict(code),
    }


def as_tags(environment: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """`describe`'s result as flat texts by part and name, such as hardware.cpu; what is not known is left out."""
    parts = {"hardware": "hardware", "versions": "version", "code": "code"}
    return {
        f"{parts[part]}.{name}": str(value)
        for part, facts in environment.items()
        for name, value in facts.items()
        if value is not None
    }


def decides_speed(texts: Mapping[str, str]) -> dict[str, str]:
    """Those of `as_tags` that decide how fast a machine is, by their names without the part."""
    return {name.partition(".")[2]: texts[name] for name in DECIDES_SPEED if name in texts}


def versions() -> dict[str, str]:
    """Installed versions of the packages that matter to a result."""
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


@cache
def cpu_name() -> str:
    """The processor's model name, or its architecture where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def own_code_state() -> dict[str, str]:
    """That of the code of this process, to be asked for before the files can have changed: the answer stays."""
    return code_state()


def code_state(root: Path = Path(__file__).parents[2]) -> dict[str, str]:
    """The commit of this package's checkout, and whether its files differ from it; empty outside one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "accelmlf/__init__.py")  # else the checkout found is somebody else's
        dirty = bool(git("status", "--porcelain", "--untracked-files=all", "--", "accelmlf/*.py"))
        return {"commit": git("rev-parse", "HEAD"), "uncommitted_changes": str(dirty).lower()}
    except (OSError, subprocess.SubprocessError):
        return {}


def _gpu_driver() -> str | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # NVML's own errors or a missing library: a missing fact must not end a run
        return None
