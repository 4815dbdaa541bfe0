"""An ablation as people run it, a process of its own with a real store: whole, killed, ended, failed, refused."""

import contextlib
import csv
import io
import itertools
import math
import re
import signal
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
import pytest
from mlflow.entities import Run

from accelmlf.ablation.designs import Asked
from accelmlf.ablation.files import PICTURES
from accelmlf.ablation.result import Ablation
from accelmlf.ablation.tables import arm_rows, verdict, verdict_rows
from accelmlf.cli import main
from accelmlf.machine.signals import ENDING
from accelmlf.many_runs.comparison import as_ratio, block_orders
from accelmlf.many_runs.pooled import PooledTable, simultaneous
from accelmlf.text import plain
from accelmlf.tracking.stored_runs import StoredRun
from accelmlf.tracking.tags import ARM_RUN
from tests.end_to_end.makers import PARENT, PATIENCE_S, Ended, Place, as_flags, places
from tests.many_runs.makers import serving
from tests.pixels import drawn

pytestmark = pytest.mark.slow
PLAIN = {"model": "vit", "device": "cpu", "train_images": "60", "epochs": "1", "target_accuracy": "0.01"}
PLAIN |= {"measure": "runs"}
TINY = PLAIN | {"repeats": "1"}
STORY = TINY | {"train_images": "90", "epochs": "4", "repeats": "2", "seed": "7"}
STORY |= {"factors": "accumulation,channels_last,pin_memory"}
ARMS = ("baseline", "accumulation", "channels_last", "all")
MORE = STORY | {"repeats": "3"}
ARTIFACTS = {"ablation.md", "effects.csv", "runs.csv", *PICTURES}
LEFT_OUT = "pin_memory (it needs CUDA, and the device is cpu)"


@pytest.fixture(scope="module", autouse=True)
def _server(store_uri: str) -> Iterator[None]:
    """What runs are forked from. Its compiler does nothing, so that there is a factor whose arm fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", "false")
        with serving(store_uri):
            yield


def run_here(settings: Mapping[str, str], command: str = "ablate") -> Ended:
    """The command in this process: without the imports it is quick. Its runs have their own."""
    before = {name: signal.getsignal(name) for name in ENDING}
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main([command, *as_flags(settings)])
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
    return Ended(int(ended.value.code or 0), out.getvalue(), err.getvalue())


class AblationPlace(Place):
    """An experiment of its own in the store that all share."""

    def __init__(self, store_uri: str, folder: Path) -> None:
        super().__init__("ablate", folder, store_uri)
        location = (folder / "artifacts").as_uri()
        self.experiment: str = self.client.create_experiment(f"ablation-{folder.name}", location)

    def variables(self) -> dict[str, str]:
        return super().variables() | {"MLFLOW_EXPERIMENT_ID": self.experiment}

    def experiments(self) -> list[str]:
        return [self.experiment]

    def run(self, settings: Mapping[str, str], command: str = "ablate") -> Ended:
        """The command in this process."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_EXPERIMENT_ID", self.experiment)
            patch.setenv("MLFLOW_TRACKING_URI", self.store_uri)
            patch.setattr(tempfile, "tempdir", self.temporary)
            patch.chdir(self.folder)
            mlflow.set_tracking_uri(self.store_uri)
            return run_here(settings, command)

    def is_training(self, num_finished: int) -> bool:
        """Whether so many runs of arms have ended, and the next has ended an epoch and goes on."""
        query = (
            "SELECT status, EXISTS (SELECT 1 FROM metrics WHERE metrics.run_uuid = runs.run_uuid AND "
            "metrics.key = 'eval/accuracy') FROM runs JOIN tags USING (run_uuid) "
            "WHERE tags.key = 'accelmlf.kind' AND tags.value = ? AND experiment_id = ?"
        )
        path = self.store_uri.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            found = database.execute(query, [ARM_RUN, int(self.experiment)]).fetchall()
        finished = sum(status == "FINISHED" for status, _ in found)
        return finished >= num_finished and any(status == "RUNNING" and has_epoch for status, has_epoch in found)


@pytest.fixture(scope="module")
def make_place(store_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], AblationPlace]]:
    with places(lambda: AblationPlace(store_uri, tmp_path_factory.mktemp("place"))) as make:
        yield make


@pytest.fixture
def place(make_place: Callable[[], AblationPlace]) -> AblationPlace:
    return make_place()


def arm_and_block(run: Run) -> tuple[str, int]:
    return run.data.tags["accelmlf.ablation_arm"], int(run.data.tags["accelmlf.block"])


def outcome(run: Run) -> str | None:
    text: str | None = run.data.tags.get("accelmlf.outcome")
    return text


def well(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if outcome(run) in ("completed", "target_not_reached")]


def stored_ablation(then: "Snapshot") -> Ablation:
    """The latest one as it is read back."""
    runs = [StoredRun.of(run) for run in then.runs]
    (latest,) = [run for run in runs if run.run_id == then.parents[-1].info.run_id]
    return Ablation.of(latest, [run for run in runs if run.study_id == latest.study_id])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- killed and ended in the middle, and started again each time; then with more repeats ---


@dataclass
class Snapshot:
    """What there is at one moment."""

    runs: list[Run]
    quiet: bool
    ended: Ended

    @property
    def parents(self) -> list[Run]:
        return [run for run in self.runs if run.data.tags.get("accelmlf.kind") == "ablation"]

    @property
    def children(self) -> list[Run]:
        return [run for run in self.runs if run.data.tags.get("accelmlf.kind") == ARM_RUN]


@dataclass
class Story:
    place: AblationPlace
    refused: dict[str, Ended]
    """A second ablation and a search on the same device, started while the first went on."""
    killed: Snapshot
    terminated: Snapshot
    complete: Snapshot
    again: Snapshot
    more: Snapshot


@pytest.fixture(scope="module")
def story(make_place: Callable[[], AblationPlace]) -> Story:
    place = make_place()

    def snapshot(ended: Ended) -> Snapshot:
        return Snapshot(place.runs(), place.is_quiet(), ended)

    process = place.start(STORY)
    out, err = place.file("out"), place.file("err")
    place.wait_for(process, lambda: "run 1 of 8" in out.read_text())
    refused = {
        "ablate": place.run(TINY | {"factors": "channels_last"}),
        "tune": place.run({"model": "vit", "device": "cpu", "train_images": "60", "n_trials": "1"}, "tune"),
    }
    place.wait_for(process, lambda: place.is_training(2))
    place.kill_all()
    killed = snapshot(Ended(process.wait(PATIENCE_S), out.read_text(), err.read_text()))

    process = place.start(STORY)
    place.wait_for(process, lambda: place.is_training(len(well(killed.children)) + 1))
    process.terminate()
    terminated = snapshot(place.end_of(process))
    complete = snapshot(place.end_of(place.start(STORY)))
    again = snapshot(place.run(STORY))
    return Story(place, refused, killed, terminated, complete, again, snapshot(place.run(MORE)))


def test_a_second_ablation_and_a_search_on_the_same_device_are_refused_meanwhile(story: Story) -> None:
    for ended in story.refused.values():
        assert ended.code == 5
        assert ended.error.startswith(
            "accelmlf: error: device=cpu: another search or ablation is under way on it (process "
        )
    assert len(story.killed.parents) == 1  # they have opened nothing
    assert not [run for run in story.killed.runs if run.data.tags.get("accelmlf.kind") == "search"]


def test_a_kill_in_the_middle_of_a_run_leaves_everything_open_at_first(story: Story) -> None:
    """The control: without the restart there would be something to mend."""
    then = story.killed
    assert then.ended.code == -signal.SIGKILL
    *finished, last = then.children
    assert {outcome(run) for run in finished} == {"completed"} and 2 <= len(finished) < 7
    assert last.info.status == then.parents[0].info.status == "RUNNING"


def test_an_ablation_that_is_told_to_end_closes_its_runs_and_keeps_what_was_finished(story: Story) -> None:
    then = story.terminated
    assert (then.ended.code, then.ended.error) == (143, "accelmlf: error: interrupted by SIGTERM")
    last = then.children[-1]
    assert (last.info.status, outcome(last)) == ("KILLED", "interrupted")
    assert (last.info.run_name or "").endswith(" (interrupted)")
    assert (then.parents[-1].info.status, outcome(then.parents[-1])) == ("KILLED", "interrupted")
    assert len(well(then.children)) > len(well(story.killed.children))
    assert then.quiet


def test_no_finished_arm_is_run_twice_and_none_is_lost(story: Story) -> None:
    then = story.complete
    assert then.ended.code == 0, then.ended.err
    finished = well(then.children)
    assert Counter(map(arm_and_block, finished)) == Counter((arm, block) for arm in ARMS for block in (0, 1))
    before = {run.info.run_id: run.info.end_time for run in well(story.terminated.children)}
    after = {run.info.run_id: run.info.end_time for run in finished}
    assert before.items() <= after.items()
    done = len(before)
    assert f"{done} of 8 runs are there already" in then.ended.out
    assert f"run 1 of {8 - done}, " in then.ended.out


def test_what_was_cut_short_is_run_again_and_keeps_its_own_record(story: Story) -> None:
    cut = [run for run in story.complete.children if run not in well(story.complete.children)]
    assert [(run.info.status, outcome(run)) for run in cut] == [("KILLED", "interrupted")] * 2
    assert cut[0].data.tags["accelmlf.error"] == "its process was killed"
    by_place = {arm_and_block(run): run for run in well(story.complete.children)}
    for run in cut:
        assert by_place[arm_and_block(run)].info.start_time > run.info.start_time


def test_nothing_stays_open_and_all_runs_are_below_the_latest_parent(story: Story) -> None:
    for then in (story.complete, story.again, story.more):
        assert [run.info.run_name for run in then.runs if run.info.status == "RUNNING"] == []
        *former, latest = then.parents
        assert {run.data.tags["accelmlf.continued_by"] for run in former[-1:]} == {latest.info.run_id}
        assert {run.data.tags[PARENT] for run in then.children} == {latest.info.run_id}
        assert outcome(latest) == "completed" and latest.info.status == "FINISHED"
        assert "accelmlf.continued_by" not in latest.data.tags
        assert then.quiet
    assert [outcome(run) for run in story.complete.parents] == ["interrupted", "interrupted", "completed"]


def test_arms_are_interleaved_in_the_order_that_the_seed_gives_each_block(story: Story) -> None:
    children = well(story.complete.children)
    expected = [(arm, block) for block, order in enumerate(block_orders(ARMS, 2, seed=7)) for arm in order]
    assert [arm_and_block(run) for run in children] == expected
    assert expected != [(arm, block) for block in (0, 1) for arm in ARMS]  # the control: chance has a say
    times = [(run.info.start_time, run.info.end_time) for run in children]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(times))  # one at a time


def test_the_runs_of_a_block_have_one_seed_and_nothing_is_kept_of_their_weights(story: Story) -> None:
    for run in well(story.more.children):
        tags, (arm, block) = run.data.tags, arm_and_block(run)
        assert tags["accelmlf.config.seed"] == str(7 + block)
        assert run.info.run_name == f"{arm}, seed {7 + block}"
        assert tags["accelmlf.config.save_model"] == "false"
        assert "model.safetensors" not in story.place.artifacts(run)
        assert tags["accelmlf.config.accumulation_steps"] == ("2" if arm in ("accumulation", "all") else "1")
        assert tags["accelmlf.config.techniques"] == ("channels_last" if arm in ("channels_last", "all") else "none")
        assert run.data.metrics["final_accuracy"] > 0


def test_the_result_is_on_the_parent_as_files(story: Story) -> None:
    latest = story.complete.parents[-1]
    artifacts = story.place.artifacts(latest)
    assert artifacts.keys() == ARTIFACTS
    for name in PICTURES:
        height, width, _ = drawn(artifacts[name]).shape
        assert width > 900 and height > 200
    text = artifacts["ablation.md"].read_text()
    assert plain(f"left out: {LEFT_OUT}") in text and "vit on digits" in text
    assert "8 of 8 runs" in text
    assert not story.place.artifacts(story.terminated.parents[-1])  # the control: that one had no result


def test_the_table_of_runs_is_what_they_have_logged(story: Story) -> None:
    rows = rows_of(story.place.artifacts(story.complete.parents[-1])["runs.csv"])
    logged = {run.info.run_id: run for run in well(story.complete.children)}
    assert {row["run_id"] for row in rows} == set(logged)
    for row in rows:
        run = logged[row["run_id"]]
        assert (row["arm"], int(row["block"])) == arm_and_block(run)
        assert row["seed"] == run.data.tags["accelmlf.config.seed"]
        for name in ("median_epoch_s", "time_to_accuracy_s", "mean_forward_s", "final_accuracy", "peak_host_mib"):
            assert float(row[name]) == run.data.metrics[name]


def test_the_parent_has_the_ratios_of_its_runs_and_its_words(story: Story) -> None:
    latest = story.more.parents[-1]
    by_place = {arm_and_block(run): run.data.metrics for run in well(story.more.children)}
    for arm in ARMS[1:]:
        for metric, group in (("median_epoch_s", "epoch"), ("time_to_accuracy_s", "time_to_accuracy")):
            logs = {name: {b: math.log(by_place[name, b][metric]) for b in range(3)} for name in ARMS}
            weights = {"baseline": 1.0, arm: -1.0}
            ratio = as_ratio(PooledTable.of(logs).interval(weights, confidence=simultaneous(len(ARMS) - 1)))
            name = f"{group}_speedup/{arm}"
            found = [latest.data.metrics[name + end] for end in ("", "_low", "_high")]
            assert found == pytest.approx([ratio.value, ratio.low, ratio.high])
            assert str(ratio) in latest.data.tags["accelmlf.verdict"]
    tags = latest.data.tags
    assert Asked.from_json(tags["accelmlf.ablation"]).left_out == (LEFT_OUT,)
    assert (latest.data.params["repeats"], latest.data.params["design"]) == ("3", "one_at_a_time")
    assert latest.data.params["factors"] == "accumulation,channels_last"
    assert tags["accelmlf.config.epochs"] == "4" and "accelmlf.hardware.cpu" in tags
    assert re.fullmatch(r"ablation vit-digits-[0-9a-f]{8}", latest.info.run_name or "")


def test_the_console_says_what_is_measured_and_what_came_of_it(story: Story) -> None:
    first, last = story.killed.ended.out, story.more.ended.out
    for text in ("4 arms, interleaved: 8 runs of 4 epochs on cpu", f"left out: {LEFT_OUT}", "run 1 of 8, block 1: "):
        assert text in first
    ablation = stored_ablation(story.more)
    assert story.more.parents[-1].data.tags["accelmlf.verdict"] == verdict(ablation)
    for row in [*verdict_rows(ablation), *arm_rows(ablation)]:
        assert all(cell in last for cell in row)
    assert "judged more than once, with 2, 3 repeats" in last and "judged more" not in story.again.ended.out
    assert "seconds per epoch" in last and "time to accuracy" in last and "test accuracy" in last
    assert "to show this again: OMP_NUM_THREADS=1 scripts/run -e ablate -P model=vit" in last


def test_two_repeats_have_no_verdict_and_three_have(story: Story) -> None:
    assert "no verdict with fewer than 3 repeats" in story.complete.ended.out
    assert "2 repeats, 3 are needed" in story.complete.ended.out
    assert "no verdict" not in story.more.ended.out
    assert re.search("faster: |slower: |the same within 2 %: |not decided yet: ", story.more.ended.out)
    assert not re.search("faster: |slower: |the same within 2 %: |not decided yet: ", story.complete.ended.out)


def test_the_same_command_after_the_end_runs_nothing_and_writes_the_result_again(story: Story) -> None:
    then = story.again
    assert then.ended.code == 0, then.ended.err
    assert "8 of 8 runs are there already: nothing is left to measure" in then.ended.out
    assert [run.info.run_id for run in then.children] == [run.info.run_id for run in story.complete.children]
    old, new = (story.place.artifacts(snapshot.parents[-1]) for snapshot in (story.complete, then))
    assert new.keys() == ARTIFACTS and old["runs.csv"] != new["runs.csv"]
    for name in ARTIFACTS - PICTURES.keys():
        assert new[name].read_bytes() == old[name].read_bytes()
    for name in PICTURES:
        assert np.array_equal(drawn(new[name]), drawn(old[name]))
    assert then.parents[-1].data.metrics == story.complete.parents[-1].data.metrics


def test_more_repeats_add_the_missing_blocks_alone(story: Story) -> None:
    then = story.more
    assert then.ended.code == 0, then.ended.err
    assert "8 of 12 runs are there already" in then.ended.out
    before = [run.info.run_id for run in story.again.children]
    assert [run.info.run_id for run in then.children][: len(before)] == before
    assert [arm_and_block(run) for run in then.children[len(before) :]] == [
        (arm, 2) for arm in block_orders(ARMS, 3, seed=7)[2]
    ]
    assert "12 of 12 runs" in story.place.artifacts(then.parents[-1])["ablation.md"].read_text()


def test_a_later_report_reads_the_same_from_the_store(story: Story) -> None:
    ablation = stored_ablation(story.more)
    assert (ablation.num_runs, ablation.num_planned, ablation.failures) == (12, 12, [])
    assert {name for block in ablation.runs.values() for name in block} == set(ARMS)
    assert stored_ablation(story.again).num_runs == 8  # the control: what that one was asked for


# --- the same command in this process (its runs have their own) ---


@contextlib.contextmanager
def forked() -> Iterator[set[tuple[int, float]]]:
    """The processes that the server forks meanwhile."""
    known: Any = forkserver._forkserver
    server = psutil.Process(known._forkserver_pid)
    seen: set[tuple[int, float]] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            with contextlib.suppress(psutil.NoSuchProcess):
                seen.update((process.pid, process.create_time()) for process in server.children())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        ({"factors": "ampp"}, 2, "factors=ampp: unknown factors. Did you mean amp?"),
        ({"factors": "accumulation:twice"}, 2, "factors=accumulation:twice: accumulation has no such form. Use "),
        ({"factors": "channels_last:3"}, 2, "factors=channels_last:3: channels_last takes no option"),
        ({"factors": "amp:bf16,amp:bf16"}, 2, "factors=amp:bf16,amp:bf16: amp:bf16 is there twice"),
        ({"factors": "fused_optimizer, fused_optimizer"}, 2, "fused_optimizer is there twice. Name each factor once"),
        ({"factors": "accumulation,,amp"}, 2, "factors=accumulation,,amp: a name is empty"),
        ({"factors": "channels_last", "techniques": "channels_last"}, 2, "factors=channels_last: "),
        (
            {"factors": "workers:1,resident", "design": "leave_one_out"},
            2,
            "factors=workers:1,resident: leave_one_out combines them, and resident replaces workers",
        ),
        (
            {"factors": "workers:1,resident", "design": "factorial"},
            2,
            "factors=workers:1,resident: factorial combines them, and resident replaces workers",
        ),
        ({"factors": "pin_memory,prefetch"}, 5, "factors=pin_memory,prefetch: the device cpu can run none of them: "),
        (
            {"factors": "accumulation", "batch_size": "149", "train_images": "200"},
            2,
            "batch_size=149: an epoch of 150 pictures has 1 batch of that size, too few for 2 micro-batches per step",
        ),
        (
            {"factors": "resident", "pipeline": "stream"},
            2,
            "factors=resident: resident has nothing to do with pipeline=stream",
        ),
        ({"factors": "accumulation:same_effective_batch", "batch_size": "3"}, 2, "cannot be cut into"),
        ({"design": "preset", "factors": "amp"}, 2, "factors=amp: the preset's factors are those of the recipe"),
        ({"design": "preset", "batch_size": "16"}, 2, "batch_size=16: design=preset compares the recipe's own arms"),
        ({"design": "presets"}, 2, "design=presets: unknown design. Did you mean preset or with_preset?"),
        ({"tuned": "true"}, 2, "tuned=true: ablate sets it by itself. Give design=preset"),
        ({"repeats": "0"}, 2, "repeats=0: outside its range"),
        ({"precision": "0"}, 2, "precision=0: outside its range"),
        ({"budget": "0"}, 2, "budget=0: outside its range"),
        ({"techniques": "auto"}, 2, "techniques=auto: it is a measurement itself, and of a single run"),
        ({"measure": "epochs"}, 2, "measure=epochs: unknown measure. Known: steps, runs"),
        ({"repeat": "3"}, 2, "repeat=3: there is no such setting. Did you mean repeats?"),
        ({"device": "cuda:99"}, 5, "device=cuda:99: torch "),
        ({"dataset": "folder", "data_dir": "nowhere"}, 3, "nowhere"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_an_ablation_that_cannot_be_meant_is_refused_in_one_line(
    store: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str],
    code: int, says: str,
) -> None:  # fmt: skip
    experiment = store.create_experiment(f"refused-{tmp_path.name}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    ended = run_here(PLAIN | settings)
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.error
    assert store.search_runs([experiment]) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "arms", "says"),
    [
        (
            {"factors": "workers:1,resident"},
            ["baseline", "workers:1", "resident"],
            "there is no arm with all of them: ",
        ),
        ({"factors": "channels_last,prefetch"}, ["baseline", "channels_last"], "left out: prefetch (it needs CUDA"),
        (
            {"factors": "accumulation,channels_last", "design": "factorial"},
            ["baseline", "accumulation", "channels_last", "accumulation+channels_last"],
            "5 repeats of 4 arms, interleaved: 20 runs",
        ),
        ({"design": "preset"}, ["untuned", "tuned"], f"left out: {LEFT_OUT}"),
        (
            {"factors": "channels_last", "measure": "steps", "precision": "0.01"},
            ["baseline", "baseline again", "channels_last"],
            "3 arms in short stretches of steps, in generations of fresh processes, until every interval is within 1.0",
        ),
        (
            {"factors": "accumulation:same_effective_batch,fused_optimizer", "design": "leave_one_out"},
            ["all", "all but accumulation:same_effective_batch", "all but fused_optimizer"],
            "batch 16 x 2, learning rate 0.001",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_dry_run_says_what_would_be_measured_and_makes_nothing(
    store: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str],
    arms: list[str], says: str,
) -> None:  # fmt: skip
    experiment = store.create_experiment(f"dry-{tmp_path.name}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    ended = run_here(PLAIN | settings | {"dry_run": "true"})
    assert ended.code == 0, ended.err
    assert says in ended.out
    listed = [line.strip() for line in ended.out.splitlines() if ", learning rate " in line]
    assert [re.split(r"\s{2,}", line)[0] for line in listed] == arms
    assert store.search_runs([experiment]) == []
    assert list(tmp_path.iterdir()) == []


@dataclass
class Small:
    """One of several ablations in one experiment."""

    ended: Ended
    parent: Run
    runs: dict[str, Run]
    """Arm -> its only run."""
    artifacts: dict[str, Path]
    processes: int
    """How many the server has forked meanwhile."""

    @property
    def text(self) -> str:
        return self.artifacts["ablation.md"].read_text()


SMALL = {
    "workers": {"factors": "workers:1", "pipeline": "stream", "target_accuracy": "1.0"},
    "preset": {"design": "preset"},
    "factorial": {"design": "factorial", "factors": "channels_last,fused_optimizer"},
}


@pytest.fixture(scope="module")
def small(make_place: Callable[[], AblationPlace]) -> dict[str, Small]:
    place, made = make_place(), dict[str, Small]()
    for number, (name, settings) in enumerate(SMALL.items()):
        with forked() as processes:
            ended = place.run(TINY | settings)
        assert ended.code == 0, ended.err
        parents = place.runs("ablation")
        assert len(parents) == number + 1
        made[name] = Small(ended, parents[-1], {}, place.artifacts(parents[-1]), len(processes))
    for one in made.values():
        runs = [run for run in place.runs(ARM_RUN) if run.data.tags[PARENT] == one.parent.info.run_id]
        one.runs.update({arm_and_block(run)[0]: run for run in runs})
        assert len(runs) == len(one.runs)
    return made


def test_workers_are_measured_where_they_have_something_to_win_and_a_miss_is_counted(small: dict[str, Small]) -> None:
    own = small["workers"]
    assert {arm: outcome(run) for arm, run in own.runs.items()} == {
        "baseline": "target_not_reached",
        "workers:1": "target_not_reached",
    }
    assert outcome(own.parent) == "completed"
    says, verdicts = "target reached in 0 of 1 (baseline), 0 of 1 (workers:1): no verdict", verdict_of(own.parent)
    assert says in verdicts and says in own.ended.out and plain(says) in own.text
    assert not [name for name in own.parent.data.metrics if "time_to_accuracy" in name]
    assert own.parent.data.metrics["epoch_speedup/workers_1"] > 0
    assert "pipeline=stream" in own.text.splitlines()[0] and "with pipeline=stream" in verdicts
    assert own.artifacts.keys() == ARTIFACTS


def test_the_preset_compares_the_recipe_s_arms_and_says_what_this_device_has_to_leave_out(
    small: dict[str, Small],
) -> None:
    own = small["preset"]
    tags = {arm: run.data.tags for arm, run in own.runs.items()}
    assert tags.keys() == {"untuned", "tuned"}
    assert (tags["untuned"]["accelmlf.arm"], tags["tuned"]["accelmlf.arm"]) == ("baseline", "tuned_partial")
    assert "pin_memory" in tags["tuned"]["accelmlf.skipped_techniques"]
    assert tags["tuned"]["accelmlf.config.accumulation_steps"] == "2"
    assert f"left out: {LEFT_OUT}" in own.ended.out
    assert plain(f"left out: {LEFT_OUT}") in own.text and "technique skipped: " in own.text
    assert Asked.from_json(own.parent.data.tags["accelmlf.ablation"]).left_out[-1] == LEFT_OUT
    assert "epoch_speedup/tuned" in own.parent.data.metrics


def test_a_factorial_has_main_effects_and_their_interaction(small: dict[str, Small]) -> None:
    own = small["factorial"]
    arms = ("baseline", "channels_last", "fused_optimizer", "channels_last+fused_optimizer")
    assert own.runs.keys() == set(arms)
    for metric, group in (("median_epoch_s", "epoch"), ("time_to_accuracy_s", "time_to_accuracy")):
        none, one, other, both = (own.runs[arm].data.metrics[metric] for arm in arms)
        found = own.parent.data.metrics
        assert found[f"{group}_speedup/channels_last"] == pytest.approx(((none / one) * (other / both)) ** 0.5)
        assert found[f"{group}_speedup/fused_optimizer"] == pytest.approx(((none / other) * (one / both)) ** 0.5)
        interaction = found[f"{group}_speedup/channels_last_x_fused_optimizer"]
        assert interaction == pytest.approx((other / both) / (none / one))


@pytest.mark.parametrize("name", SMALL)
def test_every_run_has_a_process_of_its_own(small: dict[str, Small], name: str) -> None:
    looks = 2  # at the settings, and at the factors or the tuned settings
    assert small[name].processes == looks + len(small[name].runs)


def test_other_settings_are_another_ablation(small: dict[str, Small]) -> None:
    assert len({one.parent.data.tags["accelmlf.study_id"] for one in small.values()}) == len(small)
    for one in small.values():
        assert "there already" not in one.ended.out
        assert "accelmlf.continued_by" not in one.parent.data.tags
        arms = Asked.from_json(one.parent.data.tags["accelmlf.ablation"]).as_design().arms
        assert one.runs.keys() == {arm.name for arm in arms}


def verdict_of(parent: Run) -> str:
    text: str = parent.data.tags["accelmlf.verdict"]
    return text


def test_an_arm_that_fails_is_recorded_and_the_others_are_measured_on(place: AblationPlace) -> None:
    arms = ("baseline", "compile:default")
    seed = next(seed for seed in range(99) if block_orders(arms, 1, seed)[0][0] == arms[1])  # the failure comes first
    ended = place.run(TINY | {"factors": "compile", "seed": str(seed)})
    assert ended.code == 0, ended.err
    failed, other = place.runs(ARM_RUN)
    assert (arm_and_block(failed)[0], failed.info.status, outcome(failed)) == (arms[1], "FAILED", "failed")
    assert "the compiler failed" in failed.data.tags["accelmlf.error"]
    assert (arm_and_block(other)[0], outcome(other)) == ("baseline", "completed")
    (parent,) = place.runs("ablation")
    assert (parent.info.status, outcome(parent)) == ("FINISHED", "completed")
    text = place.artifacts(parent)["ablation.md"].read_text()
    for says in (
        "no verdict: 1 run of compile:default failed or missing",
        "target reached in 1 of 1 (baseline), 0 of 1 (compile:default): no verdict",
    ):
        assert says in ended.out and plain(says) in text and says in parent.data.tags["accelmlf.verdict"]
    assert "1 of 2 runs failed (failed)" in text
    assert "1 of 2 runs" in text and "faster" not in text.partition("Everything else")[0]
    assert [row["arm"] for row in rows_of(place.artifacts(parent)["runs.csv"])] == ["baseline"]
    assert not parent.data.metrics
    assert place.artifacts(parent).keys() == ARTIFACTS


def test_an_ablation_of_which_every_run_fails_ends_with_that_failure(place: AblationPlace) -> None:
    wild = {"learning_rate": "100", "epochs": "3", "train_images": "150", "target_accuracy": "0.9"}
    ended = place.run(TINY | wild | {"factors": "channels_last"})
    assert ended.code == 6
    assert "no run has finished; this was the last: " in ended.error and "the loss is not finite" in ended.error
    assert [outcome(run) for run in place.runs(ARM_RUN)] == ["diverged", "diverged"]
    (parent,) = place.runs("ablation")
    assert (parent.info.status, outcome(parent)) == ("FAILED", "diverged")
    assert place.artifacts(parent) == {}


def test_an_interrupt_from_the_keyboard_ends_it_and_keeps_what_was_finished(place: AblationPlace) -> None:
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # where the tests are a shell's background job it is ignored
    settings = TINY | {"factors": "channels_last", "epochs": "60"}
    main_thread = threading.get_ident()

    def interrupt() -> None:
        with contextlib.suppress(AssertionError):
            place.wait_for(None, lambda: place.is_training(1))
            signal.pthread_kill(main_thread, signal.SIGINT)

    finger = threading.Thread(target=interrupt)
    finger.start()
    ended = place.run(settings)
    finger.join()
    assert (ended.code, ended.error) == (130, "accelmlf: error: interrupted by SIGINT")
    finished, cut = place.runs(ARM_RUN)
    assert (outcome(finished), outcome(cut), cut.info.status) == ("completed", "interrupted", "KILLED")
    (parent,) = place.runs("ablation")
    assert (parent.info.status, outcome(parent)) == ("KILLED", "interrupted")
