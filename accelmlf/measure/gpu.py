"""What a GPU says of itself: torch's allocator of its memory, and NVML of its energy, its company and its clocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, TypeVar

import torch

from accelmlf.machine.memory import MIB

T = TypeVar("T")


@dataclass(frozen=True)
class GpuState:
    """How a GPU does at one moment, or in several: the lowest clock, the highest temperature, every reason."""

    sm_clock_mhz: float | None = None
    temperature_c: float | None = None
    throttle_reasons: int | None = None
    """Why the clock is not higher, as NVML's bits; nvmlClocksEventReasons."""


def total_state(states: Sequence[GpuState | None]) -> GpuState | None:
    """Several moments as one."""
    known = [state for state in states if state is not None]
    clocks = [state.sm_clock_mhz for state in known if state.sm_clock_mhz is not None]
    temperatures = [state.temperature_c for state in known if state.temperature_c is not None]
    reasons = [state.throttle_reasons for state in known if state.throttle_reasons is not None]
    bits = reduce(or_, reasons) if reasons else None
    return GpuState(min(clocks, default=None), max(temperatures, default=None), bits) if known else None


@dataclass(frozen=True)
class GpuMemory:
    """Peaks of torch's allocator on one GPU."""

    device: torch.device

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def peaks_mib(self) -> tuple[float, float]:
        """Allocated and reserved since the reset."""
        return (
            torch.cuda.max_memory_allocated(self.device) / MIB,
            torch.cuda.max_memory_reserved(self.device) / MIB,
        )


def nvml_joules(device: torch.device) -> Callable[[], float | None]:
    """A reading of the GPU's energy counter in joules; it gives None where there is none, or it fails.

    The counter is of the whole GPU: other processes on it count too. Source: NVML, nvmlDeviceGetTotalEnergyConsumption.
    """
    return _nvml_reading(device, lambda nvml, gpu: float(nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)) / 1e3)


def nvml_other_processes(device: torch.device) -> Callable[[], int | None]:
    """A count of the processes that compute on the GPU beside this one; None where NVML does not see even this one.

    Counted, not looked up: in a container a process has another number than NVML knows it by.
    """

    def others(nvml: Any, gpu: Any) -> int | None:
        seen = len(nvml.nvmlDeviceGetComputeRunningProcesses(gpu))
        return seen - 1 if seen else None

    return _nvml_reading(device, others)


def nvml_state(device: torch.device) -> Callable[[], GpuState | None]:
    """How the GPU does now; what it does not answer is None, and so is all of it where there is no NVML."""

    def state(nvml: Any, gpu: Any) -> GpuState:
        def answer(question: str, *of: str) -> Any:
            try:
                return getattr(nvml, question)(gpu, *(getattr(nvml, name) for name in of))
            except Exception:
                return None

        return GpuState(
            answer("nvmlDeviceGetClockInfo", "NVML_CLOCK_SM"),
            answer("nvmlDeviceGetTemperature", "NVML_TEMPERATURE_GPU"),
            answer("nvmlDeviceGetCurrentClocksThrottleReasons"),
        )

    return _nvml_reading(device, state)


def _nvml_reading(device: torch.device, read: Callable[[Any, Any], T | None]) -> Callable[[], T | None]:
    """`read(pynvml, handle of the GPU)` as a function; None, now or later, where NVML or that question fails."""
    # Whatever NVML or its absence raises: a missing figure must not end a run.
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
    except Exception:
        return lambda: None

    def reading() -> T | None:
        try:
            return read(pynvml, handle)
        except Exception:
            return None

    return reading
