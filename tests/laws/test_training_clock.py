"""What is on the training clock and what is off it, and that nothing is read from the device while it runs."""

import sys
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from accelmlf.measure.cost import PHASES, Meter
from accelmlf.run.loop import evaluate, micro_batches, train_epochs, train_stretch
from accelmlf.run.warmup import warm_up
from tests.makers import make_config, make_work
from tests.measure.makers import FakeDevice

READS = {
    "item", "cpu", "tolist", "numpy", "is_nonzero", "nonzero", "__array__", "__bool__", "__float__", "__int__",
    "__index__", "__repr__",
}  # fmt: skip

HOST_SIDE = ("torch.utils.data", "torch.optim")
"""Their tensors (indices, seeds, the count of steps) are on the host on every device."""


@pytest.fixture(autouse=True)
def _tiny(tiny_model: None) -> None: ...


def test_an_epoch_synchronises_once_at_each_end_and_never_in_between() -> None:
    device = FakeDevice()
    config = make_config(epochs=2)
    work = replace(make_work(config), meter=Meter(device))
    with work.techniques.process_context():
        epochs = list(train_epochs(work, max_epochs=2))
    batches = len(work.train.plan)
    one_epoch = ["synchronize", "now"] + ["mark"] * (1 + len(PHASES) * batches) + ["synchronize", "now"]
    one_evaluation = ["synchronize", "now"] * 2
    assert device.calls == (one_epoch + one_evaluation) * 2
    assert list(epochs[0].cost.phases_s) == list(PHASES)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_stretch_synchronises_once_at_each_end_and_never_in_between(steps: int) -> None:
    device = FakeDevice()
    work = replace(make_work(make_config(accumulation_steps=2)), meter=Meter(device))
    batches, num_batches = micro_batches(work, 1), 0
    assert device.calls == []
    while (stretch := train_stretch(work, batches, steps)).steps:
        marks = device.calls[2:-2]
        assert device.calls == ["synchronize", "now", *marks, "synchronize", "now"]
        assert set(marks) == {"mark"}
        num_batches += (len(marks) - 1) // len(PHASES)
        assert list(stretch.cost.phases_s) == list(PHASES)
        device.calls.clear()
    assert num_batches == len(work.train.plan)


def test_real_phases_add_up_on_a_cpu() -> None:
    config = make_config()
    work = make_work(config)
    for epoch in train_epochs(work, max_epochs=2):
        assert epoch.cost.other_s >= 0
        assert all(seconds > 0 for seconds in epoch.cost.phases_s.values())
        assert sum(epoch.cost.phases_s.values()) + epoch.cost.other_s == pytest.approx(epoch.cost.train_s)


def test_a_slow_loader_shows_as_data_wait_and_a_slow_model_as_forward() -> None:
    config = make_config(epochs=1)

    def phases(*, sleep_in: str) -> dict[str, float]:
        work = make_work(config)
        if sleep_in == "forward":
            work.model.register_forward_pre_hook(lambda *_: time.sleep(0.02))
        else:
            batches = list(work.train.batches)
            assert batches == []
            slow = SlowBatches(work.train.batches)
            work = replace(work, train=replace(work.train, batches=slow))
        return next(iter(train_epochs(work, max_epochs=1))).cost.phases_s

    for phase in ("forward", "data_wait"):
        measured = phases(sleep_in=phase)
        assert max(measured, key=lambda name: measured[name]) == phase
        assert measured[phase] >= 0.02 * 5


class SlowBatches:
    """Batches that take their time."""

    def __init__(self, batches: object) -> None:
        self.batches = batches

    def __iter__(self):  # type: ignore[no-untyped-def]
        for batch in self.batches:  # type: ignore[attr-defined]
            time.sleep(0.02)
            yield batch


def test_evaluation_is_off_the_training_clock() -> None:
    work = make_work(make_config(epochs=1))
    work.model.register_forward_pre_hook(lambda model, _: None if model.training else time.sleep(0.1))
    epoch = next(iter(train_epochs(work, max_epochs=1)))
    assert epoch.eval_s >= 0.2
    assert epoch.cost.train_s < 0.1


class NoReads(TorchFunctionMode):
    """Refuses every way in which Python reads a tensor's value, which on a GPU waits for the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reader = sys._getframe(1).f_globals.get("__name__", "")
        if getattr(func, "__name__", "") in READS and not reader.startswith(HOST_SIDE):
            raise AssertionError(f"{func.__name__} reads a value in {reader}")
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("techniques", ["none", "resident", "channels_last,amp:bf16", "fused_optimizer"])
def test_no_value_is_read_from_the_device_inside_an_epoch(techniques: str) -> None:
    work = make_work(make_config(techniques=techniques, accumulation_steps=2))
    with NoReads():
        train_stretch(work, micro_batches(work, 1))
        in_parts = micro_batches(work, 2)
        while train_stretch(work, in_parts, steps=2).steps:
            pass
        with pytest.raises(AssertionError, match="reads a value"):
            evaluate(work, work.validation)


@pytest.mark.parametrize(("fused", "reads"), [(True, False), (False, True)])
def test_only_a_fused_optimizer_spares_a_gradient_scaler_its_reads(fused: bool, reads: bool) -> None:
    techniques = "fused_optimizer" if fused else "none"
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    work = replace(make_work(make_config(techniques=techniques)), scaler=scaler, clip_norm=1.0)
    with NoReads():
        if reads:
            with pytest.raises(AssertionError, match=r"torch\.amp\.grad_scaler"):
                train_stretch(work, micro_batches(work, 1))
        else:
            train_stretch(work, micro_batches(work, 1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(
    "techniques", ["pin_memory,amp:fp16", "prefetch,pin_memory,amp:bf16,fused_optimizer", "resident"]
)
def test_cuda_finds_no_synchronisation_inside_an_epoch(techniques: str) -> None:
    work = make_work(make_config(device="cuda", techniques=techniques, accumulation_steps=2))
    warm_up(work)
    meter = work.meter

    class Strict(type(meter)):  # type: ignore[misc]
        def __enter__(self) -> Any:
            entered = super().__enter__()
            torch.cuda.set_sync_debug_mode("error")
            return entered

        def __exit__(self, *error: object) -> None:
            torch.cuda.set_sync_debug_mode("default")
            super().__exit__(*error)

    meter.__class__ = Strict
    with work.techniques.process_context():
        train_stretch(replace(work, clip_norm=1.0), micro_batches(work, 1))
