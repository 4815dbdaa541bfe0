"""Accumulation is exact: micro-batches that share a step are one big batch, whatever their sizes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accelmlf.data.batches import accumulate
from accelmlf.run.loop import micro_batches, train_epochs, train_stretch
from tests.makers import CLASSES, TinyNet, make_config, make_pictures, make_splits, make_work


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
    train_stretch(work, micro_batches(work, 1))
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
    list(train_epochs(work, max_epochs=1))
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
    list(train_epochs(work, max_epochs=2))
    assert seen == 2 * pictures
    assert work.schedule.applied_steps == 2 * math.ceil(len(work.train.plan) / steps)
    assert len(work.schedule.factors) == work.schedule.applied_steps
