"""Runs as the tracking store has them: real ones, and those of others."""

import uuid

import mlflow
import pytest

from accelmlf.machine.devices import pick_device
from accelmlf.machine.facts import DECIDES_SPEED, cpu_name, describe
from accelmlf.measure.records import RunSummary
from accelmlf.run.one_run import one_run
from accelmlf.run.plan import settle
from accelmlf.run.workload import load_data
from accelmlf.settings.recipes import resolve
from accelmlf.tracking.store import STATUS, Store
from accelmlf.tracking.stored_runs import StoredRun
from accelmlf.tracking.tags import PREFIX, WELL, under
from accelmlf.tracking.tracker import MlflowTracker
from tests.tracking.makers import parent_run

PARENT = "mlflow.parentRunId"
SMALL = {"model": "vit", "device": "cpu", "train_images": 60, "epochs": 2, "save_model": False, "seed": 3}


@pytest.fixture
def experiment(store: mlflow.MlflowClient) -> str:
    """One of a test's own, in the store that all share."""
    experiment_id: str = store.create_experiment(f"stored-{uuid.uuid4().hex}")
    return experiment_id


@pytest.fixture
def real(store: mlflow.MlflowClient) -> tuple[StoredRun, RunSummary]:
    """A run of this project, read back, and what it had to say itself."""
    run_id = store.create_run("0").info.run_id
    summary = one_run(resolve(SMALL), MlflowTracker(Store(store), run_id), quiet=True)
    return StoredRun.of(store.get_run(run_id)), summary


def test_a_run_is_read_back_with_all_that_it_has_logged(
    store: mlflow.MlflowClient, real: tuple[StoredRun, RunSummary]
) -> None:
    run, summary = real
    config, _, _ = settle(resolve(SMALL))
    assert run.settings == config.as_texts()
    assert run.settings != resolve(SMALL | {"seed": 4}).as_texts()  # the control
    assert run.data_digest == load_data(config).digest
    assert run.data_digest != load_data(resolve(SMALL | {"train_images": 61})).digest
    final = {name: value for name, value in run.metrics.items() if "/" not in name}
    assert final == pytest.approx(summary.as_metrics())
    last = [point.value for point in store.get_metric_history(run.run_id, "train/loss")]
    assert len(last) == 2 and run.metrics["train/loss"] == last[-1] != last[0]
    assert run.outcome == summary.outcome in WELL and run.has_ended_well
    assert (run.kind, run.study_id, run.tags.get(PARENT)) == (None, None, None)
    assert run.started_ms == store.get_run(run.run_id).info.start_time > 0
    assert run.name == store.get_run(run.run_id).info.run_name
    facts = describe(pick_device("cpu"))
    threads = facts["hardware"]["cpu_threads_used"]
    words = f"{threads} thread{'s' * (threads > 1)}"
    assert run.machine == f"{cpu_name()}, {words}, torch {facts['versions']['torch']}"


def test_a_run_of_many_knows_its_kind_its_study_and_its_parent(store: mlflow.MlflowClient) -> None:
    study_id = uuid.uuid4().hex
    with parent_run("ablation", study_id) as parent:
        child = StoredRun.of(store.get_run(parent.start_child("a child", "ablation run", {"a": "b"})))
        parent.end_child(child.run_id, "completed")
    assert (child.kind, child.study_id, child.tags.get(PARENT)) == ("ablation run", study_id, parent.run.run_id)
    assert (child.name, child.tags["a"]) == ("a child", "b")
    assert (child.outcome, child.has_ended_well) == (None, False)  # as it was under way
    own = StoredRun.of(store.get_run(parent.run.run_id))
    assert (own.kind, own.study_id, own.tags.get(PARENT)) == ("ablation", study_id, None)


def test_a_run_of_somebody_else_has_nothing_of_ours_and_is_read_all_the_same(
    store: mlflow.MlflowClient, experiment: str
) -> None:
    run_id = store.create_run(experiment, run_name="theirs", tags={"team": "other"}).info.run_id
    store.log_metric(run_id, "loss", 0.5)
    store.log_param(run_id, "model", "resnet50")
    run = StoredRun.of(store.get_run(run_id))
    assert (run.name, run.metrics, run.tags["team"]) == ("theirs", {"loss": 0.5}, "other")
    assert (run.settings, run.kind, run.outcome, run.data_digest) == ({}, None, None, None)
    assert run.machine == "unknown processor, ? threads, torch ?"


@pytest.mark.parametrize(
    "outcome", [*STATUS, "diverged", "out_of_memory", "failed", "anything"], ids=lambda outcome: outcome
)
def test_only_runs_that_trained_to_their_end_have_ended_well(outcome: str) -> None:
    run = StoredRun(run_id="", name="", started_ms=0, tags={"accelmlf.outcome": outcome}, metrics={}, data_digest=None)
    assert run.has_ended_well is (outcome in ("completed", "target_not_reached"))


@pytest.mark.parametrize(
    ("hardware", "expected"),
    [
        ({"cpu": "EPYC", "cpu_threads_used": "2"}, "EPYC, 2 threads, torch 2.15.0"),
        ({"cpu": "EPYC", "cpu_threads_used": "2", "gpu": "H100"}, "H100, EPYC, 2 threads, torch 2.15.0"),
        (
            {"cpu": "EPYC", "cpu_threads_used": "1", "gpu": "H100", "cuda": "12.8", "cudnn": "91002"},
            "H100, EPYC, 1 thread, CUDA 12.8, cuDNN 91002, torch 2.15.0",
        ),
        ({}, "unknown processor, ? threads, torch 2.15.0"),
        ({"cpu": "M2", "cpu_threads_used": "8", "device": "mps"}, "mps, M2, 8 threads, torch 2.15.0"),
        ({"cpu": "M2", "cpu_threads_used": "8", "device": "cpu"}, "M2, 8 threads, torch 2.15.0"),
    ],
)
def test_a_machine_is_what_decides_how_fast_it_is(hardware: dict[str, str], expected: str) -> None:
    hardware = dict(hardware)
    device = hardware.pop("device", "cuda:0" if "gpu" in hardware else "cpu")
    tags = {f"accelmlf.hardware.{name}": text for name, text in hardware.items()}
    tags |= {"accelmlf.version.torch": "2.15.0", "accelmlf.config.device": device}
    run = StoredRun(run_id="", name="", started_ms=0, tags=tags, metrics={}, data_digest=None)
    assert run.machine == expected


@pytest.mark.parametrize("fact", DECIDES_SPEED)
def test_whatever_decides_how_fast_a_machine_is_makes_it_another(fact: str) -> None:
    def machine(**other: str) -> str:
        tags = under(PREFIX, dict.fromkeys(DECIDES_SPEED, "1") | other)
        return StoredRun(run_id="", name="", started_ms=0, tags=tags, metrics={}, data_digest=None).machine

    assert machine(**{fact: "2"}) != machine()
    assert machine(**{"hardware.memory_gib": "2"}) == machine()  # the control
