"""A run's own clock beside that of its epochs: what is off the training clock, and when the target was reached."""

import statistics
from collections.abc import Sequence

from accelmlf.errors import SMALLER_STEPS, DivergedError
from accelmlf.measure.clock import Clock, stamp_s
from accelmlf.measure.cost import total_of
from accelmlf.measure.quality import Quality
from accelmlf.measure.records import EpochMetrics, RunSummary


class RunClock:
    """Collects the epochs of a run and the times between them. Made when set-up has ended.

    `started_s`: where the wall clock began. `before`: the epochs that a run that goes on has already; a target that
    one of them came to stays reached, and its wall clock, which was another's, is absent.
    """

    def __init__(
        self, target_accuracy: float, clock: Clock, started_s: float, before: Sequence[EpochMetrics] = ()
    ) -> None:
        self.target, self.clock, self.started_s = target_accuracy, clock, started_s
        self.setup_ended_s = self.ready_s = self.last_s = stamp_s(self.clock)
        self.epochs: list[EpochMetrics] = []
        self.at_target: EpochMetrics | None = None
        """The first epoch whose validation accuracy is at least the target."""
        self.wall_to_target_s: float | None = None
        self.tracking_s = 0.0
        for epoch in before:
            self._collect(epoch)

    @property
    def reached(self) -> bool:
        """Whether an epoch has come to the target."""
        return self.at_target is not None

    @property
    def crossing_epochs(self) -> float | None:
        """Epochs to the target, part of the last one by the straight line between the accuracies at its ends."""
        if self.at_target is None:
            return None
        place = self.epochs.index(self.at_target)
        quality = self.at_target.quality
        before = self.epochs[place - 1].quality.accuracy if place else 1 / quality.num_classes
        if quality.accuracy <= before or before >= self.target:  # nothing was trained towards it in this epoch
            return float(self.at_target.epoch)
        return self.at_target.epoch - 1 + (self.target - before) / (quality.accuracy - before)

    @property
    def setup_s(self) -> float:
        return self.setup_ended_s - self.started_s

    @property
    def warmup_s(self) -> float:
        return self.ready_s - self.setup_ended_s

    def ready(self) -> None:
        """The warm-up has ended."""
        self.ready_s = self.last_s = stamp_s(self.clock)

    def add(self, epoch: EpochMetrics) -> None:
        """An epoch has been trained and validated; the first at the target takes the wall clock."""
        self.last_s = stamp_s(self.clock)
        self._collect(epoch)
        if self.at_target is epoch:
            self.wall_to_target_s = self.last_s - self.started_s

    def _collect(self, epoch: EpochMetrics) -> None:
        self.epochs.append(epoch)
        if not self.reached and epoch.quality.reaches(self.target):
            self.at_target = epoch

    def logged(self) -> None:
        """What has passed since the epoch was tracking and console."""
        now_s = stamp_s(self.clock)
        self.tracking_s, self.last_s = self.tracking_s + now_s - self.last_s, now_s

    def summary(self, test: Quality | None, outcome: str | None = None) -> RunSummary:
        """The run in figures, right after its test set was read (None: it was not).

        `outcome`: what ended the run early; by default it follows from the target.

        Raises:
            DivergedError: the loss on the test set is not finite.
        """
        if test is not None and not test.is_finite:
            raise DivergedError("final_loss", test.loss, "the loss on the test set is not finite", SMALLER_STEPS)
        now_s, reached = stamp_s(self.clock), self.at_target
        return RunSummary(
            outcome=outcome or ("completed" if self.reached else "target_not_reached"),
            target_accuracy=self.target,
            test=test,
            best_eval_accuracy=max(epoch.quality.accuracy for epoch in self.epochs),
            time_to_accuracy_s=None if reached is None else reached.elapsed_train_s,
            time_to_accuracy_wall_s=self.wall_to_target_s,
            epochs_to_accuracy=None if reached is None else reached.epoch,
            crossing_epochs=self.crossing_epochs,
            num_epochs=len(self.epochs),
            total=total_of([epoch.cost for epoch in self.epochs]),
            total_train_s=self.epochs[-1].elapsed_train_s,
            median_epoch_s=statistics.median(epoch.cost.train_s for epoch in self.epochs),
            warmup_s=self.warmup_s,
            setup_s=self.setup_s,
            tracking_s=self.tracking_s,
            test_s=None if test is None else now_s - self.last_s,
            wall_s=now_s - self.started_s,
        )
