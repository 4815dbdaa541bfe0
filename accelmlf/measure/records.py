"""What passes between the rooms: the record of an epoch, of a run, of its data."""

from dataclasses import asdict, dataclass

from accelmlf.measure.cost import Cost
from accelmlf.measure.gpu import GpuState
from accelmlf.measure.quality import Quality


@dataclass(frozen=True)
class Position:
    """How far a run has come, between two epochs: what its loop must know to go on from there."""

    epoch: int = 0
    """Finished epochs."""
    elapsed_train_s: float = 0.0
    """The training clock."""
    applied_steps: int = 0
    """Optimizer steps, without those that the gradient scaler left out."""
    skipped_in_a_row: int = 0
    """Steps that the gradient scaler left out since the last epoch that had one applied."""

    def after_epoch(self, train_s: float, steps: int, applied_steps: int) -> "Position":
        """One epoch on, which took `train_s` and so many steps; `applied_steps` is of the whole run."""
        skipped = 0 if applied_steps > self.applied_steps else self.skipped_in_a_row + steps
        return Position(self.epoch + 1, self.elapsed_train_s + train_s, applied_steps, skipped)


START = Position()


def cost_metrics(cost: Cost) -> dict[str, float]:
    """The figures of one stretch of training by their logged names, be it an epoch or less; what was not captured is
    absent.
    """
    gpu = cost.gpu_state or GpuState()
    figures: dict[str, float | None] = {
        "time/train_s": cost.train_s,
        **{f"time/{phase}_s": seconds for phase, seconds in cost.phases_s.items()},
        "time/other_s": cost.other_s,
        "throughput/images_per_s": cost.images_per_s,
        "memory/gpu_peak_allocated_mib": cost.gpu_peak_allocated_mib,
        "memory/gpu_peak_reserved_mib": cost.gpu_peak_reserved_mib,
        "memory/host_peak_mib": cost.host_peak_mib,
        "energy/gpu_joules": cost.gpu_joules,
        "machine/gpu_sm_clock_mhz": gpu.sm_clock_mhz,
        "machine/gpu_temperature_c": gpu.temperature_c,
        "machine/gpu_throttle_reasons": gpu.throttle_reasons,
        "machine/missing_cores_share": cost.missing_cores_share,
        **{f"machine/{name}": value for name, value in (asdict(cost.presence) if cost.presence else {}).items()},
    }
    return {name: value for name, value in figures.items() if value is not None}


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch of a run: what it cost, how good the model is after it, and how far the run has come."""

    position: Position
    """At the end of the epoch."""
    train_loss: float
    learning_rate: float
    skipped_steps: int | None
    """Optimizer steps that the gradient scaler left out; None without a scaler."""
    quality: Quality
    cost: Cost
    eval_s: float

    @property
    def epoch(self) -> int:
        """Its number, from 1."""
        return self.position.epoch

    @property
    def elapsed_train_s(self) -> float:
        """The training clock at its end."""
        return self.position.elapsed_train_s

    def as_metrics(self) -> dict[str, float]:
        """Every figure by its logged name; what was not captured is absent."""
        figures: dict[str, float | None] = {
            "train/loss": self.train_loss,
            "train/learning_rate": self.learning_rate,
            "train/skipped_steps": self.skipped_steps,
            "eval/loss": self.quality.loss,
            "eval/accuracy": self.quality.accuracy,
            "eval/f1_macro": self.quality.f1_macro,
            **cost_metrics(self.cost),
            "time/eval_s": self.eval_s,
            "time/elapsed_train_s": self.elapsed_train_s,
        }
        return {name: value for name, value in figures.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The end of a run: its final figures, and the quality on the test set, which was read once or not at all."""

    outcome: str
    target_accuracy: float
    test: Quality | None
    best_eval_accuracy: float
    time_to_accuracy_s: float | None
    time_to_accuracy_wall_s: float | None
    epochs_to_accuracy: int | None
    crossing_epochs: float | None
    """As `epochs_to_accuracy`, with the part of the last epoch after which the target was crossed."""
    num_epochs: int
    total: Cost
    """Of all epochs together."""
    total_train_s: float
    median_epoch_s: float
    warmup_s: float
    setup_s: float
    tracking_s: float
    test_s: float | None
    wall_s: float

    @property
    def reached_target(self) -> bool:
        """Whether an epoch's validation accuracy was at least `target_accuracy`."""
        return self.time_to_accuracy_s is not None

    def as_metrics(self) -> dict[str, float]:
        """The final scalars by their logged names; a time to an accuracy that was not reached is absent."""
        test, total, epochs = self.test, self.total, self.num_epochs
        joules = None if total.gpu_joules is None else total.gpu_joules / epochs
        figures: dict[str, float | None] = {
            "final_accuracy": None if test is None else test.accuracy,
            "final_f1": None if test is None else test.f1_macro,
            "final_loss": None if test is None else test.loss,
            "best_eval_accuracy": self.best_eval_accuracy,
            "reached_target": float(self.reached_target),
            "time_to_accuracy_s": self.time_to_accuracy_s,
            "time_to_accuracy_wall_s": self.time_to_accuracy_wall_s,
            "epochs_to_accuracy": self.epochs_to_accuracy,
            "crossing_epochs": self.crossing_epochs,
            "total_train_s": self.total_train_s,
            "median_epoch_s": self.median_epoch_s,
            "mean_epoch_s": total.train_s / epochs,
            **{f"mean_{phase}_s": seconds / epochs for phase, seconds in total.phases_s.items()},
            "mean_other_s": total.other_s / epochs,
            "mean_images_per_s": total.images_per_s,
            "mean_gpu_joules": joules,
            "peak_gpu_allocated_mib": total.gpu_peak_allocated_mib,
            "peak_gpu_reserved_mib": total.gpu_peak_reserved_mib,
            "peak_host_mib": total.host_peak_mib,
            "other_gpu_processes": total.other_gpu_processes,
            "gpu_throttle_reasons": None if total.gpu_state is None else total.gpu_state.throttle_reasons,
            "missing_cores_share": total.missing_cores_share,
            "warmup_s": self.warmup_s,
            "setup_s": self.setup_s,
            "tracking_s": self.tracking_s,
            "test_s": self.test_s,
            "wall_s": self.wall_s,
        }
        return {name: value for name, value in figures.items() if value is not None}


@dataclass(frozen=True)
class DatasetRecord:
    """What identifies the data of a run."""

    name: str
    digest: str
    source: str
    sizes: dict[str, int]
