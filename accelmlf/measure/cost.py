"""What a stretch of training costs: the training clock and its phases, memory, energy, and what the machine gave.

Phases are consecutive intervals on one timeline, so they add up. On CUDA the marks are events on the compute stream:
`data_wait` and `transfer` are what the device waited, not what the host did. On a CPU they are host time.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import Any, TypeVar

import torch

from accelmlf.machine.memory import MIB, host_peak_mib, reset_host_peak
from accelmlf.machine.presence import Counters, Presence, total_presence
from accelmlf.measure.clock import Clock, CudaClock, HostClock, MpsClock, stamp_s

T = TypeVar("T")

PHASES = ("data_wait", "transfer", "augment", "forward", "backward", "optimizer")
"""In the order of a step. `augment` is what pipeline=memory does on the device; a stream does it in the loader."""


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
class Cost:
    """Costs of one stretch of training: an epoch, or some steps of it. A thing that was not captured is None."""

    train_s: float
    phases_s: dict[str, float]
    images: int
    host_peak_mib: float | None = None
    gpu_peak_allocated_mib: float | None = None
    gpu_peak_reserved_mib: float | None = None
    gpu_joules: float | None = None
    other_gpu_processes: int | None = None
    gpu_state: GpuState | None = None
    presence: Presence | None = None

    @property
    def other_s(self) -> float:
        """The time minus its phases."""
        return self.train_s - sum(self.phases_s.values())

    @property
    def missing_cores_share(self) -> float | None:
        """Of the processor time that training asked for, what others had."""
        return None if self.presence is None else self.presence.missing_share

    @property
    def images_per_s(self) -> float:
        return self.images / self.train_s


def total_of(costs: Sequence[Cost]) -> Cost:
    """Several stretches as one: times, pictures and energy are sums, memory and company the highest."""

    def known(name: str) -> list[Any]:
        return [value for cost in costs if (value := getattr(cost, name)) is not None]

    phases = {phase: sum(cost.phases_s.get(phase, 0.0) for cost in costs) for phase in costs[0].phases_s}
    highest = ("host_peak_mib", "gpu_peak_allocated_mib", "gpu_peak_reserved_mib", "other_gpu_processes")
    return Cost(
        sum(cost.train_s for cost in costs),
        phases,
        sum(cost.images for cost in costs),
        gpu_joules=sum(known("gpu_joules")) if len(known("gpu_joules")) == len(costs) else None,
        gpu_state=total_state([cost.gpu_state for cost in costs]),
        presence=total_presence([cost.presence for cost in costs]),
        **{name: max(known(name), default=None) for name in highest},
    )


@dataclass
class Meter:
    """Measures one stretch of training: `with meter: ... meter.lap("forward") ...`, then `meter.cost(images)`.

    The device is synchronised once at each end, before the host's clock is read, and never in between. Python's
    collector of garbage rests meanwhile: where it ran would be chance.
    """

    clock: Clock
    memory: "GpuMemory | None" = None
    energy: "Callable[[], float | None]" = lambda: None
    neighbours: "Callable[[], int | None]" = lambda: None
    gpu_state: "Callable[[], GpuState | None]" = lambda: None
    marks: list[tuple[str, Any]] = field(default_factory=list)

    def __enter__(self) -> "Meter":
        reset_host_peak()
        if self.memory is not None:
            self.memory.reset_peak()
        self.start_joules, self.others, self.state = self.energy(), self.neighbours(), self.gpu_state()
        gc.collect(1)  # what is young; all there is takes a quarter of a second
        self.collects_garbage = gc.isenabled()
        gc.disable()
        self.counters = Counters.read()
        self.start_s = stamp_s(self.clock)
        self.marks = [("", self.clock.mark())]
        return self

    def lap(self, phase: str) -> None:
        """The time since the last lap was `phase`."""
        self.marks.append((phase, self.clock.mark()))

    def __exit__(self, *_: object) -> None:
        try:
            self.train_s = stamp_s(self.clock) - self.start_s
        finally:
            if self.collects_garbage:
                gc.enable()
        self.presence = Counters.read().since(self.counters)
        end_joules = self.energy()
        self.joules = None
        if self.start_joules is not None and end_joules is not None:
            self.joules = end_joules - self.start_joules
        # One that came or went meanwhile is seen at one end of the two.
        self.others = max((n for n in (self.others, self.neighbours()) if n is not None), default=None)
        at_start = self.state and replace(self.state, sm_clock_mhz=None)  # it may have idled until then
        self.state = total_state([at_start, self.gpu_state()])

    def cost(self, images: int) -> Cost:
        """The costs of the stretch that was measured."""
        phases: dict[str, float] = {}
        for (_, start), (phase, end) in zip(self.marks, self.marks[1:], strict=False):
            phases[phase] = phases.get(phase, 0.0) + self.clock.seconds_between(start, end)
        allocated, reserved = self.memory.peaks_mib() if self.memory else (None, None)
        gpu = (allocated, reserved, self.joules, self.others, self.state)
        return Cost(self.train_s, phases, images, host_peak_mib(), *gpu, self.presence)


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


def meter_for(device: torch.device) -> Meter:
    """The meter of a device, with whatever it can measure there."""
    if device.type == "cuda":
        readings = (nvml_joules(device), nvml_other_processes(device), nvml_state(device))
        return Meter(CudaClock(device), GpuMemory(device), *readings)
    return Meter(MpsClock() if device.type == "mps" else HostClock())


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


PHASE_COLOURS = {
    "data_wait": "#d62728",
    "transfer": "#ff7f0e",
    "augment": "#bcbd22",
    "forward": "#1f77b4",
    "backward": "#17506f",
    "optimizer": "#9467bd",
    "other": "#c7c7c7",
}
