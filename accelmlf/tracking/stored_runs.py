"""What the tracking store holds: runs as records, whoever made them."""

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow.entities import Run

from accelmlf.machine.facts import decides_speed
from accelmlf.tracking.tags import KIND, OUTCOME, PREFIX, SETTING, STUDY_ID, WELL

GPU_LIBRARIES = {"cuda": "CUDA", "cudnn": "cuDNN"}


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
        facts = decides_speed({name.removeprefix(PREFIX): text for name, text in self.tags.items()})
        kind = self.settings.get("device", "cpu").partition(":")[0]
        threads = facts.get("cpu_threads_used") or "?"
        parts = [
            facts.get("gpu") or ("" if kind == "cpu" else kind),
            facts.get("cpu") or "unknown processor",
            f"{threads} thread{'s' * (threads != '1')}",
            *(f"{word} {facts[name]}" for name, word in GPU_LIBRARIES.items() if name in facts),
            f"torch {facts.get('torch', '?')}",
        ]
        return ", ".join(part for part in parts if part)

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


def of_study(study_id: str) -> str:
    """MLflow's filter for the runs of a study."""
    return f"tags.`{STUDY_ID}` = '{study_id}'"
