"""Runs as the tracking store has them: real ones, those of others, all of them, and in order."""

import uuid
from collections.abc import Sequence

import mlflow
import pytest

from accelmlf.errors import ConfigError, TrackingError
from accelmlf.machine.devices import pick_device
from accelmlf.machine.facts import cpu_name, describe
from accelmlf.measure.records import RunSummary
from accelmlf.run.one_run import one_run
from accelmlf.run.plan import settle
from accelmlf.run.workload import load_data
from accelmlf.settings.recipes import resolve
from accelmlf.tracking.parent_run import Family
from accelmlf.tracking.store import experiment_named, experiments
from accelmlf.tracking.stored_runs import StoredRun, history, of_study, read_runs, runs_of_study, search_runs
from accelmlf.tracking.tags import WELL
from accelmlf.tracking.tracker import STATUS, MlflowTracker

PARENT = "mlflow.parentRunId"
SMALL = {"model": "vit", "device": "cpu", "train_images": 60, "epochs": 2, "save_model": False, "seed": 3}


@pytest.fixture
def experiment(store: mlflow.MlflowClient) -> str:
    """One of a test's own, in the store that all share."""
    experiment_id: str = store.create_experiment(f"stored-{uuid.uuid4().hex}")
    return experiment_id


def ids(runs: Sequence[StoredRun]) -> list[str]:
    return [run.run_id for run in runs]


# --- one run ---


@pytest.fixture
def real(store: mlflow.MlflowClient) -> tuple[StoredRun, RunSummary]:
    """A run of this project, read back, and what it had to say itself."""
    run_id = store.create_run("0").info.run_id
    summary = one_run(resolve(SMALL), MlflowTracker(run_id), quiet=True)
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
    with MlflowTracker().run() as parent:
        family = Family(parent, "ablation", "the-study", study_id)
        family.log_settings({}, {})
        child = StoredRun.of(store.get_run(family.start_child("a child", "ablation run", {"a": "b"})))
        family.end_child(child.run_id, "completed")
    assert (child.kind, child.study_id, child.tags.get(PARENT)) == ("ablation run", study_id, parent.run_id)
    assert (child.name, child.tags["a"]) == ("a child", "b")
    assert (child.outcome, child.has_ended_well) == (None, False)  # as it was under way
    own = StoredRun.of(store.get_run(parent.run_id))
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


# --- many ---


def made(store: mlflow.MlflowClient, experiment: str, started_ms: int, **tags: str) -> str:
    run_id: str = store.create_run(experiment, start_time=started_ms, tags=tags).info.run_id
    return run_id


@pytest.mark.parametrize("page", [1, 2, 5, 1000])
def test_every_run_is_read_once_the_oldest_first_however_many_fit_on_a_page(
    store: mlflow.MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr("accelmlf.tracking.stored_runs.PAGE", page)
    made_at = {started: made(store, experiment, started) for started in (300, 100, 500, 200, 400)}
    assert ids(read_runs(experiment)) == [made_at[started] for started in sorted(made_at)]
    assert [run.started_ms for run in read_runs(experiment)] == sorted(made_at)


def test_runs_are_read_of_the_experiments_that_were_asked_for_and_by_mlflow_s_filter(
    store: mlflow.MlflowClient, experiment: str
) -> None:
    other: str = store.create_experiment(f"other-{uuid.uuid4().hex}")
    one, two = made(store, experiment, 1, colour="red"), made(store, experiment, 2, colour="blue")
    three = made(store, other, 3, colour="red")
    assert ids(read_runs(experiment)) == [one, two]
    assert ids(read_runs(experiment, "tags.colour = 'red'")) == [one]
    assert [run.info.run_id for run in search_runs([experiment, other], "tags.colour = 'red'")] == [one, three]


def test_runs_that_were_deleted_are_not_read(store: mlflow.MlflowClient, experiment: str) -> None:
    one, two = made(store, experiment, 1), made(store, experiment, 2)
    store.delete_run(one)
    assert ids(read_runs(experiment)) == [two]


def test_a_study_is_all_its_runs_and_no_others(store: mlflow.MlflowClient, experiment: str) -> None:
    own = [made(store, experiment, number, **{"accelmlf.study_id": "0123"}) for number in (1, 2)]
    made(store, experiment, 3, **{"accelmlf.study_id": "012"})
    made(store, experiment, 4)
    assert ids(runs_of_study(experiment, "0123")) == own
    assert of_study("0123") != of_study("012")


# --- experiments ---


def test_an_experiment_is_found_by_its_name(store: mlflow.MlflowClient, experiment: str) -> None:
    name = experiments()[experiment]
    assert name.startswith("stored-")
    assert experiment_named(name) == experiment


def test_an_experiment_that_is_not_there_is_one_line_with_those_that_are(
    store: mlflow.MlflowClient, experiment: str
) -> None:
    with pytest.raises(ConfigError) as error:
        experiment_named("nosuch")
    text = str(error.value)
    assert text.startswith("experiment_name=nosuch: the tracking store has no such experiment. Known: ")
    assert experiments()[experiment] in text
    assert error.value.exit_code == 2


def test_an_experiment_that_was_deleted_is_not_there(store: mlflow.MlflowClient, experiment: str) -> None:
    name = experiments()[experiment]
    store.delete_experiment(experiment)
    with pytest.raises(ConfigError, match="has no such experiment"):
        experiment_named(name)


def test_a_store_that_does_not_answer_is_an_error_of_the_store(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for read in (lambda: read_runs("0"), experiments):
        with pytest.raises(TrackingError, match="tracking="):
            read()


# --- histories ---


def test_a_history_is_in_the_order_of_the_epochs(store: mlflow.MlflowClient, experiment: str) -> None:
    run_id = made(store, experiment, 1)
    for step in (3, 1, 10, 2):
        store.log_metric(run_id, "eval/accuracy", step / 16, step=step)
        store.log_metric(run_id, "eval/loss", 1.0, step=step)
    assert history(run_id, "eval/accuracy") == [1 / 16, 2 / 16, 3 / 16, 10 / 16]


def test_what_was_not_logged_has_no_history(store: mlflow.MlflowClient, experiment: str) -> None:
    assert history(made(store, experiment, 1), "energy/gpu_joules") == []
