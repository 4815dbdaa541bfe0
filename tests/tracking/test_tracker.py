"""What MLflow holds after a run, in a real store and on a real server, however the run ended."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow.tracking.context.registry import resolve_tags
from safetensors.torch import load_file

from accelmlf.errors import AccelmlfError, DataError, TrackingError
from accelmlf.machine.presence import Counters
from accelmlf.measure.cost import PHASES
from accelmlf.models.families import build_model
from accelmlf.run.one_run import one_run
from accelmlf.run.tracker import MemoryTracker
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.run import RunConfig
from accelmlf.tracking.store import Store, open_store
from accelmlf.tracking.tags import PREFIX
from accelmlf.tracking.tracker import MADE_UP_NAME, MlflowTracker, close_inherited_run
from tests.makers import make_config

ROOT = Path(__file__).parents[2]
TOLD = {name for name, value in asdict(Counters.read().since(Counters.read())).items() if value is not None}
"""What this system, or this container, tells of the machine: on Linux all but the limit of a container without one."""
MISSING = {"missing_cores_share"} if {"waited_s", "others_s", "stolen_s"} <= TOLD else set()
PER_EPOCH = {
    "train/loss", "train/learning_rate", "eval/loss", "eval/accuracy", "eval/f1_macro", "time/train_s", "time/eval_s",
    *(f"time/{phase}_s" for phase in PHASES), "time/other_s", "time/elapsed_train_s", "throughput/images_per_s",
    "memory/host_peak_mib", *(f"machine/{name}" for name in TOLD | MISSING),
}  # fmt: skip
FINAL = {
    "final_accuracy", "final_f1", "final_loss", "best_eval_accuracy", "reached_target", "total_train_s",
    "median_epoch_s", "warmup_s", "setup_s", "wall_s", "tracking_s", "test_s",
    *(f"mean_{part}_s" for part in ("epoch", *PHASES, "other")), "mean_images_per_s", "peak_host_mib",
    *MISSING,
}  # fmt: skip
AT_TARGET = {"time_to_accuracy_s", "time_to_accuracy_wall_s", "epochs_to_accuracy", "crossing_epochs"}
ARTIFACTS = {
    "config.json", "environment.json", "epochs.csv", "curves.png", "confusion_matrix.png",
    "classification_report.json", "model.safetensors",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _tiny(tiny_model: None) -> None: ...


def last_run(client: mlflow.MlflowClient) -> mlflow.entities.Run:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1)[0]


def test_a_run_logs_everything_the_contract_lists(store: mlflow.MlflowClient) -> None:
    config = make_config(epochs=2, target_accuracy=0.01)
    summary = one_run(config, MlflowTracker(open_store()))
    run = last_run(store)
    assert run.info.status == "FINISHED"
    assert run.data.tags["accelmlf.outcome"] == "completed"
    assert run.info.run_name == "tiny digits custom seed 0"
    assert set(run.data.params) == set(settable_fields(RunConfig))
    assert {name: run.data.tags[f"accelmlf.config.{name}"] for name in config.as_texts()} == config.as_texts()
    assert set(run.data.metrics) == PER_EPOCH | FINAL | AT_TARGET
    assert summary.test is not None
    assert run.data.metrics["final_accuracy"] == summary.test.accuracy
    for name in PER_EPOCH:
        history = store.get_metric_history(run.info.run_id, name)
        assert [point.step for point in history] == [1, 2], name
    assert {item.path for item in store.list_artifacts(run.info.run_id)} == ARTIFACTS
    stored = json.loads(mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/config.json"))
    assert stored == config.as_texts()
    assert run.inputs is not None
    inputs = run.inputs.dataset_inputs
    assert [(item.dataset.name, item.tags[0].value) for item in inputs] == [("digits", "training")]
    assert json.loads(inputs[0].dataset.profile or "")["num_train_images"] == 1078
    assert {"accelmlf.arm", "accelmlf.skipped_techniques", "accelmlf.hardware.cpu", "accelmlf.version.torch"} <= set(
        run.data.tags
    )


def test_a_missed_target_is_an_outcome_and_never_a_time(store: mlflow.MlflowClient) -> None:
    one_run(make_config(epochs=1, target_accuracy=1.0), MlflowTracker(open_store()))
    run = last_run(store)
    assert (run.info.status, run.data.tags["accelmlf.outcome"]) == ("FINISHED", "target_not_reached")
    assert run.data.metrics["reached_target"] == 0
    assert not AT_TARGET & set(run.data.metrics)


class Counting(mlflow.MlflowClient):
    """The real client, which notes how many metrics each of its batches has."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.metrics: list[int] = []

    def log_batch(self, run_id: str, **batch: Any) -> None:  # type: ignore[override]
        self.metrics.append(len(batch.get("metrics", ())))
        super().log_batch(run_id, **batch)


def test_an_epoch_is_one_call(store: mlflow.MlflowClient) -> None:
    counting = Counting(store.tracking_uri)
    one_run(make_config(epochs=3, target_accuracy=1.0), MlflowTracker(Store(counting)))
    assert counting.metrics == [0, *[len(PER_EPOCH)] * 3, len(FINAL)]


@pytest.mark.parametrize(
    ("settings", "outcome", "code"),
    [
        ({"techniques": "amp:fp16"}, "failed", 5),
        ({"device": "cuda:99"}, "failed", 5),
        ({"dataset": "folder", "data_dir": "nowhere"}, "failed", 3),
        ({"learning_rate": 1e30, "epochs": 9}, "diverged", 6),
        ({"weights": "runs:/0123456789abcdef0123456789abcdef"}, "failed", 3),
    ],
)
def test_an_error_closes_the_run_with_its_outcome(
    store: mlflow.MlflowClient, settings: dict[str, object], outcome: str, code: int
) -> None:
    config = make_config(**settings) if "learning_rate" not in settings else diverging_config()
    with pytest.raises(AccelmlfError) as error:
        one_run(config, MlflowTracker(open_store()))
    assert error.value.exit_code == code
    run = last_run(store)
    assert (run.info.status, run.data.tags["accelmlf.outcome"]) == ("FAILED", outcome)
    assert run.data.tags["accelmlf.error"] == str(error.value)


def diverging_config() -> RunConfig:
    return replace(make_config(epochs=9), optimizer="sgd", learning_rate=1e30)


def test_memory_that_runs_out_is_an_outcome(store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("accelmlf.run.one_run.warm_up", exhausted)
    with pytest.raises(AccelmlfError, match="smaller batch_size") as error:
        one_run(make_config(), MlflowTracker(open_store()))
    assert error.value.exit_code == 7
    assert last_run(store).data.tags["accelmlf.outcome"] == "out_of_memory"


def test_saved_weights_start_another_run_where_the_first_ended(store: mlflow.MlflowClient) -> None:
    one_run(make_config(epochs=2), MlflowTracker(open_store()))
    weights = f"runs:/{last_run(store).info.run_id}"
    file = MlflowTracker(open_store()).local_weights(weights)
    saved = load_file(file)
    loaded = build_model("tiny", file, num_classes=10, image_size=8).state_dict()
    fresh = build_model("tiny", "random", num_classes=10, image_size=8).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in saved.items())
    assert not torch.equal(fresh["conv.weight"], saved["conv.weight"])
    first_loss = store.get_metric_history(last_run(store).info.run_id, "train/loss")[0].value
    one_run(make_config(epochs=1, weights=weights), MlflowTracker(open_store()))
    assert store.get_metric_history(last_run(store).info.run_id, "train/loss")[0].value < first_loss


def test_weights_that_were_not_saved_are_an_error(store: mlflow.MlflowClient) -> None:
    one_run(make_config(epochs=1, save_model=False), MlflowTracker(open_store()))
    run = last_run(store)
    assert "model.safetensors" not in {item.path for item in store.list_artifacts(run.info.run_id)}
    with pytest.raises(DataError, match="save_model=true"):
        one_run(make_config(weights=f"runs:/{run.info.run_id}"), MlflowTracker(open_store()))


def test_the_memory_tracker_sees_what_mlflow_sees(store: mlflow.MlflowClient) -> None:
    memory = MemoryTracker()
    config = make_config(epochs=2)
    one_run(config, memory)
    one_run(config, MlflowTracker(open_store()))
    run = last_run(store)
    assert memory.config is not None and memory.summary is not None
    assert [e.train_loss for e in memory.epochs] == [
        point.value for point in store.get_metric_history(run.info.run_id, "train/loss")
    ]
    assert set(memory.artifacts) == ARTIFACTS
    assert {PREFIX + name for name in memory.tags} <= run.data.tags.keys()


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_a_series_has_a_value_per_step_however_many_a_server_takes_at_once(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("accelmlf.tracking.tracker.MOST_PER_CALL", most)
    series = {"time/train_s": [0.5, 0.7, 0.6], "stretch/images": [64.0, 64.0, 64.0], "stretch/place": [2.0, 1.0]}
    counting = Counting(store.tracking_uri)
    with MlflowTracker(Store(counting)).run() as run:
        run.log_series(series)
    assert sum(counting.metrics) == 8 and max(counting.metrics) <= most
    for name, values in series.items():
        history = store.get_metric_history(run.run_id, name)
        assert {point.step: point.value for point in history} == dict(enumerate(values, 1))
        assert open_store().history(run.run_id, name) == values


class NoMoreTags(mlflow.MlflowClient):
    """The real client of a store that takes no single tag."""

    def set_tag(self, *_: Any) -> None:
        raise mlflow.MlflowException("no more tags")


def test_a_run_whose_tags_cannot_be_written_does_not_end_as_finished(store: mlflow.MlflowClient) -> None:
    with pytest.raises(ZeroDivisionError), MlflowTracker(Store(NoMoreTags(store.tracking_uri))).run():
        raise ZeroDivisionError
    assert last_run(store).info.status == "FAILED"


# --- the run that is opened ---


def test_a_new_run_says_who_has_started_what_and_is_named_by_mlflow(store: mlflow.MlflowClient) -> None:
    expected = resolve_tags()
    assert {"mlflow.user", "mlflow.source.name", "mlflow.source.type"} <= expected.keys()
    with MlflowTracker(open_store()).run() as run:
        own = store.get_run(run.run_id)
        assert own.info.status == "RUNNING"
    assert {name: own.data.tags.get(name) for name in expected} == expected
    assert re.fullmatch(MADE_UP_NAME, own.info.run_name or "")
    assert mlflow.active_run() is None


def test_the_run_of_mlflow_run_is_gone_on_with_once(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = store.create_run("0", run_name="my own name").info.run_id
    store.set_terminated(given, "FAILED")
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with MlflowTracker(open_store()).run() as run:
        assert (run.run_id, run.experiment_id) == (given, "0")
        assert store.get_run(given).info.status == "RUNNING"
        assert "MLFLOW_RUN_ID" not in os.environ
    with MlflowTracker(open_store()).run() as next_one:
        assert next_one.run_id != given
    ended = store.get_run(given)
    assert (ended.info.status, ended.data.tags["accelmlf.outcome"]) == ("FINISHED", "completed")
    assert ended.info.run_name == "my own name"


def test_a_run_that_is_named_by_its_id_comes_before_that_of_mlflow_run(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, own = (store.create_run("0").info.run_id for _ in range(2))
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with MlflowTracker(open_store(), own).run() as run:
        assert run.run_id == own
    assert os.environ["MLFLOW_RUN_ID"] == given
    store.set_terminated(given)


@pytest.mark.parametrize("is_deleted", [True, False])
def test_a_run_that_cannot_be_gone_on_with_is_an_error_of_the_store(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, is_deleted: bool
) -> None:
    run_id = store.create_run("0").info.run_id if is_deleted else "0" * 32
    if is_deleted:
        store.delete_run(run_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    with pytest.raises(TrackingError, match="tracking="), MlflowTracker(open_store()).run():
        pass


@pytest.mark.parametrize(
    ("outcome", "error", "status"),
    [("completed", None, "FINISHED"), ("failed", "epochs=x: not a whole number", "FAILED")],
)
def test_the_run_of_a_command_that_ended_before_it_began_is_closed(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, outcome: str, error: str | None, status: str
) -> None:
    given = store.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    close_inherited_run(outcome, error)
    run = store.get_run(given)
    assert (run.info.status, run.data.tags["accelmlf.outcome"]) == (status, outcome)
    assert run.data.tags.get("accelmlf.error") == error
    close_inherited_run("failed", "once more")  # nothing is left to close
    assert store.get_run(given).data.tags["accelmlf.outcome"] == outcome


# --- a server ---


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, store_uri: str) -> Iterator[str]:
    """A real MLflow server on a store of its own."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = f"sqlite:///{folder / 'mlflow.db'}"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("w") as log:
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # else a dozen processes more
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
def test_a_run_is_tracked_over_http(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(server)
    one_run(make_config(epochs=2, target_accuracy=0.01), MlflowTracker(open_store()))
    client = mlflow.MlflowClient(server)
    run = last_run(client)
    assert (run.info.status, run.data.tags["accelmlf.outcome"]) == ("FINISHED", "completed")
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == ARTIFACTS
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 2
    assert not (tmp_path / "mlflow.db").exists()
