"""What every test may count on: one thread, no network, a tracking store of its own."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["HF_HUB_OFFLINE"] = "1"
# Processes that are started in other folders find the package: Python 3.11's fork server does not take over sys.path.
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
for name in [name for name in os.environ if name.startswith("MLFLOW_") and name.endswith(("_ID", "_NAME", "_URI"))]:
    del os.environ[name]

import mlflow
import torch

from accelmlf.machine.devices import has_bf16
from accelmlf.machine.signals import ENDING
from accelmlf.many_runs.preflight import Preflight, look
from accelmlf.models.families import MODELS
from accelmlf.settings.recipes import resolve
from accelmlf.techniques import catalogue
from tests.ablation.plan_makers import GIVEN
from tests.makers import add_tiny_model


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors gain nothing from more."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with something that takes long begin first; the others fill up what is left of both cores."""
    long = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("early")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def seen() -> Preflight:
    """What is known of a small run before any is started."""
    return look(resolve(GIVEN), False)


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without bf16 in hardware emulates it: too slow for amp to be let run there, and the same arithmetic."""
    monkeypatch.setattr(catalogue, "has_bf16", lambda device: device.type == "cpu" or has_bf16(device))


@pytest.fixture
def tiny_model() -> Iterator[None]:
    """The tiny network as a row of MODELS."""
    add_tiny_model()
    yield
    del MODELS["tiny"]


@pytest.fixture(scope="session")
def store_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real sqlite store, created once: its tables take seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def store(store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """The store as the one that runs are tracked in; artifacts go to the test's folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(store_uri)
    return mlflow.MlflowClient(store_uri)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A command line that was run in this process leaves signals ignored, because it expects to end."""
    before = {name: signal.getsignal(name) for name in ENDING}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)
