"""A parent run and its children in a real store, whatever ended the processes that had them open."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run, RunStatus

from accelmlf.errors import Interrupted, TrackingError
from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.store import STATUS, Store
from accelmlf.tracking.tracker import MlflowRun, MlflowTracker
from tests.tracking.makers import parent_run

ROOT = Path(__file__).parents[2]
PARENT, KIND, TRIAL = "mlflow.parentRunId", "search", "trial"


@pytest.fixture
def study_id(store: mlflow.MlflowClient) -> str:
    """A study that no other test knows."""
    return uuid.uuid4().hex


def run_of(store: mlflow.MlflowClient, run_id: str) -> Run:
    return store.get_run(run_id)


def state(run: Run) -> tuple[str, str | None]:
    return run.info.status, run.data.tags.get("accelmlf.outcome")


def name(run: Run) -> str:
    return run.info.run_name or ""


def dead_process() -> str:
    """What a process that has ended called itself."""
    command = [sys.executable, "-c", "from accelmlf.machine.processes import identity; print(identity())"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def dead() -> str:
    return dead_process()


def abandon(store: mlflow.MlflowClient, run_id: str, owner: str) -> None:
    """Make a run look as its owner's kill -9 leaves it."""
    store.set_tag(run_id, "accelmlf.owner", owner)


def abandoned_runs(store: mlflow.MlflowClient, study_id: str, dead: str) -> tuple[str, str, str]:
    """A parent, a child that is closed, and a child that is open, all of a process that was killed."""
    parent = store.create_run(Store(store).own_experiment())
    former = ParentRun(MlflowRun(Store(store), parent.info.run_id, parent.info.experiment_id), KIND)
    former.join("the-study", study_id, {}, {})
    closed, left_open = (former.start_child(text, TRIAL, {}) for text in ("closed", "open"))
    former.end_child(closed, "completed")
    for run_id in (parent.info.run_id, closed, left_open):
        abandon(store, run_id, dead)
    return parent.info.run_id, closed, left_open


def test_children_are_below_their_parent_and_known_by_kind(store: mlflow.MlflowClient, study_id: str) -> None:
    with parent_run(KIND, study_id) as own:
        child = own.start_child("trial 0: batch 8 x 1", TRIAL, {"accelmlf.trial": "0"})
        assert list(own.children(TRIAL)) == []  # it has not ended
        own.end_child(child, "completed")
        (found,) = own.children(TRIAL)
        assert list(own.children("confirmation")) == []
    run = run_of(store, child)
    assert found.tags[PARENT] == run.data.tags[PARENT] == own.run.run_id
    assert (name(run), run.data.tags["accelmlf.trial"]) == ("trial 0: batch 8 x 1", "0")
    assert run.info.experiment_id == own.run.experiment_id
    assert run.data.tags["accelmlf.study"] == "the-study"
    assert state(run) == ("FINISHED", "completed")
    assert state(run_of(store, own.run.run_id)) == ("FINISHED", "completed")


@pytest.mark.parametrize(
    ("outcome", "mark"),
    [
        ("completed", ""),
        ("target_not_reached", ""),
        ("pruned", " (pruned)"),
        ("interrupted", " (interrupted)"),
        ("out_of_memory", " (out of memory)"),
        ("diverged", " (diverged)"),
        ("failed", " (failed)"),
    ],
)
@pytest.mark.parametrize("process_closed_it", [True, False])
def test_a_child_is_closed_with_its_outcome_and_its_name_says_so(
    store: mlflow.MlflowClient, study_id: str, outcome: str, mark: str, process_closed_it: bool
) -> None:
    with parent_run(KIND, study_id) as own:
        child = own.start_child("trial 3", TRIAL, {})
        if process_closed_it:
            store.set_tag(child, "accelmlf.outcome", outcome)
            store.set_tag(child, "accelmlf.error", "its own words")
            store.set_terminated(child, "FINISHED")
        own.end_child(child, outcome, "from outside")
    run = run_of(store, child)
    assert name(run) == f"trial 3{mark}"
    assert run.data.tags["accelmlf.outcome"] == outcome
    assert run.data.tags["accelmlf.error"] == ("its own words" if process_closed_it else "from outside")
    if process_closed_it:
        assert run.info.status == "FINISHED"
    else:
        assert run.info.status == RunStatus.to_string(STATUS.get(outcome, RunStatus.FAILED))


def test_what_a_killed_process_left_open_is_closed_and_adopted(
    store: mlflow.MlflowClient, study_id: str, dead: str
) -> None:
    former, closed, left_open = abandoned_runs(store, study_id, dead)
    before = run_of(store, closed)
    with parent_run(KIND, study_id) as own:
        assert len(list(own.children(TRIAL))) == 2
    assert state(run_of(store, former)) == state(run_of(store, left_open)) == ("KILLED", "interrupted")
    assert run_of(store, left_open).data.tags["accelmlf.error"] == "its process was killed"
    assert run_of(store, former).data.tags["accelmlf.continued_by"] == own.run.run_id
    for child in (closed, left_open):
        assert run_of(store, child).data.tags[PARENT] == own.run.run_id
    after = run_of(store, closed)
    assert (state(after), after.info.end_time, name(after)) == (state(before), before.info.end_time, name(before))


def test_what_a_living_process_has_open_is_left_alone(store: mlflow.MlflowClient, study_id: str) -> None:
    """The control: two workers of one study."""
    other = store.create_run(Store(store).own_experiment())
    worker = ParentRun(MlflowRun(Store(store), other.info.run_id, other.info.experiment_id), KIND)
    worker.join("the-study", study_id, {}, {})
    child = worker.start_child("trial 1", TRIAL, {})
    with parent_run(KIND, study_id):
        pass
    for run_id in (other.info.run_id, child):
        assert state(run_of(store, run_id)) == ("RUNNING", None)
    assert run_of(store, child).data.tags[PARENT] == other.info.run_id
    assert "accelmlf.continued_by" not in run_of(store, other.info.run_id).data.tags
    worker.end_child(child, "completed")
    store.set_terminated(other.info.run_id)


@pytest.mark.parametrize(
    ("part", "expected"),
    [(0, ("RUNNING", None)), (1, ("KILLED", "interrupted")), (2, ("RUNNING", None))],
    ids=["another machine", "this machine before it was started again", "another container"],
)
def test_runs_are_closed_only_where_it_is_certain_that_nobody_has_them_open(
    store: mlflow.MlflowClient, study_id: str, dead: str, part: int, expected: tuple[str, str | None]
) -> None:
    elsewhere = dead.split("/")
    elsewhere[part] = "another"
    former, closed, left_open = abandoned_runs(store, study_id, "/".join(elsewhere))
    with parent_run(KIND, study_id) as own:
        pass
    assert state(run_of(store, former)) == state(run_of(store, left_open)) == expected
    assert (run_of(store, closed).data.tags[PARENT] == own.run.run_id) is (expected[0] == "KILLED")
    for run_id in (former, left_open):
        store.set_terminated(run_id)


def test_runs_of_another_study_of_the_same_name_are_left_alone(
    store: mlflow.MlflowClient, study_id: str, dead: str
) -> None:
    former, closed, left_open = abandoned_runs(store, uuid.uuid4().hex, dead)
    with parent_run(KIND, study_id) as own:
        assert list(own.children(TRIAL)) == []
    assert state(run_of(store, left_open)) == ("RUNNING", None)
    assert run_of(store, closed).data.tags[PARENT] == former
    for run_id in (former, left_open):
        store.set_terminated(run_id)


def test_a_run_that_was_killed_while_it_was_being_closed_is_closed(
    store: mlflow.MlflowClient, study_id: str, dead: str
) -> None:
    former, _, left_open = abandoned_runs(store, study_id, dead)
    for run_id in (former, left_open):
        store.set_tag(run_id, "accelmlf.outcome", "completed")  # and killed before it could end the run
    with parent_run(KIND, study_id):
        pass
    assert state(run_of(store, former)) == state(run_of(store, left_open)) == ("FINISHED", "completed")


def test_children_are_handed_on_from_restart_to_restart(store: mlflow.MlflowClient, study_id: str, dead: str) -> None:
    _, closed, left_open = abandoned_runs(store, study_id, dead)
    for _ in range(2):
        with parent_run(KIND, study_id) as own:
            own.end_child(own.start_child("one more", TRIAL, {}), "completed")
    with parent_run(KIND, study_id) as last:
        children = list(last.children(TRIAL))
    assert len(children) == 4
    assert {run.tags[PARENT] for run in children} == {last.run.run_id}
    assert run_of(store, left_open).data.tags["accelmlf.outcome"] == "interrupted"
    assert run_of(store, closed).data.tags["accelmlf.outcome"] == "completed"


def test_more_children_than_fit_on_a_page_are_all_found(
    store: mlflow.MlflowClient, study_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelmlf.tracking.store.PAGE", 2)
    with parent_run(KIND, study_id) as own:
        for number in range(5):
            own.end_child(own.start_child(f"trial {number}", TRIAL, {"accelmlf.trial": str(number)}), "completed")
        assert [run.tags["accelmlf.trial"] for run in own.children(TRIAL)] == list("01234")


def test_what_mlflow_run_has_logged_is_not_logged_again(
    store: mlflow.MlflowClient, study_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = store.create_run(Store(store).own_experiment(), run_name="my own name")
    store.log_param(given.info.run_id, "n_trials", "'8'")
    monkeypatch.setenv("MLFLOW_RUN_ID", given.info.run_id)
    with MlflowTracker(Store(store)).run() as run:
        own = ParentRun(run, KIND)
        own.join("the-study", study_id, {"n_trials": "8", "sampler": "tpe"}, {"accelmlf.config.n_trials": "8"})
        params = {"best_batch_size": "16", "sampler": "grid"}
        own.log_result(params, {"finished_trials": 8}, "target_not_reached", {"accelmlf.ended_at": "exhausted"})
    found = run_of(store, given.info.run_id)
    assert found.data.params == {"n_trials": "'8'", "sampler": "tpe", "best_batch_size": "16"}
    assert found.data.tags["accelmlf.config.n_trials"] == "8"
    assert found.data.tags["accelmlf.ended_at"] == "exhausted"
    assert found.data.metrics == {"finished_trials": 8}
    assert state(found) == ("FINISHED", "target_not_reached")
    assert name(found) == "my own name"


def test_a_parent_that_nobody_named_is_named_after_its_study(store: mlflow.MlflowClient, study_id: str) -> None:
    with parent_run(KIND, study_id) as own:
        pass
    assert name(run_of(store, own.run.run_id)) == "search the-study"


@pytest.mark.parametrize(
    ("error", "expected"), [(ZeroDivisionError(), ("FAILED", "failed")), (Interrupted(15), ("KILLED", "interrupted"))]
)
def test_what_ends_the_block_decides_the_outcome_of_the_parent(
    store: mlflow.MlflowClient, study_id: str, error: BaseException, expected: tuple[str, str]
) -> None:
    parents: list[str] = []

    def fails() -> None:
        with parent_run(KIND, study_id) as own:
            parents.append(own.run.run_id)
            raise error

    with pytest.raises(type(error)):
        fails()
    assert state(run_of(store, parents[0])) == expected


def test_a_child_that_cannot_be_found_is_an_error_of_the_store(store: mlflow.MlflowClient, study_id: str) -> None:
    with parent_run(KIND, study_id) as own, pytest.raises(TrackingError, match="tracking="):
        own.end_child("0" * 32, "completed")
