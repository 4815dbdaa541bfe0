"""Optimizers and learning-rate schedules, as tables of factors per optimizer step."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from accelmlf.settings.fields import pick

ONE_CYCLE_WARM_UP, ONE_CYCLE_START, ONE_CYCLE_END = 0.3, 1 / 25, 1 / 250_000
EXPONENTIAL_DECAY = 0.975


class Schedule:
    """Sets each group's learning rate to its base times the factor of the number of steps *applied* so far.

    It follows the optimizer through a hook, so that a step that a gradient scaler skips does not advance it. An
    unfused optimizer is then not called at all; a fused one is, with `found_inf` on the device: the count and the
    rates then stay on the device too, and nothing waits for it.
    """

    def __init__(self, optimizer: Optimizer, factors: Sequence[float]) -> None:
        self.factors = list(factors)
        self.bases = [float(group["lr"]) for group in optimizer.param_groups]
        self.optimizer = optimizer
        self._table: Tensor | None = None
        self._go_to(0)
        optimizer.register_step_post_hook(self._advance)

    def state_dict(self) -> dict[str, int | Tensor]:
        """The number of steps applied, wherever it is counted."""
        return {"applied_steps": self.applied_steps}

    def load_state_dict(self, state: Mapping[str, int | Tensor]) -> None:
        """Go to a step; what was counted on the device is counted there again."""
        applied_steps, parameter = state["applied_steps"], self.optimizer.param_groups[0]["params"][0]
        # The rates of a host and of a device differ in their last bits.
        self._go_to(applied_steps.to(parameter.device) if isinstance(applied_steps, Tensor) else applied_steps)

    def learning_rate(self) -> float:
        """The first group's present rate; reads the device where the count lives there."""
        return float(self.optimizer.param_groups[0]["lr"])

    def _advance(self, optimizer: Optimizer, *_: Any) -> None:
        found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
        applied_steps = self.applied_steps
        if found_inf is None:
            self._go_to(applied_steps + 1)
            return
        if not isinstance(applied_steps, Tensor):
            applied_steps = torch.full((1,), applied_steps, device=found_inf.device)
        self._go_to(applied_steps + (1 - found_inf.to(torch.int64)))

    def _go_to(self, applied_steps: int | Tensor) -> None:
        self.applied_steps, last = applied_steps, len(self.factors) - 1
        factor: float | Tensor
        if isinstance(applied_steps, Tensor):
            if self._table is None:
                table = torch.tensor(self.factors, dtype=torch.float32)
                self._table = table.to(applied_steps.device, non_blocking=True)
            # index_select, because indexing by a single value would read it from the device.
            factor = self._table.index_select(0, applied_steps.clamp(max=last)).squeeze(0)
        else:
            factor = self.factors[min(applied_steps, last)]
        for group, base in zip(self.optimizer.param_groups, self.bases, strict=True):
            group["lr"] = base * factor


def build_optimizer(
    model: nn.Module,
    optimizer: str,
    *,
    learning_rate: float,
    weight_decay: float,
    multipliers: Sequence[tuple[str, float]] = (),
    options: Mapping[str, Any],
) -> Optimizer:
    """An optimizer of the table. `multipliers`: (prefix of parameter names, factor on the learning rate)."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = next((factor for prefix, factor in multipliers if name.startswith(prefix)), 1.0)
        groups.setdefault(factor, []).append(parameter)
    parameters = [{"params": members, "lr": learning_rate * factor} for factor, members in sorted(groups.items())]
    made = pick(OPTIMIZERS, optimizer, "optimizer")(parameters, lr=learning_rate, weight_decay=weight_decay, **options)
    if isinstance(made, SGD) and options.get("fused"):
        # Fused SGD leaves its momentum uninitialised when a scaler skips the first step. Zero is the same start:
        # without dampening the first momentum is the gradient.
        for parameter in model.parameters():
            made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return made


def one_cycle(total_steps: int, _: int) -> list[float]:
    """Cosine rise over the first 30 % and cosine fall; no cycling of momentum (Smith 2018, arXiv 1803.09820)."""
    top = max(1.0, ONE_CYCLE_WARM_UP * total_steps - 1)
    fall = max(1.0, total_steps - 1 - top)

    def cosine(start: float, end: float, fraction: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * min(fraction, 1.0))) / 2

    return [
        cosine(ONE_CYCLE_START, 1.0, step / top) if step <= top else cosine(1.0, ONE_CYCLE_END, (step - top) / fall)
        for step in range(total_steps)
    ]


def exponential(total_steps: int, steps_per_epoch: int) -> list[float]:
    """Times 0.975 per epoch, in steps."""
    return [EXPONENTIAL_DECAY ** (step // steps_per_epoch) for step in range(total_steps)]


def linear(total_steps: int, _: int) -> list[float]:
    """Straight down to zero at the end."""
    return [1 - step / total_steps for step in range(total_steps)]


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": Adam,
    "adamw": AdamW,
    "sgd": partial(SGD, momentum=0.9, nesterov=True),
}

SCHEDULES: dict[str, Callable[[int, int], list[float]]] = {
    "one_cycle": one_cycle,
    "exponential": exponential,
    "linear": linear,
}
