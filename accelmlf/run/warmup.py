"""The warm-up: every shape of a run is met once, off the clock, and leaves no trace in what is trained."""

import torch

from accelmlf.data.batches import Batch
from accelmlf.data.loading import BatchLoader
from accelmlf.run.loop import loss_of, take_step
from accelmlf.run.state import put_back, take
from accelmlf.run.workload import Workload


def warm_up(work: Workload) -> None:
    """Meet every shape of the run once, on dummy pictures, and leave no trace in what is trained.

    Compilation, autotuning, the first call of each kernel and the start of loader processes are paid here;
    then weights, BatchNorm's statistics, optimizer, scaler, schedule and random generators are as they were.
    """
    before = take(work)
    for _ in work.train.batches:  # before the first epoch there are none
        pass
    work.model.train()
    for size in sorted(set(work.train.plan.sizes), reverse=True):
        work.scaler.scale(loss_of(work, _dummy(work, work.train, size))).backward()
        take_step(work)
    work.model.eval()
    with torch.no_grad(), work.techniques.forward_context():
        for loader in (work.validation, work.test):
            for size in sorted(set(loader.plan.sizes), reverse=True):
                work.model(_dummy(work, loader, size).pictures)
    put_back(work, before)
    work.meter.clock.synchronize()


def _dummy(work: Workload, loader: BatchLoader, size: int) -> Batch:
    batch = next(iter(work.techniques.prepare_batches(iter([loader.dummy(size)]))))
    if loader.transform is None:
        return batch
    return batch._replace(pictures=loader.transform(batch.pictures, batch.draws))
