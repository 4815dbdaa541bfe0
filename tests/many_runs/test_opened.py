"""The parent run of many: whose it is, what it leaves to others, and what it says of itself."""

import os
import uuid
from dataclasses import replace

import mlflow
import pytest

from accelmlf.ablation.settings import SET_BY_ABLATION
from accelmlf.errors import DeviceError
from accelmlf.machine.processes import MANY_RUNS, identity, sole_use
from accelmlf.many_runs.opened import labels_of_parent, opened, recorded
from accelmlf.many_runs.preflight import Preflight
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.run import RunConfig

DEVICE = f"device-of-opened-{os.getpid()}"
"""A name that nothing else on this machine waits for."""


def state(store: mlflow.MlflowClient, run_id: str) -> tuple[str, str | None]:
    run = store.get_run(run_id)
    return run.info.status, run.data.tags.get("accelmlf.outcome")


def test_a_parent_says_whose_it_is_before_anything_else_and_is_closed_at_the_end(store: mlflow.MlflowClient) -> None:
    with opened("search", DEVICE) as parent:
        tags = store.get_run(parent.run.run_id).data.tags
        assert (tags["accelmlf.kind"], tags["accelmlf.owner"]) == ("search", identity())
        assert "accelmlf.study" not in tags
        assert state(store, parent.run.run_id) == ("RUNNING", None)
    assert state(store, parent.run.run_id) == ("FINISHED", "completed")


def test_one_device_has_one_search_or_ablation_at_a_time(store: mlflow.MlflowClient) -> None:
    def runs() -> int:
        return len(store.search_runs([e.experiment_id for e in store.search_experiments()], max_results=50_000))

    with opened("search", DEVICE):
        before = runs()
        with pytest.raises(DeviceError, match=f"another {MANY_RUNS} is under way"), opened("ablation", DEVICE):
            pass
        assert runs() == before  # who does not get the device leaves no run
        with opened("ablation", DEVICE + "-2"):  # the control
            assert runs() == before + 1
    with sole_use(DEVICE, MANY_RUNS):
        pass


def test_a_run_that_is_only_recorded_leaves_the_device_to_others(store: mlflow.MlflowClient) -> None:
    with opened("search", DEVICE), recorded("report", name="report") as parent:
        assert store.get_run(parent.run.run_id).info.run_name == "report"


def test_a_name_that_somebody_gave_stays(store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    given = store.create_run("0", run_name="my own name").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with recorded("report", name="report") as parent:
        pass
    assert parent.run.run_id == given
    assert store.get_run(given).info.run_name == "my own name"


def test_a_killed_parent_of_the_same_kind_is_closed_and_a_living_one_is_not(store: mlflow.MlflowClient) -> None:
    dead = "/".join([*identity().split("/")[:4], "0"])  # its number has been given to another process since
    kind = f"kind-{uuid.uuid4().hex}"

    def left_open(kind: str, owner: str) -> str:
        with recorded("report") as own:
            tags = {"accelmlf.kind": kind, "accelmlf.owner": owner}
            run_id: str = store.create_run(own.run.experiment_id, tags=tags, run_name="former").info.run_id
            return run_id

    killed, living, other = left_open(kind, dead), left_open(kind, identity()), left_open("another", dead)
    with recorded(kind):
        pass
    assert state(store, killed) == ("KILLED", "interrupted")
    assert store.get_run(killed).info.run_name == "former (interrupted)"
    assert store.get_run(killed).data.tags["accelmlf.error"] == "its process was killed"
    assert state(store, living) == state(store, other) == ("RUNNING", None)
    for run_id in (living, other):
        store.set_terminated(run_id)


def test_a_parent_is_labelled_with_what_it_was_asked_the_settings_of_its_runs_the_data_and_the_machine(
    seen: Preflight,
) -> None:
    params, tags = labels_of_parent(seen, {"design": "factorial"}, SET_BY_ABLATION)
    texts = seen.config.as_texts()
    assert params == {"design": "factorial"} | {
        name: texts[name] for name in settable_fields(RunConfig) if name not in SET_BY_ABLATION
    }
    settings = {name.removeprefix("accelmlf.config."): text for name, text in tags.items() if ".config." in name}
    assert settings == texts | {"design": "factorial"}
    assert tags["accelmlf.data_digest"] == seen.data_digest
    assert tags["accelmlf.version.torch"] == seen.environment["versions"]["torch"]
    other = labels_of_parent(replace(seen, data_digest="other"), {}, ())
    assert other[0].keys() == settable_fields(RunConfig).keys()
    assert other[1]["accelmlf.data_digest"] == "other"
