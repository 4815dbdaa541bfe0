"""The UI: a real server on a real store, its link, and what is left when it was told to end."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import mlflow
import psutil
import pytest

from accelmlf.errors import AccelmlfError, ConfigError, TrackingError
from accelmlf.tracking import ui
from accelmlf.tracking.settings import FIRST_PORT, UiConfig
from accelmlf.tracking.store import open_store
from accelmlf.tracking.ui import free_port, local_experiment, run_ui

ROOT = Path(__file__).parents[2]


@contextmanager
def listening() -> Iterator[int]:
    """A port that something else has."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def track_at(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)  # a test before may have done so, which counts more than the variable


@pytest.fixture
def new_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a store that is not there yet."""
    track_at(f"sqlite:///{tmp_path / 'mlflow.db'}", monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start_ui(folder: Path) -> tuple["subprocess.Popen[str]", str]:
    """A process that serves, and the link that it has printed."""
    # A proxy that is not there: what is asked of this machine does not go through one.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:9"}
    process = subprocess.Popen(
        [sys.executable, "-m", "accelmlf", "ui"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, next(line for line in process.stdout if line.startswith("Charts: ")).split()[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_the_charts_until_it_is_told_to_end_and_leaves_no_process(new_store: Path, number: int) -> None:
    experiment_id = open_store().own_experiment()
    process, link = start_ui(new_store)
    address = re.match(r"http://127\.0\.0\.1:\d+", link)
    assert address and f"/#/experiments/{experiment_id}/runs?" in link and "compareRunsMode=CHART" in link
    with urlopen(address[0], timeout=10) as page:
        assert b"<title>MLflow</title>" in page.read()
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    _, alive = psutil.wait_procs(children, timeout=10)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.slow
def test_a_server_that_ends_by_itself_is_an_error(new_store: Path) -> None:
    open_store().own_experiment()
    process, _ = start_ui(new_store)
    for child in psutil.Process(process.pid).children():
        child.kill()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 8
    assert errors.splitlines()[-1].startswith("accelmlf: error: port=")
    assert "the MLflow server on it ended with code -9" in errors


def refused(config: UiConfig | None = None) -> AccelmlfError:
    with pytest.raises(AccelmlfError) as refusal:
        run_ui(config or UiConfig())
    return refusal.value


def test_without_anything_tracked_it_says_what_to_do_first_and_makes_nothing(new_store: Path) -> None:
    error = refused()
    assert isinstance(error, TrackingError) and "First: scripts/run -e resnet50 -P tuned=true" in str(error)
    assert list(new_store.iterdir()) == []
    open_store()  # a store that has other experiments
    assert "there is no such experiment" in str(refused())
    experiment_id = open_store().own_experiment()
    assert local_experiment() == experiment_id  # the control
    open_store().client.delete_experiment(experiment_id)
    assert f"that experiment was deleted. To restore it: MLFLOW_TRACKING_URI=sqlite:///{new_store}" in str(refused())


def test_a_store_that_is_somewhere_else_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    track_at("http://me:secret@127.0.0.1:9", monkeypatch)
    error = refused()
    assert isinstance(error, ConfigError) and "Open the address of that server" in str(error)
    assert "secret" not in str(error)


def test_a_port_that_is_taken_is_refused_or_passed_over(new_store: Path) -> None:
    open_store().own_experiment()
    with listening() as port:
        assert str(refused(UiConfig(port=port))).startswith(f"port={port}: something else listens there")
    assert free_port(port) == port  # the control: it is free again


def test_the_first_port_that_is_free_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as taken:
        monkeypatch.setattr(ui, "FIRST_PORT", taken)
        assert free_port(None) > taken
    assert free_port(None) == taken  # the control
    assert FIRST_PORT == 5000  # which the docs and the links of runs name


@pytest.mark.slow
def test_runs_of_mlflow_that_start_together_find_the_store_made(new_store: Path) -> None:
    command = [sys.executable, "-m", "accelmlf.tracking.project", "-e", "nowhere"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(command, cwd=new_store, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert all(process.returncode for process in processes)  # there is no project in that folder
    assert not [text for text in errors if "alembic" in text or "already exists" in text], errors
    assert list(open_store().experiments().values()).count("accelmlf") == 1
    assert not list(new_store.glob("*.new"))


@pytest.mark.slow
def test_a_start_that_was_killed_while_it_made_the_store_leaves_no_half_made_one(new_store: Path) -> None:
    script = "from accelmlf.tracking.store import open_store; open_store()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=new_store, env=environment)
    draft, store = new_store / "mlflow.db.new", new_store / "mlflow.db"
    deadline_s = time.monotonic() + 60
    while not draft.exists() and time.monotonic() < deadline_s:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert draft.exists() and not store.exists()
    assert open_store().own_experiment()
    assert store.exists() and not draft.exists()
