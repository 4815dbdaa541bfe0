"""What generations leave in a real store is what is read back, and one that was cut short counts for nothing."""

import csv
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from accelmlf.ablation.ablate import labels
from accelmlf.ablation.files import write_tables
from accelmlf.ablation.marks import unfit
from accelmlf.ablation.noise import how_measured
from accelmlf.ablation.plan import AblationPlan
from accelmlf.ablation.result import Ablation
from accelmlf.ablation.stopping import Spent
from accelmlf.ablation.stored import FAILED_FOR_GOOD, Kept, kept_generations, kept_of
from accelmlf.ablation.stretches import LONG_BLOCK_S, Measurement
from accelmlf.ablation.tables import as_lines, as_markdown
from accelmlf.errors import AccelmlfError, DivergedError, MemoryExhaustedError
from accelmlf.many_runs.preflight import Preflight
from accelmlf.measure.cost import Cost
from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.stored_runs import StoredRun
from accelmlf.tracking.tags import ABLATION, ARM, ARM_STRETCHES, BLOCK, DEVICE
from tests.ablation.plan_makers import plan_of
from tests.ablation.stretch_makers import IMAGES, IMAGES_PER_EPOCH, SHARES, record, turns_of
from tests.tracking.makers import parent_run

FACTORS = ("channels_last", "amp:bf16")
ARMS = ("baseline", "baseline again", *FACTORS)
WORTH = {"baseline": 0.0, "baseline again": 0.0, "channels_last": 0.2, "amp:bf16": 0.0}
DIVERGED = DivergedError("learning_rate", "1", "the loss is not finite", "Use a smaller one")


@pytest.fixture
def plan(seen: Preflight) -> AblationPlan:
    return plan_of(seen, factors=FACTORS, clash="they clash", measure="steps")


def ablation_of(parent: ParentRun) -> Ablation:
    """As a later report reads it."""
    runs = parent.store.runs_of_study(parent.run.experiment_id, parent.study_id)
    return Ablation.of(next(run for run in runs if run.run_id == parent.run.run_id), runs)


def seconds_of(kept: Kept) -> dict[str, dict[int, float]]:
    return {
        arm: {n: found["seconds_per_image"] for n, found in blocks.items()} for arm, blocks in kept.measured.items()
    }


def children(parent: ParentRun) -> dict[tuple[str, str], StoredRun]:
    return {(run.tags[BLOCK], run.tags[ARM]): run for run in parent.children(ARM_STRETCHES)}


# --- read back ---


def test_what_is_recorded_is_read_back(store: mlflow.MlflowClient, plan: AblationPlan) -> None:
    generations = {number: turns_of(WORTH, seed=number, rounds=4 + number) for number in (1, 2)}
    with parent_run(ABLATION) as parent:
        assert kept_generations(parent, plan) == Kept(measured={arm: {} for arm in ARMS}, next_number=1)
        for number, turns in generations.items():
            record(parent, plan, number, turns)
        kept = kept_generations(parent, plan)
    for number, turns in generations.items():
        arms, reduced = turns.reduced()
        for arm, location in zip(arms, reduced.locations, strict=True):
            assert seconds_of(kept)[arm][number] == pytest.approx(math.exp(location))
    assert kept.spent == [Spent(12.0, 4.0 * rounds, rounds) for rounds in (5, 6)]
    assert kept.round_variances == [turns.reduced()[1].round_variance for turns in generations.values()]
    assert kept.steps == dict.fromkeys(ARMS, 2)
    assert (kept.failed, kept.next_number) == ({}, 3)


def test_an_arm_s_figures_are_of_an_epoch_by_the_names_that_whole_runs_have(
    store: mlflow.MlflowClient, plan: AblationPlan
) -> None:
    with parent_run(ABLATION) as parent:
        record(parent, plan, 1, turns_of(WORTH, noise=0.0, process_sd=0.0, host_peak_mib=700.0))
        figures = kept_generations(parent, plan).measured["channels_last"][1]
        run = children(parent)["1", "channels_last"]
    epoch_s = figures["seconds_per_image"] * IMAGES_PER_EPOCH
    assert figures["mean_epoch_s"] == pytest.approx(epoch_s)
    assert figures["mean_images_per_s"] == pytest.approx(1 / figures["seconds_per_image"])
    assert figures["peak_host_mib"] == 700.0
    assert "mean_gpu_joules" not in figures and "peak_gpu_reserved_mib" not in figures  # they were not captured
    stretch_s = IMAGES * 0.01 * math.exp(-0.2)
    for phase, share in SHARES.items():
        assert figures[f"mean_{phase}_s"] == pytest.approx(share * stretch_s / IMAGES * IMAGES_PER_EPOCH)
    assert run.settings["techniques"] == "channels_last" and run.tags[DEVICE] == plan.seen.device_key


def test_every_stretch_is_there_in_its_round_and_its_place(
    store: mlflow.MlflowClient, plan: AblationPlan, tmp_path: Path
) -> None:
    turns = turns_of(WORTH, rounds=3)
    with parent_run(ABLATION) as parent:
        parent.join("the-ablation", parent.study_id, *labels(plan))
        for number in (1, 2):
            record(parent, plan, number, turns)
        write_tables(tmp_path, parent.store, ablation_of(parent))
    with (tmp_path / "stretches.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * len(ARMS)
    for number, turn in enumerate(turns.rounds, 1):
        found = [row for row in rows if (row["generation"], row["round"]) == ("1", str(number))]
        assert [row["arm"] for row in found] == list(turn)
        assert [float(row["place"]) for row in found] == [1.0, 2.0, 3.0, 4.0]
        assert [float(row["train_s"]) for row in found] == [cost.train_s for cost in turn.values()]
        assert {float(row["images"]) for row in found} == {IMAGES}


def test_arms_that_were_held_in_pairs_are_recorded_once(store: mlflow.MlflowClient, plan: AblationPlan) -> None:
    pairs = [turns_of({"baseline": 0.0, arm: WORTH[arm]}, seed=n, noise=0.0) for n, arm in enumerate(ARMS[1:])]
    with parent_run(ABLATION) as parent:
        record(parent, plan, 1, *pairs)
        kept = kept_generations(parent, plan)
        assert len(children(parent)) == len(ARMS)
    for pair, arm in zip(pairs, ARMS[1:], strict=True):
        arms, reduced = pair.reduced()
        expected = reduced.locations[arms.index(arm)] - reduced.locations[arms.index("baseline")]
        found = seconds_of(kept)
        assert math.log(found[arm][1] / found["baseline"][1]) == pytest.approx(expected)
    assert kept.spent[0].start_s == sum(pair.start_s for pair in pairs)


# --- cut short ---


def cut_short(parent: ParentRun, plan: AblationPlan, number: int, written: Mapping[str, str | None]) -> None:
    """What a start that was killed leaves, after the next one has closed it. `written`: arm -> its outcome."""
    for arm, outcome in written.items():
        tags = {ARM: arm, BLOCK: str(number), DEVICE: plan.seen.device_key}
        run_id = parent.start_child(f"{arm}, generation {number}", ARM_STRETCHES, tags)
        if outcome is not None:
            parent.end_child(run_id, outcome)


@pytest.mark.parametrize(
    "written",
    [
        {"baseline": "interrupted"},
        {"baseline": "completed", "baseline again": "completed", "channels_last": "interrupted"},
        dict.fromkeys(ARMS[:3], "completed"),
        dict.fromkeys(ARMS, "interrupted"),
    ],
    ids=["at its first arm", "while it was closed", "before its last arm", "before it was closed"],
)
def test_a_generation_that_was_cut_short_counts_for_nothing_and_keeps_its_number(
    store: mlflow.MlflowClient, plan: AblationPlan, written: dict[str, str | None]
) -> None:
    with parent_run(ABLATION) as parent:
        record(parent, plan, 1, turns_of(WORTH, seed=1))
        before = kept_generations(parent, plan)
        cut_short(parent, plan, 2, written)
        kept = kept_generations(parent, plan)
        assert seconds_of(kept) == seconds_of(before)
        assert (len(kept.spent), kept.failed) == (1, {})
        assert (before.next_number, kept.next_number) == (2, 3)
        record(parent, plan, 3, turns_of(WORTH, seed=3))
        after = kept_generations(parent, plan)
    assert {tuple(blocks) for blocks in after.measured.values()} == {(1, 3)}
    assert (len(after.spent), after.next_number) == (2, 4)


@pytest.mark.parametrize("error", [DIVERGED, MemoryExhaustedError("x", 1, "a", "b"), AccelmlfError("x", 1, "a", "b")])
def test_an_arm_that_failed_is_out_and_the_generations_of_the_others_count(
    store: mlflow.MlflowClient, plan: AblationPlan, error: AccelmlfError
) -> None:
    with parent_run(ABLATION) as parent:
        record(parent, plan, 1, turns_of(WORTH, seed=1))
        record(parent, plan, 2, turns_of(WORTH, seed=2, failed={"amp:bf16": error}))
        fewer = {arm: worth for arm, worth in WORTH.items() if arm != "amp:bf16"}
        record(parent, plan, 3, turns_of(fewer, seed=3))
        kept = kept_generations(parent, plan)
        failed = children(parent)["2", "amp:bf16"]
    assert kept.failed == {"amp:bf16": error.outcome}
    assert Measurement(plan, kept).arms == list(fewer)
    assert {arm: list(blocks) for arm, blocks in kept.measured.items()} == {
        **{arm: [1, 2, 3] for arm in fewer},
        "amp:bf16": [1],
    }
    assert len(kept.spent) == 3
    assert failed.outcome == error.outcome and failed.tags["accelmlf.error"] == str(error)
    assert error.outcome in (*FAILED_FOR_GOOD, "failed")


def test_what_two_devices_have_measured_under_one_number_is_no_generation(
    store: mlflow.MlflowClient, plan: AblationPlan
) -> None:
    with parent_run(ABLATION) as parent:
        for arm, device in zip(ARMS, ("GPU-1", "GPU-1", "GPU-2", "GPU-2"), strict=True):
            tags = {ARM: arm, BLOCK: "1", DEVICE: device}
            parent.end_child(parent.start_child(arm, ARM_STRETCHES, tags), "completed")
        assert kept_generations(parent, plan).spent == []
        record(parent, plan, 2, turns_of(WORTH))  # the control
        assert len(kept_generations(parent, plan).spent) == 1


# --- what it says ---


def whole(parent: ParentRun, plan: AblationPlan, worth: Mapping[str, float] = WORTH, generations: int = 5) -> Ablation:
    parent.join("the-ablation", parent.study_id, *labels(plan))
    for number in range(1, generations + 1):
        record(parent, plan, number, turns_of(worth, seed=number, rounds=10, process_sd=0.003))
    return ablation_of(parent)


def test_verdicts_are_read_off_the_generations(store: mlflow.MlflowClient, plan: AblationPlan) -> None:
    with parent_run(ABLATION) as parent:
        ablation = whole(parent, plan)
    assert (ablation.num_blocks, ablation.num_runs, ablation.num_planned) == (5, 20, 20)
    verdicts = {c.name: [effect.verdict for effect in ablation.judged(c)] for c in ablation.design.contrasts}
    assert verdicts == {"channels_last": ["faster"], "amp:bf16": ["the same within 2 %"]}
    assert ablation.null_effect is not None and ablation.null_effect.verdict == "the same within 2 %"
    assert not [text for text in unfit(ablation) if "against itself" in text]
    assert ablation.generation_variance is not None and 0.001 < ablation.generation_variance**0.5 < 0.02
    first, noise = how_measured(ablation)[:2]
    assert first.startswith("5 generations of 4 fresh processes, 10 rounds each, stretches of 2 steps")
    assert "baseline against itself is " in noise and "to which its process contributes " in noise
    text = "\n".join(as_lines(ablation))
    assert "channels_last\n    speed" in text and "no verdict" not in text


def test_what_stalls_by_itself_is_told_where_plain_means_show_another_speed(
    store: mlflow.MlflowClient, plan: AblationPlan
) -> None:
    with parent_run(ABLATION) as parent:
        parent.join("the-ablation", parent.study_id, *labels(plan))
        for number in range(1, 5):
            turns = turns_of(WORTH, seed=number, rounds=10, process_sd=0.003)
            late = turns.rounds[number]["amp:bf16"]
            turns.rounds[number] = {**turns.rounds[number], "amp:bf16": replace(late, train_s=8 * late.train_s)}
            record(parent, plan, number, turns)
        ablation = ablation_of(parent)
    (stalls,) = [line for line in how_measured(ablation) if line.startswith("stalls: ")]
    assert "amp:bf16 comes out 0.59x" in stalls and "one of its arms stalls more than the other" in stalls
    assert ablation.judged(ablation.design.contrasts[-1])[0].verdict is not None


@pytest.mark.parametrize(("factor", "is_told"), [(1.0, False), (1.3, True)])
def test_an_arm_that_trains_otherwise_alone_for_a_while_is_told(
    store: mlflow.MlflowClient, plan: AblationPlan, factor: float, is_told: bool
) -> None:
    with parent_run(ABLATION) as parent:
        parent.join("the-ablation", parent.study_id, *labels(plan))
        for number in range(1, 5):
            turns = turns_of(WORTH, seed=number, rounds=10, noise=0.03, process_sd=0.003)
            if number == 4:
                costs = {arm: math.exp(-worth) for arm, worth in WORTH.items()} | {"amp:bf16": factor}
                turns.long_blocks.update({arm: Cost(seconds, {}, 100) for arm, seconds in costs.items()})
            record(parent, plan, number, turns)
        ablation = ablation_of(parent)
    told = [line for line in how_measured(ablation) if line.startswith("not at its own steady state")]
    assert bool(told) == is_told
    assert not is_told or "amp:bf16 is 0.77x, outside of its interval" in told[0]


@pytest.mark.parametrize(
    ("budget", "long_block_s", "expected_s"),
    [(10_000.0, 60.0, 0.0), (0.5, 1.0, 1.0), (0.5, 60.0, pytest.approx(30.0 / 4 / len(ARMS)))],
    ids=["others follow", "the last", "no more than a quarter of the budget"],
)
def test_a_gpu_trains_alone_for_a_while_after_the_last_generation_alone(
    plan: AblationPlan, monkeypatch: pytest.MonkeyPatch, budget: float, long_block_s: float, expected_s: float
) -> None:
    measurement = Measurement(replace(plan, ablate=replace(plan.ablate, budget=budget)), kept_of([], ARMS))
    turns = turns_of(WORTH)
    assert measurement.long_s(turns) == 0.0  # on a CPU
    monkeypatch.setitem(LONG_BLOCK_S, "cpu", long_block_s)
    assert measurement.long_s(turns) == expected_s
    assert measurement.long_s(turns_of({"baseline": 0.0, "amp:bf16": 0.0})) == 0.0  # some of the arms


def test_what_an_arm_leaves_to_the_next_is_told_and_whether_that_is_shown(
    store: mlflow.MlflowClient, plan: AblationPlan
) -> None:
    with parent_run(ABLATION) as parent:
        ablation = whole(parent, plan)
    (told,) = [line for line in how_measured(ablation) if line.startswith("carry-over: after ")]
    assert told.endswith("not shown to be more than noise")
    assert not [line for line in how_measured(ablation) if line.startswith("stalls: ")]  # the control


def test_three_generations_are_needed_for_a_verdict(store: mlflow.MlflowClient, plan: AblationPlan) -> None:
    with parent_run(ABLATION) as parent:
        ablation = whole(parent, plan, generations=2)
    for contrast in ablation.design.contrasts:
        (effect,) = ablation.judged(contrast)
        assert effect.verdict is None
        assert effect.in_words.endswith("no verdict with fewer than 3 generations")
    assert "2 generations, 3 are needed" in unfit(ablation)


def test_an_arm_that_differs_from_itself_speaks_against_all_of_it(
    store: mlflow.MlflowClient, plan: AblationPlan
) -> None:
    with parent_run(ABLATION) as parent:
        ablation = whole(parent, plan, WORTH | {"baseline again": 0.1})
    (against,) = [text for text in unfit(ablation) if text.startswith("baseline against itself is ")]
    assert against.startswith("baseline against itself is faster: 1.1") and "the machine was not steady" in against
    assert against.endswith("or this is chance, as in 2.5 of 100 measurements")  # 5 in 100, and two contrasts
    assert "the machine was not steady" in as_markdown(ablation)


def test_an_ablation_of_which_no_generation_is_complete_says_so(store: mlflow.MlflowClient, plan: AblationPlan) -> None:
    with parent_run(ABLATION) as parent:
        parent.join("the-ablation", parent.study_id, *labels(plan))
        cut_short(parent, plan, 1, {"baseline": "interrupted"})
        ablation = ablation_of(parent)
    assert (ablation.num_runs, ablation.runs) == (0, {})
    assert as_markdown(ablation) and as_lines(ablation)
