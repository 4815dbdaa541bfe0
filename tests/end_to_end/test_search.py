"""A search as people run it, a process of its own with real stores: whole, killed, ended, short of memory, refused."""

import contextlib
import csv
import json
import multiprocessing
import resource
import shlex
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import optuna
import pytest
from mlflow.entities import Run
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from accelmlf.cli import main
from accelmlf.search.console import SearchConsole
from accelmlf.search.study import sign
from tests.end_to_end.makers import PARENT, PATIENCE_S, Ended, Place, as_flags, places
from tests.many_runs.makers import serving

pytestmark = pytest.mark.slow
STUDY = "the-study"
TINY = {"model": "vit", "device": "cpu", "train_images": "250", "study_name": STUDY}
QUICK = {**TINY, "epochs": "3", "target_accuracy": "0.05", "accumulation_choices": "1", "confirm_repeats": "0"}


class SearchPlace(Place):
    """With stores of its own."""

    def __init__(self, folder: Path, blank_store: Path) -> None:
        shutil.copy(blank_store, folder / "mlflow.db")
        super().__init__("tune", folder, f"sqlite:///{folder}/mlflow.db")
        self.storage = f"sqlite:///{folder}/optuna.db"

    def run(self, settings: Mapping[str, str], *, limit_bytes: int | None = None) -> Ended:
        def limit() -> None:
            if limit_bytes is not None:
                resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))

        return self.end_of(self.start(settings, preexec_fn=limit))

    def trials(self) -> list[FrozenTrial]:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        return optuna.load_study(study_name=STUDY, storage=self.storage).trials

    def is_training(self, number: int) -> bool:
        return is_training(self.folder, number)

    def finished(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials() if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]


def is_training(folder: Path, number: int) -> bool:
    """Whether a trial has ended an epoch and goes on. Optuna itself would make the tables where there are none yet."""
    query = (
        "SELECT 1 FROM trials JOIN trial_intermediate_values USING (trial_id) WHERE number = ? AND state = 'RUNNING'"
    )
    try:
        with contextlib.closing(sqlite3.connect(f"file:{folder}/optuna.db?mode=ro", uri=True)) as database:
            return database.execute(query, [number]).fetchone() is not None
    except sqlite3.Error:  # there is no such file or table yet
        return False


@pytest.fixture(scope="module")
def blank_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with its tables: making them takes seconds."""
    path = tmp_path_factory.mktemp("blank") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="module")
def make_place(tmp_path_factory: pytest.TempPathFactory, blank_store: Path) -> Iterator[Callable[[], SearchPlace]]:
    with places(lambda: SearchPlace(tmp_path_factory.mktemp("place"), blank_store)) as make:
        yield make


@pytest.fixture
def place(make_place: Callable[[], SearchPlace]) -> SearchPlace:
    return make_place()


@pytest.fixture(scope="module")
def _server(store_uri: str) -> Iterator[None]:
    """What the trials of searches in this process are forked from."""
    with serving(store_uri):
        yield


def run_here(settings: Mapping[str, str], capsys: pytest.CaptureFixture[str]) -> Ended:
    """The command in this process: without the imports it is quick. Its trials have their own."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["tune", *as_flags(settings)])
    return Ended(int(ended.value.code or 0), *capsys.readouterr())


# --- ended and killed in the middle, and started again each time; no trial can reach the target ---


@dataclass
class Snapshot:
    """What the stores hold at one moment."""

    trials: list[FrozenTrial]
    runs: list[Run]
    quiet: bool
    ended: Ended

    def of_trial(self, number: int) -> Run:
        """The MLflow run of a trial."""
        (run,) = [run for run in self.runs if run.data.tags.get("accelmlf.trial") == str(number)]
        return run

    @property
    def searches(self) -> list[Run]:
        return [run for run in self.runs if run.data.tags.get("accelmlf.kind") == "search"]


@dataclass
class Story:
    terminated: Snapshot
    killed: Snapshot
    complete: Snapshot
    place: SearchPlace


@pytest.fixture(scope="module")
def story(make_place: Callable[[], SearchPlace]) -> Story:
    place = make_place()
    settings = {**TINY, "epochs": "7", "target_accuracy": "1.0", "n_trials": "3", "confirm_repeats": "2"}
    settings |= {"batch_sizes": "16,32", "accumulation_choices": "1,2"}

    def snapshot(ended: Ended) -> Snapshot:
        quiet = place.is_quiet()
        return Snapshot(place.trials(), place.runs(), quiet, ended)

    search = place.start(settings)
    place.wait_for(search, lambda: place.is_training(0))
    search.terminate()
    terminated = snapshot(place.end_of(search))
    search = place.start(settings)
    place.wait_for(search, lambda: place.is_training(2))
    place.kill_all()
    killed = snapshot(place.end_of(search))
    complete = snapshot(place.run(settings))
    return Story(terminated, killed, complete, place)


def test_a_search_that_is_told_to_end_fails_its_trial_closes_its_runs_and_leaves_nothing_running(story: Story) -> None:
    then = story.terminated
    assert (then.ended.code, then.ended.error) == (143, "accelmlf: error: interrupted by SIGTERM")
    assert [trial.state for trial in then.trials] == [TrialState.FAIL]
    assert then.trials[0].user_attrs["outcome"] == "interrupted"
    trial = then.of_trial(0)
    assert (trial.info.status, trial.data.tags["accelmlf.outcome"]) == ("KILLED", "interrupted")
    assert (trial.info.run_name or "").endswith("(interrupted)")
    (search,) = then.searches
    assert (search.info.status, search.data.tags["accelmlf.outcome"]) == ("KILLED", "interrupted")
    assert then.quiet


def test_a_kill_in_the_middle_of_a_trial_leaves_everything_open_at_first(story: Story) -> None:
    """The control: without the restart there would be something to mend."""
    then = story.killed
    assert then.ended.code == -signal.SIGKILL
    assert [trial.state for trial in then.trials] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.RUNNING]
    assert then.of_trial(2).info.status == then.searches[-1].info.status == "RUNNING"


def test_the_same_command_after_a_kill_finishes_exactly_what_was_missing(story: Story) -> None:
    then = story.complete
    assert then.ended.code == 0, then.ended.err
    fail, complete = TrialState.FAIL, TrialState.COMPLETE
    assert [trial.state for trial in then.trials] == [fail, complete, fail, complete, complete]
    points = [tuple(sorted(trial.params.items())) for trial in then.trials]
    # One was told to end and one was killed; each was run once more, and nothing else was.
    assert points[0] == points[1] and points[2] == points[3]
    assert len({points[1], points[3], points[4]}) == 3
    assert then.trials[3].system_attrs["retry_history"] == [2]
    assert "no trial reached the target" in then.ended.out
    assert then.quiet


def test_no_run_stays_open_after_a_kill_and_all_trials_are_below_the_latest_search(story: Story) -> None:
    then = story.complete
    assert [run.info.run_name for run in then.runs if run.info.status == "RUNNING"] == []
    *former, latest = then.searches
    assert [run.data.tags["accelmlf.outcome"] for run in former] == ["interrupted", "interrupted"]
    assert [run.data.tags["accelmlf.continued_by"] for run in former] == [latest.info.run_id] * 2
    children = [run for run in then.runs if run.data.tags.get("accelmlf.kind") == "trial"]
    assert len(children) == 5
    assert {run.data.tags[PARENT] for run in children} == {latest.info.run_id}
    killed = then.of_trial(2)
    assert (killed.info.status, killed.data.tags["accelmlf.outcome"]) == ("KILLED", "interrupted")
    assert (killed.info.run_name or "").endswith("(interrupted)")
    history = story.place.client.get_metric_history(latest.info.run_id, "trial_best_accuracy")
    assert sorted(point.step for point in history) == [1, 3, 4]


def test_a_target_that_no_trial_reaches_is_an_outcome_and_the_nearest_trial_is_named(story: Story) -> None:
    then = story.complete
    assert then.searches[-1].data.tags["accelmlf.outcome"] == "target_not_reached"
    assert then.searches[-1].info.status == "FINISHED"
    done = [trial for trial in then.trials if trial.state == TrialState.COMPLETE]
    best = max(done, key=lambda trial: trial.user_attrs["best_accuracy"])
    accuracy = best.user_attrs["best_accuracy"]
    assert f"the nearest was trial {best.number}" in then.ended.out
    assert f"with {accuracy:.4f}" in then.ended.out
    assert then.searches[-1].data.metrics["best_accuracy"] == accuracy
    assert all(trial.value is not None and trial.value < 1e6 for trial in done)
    assert all(max(trial.constraints.values()) > 0 for trial in done)
    assert not {"time_to_accuracy_s", "best_time_to_accuracy_s"} & then.searches[-1].data.metrics.keys()
    assert not [run for run in then.runs if run.data.tags.get("accelmlf.kind") == "confirmation"]
    assert "summary.txt" in story.place.artifacts(then.searches[-1])


# --- a whole search, with its confirmation ---

WHOLE = {**TINY, "epochs": "4", "target_accuracy": "0.1", "n_trials": "3", "confirm_repeats": "2"}
WHOLE |= {"batch_sizes": "16,64", "accumulation_choices": "1,2"}
ARTIFACTS = {
    "trials.csv", "summary.txt", "search.json", "time_to_accuracy.png", "confirmation.csv", "confirmation.png",
    "optimization_history.png", "param_importances.png", "contour.png", "timeline.png",
}  # fmt: skip


@dataclass
class Whole:
    place: SearchPlace
    ended: Ended
    refused: Ended
    """A second search on the same device, started while the first went on."""

    @property
    def search(self) -> Run:
        (run,) = [r for r in self.place.runs("search") if r.data.tags["accelmlf.outcome"] == "completed"][:1]
        return run

    def expected_artifacts(self, search: Run) -> set[str]:
        """Two pictures need two trials at the target, and how many are pruned before it depends on the machine."""
        counts = search.data.metrics
        reached = counts["finished_trials"] - counts["pruned_trials"] - counts["missed_trials"]
        assert reached >= 1
        return ARTIFACTS if reached > 1 else ARTIFACTS - {"param_importances.png", "contour.png"}


@pytest.fixture(scope="module")
def whole(make_place: Callable[[], SearchPlace]) -> Whole:
    place = make_place()
    first = place.start(WHOLE)
    place.wait_for(first, lambda: "trial 0" in place.file("out").read_text())
    out, err = place.file("out"), place.file("err")
    refused = place.run(QUICK | {"study_name": "another", "batch_sizes": "16"})
    code = first.wait(PATIENCE_S)
    return Whole(place, Ended(code, out.read_text(), err.read_text()), refused)


def test_a_search_ends_with_a_confirmed_winner_and_every_artifact_on_its_run(whole: Whole) -> None:
    assert whole.ended.code == 0, whole.ended.err
    search = whole.search
    assert search.info.status == "FINISHED"
    artifacts = whole.place.artifacts(search)
    assert artifacts.keys() == whole.expected_artifacts(search)
    assert all(path.stat().st_size > 0 for path in artifacts.values())
    assert {f"best_{name}" for name in ("batch_size", "accumulation_steps", "learning_rate", "techniques")} <= set(
        search.data.params
    )
    assert (search.data.params["n_trials"], search.data.params["batch_sizes"]) == ("3", "16,64")
    assert search.data.metrics["finished_trials"] == 3
    assert search.data.metrics["failed_trials"] == 0
    assert search.data.metrics["confirmed_reached"] == 2
    facts = json.loads(artifacts["search.json"].read_text())
    assert (facts["outcome"], facts["ended_at"]) == ("completed", "n_trials")
    assert search.data.tags["accelmlf.ended_at"] == "n_trials"
    assert artifacts["summary.txt"].read_text().strip() in whole.ended.out


def test_the_series_of_a_search_follow_its_trials(whole: Whole) -> None:
    trials = whole.place.finished()
    history = whole.place.client.get_metric_history
    best_s = {point.step: point.value for point in history(whole.search.info.run_id, "best_time_to_accuracy_s")}
    complete = {
        t.number: t.value for t in trials if t.state == TrialState.COMPLETE and max(t.constraints.values()) <= 0
    }
    for number, so_far in best_s.items():
        assert so_far == min(s for n, s in complete.items() if n <= number and s is not None)
    assert max(best_s) == max(t.number for t in trials)
    with whole.place.artifacts(whole.search)["trials.csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == [trial.number for trial in trials]
    assert {row["run_id"] for row in rows} == {run.info.run_id for run in whole.place.runs("trial")}


def test_only_the_confirmation_reads_the_test_set(whole: Whole) -> None:
    trials, confirmations = whole.place.runs("trial"), whole.place.runs("confirmation")
    assert len(trials) == 3
    assert {run.data.tags[PARENT] for run in trials + confirmations} == {whole.search.info.run_id}
    for run in trials:
        assert not [name for name in run.data.metrics if name.startswith("final_")]
        assert "test_s" not in run.data.metrics
        assert not {"confusion_matrix.png", "classification_report.json"} & whole.place.artifacts(run).keys()
        assert run.data.metrics["best_eval_accuracy"] > 0
    for run in confirmations:
        assert run.data.metrics["final_accuracy"] > 0
        assert "confusion_matrix.png" in whole.place.artifacts(run)


def test_the_confirmation_gives_every_arm_the_same_fresh_seeds_in_blocks(whole: Whole) -> None:
    confirmations = whole.place.runs("confirmation")
    seeds = [run.data.tags["accelmlf.config.seed"] for run in confirmations]
    arms = {run.data.tags["accelmlf.point"] for run in confirmations}
    assert seeds == ["1"] * len(arms) + ["2"] * len(arms)
    assert "batch 32 x 1" in arms  # the recipe's own, though it is not in this space
    assert len({(run.data.tags["accelmlf.point"], s) for run, s in zip(confirmations, seeds, strict=True)}) == len(
        seeds
    )
    blocks = [run.data.tags["accelmlf.block"] for run in confirmations]
    assert len(set(blocks)) == 2
    assert len(set(zip(blocks, seeds, strict=True))) == 2
    assert {run.data.tags["accelmlf.config.seed"] for run in whole.place.runs("trial")} == {"0"}


def test_the_table_of_the_confirmation_is_what_its_runs_have_logged(whole: Whole) -> None:
    logged = {(run.data.tags["accelmlf.point"], run.data.tags["accelmlf.config.seed"]): run.data.metrics
              for run in whole.place.runs("confirmation")}  # fmt: skip
    with whole.place.artifacts(whole.search)["confirmation.csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(logged)
    names = {name: name for name in ("time_to_accuracy_s", "time_to_accuracy_wall_s", "warmup_s")}
    for row in rows:
        metrics = logged[row["setting"], row["seed"]]
        for column, name in (names | {"test_accuracy": "final_accuracy"}).items():
            assert float(row[column]) == pytest.approx(metrics[name], rel=1e-12)
        assert float(row["time_to_accuracy_wall_s"]) > float(row["time_to_accuracy_s"])
        assert row["failure"] == ""


def test_the_command_line_of_the_winner_is_one_that_the_program_takes(
    whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = shown_by_dry_run(whole.ended.out, capsys)
    params = whole.search.data.params
    for name in ("batch_size", "accumulation_steps", "learning_rate", "techniques"):
        assert shown[name] == params[f"best_{name}"]
    assert (shown["target_accuracy"], shown["stop_at_target"], shown["train_images"]) == ("0.1", "true", "250")


def test_a_second_search_on_the_same_device_is_refused(whole: Whole) -> None:
    assert whole.refused.code == 5
    assert whole.refused.error.startswith(
        "accelmlf: error: device=cpu: another search or ablation is under way on it (process "
    )


@pytest.mark.usefixtures("_server")
def test_the_same_command_after_the_end_runs_nothing_again(
    whole: Whole, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    children, trials = whole.place.runs("trial") + whole.place.runs("confirmation"), len(whole.place.trials())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole.place.store_uri)
    monkeypatch.chdir(whole.place.folder)
    mlflow.set_tracking_uri(whole.place.store_uri)
    again = run_here(WHOLE, capsys)
    assert again.code == 0, again.err
    after = whole.place.runs("trial") + whole.place.runs("confirmation")
    assert {run.info.run_id for run in after} == {run.info.run_id for run in children}
    assert len(whole.place.trials()) == trials
    latest = whole.place.runs("search")[-1]
    assert latest.info.run_id != whole.search.info.run_id
    assert {run.data.tags[PARENT] for run in after} == {latest.info.run_id}
    assert latest.data.params["best_batch_size"] == whole.search.data.params["best_batch_size"]
    assert whole.place.artifacts(latest).keys() == whole.expected_artifacts(latest)
    tables = [
        "\n".join(line for line in ended.out.splitlines() if line.startswith("  trial"))
        for ended in (again, whole.ended)
    ]
    assert tables[0] == tables[1] != ""


# --- things that happen to a trial ---


def test_a_trial_that_runs_out_of_memory_is_recorded_and_the_search_goes_on(place: SearchPlace) -> None:
    # A batch of 256 is 480 MiB of pixels, several times over; imports alone take 1 GiB. With this seed it comes first.
    settings = {**QUICK, "epochs": "1", "train_images": "400", "image_size": "400", "batch_sizes": "8,256"}
    settings |= {"n_trials": "2", "sampler": "random", "seed": "1"}
    ended = place.run(settings, limit_bytes=int(1.9 * 2**30))
    assert ended.code == 0, ended.err
    assert "every point of the space was run: 1 trial" in ended.out
    by_batch = {trial.params["batch_size"]: trial for trial in place.trials()}
    large, small = by_batch[256], by_batch[8]
    assert (large.state, large.user_attrs["outcome"]) == (TrialState.FAIL, "out_of_memory")
    assert "batch_size=256: memory ran out" in large.user_attrs["error"]
    assert small.state == TrialState.COMPLETE and small.number > large.number
    outcomes = {run.data.tags["accelmlf.config.batch_size"]: run for run in place.runs("trial")}
    assert outcomes["8"].data.tags["accelmlf.outcome"] == "completed"
    failed = outcomes["256"]
    assert (failed.info.status, failed.data.tags["accelmlf.outcome"]) == ("FAILED", "out_of_memory")
    assert (failed.info.run_name or "").endswith("(out of memory)")
    assert "memory ran out" in failed.data.tags["accelmlf.error"]
    (search,) = place.runs("search")
    assert search.data.metrics["failed_trials"] == 1
    assert search.data.params["best_batch_size"] == "8"


# --- the same command in this process (its trials have their own): what it refuses, and where it ends ---

Cli = Callable[[Mapping[str, str]], Ended]


@pytest.fixture
def experiment(store: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """One for each test, in the store that they share."""
    experiment_id: str = store.create_experiment(f"search-{tmp_path.name}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment_id)
    return experiment_id


@pytest.fixture
def cli(_server: None, experiment: str, capsys: pytest.CaptureFixture[str]) -> Cli:
    return lambda settings: run_here(settings, capsys)


def study_here(name: str = STUDY) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.load_study(study_name=name, storage="sqlite:///optuna.db")


def parents(store: mlflow.MlflowClient, experiment: str) -> list[Run]:
    """The runs of a test that are below no other, the oldest first."""
    runs = store.search_runs([experiment], order_by=["attributes.start_time ASC"])
    return [run for run in runs if PARENT not in run.data.tags]


CANARY = "canary-in-a-password"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_sizes": "16,512"}, "batch_sizes=16,512: 512 x 1 steps is an effective batch larger than the"),
        ({"accumulation_choices": "1,64"}, "64 steps is an effective batch larger than the"),
        ({"batch_sizes": "16,16"}, "batch_sizes=16,16: a value is there twice"),
        ({"batch_sizes": "0"}, "batch_sizes=0: outside its range"),
        ({"batch_sizes": "1", "model": "resnet50"}, "batch_sizes=1: the BatchNorm of resnet50"),
        ({"batch_size": "16"}, "batch_size=16: tune sets it by itself. Give batch_sizes"),
        ({"accumulation_steps": "2"}, "accumulation_steps=2: tune sets it by itself. Give accumulation_choices"),
        ({"stop_at_target": "false"}, "stop_at_target=false: tune sets it by itself"),
        ({"validation": "test"}, "validation=test: a search that looks at the test set leaves nothing to test on"),
        ({"n_trials": "0"}, "n_trials=0: outside its range"),
        ({"timeout_s": "0"}, "timeout_s=0: outside its range"),
        ({"sampler": "grit"}, "sampler=grit: unknown sampler. Did you mean grid?"),
        ({"sampler": "grid", "search_learning_rate": "true"}, "sampler=grid: a learning rate has no grid"),
        ({"search_techniques": "true", "techniques": "amp"}, "techniques=amp: the techniques are searched"),
        ({"study_name": "../elsewhere"}, "study_name=../elsewhere: a name is 1 to 64 of"),
        ({"storage": "optuna.db"}, "storage=optuna.db: not a database URL"),
        ({"storage": f"mysql://me:{CANARY}@db/x"}, "storage=mysql://***@db/x: a URL with a user or a password"),
        ({"ntrials": "3"}, "ntrials=3: there is no such setting. Did you mean n_trials?"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_search_that_cannot_be_meant_is_refused_in_one_line(
    cli: Cli,
    store: mlflow.MlflowClient,
    store_uri: str,
    experiment: str,
    tmp_path: Path,
    settings: dict[str, str],
    says: str,
) -> None:
    ended = cli(TINY | settings)
    assert ended.code == 2
    assert says in ended.error
    assert CANARY not in ended.out + ended.err
    assert list(tmp_path.iterdir()) == []
    assert parents(store, experiment) == []
    assert CANARY.encode() not in Path(store_uri.removeprefix("sqlite:///")).read_bytes()


def test_mlflow_s_own_database_is_no_storage_for_the_study(cli: Cli, store_uri: str) -> None:
    ended = cli(QUICK | {"storage": store_uri})
    assert (ended.code, "MLflow's own database" in ended.error) == (2, True)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg2://me:{CANARY}@127.0.0.1:9/optuna",
        f"nosuchdatabase://me:{CANARY}@127.0.0.1:9/optuna",
        f"sqlite:////nowhere/at/all/optuna.db?token={CANARY}",
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line_that_keeps_its_password(
    cli: Cli,
    store: mlflow.MlflowClient,
    store_uri: str,
    experiment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    ended = cli(QUICK | {"batch_sizes": "16"})
    assert ended.code == 8
    assert "storage=" in ended.error
    assert CANARY not in ended.out + ended.err
    assert CANARY.encode() not in Path(store_uri.removeprefix("sqlite:///")).read_bytes()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    (parent,) = parents(store, experiment)
    assert (parent.info.status, parent.data.tags["accelmlf.outcome"]) == ("FAILED", "failed")


def test_a_dry_run_says_what_would_be_searched_and_makes_nothing(
    cli: Cli, store: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    ended = cli(TINY | {"batch_sizes": "16,32", "dry_run": "true"})
    assert ended.code == 0, ended.err
    assert "16,32" in ended.out and "6 points" in ended.out and STUDY in ended.out
    assert list(tmp_path.iterdir()) == []
    assert parents(store, experiment) == []


def test_a_study_about_something_else_is_refused_with_the_difference(
    cli: Cli, store: mlflow.MlflowClient, experiment: str
) -> None:
    own = QUICK | {"batch_sizes": "16", "n_trials": "1"}
    assert cli(own).code == 0
    others = {
        ("target_accuracy", "0.5"): "target_accuracy was 0.05, now 0.5",
        ("batch_sizes", "16,32"): "space.batch_size was 16, now 16,32",
        ("accumulation_choices", "1,2"): "space.accumulation_steps was 1, now 1,2",
        ("search_learning_rate", "true"): "space.learning_rate was not searched, now 0.0002 to 0.005",
        ("train_images", "240"): "train_images was 250, now 240",
        ("model", "resnet50"): "model was vit, now resnet50",
        ("seed", "1"): "seed was 0, now 1",
    }
    for (name, value), difference in others.items():
        ended = cli(own | {name: value})
        assert ended.code == 8
        assert f"study_name={STUDY}: that study is about something else: " in ended.error
        assert difference in ended.error
    assert len(study_here().trials) == 1
    again = cli(own | {"confirm_repeats": "0", "timeout_s": "1000"})  # the control: these may differ
    assert (again.code, len(study_here().trials)) == (0, 1)
    first, *refused, last = parents(store, experiment)
    assert {run.data.tags["accelmlf.outcome"] for run in refused} == {"failed"}
    assert first.data.tags["accelmlf.outcome"] == last.data.tags["accelmlf.outcome"] == "completed"
    continued = store.get_run(first.info.run_id).data.tags["accelmlf.continued_by"]
    assert continued == last.info.run_id
    assert not [run for run in refused if "accelmlf.continued_by" in run.data.tags]


def test_a_search_of_which_every_trial_fails_ends_with_that_failure(
    cli: Cli, store: mlflow.MlflowClient, experiment: str
) -> None:
    ended = cli(QUICK | {"batch_sizes": "16,32", "learning_rate": "100", "target_accuracy": "0.9"})
    assert ended.code == 6
    assert "the loss is not finite" in ended.error
    assert [trial.state for trial in study_here().trials] == [TrialState.FAIL] * 2
    assert {trial.user_attrs["outcome"] for trial in study_here().trials} == {"diverged"}
    (parent,) = parents(store, experiment)
    assert (parent.info.status, parent.data.tags["accelmlf.outcome"]) == ("FAILED", "diverged")
    children = [run for run in store.search_runs([experiment]) if PARENT in run.data.tags]
    assert [(run.info.run_name or "").endswith("(diverged)") for run in children] == [True, True]


def test_a_budget_that_ends_in_the_middle_of_a_trial_ends_the_search_and_not_the_trial(
    cli: Cli, store: mlflow.MlflowClient, experiment: str
) -> None:
    settings = QUICK | {"batch_sizes": "16", "epochs": "5000", "target_accuracy": "1.0", "timeout_s": "3"}
    started_s = time.monotonic()
    ended = cli(settings)
    assert ended.code == 0, ended.err
    assert time.monotonic() - started_s < 30
    (trial,) = study_here().trials
    assert (trial.state, trial.user_attrs["outcome"]) == (TrialState.FAIL, "interrupted")
    assert "timeout_s" in trial.user_attrs["error"]
    (parent,) = parents(store, experiment)
    assert (parent.info.status, parent.data.tags["accelmlf.outcome"]) == ("KILLED", "interrupted")
    assert parent.data.tags["accelmlf.ended_at"] == "timeout"
    assert parent.data.metrics["finished_trials"] == 0
    (child,) = [run for run in store.search_runs([experiment]) if PARENT in run.data.tags]
    assert (child.info.status, child.data.tags["accelmlf.outcome"]) == ("KILLED", "interrupted")

    # Nothing was said about that point: with another budget it is run again.
    cli(settings)
    assert [trial.params["batch_size"] for trial in study_here().trials] == [16, 16]


def test_a_trial_whose_process_alone_is_killed_is_tried_once_more_and_a_small_grid_is_run_to_its_end(
    cli: Cli, store: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    def kill_the_first_trial() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if is_training(tmp_path, 0):
                (worker,) = multiprocessing.active_children()
                worker.kill()
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_the_first_trial)
    killer.start()
    settings = {"epochs": "12", "target_accuracy": "1.0", "batch_sizes": "16,32", "n_trials": "9"}
    ended = cli(QUICK | settings)
    killer.join()
    assert ended.code == 0, ended.err
    assert "it was killed by SIGKILL" in ended.out
    assert "every point of the space was run: 2 trials" in ended.out
    killed, again, other = study_here().trials
    assert killed.state == TrialState.FAIL and "outcome" not in killed.user_attrs
    assert (again.params, again.system_attrs["retry_history"]) == (killed.params, [0])
    assert again.user_attrs["run_id"] != killed.user_attrs["run_id"] and "error" not in again.user_attrs
    assert again.state == other.state == TrialState.COMPLETE and other.params != killed.params
    children = store.search_runs([experiment], "tags.`accelmlf.kind` = 'trial'")
    runs = {run.data.tags["accelmlf.trial"]: run for run in children}
    assert (runs["0"].info.status, runs["0"].data.tags["accelmlf.outcome"]) == ("KILLED", "interrupted")
    assert (runs["0"].info.run_name or "").endswith("(interrupted)")
    assert runs["1"].info.status == runs["2"].info.status == "FINISHED"
    (parent,) = parents(store, experiment)
    assert parent.data.tags["accelmlf.ended_at"] == "exhausted"
    assert parent.data.metrics["finished_trials"] == 2


def test_n_trials_counts_what_every_worker_has_finished(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = QUICK | {"batch_sizes": "16,32,64"}
    assert cli(settings | {"n_trials": "1"}).code == 0
    study = study_here()
    first = study.trials[0].params["batch_size"]
    left = next(batch for batch in (16, 32, 64) if batch != first)
    study.enqueue_trial({"batch_size": left, "accumulation_steps": 1})
    kinds: dict[str, BaseDistribution] = {
        "batch_size": CategoricalDistribution((16, 32, 64)),
        "accumulation_steps": CategoricalDistribution((1,)),
    }
    others = study.ask(kinds)
    sign(others)

    say_waiting = SearchConsole.waiting

    def other_worker_ends(console: SearchConsole, running: int) -> None:
        """As soon as this one waits for it, however long it took to get there."""
        say_waiting(console, running)
        for name, value in {"outcome": "pruned", "train_s": 9.0, "epochs": 1, "best_accuracy": 0.1}.items():
            others.set_user_attr(name, value)
        others.report(0.9, 1)
        study.tell(others, state=TrialState.PRUNED)

    with monkeypatch.context() as patch:
        patch.setattr(SearchConsole, "waiting", other_worker_ends)
        ended = cli(settings | {"n_trials": "2"})
    assert ended.code == 0, ended.err
    assert "waiting for 1 trial of other workers" in ended.out
    assert [trial.state for trial in study_here().trials] == [TrialState.COMPLETE, TrialState.PRUNED]
    more = cli(settings | {"n_trials": "9"})
    assert more.code == 0
    assert [trial.params["batch_size"] for trial in study_here().trials[2:]] == [
        batch for batch in (16, 32, 64) if batch not in (first, left)
    ]


def test_a_trial_that_can_no_longer_win_is_pruned_and_the_rest_of_it_saved(
    cli: Cli, store: mlflow.MlflowClient, experiment: str
) -> None:
    # Batches of 2 take eight times as long as those of 32, the recipe's own, which come first.
    settings = QUICK | {"epochs": "12", "target_accuracy": "0.28", "batch_sizes": "2,32", "n_trials": "2"}
    ended = cli(settings)
    assert ended.code == 0, ended.err
    best, pruned = study_here().trials
    assert (best.params["batch_size"], pruned.params["batch_size"]) == (32, 2)
    assert (best.state, pruned.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    attrs = pruned.user_attrs
    assert best.value is not None and attrs["train_s"] >= best.value
    assert attrs["best_accuracy"] < 0.28 and 1 <= attrs["epochs"] < 12
    assert attrs["saved_at_most_s"] > 0
    reported = [1 - value for _, value in sorted(pruned.intermediate_values.items())]
    assert len(reported) == attrs["epochs"] and max(reported) == pytest.approx(attrs["best_accuracy"])
    runs = {run.data.tags.get("accelmlf.trial"): run for run in store.search_runs([experiment])}
    assert (runs["0"].info.status, runs["0"].info.run_name) == ("FINISHED", "trial 0: batch 32 x 1")
    assert (runs["1"].info.status, runs["1"].info.run_name) == ("KILLED", "trial 1: batch 2 x 1 (pruned)")
    assert runs["1"].data.tags["accelmlf.outcome"] == "pruned"
    # It was stopped after the first epoch that ended past the best, and not before.
    clock = sorted(
        store.get_metric_history(runs["1"].info.run_id, "time/elapsed_train_s"), key=lambda point: point.step
    )
    assert [point.value >= best.value for point in clock] == [False] * (len(clock) - 1) + [True]
    (parent,) = parents(store, experiment)
    metrics = parent.data.metrics
    assert (metrics["finished_trials"], metrics["pruned_trials"], metrics["failed_trials"]) == (2, 1, 0)
    assert metrics["pruning_saved_at_most_s"] == attrs["saved_at_most_s"]
    assert parent.data.params["best_batch_size"] == "32"
    assert "it can no longer win" in ended.out and "pruning saved at most" in ended.out


def shown_by_dry_run(out: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The settings that the printed command line of the winner stands for."""
    (line,) = [line for line in out.splitlines() if line.startswith("to reproduce the winner: ")]
    words = shlex.split(line.partition(": ")[2])
    assert words[:3] == ["scripts/run", "-e", "vit"]
    assert set(words[3::2]) == {"-P"}
    with pytest.raises(SystemExit) as ended:
        main(["vit", "--dry_run", "true", *(f"--{word}" for word in words[4::2])])
    assert not ended.value.code
    return dict(text.split(maxsplit=1) for text in capsys.readouterr().out.splitlines() if text.startswith("  "))


def test_the_winner_of_a_wider_space_can_be_run_as_it_was_found(
    cli: Cli, store: mlflow.MlflowClient, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = {"search_learning_rate": "true", "search_techniques": "true"}
    settings = QUICK | wide | {"batch_sizes": "32", "sampler": "random"}
    ended = cli(settings | {"n_trials": "1"})
    assert ended.code == 0, ended.err
    assert {"learning_rate", "channels_last", "fused_optimizer"} <= study_here().trials[0].params.keys()
    switches = {name: value for name, value in study_here().trials[0].params.items() if isinstance(value, bool)}
    chosen = dict.fromkeys(switches, False) | {"channels_last": True, "fused_optimizer": True}
    point = {"batch_size": 32, "accumulation_steps": 1, "learning_rate": 0.00123, **chosen}
    study_here().enqueue_trial(point)
    ended = cli(settings | {"n_trials": "2"})
    assert ended.code == 0, ended.err
    runs = {run.data.tags.get("accelmlf.trial"): run for run in store.search_runs([experiment])}
    assert runs["1"].data.tags["accelmlf.config.techniques"] == "channels_last,fused_optimizer"
    assert runs["1"].data.tags["accelmlf.config.learning_rate"] == "0.00123"
    best = min(study_here().trials, key=lambda trial: trial.value or 0.0)
    shown, winner, parent = shown_by_dry_run(ended.out, capsys), runs[str(best.number)], parents(store, experiment)[-1]
    for name in ("batch_size", "learning_rate", "techniques", "epochs", "seed", "target_accuracy"):
        assert shown[name] == winner.data.tags[f"accelmlf.config.{name}"]
    assert parent.data.params["best_learning_rate"] == shown["learning_rate"]
    assert parent.data.params["best_techniques"] == shown["techniques"]
