"""How fast a run could be at most without a part of its work: what a technique that acts on that part can win.

Each is the real loop without that part, timed beside the whole one.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat

import torch

from accelmlf.data.augmentation import AUGMENTATIONS
from accelmlf.data.batches import Batch
from accelmlf.measure.cost import Cost
from accelmlf.run.loop import MicroBatch, device_batches, loss_of, train_stretch
from accelmlf.run.stretches import WarmLoop
from accelmlf.run.workload import Workload

WHOLE, DATA_THERE, NO_AUGMENTATION, NO_OPTIMIZER = "whole", "data there", "no augmentation", "no optimizer step"
HALF_BATCH, FORWARD_ONLY = "half the batch", "forward only"


class Ceilings:
    """Stretches of a warm loop with and without a part of its work, by the names of VARIANTS."""

    def __init__(self, loop: WarmLoop) -> None:
        self.loop, self.work = loop, loop.work
        loop.work.train.plan.set_epoch(1)
        self.batch = first_batch(loop.work)

    def train(self, variant: str, steps: int) -> Cost:
        """What a stretch has cost without that part; `WHOLE` is training as it is."""
        if variant != WHOLE:
            VARIANTS[variant](self, 1)  # its lead-in
        return VARIANTS[variant](self, steps)

    def whole(self, steps: int) -> Cost:
        return self.loop.train(steps).cost

    def data_there(self, steps: int) -> Cost:
        return self.stretch(self.work, self.micro_batches(self.batch, steps))

    def no_optimizer(self, steps: int) -> Cost:
        """Gradients are only added up; to be set beside `data_there`."""
        cost = self.stretch(self.work, self.micro_batches(self.batch, steps, ends_step=False))
        self.work.optimizer.zero_grad(set_to_none=True)
        return cost

    def no_augmentation(self, steps: int) -> Cost:
        """Where the loader augments, there is nothing to leave out on the device."""
        transform = self.work.train.transform
        if transform is None:
            return self.whole(steps)
        plain = copy.copy(transform)
        plain.augmentation = AUGMENTATIONS["none"]
        work = replace(self.work, train=replace(self.work.train, transform=plain))
        batches = device_batches(work, work.train, work.meter.lap)
        steps = min(steps, self.loop.windows)
        return self.stretch(work, self.windows(batches, steps))

    def half_batch(self, steps: int) -> Cost:
        half = max(len(self.batch.labels) // 2, 2)
        part = self.batch._replace(pictures=self.batch.pictures[:half], labels=self.batch.labels[:half])
        return self.stretch(self.work, self.micro_batches(part, steps))

    @torch.no_grad()
    def forward_only(self, steps: int) -> Cost:
        self.work.model.train()
        images = 0
        with self.work.meter as meter:
            for batch, _, _ in self.micro_batches(self.batch, steps):
                loss_of(self.work, batch)
                meter.lap("forward")
                images += len(batch.labels)
        return meter.cost(images)

    def stretch(self, work: Workload, batches: Iterator[MicroBatch]) -> Cost:
        return train_stretch(work, batches).cost

    def micro_batches(self, batch: Batch, steps: int, *, ends_step: bool = True) -> Iterator[MicroBatch]:
        """The same batch again and again, as so many optimizer steps."""
        return self.windows(repeat(batch), steps, ends_step=ends_step)

    def windows(self, batches: Iterator[Batch], steps: int, *, ends_step: bool = True) -> Iterator[MicroBatch]:
        """Whole accumulation windows of batches."""
        of_step = self.work.accumulation_steps
        for number, batch in zip(range(steps * of_step), batches, strict=False):
            yield batch, 1 / of_step, ends_step and number % of_step == of_step - 1


def first_batch(work: Workload) -> Batch:
    """The first batch of the epoch, as the model takes it, on the device."""
    return next(device_batches(work, work.train, lambda _: None))


VARIANTS: dict[str, Callable[[Ceilings, int], Cost]] = {
    WHOLE: Ceilings.whole,
    DATA_THERE: Ceilings.data_there,
    NO_AUGMENTATION: Ceilings.no_augmentation,
    NO_OPTIMIZER: Ceilings.no_optimizer,
    HALF_BATCH: Ceilings.half_batch,
    FORWARD_ONLY: Ceilings.forward_only,
}
"""What is left out, and the loop without it."""
