"""A study in a real database: whose it is, what a kill leaves in it, what its trials say, and what its errors hide."""

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from accelmlf.errors import StudyError
from accelmlf.machine.processes import identity
from accelmlf.search import study as studies
from accelmlf.search.one_trial import run_one_trial
from accelmlf.search.sampling import UnseenPoints
from accelmlf.search.space import Point, SearchSpace
from accelmlf.search.storage import storage_url
from accelmlf.search.study import TARGET_CONSTRAINT, open_study, records, seen_points
from accelmlf.search.trials import COME_AGAIN, times_s

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

ROOT = Path(__file__).parents[2]
FACTS = {"model": "resnet50", "target_accuracy": "0.9", "data": "digest", "space.batch_sizes": "8,16"}
SPACE = SearchSpace(
    batch_sizes=(8, 16),
    accumulation_choices=(1, 2),
    learning_rates=None,
    technique_sets=(),
    max_effective_batch=1_000,
)
DOWN, UP = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
names = (f"study-{number}" for number in itertools.count())


@pytest.fixture
def study(url: str) -> optuna.Study:
    return open_study(url, next(names), FACTS)


def database(url: str) -> sqlite3.Connection:
    return sqlite3.connect(url.removeprefix("sqlite:///"))


def add(study: optuna.Study, point: Point, state: TrialState, seconds: float | None = None, **attrs: Any) -> None:
    """A trial that has ended."""
    trial = create_trial(
        state=state,
        value=seconds,
        params=dict(point),
        distributions={name: kind for name, kind in studies.distributions(SPACE).items() if name in point},
        user_attrs=attrs,
        constraints={TARGET_CONSTRAINT: attrs["short_by"]} if "short_by" in attrs else None,
    )
    study.add_trial(trial)


# --- whose study it is ---


def test_the_same_facts_go_on_with_the_study(url: str) -> None:
    name = next(names)
    first = open_study(url, name, FACTS)
    add(first, SPACE.grid[0], TrialState.COMPLETE, 1.0, outcome="completed")
    again = open_study(url, name, dict(reversed(FACTS.items())))
    assert [trial.value for trial in again.trials] == [1.0]
    assert again.user_attrs["accelmlf"] == FACTS


@pytest.mark.parametrize("with_trial", [False, True])
@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"target_accuracy": "0.95"}, "target_accuracy was 0.9, now 0.95"),
        ({"model": "vit"}, "model was resnet50, now vit"),
        ({"gpu": "H100"}, "gpu was not set, now H100"),
        ({"space.batch_sizes": "8,16,32"}, "space.batch_sizes was 8,16, now 8,16,32"),
    ],
)
def test_the_same_name_with_other_facts_is_refused(
    url: str, change: dict[str, str], difference: str, with_trial: bool
) -> None:
    name = next(names)
    first = open_study(url, name, FACTS)
    if with_trial:
        add(first, SPACE.grid[0], TrialState.COMPLETE, 1.0, outcome="completed")
    with pytest.raises(StudyError) as caught:
        open_study(url, name, FACTS | change)
    line = str(caught.value)
    assert caught.value.exit_code == 8
    assert line.startswith(f"study_name={name}: that study is about something else: {difference}. ")
    assert "Choose another study_name" in line and "\n" not in line
    assert open_study(url, name, FACTS).user_attrs["accelmlf"] == FACTS


def test_a_fact_that_is_gone_is_a_difference(url: str) -> None:
    name = next(names)
    open_study(url, name, FACTS)
    with pytest.raises(StudyError, match="data was digest, now not set"):
        open_study(url, name, {key: text for key, text in FACTS.items() if key != "data"})


def test_of_many_differences_four_are_shown_and_the_rest_counted(url: str) -> None:
    name = next(names)
    open_study(url, name, {f"fact{number}": "old" for number in range(7)})
    with pytest.raises(StudyError) as caught:
        open_study(url, name, {f"fact{number}": "new" for number in range(7)})
    assert str(caught.value).count("was old, now new") == 4
    assert "and 3 more" in str(caught.value)


def test_a_study_that_died_before_it_said_what_it_is_about_is_taken_up(url: str) -> None:
    name = next(names)
    optuna.create_study(study_name=name, storage=url, direction="minimize")
    assert open_study(url, name, FACTS).user_attrs["accelmlf"] == FACTS


@pytest.mark.parametrize("directions", [[UP], [DOWN, DOWN], [DOWN]], ids=["upwards", "two aims", "with a trial"])
def test_a_study_of_somebody_else_is_refused_and_left_as_it_is(url: str, directions: list[StudyDirection]) -> None:
    name = next(names)
    theirs = optuna.create_study(study_name=name, storage=url, directions=directions)
    if directions == [DOWN]:
        theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(StudyError) as caught:
        open_study(url, name, FACTS)
    assert "\n" not in str(caught.value)
    found = optuna.load_study(study_name=name, storage=url)
    assert found.user_attrs == {}
    assert len(found.trials) == len(theirs.trials)


# --- a storage that cannot be used ---


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 64)


def database_of_another_program(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table alembic_version (version_num varchar(32) not null)")
        connection.execute("insert into alembic_version values ('0123456789ab')")
        connection.execute("create table trials (id integer primary key, colour text)")
    connection.close()


def later_version(path: Path) -> None:
    open_study(f"sqlite:///{path}", "s", FACTS)
    with sqlite3.connect(path) as connection:
        connection.execute("update version_info set schema_version = 99")
        connection.execute("update alembic_version set version_num = 'v9.9.9'")
    connection.close()


@pytest.mark.parametrize("spoil", [garbage, database_of_another_program, later_version, Path.mkdir])
def test_a_file_that_is_no_such_database_is_one_line(tmp_path: Path, spoil: Any) -> None:
    path = tmp_path / "optuna.db"
    spoil(path)
    with pytest.raises(StudyError) as caught:
        open_study(f"sqlite:///{path}", "s", FACTS)
    line = str(caught.value)
    assert line.startswith(f"storage=sqlite:///{path}: ")
    assert "Check that the database" in line and "\n" not in line
    assert caught.value.exit_code == 8


@pytest.mark.parametrize(
    "storage",
    [
        "sqlite:////no/such/folder/optuna.db",
        "postgresql://localhost/no_driver_here",
        "nosuchdialect://host/db",
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_line(storage: str) -> None:
    with pytest.raises(StudyError) as caught:
        open_study(storage_url(storage), "s", FACTS)
    assert str(caught.value).startswith(f"storage={storage}: ")
    assert "\n" not in str(caught.value)


# --- processes ---

PROCESS = """
import json, sys, warnings
warnings.simplefilter("ignore")
from accelmlf.search import study as studies
from accelmlf.search.one_trial import run_one_trial
from accelmlf.search.trials import COME_AGAIN, times_s
from accelmlf.search.sampling import UnseenPoints
from accelmlf.search.space import SearchSpace
url, name, facts, space, stage = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:5]), sys.argv[5]
space = SearchSpace(**{key: tuple(value) if isinstance(value, list) else value for key, value in space.items()})
def say(*words):
    print(json.dumps(words), flush=True)
def wait():
    sys.stdin.readline()
def objective(trial):
    if stage == "before it signs":
        say(trial.number, None), wait()
    studies.sign(trial)
    if stage == "with half a point":
        trial.suggest_categorical("batch_size", space.batch_sizes)
        say(trial.number, None), wait()
    point = studies.suggest(trial, space)
    trial.set_user_attr("run_id", f"run {trial.number}")
    if stage == "when its figures are noted":
        trial.set_user_attr("outcome", "completed")
    say(trial.number, point), wait()
    return 1.0
if stage == "opening":
    say("ready"), wait()
if stage in ("before id", "before accelmlf"):
    import optuna
    write = optuna.Study.set_user_attr
    def stop_there(study, key, value):
        if stage == f"before {key}":
            say("ready"), wait()
        write(study, key, value)
    optuna.Study.set_user_attr = stop_there
study = studies.open_study(url, name, facts)
study.sampler = UnseenPoints(space, "grid", space.grid[-1], 0)
if stage == "opening":
    say("opened")
elif stage == "mending":
    say("ready"), wait()
    studies.mend(study, url, space)
    say("mended")
elif stage == "ten at once":
    for _ in range(10):
        trial = study.ask()
        studies.sign(trial)
        studies.suggest(trial, space)
    say("ready"), wait()
else:
    study.optimize(objective, n_trials=1)
"""


class Process:
    """A worker of a study in a process of its own, up to a stage of a trial."""

    def __init__(self, url: str, name: str, stage: str, space: SearchSpace = SPACE) -> None:
        fields = {key: getattr(space, key) for key in SearchSpace.__dataclass_fields__}
        arguments = [url, name, json.dumps(FACTS), json.dumps(fields), stage]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", PROCESS, *arguments]
        self.popen = subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )

    def said(self) -> Any:
        assert self.popen.stdout is not None
        return json.loads(self.popen.stdout.readline() or "null")

    def go_on(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()

    def kill(self) -> None:
        self.popen.kill()
        assert self.popen.wait() == -signal.SIGKILL

    def end(self) -> None:
        self.popen.kill()
        self.popen.communicate()


@contextmanager
def at_stage(url: str, name: str, stage: str, space: SearchSpace = SPACE) -> Iterator[Process]:
    process = Process(url, name, stage, space)
    try:
        yield process
    finally:
        process.end()


def killed_at(url: str, name: str, stage: str, space: SearchSpace = SPACE) -> tuple[int, Point | None]:
    """Number and point of a trial whose process was really killed."""
    with at_stage(url, name, stage, space) as process:
        number, point = process.said()
        process.kill()
    return number, point


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def mend(study: optuna.Study, space: SearchSpace = SPACE) -> None:
    """In the database that the study lives in."""
    url = study._storage._backend.engine.url.render_as_string()  # type: ignore[attr-defined]
    studies.mend(study, url, space)


def mended(study: optuna.Study) -> list[str]:
    """The states of the trials once what a kill left is mended."""
    mend(study)
    return states(study)


@pytest.mark.slow
def test_processes_that_open_a_fresh_database_at_once_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "optuna.db"
    processes = [Process(f"sqlite:///{path}", "s", "opening") for _ in range(4)]
    try:
        assert [process.said() for process in processes] == [["ready"]] * 4
        assert not path.exists()
        for process in processes:
            process.go_on()
        assert [process.said() for process in processes] == [["opened"]] * 4
        assert [process.popen.wait(timeout=60) for process in processes] == [0] * 4
    finally:
        for process in processes:
            process.end()
    assert open_study(f"sqlite:///{path}", "s", FACTS).user_attrs["accelmlf"] == FACTS


@pytest.mark.parametrize(("stage", "is_there"), [("before id", set()), ("before accelmlf", {"id"})])
def test_a_study_whose_process_was_killed_while_it_was_made_opens_again(
    url: str, stage: str, is_there: set[str]
) -> None:
    name = next(names)
    with at_stage(url, name, stage) as process:
        assert process.said() == ["ready"]
        process.kill()
    left = optuna.load_study(study_name=name, storage=url).user_attrs
    assert left.keys() == is_there
    opened = open_study(url, name, FACTS)
    assert opened.user_attrs["accelmlf"] == FACTS
    assert left.get("id", opened.user_attrs["id"]) == studies.study_id(opened)
    assert studies.study_id(open_study(url, name, FACTS)) == studies.study_id(opened)
    with pytest.raises(StudyError):  # the control: now it is about something
        open_study(url, name, FACTS | {"model": "vit"})


def test_the_trial_of_a_living_process_is_left_to_it(url: str, study: optuna.Study) -> None:
    with at_stage(url, study.study_name, "running") as process:
        process.said()
        assert mended(study) == ["RUNNING"]
        process.go_on()
        assert process.popen.wait(timeout=30) == 0
    assert mended(study) == ["COMPLETE"]


def test_a_killed_trial_is_failed_and_tried_exactly_once_more_with_its_point(url: str, study: optuna.Study) -> None:
    name = study.study_name
    first, point = killed_at(url, name, "running")
    assert (first, point) == (0, SPACE.grid[-1])
    assert states(study) == ["RUNNING"]
    for _ in range(2):  # mending what is mended changes nothing
        assert mended(study) == ["FAIL", "WAITING"]
    assert seen_points(study, SPACE) == [point]  # it waits; the killed one has handed it on

    second, same = killed_at(url, name, "running")
    assert (second, same) == (1, point)
    for _ in range(2):
        assert mended(study) == ["FAIL", "FAIL"]
    assert [record.outcome for record in records(study, SPACE)] == ["killed", "killed"]

    assert seen_points(study, SPACE) == [point]
    fresh = open_study(url, name, FACTS)
    assert seen_points(fresh, SPACE) == [point]
    fresh.sampler = UnseenPoints(SPACE, "grid", SPACE.grid[-1], 0)
    others: list[Point] = []

    def objective(trial: optuna.Trial) -> float:
        others.append(studies.suggest(trial, SPACE))
        return 1.0

    fresh.optimize(objective, n_trials=3)
    assert others == SPACE.grid[:-1]


def test_a_second_try_that_ends_well_is_the_only_finished_trial_of_its_point(url: str, study: optuna.Study) -> None:
    _, point = killed_at(url, study.study_name, "running")
    mend(study)
    with at_stage(url, study.study_name, "running") as process:
        assert process.said() == [1, point]
        assert mended(study) == ["FAIL", "RUNNING"]  # it carries what the first has said of itself, but lives
        process.go_on()
        assert process.popen.wait(timeout=30) == 0
    assert states(study) == ["FAIL", "COMPLETE"]
    assert len(studies.finished(study)) == 1
    assert seen_points(study, SPACE) == [point]


def test_a_trial_that_nobody_has_signed_counts_as_killed_after_a_while_only(url: str, study: optuna.Study) -> None:
    killed_at(url, study.study_name, "before it signs")
    assert mended(study) == ["RUNNING"]
    with database(url) as connection:
        connection.execute(
            "update trials set datetime_start = datetime(datetime_start, '-2 minutes') where state = 'RUNNING'"
        )
    connection.close()
    assert mended(study) == ["FAIL"]  # it had no point yet


def test_a_trial_of_another_machine_counts_as_killed_by_its_heartbeat_only(url: str, study: optuna.Study) -> None:
    study.sampler = UnseenPoints(SPACE, "grid", SPACE.grid[0], 0)
    found: list[list[str]] = []

    def objective(trial: optuna.Trial) -> float:
        studies.suggest(trial, SPACE)
        trial.set_user_attr("owner", f"other-{identity()}")
        found.append(mended(study))
        with database(url) as connection:
            connection.execute("update trial_heartbeats set heartbeat = datetime('now', '-1 hour')")
        connection.close()
        found.append(mended(study))
        found.append(mended(study))
        return 1.0

    assert run_one_trial(study, objective).given_up  # while it went on
    assert found == [["RUNNING"], ["FAIL", "WAITING"], ["FAIL", "WAITING"]]


@pytest.mark.slow
def test_processes_that_mend_at_once_retry_a_trial_once(url: str, study: optuna.Study) -> None:
    with at_stage(url, study.study_name, "ten at once") as process:
        assert process.said() == ["ready"]
        process.kill()
    menders = [Process(url, study.study_name, "mending") for _ in range(3)]
    try:
        assert [mender.said() for mender in menders] == [["ready"]] * 3
        for mender in menders:
            mender.go_on()
        assert [mender.said() for mender in menders] == [["mended"]] * 3
    finally:
        for mender in menders:
            mender.end()
    assert states(study).count("WAITING") == 10


def test_a_trial_that_was_killed_half_way_through_its_point_becomes_a_possible_one(url: str) -> None:
    space = SearchSpace(
        batch_sizes=(8, 16, 32, 64),
        accumulation_choices=(1, 8),
        learning_rates=None,
        technique_sets=(),
        max_effective_batch=64,
    )
    name = next(names)
    study = open_study(url, name, FACTS)
    killed_at(url, name, "with half a point", space)  # batch 64 of 64 x 1, the first point
    mend(study, space)
    study.sampler = UnseenPoints(space, "grid", {"batch_size": 8, "accumulation_steps": 8}, 0)
    points: list[Point] = []

    def objective(trial: optuna.Trial) -> float:
        points.append(studies.suggest(trial, space))
        return 1.0

    study.optimize(objective, n_trials=1)
    assert points[0] in space


def test_a_trial_that_was_killed_after_it_had_noted_its_outcome_is_a_killed_one(url: str, study: optuna.Study) -> None:
    killed_at(url, study.study_name, "when its figures are noted")
    mend(study)
    (record,) = records(study, SPACE)
    assert (record.outcome, record.is_finished, record.time_to_accuracy_s) == ("killed", False, None)


# --- what the trials say ---


def test_a_finished_trial_is_a_record_with_its_figures(study: optuna.Study) -> None:
    add(
        study,
        SPACE.grid[1],
        TrialState.COMPLETE,
        12.5,
        outcome="completed",
        best_accuracy=0.91,
        epochs=4,
        train_s=12.5,
        run_id="abc",
        short_by=-0.01,
    )
    (record,) = records(study, SPACE)
    assert record.is_finished
    assert (record.number, record.point, record.outcome) == (0, SPACE.grid[1], "completed")
    assert (record.time_to_accuracy_s, record.best_accuracy, record.epochs, record.train_s) == (12.5, 0.91, 4, 12.5)
    assert (record.run_id, record.error, record.saved_at_most_s) == ("abc", None, None)


@pytest.mark.parametrize(
    ("state", "attrs", "outcome", "is_finished"),
    [
        (TrialState.COMPLETE, {"outcome": "target_not_reached", "short_by": 0.1}, "target_not_reached", True),
        (TrialState.PRUNED, {"outcome": "pruned", "saved_at_most_s": 3.0}, "pruned", True),
        (TrialState.FAIL, {"outcome": "out_of_memory", "error": "no room"}, "out_of_memory", False),
        (TrialState.FAIL, {"outcome": "interrupted"}, "interrupted", False),
        (TrialState.FAIL, {}, "killed", False),
        (TrialState.RUNNING, {}, "running", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_trial_that_did_not_reach_the_target_has_no_time_to_it(
    study: optuna.Study, state: TrialState, attrs: dict[str, Any], outcome: str, is_finished: bool
) -> None:
    add(study, SPACE.grid[0], state, 5.0 if state == TrialState.COMPLETE else None, **attrs)
    (record,) = records(study, SPACE)
    assert (record.outcome, record.is_finished, record.time_to_accuracy_s) == (outcome, is_finished, None)
    assert record.error == attrs.get("error")
    assert record.saved_at_most_s == attrs.get("saved_at_most_s")
    assert times_s([record]) == []


def test_a_trial_that_never_began_is_no_record(study: optuna.Study) -> None:
    add(study, SPACE.grid[0], TrialState.FAIL, outcome="surplus")
    add(study, SPACE.grid[1], TrialState.WAITING)
    assert records(study, SPACE) == []


def test_a_miss_is_never_the_best_time_however_short(study: optuna.Study) -> None:
    assert studies.best_time_s(study) is None
    add(study, SPACE.grid[0], TrialState.COMPLETE, 1.0, outcome="target_not_reached", short_by=0.002)
    add(study, SPACE.grid[1], TrialState.PRUNED, outcome="pruned")
    add(study, SPACE.grid[2], TrialState.FAIL, outcome="diverged")
    assert studies.best_time_s(study) is None
    add(study, SPACE.grid[3], TrialState.COMPLETE, 9.0, outcome="completed", short_by=0.0)
    assert studies.best_time_s(study) == 9.0
    assert min(trial.value for trial in study.trials if trial.value is not None) == 1.0  # what it must not be
    assert study.best_value == 9.0
    add(study, SPACE.grid[3], TrialState.COMPLETE, 8.0, outcome="completed", short_by=-0.1)
    assert studies.best_time_s(study) == 8.0


def test_finished_are_those_that_say_something_about_their_point(study: optuna.Study) -> None:
    for number, state in enumerate((TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)):
        seconds = 1.0 if state == TrialState.COMPLETE else None
        add(study, SPACE.grid[number], state, seconds, outcome="completed", short_by=0.0)
    assert [trial.number for trial in studies.finished(study)] == [0, 1]


@pytest.mark.parametrize(
    ("state", "attrs", "is_seen"),
    [
        (TrialState.COMPLETE, {"outcome": "completed"}, True),
        (TrialState.COMPLETE, {"outcome": "target_not_reached"}, True),
        (TrialState.PRUNED, {"outcome": "pruned"}, True),
        (TrialState.RUNNING, {}, True),
        (TrialState.WAITING, {}, True),
        *((TrialState.FAIL, {"outcome": outcome}, True) for outcome in ("out_of_memory", "diverged", "failed")),
        *((TrialState.FAIL, {"outcome": outcome}, False) for outcome in COME_AGAIN),
    ],
)
def test_a_point_is_seen_unless_its_trial_said_nothing_about_it(
    study: optuna.Study, state: TrialState, attrs: dict[str, Any], is_seen: bool
) -> None:
    add(study, SPACE.grid[0], state, 1.0 if state == TrialState.COMPLETE else None, **attrs)
    assert seen_points(study, SPACE) == ([SPACE.grid[0]] if is_seen else [])
    assert seen_points(study, SPACE, before=0) == []
    assert seen_points(study, SPACE, before=1) == seen_points(study, SPACE)


def test_a_trial_without_a_whole_point_has_none(study: optuna.Study) -> None:
    add(study, {"batch_size": 8}, TrialState.FAIL)
    assert seen_points(study, SPACE) == []
    assert records(study, SPACE)[0].point is None


def test_a_storage_says_nothing_on_the_console(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExperimentalWarning)
        open_study(url, next(names), FACTS)
    assert capfd.readouterr() == ("", "")
