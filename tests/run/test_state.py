"""The state of a run: plain data, a copy, and all of it."""

import io
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from accelmlf.run.loop import train_epochs
from accelmlf.run.state import put_back, take
from accelmlf.run.workload import Workload
from tests.makers import make_config, make_work


@pytest.fixture(autouse=True)
def _tiny(tiny_model: None) -> None: ...


def trained(techniques: str = "none", *, epochs: int = 1) -> Workload:
    """A workload with a gradient scaler, in the midst of a run."""
    work = replace(make_work(make_config(techniques=techniques)), scaler=torch.amp.GradScaler("cpu", init_scale=4.0))
    list(train_epochs(work, max_epochs=epochs))
    return work


def losses(work: Workload) -> list[float]:
    return [epoch.train_loss for epoch in train_epochs(work, max_epochs=2)]


def leaves(value: Any) -> Iterator[Any]:
    """All that is in it and holds nothing itself; anything else than dicts, lists and tuples is a leaf."""
    if type(value) not in (dict, list, tuple):
        yield value
        return
    for part in value.values() if isinstance(value, dict) else value:
        yield from leaves(part)


@pytest.mark.parametrize("techniques", ["none", "fused_optimizer"])
def test_it_is_plain_data_on_the_host_that_a_file_can_hold(techniques: str) -> None:
    work = trained(techniques)
    state = take(work)
    found = list(leaves(state))
    assert {type(leaf) for leaf in found} <= {Tensor, int, float, str, bool, type(None)}
    assert {leaf.device.type for leaf in found if isinstance(leaf, Tensor)} == {"cpu"}
    file = io.BytesIO()
    torch.save(state, file)
    expected = losses(work)
    file.seek(0)
    other = trained(techniques, epochs=0)
    put_back(other, torch.load(file, weights_only=True))
    assert losses(other) == expected
    assert losses(trained(techniques, epochs=0)) != expected  # the control


@pytest.mark.parametrize("techniques", ["none", "fused_optimizer", "channels_last"])
def test_it_is_a_copy_that_training_does_not_change_however_often_it_is_put_back(techniques: str) -> None:
    work = trained(techniques)
    state = take(work)
    first = losses(work)
    for other in (work, trained(techniques, epochs=0)):
        put_back(other, state)
        assert losses(other) == first
    assert losses(work) != first  # the control: a run that was not put back is further


def test_taking_it_changes_nothing() -> None:
    untouched = losses(trained())  # one after the other: each is seeded, and they share a generator
    looked_at = trained()
    take(looked_at)
    assert losses(looked_at) == untouched


def test_every_generator_that_a_model_may_draw_from_is_in_it() -> None:
    def drawn() -> tuple[float, float, float]:
        return torch.rand(()).item(), random.random(), float(np.random.standard_normal())

    work = trained()
    drawn()  # of NumPy's normal numbers every second one is held back
    state = take(work)
    expected = drawn()
    further = drawn()
    assert all(one != other for one, other in zip(expected, further, strict=True))
    put_back(work, state)
    assert (drawn(), drawn()) == (expected, further)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_generator_of_a_gpu_is_in_it() -> None:
    work = make_work(make_config(device="cuda"))
    state = take(work)
    expected, further = (torch.rand((), device="cuda").item() for _ in range(2))
    put_back(work, state)
    assert expected != further
    assert torch.rand((), device="cuda").item() == expected


def test_no_gradient_is_left_where_it_was_put_back() -> None:
    work = trained()
    state = take(work)
    for parameter in work.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    put_back(work, state)
    assert {parameter.grad for parameter in work.model.parameters()} == {None}
