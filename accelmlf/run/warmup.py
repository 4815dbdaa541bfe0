"""The warm-up: every shape of a run is met once, off the clock, and leaves no trace in what is trained."""

import copy
from typing import Any

import torch
import torch.nn.functional as F

from accelmlf.data.batches import Batch
from accelmlf.data.loading import BatchLoader
from accelmlf.run.loop import take_step
from accelmlf.run.workload import Workload


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
