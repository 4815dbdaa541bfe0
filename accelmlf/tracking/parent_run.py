"""A parent run in MLflow and the runs below it: made, closed and found again, whatever killed their processes."""

from collections.abc import Mapping

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from accelmlf.machine.processes import identity, is_gone
from accelmlf.tracking.store import Store
from accelmlf.tracking.stored_runs import StoredRun, of_study
from accelmlf.tracking.tags import CONTINUED_BY, KIND, OUTCOME, OWNER, STUDY, STUDY_ID, WELL
from accelmlf.tracking.tracker import MlflowRun

KILLED_RUN = ("interrupted", "its process was killed")
"""Outcome and error of what a killed process has left open."""


class ParentRun:
    """The open run of a search, an ablation or a report (`run`, of a `kind`), and the runs below it.

    From `join` on it belongs to a study. `study_id` is that study's alone: another one may take its name when its
    storage was deleted.
    """

    def __init__(self, run: MlflowRun, kind: str) -> None:
        self.run, self.kind, self.store = run, kind, run.store
        self.study = self.study_id = ""

    def claim(self, name: str | None = None) -> None:
        """Say whose the run is, before anything else; close those of its kind whose process was killed.

        `name`: what it is called if nobody has named it.
        """
        self.run.log_settings({}, {KIND: self.kind, OWNER: identity()}, name)
        wanted = f"tags.`{KIND}` = '{self.kind}' and attributes.status = 'RUNNING'"
        for run in self.store.search_runs([self.run.experiment_id], wanted):
            if is_gone(run.data.tags.get(OWNER, "")):
                close_run(self.store, run, *KILLED_RUN)

    def join(self, study: str, study_id: str, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Make the run part of a study, with what it was asked, and take over what killed processes have left of it.

        Their open runs are closed, and the children of ended parents become its own.
        """
        self.study, self.study_id = study, study_id
        self.run.log_settings(params, {**self._tags(self.kind), **tags}, f"{self.kind} {study}")
        runs = [run for run in self._runs() if run.info.run_id != self.run.run_id]
        ended = [run for run in runs if OUTCOME in run.data.tags or is_gone(run.data.tags[OWNER])]
        for run in ended:
            close_run(self.store, run, *KILLED_RUN)
        former = [run.info.run_id for run in ended if run.data.tags[KIND] == self.kind]
        with self.store.errors():
            for run_id in former:
                self.store.client.set_tag(run_id, CONTINUED_BY, self.run.run_id)
            for run in runs:
                if run.data.tags.get(MLFLOW_PARENT_RUN_ID) in former:
                    self.store.client.set_tag(run.info.run_id, MLFLOW_PARENT_RUN_ID, self.run.run_id)

    def _tags(self, kind: str) -> dict[str, str]:
        return {STUDY: self.study, STUDY_ID: self.study_id, KIND: kind, OWNER: identity()}

    def _runs(self) -> list[Run]:
        """Every run of the study in this experiment."""
        return list(self.store.search_runs([self.run.experiment_id], of_study(self.study_id)))

    def start_child(self, name: str, kind: str, tags: Mapping[str, str]) -> str:
        """A new run below this one, for another process to go on with; its id."""
        own = {MLFLOW_PARENT_RUN_ID: self.run.run_id, **self._tags(kind)}
        with self.store.errors():
            run = self.store.client.create_run(self.run.experiment_id, tags={**own, **tags}, run_name=name)
            child_id: str = run.info.run_id
            return child_id

    def end_child(self, run_id: str, outcome: str, error: str | None = None) -> None:
        """See to it that a run is closed, and that its name says so where it did not end well."""
        with self.store.errors():
            run = self.store.client.get_run(run_id)
        close_run(self.store, run, outcome, error)

    def children(self, kind: str) -> list[StoredRun]:
        """The study's children of one kind that have ended."""
        return [StoredRun.of(run) for run in self._runs() if run.data.tags[KIND] == kind and OUTCOME in run.data.tags]

    def log_result(
        self, params: Mapping[str, str], metrics: Mapping[str, float], outcome: str, tags: Mapping[str, str]
    ) -> None:
        """What the whole came to."""
        self.run.log_settings(params, tags)
        self.run.log_metrics(metrics, 0)
        self.run.outcome = outcome


def close_run(store: Store, run: Run, outcome: str, error: str | None) -> None:
    """Whatever of a run's end is missing. A run that was killed after its last word keeps its own outcome."""
    run_id, tags = run.info.run_id, run.data.tags
    if OUTCOME not in tags:
        store.tag_outcome(run_id, outcome, error)
    outcome = tags.get(OUTCOME, outcome)
    if run.info.status == "RUNNING":
        store.terminate(run_id, outcome)
    mark = f" ({outcome.replace('_', ' ')})"
    if outcome not in WELL and not run.info.run_name.endswith(mark):
        with store.errors():
            store.client.update_run(run_id, name=run.info.run_name + mark)
