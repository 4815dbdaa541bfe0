"""The loop: a generator of epochs. Whoever iterates logs, saves or stops, and is off the training clock."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from accelmlf.batches import Batch, accumulate
from accelmlf.costs import EpochMeter, stamp_s
from accelmlf.errors import AccelmlfError, DivergedError
from accelmlf.loading import BatchLoader
from accelmlf.metrics import Quality
from accelmlf.optimization import Schedule
from accelmlf.records import EpochMetrics
from accelmlf.stack import TechniqueStack

MAX_SKIPPED_STEPS = 20
"""A gradient scaler finds its scale within some steps; more without one applied is divergence."""


@dataclass(frozen=True)
class Workload:
    """All that an epoch needs, ready on its device."""

    model: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    clip_norm: float | None
    techniques: TechniqueStack
    train: BatchLoader
    validation: BatchLoader
    test: BatchLoader
    num_classes: int
    meter: EpochMeter
    device: torch.device


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


def warm_up(work: Workload) -> None:
    """Meet every shape of the run once, on dummy pictures, and leave no trace in what is trained.

    Compilation, autotuning, the first call of each kernel and the start of loader processes are paid here;
    then weights, BatchNorm's statistics, optimizer, scaler, schedule and random generators are as they were.
    """
    before = _state(work)
    for _ in work.train.batches:  # before the first epoch there are none
        pass
    work.model.train()
    for size in sorted(set(work.train.plan.sizes), reverse=True):
        batch = _dummy(work, work.train, size)
        with work.techniques.forward_context():
            loss = F.cross_entropy(work.model(batch.pictures), batch.labels)
        work.scaler.scale(loss).backward()
        take_step(work)
    work.model.eval()
    with torch.no_grad(), work.techniques.forward_context():
        for loader in (work.validation, work.test):
            for size in sorted(set(loader.plan.sizes), reverse=True):
                work.model(_dummy(work, loader, size).pictures)
    _restore(work, before)
    work.meter.clock.synchronize()


def _dummy(work: Workload, loader: BatchLoader, size: int) -> Batch:
    batch = next(iter(work.techniques.prepare_batches(iter([loader.dummy(size)]))))
    if loader.transform is None:
        return batch
    return batch._replace(pictures=loader.transform(batch.pictures, batch.draws))


def _state(work: Workload) -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state(work.device) if work.device.type == "cuda" else None
    # On the host, so that the copy does not count in the device's peak of reserved memory.
    model = {name: value.detach().to("cpu", copy=True) for name, value in work.model.state_dict().items()}
    parts = (model, *copy.deepcopy((work.optimizer.state_dict(), work.scaler.state_dict())))
    return {"parts": parts, "cpu_rng": torch.get_rng_state(), "cuda_rng": cuda}


def _restore(work: Workload, state: dict[str, Any]) -> None:
    model, optimizer, scaler = state["parts"]
    work.model.load_state_dict(model)
    work.optimizer.load_state_dict(optimizer)
    work.optimizer.zero_grad(set_to_none=True)
    work.scaler.load_state_dict(scaler)
    work.schedule.restart()
    torch.set_rng_state(state["cpu_rng"])
    if state["cuda_rng"] is not None:
        torch.cuda.set_rng_state(state["cuda_rng"], work.device)


def _as_numpy(parts: list[Tensor]) -> npt.NDArray[np.int64]:
    values: npt.NDArray[np.int64] = torch.cat(parts).cpu().numpy()
    return values
