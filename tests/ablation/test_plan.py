"""What the arms of an ablation set, and which ablations are the same."""

import shlex
from dataclasses import replace
from typing import Any

import pytest

from accelmlf.ablation.designs import Arm
from accelmlf.ablation.factors import ACCUMULATION, SAME_EFFECTIVE_BATCH
from accelmlf.ablation.plan import speed_key
from accelmlf.ablation.settings import AblateConfig
from accelmlf.many_runs.preflight import Preflight
from accelmlf.settings.fields import parse_setting, settable_fields
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig
from tests.ablation.plan_makers import FACTORS, arm_of, differing, plan_of


@pytest.mark.parametrize(
    ("design", "factors"),
    [
        ("one_at_a_time", (*FACTORS, SAME_EFFECTIVE_BATCH, "amp:bf16")),
        ("leave_one_out", FACTORS),
        ("factorial", FACTORS),
        ("alone", FACTORS),
        ("with_preset", FACTORS),
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


def test_runs_in_which_epochs_are_counted_end_with_the_target_and_whole_runs_do_not(seen: Preflight) -> None:
    counted, whole = plan_of(seen, measure="steps"), plan_of(seen)
    for arm in whole.asked.as_design().arms:
        config, of_whole = counted.config_of(arm, 1), whole.config_of(arm, 1)
        assert differing(config, of_whole) == {"stop_at_target"}
        assert config.stop_at_target and not of_whole.stop_at_target
    assert plan_of(seen, stop_at_target=True).config_of(arm_of(whole, "all"), 0).stop_at_target  # as was asked for


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        ({"epochs": 3}, True),
        ({"learning_rate": 0.002}, True),
        ({"target_accuracy": 0.5}, True),
        ({"stop_at_target": True}, True),
        ({"techniques": "fused_optimizer"}, True),
        ({"seed": 1}, True),
        ({"batch_size": 16}, False),
        ({"model": "resnet50"}, False),
        ({"pipeline": "stream"}, False),
        ({"image_size": 16}, False),
        ({"train_images": 90}, False),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_techniques_may_be_chosen_by_a_measurement_whose_steps_are_as_long(
    seen: Preflight, other: dict[str, Any], is_same: bool
) -> None:
    assert (speed_key(plan_of(seen, **other).seen) == speed_key(plan_of(seen).seen)) == is_same


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
    words = {arm: list(config.techniques.labels) for arm, config in plan.configs.items()}
    assert words == {"baseline": ["channels_last"], "amp:bf16": ["channels_last", "amp:bf16"]}


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
        {"measure": "steps"},
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


def test_how_narrow_intervals_shall_be_leaves_it_the_same_ablation(seen: Preflight) -> None:
    plan = plan_of(seen, measure="steps")
    finer = replace(plan, ablate=replace(plan.ablate, precision=0.005, budget=60.0))
    assert finer.study_id() == plan.study_id()
    assert "-P precision=0.005" in finer.command() and "-P budget=60" in finer.command()


def test_in_stretches_the_first_arm_is_measured_twice_and_differs_in_nothing_from_itself(seen: Preflight) -> None:
    plan = plan_of(seen, measure="steps")
    first, twin, *others = plan.configs.values()
    assert first == twin
    assert all(other != first for other in others)  # the control


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
    return record, resolve({name: parse_setting(name, text, RunConfig) for name, text in texts.items()})


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"repeats": 7, "design": "leave_one_out"},
        {"design": "factorial", "seed": 9, "pipeline": "stream"},
        {"design": "preset", "factors": ("tuned",)},
        {"measure": "steps", "seed": 3},
        {"model": "resnet50", "learning_rate": 1e-05, "techniques": "amp:bf16"},
        {"data_dir": "/data/my 'own' pictures; rm", "target_accuracy": 0.25, "train_images": 99},
    ],
    ids=",".join,
)
def test_the_command_that_repeats_it_stands_for_the_same_ablation(
    seen: Preflight, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    plan = plan_of(seen, **asked)
    ablate, base = typed(plan.command())
    assert ablate == plan.ablate
    assert differing(base, resolve(plan.given)) <= {"save_model"}


def test_the_command_says_with_how_many_threads(seen: Preflight, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    plain = plan_of(seen).command()
    assert plain.startswith("scripts/run -e ablate ")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert plan_of(seen).command() == f"OMP_NUM_THREADS=1 {plain}"
