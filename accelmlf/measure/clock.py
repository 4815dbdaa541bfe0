"""Clocks of devices: when what a device was given is done, and marks on its own timeline."""

import time
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """A device's clock. `now_s` means something only right after `synchronize`."""

    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""

    def now_s(self) -> float:
        """Host seconds, monotonic."""

    def mark(self) -> Any:
        """A point on the device's timeline, without waiting for the device to reach it."""

    def seconds_between(self, start: Any, end: Any) -> float:
        """Between two marks; after `synchronize` only."""


def stamp_s(clock: Clock) -> float:
    """Host seconds when the device has done all it was given: how every measured figure reads the clock."""
    clock.synchronize()
    return clock.now_s()


class HostClock:
    """A CPU: what it was given is done when the call returns."""

    def synchronize(self) -> None: ...

    def now_s(self) -> float:
        return time.perf_counter()

    def mark(self) -> float:
        return time.perf_counter()

    def seconds_between(self, start: float, end: float) -> float:
        return end - start


class CudaClock(HostClock):
    """Events on the current stream of one GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def mark(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds_between(self, start: Any, end: Any) -> float:
        milliseconds: float = start.elapsed_time(end)
        return milliseconds / 1e3


class MpsClock(HostClock):
    """An Apple GPU (untested): epochs are right, phases are those of the host."""

    def synchronize(self) -> None:
        torch.mps.synchronize()
