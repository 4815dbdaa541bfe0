"""The MLflow UI on the local store: served until it is told to end, with the link that opens this project's charts."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException

from accelmlf.errors import ConfigError, Interrupted, TrackingError
from accelmlf.text import say
from accelmlf.tracking.settings import FIRST_PORT, HOST, UiConfig
from accelmlf.tracking.store import experiment_name, open_store, sqlite_file, tracking_uri
from accelmlf.tracking.tracker import CHARTS

POLL_S = 0.3
PATIENCE_S = 5.0
"""What the server gets to end by itself: a browser's open request can hold it back."""


def run_ui(config: UiConfig) -> None:
    """Serve until a signal ends it.

    Raises:
        ConfigError: a store that is no sqlite file of this machine, or a port that something else has.
        TrackingError: nothing was tracked yet, or the server ended by itself.
        SystemExit: it was told to end; silently, because that is how one ends it.
    """
    experiment_id = local_experiment()
    port = free_port(config.port)
    try:
        with server(port) as process:
            while process.poll() is None and not is_healthy(port):
                time.sleep(POLL_S)
            if process.poll() is None:
                say(f"\nCharts: http://{HOST}:{port}{CHARTS.format(experiment_id)}\nCtrl-C ends the server.")
            rule = f"the MLflow server on it ended with code {process.wait()}; its output is above"
            raise TrackingError("port", port, rule, "Try another port")
    except Interrupted as ended:
        sys.exit(ended.exit_code)


def local_experiment() -> str:
    """The id of the experiment that runs go to, in a store that is there already."""
    uri, name = tracking_uri(), experiment_name()
    file = sqlite_file(uri)
    if file is None:
        rule = "only a sqlite file of this machine is shown here"
        raise ConfigError("MLFLOW_TRACKING_URI", uri, rule, "Open the address of that server")
    experiment_id = open_store().find_experiment(name) if file.exists() else None
    if experiment_id is None:
        remedy = "First: scripts/run -e resnet50 -P tuned=true"
        raise TrackingError("MLFLOW_EXPERIMENT_NAME", name, f"there is no such experiment in {uri} yet", remedy)
    return experiment_id


def free_port(asked: int | None) -> int:
    """The port asked for, or the first from FIRST_PORT at which nothing listens."""
    if asked is None:
        return next(port for port in itertools.count(FIRST_PORT) if not is_in_use(port))
    if is_in_use(asked):
        raise ConfigError("port", asked, "something else listens there", "Choose another port")
    return asked


def is_in_use(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@contextmanager
def server(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """MLflow's server; it and all that it starts have ended when the block has."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking_uri(), "--host", HOST]
    # One worker without the job runner needs a quarter of the memory of MLflow's default.
    command += ["--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    variables = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # In a process group of its own: mlflow starts uvicorn as a child, and one signal has to end both.
    process = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            deadline_s = time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline_s:
                process.poll()  # else its own zombie keeps the group alive
                os.killpg(process.pid, 0)
                time.sleep(POLL_S / 3)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_healthy(port: int) -> bool:
    # Not by urllib, which would ask a proxy.
    with suppress(OSError, HTTPException), closing(HTTPConnection(HOST, port, timeout=2)) as connection:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False
