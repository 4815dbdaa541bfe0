"""What a stretch of training costs: the training clock and its phases, memory, energy, and what the machine gave.

Phases are consecutive intervals on one timeline, so they add up. On CUDA the marks are events on the compute stream:
`data_wait` and `transfer` are what the device waited, not what the host did. On a CPU they are host time.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from accelmlf.machine.memory import host_peak_mib, reset_host_peak
from accelmlf.machine.presence import Counters, Presence, total_presence
from accelmlf.measure.clock import Clock, CudaClock, HostClock, MpsClock, stamp_s
from accelmlf.measure.gpu import GpuMemory, GpuState, nvml_joules, nvml_other_processes, nvml_state, total_state

PHASES = ("data_wait", "transfer", "augment", "forward", "backward", "optimizer")
"""In the order of a step. `augment` is what pipeline=memory does on the device; a stream does it in the loader."""
MAX_OTHER_SHARE = 0.02
"""Above this share of unexplained time the phases support no claim."""


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
    def unexplained(self) -> str | None:
        """What its phases leave of the time, or have too much, where that is too much for a claim."""
        share = abs(self.other_s) / self.train_s
        return f"phases leave {share:.1%} of the epochs unexplained" if share > MAX_OTHER_SHARE else None

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
    memory: GpuMemory | None = None
    energy: Callable[[], float | None] = lambda: None
    neighbours: Callable[[], int | None] = lambda: None
    gpu_state: Callable[[], GpuState | None] = lambda: None
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


def meter_for(device: torch.device) -> Meter:
    """The meter of a device, with whatever it can measure there."""
    if device.type == "cuda":
        readings = (nvml_joules(device), nvml_other_processes(device), nvml_state(device))
        return Meter(CudaClock(device), GpuMemory(device), *readings)
    return Meter(MpsClock() if device.type == "mps" else HostClock())


PHASE_COLOURS = {
    "data_wait": "#d62728",
    "transfer": "#ff7f0e",
    "augment": "#bcbd22",
    "forward": "#1f77b4",
    "backward": "#17506f",
    "optimizer": "#9467bd",
    "other": "#c7c7c7",
}
