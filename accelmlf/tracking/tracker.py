"""MLflow: single runs."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag
from mlflow.utils.time import get_current_time_millis

from accelmlf.errors import AccelmlfError, DataError, Interrupted, one_line, recognise
from accelmlf.machine import signals
from accelmlf.measure.records import MAX_OTHER_SHARE, DatasetRecord, EpochMetrics, RunSummary
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.run import MODEL_FILE, RunConfig
from accelmlf.tracking.store import own_experiment, prepare_store, storage_errors

# A tracking server that is gone should be heard of in seconds; MLflow's defaults wait for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
# That line would print the address with its password.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


CHARTS = "/#/experiments/{}/runs?workflowType=machine_learning&compareRunsMode=CHART"
FILES = "/#/experiments/{}/runs/{}/artifacts"
UI_ADDRESS = "http://127.0.0.1:5000"
MADE_UP_NAME = "[a-z]+-[a-z]+-[0-9]+"
"""What MLflow calls a run that was given no name."""
STATUS = {
    "completed": RunStatus.FINISHED,
    "target_not_reached": RunStatus.FINISHED,
    "interrupted": RunStatus.KILLED,
    "pruned": RunStatus.KILLED,
}


class MlflowRun:
    """One open MLflow run."""

    def __init__(self, run_id: str, experiment_id: str) -> None:
        self.run_id, self.experiment_id, self.outcome = run_id, experiment_id, "completed"
        self.client = mlflow.MlflowClient()

    def log_config(self, config: RunConfig, tags: dict[str, str]) -> None:
        """Parameters that `mlflow run` has not logged already, and every resolved setting as a tag."""
        texts = config.as_texts()
        with storage_errors():
            run = self.client.get_run(self.run_id)
            params = [Param(name, texts[name]) for name in settable_fields(RunConfig) if name not in run.data.params]
            if re.fullmatch(MADE_UP_NAME, run.info.run_name or ""):
                name = f"{config.model} {config.dataset} {config.arm} seed {config.seed}"
                tags = {**tags, "mlflow.runName": name}
            resolved = {f"accelmlf.config.{name}": text for name, text in texts.items()}
            run_tags = [RunTag(name, text) for name, text in (resolved | tags).items()]
            self.client.log_batch(self.run_id, params=params, tags=run_tags)

    def log_inputs(self, dataset: DatasetRecord, weights_source: str) -> None:
        """The data set as the run's input, and where its first weights are from, as a tag."""
        entity = Dataset(
            name=dataset.name,
            digest=dataset.digest,
            source_type="local",
            source=json.dumps({"uri": dataset.source}),
            profile=json.dumps({f"num_{part}_images": size for part, size in dataset.sizes.items()}),
        )
        with storage_errors():
            tag = InputTag("mlflow.data.context", "training")
            self.client.log_inputs(self.run_id, datasets=[DatasetInput(entity, [tag])])
            self.client.set_tag(self.run_id, "accelmlf.weights_source", weights_source)

    def log_epoch(self, epoch: EpochMetrics) -> None:
        """All figures of an epoch in one call."""
        self.log_metrics(epoch.as_metrics(), epoch.epoch)

    def log_summary(self, summary: RunSummary) -> None:
        """The final scalars; the outcome waits for the end of the run."""
        self.outcome = summary.outcome
        self.log_metrics(summary.as_metrics(), 0)
        if summary.other_share > MAX_OTHER_SHARE:
            with storage_errors():
                reason = f"phases leave {summary.other_share:.1%} of the epochs unexplained"
                self.client.set_tag(self.run_id, "accelmlf.unfit", reason)

    def log_artifacts(self, folder: Path) -> None:
        """Every file of a folder."""
        with storage_errors():
            self.client.log_artifacts(self.run_id, str(folder))

    def log_written(self, write: Callable[..., None], *given: object) -> None:
        """What `write(folder, *given)` leaves in a folder."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder), *given)
                self.log_artifacts(Path(folder))
        except OSError as error:
            raise recognise(error, batch_size=0) from error

    def url(self) -> str | None:
        """The page that opens this project's charts."""
        return self._page(CHARTS.format(self.experiment_id))

    def files_url(self) -> str:
        """The page of this run's artifacts."""
        return self._page(FILES.format(self.experiment_id, self.run_id))

    def _page(self, path: str) -> str:
        uri = mlflow.get_tracking_uri()
        return one_line((uri.rstrip("/") if uri.startswith("http") else UI_ADDRESS) + path)

    def close(self, outcome: str, error: str | None = None) -> None:
        """Tags that say how it ended, which `mlflow run` does not overwrite as it does the status."""
        status = RunStatus.to_string(STATUS.get(outcome, RunStatus.FAILED))
        with storage_errors():
            try:
                self.client.set_tag(self.run_id, "accelmlf.outcome", outcome)
                if error is not None:
                    self.client.set_tag(self.run_id, "accelmlf.error", one_line(error))
            finally:  # a run that is left open ends as FINISHED when the process does
                mlflow.end_run(status)

    def log_metrics(self, figures: Mapping[str, float], step: int) -> None:
        """Several figures in one call."""
        now = get_current_time_millis()
        metrics = [Metric(name, value, now, step) for name, value in figures.items()]
        with storage_errors():
            self.client.log_batch(self.run_id, metrics=metrics)


class MlflowTracker:
    """Runs in the tracking store of MLFLOW_TRACKING_URI: the one that `mlflow run` has opened, or `run_id`, or new."""

    def __init__(self, run_id: str | None = None) -> None:
        self.run_id = run_id

    @contextmanager
    def run(self) -> Iterator[MlflowRun]:
        """An open run; whatever ends the block decides its outcome."""
        try:
            with storage_errors():
                prepare_store()
                mlflow.start_run(self.run_id, experiment_id=None if self.run_id else own_experiment())
                tracked = active_run()
            yield tracked
        except BaseException as error:
            if isinstance(error, Interrupted):
                signals.ignore_from_now_on()
            if mlflow.active_run():
                with suppress(AccelmlfError):  # the first error is the one to tell
                    active_run().close(getattr(error, "outcome", "failed"), str(error) or type(error).__name__)
            raise
        tracked.close(tracked.outcome)

    def local_weights(self, weights: str) -> str:
        """`runs:/<id>` as a local file of weights; any other text as it is.

        Raises:
            DataError: no such run, or one that kept no weights.
        """
        if not weights.startswith("runs:/"):
            return weights
        try:
            return mlflow.artifacts.download_artifacts(f"{weights.rstrip('/')}/{MODEL_FILE}")
        except Exception as error:  # MLflow's own errors, and those of whatever store holds the artifacts
            rule = f"that run's {MODEL_FILE} cannot be had ({error})"
            remedy = "Give runs:/<id> of a run with save_model=true in this tracking store"
            raise DataError("weights", weights, rule, remedy) from None


def active_run() -> MlflowRun:
    """The run that MLflow has open."""
    active = mlflow.active_run()
    assert active is not None
    return MlflowRun(active.info.run_id, active.info.experiment_id)


def close_inherited_run(outcome: str, error: str | None = None) -> None:
    """Close the run that `mlflow run` opened for a command that ends before its experiment begins."""
    if os.environ.get("MLFLOW_RUN_ID"):
        with suppress(AccelmlfError), storage_errors():
            mlflow.start_run()
            active_run().close(outcome, error)
