"""A parent run in MLflow and the runs below it: made, closed and found again, whatever killed their processes."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mlflow
from mlflow.entities import Param, Run, RunStatus, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from accelmlf.processes import identity, is_gone
from accelmlf.tracking import MADE_UP_NAME, STATUS, MlflowRun, MlflowTracker, storage_errors

STUDY, KIND, OWNER, OUTCOME = "accelmlf.study", "accelmlf.kind", "accelmlf.owner", "accelmlf.outcome"
PAGE = 1000


class Family:
    """The open parent run of a study, and its children."""

    def __init__(self, parent: MlflowRun, study: str, kind: str) -> None:
        self.parent, self.study, self.kind = parent, study, kind
        self.client = parent.client

    def log_settings(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Parameters that `mlflow run` has not logged already, and tags; from here on the run belongs to the study."""
        with storage_errors():
            run = self.client.get_run(self.parent.run_id)
            missing = [Param(name, text) for name, text in params.items() if name not in run.data.params]
            own = {STUDY: self.study, KIND: self.kind, OWNER: identity()}
            if re.fullmatch(MADE_UP_NAME, run.info.run_name or ""):
                own[MLFLOW_RUN_NAME] = f"{self.kind} {self.study}"
            both = [RunTag(name, text) for name, text in {**own, **tags}.items()]
            self.client.log_batch(self.parent.run_id, params=missing, tags=both)

    def log_result(self, params: Mapping[str, str], metrics: Mapping[str, float], outcome: str) -> None:
        """What the whole came to."""
        with storage_errors():
            known = self.client.get_run(self.parent.run_id).data.params
            new = [Param(name, text) for name, text in params.items() if name not in known]
            self.client.log_batch(self.parent.run_id, params=new)
        self.parent.log_metrics(metrics, 0)
        self.parent.outcome = outcome

    def tracking_uri(self) -> str:
        uri: str = mlflow.get_tracking_uri()
        return uri

    def start_child(self, name: str, kind: str, tags: Mapping[str, str]) -> str:
        """A new run below the parent, for another process to go on with; its id."""
        own = {MLFLOW_PARENT_RUN_ID: self.parent.run_id, STUDY: self.study, KIND: kind, OWNER: identity()}
        with storage_errors():
            run = self.client.create_run(self.parent.experiment_id, tags={**own, **tags}, run_name=name)
            child_id: str = run.info.run_id
            return child_id

    def end_child(self, run_id: str, outcome: str, error: str | None = None) -> None:
        """See to it that a child is closed, and that its name says so where it did not end well."""
        with storage_errors():
            run = self.client.get_run(run_id)
            self._close(run, outcome, error)
            if outcome not in ("completed", "target_not_reached"):
                self.client.update_run(run_id, name=f"{run.info.run_name} ({outcome.replace('_', ' ')})")

    def adopt(self) -> None:
        """Close what killed processes of this study have left open, and take over the children of ended parents."""
        with storage_errors():
            runs = [run for run in self._runs() if run.info.run_id != self.parent.run_id]
            for run in runs:
                if OUTCOME not in run.data.tags and is_gone(run.data.tags.get(OWNER, "//")):
                    self._close(run, "interrupted", "its process was killed")
            parents = {run.info.run_id: run for run in runs if run.data.tags[KIND] == self.kind}
            alive = {run_id for run_id, run in parents.items() if not is_gone(run.data.tags.get(OWNER, "//"))}
            for run in runs:
                former = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
                if former not in (None, self.parent.run_id) and former not in alive:
                    self.client.set_tag(run.info.run_id, MLFLOW_PARENT_RUN_ID, self.parent.run_id)
            for run_id in parents.keys() - alive:
                self.client.set_tag(run_id, "accelmlf.continued_by", self.parent.run_id)

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
        while token or not found:
            wanted = f"tags.`{STUDY}` = '{self.study}'"
            page = self.client.search_runs(
                [self.parent.experiment_id],
                wanted,
                max_results=PAGE,
                order_by=["attributes.start_time"],
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                break
        return found

    def _close(self, run: Run, outcome: str, error: str | None) -> None:
        if OUTCOME not in run.data.tags:
            self.client.set_tag(run.info.run_id, OUTCOME, outcome)
            if error is not None:
                self.client.set_tag(run.info.run_id, "accelmlf.error", error)
        if run.info.status == "RUNNING":
            self.client.set_terminated(run.info.run_id, RunStatus.to_string(STATUS.get(outcome, RunStatus.FAILED)))


@contextmanager
def open_family(study: str, kind: str) -> Iterator[Family]:
    """The parent run of a study; whatever ends the block decides its outcome."""
    with MlflowTracker().run() as parent:
        yield Family(parent, study, kind)
