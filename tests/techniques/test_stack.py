"""How a list of techniques is read, what is refused of it, and what it leaves of the process's switches."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import cache_dir

from accelmlf.errors import ConfigError, DeviceError
from accelmlf.settings.technique_list import TechniqueList
from accelmlf.techniques.catalogue import TECHNIQUES
from accelmlf.techniques.stack import Skipped, TechniqueStack, build_stack
from tests.makers import make_config, train_losses

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def stack_of(text: str, *, is_preset: bool = False) -> tuple[TechniqueStack, list[Skipped]]:
    """The techniques that a user asks for, or a preset."""
    return build_stack(replace(TechniqueList.parse(text), is_preset=is_preset), CPU)


@pytest.fixture(autouse=True)
def _tiny(tiny_model: None) -> None: ...


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


@pytest.mark.parametrize("before", [True, False])
def test_tf32_is_on_for_products_and_for_convolutions_whatever_was_before(
    before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    stack = TechniqueStack([TECHNIQUES["tf32"]("tf32", None, CPU)], CPU)
    with stack.process_context():
        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32 is before
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.usefixtures("bf16")
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
        ("allocator:hoard", "Use one of allocator:glibc, allocator:jemalloc, allocator:tcmalloc"),
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


def test_compiled_code_that_was_kept_is_not_found_where_all_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with stack_of("compile")[0].made_anew():
        assert Path(cache_dir()) != tmp_path
    with stack_of("channels_last")[0].made_anew():  # the control
        assert Path(cache_dir()) == tmp_path


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeviceError, match=r"no C\+\+ compiler"):
        stack_of("compile")


def test_a_resident_set_cannot_be_streamed() -> None:
    with pytest.raises(ConfigError, match="pipeline=memory"):
        train_losses(make_config(techniques="resident", pipeline="stream"))
