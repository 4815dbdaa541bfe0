"""What is confirmed, in what order it is reported, and that what is compared was measured side by side."""

import math
import multiprocessing
import random
import re
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import mlflow
import numpy as np
import pytest
from scipy.stats import t

from accelmlf.errors import ProcessKilledError
from accelmlf.machine.processes import identity
from accelmlf.many_runs.comparison import Ratio
from accelmlf.many_runs.verdicts import SPEED_VERDICTS
from accelmlf.search.confirmation import (
    NUM_BEST,
    Candidate,
    Confirmation,
    Repeat,
    best_points,
    complete_blocks,
    confirm,
)
from accelmlf.search.console import SearchConsole
from accelmlf.search.plan import Plan
from accelmlf.search.settings import TuneConfig
from accelmlf.search.space import Point, in_words
from accelmlf.search.trials import TrialRecord
from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.tags import CONFIRMATION, OWNER
from tests.many_runs.makers import serving
from tests.search.makers import make_plan, make_record
from tests.tracking.makers import parent_run

OWN: Point = {"batch_size": 32, "accumulation_steps": 1}
FAST: Point = {"batch_size": 64, "accumulation_steps": 1}
SLOW: Point = {"batch_size": 16, "accumulation_steps": 1}


def candidate(point: Point, *times_s: float | None, walls_s: Sequence[float | None] = ()) -> Candidate:
    walls = walls_s or times_s
    pairs = enumerate(zip(times_s, walls, strict=True), start=1)
    repeats = {seed: Repeat(time_s=seconds, wall_s=wall) for seed, (seconds, wall) in pairs}
    return Candidate(point, point == OWN, repeats)


# --- which points ---


@pytest.mark.parametrize(
    ("times_s", "expected"),
    [
        ([], []),
        ([None, None], []),
        ([5.0], [0]),
        ([5.0, None, 3.0], [2, 0]),
        ([5.0, 4.0, 3.0, 2.0, None, 6.0], [3, 2, 1]),
    ],
)
def test_the_best_points_are_those_that_reached_the_target_the_soonest(
    times_s: list[float | None], expected: list[int]
) -> None:
    points: list[Point] = [{"batch_size": 2**number, "accumulation_steps": 1} for number in range(len(times_s))]
    found = [
        make_record(number, points[number], "target_not_reached" if seconds is None else "completed", seconds)
        for number, seconds in enumerate(times_s)
    ]
    assert best_points(found) == [points[number] for number in expected]
    assert len(expected) <= NUM_BEST


# --- a candidate, and the best of them ---


def test_a_candidate_with_a_miss_has_no_mean_and_no_ratio() -> None:
    sure, unsure, none = candidate(FAST, 4.0, 9.0), candidate(SLOW, 4.0, None), candidate(SLOW)
    assert (sure.always_reached, unsure.always_reached, none.always_reached) == (True, False, False)
    assert sure.mean_s == pytest.approx(6.0)
    assert (unsure.mean_s, none.mean_s) == (None, None)
    assert unsure.reached_s == [4.0]
    found = Confirmation([sure, unsure, none, candidate(OWN, 8.0, 18.0)])
    ratio = found.speedup(sure)
    assert ratio is not None and ratio.value == pytest.approx(2.0)
    assert [found.speedup(arm) for arm in found.arms[1:]] == [None] * 3
    assert Confirmation([sure, candidate(OWN, None, 18.0)]).speedup(sure) is None


def test_what_a_run_has_not_logged_is_absent_from_its_repeat() -> None:
    figures = {"time_to_accuracy_s": 1.0, "time_to_accuracy_wall_s": 2.0, "warmup_s": 0.5, "final_accuracy": 0.9}
    whole = Repeat(time_s=1.0, wall_s=2.0, warmup_s=0.5, test_accuracy=0.9)
    assert Repeat.from_metrics({**figures, "final_loss": 1.0}) == whole
    assert Repeat.from_metrics({}) == Repeat() != whole


@pytest.mark.parametrize(
    ("walls", "expected"),
    [
        ({"fast": (30.0, 30.0), "slow": (20.0, 20.0)}, SLOW),
        ({"fast": (20.0, 20.0), "slow": (30.0, 30.0)}, FAST),
        ({"fast": (30.0, 30.0), "slow": (20.0, None)}, FAST),
        ({"fast": (30.0, None), "slow": (None, None)}, None),
    ],
    ids=["warm-up decides", "both clocks agree", "a miss does not count", "nobody has a wall clock"],
)
def test_the_soonest_on_the_wall_need_not_be_the_winner(
    walls: dict[str, tuple[float | None, ...]], expected: Point | None
) -> None:
    arms = [candidate(FAST, 5.0, 5.0, walls_s=walls["fast"]), candidate(SLOW, 6.0, 6.0, walls_s=walls["slow"])]
    found = Confirmation(arms).soonest_on_the_wall
    assert (None if found is None else found.point) == expected
    assert Confirmation(arms).winner.point == FAST


# --- the speed-up over the recipe ---


def points(count: int) -> list[Point]:
    return [{**SLOW, "accumulation_steps": number + 2} for number in range(count)]


def test_a_ratio_is_paired_by_seed_and_not_by_order() -> None:
    one, other = candidate(FAST, 1.0, 10.1), candidate(OWN, 2.0, 20.0)
    paired = Confirmation([one, other]).speedup(one)
    assert paired is not None and paired.low is not None and paired.value == pytest.approx(2.0, rel=0.01)
    other.repeats = dict(reversed(other.repeats.items()))
    assert Confirmation([one, other]).speedup(one) == paired
    other.repeats = {3 - seed: repeat for seed, repeat in other.repeats.items()}  # the control: as run, not by seed
    torn = Confirmation([one, other]).speedup(one)
    assert torn is not None and torn.low is not None and torn.low < 0.01 * paired.low
    other.repeats = {seed + 2: repeat for seed, repeat in other.repeats.items()}
    assert Confirmation([one, other]).speedup(one) is None


TIMES_S = {"fast": (5.0, 5.6, 4.9), "slow": (9.0, 8.1, 9.2), "own": (10.0, 10.4, 9.5)}


def three_arms(times_s: dict[str, tuple[float | None, ...]]) -> Confirmation:
    return Confirmation([candidate(p, *times_s[name]) for p, name in ((FAST, "fast"), (SLOW, "slow"), (OWN, "own"))])


def test_the_interval_is_that_of_the_least_squares_of_blocks_and_arms() -> None:
    found = three_arms(TIMES_S)  # type: ignore[arg-type]
    logs = np.log([TIMES_S[name] for name in ("own", "fast", "slow")])
    rows = [np.r_[np.eye(3)[block], np.eye(3)[arm, 1:]] for arm in range(3) for block in range(3)]
    effects, squares, _, _ = np.linalg.lstsq(np.array(rows), logs.ravel(), rcond=None)
    degrees = 9 - 5
    error = math.sqrt(squares[0] / degrees * 2 / 3)
    for arm, effect in zip(found.arms, effects[3:], strict=False):
        ratio = found.speedup(arm)
        for of_each, fits in ((0.05 / 2, True), (0.05, False)):  # the control: not corrected for two candidates
            half = t.ppf(1 - of_each / 2, degrees) * error
            expected = np.exp([-effect, -effect - half, -effect + half])
            assert ratio is not None
            assert ((ratio.value, ratio.low, ratio.high) == pytest.approx(tuple(expected))) is fits


def test_what_slows_a_whole_block_changes_no_interval() -> None:
    disturbed = {name: (3 * times[0], *times[1:]) for name, times in TIMES_S.items()}
    plain, slowed = three_arms(TIMES_S), three_arms(disturbed)  # type: ignore[arg-type]
    for one, other in zip(plain.arms[:2], slowed.arms[:2], strict=True):
        ratio, again = plain.speedup(one), slowed.speedup(other)
        assert ratio is not None and again is not None
        assert (again.value, again.low, again.high) == pytest.approx((ratio.value, ratio.low, ratio.high))
    alone = three_arms({**TIMES_S, "own": disturbed["own"]})  # the control: only one arm is slowed
    assert alone.speedup(alone.winner) != pytest.approx(plain.speedup(plain.winner))


def test_an_arm_with_a_miss_does_not_disturb_the_others() -> None:
    def speedup_beside(*slow: float | None) -> Ratio | None:
        found = three_arms({**TIMES_S, "slow": slow})
        assert (found.speedup(found.arms[1]) is None) is (None in slow)
        return found.speedup(found.winner)

    expected = speedup_beside(None, None, None)
    assert expected is not None and expected.pairs == 3
    assert speedup_beside(9.0, None, 9.2) == speedup_beside(900.0, 0.1, None) == expected
    assert speedup_beside(9.0, 30.0, 9.2) != expected  # the control: without a miss its noise counts


def test_a_winner_that_was_chosen_among_more_has_more_to_show() -> None:
    """Those beside it have missed, so they bring no residual: only their number differs."""
    winner, recipe = candidate(FAST, 7.0, 7.6, 7.3), candidate(OWN, 9.0, 8.0, 9.0)
    found = [Confirmation([winner, *(candidate(p, None, 1.0, 1.0) for p in points(n)), recipe]) for n in range(3)]
    ratios = [each.speedup(each.winner) for each in found]
    lows = [ratio.low for ratio in ratios if ratio is not None and ratio.low is not None]
    assert lows == sorted(set(lows), reverse=True) and len(lows) == 3
    assert len({ratio.value for ratio in ratios if ratio is not None}) == 1


def simulated(chance: random.Random) -> Confirmation:
    """Three blocks of the recipe and of three candidates that are no better."""
    blocks = [chance.gauss(3, 0.5) for _ in range(3)]
    arms = [
        candidate(point, *(math.exp(block + chance.gauss(0, 0.1)) for block in blocks)) for point in (OWN, *points(3))
    ]
    return Confirmation(sorted(arms, key=lambda arm: arm.mean_s or math.inf))


def test_the_best_of_three_that_are_no_better_is_called_faster_in_five_of_a_hundred_confirmations_at_most() -> None:
    chance, studies = random.Random(7), 2_000
    called, of_one = 0, 0
    for found in (simulated(chance) for _ in range(studies)):
        called += found.verdict(found.winner) == "faster"
        # The control: as if nothing had been chosen.
        of_one += Confirmation([found.winner, found.recipe]).verdict(found.winner) == "faster"
    assert called / studies <= 0.05 < of_one / studies


def test_a_verdict_is_what_the_printed_limits_say() -> None:
    chance, seen = random.Random(8), set[str | None]()
    for spread in (0.001, 0.03, 0.3) * 30:
        speeds = [0.0, *(chance.gauss(0, spread) for _ in range(3))]
        times = [[math.exp(2 - speed + chance.gauss(0, spread / 3)) for _ in range(3)] for speed in speeds]
        found = Confirmation([candidate(p, *times_s) for p, times_s in zip((OWN, *points(3)), times, strict=True)])
        for arm in found.arms[1:]:
            low, high = (float(text) for text in re.findall(r"[\d.]+", str(found.speedup(arm)))[1:])
            seen.add(verdict := found.verdict(arm))
            assert verdict != "faster" or low >= 1
            assert verdict != "slower" or high <= 1
            assert verdict != "not decided yet" or low <= 1 <= high
            assert verdict != "the same within 2 %" or (low >= 0.98 and high <= 1.02)
    assert seen == set(SPEED_VERDICTS)


@pytest.mark.parametrize(
    "arms",
    [
        [candidate(OWN, 5.0, 5.1), candidate(FAST, 9.0, 9.1)],
        [candidate(OWN, 5.0, 5.1)],
        [candidate(FAST, 5.0), candidate(OWN, 10.0)],
        [candidate(FAST, 5.0, 5.1), candidate(OWN, 10.0, None)],
        [candidate(FAST, 5.0, None), candidate(OWN, 10.0, 10.1)],
    ],
    ids=["the recipe wins", "the recipe alone", "one seed", "a miss of the recipe", "a miss of the winner"],
)
def test_without_an_interval_nothing_is_faster(arms: list[Candidate]) -> None:
    assert Confirmation(arms).verdict(arms[0]) in (None, "not decided yet")
    clear = Confirmation([candidate(FAST, 5.0, 5.1, 5.2), candidate(OWN, 10.0, 10.1, 10.3)])  # the control
    assert clear.verdict(clear.winner) == "faster"


# --- blocks, in a real store ---


@pytest.fixture
def study_id(store: mlflow.MlflowClient) -> str:
    """A study that no other test knows."""
    return uuid.uuid4().hex


def ran(
    own: ParentRun,
    point: Point,
    seed: int,
    block: str,
    time_s: float | None = 5.0,
    *,
    outcome: str | None = None,
    owner: str | None = None,
) -> None:
    """A run of a confirmation that has ended, as `run_once` leaves it."""
    tags = {"accelmlf.point": in_words(point), "accelmlf.block": block, "accelmlf.config.seed": str(seed)}
    run_id = own.start_child(f"confirmation, seed {seed}", CONFIRMATION, tags)
    own.store.client.log_metric(run_id, "final_accuracy", 0.9)
    if time_s is not None:
        own.store.client.log_metric(run_id, "time_to_accuracy_s", time_s)
        own.store.client.log_metric(run_id, "time_to_accuracy_wall_s", time_s + 3)
    if owner is not None:
        own.store.client.set_tag(run_id, OWNER, owner)
    own.end_child(run_id, outcome or ("target_not_reached" if time_s is None else "completed"))


def elsewhere(part: int) -> str:
    """A process of another machine, or of another start of this one."""
    parts = identity().split("/")
    parts[part] = "another"
    return "/".join(parts)


ARMS = [Candidate(FAST, False), Candidate(OWN, True)]


def test_a_whole_block_is_kept_with_its_times(store: mlflow.MlflowClient, study_id: str) -> None:
    with parent_run("search", study_id) as own:
        ran(own, FAST, 1, "a", 5.0)
        ran(own, OWN, 1, "a", None)
        kept = complete_blocks(ARMS, own)
    fast = Repeat(time_s=5.0, wall_s=8.0, test_accuracy=0.9)
    assert kept == {1: {in_words(FAST): fast, in_words(OWN): Repeat(test_accuracy=0.9)}}


def test_a_block_of_this_machine_s_former_start_is_kept(store: mlflow.MlflowClient, study_id: str) -> None:
    with parent_run("search", study_id) as own:
        for point in (FAST, OWN):
            ran(own, point, 1, "a", owner=elsewhere(1))
        assert complete_blocks(ARMS, own).keys() == {1}


@pytest.mark.parametrize(
    "spoil",
    [
        {"block": "b"},
        {"seed": 2},
        {"point": SLOW},
        {"outcome": "interrupted"},
        {"outcome": "diverged"},
        {"owner": elsewhere(0)},
    ],
    ids=["of another block", "of another seed", "of another point", "killed", "failed", "of another machine"],
)
def test_of_a_block_that_is_not_whole_nothing_is_kept(
    store: mlflow.MlflowClient, study_id: str, spoil: dict[str, object]
) -> None:
    with parent_run("search", study_id) as own:
        ran(own, FAST, 1, "a")
        ran(own, **({"point": OWN, "seed": 1, "block": "a"} | spoil))  # type: ignore[arg-type]
        assert complete_blocks(ARMS, own) == {}
        ran(own, OWN, 1, "a")  # the control: now it is whole
        assert complete_blocks(ARMS, own).keys() == {1}


def test_a_block_without_one_of_the_candidates_is_not_whole_and_one_with_more_is(
    store: mlflow.MlflowClient, study_id: str
) -> None:
    with parent_run("search", study_id) as own:
        for point in (FAST, OWN, SLOW):
            ran(own, point, 1, "a")
        for point in (FAST, OWN):
            ran(own, point, 2, "b")
        assert complete_blocks(ARMS, own).keys() == {1, 2}
        assert complete_blocks([*ARMS, Candidate(SLOW, False)], own).keys() == {1}


def test_blocks_of_another_study_are_not_this_one_s(store: mlflow.MlflowClient, study_id: str) -> None:
    with parent_run("search", uuid.uuid4().hex) as other:
        for point in (FAST, OWN):
            ran(other, point, 1, "a")
    with parent_run("search", study_id) as own:
        assert complete_blocks(ARMS, own) == {}


# --- the confirmation ---


def plan_of(repeats: int = 2, **given: Any) -> Plan:
    return make_plan(TuneConfig(confirm_repeats=repeats), **given)


def completed(*points: Point) -> list[TrialRecord]:
    return [make_record(number, point, "completed", 1.0 + number) for number, point in enumerate(points)]


@pytest.mark.parametrize(
    ("times_s", "order"),
    [
        ({"fast": (5.0, 5.0), "slow": (9.0, 9.0), "own": (7.0, 7.0)}, [FAST, OWN, SLOW]),
        ({"fast": (5.0, None), "slow": (9.0, 9.0), "own": (7.0, 7.0)}, [OWN, SLOW, FAST]),
        ({"fast": (None, None), "slow": (None, 9.0), "own": (99.0, 99.0)}, [OWN, SLOW, FAST]),
        ({"fast": (4.0, 9.0), "slow": (6.1, 6.1), "own": (5.9, 5.9)}, [OWN, FAST, SLOW]),
    ],
    ids=["by time", "a miss costs more than time", "misses last", "by the geometric mean"],
)
def test_the_winner_is_who_reaches_the_target_most_often_and_then_the_soonest(
    store: mlflow.MlflowClient,
    study_id: str,
    times_s: dict[str, tuple[float | None, ...]],
    order: list[Point],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every block is there already, so nothing has to be trained."""
    with parent_run("search", study_id) as own:
        for seed in (1, 2):
            for point, name in ((FAST, "fast"), (SLOW, "slow"), (OWN, "own")):
                ran(own, point, seed, f"block {seed}", times_s[name][seed - 1])
        found = confirm(plan_of(), completed(FAST, SLOW), own, SearchConsole(2, None))
    assert [arm.point for arm in found.arms] == order
    assert found.winner.point == order[0]
    assert found.recipe.point == OWN and [arm.is_recipe for arm in found.arms] == [p == OWN for p in order]
    assert [sorted(arm.repeats) for arm in found.arms] == [[1, 2]] * 3
    assert "2 of 2 blocks done already" in capsys.readouterr().out


def test_the_recipe_s_own_point_is_confirmed_once_where_the_search_has_found_it(
    store: mlflow.MlflowClient, study_id: str
) -> None:
    with parent_run("search", study_id) as own:
        for point in (OWN, FAST):
            ran(own, point, 1, "a")
        found = confirm(plan_of(1), completed(OWN, FAST), own, SearchConsole(2, None))
    assert sorted(arm.is_recipe for arm in found.arms) == [False, True]


def test_the_fresh_seeds_begin_again_after_the_last_there_is(store: mlflow.MlflowClient, study_id: str) -> None:
    with parent_run("search", study_id) as own:
        for seed in (0, 1):
            ran(own, OWN, seed, f"block {seed}")
        found = confirm(plan_of(2, seed=2**32 - 1), completed(OWN), own, SearchConsole(1, None))
    assert sorted(found.winner.repeats) == [0, 1]


@pytest.fixture(scope="module")
def _server(store_uri: str) -> Iterator[None]:
    with serving(store_uri):
        yield


def kill_run(store: mlflow.MlflowClient, study_id: str, number: int, killed: list[int]) -> None:
    """Kill the process of that run of the confirmation, from 1."""
    deadline = time.monotonic() + 120
    wanted = f"tags.`accelmlf.study_id` = '{study_id}' and tags.`accelmlf.kind` = '{CONFIRMATION}'"
    experiments = [experiment.experiment_id for experiment in store.search_experiments()]
    while time.monotonic() < deadline:
        if len(store.search_runs(experiments, wanted)) == number:
            for worker in multiprocessing.active_children():
                worker.kill()
                killed.append(number)
                return
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.usefixtures("_server")
def test_a_confirmation_that_is_killed_in_the_middle_ends_with_whole_blocks_when_it_is_started_again(
    store: mlflow.MlflowClient, study_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(2, train_images=150, epochs=2, target_accuracy=0.01, image_size=8)
    points, killed = completed(FAST), list[int]()
    killer = threading.Thread(target=kill_run, args=(store, study_id, 4, killed))
    killer.start()
    try:
        with pytest.raises(ProcessKilledError, match="killed by SIGKILL"), parent_run("search", study_id) as own:
            confirm(plan, points, own, SearchConsole(1, None))
    finally:
        killer.join()
    assert killed == [4]
    with parent_run("search", study_id) as own:
        assert complete_blocks(ARMS, own).keys() == {1}  # the control: one block was cut short
        first = [run.tags for run in own.children(CONFIRMATION)]
        found = confirm(plan, points, own, SearchConsole(1, None))
        children = [(run.tags["accelmlf.block"], run.tags) for run in own.children(CONFIRMATION)]
        kept = complete_blocks(ARMS, own)
    assert [tags["accelmlf.outcome"] for tags in first] == ["completed"] * 3 + ["interrupted"]
    assert len(children) == 6  # of the second block both are run again
    whole = [block for block, tags in children if tags["accelmlf.outcome"] == "completed"]
    assert sorted(whole.count(block) for block in dict(children)) == [1, 2, 2]
    for arm in found.arms:
        assert arm.repeats == {seed: kept[seed][in_words(arm.point)] for seed in (1, 2)}
        assert arm.always_reached
    out = capsys.readouterr().out
    assert "confirmation 4 of 4, seed 2" in out
    assert "1 of 2 blocks done already" in out and "confirmation 2 of 2, seed 2" in out
    assert "confirmation 1 of 2, seed 1" not in out


@pytest.mark.slow
@pytest.mark.usefixtures("_server")
def test_a_candidate_that_diverges_has_failed_and_the_others_are_measured_on(
    store: mlflow.MlflowClient, study_id: str
) -> None:
    tune = TuneConfig(confirm_repeats=1, search_learning_rate=True)
    plan = make_plan(tune, train_images=150, epochs=3, target_accuracy=0.9, image_size=8)
    wild: Point = {**FAST, "learning_rate": 100.0}
    with parent_run("search", study_id) as own:
        found = confirm(plan, completed(wild), own, SearchConsole(1, None))
        outcomes = {run.tags["accelmlf.point"]: run.outcome for run in own.children(CONFIRMATION)}
    (failed,) = [arm for arm in found.arms if not arm.is_recipe]
    assert failed.repeats == {1: Repeat(failure="diverged")}
    assert outcomes == {in_words(wild): "diverged", in_words(found.recipe.point): "target_not_reached"}
    missed = found.recipe.repeats[1]  # the control: a miss is no failure, and has what was measured
    assert (missed.time_s, missed.failure) == (None, None)
    assert missed.test_accuracy is not None and missed.warmup_s is not None
