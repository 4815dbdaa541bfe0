"""The loop: a generator of epochs. Whoever iterates logs, saves or stops, and is off the training clock."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from accelmlf.data.batches import Batch, accumulate
from accelmlf.data.loading import BatchLoader
from accelmlf.errors import AccelmlfError, DivergedError
from accelmlf.measure.clock import stamp_s
from accelmlf.measure.quality import Quality
from accelmlf.measure.records import EpochMetrics
from accelmlf.run.workload import Workload

MAX_SKIPPED_STEPS = 20
"""A gradient scaler finds its scale within some steps; more without one applied is divergence."""


class Watch(Protocol):
    """Passes the batches of an epoch through, to show progress; it must not touch what is in them."""

    def __call__(self, batches: Iterator[Batch], epoch: int) -> Iterator[Batch]: ...


def unwatched(batches: Iterator[Batch], epoch: int) -> Iterator[Batch]:
    """Nothing to show."""
    del epoch
    return batches


def train_epochs(
    work: Workload, *, max_epochs: int, accumulation_steps: int, watch: Watch = unwatched
) -> Iterator[EpochMetrics]:
    """Train and validate epoch after epoch.

    Raises:
        DivergedError: after an epoch whose training or validation loss is not finite, or in which the gradient
            scaler skipped every step.
    """
    elapsed_train_s, applied_before, skipped_in_a_row = 0.0, 0, 0
    for epoch in range(1, max_epochs + 1):
        work.train.plan.set_epoch(epoch)
        loss_sum = train_epoch(work, accumulation_steps, partial(watch, epoch=epoch))
        cost = work.meter.cost(work.train.plan.num_pictures)
        elapsed_train_s += cost.train_s
        # The epoch's first read from the device: the clock has stopped.
        train_loss = float(loss_sum) / work.train.plan.num_pictures
        started_s = stamp_s(work.meter.clock)
        quality = evaluate(work, work.validation)
        eval_s = stamp_s(work.meter.clock) - started_s
        if not (math.isfinite(train_loss) and quality.is_finite):
            raise diverged(work, f"the loss is not finite in epoch {epoch} ({train_loss}, validation {quality.loss})")
        steps = -(-len(work.train.plan) // accumulation_steps)
        applied = int(work.schedule.applied_steps) - applied_before
        applied_before += applied
        skipped_in_a_row = 0 if applied else skipped_in_a_row + steps
        if skipped_in_a_row >= MAX_SKIPPED_STEPS:
            raise diverged(work, f"no gradient was finite in {skipped_in_a_row} steps, so every one was skipped")
        yield EpochMetrics(
            epoch=epoch,
            train_loss=train_loss,
            learning_rate=work.schedule.learning_rate(),
            skipped_steps=steps - applied if work.scaler.is_enabled() else None,
            quality=quality,
            cost=cost,
            eval_s=eval_s,
            elapsed_train_s=elapsed_train_s,
        )


def diverged(work: Workload, rule: str) -> DivergedError:
    rate = f"{work.schedule.bases[0]:g}"
    return DivergedError("learning_rate", rate, rule, "Use a smaller learning_rate, or amp:bf16 for amp:fp16")


def train_epoch(work: Workload, accumulation_steps: int, watch: Callable[[Iterator[Batch]], Iterator[Batch]]) -> Tensor:
    """One epoch on the clock; the sum of the pictures' losses, still on the device.

    Nothing in here reads from the device, so the host runs ahead of it and the device need not wait.
    """
    work.model.train()
    loss_sum = torch.zeros((), device=work.device)
    sizes = work.train.plan.sizes
    with work.meter as meter:
        batches = watch(device_batches(work, work.train, meter.lap))
        for batch, share_of_step, ends_step in accumulate(batches, sizes, accumulation_steps):
            with work.techniques.forward_context():
                loss = F.cross_entropy(work.model(batch.pictures), batch.labels)
            meter.lap("forward")
            work.scaler.scale(loss * share_of_step).backward()
            meter.lap("backward")
            loss_sum += loss.detach() * len(batch.labels)
            if ends_step:
                take_step(work)
            meter.lap("optimizer")
    return loss_sum


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
        losses.append(F.cross_entropy(logits.float(), batch.labels, reduction="sum"))
        predictions.append(logits.argmax(1))
        labels.append(batch.labels)
    loss = float(torch.stack(losses).sum()) / loader.plan.num_pictures
    return Quality(loss, _as_numpy(labels), _as_numpy(predictions), work.num_classes)


def _as_numpy(parts: list[Tensor]) -> npt.NDArray[np.int64]:
    values: npt.NDArray[np.int64] = torch.cat(parts).cpu().numpy()
    return values
