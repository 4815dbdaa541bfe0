"""The loop without a part of its work: what is left out is left out, and all else is the loop as it is."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from accelmlf.data.augmentation import AUGMENTATIONS, PictureTransform
from accelmlf.data.batches import Batch
from accelmlf.errors import AccelmlfError
from accelmlf.measure.cost import PHASES
from accelmlf.run.ceilings import (
    DATA_THERE,
    FORWARD_ONLY,
    HALF_BATCH,
    NO_AUGMENTATION,
    NO_OPTIMIZER,
    VARIANTS,
    WHOLE,
    Ceilings,
)
from accelmlf.run.stretches import WarmLoop
from accelmlf.run.workload import Workload
from tests.makers import make_config, make_splits, make_work

STEPS, BATCH = 2, 16
EVERY_VARIANT = pytest.mark.parametrize("variant", VARIANTS)
LEARNING = [WHOLE, DATA_THERE, NO_AUGMENTATION, HALF_BATCH]
"""What changes the weights."""


@pytest.fixture(autouse=True)
def _tiny(tiny_model: None) -> None: ...


@dataclass
class CountedBatches:
    """The loader's own batches, and how many of them were taken."""

    loader: Any
    taken: list[int] = field(default_factory=list)

    def __iter__(self) -> Iterator[Batch | AccelmlfError]:
        for batch in self.loader:
            self.taken.append(len(batch.labels))
            yield batch


def ceilings_of(**settings: Any) -> Ceilings:
    work = make_work(make_config(batch_size=BATCH, **settings), make_splits(200))
    return Ceilings(WarmLoop(work))


def counted(ceilings: Ceilings) -> list[int]:
    """The pictures of each batch that is taken from the loader from here on."""
    work = ceilings.work
    batches = CountedBatches(work.train.batches)
    own = replace(work, train=replace(work.train, batches=batches))
    ceilings.loop.work = ceilings.work = own
    return batches.taken


def weights_of(work: Workload) -> list[Tensor]:
    return [weight.detach().clone() for weight in work.model.parameters()]


def are_equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- what each of them costs, and what it does ---


@EVERY_VARIANT
@pytest.mark.parametrize("accumulation_steps", [1, 3])
@pytest.mark.parametrize("techniques", ["none", "resident", "channels_last"])
def test_a_stretch_is_of_as_many_whole_windows_as_were_asked_for(
    variant: str, accumulation_steps: int, techniques: str
) -> None:
    ceilings = ceilings_of(accumulation_steps=accumulation_steps, techniques=techniques)
    cost = ceilings.train(variant, STEPS)
    pictures = BATCH // 2 if variant == HALF_BATCH else BATCH
    assert cost.images == pictures * STEPS * accumulation_steps
    assert cost.train_s > 0 and cost.phases_s["forward"] > 0
    assert set(cost.phases_s) <= set(PHASES)


@EVERY_VARIANT
def test_the_weights_move_where_an_optimizer_steps_and_nowhere_else(variant: str) -> None:
    ceilings = ceilings_of()
    before, applied = weights_of(ceilings.work), int(ceilings.work.schedule.applied_steps)
    ceilings.train(variant, STEPS)
    assert are_equal(before, weights_of(ceilings.work)) == (variant not in LEARNING)
    lead_in = ceilings.loop.lead_in if variant == WHOLE else 1
    steps = STEPS + lead_in if variant in LEARNING else 0
    assert int(ceilings.work.schedule.applied_steps) - applied == steps


@EVERY_VARIANT
def test_what_is_left_out_leaves_nothing_behind_for_the_next_stretch(variant: str) -> None:
    """No gradient waits in the weights, which the next step would add to its own."""
    ceilings = ceilings_of(accumulation_steps=2)
    ceilings.train(variant, STEPS)
    assert [weight.grad for weight in ceilings.work.model.parameters() if weight.grad is not None] == []


def test_the_whole_loop_is_training_as_it_is() -> None:
    def after(variant: str) -> list[Tensor]:
        ceilings = ceilings_of()
        torch.manual_seed(7)  # of dropout
        for _ in range(3):
            ceilings.train(variant, STEPS)
        return weights_of(ceilings.work)

    plain = WarmLoop(make_work(make_config(batch_size=BATCH), make_splits(200)))
    torch.manual_seed(7)
    for _ in range(3):
        plain.train(STEPS)
    assert are_equal(after(WHOLE), weights_of(plain.work))
    assert not are_equal(after(DATA_THERE), weights_of(plain.work))  # the control: one batch again and again


# --- what is left out ---


@EVERY_VARIANT
@pytest.mark.parametrize("pipeline", ["memory", "stream"])
def test_where_the_data_is_there_the_loader_is_used_no_more(variant: str, pipeline: str) -> None:
    ceilings = ceilings_of(pipeline=pipeline)
    taken = counted(ceilings)
    cost = ceilings.train(variant, STEPS)
    uses_loader = variant in (WHOLE, NO_AUGMENTATION)  # the control
    assert (len(taken) >= STEPS) == uses_loader and bool(taken) == uses_loader
    assert ({"data_wait", "transfer"} <= cost.phases_s.keys()) == uses_loader


@EVERY_VARIANT
def test_forward_only_goes_no_way_back_and_the_others_do(variant: str) -> None:
    phases = ceilings_of().train(variant, STEPS).phases_s
    assert ("backward" in phases) == ("optimizer" in phases) == (variant != FORWARD_ONLY)


def seen_by_model(ceilings: Ceilings, variant: str) -> Tensor:
    """The pictures that the model was given, the last STEPS batches of them."""
    seen: list[Tensor] = []
    hook = ceilings.work.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    ceilings.train(variant, STEPS)
    hook.remove()
    return torch.cat(seen[-STEPS:])


@pytest.mark.parametrize("variant", [NO_AUGMENTATION, WHOLE])
def test_without_augmentation_the_model_sees_the_pictures_as_they_are(variant: str) -> None:
    ceilings, plan = ceilings_of(), make_work(make_config(batch_size=BATCH), make_splits(200)).train.plan
    transform = ceilings.work.train.transform
    assert transform is not None and transform.augmentation != AUGMENTATIONS["none"]
    plan.set_epoch(1)
    # The whole loop leads in with a step before.
    first = ceilings.loop.lead_in * BATCH if variant == WHOLE else 0
    chosen = plan.order()[first : first + STEPS * BATCH]
    pictures = make_splits(200).train.in_memory().pictures[chosen]
    plain = PictureTransform(AUGMENTATIONS["none"], transform.image_size, make_config().normalisation)
    is_plain = torch.allclose(seen_by_model(ceilings, variant), plain(pictures, None))
    assert is_plain == (variant == NO_AUGMENTATION)  # the other is the control
    assert transform.augmentation != AUGMENTATIONS["none"]  # and it is back


def test_where_the_loader_augments_there_is_nothing_to_leave_out() -> None:
    ceilings = ceilings_of(pipeline="stream")
    assert ceilings.work.train.transform is None
    cost = ceilings.train(NO_AUGMENTATION, STEPS)
    # It was the loop as it is, a step of its own lead-in before.
    assert ceilings.loop.left == ceilings.loop.windows - 2 * ceilings.loop.lead_in - 1 - STEPS
    assert "augment" not in cost.phases_s
    on_device = ceilings_of()  # the control
    on_device.train(NO_AUGMENTATION, STEPS)
    assert on_device.loop.left == 0


@pytest.mark.parametrize("techniques", ["none", "workers:1", "resident"])
def test_variants_in_turn_leave_the_whole_loop_its_stretches(techniques: str) -> None:
    """Those that use the loader take batches from the one that the loop is in the middle of."""
    ceilings = ceilings_of(techniques=techniques)
    for _ in range(6):
        for variant in VARIANTS:
            images = ceilings.train(variant, 3).images
            assert images == 3 * BATCH // (2 if variant == HALF_BATCH else 1)
    assert ceilings.loop.epoch > 1  # over the end of an epoch, too


def test_no_optimizer_is_set_beside_data_that_is_there() -> None:
    """Each of them has the same batch, so that what differs is the step alone."""
    ceilings = ceilings_of()
    there, without = (seen_by_model(ceilings, variant) for variant in (DATA_THERE, NO_OPTIMIZER))
    assert torch.equal(there, without)
    assert torch.equal(there[:BATCH], there[BATCH:])
    assert not torch.equal(there, seen_by_model(ceilings, WHOLE))  # the control
