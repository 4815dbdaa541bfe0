"""The commands that people type, as processes of their own: `mlflow run`, signals, real models."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import psutil
import pytest
import torch

from accelmlf.machine.devices import has_bf16
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.run import RunConfig

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
QUICK = ["train_images=100", "epochs=1", "device=cpu"]


def environment(store_uri: str) -> dict[str, str]:
    """Python and mlflow of the environment the tests run in; the store of the test."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # One thread, so that a busy machine does not have the threads of one process wait for another.
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": path,
        "MLFLOW_TRACKING_URI": store_uri,
        "PYTHONPATH": str(ROOT),
    }


def mlflow_run(store_uri: str, artifacts: Path, *parameters: str, entry_point: str = "resnet50") -> list[str]:
    name = f"e2e-{artifacts.name}"
    client = mlflow.MlflowClient(store_uri)
    if client.get_experiment_by_name(name) is None:
        client.create_experiment(name, artifacts.as_uri())
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local", "-e", entry_point]
    command += ["--experiment-name", name]
    return command + [part for parameter in parameters for part in ("-P", parameter)]


def runs_of(store_uri: str, artifacts: Path) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(store_uri)
    experiment = client.get_experiment_by_name(f"e2e-{artifacts.name}")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"]))


def test_mlflow_run_trains_a_real_resnet50_and_tracks_it(store: object, store_uri: str, tmp_path: Path) -> None:
    folder = "a folder's name"
    command = mlflow_run(store_uri, tmp_path, "tuned=true", f"data_dir={folder}", *QUICK)
    asked = {"MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true", "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "1"}
    ended = subprocess.run(command, env=environment(store_uri) | asked, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    has_amp = has_bf16(torch.device("cpu"))
    assert "left out: " in ended.stdout and "pin_memory" in ended.stdout
    assert "epoch 1/1  loss" in ended.stdout
    assert "test accuracy" in ended.stdout
    assert "compareRunsMode=CHART" in ended.stdout
    (run,) = runs_of(store_uri, tmp_path)
    assert run.info.status == "FINISHED"
    assert run.data.params["tuned"] == "true"
    assert set(run.data.params) == set(settable_fields(RunConfig))  # whether or not it was given
    assert run.data.tags["accelmlf.config.data_dir"] == folder
    assert run.data.tags["accelmlf.arm"] == "tuned_partial"
    assert run.data.tags["accelmlf.config.techniques"] == ("amp:bf16" if has_amp else "none")
    assert run.data.tags["accelmlf.skipped_techniques"] == ("pin_memory" if has_amp else "amp,pin_memory")
    assert "final_accuracy" in run.data.metrics
    assert "system/cpu_utilization_percentage" in run.data.metrics

    # The same settings without mlflow run resolve to the same tags.
    plain = [sys.executable, "-m", "accelmlf", "main", "--model", "resnet50", "--tuned", "YES", "--data_dir", folder]
    plain += [part for setting in QUICK for part in ("--" + setting.split("=")[0], setting.split("=")[1])]
    with_name = environment(store_uri) | {"MLFLOW_EXPERIMENT_NAME": f"e2e-{tmp_path.name}"}
    subprocess.run(plain, env=with_name, cwd=tmp_path, check=True, capture_output=True)
    second, first = runs_of(store_uri, tmp_path)

    def resolved(run: mlflow.entities.Run) -> dict[str, str]:
        return {name: text for name, text in run.data.tags.items() if name.startswith("accelmlf.config.")}

    assert resolved(first) == resolved(second)
    assert first.data.metrics["train/loss"] == second.data.metrics["train/loss"]
    assert not [name for name in second.data.metrics if name.startswith("system/")]  # nobody asked


def test_a_bad_parameter_under_mlflow_run_closes_the_run(store: object, store_uri: str, tmp_path: Path) -> None:
    says = "tunedd=1: there is no such setting. Did you mean tuned?"
    command = mlflow_run(store_uri, tmp_path, "tunedd=1")
    ended = subprocess.run(command, env=environment(store_uri), capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert says in ended.stderr
    (run,) = runs_of(store_uri, tmp_path)
    assert (run.info.status, run.data.tags["accelmlf.outcome"]) == ("FAILED", "failed")
    assert says in run.data.tags["accelmlf.error"]


def wait_for_line(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the process ended before it said {text!r}")


def assert_gone(pids: list[int], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while (left := [pid for pid in pids if psutil.pid_exists(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_closes_the_run_as_killed_and_leaves_no_process(
    store: object, store_uri: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = [
        sys.executable,
        "-m",
        "accelmlf",
        "vit",
        "--epochs",
        "5000",
        "--techniques",
        "workers:2",
        "--device",
        "cpu",
    ]
    mlflow.MlflowClient(store_uri).create_experiment(f"e2e-{tmp_path.name}", tmp_path.as_uri())
    variables = environment(store_uri) | {"MLFLOW_EXPERIMENT_NAME": f"e2e-{tmp_path.name}"}
    process = subprocess.Popen(
        command, env=variables, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # a background shell ignores it
    )  # fmt: skip
    wait_for_line(process, "epoch    1/5000")
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    assert len(family) > 2
    os.killpg(process.pid, number)
    time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, number)  # an impatient second one must not cut the first short
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert f"accelmlf: error: interrupted by {number.name}" in err
    assert "Traceback" not in err
    (run,) = runs_of(store_uri, tmp_path)
    assert (run.info.status, run.data.tags["accelmlf.outcome"]) == ("KILLED", "interrupted")
    assert_gone(family)


def test_a_signal_during_the_imports_is_one_line_and_its_code(store_uri: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "accelmlf", "vit", "--epochs", "5000"], env=environment(store_uri), cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(1.0)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "")
    assert err.splitlines()[-1] == "accelmlf: error: interrupted by SIGTERM"
    assert "Traceback" not in err


def test_killing_mlflow_run_before_training_has_begun_leaves_nothing_either(
    store: object, store_uri: str, tmp_path: Path
) -> None:
    command = mlflow_run(store_uri, tmp_path, "epochs=5000", "device=cpu", entry_point="vit")
    process = subprocess.Popen(command, env=environment(store_uri), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any("Running command" in line for line in process.stderr)
    time.sleep(1.0)
    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert children
    process.kill()
    process.wait(10)
    assert_gone(children, within_s=30)


def test_killing_mlflow_run_ends_the_training_below_it(store: object, store_uri: str, tmp_path: Path) -> None:
    command = mlflow_run(store_uri, tmp_path, "epochs=5000", "device=cpu", entry_point="vit")
    process = subprocess.Popen(
        command, env=environment(store_uri), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    wait_for_line(process, "epoch    1/5000")
    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.kill()
    process.wait(10)
    assert_gone(children, within_s=20)
    (run,) = runs_of(store_uri, tmp_path)
    assert run.data.tags["accelmlf.outcome"] == "interrupted"


# ResNet50 draws nothing at random while it trains: nothing that a process of its own could draw differently.
@pytest.mark.parametrize(("model", "pipeline"), [("vit", "memory"), ("vit", "stream"), ("efficientnet_b0", "stream")])
def test_workers_change_no_bit_of_a_real_model(
    model: str, pipeline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelmlf.run.one_run import one_run
    from accelmlf.run.tracker import MemoryTracker
    from accelmlf.settings.recipes import resolve
    from accelmlf.settings.run import RunConfig

    monkeypatch.chdir(tmp_path)

    def losses(techniques: str, **given: int) -> list[float]:
        settings = {"model": model, "pipeline": pipeline, "techniques": techniques, "device": "cpu"}
        small = {"train_images": 60, "epochs": 2, "batch_size": 16, "save_model": False}
        config: RunConfig = resolve(settings | small | given)
        tracker = MemoryTracker()
        one_run(config, tracker)
        return [epoch.train_loss for epoch in tracker.epochs]

    baseline = losses("none")
    assert losses("workers:2") == baseline
    assert losses("none", seed=1, epochs=1) != baseline[:1]
