"""Single runs in MLflow: one that is open, and how runs are opened and closed."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME
from mlflow.utils.time import get_current_time_millis

from accelmlf.errors import AccelmlfError, DataError, Interrupted, one_line, recognise
from accelmlf.machine import signals
from accelmlf.measure.records import DatasetRecord, EpochMetrics, RunSummary
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.run import MODEL_FILE, RunConfig
from accelmlf.tracking.settings import FIRST_PORT, HOST
from accelmlf.tracking.store import Store, open_store
from accelmlf.tracking.tags import PREFIX, SETTING, UNFIT, WEIGHTS_SOURCE, under

RUN_ID = "MLFLOW_RUN_ID"
"""The variable in which `mlflow run` hands over the run that it has opened."""
CHARTS = "/#/experiments/{}/runs?workflowType=machine_learning&compareRunsMode=CHART"
FILES = "/#/experiments/{}/runs/{}/artifacts"
MOST_PER_CALL = 1000
"""Values that a tracking server takes at once."""
MADE_UP_NAME = "[a-z]+-[a-z]+-[0-9]+"
"""What MLflow calls a run that was given no name."""


class MlflowRun:
    """One open run in a tracking store."""

    def __init__(self, store: Store, run_id: str, experiment_id: str) -> None:
        self.store, self.run_id, self.experiment_id = store, run_id, experiment_id
        self.outcome = "completed"

    def log_settings(self, params: Mapping[str, str], tags: Mapping[str, str], name: str | None = None) -> None:
        """Parameters that `mlflow run` has not logged already, and tags.

        `name`: what the run is called from here on, unless somebody has named it.
        """
        with self.store.errors():
            run = self.store.client.get_run(self.run_id)
            missing = [Param(key, text) for key, text in params.items() if key not in run.data.params]
            if name and re.fullmatch(MADE_UP_NAME, run.info.run_name or ""):
                tags = {**tags, MLFLOW_RUN_NAME: name}
            run_tags = [RunTag(key, text) for key, text in tags.items()]
            self.store.client.log_batch(self.run_id, params=missing, tags=run_tags)

    def log_config(self, config: RunConfig, tags: Mapping[str, str]) -> None:
        """The settings as parameters, every resolved one as a tag, and `tags`, which come without their prefix."""
        texts = config.as_texts()
        params = {name: texts[name] for name in settable_fields(RunConfig)}
        name = f"{config.model} {config.dataset} {config.arm} seed {config.seed}"
        self.log_settings(params, under(SETTING, texts) | under(PREFIX, tags), name)

    def log_inputs(self, dataset: DatasetRecord, weights_source: str) -> None:
        """The data set as the run's input, and where its first weights are from, as a tag."""
        entity = Dataset(
            name=dataset.name,
            digest=dataset.digest,
            source_type="local",
            source=json.dumps({"uri": dataset.source}),
            profile=json.dumps({f"num_{part}_images": size for part, size in dataset.sizes.items()}),
        )
        with self.store.errors():
            tag = InputTag("mlflow.data.context", "training")
            self.store.client.log_inputs(self.run_id, datasets=[DatasetInput(entity, [tag])])
            self.store.client.set_tag(self.run_id, WEIGHTS_SOURCE, weights_source)

    def log_epoch(self, epoch: EpochMetrics) -> None:
        """All figures of an epoch in one call."""
        self.log_metrics(epoch.as_metrics(), epoch.epoch)

    def log_summary(self, summary: RunSummary) -> None:
        """The final scalars; the outcome waits for the end of the run."""
        self.outcome = summary.outcome
        self.log_metrics(summary.as_metrics(), 0)
        if (reason := summary.total.unexplained) is not None:
            self.store.set_tags(self.run_id, {UNFIT: reason})

    def log_artifacts(self, folder: Path) -> None:
        """Every file of a folder."""
        with self.store.errors():
            self.store.client.log_artifacts(self.run_id, str(folder))

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
        uri = self.store.uri
        return one_line((uri.rstrip("/") if uri.startswith("http") else f"http://{HOST}:{FIRST_PORT}") + path)

    def close(self, outcome: str, error: str | None = None) -> None:
        """How it ended, and that it did."""
        try:
            self.store.tag_outcome(self.run_id, outcome, error)
        finally:  # a status alone is better than a run that is open for ever
            self.store.terminate(self.run_id, outcome)

    def log_series(self, series: Mapping[str, Sequence[float]]) -> None:
        """Several figures that each have a value per step, from 1."""
        now = get_current_time_millis()
        metrics = [Metric(name, x, now, step) for name, values in series.items() for step, x in enumerate(values, 1)]
        with self.store.errors():
            for start in range(0, len(metrics), MOST_PER_CALL):
                self.store.client.log_batch(self.run_id, metrics=metrics[start : start + MOST_PER_CALL])

    def log_metrics(self, figures: Mapping[str, float], step: int) -> None:
        """Several figures in one call."""
        now = get_current_time_millis()
        metrics = [Metric(name, value, now, step) for name, value in figures.items()]
        with self.store.errors():
            self.store.client.log_batch(self.run_id, metrics=metrics)


class MlflowTracker:
    """Runs in a tracking store: the one that `mlflow run` has opened, or `run_id`, or new."""

    def __init__(self, store: Store, run_id: str | None = None) -> None:
        self.store, self.run_id = store, run_id

    @contextmanager
    def run(self) -> Iterator[MlflowRun]:
        """An open run; whatever ends the block decides its outcome."""
        opened: MlflowRun | None = None
        try:
            opened = self._open()
            with sampled(opened):
                yield opened
        except BaseException as error:
            if isinstance(error, Interrupted):
                signals.ignore_from_now_on()
            if opened is not None:
                with suppress(AccelmlfError):  # the first error is the one to tell
                    opened.close(getattr(error, "outcome", "failed"), str(error) or type(error).__name__)
            raise
        opened.close(opened.outcome)

    def _open(self) -> MlflowRun:
        client = self.store.client
        with self.store.errors():
            # Taken out of the environment: what is started from here opens runs of its own.
            if run_id := self.run_id or os.environ.pop(RUN_ID, None):
                client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
                run = client.get_run(run_id)
            else:  # with the user, source and commit that MLflow notes of a run
                run = client.create_run(self.store.own_experiment(), tags=resolve_tags())
        return MlflowRun(self.store, run.info.run_id, run.info.experiment_id)

    def local_weights(self, weights: str) -> str:
        """`runs:/<id>` as a local file of weights; any other text as it is.

        Raises:
            DataError: no such run, or one that kept no weights.
        """
        if not weights.startswith("runs:/"):
            return weights
        run_id, _, folder = weights.removeprefix("runs:/").strip("/").partition("/")
        try:
            path: str = self.store.client.download_artifacts(run_id, str(PurePosixPath(folder, MODEL_FILE)))
            return path
        except Exception as error:  # MLflow's own errors, and those of whatever store holds the artifacts
            rule = f"that run's {MODEL_FILE} cannot be had ({error})"
            remedy = "Give runs:/<id> of a run with save_model=true in this tracking store"
            raise DataError("weights", weights, rule, remedy) from None


@contextmanager
def sampled(run: MlflowRun) -> Iterator[None]:
    """MLflow's own samples of the machine beside a run, where its variable asks for them; by a client of its own."""
    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run.run_id, resume_logging=True, tracking_uri=run.store.uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def close_inherited_run(outcome: str, error: str | None = None) -> None:
    """Close the run that `mlflow run` opened for a command that ends before its own begins."""
    if os.environ.get(RUN_ID):
        with suppress(AccelmlfError):
            MlflowTracker(open_store())._open().close(outcome, error)
