"""The base class of all techniques, which is the baseline, and the process switches that some of them set."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import nn

from accelmlf.data.batches import Batch
from accelmlf.errors import ConfigError


class Technique:
    """One technique on one device. Every hook of this class leaves training as it is."""

    does: ClassVar[str] = "nothing"
    needs: ClassVar[str] = ""
    """What the device must have, in words, for the dry run and the docs. `missing` decides; this one knows CUDA."""
    replaces: ClassVar[tuple[str, ...]] = ()
    """Techniques that have nothing left to do beside this one."""
    pipelines: ClassVar[tuple[str, ...]] = ("memory", "stream")
    """Those it can be used with."""
    acts_on: ClassVar[tuple[str, ...]] = ("forward", "backward")
    """The phases of an epoch that it is meant to shorten."""

    keeps_bits: ClassVar[bool] = False
    """Whether, on a CPU, what is learned stays the same to the bit: it moves data, and computes nothing."""

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

    def made_anew(self) -> AbstractContextManager[Any]:
        """Meanwhile it does not find what earlier processes have kept for it, such as compiled code."""
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


@contextmanager
def tensor_float_32(on: bool) -> Iterator[None]:
    """TF32 for CUDA's float32 matrix products and convolutions, on or off; restored on leaving.

    Set through the older of torch's two interfaces: after the newer one, reading the older raises, as Inductor does.
    """
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    matmul_before, cudnn_before = matmul.fp32_precision, cudnn.conv.fp32_precision
    matmul.allow_tf32 = cudnn.allow_tf32 = on
    try:
        yield
    finally:
        cudnn.allow_tf32 = cudnn_before == "tf32"
        matmul.allow_tf32 = matmul_before == "tf32"
        matmul.fp32_precision = matmul_before  # "none" and "ieee" are the same, but leave it as it was


@contextmanager
def cudnn_benchmark(on: bool) -> Iterator[None]:
    """cuDNN's search for algorithms, on or off; restored on leaving."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
