"""The techniques of one run, composed into one."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from accelmlf.data.batches import Batch
from accelmlf.errors import ConfigError, DeviceError
from accelmlf.settings.fields import pick
from accelmlf.settings.technique_list import TechniqueList, word_and_option
from accelmlf.techniques.base import Technique, cudnn_benchmark, tensor_float_32
from accelmlf.techniques.catalogue import TECHNIQUES


class TechniqueStack:
    """Techniques of one run as one: the same seven hooks, composed in the order of TECHNIQUES."""

    def __init__(self, techniques: Sequence[Technique], device: torch.device) -> None:
        order = list(TECHNIQUES)
        self.techniques = sorted(techniques, key=lambda technique: order.index(technique.word))
        self.device = device

    @property
    def labels(self) -> tuple[str, ...]:
        """Of its techniques, their options included."""
        return tuple(technique.label for technique in self.techniques)

    @contextmanager
    def process_context(self) -> Iterator[None]:
        """Reference switches first, so that off is off (cuDNN's TF32 is on by default), then each technique's."""
        with ExitStack() as stack:
            stack.enter_context(tensor_float_32(False))
            stack.enter_context(cudnn_benchmark(False))
            for technique in self.techniques:
                stack.enter_context(technique.process_context())
            yield

    @contextmanager
    def made_anew(self) -> Iterator[None]:
        """Meanwhile no technique finds what earlier processes have kept for it."""
        with ExitStack() as stack:
            for technique in self.techniques:
                stack.enter_context(technique.made_anew())
            yield

    def loader_options(self) -> dict[str, Any]:
        return {name: value for t in self.techniques for name, value in t.loader_options().items()}

    def optimizer_options(self) -> dict[str, Any]:
        return {name: value for t in self.techniques for name, value in t.optimizer_options().items()}

    def prepare_model(self, model: nn.Module) -> nn.Module:
        model = model.to(self.device)
        for technique in self.techniques:
            model = technique.prepare_model(model)
        return model

    def prepare_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for technique in self.techniques:
            batches = technique.prepare_batches(batches)
        return (batch.to(self.device) for batch in batches)

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        with ExitStack() as stack:
            for technique in self.techniques:
                stack.enter_context(technique.forward_context())
            yield

    def gradient_scaler(self) -> torch.amp.GradScaler:
        """The scaler that a technique asks for, or a disabled one, which passes everything through."""
        for technique in self.techniques:
            if (scaler := technique.gradient_scaler()) is not None:
                return scaler
        return torch.amp.GradScaler(self.device.type, enabled=False)


@dataclass(frozen=True)
class Skipped:
    """A technique of a preset that the device cannot run, and why."""

    label: str
    reason: str


def labels_of(skipped: Sequence[Skipped]) -> TechniqueList:
    """The techniques that were left out, without the reasons."""
    return TechniqueList(tuple(technique.label for technique in skipped))


def build_stack(wanted: TechniqueList, device: torch.device) -> tuple[TechniqueStack, list[Skipped]]:
    """Techniques on a device; what a preset asks for in vain is left out and returned.

    Raises:
        ConfigError: an unknown word, a bad option, or words of which one replaces the other.
        DeviceError: a technique asked for explicitly that the device cannot run.
    """
    techniques: list[Technique] = []
    skipped: list[Skipped] = []
    asked = [word_and_option(label) for label in wanted.labels]
    kinds = [pick(TECHNIQUES, word, "techniques", wanted) for word, _ in asked]  # a slip of the pen is told first
    for kind, (word, option) in zip(kinds, asked, strict=True):
        technique = kind(word, option, device)
        if (reason := technique.missing()) is None:
            techniques.append(technique)
        elif wanted.is_preset:
            skipped.append(Skipped(technique.label, reason))
        else:
            raise DeviceError("techniques", technique.label, f"this device cannot run it: {reason}", "Leave it out")
    words = [technique.word for technique in techniques]
    for technique in techniques:
        if idle := [word for word in technique.replaces if word in words]:
            rule = f"{technique.word} replaces {' and '.join(idle)}, which would do nothing"
            raise ConfigError("techniques", wanted, rule, "Leave one of them out")
    return TechniqueStack(techniques, device), skipped


def technique_sets(device: torch.device, pipeline: str) -> tuple[TechniqueList, ...]:
    """Every set of techniques, with their default options, that the device and the pipeline can run together."""
    known = [kind(word, None, device) for word, kind in TECHNIQUES.items() if pipeline in kind.pipelines]
    labels = [technique.label for technique in known if technique.missing() is None]
    subsets = (subset for size in range(len(labels) + 1) for subset in itertools.combinations(labels, size))
    possible = []
    for subset in subsets:
        try:
            stack, _ = build_stack(TechniqueList(subset), device)
        except ConfigError:  # one replaces another
            continue
        possible.append(TechniqueList(stack.labels))
    return tuple(possible)
