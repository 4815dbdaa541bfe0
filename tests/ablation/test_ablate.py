"""What an ablation says of itself, and what it keeps of earlier starts, in a real store."""

from typing import Any

import mlflow
import pytest

from accelmlf.ablation.ablate import announce, in_words, labels, places_done
from accelmlf.ablation.designs import Asked
from accelmlf.ablation.settings import SET_BY_ABLATION, STEPS
from accelmlf.machine.processes import identity
from accelmlf.many_runs.preflight import Preflight
from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.tags import ABLATION, ARM, ARM_RUN, ASKED, BLOCK, DEVICE, OWNER
from tests.ablation.plan_makers import ARMS, FACTORS, arm_of, plan_of
from tests.tracking.makers import parent_run


def test_a_run_is_described_by_its_arm_and_what_that_makes_of_it(seen: Preflight) -> None:
    plan = plan_of(seen, seed=7)
    text = in_words(arm_of(plan, "all"), plan.configs["all"], 8)
    assert text == "all (batch 32 x 2, techniques channels_last, seed 8)"


def test_the_labels_of_the_parent_are_the_settings_that_all_runs_share_and_what_was_asked(seen: Preflight) -> None:
    plan = plan_of(seen, left_out=("pin_memory (no CUDA)",))
    params, tags = labels(plan)
    assert not params.keys() & SET_BY_ABLATION.keys()  # they are the arms'
    assert (params["design"], params["factors"], params["repeats"]) == ("one_at_a_time", ",".join(FACTORS), "3")
    assert (params["measure"], "precision" in params) == ("runs", False)
    assert (params["epochs"], params["train_images"], params["save_model"]) == ("2", "100", "false")
    for name, text in plan.base.as_texts().items():
        assert tags[f"accelmlf.config.{name}"] == text
    assert Asked.from_json(tags[ASKED]) == plan.asked
    assert tags["accelmlf.command"] == plan.command()
    assert tags["accelmlf.data_digest"] == seen.data_digest
    assert tags["accelmlf.version.torch"] == seen.environment["versions"]["torch"]
    assert all(isinstance(text, str) for text in (*params.values(), *tags.values()))


def test_what_is_about_to_be_measured_is_said(seen: Preflight, capsys: pytest.CaptureFixture[str]) -> None:
    announce(plan_of(seen, left_out=("pin_memory (it needs CUDA)",)))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "ablation of accumulation, channels_last: vit on digits (memory)",
        "one at a time, 3 repeats of 4 arms, interleaved: 12 runs of 2 epochs on cpu",
        "baseline batch 32 x 1, learning rate 0.001, techniques none",
        "accumulation batch 32 x 2, learning rate 0.00141421, techniques none",
        "channels_last batch 32 x 1, learning rate 0.001, techniques channels_last",
        "all batch 32 x 2, learning rate 0.00141421, techniques channels_last",
        "left out: pin_memory (it needs CUDA)",
    ]


def test_of_a_measurement_in_stretches_the_labels_and_the_words_are_of_its_precision(
    seen: Preflight, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(seen, measure=STEPS)
    params, tags = labels(plan)
    assert (params["measure"], params["precision"], "repeats" in params) == ("steps", "0.02", False)
    assert Asked.from_json(tags[ASKED]) == plan.asked
    announce(plan)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == (
        "one at a time, 5 arms in short stretches of steps, in generations of fresh processes, until every interval "
        "is within 2.0%, or for 12 min, on cpu"
    )
    assert [line.partition(" batch")[0] for line in lines[2:]] == ["baseline", "baseline again", *ARMS[1:]]


def test_factors_that_cannot_be_on_together_are_said_and_have_no_arm(
    seen: Preflight, capsys: pytest.CaptureFixture[str]
) -> None:
    clash = "resident replaces workers, which would do nothing"
    announce(plan_of(seen, factors=("workers:1", "resident"), clash=clash))
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"  there is no arm with all of them: {clash}"
    assert "interleaved: 9 runs" in out and "\n  all " not in out


def ran(
    own: ParentRun,
    arm: str,
    block: int,
    *,
    outcome: str | None = "completed",
    owner: str | None = None,
    kind: str = ARM_RUN,
    device: str = "cpu",
) -> str:
    """A run as `measure` leaves it; None for one that is still open."""
    run_id = own.start_child(f"{arm}, seed {block}", kind, {ARM: arm, BLOCK: str(block), DEVICE: device})
    if owner is not None:
        own.store.client.set_tag(run_id, OWNER, owner)
    if outcome is not None:
        own.end_child(run_id, outcome)
    return run_id


def of_another(part: int) -> str:
    """A process of another machine (0), or of another start of this one (1)."""
    parts = identity().split("/")
    parts[part] = "another"
    return "/".join(parts)


def kept(own: ParentRun, seen: Preflight) -> dict[int, set[str]]:
    done = places_done(own, plan_of(seen).asked.as_design().arms, "cpu")
    return {block: {arm for own_block, arm in done if own_block == block} for block, _ in done}


def test_finished_runs_are_kept_block_by_block(store: mlflow.MlflowClient, seen: Preflight) -> None:
    with parent_run(ABLATION) as own:
        assert kept(own, seen) == {}
        for arm, block in (("all", 0), ("baseline", 0), ("all", 1)):
            ran(own, arm, block)
        assert kept(own, seen) == {0: {"all", "baseline"}, 1: {"all"}}


@pytest.mark.parametrize(
    "spoil",
    [
        {"outcome": "interrupted"},
        {"outcome": "failed"},
        {"outcome": None},
        {"owner": of_another(0)},
        {"device": "GPU-1"},
        {"kind": "trial"},
        {"arm": "tf32"},
    ],
    ids=[
        "killed",
        "failed",
        "still open",
        "of another machine",
        "of another device",
        "of another kind",
        "of another arm",
    ],
)
def test_what_cannot_stand_for_an_arm_is_run_again(
    store: mlflow.MlflowClient, seen: Preflight, spoil: dict[str, Any]
) -> None:
    with parent_run(ABLATION) as own:
        ran(own, "baseline", 0)
        ran(own, **{"arm": "all", "block": 0, **spoil})
        assert kept(own, seen) == {0: {"baseline"}}
        ran(own, "all", 0)  # the control
        assert kept(own, seen) == {0: {"baseline", "all"}}


def test_a_miss_of_the_target_is_kept(store: mlflow.MlflowClient, seen: Preflight) -> None:
    with parent_run(ABLATION) as own:
        ran(own, "baseline", 0, outcome="target_not_reached")
        assert kept(own, seen) == {0: {"baseline"}}


@pytest.mark.parametrize("outcome", ["diverged", "out_of_memory"])
def test_what_fails_by_its_settings_is_not_tried_until_it_passes(
    store: mlflow.MlflowClient, seen: Preflight, outcome: str
) -> None:
    with parent_run(ABLATION) as own:
        ran(own, "all", 0, outcome=outcome)
        ran(own, "baseline", 0, outcome=outcome, owner=of_another(0))  # that machine may have had less memory
        assert kept(own, seen) == {0: {"all"}}


def test_what_this_machine_has_run_before_it_was_started_again_is_kept(
    store: mlflow.MlflowClient, seen: Preflight
) -> None:
    with parent_run(ABLATION) as own:
        ran(own, "baseline", 0, owner=of_another(1))
        assert kept(own, seen) == {0: {"baseline"}}


def test_a_whole_block_of_another_machine_is_kept_and_of_a_part_nothing(
    store: mlflow.MlflowClient, seen: Preflight
) -> None:
    there = of_another(0)
    with parent_run(ABLATION) as own:
        for arm in ARMS[:3]:
            ran(own, arm, 0, owner=there)
        ran(own, "baseline", 0)
        assert kept(own, seen) == {0: {"baseline"}}
        ran(own, ARMS[3], 0, owner=there)  # now it is whole
        assert kept(own, seen) == {0: set(ARMS)}


def test_of_a_block_that_another_device_of_this_machine_has_begun_nothing_is_kept(
    store: mlflow.MlflowClient, seen: Preflight
) -> None:
    with parent_run(ABLATION) as own:
        for arm in ARMS[:3]:
            ran(own, arm, 0, device="GPU-1")
        assert kept(own, seen) == {}
        ran(own, "baseline", 0)
        assert kept(own, seen) == {0: {"baseline"}}
        ran(own, ARMS[3], 0, device="GPU-1")  # now it is whole
        assert kept(own, seen) == {0: set(ARMS)}


def test_runs_of_another_ablation_are_not_this_one_s(store: mlflow.MlflowClient, seen: Preflight) -> None:
    with parent_run(ABLATION) as other:
        ran(other, "baseline", 0)
    with parent_run(ABLATION) as own:
        assert kept(own, seen) == {}
