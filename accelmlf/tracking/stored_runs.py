"""What the tracking store holds: runs as records, whoever made them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.entities import Run

from accelmlf.tracking.store import storage_errors
from accelmlf.tracking.tags import KIND, OUTCOME, SETTING, STUDY_ID, WELL

PAGE = 1000


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """One run as the store has it."""

    run_id: str
    name: str
    started_ms: int
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    """The last value of each."""
    data_digest: str | None

    @property
    def settings(self) -> dict[str, str]:
        """Every resolved setting, as text."""
        return {name.removeprefix(SETTING): text for name, text in self.tags.items() if name.startswith(SETTING)}

    @property
    def kind(self) -> str | None:
        """What it is of many runs: search, trial, ablation and so on; None for a run of its own."""
        return self.tags.get(KIND)

    @property
    def study_id(self) -> str | None:
        return self.tags.get(STUDY_ID)

    @property
    def outcome(self) -> str | None:
        """None while the run is under way, or where it is none of this project."""
        return self.tags.get(OUTCOME)

    @property
    def has_ended_well(self) -> bool:
        return self.outcome in WELL

    @property
    def machine(self) -> str:
        """The hardware, with what else decides how fast it is, in words."""
        facts = {name: self.tags.get(f"accelmlf.hardware.{name}") for name in ("gpu", "cpu", "cpu_threads_used")}
        kind = self.settings.get("device", "cpu").partition(":")[0]
        device = facts["gpu"] or ("" if kind == "cpu" else kind)
        threads = facts["cpu_threads_used"] or "?"
        processor = f"{facts['cpu'] or 'unknown processor'}, {threads} thread{'s' * (threads != '1')}"
        torch = f"torch {self.tags.get('accelmlf.version.torch', '?')}"
        return ", ".join([device, processor, torch] if device else [processor, torch])

    @classmethod
    def of(cls, run: Run) -> "StoredRun":
        inputs = run.inputs.dataset_inputs if run.inputs else []
        return cls(
            run_id=run.info.run_id,
            name=run.info.run_name or "",
            started_ms=run.info.start_time or 0,
            tags=dict(run.data.tags),
            metrics=dict(run.data.metrics),
            data_digest=inputs[0].dataset.digest if inputs else None,
        )


def search_runs(experiment_ids: Sequence[str], wanted: str = "") -> Iterator[Run]:
    """Every run of some experiments that MLflow's filter `wanted` lets pass, oldest first."""
    client, token = mlflow.MlflowClient(), None
    while True:
        with storage_errors():
            page = client.search_runs(
                list(experiment_ids), wanted, max_results=PAGE, order_by=["attributes.start_time"], page_token=token
            )
        yield from page
        token = page.token
        if not token:
            return


def read_runs(experiment_id: str, wanted: str = "") -> list[StoredRun]:
    return [StoredRun.of(run) for run in search_runs([experiment_id], wanted)]


def runs_of_study(experiment_id: str, study_id: str) -> list[StoredRun]:
    """Parents and children of one study."""
    return read_runs(experiment_id, of_study(study_id))


def of_study(study_id: str) -> str:
    """MLflow's filter for the runs of a study."""
    return f"tags.`{STUDY_ID}` = '{study_id}'"


def history(run_id: str, metric: str) -> list[float]:
    """A metric's values by step."""
    with storage_errors():
        values: list[Any] = mlflow.MlflowClient().get_metric_history(run_id, metric)
    return [value.value for value in sorted(values, key=lambda value: value.step)]
