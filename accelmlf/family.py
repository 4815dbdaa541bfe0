"""A parent run in MLflow and the runs below it: made, closed and found again, whatever killed their processes."""

import re
from collections.abc import Iterator, Mapping

import mlflow
from mlflow.entities import Param, Run, RunStatus, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from accelmlf.processes import identity, is_gone
from accelmlf.tracking import MADE_UP_NAME, STATUS, MlflowRun, storage_errors

STUDY, STUDY_ID, KIND = "accelmlf.study", "accelmlf.study_id", "accelmlf.kind"
OWNER, OUTCOME = "accelmlf.owner", "accelmlf.outcome"
PAGE = 1000


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

    def log_result(self, params: Mapping[str, str], metrics: Mapping[str, float], outcome: str) -> None:
        """What the whole came to."""
        with storage_errors():
            known = self.client.get_run(self.parent.run_id).data.params
            new = [Param(name, text) for name, text in params.items() if name not in known]
            self.client.log_batch(self.parent.run_id, params=new)
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
            run = self.client.get_run(run_id)
            self._close(run, outcome, error)
            mark = f" ({outcome.replace('_', ' ')})"
            if outcome not in ("completed", "target_not_reached") and not run.info.run_name.endswith(mark):
                self.client.update_run(run_id, name=run.info.run_name + mark)

    def adopt(self) -> None:
        """Close what killed processes of this study have left open, and take over the children of ended parents."""
        with storage_errors():
            runs = [run for run in self._runs() if run.info.run_id != self.parent.run_id]
            for run in runs:
                is_open = OUTCOME not in run.data.tags or run.info.status == "RUNNING"
                if is_open and is_gone(run.data.tags[OWNER]):
                    self.end_child(run.info.run_id, "interrupted", "its process was killed")
            ended = [run.info.run_id for run in runs if run.data.tags[KIND] == self.kind and _has_ended(run)]
            for run_id in ended:
                self.client.set_tag(run_id, "accelmlf.continued_by", self.parent.run_id)
            for run in runs:
                if run.data.tags.get(MLFLOW_PARENT_RUN_ID) in ended:
                    self.client.set_tag(run.info.run_id, MLFLOW_PARENT_RUN_ID, self.parent.run_id)

    def children(self, kind: str) -> Iterator[tuple[dict[str, str], dict[str, float]]]:
        """Tags and metrics of the study's children of one kind that have ended."""
        with storage_errors():
            found = [run.data for run in self._runs() if run.data.tags[KIND] == kind and OUTCOME in run.data.tags]
        for data in found:
            yield dict(data.tags), dict(data.metrics)

    def _runs(self) -> list[Run]:
        """Every run of the study in this experiment."""
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.parent.experiment_id],
                f"tags.`{STUDY_ID}` = '{self.study_id}'",
                max_results=PAGE,
                order_by=["attributes.start_time"],
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                return found

    def _close(self, run: Run, outcome: str, error: str | None) -> None:
        if OUTCOME in run.data.tags:
            outcome = run.data.tags[OUTCOME]  # it was killed between its last word and its end
        else:
            self.client.set_tag(run.info.run_id, OUTCOME, outcome)
            if error is not None:
                self.client.set_tag(run.info.run_id, "accelmlf.error", error)
        if run.info.status == "RUNNING":
            self.client.set_terminated(run.info.run_id, RunStatus.to_string(STATUS.get(outcome, RunStatus.FAILED)))


def _has_ended(run: Run) -> bool:
    return OUTCOME in run.data.tags or is_gone(run.data.tags[OWNER])


def tracking_uri() -> str:
    uri: str = mlflow.get_tracking_uri()
    return uri
