"""The plan of an ablation: what its runs have in common, what each arm and block sets, and what is kept of it."""

import shlex
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import mlflow
import pytest

from accelmlf.ablation import announce, in_words, labels, places_done
from accelmlf.ablation_plan import AblationPlan, refuse
from accelmlf.ablation_result import ARM, ASKED, DEVICE, Asked
from accelmlf.config import RunConfig, parse_setting, settable_fields
from accelmlf.designs import (
    ACCUMULATION,
    SAME_EFFECTIVE_BATCH,
    SET_BY_ABLATION,
    AblateConfig,
    Arm,
    settings_of,
)
from accelmlf.errors import ConfigError
from accelmlf.family import Family
from accelmlf.preflight import Preflight, look
from accelmlf.processes import identity
from accelmlf.recipes import resolve
from accelmlf.stored_runs import ABLATION, ARM_RUN, BLOCK, OWNER
from accelmlf.tracking import MlflowTracker

GIVEN: dict[str, Any] = {"save_model": False, "model": "vit", "device": "cpu", "train_images": 100, "epochs": 2}
FACTORS = (ACCUMULATION, "channels_last")
ARMS = ("baseline", *FACTORS, "all")


@pytest.fixture(scope="module")
def seen() -> Preflight:
    return look(resolve(GIVEN), False)


def plan_of(
    seen: Preflight,
    design: str = "one_at_a_time",
    factors: Sequence[str] = FACTORS,
    repeats: int = 3,
    clash: str | None = None,
    left_out: Sequence[str] = (),
    **given: Any,
) -> AblationPlan:
    """A plan of what is known of a machine already."""
    given = GIVEN | given
    config = replace(resolve({**given, "techniques": given.get("techniques", "none")}), device=seen.config.device)
    config = replace(config, arm=resolve(given).arm, techniques_given="techniques" in given)
    asked = Asked(design=design, factors=tuple(factors), clash=clash, repeats=repeats, left_out=tuple(left_out))
    ablate = AblateConfig(factors=None if design == "preset" else ",".join(factors), design=design, repeats=repeats)
    configs = {arm.name: resolve({**given, **settings_of(arm, config)}) for arm in asked.as_design().arms}
    return AblationPlan(ablate=ablate, given=given, seen=replace(seen, config=config), asked=asked, configs=configs)


def differing(one: RunConfig, other: RunConfig) -> set[str]:
    texts, others = one.as_texts(), other.as_texts()
    return {name for name in texts if texts[name] != others[name]}


def arm_of(plan: AblationPlan, name: str) -> Arm:
    return next(arm for arm in plan.asked.as_design().arms if arm.name == name)


# --- runs ---


@pytest.mark.parametrize(
    ("design", "factors"),
    [
        ("one_at_a_time", (*FACTORS, SAME_EFFECTIVE_BATCH, "amp:bf16")),
        ("leave_one_out", FACTORS),
        ("factorial", FACTORS),
        ("preset", ("tuned",)),
    ],
)
def test_arms_differ_in_what_their_factors_stand_for_and_in_nothing_else(
    seen: Preflight, design: str, factors: tuple[str, ...]
) -> None:
    plan = plan_of(seen, design, factors)
    allowed = {
        ACCUMULATION: {"accumulation_steps", "effective_batch_size", "learning_rate"},
        SAME_EFFECTIVE_BATCH: {"accumulation_steps", "batch_size"},
        "tuned": {"tuned", "accumulation_steps", "effective_batch_size", "learning_rate", "techniques"},
    }
    base = plan.config_of(Arm("untuned" if design == "preset" else "baseline", ()), 0)
    looks = set()
    for arm in plan.asked.as_design().arms:
        config = plan.config_of(arm, 0)
        expected = set().union(*(allowed.get(factor, {"techniques"}) for factor in arm.factors))
        assert differing(config, base) - {"arm"} == expected
        assert not config.save_model
        assert config.device == "cpu"
        looks.add((config.techniques, config.batch_size, config.accumulation_steps))
    assert len(looks) == len(plan.asked.as_design().arms)


def test_the_runs_of_a_block_share_a_seed_and_those_of_two_blocks_do_not(seen: Preflight) -> None:
    plan = plan_of(seen, seed=5)
    for block in range(3):
        seeds = {plan.config_of(arm, block).seed for arm in plan.asked.as_design().arms}
        assert seeds == {5 + block}


def test_the_seeds_begin_again_after_the_last_there_is(seen: Preflight) -> None:
    plan = plan_of(seen, seed=2**32 - 1)
    assert [plan.config_of(arm_of(plan, "all"), block).seed for block in range(3)] == [2**32 - 1, 0, 1]


def test_accumulation_by_itself_leaves_the_effective_batch_and_the_learning_rate(seen: Preflight) -> None:
    plan = plan_of(seen, factors=(ACCUMULATION, SAME_EFFECTIVE_BATCH))
    arms = {arm.name: plan.config_of(arm, 0) for arm in plan.asked.as_design().arms}
    base, like_recipe, same = arms["baseline"], arms[ACCUMULATION], arms[SAME_EFFECTIVE_BATCH]
    assert (same.batch_size, same.accumulation_steps) == (base.batch_size // 2, 2)
    assert (same.effective_batch_size, same.learning_rate) == (base.effective_batch_size, base.learning_rate)
    assert like_recipe.effective_batch_size == 2 * base.effective_batch_size  # the control: the recipe's way
    assert like_recipe.learning_rate > base.learning_rate


def test_a_learning_rate_that_was_given_is_that_of_every_arm(seen: Preflight) -> None:
    plan = plan_of(seen, learning_rate=0.0123)
    assert {config.learning_rate for config in plan.configs.values()} == {0.0123}
    assert len({config.learning_rate for config in plan_of(seen).configs.values()}) == 2  # the control


def test_techniques_that_were_given_are_on_in_every_arm(seen: Preflight) -> None:
    plan = plan_of(seen, factors=("amp:bf16",), techniques="channels_last")
    words = {arm: config.techniques.split(",") for arm, config in plan.configs.items()}
    assert words == {"baseline": ["channels_last"], "amp:bf16": ["channels_last", "amp:bf16"]}


def test_a_run_is_described_by_its_arm_and_what_that_makes_of_it(seen: Preflight) -> None:
    plan = plan_of(seen, seed=7)
    text = in_words(arm_of(plan, "all"), plan.configs["all"], 8)
    assert text == "all (batch 32 x 2, techniques channels_last, seed 8)"


# --- which ablation it is ---


def test_the_same_command_is_the_same_ablation(seen: Preflight) -> None:
    assert plan_of(seen).study_id() == plan_of(seen).study_id()
    assert len(plan_of(seen).study_id()) == 16


@pytest.mark.parametrize(
    "other",
    [
        {"design": "factorial"},
        {"factors": (ACCUMULATION,)},
        {"factors": FACTORS[::-1]},
        {"epochs": 3},
        {"seed": 1},
        {"train_images": 90},
        {"target_accuracy": 0.5},
        {"pipeline": "stream"},
        {"batch_size": 16},
        {"learning_rate": 0.002},
        {"techniques": "amp:bf16"},
        {"validation": "test"},
        {"stop_at_target": True},
        {"image_size": 16},
        {"model": "resnet50"},
        {"weights": "pretrained"},
    ],
    ids=",".join,
)
def test_another_setting_is_another_ablation(seen: Preflight, other: dict[str, Any]) -> None:
    assert plan_of(seen, **other).study_id() != plan_of(seen).study_id()


@pytest.mark.parametrize(
    "other",
    [{"repeats": 5}, {"data_dir": "/elsewhere"}, {"save_model": True}, {"device": "auto"}, {"left_out": ("x (y)",)}],
    ids=",".join,
)
def test_what_changes_no_measurement_leaves_it_the_same_ablation(seen: Preflight, other: dict[str, Any]) -> None:
    assert plan_of(seen, **other).study_id() == plan_of(seen).study_id()


def elsewhere(seen: Preflight, part: str, **facts: Any) -> Preflight:
    return replace(seen, environment={**seen.environment, part: {**seen.environment[part], **facts}})


@pytest.mark.parametrize(
    ("part", "facts"),
    [
        ("hardware", {"cpu": "another processor"}),
        ("hardware", {"cpu_threads_used": 99}),
        ("hardware", {"gpu": "H100"}),
        ("hardware", {"gpu": "H100", "cudnn": 1}),
        ("versions", {"torch": "9.9"}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_what_was_measured_on_other_hardware_or_software_is_another_ablation(
    seen: Preflight, part: str, facts: dict[str, Any]
) -> None:
    assert plan_of(elsewhere(seen, part, **facts)).study_id() != plan_of(seen).study_id()


def test_other_data_are_another_ablation_wherever_they_lie(seen: Preflight) -> None:
    assert plan_of(replace(seen, data_digest="other")).study_id() != plan_of(seen).study_id()


def test_another_kind_of_device_is_another_ablation_though_the_machine_is_the_same(seen: Preflight) -> None:
    """Of mps the hardware has no name of its own."""
    other = replace(seen, config=replace(seen.config, device="mps"))
    assert plan_of(other).study_id() != plan_of(seen).study_id()


def test_another_gpu_of_the_same_kind_is_the_same_ablation(seen: Preflight) -> None:
    gpu = elsewhere(seen, "hardware", gpu="H100")
    first, second = (replace(gpu, config=replace(gpu.config, device=f"cuda:{number}")) for number in (0, 1))
    assert plan_of(first).study_id() == plan_of(second).study_id()


# --- what it says of itself ---


def typed(line: str) -> tuple[AblateConfig, RunConfig]:
    """The ablation that a command line stands for, and the settings of its runs."""
    script, *words = shlex.split(line)
    assert (script, *words[:2]) == ("scripts/run", "-e", "ablate")
    assert set(words[2::2]) == {"-P"}
    pairs = [word.split("=", 1) for word in words[3::2]]
    texts = dict(pairs)
    assert len(texts) == len(pairs)
    own = {name: texts.pop(name) for name in [*texts] if name in settable_fields(AblateConfig)}
    record = AblateConfig(**{name: parse_setting(name, text, AblateConfig) for name, text in own.items()})  # type: ignore[arg-type]
    return record, resolve({name: parse_setting(name, text) for name, text in texts.items()})


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"repeats": 7, "design": "leave_one_out"},
        {"design": "factorial", "seed": 9, "pipeline": "stream"},
        {"design": "preset", "factors": ("tuned",)},
        {"model": "resnet50", "learning_rate": 1e-05, "techniques": "amp:bf16"},
        {"data_dir": "/data/my 'own' pictures; rm", "target_accuracy": 0.25, "train_images": 99},
    ],
    ids=",".join,
)
def test_the_command_that_repeats_it_stands_for_the_same_ablation(seen: Preflight, asked: dict[str, Any]) -> None:
    plan = plan_of(seen, **asked)
    ablate, base = typed(plan.command())
    assert ablate == plan.ablate
    assert differing(base, resolve(plan.given)) <= {"save_model"}


def test_the_labels_of_the_parent_are_the_settings_that_all_runs_share_and_what_was_asked(seen: Preflight) -> None:
    plan = plan_of(seen, left_out=("pin_memory (no CUDA)",))
    params, tags = labels(plan)
    assert not params.keys() & SET_BY_ABLATION.keys()  # they are the arms'
    assert (params["design"], params["factors"], params["repeats"]) == ("one_at_a_time", ",".join(FACTORS), "3")
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


def test_factors_that_cannot_be_on_together_are_said_and_have_no_arm(
    seen: Preflight, capsys: pytest.CaptureFixture[str]
) -> None:
    clash = "resident replaces workers, which would do nothing"
    announce(plan_of(seen, factors=("workers:1", "resident"), clash=clash))
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"  there is no arm with all of them: {clash}"
    assert "interleaved: 9 runs" in out and "\n  all " not in out


@pytest.mark.parametrize("name", ["techniques", "batch_size"])
def test_what_the_preset_sets_cannot_be_given_beside_it(name: str) -> None:
    given = {**GIVEN, name: "amp" if name == "techniques" else 16}
    with pytest.raises(ConfigError, match=f"^{name}=.*: design=preset compares the recipe's own arms") as error:
        refuse(AblateConfig(design="preset"), given)
    assert error.value.exit_code == 2
    refuse(AblateConfig(), given)  # the control
    refuse(AblateConfig(design="preset"), GIVEN)


# --- what is kept, in a real store ---


@contextmanager
def family() -> Iterator[Family]:
    with MlflowTracker().run() as parent:
        opened = Family(parent, ABLATION, "the-study", uuid.uuid4().hex)
        opened.log_settings({}, {})
        yield opened


def ran(
    own: Family,
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
        own.client.set_tag(run_id, OWNER, owner)
    if outcome is not None:
        own.end_child(run_id, outcome)
    return run_id


def of_another(part: int) -> str:
    """A process of another machine (0), or of another start of this one (1)."""
    parts = identity().split("/")
    parts[part] = "another"
    return "/".join(parts)


def kept(own: Family, seen: Preflight) -> dict[int, set[str]]:
    done = places_done(own, plan_of(seen).asked.as_design().arms, "cpu")
    return {block: {arm for own_block, arm in done if own_block == block} for block, _ in done}


def test_finished_runs_are_kept_block_by_block(store: mlflow.MlflowClient, seen: Preflight) -> None:
    with family() as own:
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
    with family() as own:
        ran(own, "baseline", 0)
        ran(own, **{"arm": "all", "block": 0, **spoil})
        assert kept(own, seen) == {0: {"baseline"}}
        ran(own, "all", 0)  # the control
        assert kept(own, seen) == {0: {"baseline", "all"}}


def test_a_miss_of_the_target_is_kept(store: mlflow.MlflowClient, seen: Preflight) -> None:
    with family() as own:
        ran(own, "baseline", 0, outcome="target_not_reached")
        assert kept(own, seen) == {0: {"baseline"}}


@pytest.mark.parametrize("outcome", ["diverged", "out_of_memory"])
def test_what_fails_by_its_settings_is_not_tried_until_it_passes(
    store: mlflow.MlflowClient, seen: Preflight, outcome: str
) -> None:
    with family() as own:
        ran(own, "all", 0, outcome=outcome)
        ran(own, "baseline", 0, outcome=outcome, owner=of_another(0))  # that machine may have had less memory
        assert kept(own, seen) == {0: {"all"}}


def test_what_this_machine_has_run_before_it_was_started_again_is_kept(
    store: mlflow.MlflowClient, seen: Preflight
) -> None:
    with family() as own:
        ran(own, "baseline", 0, owner=of_another(1))
        assert kept(own, seen) == {0: {"baseline"}}


def test_a_whole_block_of_another_machine_is_kept_and_of_a_part_nothing(
    store: mlflow.MlflowClient, seen: Preflight
) -> None:
    there = of_another(0)
    with family() as own:
        for arm in ARMS[:3]:
            ran(own, arm, 0, owner=there)
        ran(own, "baseline", 0)
        assert kept(own, seen) == {0: {"baseline"}}
        ran(own, ARMS[3], 0, owner=there)  # now it is whole
        assert kept(own, seen) == {0: set(ARMS)}


def test_of_a_block_that_another_device_of_this_machine_has_begun_nothing_is_kept(
    store: mlflow.MlflowClient, seen: Preflight
) -> None:
    with family() as own:
        for arm in ARMS[:3]:
            ran(own, arm, 0, device="GPU-1")
        assert kept(own, seen) == {}
        ran(own, "baseline", 0)
        assert kept(own, seen) == {0: {"baseline"}}
        ran(own, ARMS[3], 0, device="GPU-1")  # now it is whole
        assert kept(own, seen) == {0: set(ARMS)}


def test_runs_of_another_ablation_are_not_this_one_s(store: mlflow.MlflowClient, seen: Preflight) -> None:
    with family() as other:
        ran(other, "baseline", 0)
    with family() as own:
        assert kept(own, seen) == {}
