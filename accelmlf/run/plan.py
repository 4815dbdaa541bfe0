"""What a run is going to be on this device: its settings, its techniques, and what of a preset is left out."""

from dataclasses import replace

import click
import torch

from accelmlf.machine.devices import pick_device
from accelmlf.settings.run import RunConfig
from accelmlf.techniques.catalogue import TECHNIQUES
from accelmlf.techniques.stack import Skipped, TechniqueStack, build_stack


def print_plan(config: RunConfig) -> None:
    """The resolved settings, and each technique with what it needs and whether this device has it."""
    device = pick_device(config.device)
    config, techniques, skipped = settle(config)
    texts = config.as_texts()
    width = max(map(len, texts))
    click.echo("\n".join(f"  {name:<{width}}  {text}" for name, text in texts.items()))
    click.echo(f"\ntechniques on {device} (* = in this run):")
    in_run = {technique.word for technique in techniques.techniques}
    left_out = {technique.label.partition(":")[0] for technique in skipped}
    for word, kind in TECHNIQUES.items():
        reason = kind(word, None, device).missing()
        state = "available" if reason is None else f"not available: {reason}"
        needs = f" (needs {kind.needs})" if kind.needs else ""
        note = " (left out of the preset)" if word in left_out else ""
        click.echo(f"{'*' if word in in_run else ' '} {word:<16} {kind.does}{needs}; {state}{note}")


def settle(config: RunConfig) -> tuple[RunConfig, TechniqueStack, list[Skipped]]:
    """The configuration as this device will run it, with its techniques and what of a preset had to be left out."""
    device = pick_device(config.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # some questions to torch, and pinning, are about the current device
    techniques, skipped = build_stack(config.techniques, device)
    arm = "tuned_partial" if skipped and config.arm == "tuned" else config.arm
    as_run = replace(config.techniques, labels=techniques.labels)
    return replace(config, device=str(device), techniques=as_run, arm=arm), techniques, skipped
