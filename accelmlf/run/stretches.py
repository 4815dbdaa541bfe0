"""A run that trains a stretch of steps whenever it is asked: the real loop, warm, at rest in between."""

import math
import time
from collections.abc import Iterator

from accelmlf.errors import SMALLER_STEPS, DivergedError
from accelmlf.measure.cost import Cost, total_of
from accelmlf.run.loop import MicroBatch, Stretch, micro_batches, train_stretch
from accelmlf.run.workload import Workload

STRETCH_S = {"cpu": 0.5, "cuda": 0.3}
"""Shorter stretches compare better, because drift has less time; these still hold some steps of any network."""
MIN_MICRO_BATCHES = {"cpu": 3, "cuda": 20}
LEAD_IN_STEPS = {"cpu": 1, "cuda": 3}
"""Untimed steps before a stretch, in which caches, clocks and queues become what they are amid an epoch."""
PREFETCHED = 2
"""Batches that each loader process holds ready (torch's prefetch_factor): food that a pause has paid for."""


class WarmLoop:
    """The training loop of a workload, stretch by stretch, epoch after epoch.

    A stretch is of whole accumulation windows of whole batches, all of one epoch: an epoch's last, short batch is in
    none. What is left of an epoch and holds no stretch is passed over.
    """

    def __init__(self, work: Workload) -> None:
        self.work, self.epoch, self.left = work, 0, 0
        self.batches: Iterator[MicroBatch] = iter(())
        sizes = work.train.plan.sizes
        self.windows = max(sizes.count(sizes[0]) // work.accumulation_steps, 1)
        kind = "cuda" if work.device.type == "cuda" else "cpu"
        workers = getattr(work.train.batches, "num_workers", 0)
        queued = -(-(PREFETCHED * workers + 1) // work.accumulation_steps) if workers else 0
        self.lead_in = max(LEAD_IN_STEPS[kind], queued)
        self.least = max(-(-MIN_MICRO_BATCHES[kind] // work.accumulation_steps), 1)
        self.stretch_s = STRETCH_S[kind]

    def calibrate(self) -> int:
        """How many optimizer steps make a stretch here: as long as it should be, and enough of them."""
        steps = min(self.least, self.windows)
        self.train(steps)
        cost = self.train(steps).cost
        wanted = max(self.least, math.ceil(self.stretch_s / (cost.train_s / steps)))
        return min(wanted, max(self.windows - self.lead_in, 1))  # an epoch has to hold its lead-in, too

    def train_for(self, seconds: float, steps: int) -> Cost:
        """What stretches of so many steps have cost, one right after the other, in the second half of so long a time.

        By then a device that shares its power and its heat with nobody has the clock that it keeps.
        """
        started_s, costs = time.monotonic(), list[Cost]()
        while not costs or time.monotonic() - started_s < seconds:
            cost = self.train(steps).cost
            if not costs or time.monotonic() - started_s >= seconds / 2:
                costs.append(cost)
        return total_of(costs[1:] or costs)

    def train(self, steps: int) -> Stretch:
        """The next stretch of at most as many steps as an epoch has whole windows, after an untimed lead-in.

        Raises:
            DivergedError: the loss is not finite.
        """
        steps = min(steps, self.windows)
        lead_in = min(self.lead_in, self.windows - steps)
        if self.left < lead_in + steps:
            self.epoch, self.left = self.epoch + 1, self.windows
            self.batches = micro_batches(self.work, self.epoch)
        if lead_in:
            train_stretch(self.work, self.batches, lead_in)
        stretch = train_stretch(self.work, self.batches, steps)
        self.left -= lead_in + steps
        if not math.isfinite(loss := float(stretch.loss_sum)):
            rate = f"{self.work.schedule.bases[0]:g}"
            raise DivergedError("learning_rate", rate, f"the loss is not finite ({loss})", SMALLER_STEPS)
        return stretch
