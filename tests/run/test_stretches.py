"""A warm loop trains whole steps of one epoch at a time, and it is the real loop: to the bit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from accelmlf.errors import DivergedError
from accelmlf.run.loop import micro_batches, train_stretch
from accelmlf.run.stretches import LEAD_IN_STEPS, MIN_MICRO_BATCHES, PREFETCHED, STRETCH_S, WarmLoop
from accelmlf.run.workload import Workload
from tests.makers import make_config, make_splits, make_work

BATCH = 16
LEAD_IN = LEAD_IN_STEPS["cpu"]


@pytest.fixture(autouse=True)
def _tiny(tiny_model: None) -> None: ...


def work_of(train: int = 71, **settings: Any) -> Workload:
    return make_work(make_config(batch_size=BATCH, **settings), make_splits(train))


def watched(work: Workload) -> list[tuple[int, int]]:
    """(epoch, pictures) of each micro-batch that the network has trained on from here on."""
    seen: list[tuple[int, int]] = []
    work.model.register_forward_pre_hook(
        lambda model, inputs: seen.append((work.train.plan.epoch, len(inputs[0]))) if model.training else None
    )
    return seen


def weights(work: Workload) -> list[Tensor]:
    return [tensor.clone() for tensor in work.model.state_dict().values()]


def are_equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- what a stretch holds ---


def test_a_stretch_is_of_whole_batches_of_one_epoch_after_an_untimed_step() -> None:
    work = work_of()  # batches of 16, 16, 16, 16 and 7
    loop, seen = WarmLoop(work), watched(work)
    assert (loop.windows, loop.lead_in) == (4, LEAD_IN)
    for stretch in (loop.train(2), loop.train(2), loop.train(1)):
        assert stretch.cost.images == stretch.images == stretch.steps * BATCH
    assert seen == [(1, BATCH)] * 3 + [(2, BATCH)] * 3 + [(3, BATCH)] * 2
    loop.train(1)
    assert seen[8:] == [(3, BATCH)] * 2  # what an epoch has left is used where it holds a whole stretch


def test_the_last_short_batch_is_in_no_stretch() -> None:
    work = work_of()
    loop, seen = WarmLoop(work), watched(work)
    for _ in range(12):
        loop.train(1)
    assert {size for _, size in seen} == {BATCH}
    plain = watched(work)  # the control: in an epoch it is there
    train_stretch(work, micro_batches(work, 1))
    assert {size for _, size in plain} == {BATCH, 7}


def test_what_a_long_block_costs_is_that_of_its_second_half() -> None:
    work = work_of()
    loop, seen = WarmLoop(work), watched(work)
    cost = loop.train_for(0.3, 1)
    assert 0 < cost.images < 0.8 * sum(size for _, size in seen)
    assert cost.train_s < 0.3
    assert loop.train_for(0.0, 2).images == 2 * BATCH  # the control: no time is one stretch


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
def test_no_stretch_crosses_an_epoch(steps: int) -> None:
    work = work_of()
    loop, seen = WarmLoop(work), watched(work)
    for _ in range(6):
        before = len(seen)
        stretch = loop.train(steps)
        assert stretch.steps == min(steps, 4)
        assert len({epoch for epoch, _ in seen[before:]}) == 1
        assert len(seen) - before == stretch.steps + min(LEAD_IN, 4 - stretch.steps)


def test_an_epoch_of_one_window_is_trained_again_and_again_without_a_lead_in() -> None:
    work = work_of(20)  # batches of 16 and 4
    loop, seen = WarmLoop(work), watched(work)
    assert loop.windows == 1
    assert [loop.train(3).steps for _ in range(3)] == [1, 1, 1]
    assert seen == [(1, BATCH), (2, BATCH), (3, BATCH)]
    assert loop.calibrate() == 1


def test_a_stretch_holds_whole_windows_of_micro_batches() -> None:
    work = work_of(16 * 7 + 3, accumulation_steps=2)  # seven whole batches are three windows
    loop, seen = WarmLoop(work), watched(work)
    assert loop.windows == 3
    stretch = loop.train(2)
    assert (stretch.steps, stretch.images) == (2, 4 * BATCH)
    assert seen == [(1, BATCH)] * 6
    assert loop.train(2).images == 4 * BATCH and seen[6:] == [(2, BATCH)] * 6


def test_loader_processes_have_a_lead_in_that_eats_what_they_hold_ready() -> None:
    for workers, accumulation, expected in ((1, 1, 3), (2, 1, 5), (2, 2, 3), (1, 4, 1)):
        work = work_of(400, techniques=f"workers:{workers}", accumulation_steps=accumulation)
        assert WarmLoop(work).lead_in == expected
        assert expected * accumulation >= PREFETCHED * workers + 1 or expected == LEAD_IN
    assert WarmLoop(work_of(400)).lead_in == LEAD_IN  # the control


def test_a_stretch_with_loader_processes_is_of_the_same_pictures() -> None:
    found = []
    for techniques in ("workers:1", "none"):
        work = work_of(techniques=techniques)
        loop = WarmLoop(work)
        loop.lead_in = 2
        torch.manual_seed(1)  # of dropout
        found.append(([float(loop.train(2).loss_sum) for _ in range(4)], weights(work)))
    (losses, with_workers), (others, without) = found
    assert losses == others and len(set(losses)) == 4
    assert are_equal(with_workers, without)


# --- how long it is ---


def test_a_stretch_has_some_steps_and_takes_about_as_long_as_it_should() -> None:
    work = work_of(4_000)
    loop = WarmLoop(work)
    steps = loop.calibrate()
    assert MIN_MICRO_BATCHES["cpu"] <= steps <= loop.windows == 250
    if steps < loop.windows:
        assert loop.train(steps).cost.train_s > STRETCH_S["cpu"] / 5


@pytest.mark.parametrize(("accumulation", "least"), [(1, 3), (2, 2), (3, 1), (4, 1)])
def test_the_least_steps_are_those_of_three_micro_batches(accumulation: int, least: int) -> None:
    loop = WarmLoop(work_of(4_000, accumulation_steps=accumulation))
    assert loop.least == least
    loop.stretch_s = 1e-9
    assert loop.calibrate() == least
    loop.stretch_s = 1e9  # an epoch is the most
    assert loop.calibrate() == loop.windows - loop.lead_in


# --- that it is the real loop ---


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("techniques", ["none", "channels_last,amp:bf16,fused_optimizer"])
def test_the_weights_after_some_stretches_are_those_of_the_same_steps_of_plain_training(
    techniques: str, accumulation: int
) -> None:
    windows, found = 8 // accumulation, []
    for steps in (None, LEAD_IN + windows // 2, windows // 2):
        work = work_of(16 * 8 + 3, techniques=techniques, accumulation_steps=accumulation)
        loop = WarmLoop(work)
        torch.manual_seed(1)  # of dropout
        with work.techniques.process_context():
            for epoch in range(1, 5):
                if steps is None:
                    loop.train(windows // 2)
                    assert loop.epoch == epoch
                else:
                    train_stretch(work, micro_batches(work, epoch), steps)
        found.append(weights(work))
    warm, plain, without_lead_in = found
    assert are_equal(warm, plain)
    assert not are_equal(warm, without_lead_in)  # the control


def test_a_loss_that_is_not_finite_ends_it() -> None:
    work = work_of()
    loop = WarmLoop(work)
    loop.train(1)
    with torch.no_grad():
        next(work.model.parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"^learning_rate=0\.01: the loss is not finite"):
        loop.train(1)
