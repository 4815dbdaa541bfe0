"""The state of a run: all that training changes, taken as plain data and put back, to the bit."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accelmlf.run.workload import Workload

State = dict[str, dict[str, Any]]
"""The state_dict of each of PARTS, and the generators: tensors on the host, numbers, texts, lists, tuples and dicts."""

PARTS = ("model", "optimizer", "schedule", "scaler")
"""Of a `Workload`; the optimizer before the schedule, which sets its learning rates."""


def take(work: Workload) -> State:
    """A copy of the state between two optimizer steps.

    With a `Position` it is all that a run of the same settings needs to go on from there: the order of an epoch and
    the draws of its pictures follow from the seed.
    """
    state: State = {part: _copied(getattr(work, part).state_dict()) for part in PARTS}
    return state | {"generators": _generators(work.device)}


def put_back(work: Workload, state: State) -> None:
    """Make a workload of the same settings what it was when the state was taken; no gradient is left."""
    for part in PARTS:
        # A copy again, because an optimizer goes on with the very tensors that it is given.
        getattr(work, part).load_state_dict(_copied(state[part]))
    work.optimizer.zero_grad(set_to_none=True)
    _set_generators(work.device, state["generators"])


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        # To the host, so that it does not count in the device's peak of reserved memory.
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copied(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value


def _generators(device: torch.device) -> dict[str, Any]:
    numpy: Any = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "device": _generator_of(device),
        "python": random.getstate(),
        "numpy": (numpy[0], numpy[1].tolist(), *numpy[2:]),
    }


def _generator_of(device: torch.device) -> Tensor | None:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None


def _set_generators(device: torch.device, generators: dict[str, Any]) -> None:
    torch.set_rng_state(generators["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(generators["device"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(generators["device"])
    random.setstate(generators["python"])
    np.random.set_state(generators["numpy"])
