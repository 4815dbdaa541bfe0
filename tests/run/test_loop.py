"""The loop: a plain one with everything off, what ends it, and where it stands after each epoch and each stretch."""

import math
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accelmlf.data.augmentation import AUGMENTATIONS, PictureTransform
from accelmlf.errors import DivergedError
from accelmlf.measure.cost import PHASES, Meter
from accelmlf.measure.records import Position
from accelmlf.run.loop import MAX_SKIPPED_STEPS, Stretch, evaluate, micro_batches, train_epochs, train_stretch
from accelmlf.run.optimization import SCHEDULES
from tests.makers import CLASSES, TinyNet, make_config, make_splits, make_work, train_losses
from tests.measure.makers import FakeDevice, TickingDevice


@pytest.fixture(autouse=True)
def _tiny(tiny_model: None) -> None: ...


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
    ours = [e.train_loss for e in train_epochs(make_work(config), max_epochs=3)]
    assert ours == pytest.approx(plain_losses(0), rel=1e-6)
    assert ours != pytest.approx(plain_losses(1), rel=1e-3)


def test_losses_are_finite_and_fall() -> None:
    losses = train_losses(make_config(epochs=8), make_splits(200))
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.8 * losses[0]


def test_a_loss_that_is_not_finite_ends_the_run_with_its_own_code() -> None:
    work = make_work(make_config())
    with torch.no_grad():
        next(work.model.parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match="not finite in epoch 1") as error:
        list(train_epochs(work, max_epochs=3))
    assert (error.value.exit_code, error.value.outcome) == (6, "diverged")


def test_an_epoch_of_skipped_steps_ends_the_run() -> None:
    work = replace(make_work(make_config()), scaler=torch.amp.GradScaler("cpu", init_scale=2.0))
    assert len(work.train.plan) < MAX_SKIPPED_STEPS  # one epoch of them is not yet divergence
    for parameter in work.model.parameters():
        parameter.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))
    with pytest.raises(DivergedError, match="every one was skipped"):
        list(train_epochs(work, max_epochs=30))
    assert work.schedule.applied_steps == 0


def test_clipping_bounds_the_whole_window_once() -> None:
    clipped = replace(make_work(make_config(learning_rate=1.0, accumulation_steps=3)), clip_norm=1e-3)
    norms: list[float] = []

    def record(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()))

    clipped.optimizer.register_step_pre_hook(record)
    list(train_epochs(clipped, max_epochs=1))
    assert norms == pytest.approx([1e-3] * 2, rel=1e-3)


def test_evaluation_is_over_the_whole_set_whatever_its_batches() -> None:
    qualities = [evaluate(make_work(make_config(batch_size=size)), make_work(make_config(batch_size=size)).test)
                 for size in (4, 16, 500)]  # fmt: skip
    assert len({(q.accuracy, q.f1_macro) for q in qualities}) == 1
    assert [q.loss for q in qualities] == pytest.approx([qualities[0].loss] * 3, rel=1e-6)
    assert len(qualities[0].labels) == 21


@dataclass
class Trained:
    """An epoch in stretches of so many steps, on a device on which every picture takes a second in the forward pass."""

    stretches: list[Stretch]
    pictures: Tensor
    """[N, 3, H, W] in the order in which the model saw them."""
    weights: dict[str, Tensor]


def trained(steps: int | None, *, accumulation_steps: int = 1, seed: int = 0) -> Trained:
    device, seen = FakeDevice(), list[Tensor]()
    config = make_config(epochs=1, batch_size=8, accumulation_steps=accumulation_steps, seed=seed)
    work = replace(make_work(config), meter=Meter(device))

    def look(_: nn.Module, inputs: tuple[Tensor]) -> None:
        device.give(len(inputs[0]))
        seen.append(inputs[0])

    work.model.register_forward_pre_hook(look)
    batches, stretches = micro_batches(work, 1), list[Stretch]()
    while (stretch := train_stretch(work, batches, steps)).steps:
        stretches.append(stretch)
        assert all(parameter.grad is None for parameter in work.model.parameters()), "a window was cut"
    return Trained(stretches, torch.cat(seen), work.model.state_dict())


STEPS_OF_AN_EPOCH = {1: 9, 2: 5, 3: 3, 4: 3}
"""71 pictures in batches of 8, by accumulation_steps."""


@pytest.mark.parametrize("steps", [1, 2, 4, 100])
@pytest.mark.parametrize("accumulation_steps", STEPS_OF_AN_EPOCH)
def test_an_epoch_in_stretches_is_the_epoch_in_one(accumulation_steps: int, steps: int) -> None:
    one, cut = (trained(s, accumulation_steps=accumulation_steps) for s in (None, steps))
    (whole,), parts = one.stretches, cut.stretches
    num_steps = STEPS_OF_AN_EPOCH[accumulation_steps]
    assert [part.steps for part in parts] == [steps] * (num_steps // steps) + [num_steps % steps] * bool(
        num_steps % steps
    )
    assert (sum(part.steps for part in parts), sum(part.images for part in parts)) == (whole.steps, whole.images)
    assert (whole.steps, whole.images) == (num_steps, 71)
    assert float(sum(part.loss_sum for part in parts)) == pytest.approx(float(whole.loss_sum), rel=1e-6)
    assert torch.equal(cut.pictures, one.pictures)
    assert all(torch.equal(cut.weights[name], value) for name, value in one.weights.items())
    other = trained(steps, accumulation_steps=accumulation_steps, seed=1)
    assert not torch.equal(other.pictures, one.pictures)
    assert not torch.equal(other.weights["conv.weight"], one.weights["conv.weight"])


@pytest.mark.parametrize("steps", [None, 1, 2])
def test_each_stretch_has_a_cost_of_its_own(steps: int | None) -> None:
    for stretch in trained(steps, accumulation_steps=2).stretches:
        assert stretch.cost.images == stretch.images
        assert stretch.cost.train_s == stretch.images
        assert stretch.cost.phases_s == dict.fromkeys(PHASES, 0.0) | {"forward": stretch.images}
        assert stretch.cost.other_s == 0


def test_what_happens_between_two_stretches_is_on_neither_clock() -> None:
    device = FakeDevice()
    work = replace(make_work(make_config()), meter=Meter(device))
    work.model.register_forward_pre_hook(lambda *_: device.give(1.0))
    batches, costs = micro_batches(work, 1), []
    for _ in range(2):
        costs.append(train_stretch(work, batches, 2).cost.train_s)
        device.idle_host(100.0)
    assert costs == [2.0, 2.0]


def test_an_epoch_knows_where_the_run_is_after_it() -> None:
    work = replace(make_work(make_config(accumulation_steps=2)), meter=Meter(TickingDevice()))
    epochs = list(train_epochs(work, max_epochs=3))
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    assert [epoch.position.applied_steps for epoch in epochs] == [3, 6, 9]
    assert [epoch.elapsed_train_s for epoch in epochs] == list(accumulate(epoch.cost.train_s for epoch in epochs))
    assert {epoch.position.skipped_in_a_row for epoch in epochs} == {0}
    assert list(train_epochs(work, max_epochs=3, start=epochs[-1].position)) == []


def test_a_loop_that_goes_on_counts_from_its_position() -> None:
    start = Position(epoch=2, elapsed_train_s=1_000.0, applied_steps=0, skipped_in_a_row=3)
    work = replace(make_work(make_config()), meter=Meter(TickingDevice()))
    (epoch,) = train_epochs(work, max_epochs=3, start=start)
    assert epoch.position == Position(3, 1_000.0 + epoch.cost.train_s, 5, 0)
    assert work.train.plan.epoch == 3


@pytest.mark.parametrize("skipped_before", [0, MAX_SKIPPED_STEPS - 5])
def test_steps_that_were_skipped_before_a_stop_count_towards_divergence(skipped_before: int) -> None:
    work = replace(make_work(make_config()), scaler=torch.amp.GradScaler("cpu", init_scale=2.0))
    for parameter in work.model.parameters():
        parameter.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))
    epochs = train_epochs(work, max_epochs=2, start=Position(epoch=1, skipped_in_a_row=skipped_before))
    if skipped_before:
        with pytest.raises(DivergedError, match=f"no gradient was finite in {MAX_SKIPPED_STEPS} steps"):
            next(epochs)
    else:
        assert next(epochs).position.skipped_in_a_row == 5
