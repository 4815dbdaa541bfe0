"""A parent run in MLflow and the runs below it: made, closed and found again, whatever killed their processes."""

import re
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Param, Run, RunStatus, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from accelmlf.machine.processes import identity, is_gone
from accelmlf.tracking.store import storage_errors
from accelmlf.tracking.stored_runs import StoredRun, of_study, search_runs
from accelmlf.tracking.tags import CONTINUED_BY, KIND, OUTCOME, OWNER, STUDY, STUDY_ID, WELL
from accelmlf.tracking.tracker import MADE_UP_NAME, STATUS, MlflowRun


class Family:
    """The open parent run of a study, and its children.

    `study_id` is the study's alone: another one may take its name when its storage was deleted.
    """

    def __init__(self, parent: MlflowRun, kind: str, study: str, study_id: str) -> None:
        self.parent, self.kind, self.study, self.study_id = parent, kind, study, study_id
        self.client = parent.client

    def log_settings(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Parameters that `mlflow run` has not logged already, and tags; from here on the run belongs to the study."""
        with storage_errors():
            run = self.client.get_run(self.parent.run_id)
            missing = [Param(name, text) for name, text in params.items() if name not in run.data.params]
            own = self._tags(self.kind)
            if re.fullmatch(MADE_UP_NAME, run.info.run_name or ""):
                own[MLFLOW_RUN_NAME] = f"{self.kind} {self.study}"
            both = [RunTag(name, text) for name, text in {**own, **tags}.items()]
            self.client.log_batch(self.parent.run_id, params=missing, tags=both)

    def _tags(self, kind: str) -> dict[str, str]:
        return {STUDY: self.study, STUDY_ID: self.study_id, KIND: kind, OWNER: identity()}

    def log_result(
        self, params: Mapping[str, str], metrics: Mapping[str, float], outcome: str, tags: Mapping[str, str]
    ) -> None:
        """What the whole came to."""
        with storage_errors():
            known = self.client.get_run(self.parent.run_id).data.params
            new = [Param(name, text) for name, text in params.items() if name not in known]
            said = [RunTag(name, text) for name, text in tags.items()]
            self.client.log_batch(self.parent.run_id, params=new, tags=said)
        self.parent.log_metrics(metrics, 0)
        self.parent.outcome = outcome

    def start_child(self, name: str, kind: str, tags: Mapping[str, str]) -> str:
        """A new run below the parent, for another process to go on with; its id."""
        own = {MLFLOW_PARENT_RUN_ID: self.parent.run_id, **self._tags(kind)}
        with storage_errors():
            run = self.client.create_run(self.parent.experiment_id, tags={**own, **tags}, run_name=name)
            child_id: str = run.info.run_id
            return child_id

    def end_child(self, run_id: str, outcome: str, error: str | None = None) -> None:
        """See to it that a run is closed, and that its name says so where it did not end well."""
        with storage_errors():
            close_run(self.client, self.client.get_run(run_id), outcome, error)

    def adopt(self) -> None:
        """Close what killed processes of this study have left open, and take over the children of ended parents."""
        with storage_errors():
            runs = [run for run in self._runs() if run.info.run_id != self.parent.run_id]
            ended = [run for run in runs if OUTCOME in run.data.tags or is_gone(run.data.tags[OWNER])]
            for run in ended:
                close_run(self.client, run, "interrupted", "its process was killed")
            former = [run.info.run_id for run in ended if run.data.tags[KIND] == self.kind]
            for run_id in former:
                self.client.set_tag(run_id, CONTINUED_BY, self.parent.run_id)
            for run in runs:
                if run.data.tags.get(MLFLOW_PARENT_RUN_ID) in former:
                    self.client.set_tag(run.info.run_id, MLFLOW_PARENT_RUN_ID, self.parent.run_id)

    def children(self, kind: str) -> list[StoredRun]:
        """The study's children of one kind that have ended."""
        return [StoredRun.of(run) for run in self._runs() if run.data.tags[KIND] == kind and OUTCOME in run.data.tags]

    def _runs(self) -> list[Run]:
        """Every run of the study in this experiment."""
        return list(search_runs([self.parent.experiment_id], of_study(self.study_id)))


def claim(parent: MlflowRun, kind: str, *, name: str | None = None) -> None:
    """Say whose a parent run is, before anything else; close those of `kind` whose process was killed.

    `name`: what a run is called that nobody named.
    """
    with storage_errors():
        if name and re.fullmatch(MADE_UP_NAME, parent.client.get_run(parent.run_id).info.run_name or ""):
            parent.client.set_tag(parent.run_id, MLFLOW_RUN_NAME, name)
        for tag, text in {KIND: kind, OWNER: identity()}.items():
            parent.client.set_tag(parent.run_id, tag, text)
        wanted = f"tags.`{KIND}` = '{kind}' and attributes.status = 'RUNNING'"
        for run in search_runs([parent.experiment_id], wanted):
            if is_gone(run.data.tags.get(OWNER, "")):
                close_run(parent.client, run, "interrupted", "its process was killed")


def close_run(client: MlflowClient, run: Run, outcome: str, error: str | None) -> None:
    """Whatever of a run's end is missing. A run that was killed after its last word keeps its own outcome."""
    run_id, tags = run.info.run_id, run.data.tags
    if OUTCOME not in tags:
        client.set_tag(run_id, OUTCOME, outcome)
        if error is not None:
            client.set_tag(run_id, "accelmlf.error", error)
    outcome = tags.get(OUTCOME, outcome)
    if run.info.status == "RUNNING":
        client.set_terminated(run_id, RunStatus.to_string(STATUS.get(outcome, RunStatus.FAILED)))
    mark = f" ({outcome.replace('_', ' ')})"
    if outcome not in WELL and not run.info.run_name.endswith(mark):
        client.update_run(run_id, name=run.info.run_name + mark)
