"""Laws over the whole table of techniques, and how a list of them is read."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from accelmlf.errors import ConfigError, DeviceError
from accelmlf.settings.technique_list import TechniqueList
from accelmlf.techniques.base import Technique
from accelmlf.techniques.catalogue import TECHNIQUES
from accelmlf.techniques.stack import Skipped, TechniqueStack, build_stack
from tests.makers import make_config, make_splits, train_losses

CPU = torch.device("cpu")


def stack_of(text: str, *, is_preset: bool = False) -> tuple[TechniqueStack, list[Skipped]]:
    """The techniques that a user asks for, or a preset."""
    return build_stack(replace(TechniqueList.parse(text), is_preset=is_preset), CPU)


RELATIVE_TOLERANCE = {
    "workers": 0.0,
    "pin_memory": 0.0,
    "prefetch": 0.0,
    "resident": 0.0,
    "tf32": 1e-3,
    "cudnn_benchmark": 1e-4,
    "channels_last": 1e-5,
    "amp": 5e-4,
    "fused_optimizer": 1e-5,
    "compile": 1e-5,
}
"""How far a technique may move the loss of an epoch: nothing where it only moves data, rounding elsewhere.

Seen on a CPU: amp 5e-5, the others below 1e-7.
"""


def devices_that_run(word: str) -> list[object]:
    """The CPU where it can, and a GPU, which only some machines have."""
    gpu = pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
    )
    return [gpu] if TECHNIQUES[word]("x", None, CPU).missing() else ["cpu", gpu]


CASES = [pytest.param(word, *getattr(d, "values", (d,)), marks=getattr(d, "marks", ()), id=f"{word}-{i}")
         for word in TECHNIQUES for i, d in enumerate(devices_that_run(word))]  # fmt: skip


@pytest.fixture(autouse=True)
def _tiny(tiny_model: None) -> None: ...


@pytest.mark.parametrize(("word", "device"), CASES)
def test_a_technique_leaves_the_learning_curve_alone(word: str, device: str) -> None:
    settings = {"device": device, "accumulation_steps": 2}
    baseline = train_losses(make_config(techniques="none", **settings))
    changed = train_losses(make_config(techniques=word, **settings))
    assert changed == pytest.approx(baseline, rel=RELATIVE_TOLERANCE[word], abs=0)


def test_every_technique_has_a_stated_tolerance() -> None:
    assert RELATIVE_TOLERANCE.keys() == TECHNIQUES.keys()


@pytest.mark.parametrize("broken", [{"seed": 1}, {"batch_size": 15}, {"learning_rate": 0.011}])
def test_what_does_change_the_curve_is_outside_every_tolerance(broken: dict[str, float]) -> None:
    baseline = train_losses(make_config())
    assert train_losses(make_config(**broken)) != pytest.approx(baseline, rel=max(RELATIVE_TOLERANCE.values()))


@pytest.mark.parametrize("pipeline", ["memory", "stream"])
def test_workers_change_no_bit_of_any_epoch(pipeline: str) -> None:
    baseline = train_losses(make_config(pipeline=pipeline))
    assert train_losses(make_config(pipeline=pipeline, techniques="workers:2")) == baseline


def test_both_pipelines_give_the_same_curve() -> None:
    assert train_losses(make_config(pipeline="stream")) == pytest.approx(train_losses(make_config()), rel=1e-5)


def process_switches() -> Iterator[object]:
    """Every one of them, by both of torch's interfaces where there are two: each must stay readable."""
    yield torch.backends.cuda.matmul.allow_tf32
    yield torch.backends.cudnn.allow_tf32
    yield torch.get_float32_matmul_precision()
    yield torch.backends.cuda.matmul.fp32_precision
    cudnn: Any = torch.backends.cudnn
    yield cudnn.conv.fp32_precision
    yield cudnn.rnn.fp32_precision
    yield torch.backends.cudnn.benchmark
    from torch._inductor import config as inductor

    yield inductor.fallback_random


@pytest.mark.parametrize("word", TECHNIQUES)
def test_every_process_switch_is_as_before_afterwards(word: str) -> None:
    before = list(process_switches())
    stack, _ = stack_of(word, is_preset=True)
    stack.techniques = [TECHNIQUES[word](word, None, CPU)]  # whether or not the CPU can run it
    with stack.process_context():
        inside = list(process_switches())
    assert list(process_switches()) == before
    if word in ("tf32", "cudnn_benchmark", "compile"):
        reference, _ = build_stack(TechniqueList(), CPU)
        with reference.process_context():
            assert inside != list(process_switches()), f"{word} switches nothing"


def test_the_baseline_switches_off_what_the_library_has_on() -> None:
    stack, _ = build_stack(TechniqueList(), CPU)
    assert torch.backends.cudnn.allow_tf32
    with stack.process_context():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32


COMBINATIONS = [
    "compile,channels_last,amp:bf16",
    "workers:1,channels_last",
    "fused_optimizer,amp:bf16",
    "resident,compile",
]


@pytest.mark.parametrize("techniques", COMBINATIONS)
def test_techniques_together_leave_the_learning_curve_alone(techniques: str) -> None:
    baseline = train_losses(make_config(accumulation_steps=2))
    changed = train_losses(make_config(techniques=techniques, accumulation_steps=2))
    words = [part.partition(":")[0] for part in techniques.split(",")]
    assert changed == pytest.approx(baseline, rel=max(RELATIVE_TOLERANCE[word] for word in words), abs=0)


def test_the_label_asks_for_exactly_the_same_stack() -> None:
    stack, _ = stack_of("fused_optimizer,amp:bf16,workers:3")
    assert stack.labels == ("workers:3", "amp:bf16", "fused_optimizer")
    assert build_stack(TechniqueList(stack.labels), CPU)[0].labels == stack.labels


def test_no_technique_is_the_base_class_and_a_disabled_scaler() -> None:
    stack, skipped = build_stack(TechniqueList(), CPU)
    assert (stack.techniques, skipped, stack.labels) == ([], [], ())
    assert not stack.gradient_scaler().is_enabled()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("apm", "Did you mean amp?"),
        ("", "a name is empty"),
        ("fused,", "a name is empty"),
        ("amp,amp:bf16", "amp is there twice"),
        ("amp:fp8", "Use amp:bf16 or amp:fp16"),
        ("workers:0", "at least 1"),
        ("workers:two", "at least 1"),
        ("workers:-1", "at least 1"),
        ("channels_last:3", "takes no option"),
        ("compile:fast", "Use one of default"),
        ("compile:reduce-overhead", "no such mode"),
        ("workers:100000", "at most"),
        ("resident,workers:2", "resident replaces workers"),
        ("none,amp", "none stands alone"),
    ],
)
def test_a_list_that_cannot_be_says_why(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        stack_of(text)
    assert says in str(refusal.value)


@pytest.mark.parametrize("word", [word for word in TECHNIQUES if TECHNIQUES[word](word, None, CPU).missing()])
def test_what_the_device_cannot_run_is_an_error_unless_a_preset_asked(word: str) -> None:
    with pytest.raises(DeviceError) as refusal:
        stack_of(word)
    assert refusal.value.exit_code == 5
    stack, skipped = stack_of(f"{word},channels_last", is_preset=True)
    assert stack.labels == ("channels_last",)
    assert [technique.label for technique in skipped] == [word]


def test_half_precision_on_a_cpu_is_refused_and_never_something_else() -> None:
    with pytest.raises(DeviceError, match="fp16 needs CUDA"):
        stack_of("amp:fp16")


def test_bf16_that_the_hardware_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelmlf.techniques.catalogue.has_bf16", lambda _: False)
    with pytest.raises(DeviceError, match="no bf16 in hardware"):
        stack_of("amp")


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeviceError, match=r"no C\+\+ compiler"):
        stack_of("compile")


def test_a_resident_set_cannot_be_streamed() -> None:
    with pytest.raises(ConfigError, match="pipeline=memory"):
        train_losses(make_config(techniques="resident", pipeline="stream"))


def test_a_technique_that_overrides_nothing_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TECHNIQUES, "nothing", Technique)
    assert train_losses(make_config(techniques="nothing")) == train_losses(make_config())


def test_losses_are_finite_and_fall() -> None:
    losses = train_losses(make_config(epochs=8), make_splits(200))
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.8 * losses[0]
