import math
from collections.abc import Iterator, Sequence

import pytest
import torch

from accelmlf.data.batches import DRAWS_PER_PICTURE, Batch, BatchPlan, Selection, accumulate, num_steps


def plan_in(epoch: int, num_pictures: int = 23, batch_size: int = 4, *, seed: int = 0) -> BatchPlan:
    plan = BatchPlan(num_pictures, batch_size, seed=seed)
    plan.set_epoch(epoch)
    return plan


def order(selections: Sequence[Selection]) -> list[int]:
    return torch.cat([selection.indices for selection in selections]).tolist()


def draws_by_picture(selections: Sequence[Selection]) -> torch.Tensor:
    """[N, draws], in the order of the set."""
    draws = torch.cat([selection.draws for selection in selections if selection.draws is not None])
    return draws[torch.tensor(order(selections)).argsort()]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 11, 22, 23, 24, 1000])
def test_order_and_draws_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    expected, found = list(plan_in(2)), list(plan_in(2, batch_size=batch_size))
    assert order(found) == order(expected)
    assert torch.equal(draws_by_picture(found), draws_by_picture(expected))


@pytest.mark.parametrize(("epoch", "seed"), [(3, 0), (2, 1), (1, 0)])
def test_another_epoch_or_seed_has_another_order_and_other_draws(epoch: int, seed: int) -> None:
    expected, found = list(plan_in(2)), list(plan_in(epoch, seed=seed))
    assert order(found) != order(expected)
    assert not torch.isin(draws_by_picture(found), draws_by_picture(expected)).any()


def test_no_two_pictures_of_an_epoch_have_the_same_draws() -> None:
    draws = draws_by_picture(list(plan_in(1)))
    assert draws.shape == (23, DRAWS_PER_PICTURE)
    assert len({row.numpy().tobytes() for row in draws}) == 23
    assert 0 <= draws.min() < draws.max() < 1


def test_order_and_draws_neither_use_nor_move_the_global_generator() -> None:
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), list(plan_in(1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert order(list(plan_in(1))) == order(first)
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch_size", range(1, 10))
@pytest.mark.parametrize("num_pictures", [1, 2, 3, 8, 9, 10, 17])
def test_an_epoch_uses_every_picture_once_and_its_sizes_are_true(num_pictures: int, batch_size: int) -> None:
    plan = plan_in(1, num_pictures, batch_size)
    selections = list(plan)
    assert sorted(order(selections)) == list(range(num_pictures))
    assert [len(selection.indices) for selection in selections] == plan.sizes
    assert len(plan) == len(selections)


@pytest.mark.parametrize(
    ("num_pictures", "sizes"), [(8, [4, 4]), (9, [4, 5]), (10, [4, 4, 2]), (5, [5]), (1, [1]), (3, [3])]
)
def test_a_single_left_over_picture_joins_the_batch_before(num_pictures: int, sizes: list[int]) -> None:
    assert BatchPlan(num_pictures, 4).sizes == sizes


def test_an_evaluation_keeps_the_order_of_the_set_and_a_single_last_picture_and_has_no_draws() -> None:
    plan = BatchPlan(9, 4, shuffled=False)
    selections = list(plan)
    assert plan.sizes == [4, 4, 1]
    assert order(selections) == list(range(9))
    assert [selection.draws for selection in selections] == [None] * 3
    assert plan.draws() is None


def test_epoch_0_of_training_is_empty_and_an_evaluation_never_is() -> None:
    assert list(BatchPlan(9, 4)) == []
    assert len(list(BatchPlan(9, 4, shuffled=False))) == 3
    assert len(list(plan_in(1))) == 6


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_every_seed_that_a_run_may_have_gives_a_plan(seed: int) -> None:
    assert sorted(order(list(plan_in(1, seed=seed)))) == list(range(23))


@pytest.mark.parametrize("with_draws", [True, False])
def test_a_batch_that_is_on_its_device_is_not_copied(with_draws: bool) -> None:
    draws = torch.rand(2, DRAWS_PER_PICTURE) if with_draws else None
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2), draws)
    moved = batch.to(torch.device("cpu"))
    assert all(new is old for new, old in zip(moved, batch, strict=True))
    away = batch.to(torch.device("meta"))
    assert {tensor.device.type for tensor in away if tensor is not None} == {"meta"}
    assert (away.draws is None) == (draws is None)


def test_windows_of_equal_batches_share_their_step_evenly() -> None:
    found = list(accumulate("abcdef", [4] * 6, steps=3))
    assert [batch for batch, _, _ in found] == list("abcdef")
    assert [share for _, share, _ in found] == [1 / 3] * 6
    assert [batch for batch, _, ends in found if ends] == ["c", "f"]


def test_a_short_window_and_a_short_batch_weigh_what_they_hold() -> None:
    found = list(accumulate("abcde", [4, 4, 4, 4, 1], steps=3))
    assert [share for _, share, _ in found] == [1 / 3, 1 / 3, 1 / 3, 4 / 5, 1 / 5]
    assert [batch for batch, _, ends in found if ends] == ["c", "e"]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
def test_the_shares_of_every_step_add_up_and_steps_are_as_many_as_windows(steps: int) -> None:
    sizes = [5, 5, 5, 5, 5, 5, 3]
    found = list(accumulate("abcdefg", sizes, steps))
    assert sum(ends for _, _, ends in found) == num_steps(len(sizes), steps) == math.ceil(len(sizes) / steps)
    assert found[-1][2]
    total = 0.0
    for _, share, ends in found:
        total += share
        if ends:
            assert total == pytest.approx(1, abs=1e-12)
            total = 0.0


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_weighted_loss_of_a_window_is_the_mean_over_its_pictures_and_the_naive_one_is_not(steps: int) -> None:
    losses, sizes = torch.arange(7.0).double() ** 2, [2, 2, 2, 1]
    batches = torch.split(losses, sizes)
    weighted, naive, windows = [0.0], [0.0], [torch.empty(0)]
    for batch, share, ends in accumulate(batches, sizes, steps):
        weighted[-1] += float(batch.mean()) * share
        naive[-1] += float(batch.mean()) / steps
        windows[-1] = torch.cat([windows[-1], batch])
        if ends:
            weighted, naive, windows = [*weighted, 0.0], [*naive, 0.0], [*windows, torch.empty(0)]
    means = [float(window.mean()) for window in windows[:-1]]
    assert weighted[:-1] == pytest.approx(means, abs=1e-12)
    assert (naive[:-1] == pytest.approx(means, abs=1e-3)) == (steps == 1)


def test_accumulation_takes_batches_as_they_come() -> None:
    def batches() -> Iterator[str]:
        yield "a"
        raise AssertionError("asked for a batch too early")

    found = accumulate(batches(), [1, 1], steps=2)
    assert next(found) == ("a", 0.5, False)
    with pytest.raises(AssertionError, match="too early"):
        next(found)
