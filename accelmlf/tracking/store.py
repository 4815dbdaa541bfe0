"""The tracking store: one handle on it, through which everything that is recorded is written and read."""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import Experiment, Run, RunStatus
from mlflow.exceptions import MlflowException

from accelmlf.errors import AccelmlfError, ConfigError, DiskError, TrackingError, one_line, recognise
from accelmlf.machine.processes import locked
from accelmlf.tracking.stored_runs import StoredRun, of_study
from accelmlf.tracking.tags import ERROR, OUTCOME

EXPERIMENT = "accelmlf"
LOCAL_STORE = "sqlite:///mlflow.db"
SQLITE = r"sqlite:///([^?]+)"
PAGE = 1000
"""Runs per answer to a search."""
MLFLOW_VARIABLES = {
    # A tracking server that is gone should be heard of in seconds; MLflow's defaults wait for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # MLflow's own line about a closed run would print the address with its password.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""What MLflow reads from the environment at each call, where the user has not set it."""
STATUS = {
    "completed": RunStatus.FINISHED,
    "target_not_reached": RunStatus.FINISHED,
    "interrupted": RunStatus.KILLED,
    "pruned": RunStatus.KILLED,
}
"""Outcome -> status in MLflow; of any other it is FAILED."""


@dataclass(frozen=True)
class Store:
    """The tracking store, by the one client of it. `open_store` makes it; its methods raise TrackingError."""

    client: mlflow.MlflowClient

    @property
    def uri(self) -> str:
        """Its address, with the password that may be in it."""
        address: str = self.client.tracking_uri
        return address

    def errors(self) -> AbstractContextManager[None]:
        """Whatever the store raises inside, as one error that names it."""
        return store_errors(self.uri)

    def tag_outcome(self, run_id: str, outcome: str, error: str | None = None) -> None:
        """How a run ended, in tags, which `mlflow run` does not overwrite as it does the status."""
        with self.errors():
            self.client.set_tag(run_id, OUTCOME, outcome)
            if error is not None:
                self.client.set_tag(run_id, ERROR, one_line(error))

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags of a run, which may have ended."""
        with self.errors():
            for name, text in tags.items():
                self.client.set_tag(run_id, name, text)

    def terminate(self, run_id: str, outcome: str) -> None:
        """The status that goes with an outcome; the run is no longer open."""
        status = RunStatus.to_string(STATUS.get(outcome, RunStatus.FAILED))
        with self.errors():
            self.client.set_terminated(run_id, status)

    def own_experiment(self) -> str:
        """The id of the experiment that MLflow's variables name, or of this project's own; made if it is not there.

        Raises:
            ConfigError: they name two different ones.
        """
        given, name = (os.environ.get(f"MLFLOW_EXPERIMENT_{by}") for by in ("ID", "NAME"))
        with self.errors():
            found = self.client.get_experiment(given) if given else self._made(experiment_name())
            if name and found.name != name:
                rule = f"that experiment is called {found.name}, and MLFLOW_EXPERIMENT_NAME says {name}"
                raise ConfigError("MLFLOW_EXPERIMENT_ID", given, rule, "Set one of the two")
            experiment_id: str = self._active(found).experiment_id
            return experiment_id

    def find_experiment(self, name: str) -> str | None:
        """The id of an experiment; None where there is none of that name.

        Raises:
            TrackingError: it was deleted, and keeps its name.
        """
        with self.errors():
            found = self.client.get_experiment_by_name(name)
            return None if found is None else self._active(found).experiment_id

    def _made(self, name: str) -> Experiment:
        """The experiment of that name, by this process or by another one."""
        if found := self.client.get_experiment_by_name(name):
            return found
        try:
            return self.client.get_experiment(self.client.create_experiment(name))
        except MlflowException:  # another process was faster
            if found := self.client.get_experiment_by_name(name):
                return found
            raise

    def _active(self, found: Experiment) -> Experiment:
        """The experiment, unless it was deleted: raises TrackingError."""
        if found.lifecycle_stage != "active":
            undo = f"MLFLOW_TRACKING_URI={self.uri} mlflow experiments restore -x {found.experiment_id}"
            raise TrackingError(
                "MLFLOW_EXPERIMENT_NAME", found.name, "that experiment was deleted", f"To restore it: {undo}"
            )
        return found

    def experiments(self) -> dict[str, str]:
        """Id -> name of all that are not deleted."""
        with self.errors():
            return {experiment.experiment_id: experiment.name for experiment in self.client.search_experiments()}

    def experiment_named(self, name: str) -> str:
        """The id of an experiment.

        Raises:
            ConfigError: there is none of that name.
        """
        known = self.experiments()
        ids = [experiment_id for experiment_id, own in known.items() if own == name]
        if not ids:
            rule = "the tracking store has no such experiment"
            raise ConfigError("experiment_name", name, rule, f"Known: {', '.join(known.values())}")
        return ids[0]

    def search_runs(self, experiment_ids: Sequence[str], wanted: str = "") -> Iterator[Run]:
        """Every run of some experiments that MLflow's filter `wanted` lets pass, oldest first."""
        token, order = None, ["attributes.start_time"]
        while True:
            with self.errors():
                page = self.client.search_runs(
                    list(experiment_ids), wanted, max_results=PAGE, order_by=order, page_token=token
                )
            yield from page
            token = page.token
            if not token:
                return

    def read_runs(self, experiment_id: str, wanted: str = "") -> list[StoredRun]:
        """The runs of one experiment as records, oldest first."""
        return [StoredRun.of(run) for run in self.search_runs([experiment_id], wanted)]

    def runs_of_study(self, experiment_id: str, study_id: str) -> list[StoredRun]:
        """Parents and children of one study."""
        return self.read_runs(experiment_id, of_study(study_id))

    def history(self, run_id: str, metric: str) -> list[float]:
        """A metric's values by step."""
        with self.errors():
            values = self.client.get_metric_history(run_id, metric)
        return [value.value for value in sorted(values, key=lambda value: value.step)]


def tracking_uri() -> str:
    """Where runs are tracked: MLFLOW_TRACKING_URI, or mlflow.db in this folder.

    That is MLflow's default too, but as a path in which it quotes a space, and sqlite does not read the quotes.
    """
    uri: str = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else LOCAL_STORE
    return uri


def experiment_name() -> str:
    """What the experiment that runs go to is called."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def sqlite_file(uri: str) -> Path | None:
    """The file of a sqlite store; None for any other."""
    match = re.match(SQLITE, uri)
    return Path(match[1]) if match else None


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Whatever the store at `uri` raises inside, as one error that names it (without its password).

    Raises:
        TrackingError: it did not take or give what it should.
        DiskError: its artifacts are files of this machine, whose disk is full or cannot be written.
    """
    try:
        yield
    except AccelmlfError:
        raise
    except OSError as error:
        known = recognise(error, batch_size=0)
        raise (known if isinstance(known, DiskError) else _tracking_error(uri, error)) from error
    except Exception as error:  # MlflowException, and the errors of databases, HTTP and file systems below it
        raise _tracking_error(uri, error) from error


def _tracking_error(uri: str, error: Exception) -> TrackingError:
    hint = "Check MLFLOW_TRACKING_URI, and that the server or the database is there and writable"
    kind = "" if isinstance(error, MlflowException) else f"{type(error).__name__}: "
    return TrackingError("tracking", uri, f"{kind}{error}", hint)


def prepare_store(uri: str) -> mlflow.MlflowClient:
    """The client of a store. A fresh sqlite file gets its tables, one process at a time: those that race die."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    path = sqlite_file(uri)
    with nullcontext() if path is None else locked(path.with_name(path.name + ".lock")):
        if path is not None and not path.exists():
            # Under another name until it is complete: a half-made database would be refused for ever.
            draft = path.with_name(path.name + ".new")
            draft.unlink(missing_ok=True)
            client_of(re.sub(SQLITE, lambda match: match[0] + ".new", uri, count=1))
            draft.replace(path)
        return client_of(uri)


def client_of(uri: str) -> mlflow.MlflowClient:
    """MLflow's client of a store; a sqlite file gets its tables."""
    return mlflow.MlflowClient(uri)


def open_store() -> Store:
    """The store that runs are tracked in, made where it is a fresh sqlite file.

    Raises:
        TrackingError: it does not answer.
    """
    for name, text in MLFLOW_VARIABLES.items():
        os.environ.setdefault(name, text)
    uri = tracking_uri()
    with store_errors(uri):
        return Store(prepare_store(uri))
