"""The acceleration techniques: one class each, and the table.

Each leaves the learning curve alone and touches training at seven places at most. Gradient accumulation is not here,
because it changes what a step is; it is a number beside the batch size.
"""

import functools
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import nn

from accelmlf.data.batches import Batch
from accelmlf.errors import ConfigError
from accelmlf.machine.devices import has_bf16
from accelmlf.techniques.allocators import Allocator
from accelmlf.techniques.base import Technique, cudnn_benchmark, tensor_float_32

MAX_DEFAULT_WORKERS, MAX_WORKERS_PER_CORE = 4, 4


class Workers(Technique):
    does = "loader processes, persistent"
    acts_on = ("data_wait",)
    keeps_bits = True

    def parse(self, word: str, option: str | None, device: torch.device) -> str:
        if option is None:
            return str(min(MAX_DEFAULT_WORKERS, os.cpu_count() or 1))
        most = MAX_WORKERS_PER_CORE * (os.cpu_count() or 1)
        if not (option.isdecimal() and 0 < int(option) <= most):
            rule = f"the number of workers is a whole number of at least 1, and here at most {most}"
            raise ConfigError("techniques", f"{word}:{option}", rule, f"Use {word}:2, say, or leave {word} out")
        return str(int(option))

    def loader_options(self) -> Mapping[str, Any]:
        return {"num_workers": int(self.option or 0)}


class PinMemory(Technique):
    does = "page-locked staging and non-blocking copies"
    needs = "CUDA"
    acts_on = ("data_wait", "transfer")
    keeps_bits = True

    def loader_options(self) -> Mapping[str, Any]:
        return {"pin_memory": True}

    def prepare_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            yield batch.to(self.device, non_blocking=True)


class Prefetch(Technique):
    does = "the next batch is copied on a side stream, while the device computes"
    needs = "CUDA"
    acts_on = ("data_wait", "transfer")
    keeps_bits = True

    @functools.cached_property
    def side_stream(self) -> torch.cuda.Stream:
        """One for the whole run, because the allocator keeps memory apart for each stream."""
        return torch.cuda.Stream(self.device)

    def prepare_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        side = self.side_stream
        for batch in batches:
            # The host runs ahead of the device, so this copy overlaps the step before, still being computed.
            with torch.cuda.stream(side):
                copied = batch.to(self.device, non_blocking=True)
            compute = torch.cuda.current_stream(self.device)
            compute.wait_stream(side)
            for tensor in copied:
                if tensor is not None:
                    tensor.record_stream(compute)
            yield copied


class Resident(Technique):
    does = "the data set lives on the device as uint8"
    replaces = ("workers", "pin_memory", "prefetch")
    pipelines = ("memory",)
    acts_on = ("data_wait", "transfer")
    keeps_bits = True

    def loader_options(self) -> Mapping[str, Any]:
        return {"resident_on": self.device}


class TF32(Technique):
    does = "TensorFloat-32 for float32 matrix products and convolutions"
    needs = "CUDA"

    def missing(self) -> str | None:
        if reason := super().missing():
            return reason
        major, minor = torch.cuda.get_device_capability(self.device)
        return None if major >= 8 else f"it needs compute capability 8.0, and this device has {major}.{minor}"

    def process_context(self) -> AbstractContextManager[Any]:
        return tensor_float_32(True)


class CudnnBenchmark(Technique):
    does = "cuDNN tries its convolution algorithms and keeps the fastest"
    needs = "CUDA"

    def process_context(self) -> AbstractContextManager[Any]:
        return cudnn_benchmark(True)


class ChannelsLast(Technique):
    does = "memory format of model and batches"

    def prepare_model(self, model: nn.Module) -> nn.Module:
        model.to(memory_format=torch.channels_last)
        model.register_forward_pre_hook(
            lambda _, pictures: tuple(p.contiguous(memory_format=torch.channels_last) for p in pictures)
        )
        return model


class MixedPrecision(Technique):
    does = (
        "autocast; fp16 with a gradient scaler and the fused optimizer; "
        "by default bf16 where the hardware has it, else fp16 on CUDA"
    )
    needs = "bf16 in hardware, or CUDA"

    def parse(self, word: str, option: str | None, device: torch.device) -> str | None:
        if option is None:
            return "bf16" if has_bf16(device) else "fp16" if device.type == "cuda" else None
        if option not in ("bf16", "fp16"):
            raise ConfigError("techniques", f"{word}:{option}", "no such precision", f"Use {word}:bf16 or {word}:fp16")
        return option

    def missing(self) -> str | None:
        if self.option == "fp16" and self.device.type != "cuda":
            return f"fp16 needs CUDA, and the device is {self.device}"
        if self.option is None or (self.option == "bf16" and not has_bf16(self.device)):
            return f"the device {self.device} has no bf16 in hardware"
        return None

    def forward_context(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16 if self.option == "bf16" else torch.float16)

    def gradient_scaler(self) -> torch.amp.GradScaler | None:
        return torch.amp.GradScaler(self.device.type) if self.option == "fp16" else None

    def optimizer_options(self) -> Mapping[str, Any]:
        # An optimizer that is not fused makes the scaler read two values from the device in every step.
        return {"fused": True} if self.option == "fp16" else {}


class FusedOptimizer(Technique):
    does = "the optimizer's fused kernel"
    acts_on = ("optimizer",)

    def missing(self) -> str | None:
        return None if self.device.type in ("cuda", "cpu", "mps") else f"no fused kernel on {self.device}"

    def optimizer_options(self) -> Mapping[str, Any]:
        return {"fused": True}


class Compile(Technique):
    does = "torch.compile, warmed up off the clock"
    needs = "a C++ compiler on CPU"
    # Not those with CUDA graphs: a replay overwrites the gradients that the micro-batch before has left.
    modes: ClassVar[tuple[str, ...]] = ("default", "max-autotune-no-cudagraphs")

    def parse(self, word: str, option: str | None, device: torch.device) -> str:
        option = option or self.modes[0]
        if option not in self.modes:
            raise ConfigError("techniques", f"{word}:{option}", "no such mode", f"Use one of {', '.join(self.modes)}")
        return option

    def missing(self) -> str | None:
        compiler = os.environ.get("CXX")
        found = shutil.which(compiler) if compiler else shutil.which("g++") or shutil.which("clang++")
        return None if found or self.device.type == "cuda" else "there is no C++ compiler (g++, clang++ or $CXX)"

    def process_context(self) -> AbstractContextManager[Any]:
        from torch._inductor import config as inductor

        # Dropout then draws from the generators eager code draws from, so that the curve stays the same.
        context: AbstractContextManager[Any] = inductor.patch(fallback_random=True)
        return context

    def made_anew(self) -> AbstractContextManager[Any]:
        from torch._inductor.utils import fresh_cache

        context: AbstractContextManager[Any] = fresh_cache()
        return context

    def prepare_model(self, model: nn.Module) -> nn.Module:
        # In place, so that parameter names stay; one graph per shape, all of them met in the warm-up.
        model.compile(mode=self.option, dynamic=False)
        return model


# In the order in which their hooks are applied: process switches, then where batches come from and how they travel
# (a side-stream copy comes before a plain one, which then finds nothing to do), then the model's format, precision
# and optimizer, and compilation last, because it must see the model as it will run.
TECHNIQUES: dict[str, type[Technique]] = {
    "allocator": Allocator,
    "tf32": TF32,
    "cudnn_benchmark": CudnnBenchmark,
    "workers": Workers,
    "resident": Resident,
    "prefetch": Prefetch,
    "pin_memory": PinMemory,
    "channels_last": ChannelsLast,
    "amp": MixedPrecision,
    "fused_optimizer": FusedOptimizer,
    "compile": Compile,
}
