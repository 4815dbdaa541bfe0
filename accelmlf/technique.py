"""The base class of all techniques, which is the baseline, and the process switches that some of them set."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import nn

from accelmlf.batches import Batch
from accelmlf.errors import ConfigError


class Technique:
    """One technique on one device. Every hook of this class leaves training as it is."""

    does: ClassVar[str] = "nothing"
    needs: ClassVar[str] = ""
    """What the device must have, for the help; `missing` decides."""
    replaces: ClassVar[tuple[str, ...]] = ()
    """Techniques that have nothing left to do beside this one."""

    def __init__(self, word: str, option: str | None, device: torch.device) -> None:
        self.word, self.option, self.device = word, self.parse(word, option, device), device

    def parse(self, word: str, option: str | None, device: torch.device) -> str | None:
        """The option as it will be, from what was typed after the colon; raises ConfigError."""
        if option is not None:
            raise ConfigError("techniques", f"{word}:{option}", f"{word} takes no option", f"Use {word}")
        return None

    @property
    def label(self) -> str:
        """How the technique is written, its option included."""
        return self.word if self.option is None else f"{self.word}:{self.option}"

    def missing(self) -> str | None:
        """Why this device cannot run it, or None."""
        if self.needs == "CUDA" and self.device.type != "cuda":
            return f"it needs CUDA, and the device is {self.device}"
        return None

    def process_context(self) -> AbstractContextManager[Any]:
        """Switches of the process, restored at the end of the run."""
        return nullcontext()

    def loader_options(self) -> Mapping[str, Any]:
        """Keyword arguments of `loading.make_loader`."""
        return {}

    def optimizer_options(self) -> Mapping[str, Any]:
        """Keyword arguments of the optimizer."""
        return {}

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """The model on the device, changed in form but not in what it computes."""
        return model

    def prepare_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Batches on their way to the device; what is still on the host afterwards is copied, blocking."""
        return batches

    def forward_context(self) -> AbstractContextManager[Any]:
        """Around each forward pass and its loss."""
        return nullcontext()

    def gradient_scaler(self) -> torch.amp.GradScaler | None:
        """The scaler of the loss, where precision needs one."""
        return None


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is in the hardware rather than emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def float32_precision(precision: str) -> Iterator[None]:
    """How CUDA multiplies float32: "ieee" or "tf32"; restored on leaving."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = precision
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


@contextmanager
def cudnn_benchmark(on: bool) -> Iterator[None]:
    """cuDNN's search for algorithms, on or off; restored on leaving."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
