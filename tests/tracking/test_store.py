"""The one handle on the tracking store: how it is opened, what is read through it, and that all is written by it."""

import ast
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import environment_variables

import accelmlf
from accelmlf.errors import ConfigError, TrackingError
from accelmlf.run.one_run import one_run
from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.store import MLFLOW_VARIABLES, Store, open_store
from accelmlf.tracking.stored_runs import StoredRun, of_study
from accelmlf.tracking.tracker import MlflowTracker
from tests.makers import make_config

PACKAGE = Path(accelmlf.__file__).parent
ROOT = PACKAGE.parent


@pytest.fixture
def experiment(store: mlflow.MlflowClient) -> str:
    """One of a test's own, in the store that all share."""
    experiment_id: str = store.create_experiment(f"stored-{uuid.uuid4().hex}")
    return experiment_id


def ids(runs: Sequence[StoredRun]) -> list[str]:
    return [run.run_id for run in runs]


# --- one handle ---


WRITES = (
    "create_experiment",
    "create_run",
    "log_artifacts",
    "log_batch",
    "log_inputs",
    "set_tag",
    "set_terminated",
    "update_run",
)


class Recording(mlflow.MlflowClient):
    """The real client, which notes what is written through it and how it got there."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.calls: list[tuple[str, str]] = []
        """What was called, and for which run."""
        self.tags: dict[tuple[str, str], str] = {}
        self.params: dict[tuple[str, str], str] = {}
        self.metrics: dict[tuple[str, str], float] = {}
        self.statuses: dict[str, str] = {}

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name not in WRITES:
            return method

        def noted(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            run_id = result.info.run_id if name == "create_run" else args[0]
            self.calls.append((name, run_id))
            self.note(name, run_id, args[1:], kwargs)
            return result

        return noted

    def note(self, name: str, run_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name == "set_tag":
            self.tags[run_id, args[0]] = args[1]
        elif name == "create_run":
            self.tags |= {(run_id, tag): text for tag, text in (kwargs.get("tags") or {}).items()}
        elif name == "log_batch":
            self.tags |= {(run_id, tag.key): tag.value for tag in kwargs.get("tags", ())}
            self.params |= {(run_id, param.key): param.value for param in kwargs.get("params", ())}
            self.metrics |= {(run_id, metric.key): metric.value for metric in kwargs.get("metrics", ())}
        elif name == "set_terminated":
            self.statuses[run_id] = args[0]


@pytest.mark.usefixtures("tiny_model")
def test_every_write_of_a_parent_and_of_its_child_is_seen_by_the_one_handle(store: mlflow.MlflowClient) -> None:
    seen = Recording(store.tracking_uri)
    handle = Store(seen)
    with MlflowTracker(handle).run() as run:
        parent = ParentRun(run, "search")
        parent.claim()
        parent.join("the-study", uuid.uuid4().hex, {"n_trials": "1"}, {"accelmlf.sampler": "grid"})
        child = parent.start_child("trial 0", "trial", {"accelmlf.trial": "0"})
        one_run(make_config(epochs=2), MlflowTracker(handle, child), quiet=True)
        parent.end_child(child, "completed")
        parent.log_result({"best_batch_size": "16"}, {"finished_trials": 1.0}, "completed", {"accelmlf.verdict": "x"})
    runs = [store.get_run(run_id) for run_id in (run.run_id, child)]
    for found in runs:
        run_id, made_up = found.info.run_id, {"mlflow.runName": found.info.run_name}  # by the store, where nobody did
        assert found.data.tags == made_up | {name: text for (of, name), text in seen.tags.items() if of == run_id}
        assert found.data.params == {name: text for (of, name), text in seen.params.items() if of == run_id}
        assert found.data.metrics == {name: value for (of, name), value in seen.metrics.items() if of == run_id}
        assert found.info.status == seen.statuses[run_id] == "FINISHED"
    assert runs[1].inputs and runs[1].inputs.dataset_inputs and ("log_inputs", child) in seen.calls
    assert store.list_artifacts(child) and ("log_artifacts", child) in seen.calls
    store.set_tag(child, "other", "hand")  # the control
    assert store.get_run(child).data.tags["other"] == "hand" and (child, "other") not in seen.tags


def calls_of(name: str) -> Iterator[str]:
    """`file:line` of every call of something that is called so, in the package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == name:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}"


def test_the_package_makes_its_client_in_one_place() -> None:
    (place,) = calls_of("MlflowClient")
    assert place.startswith("tracking/store.py:")
    assert len(list(calls_of("open_store"))) > 1  # the control: what is called more often is found


@pytest.mark.parametrize("name", ["start_run", "end_run", "active_run", "set_experiment", "set_tracking_uri"])
def test_the_package_leaves_mlflow_s_hidden_state_alone(name: str) -> None:
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
    assert [path for path, source in sources.items() if f"mlflow.{name}" in source] == []
    assert any("mlflow.get_tracking_uri" in source for source in sources.values())  # the control


# --- how it is opened ---


@pytest.mark.slow
def test_to_import_the_tracking_changes_nothing(tmp_path: Path) -> None:
    script = "import os\nbefore = dict(os.environ)\nimport accelmlf.tracking.tracker, accelmlf.tracking.parent_run\n"
    script += "assert [name for name in os.environ if name.startswith('MLFLOW') and name not in before] == []\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in MLFLOW_VARIABLES:
        environment.pop(name, None)
    command = [sys.executable, "-c", script]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", MLFLOW_VARIABLES)
def test_what_the_user_has_told_mlflow_stays_and_else_it_is_told_when_the_store_is_opened(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "7")
    open_store()
    assert os.environ[name] == "7"
    monkeypatch.delenv(name)
    open_store()
    assert os.environ[name] == MLFLOW_VARIABLES[name]
    variable = getattr(environment_variables, name)
    assert str(variable.get()).lower() == MLFLOW_VARIABLES[name]  # MLflow asks at each call


@pytest.mark.parametrize("by", ["id", "name", "a name that is new", "nobody"])
def test_runs_go_to_the_experiment_that_mlflow_s_variables_name_or_to_this_project_s_own(
    store: mlflow.MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    name = store.get_experiment(experiment).name if by == "name" else f"new-{experiment}"
    if by == "id":
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    elif by != "nobody":
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    found = Store(store).own_experiment()
    assert found == Store(store).own_experiment()
    expected = {"id": store.get_experiment(experiment).name, "nobody": "accelmlf"}.get(by, name)
    assert store.get_experiment(found).name == expected
    with MlflowTracker(open_store()).run() as run:
        assert run.experiment_id == found


def test_an_experiment_that_was_deleted_is_named_with_the_way_back(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"deleted-{uuid.uuid4().hex}"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    experiment_id = Store(store).own_experiment()
    store.delete_experiment(experiment_id)
    with pytest.raises(TrackingError, match=f"restore -x {experiment_id}"):
        Store(store).own_experiment()
    store.restore_experiment(experiment_id)
    assert Store(store).own_experiment() == experiment_id


def test_an_id_and_a_name_of_two_experiments_are_an_error(
    store: mlflow.MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    with pytest.raises(ConfigError, match=f"^MLFLOW_EXPERIMENT_ID={experiment}: that experiment is called stored-"):
        Store(store).own_experiment()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", store.get_experiment(experiment).name)  # the control
    assert Store(store).own_experiment() == experiment


def test_an_experiment_that_is_named_by_an_id_nobody_knows_is_an_error_of_the_store(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "987654321")
    with pytest.raises(TrackingError, match="987654321"):
        Store(store).own_experiment()


@pytest.mark.parametrize("address", ["sqlite:///{}//fresh.db", "sqlite:///{}/./fresh.db?timeout=20"])
def test_a_store_is_made_however_its_address_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    uri = address.format(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    experiment = open_store().own_experiment()
    assert open_store().own_experiment() == experiment
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh.db", "fresh.db.lock"]


@pytest.mark.slow
def test_a_store_without_a_name_is_made_in_the_folder_whatever_that_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "two words, 100%41"
    folder.mkdir()
    script = "from accelmlf.tracking.store import open_store; open_store().own_experiment()"
    environment = {name: text for name, text in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment["PYTHONPATH"] = str(ROOT)
    subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, check=True)
    assert (folder / "mlflow.db").stat().st_size > 0


TOGETHER = """
import os, sys, traceback
from accelmlf.tracking.store import open_store
from accelmlf.tracking.tracker import MlflowTracker

def track():
    try:
        with MlflowTracker(open_store()).run():
            return 0
    except BaseException:
        traceback.print_exc()
        return 1

pids = []
for _ in range(4):  # forked, so that they begin at the same moment, their imports done
    pids.append(os.fork())
    if not pids[-1]:
        os._exit(track())
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids))
"""


@pytest.mark.slow
def test_runs_that_start_together_on_a_fresh_store_all_succeed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'fresh.db'}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", TOGETHER]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    client = mlflow.MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "accelmlf"]
    assert len(client.search_runs([experiment.experiment_id])) == 4


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_model")
def test_a_server_that_is_not_there_is_one_error_in_seconds_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mlflow.set_tracking_uri("http://user:canary@127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(TrackingError) as error:
        one_run(make_config(epochs=1), MlflowTracker(open_store()))
    assert time.monotonic() - started < 15
    assert error.value.exit_code == 8
    assert "canary" not in str(error.value)
    assert "127.0.0.1:9" in str(error.value)


@pytest.mark.parametrize("read", [lambda s: s.read_runs("0"), Store.experiments, Store.own_experiment])
def test_a_store_that_does_not_answer_is_an_error_of_the_store(
    read: Callable[[Store], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match="tracking="):
        read(Store(mlflow.MlflowClient("http://127.0.0.1:9")))


# --- runs ---


def made(store: mlflow.MlflowClient, experiment: str, started_ms: int, **tags: str) -> str:
    run_id: str = store.create_run(experiment, start_time=started_ms, tags=tags).info.run_id
    return run_id


@pytest.mark.parametrize("page", [1, 2, 5, 1000])
def test_every_run_is_read_once_the_oldest_first_however_many_fit_on_a_page(
    store: mlflow.MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr("accelmlf.tracking.store.PAGE", page)
    made_at = {started: made(store, experiment, started) for started in (300, 100, 500, 200, 400)}
    assert ids(Store(store).read_runs(experiment)) == [made_at[started] for started in sorted(made_at)]
    assert [run.started_ms for run in Store(store).read_runs(experiment)] == sorted(made_at)


def test_runs_are_read_of_the_experiments_that_were_asked_for_and_by_mlflow_s_filter(
    store: mlflow.MlflowClient, experiment: str
) -> None:
    other: str = store.create_experiment(f"other-{uuid.uuid4().hex}")
    one, two = made(store, experiment, 1, colour="red"), made(store, experiment, 2, colour="blue")
    three = made(store, other, 3, colour="red")
    assert ids(Store(store).read_runs(experiment)) == [one, two]
    assert ids(Store(store).read_runs(experiment, "tags.colour = 'red'")) == [one]
    red = Store(store).search_runs([experiment, other], "tags.colour = 'red'")
    assert [run.info.run_id for run in red] == [one, three]


def test_a_run_that_has_ended_takes_more_tags_and_stays_as_it_is_otherwise(
    store: mlflow.MlflowClient, experiment: str
) -> None:
    run_id = made(store, experiment, 1, colour="red", shape="round")
    store.set_terminated(run_id, "FINISHED")
    before = store.get_run(run_id)
    Store(store).set_tags(run_id, {"colour": "blue", "size": "small"})
    after = store.get_run(run_id)
    assert after.data.tags == before.data.tags | {"colour": "blue", "size": "small"} != before.data.tags
    assert after.info.status == "FINISHED" and after.info.end_time == before.info.end_time
    with pytest.raises(TrackingError, match="tracking="):
        Store(store).set_tags("0" * 32, {"colour": "blue"})


def test_runs_that_were_deleted_are_not_read(store: mlflow.MlflowClient, experiment: str) -> None:
    one, two = made(store, experiment, 1), made(store, experiment, 2)
    store.delete_run(one)
    assert ids(Store(store).read_runs(experiment)) == [two]


def test_a_study_is_all_its_runs_and_no_others(store: mlflow.MlflowClient, experiment: str) -> None:
    own = [made(store, experiment, number, **{"accelmlf.study_id": "0123"}) for number in (1, 2)]
    made(store, experiment, 3, **{"accelmlf.study_id": "012"})
    made(store, experiment, 4)
    assert ids(Store(store).runs_of_study(experiment, "0123")) == own
    assert of_study("0123") != of_study("012")


# --- experiments ---


def test_an_experiment_is_found_by_its_name(store: mlflow.MlflowClient, experiment: str) -> None:
    name = Store(store).experiments()[experiment]
    assert name.startswith("stored-")
    assert Store(store).experiment_named(name) == experiment


def test_an_experiment_that_is_not_there_is_one_line_with_those_that_are(
    store: mlflow.MlflowClient, experiment: str
) -> None:
    with pytest.raises(ConfigError) as error:
        Store(store).experiment_named("nosuch")
    text = str(error.value)
    assert text.startswith("experiment_name=nosuch: the tracking store has no such experiment. Known: ")
    assert Store(store).experiments()[experiment] in text
    assert error.value.exit_code == 2


def test_an_experiment_that_was_deleted_is_not_there(store: mlflow.MlflowClient, experiment: str) -> None:
    name = Store(store).experiments()[experiment]
    store.delete_experiment(experiment)
    with pytest.raises(ConfigError, match="has no such experiment"):
        Store(store).experiment_named(name)


# --- histories ---


def test_a_history_is_in_the_order_of_the_epochs(store: mlflow.MlflowClient, experiment: str) -> None:
    run_id = made(store, experiment, 1)
    for step in (3, 1, 10, 2):
        store.log_metric(run_id, "eval/accuracy", step / 16, step=step)
        store.log_metric(run_id, "eval/loss", 1.0, step=step)
    assert Store(store).history(run_id, "eval/accuracy") == [1 / 16, 2 / 16, 3 / 16, 10 / 16]


def test_what_was_not_logged_has_no_history(store: mlflow.MlflowClient, experiment: str) -> None:
    assert Store(store).history(made(store, experiment, 1), "energy/gpu_joules") == []
