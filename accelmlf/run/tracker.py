"""What a run asks of whoever records it, and a tracker that keeps everything in memory."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from accelmlf.measure.records import DatasetRecord, EpochMetrics, RunSummary
from accelmlf.settings.run import RunConfig


class TrackedRun(Protocol):
    """One open run of a tracker."""

    def log_config(self, config: RunConfig, tags: Mapping[str, str]) -> None:
        """The settings, and what else there is to know of the run, by plain names such as skipped_techniques."""

    def log_inputs(self, dataset: DatasetRecord, weights_source: str) -> None:
        """The data, and where the first weights are from: random, a path, or <hub id>@<commit>."""

    def log_epoch(self, epoch: EpochMetrics) -> None:
        """After each epoch, off the training clock."""

    def log_summary(self, summary: RunSummary) -> None:
        """The final figures, before the run is closed with its outcome."""

    def log_artifacts(self, folder: Path) -> None:
        """Every file of a folder, which is gone afterwards."""

    def url(self) -> str | None:
        """The page that shows this run, where there is one."""


class Tracker(Protocol):
    """Where runs are recorded. Leaving `run` closes the run with the outcome of what happened inside."""

    def run(self) -> AbstractContextManager[TrackedRun]: ...

    def local_weights(self, weights: str) -> str:
        """`runs:/<id>` as a local file; any other text as it is."""


@dataclass
class MemoryTracker:
    """Keeps everything in lists: for tests, and where there is no tracking store."""

    config: RunConfig | None = None
    tags: dict[str, str] = field(default_factory=dict)
    dataset: DatasetRecord | None = None
    epochs: list[EpochMetrics] = field(default_factory=list)
    summary: RunSummary | None = None
    artifacts: dict[str, bytes] = field(default_factory=dict)

    def run(self) -> "MemoryTracker":
        return self

    def __enter__(self) -> "MemoryTracker":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def log_config(self, config: RunConfig, tags: Mapping[str, str]) -> None:
        self.config, self.tags = config, dict(tags)

    def log_inputs(self, dataset: DatasetRecord, weights_source: str) -> None:
        self.dataset = dataset
        self.tags["weights_source"] = weights_source

    def log_epoch(self, epoch: EpochMetrics) -> None:
        self.epochs.append(epoch)

    def log_summary(self, summary: RunSummary) -> None:
        self.summary = summary

    def log_artifacts(self, folder: Path) -> None:
        self.artifacts.update({path.name: path.read_bytes() for path in folder.iterdir()})

    def url(self) -> str | None:
        return None

    def local_weights(self, weights: str) -> str:
        return weights
