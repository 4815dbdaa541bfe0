"""What NVML answers is recorded, what it does not answer is absent, and nothing of it ends a run."""

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from accelmlf.measure.gpu import GpuState, nvml_joules, nvml_other_processes, nvml_state


class FakeNvml:
    """NVML as it answers on a GPU with so many processes; it can begin to fail."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    def __init__(self, processes: int, reasons: int | None = 0x4) -> None:
        self.processes: int | None = processes
        self.reasons = reasons

    def nvmlDeviceGetClockInfo(self, gpu: str, domain: int) -> int:
        assert (gpu, domain) == ("the GPU", 1)
        return 1_980

    def nvmlDeviceGetTemperature(self, gpu: str, sensor: int) -> int:
        assert (gpu, sensor) == ("the GPU", 0)
        return 61

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: str) -> int:
        if self.reasons is None:
            raise RuntimeError("NVMLError_NotSupported")
        return self.reasons

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-0123"
        return "the GPU"

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: str) -> list[object]:
        assert gpu == "the GPU"
        if self.processes is None:
            raise RuntimeError("NVMLError_GpuIsLost")
        return [object()] * self.processes


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeNvml], None]:
    """Make that the NVML of the machine, and its GPU one of torch's."""

    def installed(nvml: FakeNvml) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="0123"))

    return installed


@pytest.fixture
def count_on(install: Callable[[FakeNvml], None]) -> Callable[[FakeNvml], Callable[[], int | None]]:
    """The count of other processes as that NVML has it."""

    def counted(nvml: FakeNvml) -> Callable[[], int | None]:
        install(nvml)
        return nvml_other_processes(torch.device("cuda", 0))

    return counted


@pytest.mark.parametrize("reasons", [0x4, 0, None])
def test_the_state_of_a_gpu_is_what_it_answers_and_the_rest_is_none(
    install: Callable[[FakeNvml], None], reasons: int | None
) -> None:
    install(FakeNvml(1, reasons))
    assert nvml_state(torch.device("cuda", 0))() == GpuState(1_980, 61, reasons)


def test_without_nvml_a_gpu_has_no_state_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml_state(torch.device("cuda", 0))() is None


def test_without_nvml_there_is_no_energy_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml_joules(torch.device("cuda", 0))() is None


@pytest.mark.parametrize(("seen", "others"), [(1, 0), (2, 1), (5, 4), (0, None)])
def test_all_processes_but_this_one_are_counted_and_where_even_this_one_is_not_seen_there_is_no_count(
    count_on: Callable[[FakeNvml], Callable[[], int | None]], seen: int, others: int | None
) -> None:
    assert count_on(FakeNvml(seen))() == others


def test_a_count_that_begins_to_fail_is_no_figure_and_no_error(
    count_on: Callable[[FakeNvml], Callable[[], int | None]],
) -> None:
    nvml = FakeNvml(3)
    count = count_on(nvml)
    assert count() == 2
    nvml.processes = None
    assert count() is None


def test_without_nvml_there_is_no_count_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml_other_processes(torch.device("cuda", 0))() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_another_process_on_a_real_gpu_is_counted() -> None:
    torch.ones(1, device="cuda")
    count = nvml_other_processes(torch.device("cuda", 0))
    before = count()
    if before is None:
        pytest.skip("NVML does not see processes here")
    code = "import torch, sys; torch.ones(1, device='cuda'); print('ready', flush=True); sys.stdin.readline()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        assert count() == before + 1
        other.stdin.write("\n")
    assert count() == before
