"""The tracking store: where it is, how a fresh one is made, its experiments, and its failures as one error."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from accelmlf.errors import ConfigError, DiskError, TrackingError, recognise
from accelmlf.machine.processes import locked


def experiments() -> dict[str, str]:
    """Id -> name of all that are not deleted."""
    with storage_errors():
        return {experiment.experiment_id: experiment.name for experiment in mlflow.MlflowClient().search_experiments()}


def experiment_named(name: str) -> str:
    """The id of an experiment.

    Raises:
        ConfigError: there is none of that name.
    """
    known = experiments()
    ids = [experiment_id for experiment_id, own in known.items() if own == name]
    if not ids:
        rule = "the tracking store has no such experiment"
        raise ConfigError("experiment_name", name, rule, f"Known: {', '.join(known.values())}")
    return ids[0]


EXPERIMENT = "accelmlf"


def own_experiment() -> str | None:
    """The experiment that MLflow's variables name, or this project's own; None where a run is already there."""
    if os.environ.get("MLFLOW_RUN_ID") or (os.environ.get("MLFLOW_EXPERIMENT_ID")):
        return None
    client = mlflow.MlflowClient()
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    if (found := client.get_experiment_by_name(name)) is None:
        try:
            created: str = client.create_experiment(name)
            return created
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    experiment_id: str = found.experiment_id
    return experiment_id


def tracking_uri() -> str:
    """Where runs are tracked."""
    uri: str = mlflow.get_tracking_uri()
    return uri


def prepare_store() -> None:
    """Create a fresh sqlite store, one process at a time: those that race to do it die."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    match = re.match(r"sqlite:///([^?]+)", mlflow.get_tracking_uri())
    if match is None:
        return
    path = Path(match[1])
    with locked(path.with_name(path.name + ".lock")):
        mlflow.MlflowClient().search_experiments(max_results=1)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Whatever the tracking store raises, as one error that names the store (without its password)."""
    try:
        yield
    except TrackingError:
        raise
    except OSError as error:  # where artifacts are files of this machine
        known = recognise(error, batch_size=0)
        if isinstance(known, DiskError):
            raise known from error
        raise _tracking_error(error) from error
    except Exception as error:  # MlflowException, and the errors of databases, HTTP and file systems below it
        raise _tracking_error(error) from error


def _tracking_error(error: Exception) -> TrackingError:
    hint = "Check MLFLOW_TRACKING_URI, and that the server or the database is there and writable"
    kind = "" if isinstance(error, MlflowException) else f"{type(error).__name__}: "
    return TrackingError("tracking", mlflow.get_tracking_uri(), f"{kind}{error}", hint)
