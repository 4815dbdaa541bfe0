"""The clock: synchronised stamps, phases that add up, nothing captured that is not there."""

import gc
import mmap
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from accelmlf.machine import presence
from accelmlf.machine.memory import MIB, host_peak_mib
from accelmlf.machine.presence import Counters
from accelmlf.measure.clock import HostClock, stamp_s
from accelmlf.measure.cost import Cost, Meter, meter_for, total_of
from accelmlf.measure.gpu import GpuState
from accelmlf.run.loop import train_epochs
from tests.makers import make_config, make_work
from tests.measure.makers import FakeDevice


def test_a_stamp_waits_for_the_device_and_the_fake_notices_one_that_does_not() -> None:
    device = FakeDevice()
    device.give(2.0)
    assert stamp_s(device) == 102.0
    device.give(2.0)
    device.mark()
    with pytest.raises(AssertionError, match="without a synchronisation"):
        device.now_s()


def test_phases_are_what_the_device_waited_and_add_up_to_the_epoch() -> None:
    device = FakeDevice()
    meter = Meter(device)
    with meter:
        device.idle_host(0.5)  # the loader keeps the device waiting
        meter.lap("data_wait")
        device.give(3.0)
        meter.lap("forward")
        device.idle_host(1.0)  # hidden: the device is still busy
        meter.lap("data_wait")
        device.give(2.0)
        meter.lap("backward")
        device.idle_host(6.0)  # after the last lap: nobody's phase
    cost = meter.cost(images=10)
    assert cost.phases_s == pytest.approx({"data_wait": 0.5, "forward": 3.0, "backward": 2.0})
    assert cost.train_s == pytest.approx(7.5)
    assert cost.other_s == pytest.approx(2.0)
    assert sum(cost.phases_s.values()) + cost.other_s == pytest.approx(cost.train_s)


def test_a_cpu_has_no_gpu_figures_and_they_are_absent_not_zero(tiny_model: None) -> None:
    meter = meter_for(torch.device("cpu"))
    assert isinstance(meter.clock, HostClock)
    with meter:
        meter.lap("forward")
    cost = meter.cost(1)
    assert (cost.gpu_joules, cost.gpu_peak_allocated_mib, cost.gpu_peak_reserved_mib) == (None, None, None)
    work = make_work(make_config(epochs=1))
    logged = next(iter(train_epochs(work, max_epochs=1))).as_metrics()
    assert not [name for name in logged if name.startswith(("energy", "memory/gpu"))]


def test_the_peak_of_host_memory_is_that_of_the_epoch() -> None:
    meter = meter_for(torch.device("cpu"))
    with meter:
        with mmap.mmap(-1, 64 * MIB) as block:  # of the system itself: the heap may have as much to spare
            for page in range(0, len(block), mmap.PAGESIZE):
                block[page] = 1
        meter.lap("forward")
    with_block = meter.cost(1).host_peak_mib
    with meter:
        meter.lap("forward")
    without = meter.cost(1).host_peak_mib
    assert with_block is not None and without is not None
    assert with_block - without > 50
    assert host_peak_mib() > 0


@pytest.mark.parametrize(("readings", "joules"), [([5.0, 7.5], 2.5), ([5.0, None], None), ([None, 7.5], None)])
def test_an_energy_counter_that_fails_in_between_is_no_figure(
    readings: list[float | None], joules: float | None
) -> None:
    left = iter(readings)
    meter = Meter(HostClock(), energy=lambda: next(left))
    with meter:
        meter.lap("forward")
    assert meter.cost(1).gpu_joules == joules


# --- what the machine gave ---


def test_the_processor_time_of_a_stretch_is_counted_off_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    read, thread_waits_s = Counters.read, presence.thread_waits_s

    def slow_read() -> Counters:
        device.idle_host(7.0)
        device.calls.append("count")
        return read()

    monkeypatch.setattr(Counters, "read", slow_read)
    meter = Meter(device)
    with meter:
        device.give(3.0)
        sum(range(2_000_000))
        meter.lap("forward")
    cost = meter.cost(1)
    assert cost.train_s == 3.0
    assert device.calls[:3] == ["count", "synchronize", "now"]
    assert device.calls[-3:] == ["synchronize", "now", "count"]
    assert cost.presence is not None and cost.presence.cpu_s > 0.01
    assert (cost.missing_cores_share is None) == (thread_waits_s() is None)


class Cycle:
    """What only the collector can free."""

    def __init__(self) -> None:
        self.own = self


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generation of each collection of garbage, as it begins."""
    begun: list[int] = []

    def note(phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            begun.append(info["generation"])

    gc.callbacks.append(note)
    yield begun
    gc.callbacks.remove(note)


def many_cycles() -> None:
    for _ in range(20 * gc.get_threshold()[0]):
        Cycle()


def test_no_garbage_is_collected_inside_a_stretch(collections: list[int]) -> None:
    meter = Meter(HostClock())
    with meter:
        collections.clear()
        many_cycles()
        assert collections == []
    many_cycles()
    assert len(collections) > 5  # the control


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("ends", ["well", "stretch raises", "device raises"])
def test_afterwards_the_collector_is_as_it_was(before: bool, ends: str) -> None:
    device = FakeDevice()

    def broken() -> None:
        raise RuntimeError("device lost")

    (gc.enable if before else gc.disable)()
    try:
        meter = Meter(device)
        try:
            with meter:
                assert not gc.isenabled()
                if ends == "device raises":
                    device.synchronize = broken  # type: ignore[method-assign]
                elif ends == "stretch raises":
                    raise RuntimeError("no memory")
        except RuntimeError:
            assert ends != "well"
        assert gc.isenabled() is before
    finally:
        gc.enable()


def test_what_a_stretch_has_left_is_freed_before_the_next_and_off_the_clock(collections: list[int]) -> None:
    freed: list[list[str]] = []
    device = FakeDevice()
    meter = Meter(device)
    with meter:
        left = Cycle()
        weakref.finalize(left, lambda: freed.append(list(device.calls)))
        del left
    assert freed == []
    device.calls.clear()
    collections.clear()
    with meter:
        pass
    assert freed == [[]]  # before the clock was read
    assert collections[0] == 1


# --- who else is on the GPU, and how it does ---


@pytest.mark.parametrize(
    ("at_start", "at_end", "known"),
    [
        (GpuState(345.0, 60.0, 0x1), GpuState(1_980.0, 70.0, 0x40), GpuState(1_980.0, 70.0, 0x41)),
        (GpuState(345.0, 80.0, 0x8), GpuState(1_980.0, 70.0, 0), GpuState(1_980.0, 80.0, 0x8)),
        (None, GpuState(1_980.0), GpuState(1_980.0)),
        (GpuState(345.0, 60.0, 0x8), None, GpuState(None, 60.0, 0x8)),
        (None, None, None),
    ],
)
def test_a_gpu_is_looked_at_at_both_ends_and_its_clock_at_the_end_when_it_does_not_idle(
    at_start: GpuState | None, at_end: GpuState | None, known: GpuState | None
) -> None:
    left = iter((at_start, at_end))
    meter = Meter(HostClock(), gpu_state=lambda: next(left))
    with meter:
        meter.lap("forward")
    assert meter.cost(1).gpu_state == known


@pytest.mark.parametrize(
    ("counts", "known"), [((2, 2), 2), ((0, 3), 3), ((3, 0), 3), ((None, 1), 1), ((1, None), 1), ((None, None), None)]
)
def test_others_are_counted_at_both_ends_of_an_epoch_and_off_its_clock(
    counts: tuple[int | None, int | None], known: int | None
) -> None:
    device, left = FakeDevice(), iter(counts)

    def neighbours() -> int | None:
        device.idle_host(7.0)
        device.calls.append("count")
        return next(left)

    meter = Meter(device, neighbours=neighbours)
    with meter:
        device.give(3.0)
        meter.lap("forward")
    cost = meter.cost(1)
    assert (cost.other_gpu_processes, cost.train_s) == (known, 3.0)
    assert device.calls[:3] == ["count", "synchronize", "now"]
    assert device.calls[-3:] == ["synchronize", "now", "count"]


def test_a_cpu_has_no_count_of_processes() -> None:
    meter = meter_for(torch.device("cpu"))
    with meter:
        meter.lap("forward")
    assert meter.cost(1).other_gpu_processes is None


# --- several epochs as one ---


def cost(seconds: float, **captured: Any) -> Cost:
    return Cost(seconds, {"forward": 0.5 * seconds, "backward": 0.25 * seconds}, 100, **captured)


def test_epochs_together_are_sums_of_what_is_spent_and_peaks_of_what_is_held() -> None:
    total = total_of(
        [
            cost(2.0, host_peak_mib=50.0, gpu_peak_allocated_mib=7.0, gpu_joules=10.0, other_gpu_processes=0),
            cost(6.0, host_peak_mib=40.0, gpu_peak_allocated_mib=9.0, gpu_joules=20.0, other_gpu_processes=3),
            cost(4.0, host_peak_mib=45.0, gpu_peak_allocated_mib=8.0, gpu_joules=30.0, other_gpu_processes=1),
        ]
    )
    assert (total.train_s, total.images, total.gpu_joules) == (12.0, 300, 60.0)
    assert total.phases_s == {"forward": 6.0, "backward": 3.0}
    assert (total.host_peak_mib, total.gpu_peak_allocated_mib, total.other_gpu_processes) == (50.0, 9.0, 3)
    assert total.images_per_s == 25.0
    assert sum(total.phases_s.values()) + total.other_s == pytest.approx(total.train_s)


def test_of_several_epochs_the_slowest_clock_the_highest_temperature_and_every_reason_stay() -> None:
    states = (GpuState(1_900.0, 60.0, 0x4), None, GpuState(1_700.0, None, 0x20), GpuState(None, 75.0, None))
    assert total_of([cost(1.0, gpu_state=state) for state in states]).gpu_state == GpuState(1_700.0, 75.0, 0x24)


def test_processor_time_that_one_epoch_lacks_is_no_sum() -> None:
    now = Counters.read()
    known = now.since(now)
    assert total_of([cost(1.0, presence=known)] * 2).presence == known
    assert total_of([cost(1.0, presence=known), cost(1.0)]).presence is None


def test_one_epoch_is_itself() -> None:
    one = cost(3.0, host_peak_mib=5.0, gpu_joules=1.0, other_gpu_processes=0, gpu_state=GpuState(1_900.0))
    assert total_of([one]) == one
    assert total_of([one, one]) != one


def test_what_no_epoch_has_captured_is_absent_of_all() -> None:
    total = total_of([cost(1.0), cost(1.0)])
    peaks = (total.host_peak_mib, total.gpu_peak_allocated_mib, total.gpu_peak_reserved_mib)
    assert (*peaks, total.gpu_joules, total.other_gpu_processes) == (None,) * 5


def test_energy_that_one_epoch_lacks_is_no_sum_and_a_peak_is_of_those_that_were_seen() -> None:
    total = total_of([cost(1.0, gpu_joules=5.0, host_peak_mib=3.0, other_gpu_processes=1), cost(1.0)])
    assert total.gpu_joules is None
    assert (total.host_peak_mib, total.other_gpu_processes) == (3.0, 1)


def test_no_energy_at_all_is_a_figure() -> None:
    """The control: 0 is not absent."""
    total = total_of([cost(1.0, gpu_joules=0.0, other_gpu_processes=0)] * 2)
    assert (total.gpu_joules, total.other_gpu_processes) == (0.0, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_events_measure_the_device_and_not_the_host(tiny_model: None) -> None:
    device = torch.device("cuda", 0)
    meter = meter_for(device)
    matrix = torch.randn(4096, 4096, device=device)
    with meter:
        for _ in range(20):
            matrix = matrix @ matrix / 64
        meter.lap("forward")
        meter.lap("backward")
    cost = meter.cost(1)
    assert cost.phases_s["forward"] > 100 * cost.phases_s["backward"]
    assert abs(cost.other_s) < 0.05 * cost.train_s
    assert cost.gpu_peak_allocated_mib is not None and cost.gpu_peak_allocated_mib > 64
