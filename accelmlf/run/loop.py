"""The training loop: a generator of epochs. Whoever iterates logs, saves or stops, and is off the training clock."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from accelmlf.data.batches import Batch, accumulate
from accelmlf.data.loading import BatchLoader
from accelmlf.errors import SMALLER_STEPS, AccelmlfError, DivergedError
from accelmlf.measure.clock import stamp_s
from accelmlf.measure.cost import Cost
from accelmlf.measure.quality import Quality
from accelmlf.measure.records import START, EpochMetrics, Position
from accelmlf.run.workload import Workload

MAX_SKIPPED_STEPS = 20
"""A gradient scaler finds its scale within some steps; more without one applied is divergence."""

MicroBatch = tuple[Batch, float, bool]
"""A batch on the device, its share of its optimizer step, and whether it ends that step."""


class Watch(Protocol):
    """Passes the batches of an epoch through, to show progress; it must not touch what is in them."""

    def __call__(self, batches: Iterator[Batch], epoch: int) -> Iterator[Batch]: ...


def unwatched(batches: Iterator[Batch], epoch: int) -> Iterator[Batch]:
    """The batches as they are: no progress is shown."""
    del epoch
    return batches


def train_epochs(
    work: Workload, *, max_epochs: int, start: Position = START, watch: Watch = unwatched
) -> Iterator[EpochMetrics]:
    """Train and validate epoch after epoch, up to `max_epochs` of the run in all.

    `start`: how far the run has come, where its state was put back (`state.put_back`); each epoch that is yielded has
    the position after it.

    Raises:
        DivergedError: after an epoch whose training or validation loss is not finite, or in which the gradient
            scaler skipped every step.
    """
    position = start
    for epoch in range(start.epoch + 1, max_epochs + 1):
        stretch = train_stretch(work, micro_batches(work, epoch, watch))
        # The epoch's first read from the device: the clock has stopped.
        train_loss = float(stretch.loss_sum) / stretch.images
        started_s = stamp_s(work.meter.clock)
        quality = evaluate(work, work.validation)
        eval_s = stamp_s(work.meter.clock) - started_s
        if not (math.isfinite(train_loss) and quality.is_finite):
            raise diverged(work, f"the loss is not finite in epoch {epoch} ({train_loss}, validation {quality.loss})")
        applied_before = position.applied_steps
        position = position.after_epoch(stretch.cost.train_s, stretch.steps, int(work.schedule.applied_steps))
        if position.skipped_in_a_row >= MAX_SKIPPED_STEPS:
            rule = f"no gradient was finite in {position.skipped_in_a_row} steps, so every one was skipped"
            raise diverged(work, rule)
        skipped_steps = stretch.steps - (position.applied_steps - applied_before)
        yield EpochMetrics(
            position=position,
            train_loss=train_loss,
            learning_rate=work.schedule.learning_rate(),
            skipped_steps=skipped_steps if work.scaler.is_enabled() else None,
            quality=quality,
            cost=stretch.cost,
            eval_s=eval_s,
        )


def diverged(work: Workload, rule: str) -> DivergedError:
    rate = f"{work.schedule.bases[0]:g}"
    return DivergedError("learning_rate", rate, rule, SMALLER_STEPS)


@dataclass(frozen=True)
class Stretch:
    """The timed unit of training: some optimizer steps in a row, of one epoch, or all of them."""

    images: int
    steps: int
    loss_sum: Tensor
    """Of the pictures' losses, float32 [], still on the device."""
    cost: Cost


def micro_batches(work: Workload, epoch: int, watch: Watch = unwatched) -> Iterator[MicroBatch]:
    """All micro-batches of an epoch, from 1, to be trained in one stretch or in several; nothing is loaded yet."""
    work.train.plan.set_epoch(epoch)
    batches = watch(device_batches(work, work.train, work.meter.lap), epoch)
    return accumulate(batches, work.train.plan.sizes, work.accumulation_steps)


def train_stretch(work: Workload, batches: Iterator[MicroBatch], steps: int | None = None) -> Stretch:
    """Train the next `steps` optimizer steps of an epoch on the clock; None: all that are left of it.

    Nothing in here reads from the device, so the host runs ahead of it and the device need not wait.
    """
    work.model.train()
    loss_sum, images, steps_taken = torch.zeros((), device=work.device), 0, 0
    # Whole steps: only the last of an epoch has fewer micro-batches, and nothing comes after it.
    num_batches = None if steps is None else steps * work.accumulation_steps
    with work.meter as meter:
        for batch, share_of_step, ends_step in islice(batches, num_batches):
            loss = loss_of(work, batch)
            meter.lap("forward")
            work.scaler.scale(loss * share_of_step).backward()
            meter.lap("backward")
            loss_sum += loss.detach() * len(batch.labels)
            if ends_step:
                take_step(work)
            meter.lap("optimizer")
            images, steps_taken = images + len(batch.labels), steps_taken + ends_step
    return Stretch(images, steps_taken, loss_sum, meter.cost(images))


def loss_of(work: Workload, batch: Batch) -> Tensor:
    """What training minimises: the mean cross entropy of a batch, in the precision of the run."""
    with work.techniques.forward_context():
        return F.cross_entropy(work.model(batch.pictures), batch.labels)


def take_step(work: Workload) -> None:
    """One optimizer step from the gradients that were accumulated; the schedule follows by itself."""
    if work.clip_norm is not None:
        work.scaler.unscale_(work.optimizer)
        clip_grad_norm_(work.model.parameters(), work.clip_norm)
    work.scaler.step(work.optimizer)
    work.scaler.update()
    work.optimizer.zero_grad(set_to_none=True)


def device_batches(work: Workload, loader: BatchLoader, lap: Callable[[str], None]) -> Iterator[Batch]:
    """Batches as the model takes them, on the device; a lap ends waiting, copying and augmenting."""

    def from_loader() -> Iterator[Batch]:
        for batch in loader.batches:
            if isinstance(batch, AccelmlfError):
                raise batch
            lap("data_wait")
            yield batch

    for batch in work.techniques.prepare_batches(from_loader()):
        lap("transfer")
        if loader.transform is None:
            yield batch
        else:
            seen = loader.transform(batch.pictures, batch.draws)
            lap("augment")
            yield batch._replace(pictures=seen)


@torch.no_grad()
def evaluate(work: Workload, loader: BatchLoader) -> Quality:
    """The quality on a whole set, in the precision of the run; the device is read at the end."""
    work.model.eval()
    losses, predictions, labels = [], [], []
    for batch in device_batches(work, loader, lambda _: None):
        with work.techniques.forward_context():
            logits = work.model(batch.pictures)
        # What is reported, whatever training minimises.
        losses.append(F.cross_entropy(logits.float(), batch.labels, reduction="sum"))
        predictions.append(logits.argmax(1))
        labels.append(batch.labels)
    loss = float(torch.stack(losses).sum()) / loader.plan.num_pictures
    return Quality(loss, _as_numpy(labels), _as_numpy(predictions), work.num_classes)


def _as_numpy(parts: list[Tensor]) -> npt.NDArray[np.int64]:
    values: npt.NDArray[np.int64] = torch.cat(parts).cpu().numpy()
    return values
