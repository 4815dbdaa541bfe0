"""Devices: which one a run gets, what names it, and what it can compute."""

import os
import platform

import torch

from accelmlf.errors import ConfigError, DeviceError
from accelmlf.text import counted


def pick_device(text: str) -> torch.device:
    """auto, cpu, cuda, cuda:N or mps as a device that is there; auto never picks mps, which is untested.

    Raises:
        ConfigError: not a device's name.
        DeviceError: a device that this machine does not have.
    """
    kind, _, number = text.partition(":")
    if text not in ("auto", "cpu", "cuda", "mps") and not (kind == "cuda" and number.isdecimal()):
        raise ConfigError("device", text, "not a device", "Use auto, cpu, cuda, cuda:N or mps")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "auto":
        return torch.device("cuda:0" if gpus else "cpu")
    if kind == "cuda" and int(number or 0) >= gpus:
        found = f"torch {torch.__version__} finds {counted(gpus, 'CUDA device')}"
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        found += "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible!r}"
        raise DeviceError("device", text, found, "Use device=auto, or a device that is there")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device", text, "torch finds no Apple GPU", "Use device=auto")
    return torch.device("cuda", int(number or 0)) if kind == "cuda" else torch.device(text)


def device_key(device: torch.device) -> str:
    """The GPU's own identifier, because CUDA_VISIBLE_DEVICES renumbers them; or cpu."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else device.type


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is in the hardware rather than emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if platform.machine() in ("x86_64", "AMD64"):
        # oneDNN calls any AVX-512 processor supported, and emulates.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
