"""The loop: accumulation is exact, nothing is read from the device in an epoch, a warm-up leaves no trace."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from accelmlf.data.augmentation import AUGMENTATIONS, PictureTransform
from accelmlf.data.batches import accumulate
from accelmlf.errors import DivergedError
from accelmlf.run.loop import MAX_SKIPPED_STEPS, evaluate, train_epoch, train_epochs, unwatched
from accelmlf.run.optimization import SCHEDULES
from accelmlf.run.warmup import warm_up
from tests.makers import CLASSES, TinyNet, make_config, make_pictures, make_splits, make_work

READS = {
    "item", "cpu", "tolist", "numpy", "is_nonzero", "nonzero", "__array__", "__bool__", "__float__", "__int__",
    "__index__", "__repr__",
}  # fmt: skip

HOST_SIDE = ("torch.utils.data", "torch.optim")
"""Their tensors (indices, seeds, the count of steps) are on the host on every device."""


@pytest.fixture(autouse=True)
def _tiny(tiny_model: None) -> None: ...


def fp64_gradient(weigh: Callable[[Sequence[int], int, int], float], sizes: list[int], steps: int) -> list[Tensor]:
    """The gradient of the last window when each batch's mean loss is weighed by `weigh`."""
    torch.manual_seed(0)
    model = TinyNet(CLASSES, batch_norm=False, dropout=0.0).double()
    source = make_pictures(sum(sizes))
    pictures, labels = source.pictures.double() / 255, source.labels
    batches = zip(pictures.split(sizes), labels.split(sizes), strict=True)
    for number, ((x, y), _, ends_step) in enumerate(accumulate(batches, sizes, steps)):
        (F.cross_entropy(model(x), y) * weigh(sizes, number, steps)).backward()
        if ends_step and number < len(sizes) - 1:
            model.zero_grad()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def exact_share(sizes: Sequence[int], number: int, steps: int) -> float:
    return [share for _, share, _ in accumulate(range(len(sizes)), sizes, steps)][number]


def naive_share(sizes: Sequence[int], number: int, steps: int) -> float:
    return 1 / steps


def one_big_batch(sizes: list[int], steps: int) -> list[Tensor]:
    """The same window's pictures in one batch, by a path of its own."""
    window = len(sizes) - (len(sizes) - 1) % steps - 1
    torch.manual_seed(0)
    model = TinyNet(CLASSES, batch_norm=False, dropout=0.0).double()
    source = make_pictures(sum(sizes))
    first = sum(sizes[:window])
    F.cross_entropy(model(source.pictures[first:].double() / 255), source.labels[first:]).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


UNEVEN = [([16, 16, 16, 16, 7], 3), ([16, 16, 16, 16, 7], 5), ([10, 10, 3], 8), ([5, 5, 5, 1], 2), ([9], 4)]


@pytest.mark.parametrize(("sizes", "steps"), UNEVEN)
def test_accumulation_is_one_big_batch_to_the_last_digits(sizes: list[int], steps: int) -> None:
    for ours, reference in zip(fp64_gradient(exact_share, sizes, steps), one_big_batch(sizes, steps), strict=True):
        assert (ours - reference).norm() <= 1e-10 * reference.norm()


@pytest.mark.parametrize(("sizes", "steps"), UNEVEN)
def test_dividing_by_the_number_of_steps_is_not(sizes: list[int], steps: int) -> None:
    pairs = zip(fp64_gradient(naive_share, sizes, steps), one_big_batch(sizes, steps), strict=True)
    assert any((ours - reference).norm() > 0.1 * reference.norm() for ours, reference in pairs)


class DoubleNet(TinyNet):
    """In fp64, without what makes accumulation inexact."""

    def __init__(self) -> None:
        super().__init__(CLASSES, batch_norm=False, dropout=0.0)
        self.double()

    def forward(self, pictures: Tensor) -> Tensor:
        return super().forward(pictures.double())


def weights_after_an_epoch(pictures: int, batch_size: int, steps: int) -> Tensor:
    """All weights, flat, after one epoch of plain SGD in the product's own loop."""
    work = make_work(make_config(epochs=1, batch_size=batch_size, accumulation_steps=steps), make_splits(pictures))
    torch.manual_seed(0)
    model = DoubleNet()
    work = replace(work, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.5))
    work.train.plan.set_epoch(1)
    train_epoch(work, steps, lambda batches: unwatched(batches, 1))
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# One step with a short batch; full steps and a short window; a short window that ends in a short batch.
LOOPS = [(23, 8, 3, 24), (72, 8, 4, 32), (70, 8, 4, 32), (71, 16, 2, 32)]


@pytest.mark.parametrize(("pictures", "batch_size", "steps", "whole"), LOOPS)
def test_the_loop_accumulates_like_one_big_batch(pictures: int, batch_size: int, steps: int, whole: int) -> None:
    parts = weights_after_an_epoch(pictures, batch_size, steps)
    big = weights_after_an_epoch(pictures, whole, 1)
    assert (parts - big).norm() <= 1e-10 * big.norm()


@pytest.mark.parametrize(("pictures", "batch_size", "steps", "whole"), LOOPS)
def test_a_loop_that_divides_by_the_number_of_steps_does_not(
    pictures: int, batch_size: int, steps: int, whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def naive(batches: Any, sizes: list[int], steps: int) -> Any:
        return ((batch, 1 / steps, ends) for batch, _, ends in accumulate(batches, sizes, steps))

    big = weights_after_an_epoch(pictures, whole, 1)
    monkeypatch.setattr("accelmlf.run.loop.accumulate", naive)
    assert (weights_after_an_epoch(pictures, batch_size, steps) - big).norm() > 1e-4 * big.norm()


def test_batch_norm_sees_micro_batches_so_accumulation_only_resembles_a_larger_batch() -> None:
    work = make_work(make_config(epochs=1, batch_size=16, accumulation_steps=4))
    list(train_epochs(work, max_epochs=1, accumulation_steps=4))
    norm = work.model.norm
    assert isinstance(norm, nn.BatchNorm2d) and norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == len(work.train.plan) == 5
    assert work.schedule.applied_steps == 2


@pytest.mark.parametrize(("pictures", "batch_size", "steps"), [(71, 16, 1), (71, 16, 3), (71, 16, 50), (65, 16, 2)])
def test_an_epoch_takes_a_step_per_window_and_sees_every_picture(pictures: int, batch_size: int, steps: int) -> None:
    config = make_config(epochs=2, batch_size=batch_size, accumulation_steps=steps)
    work = make_work(config, make_splits(pictures))
    seen = 0

    def count(_: nn.Module, inputs: tuple[Tensor]) -> None:
        nonlocal seen
        seen += len(inputs[0]) if work.model.training else 0

    work.model.register_forward_pre_hook(count)
    list(train_epochs(work, max_epochs=2, accumulation_steps=steps))
    assert seen == 2 * pictures
    assert work.schedule.applied_steps == 2 * math.ceil(len(work.train.plan) / steps)
    assert len(work.schedule.factors) == work.schedule.applied_steps


def plain_losses(seed: int, *, epochs: int = 3, batch_size: int = 16) -> list[float]:
    """What the loop must be with every technique off, written down again without any of it."""
    config = make_config(seed=seed)
    data = make_splits().train.in_memory()
    torch.manual_seed(seed)
    model = TinyNet(CLASSES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = math.ceil(len(data) / batch_size)
    factors = SCHEDULES[config.schedule](steps * epochs, steps)
    plan = make_work(config).train.plan
    transform = PictureTransform(AUGMENTATIONS["crop_flip"], 8, config.normalisation)
    torch.manual_seed(seed)
    TinyNet(CLASSES)  # the loop draws dropout right after the weights
    losses, step = [], 0
    for epoch in range(1, epochs + 1):
        plan.set_epoch(epoch)
        order, draws, total = plan.order(), plan.draws(), 0.0
        assert draws is not None
        model.train()
        for start in range(0, len(data), batch_size):
            chosen = order[start : start + batch_size]
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factors[step]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(transform(data.pictures[chosen], draws[chosen])), data.labels[chosen])
            loss.backward()
            optimizer.step()
            total, step = total + loss.item() * len(chosen), step + 1
        losses.append(total / len(data))
    return losses


def test_with_everything_off_it_is_a_plain_loop() -> None:
    config = make_config(image_size=8)
    ours = [e.train_loss for e in train_epochs(make_work(config), max_epochs=3, accumulation_steps=1)]
    assert ours == pytest.approx(plain_losses(0), rel=1e-6)
    assert ours != pytest.approx(plain_losses(1), rel=1e-3)


class NoReads(TorchFunctionMode):
    """Refuses every way in which Python reads a tensor's value, which on a GPU waits for the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reader = sys._getframe(1).f_globals.get("__name__", "")
        if getattr(func, "__name__", "") in READS and not reader.startswith(HOST_SIDE):
            raise AssertionError(f"{func.__name__} reads a value in {reader}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("techniques", ["none", "resident", "channels_last,amp:bf16", "fused_optimizer"])
def test_no_value_is_read_from_the_device_inside_an_epoch(techniques: str) -> None:
    work = make_work(make_config(techniques=techniques, accumulation_steps=2))
    work.train.plan.set_epoch(1)
    with NoReads():
        train_epoch(work, 2, lambda batches: unwatched(batches, 1))
        with pytest.raises(AssertionError, match="reads a value"):
            evaluate(work, work.validation)


@pytest.mark.parametrize(("fused", "reads"), [(True, False), (False, True)])
def test_only_a_fused_optimizer_spares_a_gradient_scaler_its_reads(fused: bool, reads: bool) -> None:
    techniques = "fused_optimizer" if fused else "none"
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    work = replace(make_work(make_config(techniques=techniques)), scaler=scaler, clip_norm=1.0)
    work.train.plan.set_epoch(1)
    with NoReads():
        if reads:
            with pytest.raises(AssertionError, match=r"torch\.amp\.grad_scaler"):
                train_epoch(work, 2, lambda batches: unwatched(batches, 1))
        else:
            train_epoch(work, 2, lambda batches: unwatched(batches, 1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(
    "techniques", ["pin_memory,amp:fp16", "prefetch,pin_memory,amp:bf16,fused_optimizer", "resident"]
)
def test_cuda_finds_no_synchronisation_inside_an_epoch(techniques: str) -> None:
    work = make_work(make_config(device="cuda", techniques=techniques, accumulation_steps=2))
    warm_up(work)
    work.train.plan.set_epoch(1)
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
        train_epoch(replace(work, clip_norm=1.0), 2, lambda batches: unwatched(batches, 1))


def test_a_warm_up_leaves_no_trace() -> None:
    def losses(warmed: bool, **settings: Any) -> list[float]:
        work = make_work(make_config(clip_norm=None, **settings))
        if warmed:
            warm_up(work)
        return [e.train_loss for e in train_epochs(work, max_epochs=2, accumulation_steps=1)]

    for techniques in ("none", "channels_last,amp:bf16,fused_optimizer", "workers:1"):
        assert losses(True, techniques=techniques) == losses(False, techniques=techniques)


def test_a_warm_up_that_did_not_restore_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    untouched = [e.train_loss for e in train_epochs(make_work(make_config()), max_epochs=2, accumulation_steps=1)]
    monkeypatch.setattr("accelmlf.run.warmup._restore", lambda *_: None)
    work = make_work(make_config())
    warm_up(work)
    assert [e.train_loss for e in train_epochs(work, max_epochs=2, accumulation_steps=1)] != untouched


def test_a_warm_up_meets_every_shape_of_the_run() -> None:
    work = make_work(make_config(batch_size=16))
    met: set[tuple[int, ...]] = set()
    work.model.register_forward_pre_hook(lambda model, inputs: met.add((model.training, *inputs[0].shape)))
    warm_up(work)
    warmed = met.copy()
    met.clear()
    list(train_epochs(work, max_epochs=1, accumulation_steps=1))
    evaluate(work, work.test)
    assert met and met <= warmed


def test_a_loss_that_is_not_finite_ends_the_run_with_its_own_code() -> None:
    work = make_work(make_config())
    with torch.no_grad():
        next(work.model.parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match="not finite in epoch 1") as error:
        list(train_epochs(work, max_epochs=3, accumulation_steps=1))
    assert (error.value.exit_code, error.value.outcome) == (6, "diverged")


def test_an_epoch_of_skipped_steps_ends_the_run() -> None:
    work = replace(make_work(make_config()), scaler=torch.amp.GradScaler("cpu", init_scale=2.0))
    assert len(work.train.plan) < MAX_SKIPPED_STEPS  # one epoch of them is not yet divergence
    for parameter in work.model.parameters():
        parameter.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))
    with pytest.raises(DivergedError, match="every one was skipped"):
        list(train_epochs(work, max_epochs=30, accumulation_steps=1))
    assert work.schedule.applied_steps == 0


def test_clipping_bounds_the_whole_window_once() -> None:
    clipped = replace(make_work(make_config(learning_rate=1.0, accumulation_steps=3)), clip_norm=1e-3)
    norms: list[float] = []

    def record(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()))

    clipped.optimizer.register_step_pre_hook(record)
    list(train_epochs(clipped, max_epochs=1, accumulation_steps=3))
    assert norms == pytest.approx([1e-3] * 2, rel=1e-3)


def test_evaluation_is_over_the_whole_set_whatever_its_batches() -> None:
    qualities = [evaluate(make_work(make_config(batch_size=size)), make_work(make_config(batch_size=size)).test)
                 for size in (4, 16, 500)]  # fmt: skip
    assert len({(q.accuracy, q.f1_macro) for q in qualities}) == 1
    assert [q.loss for q in qualities] == pytest.approx([qualities[0].loss] * 3, rel=1e-6)
    assert len(qualities[0].labels) == 21
