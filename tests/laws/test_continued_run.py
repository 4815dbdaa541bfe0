"""A run that is stopped after an epoch and goes on in a fresh workload is, to the bit, one never stopped."""

import random
from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
import torch

from accelmlf.measure.cost import Meter
from accelmlf.measure.records import START, EpochMetrics, Position
from accelmlf.run.loop import train_epochs
from accelmlf.run.optimization import OPTIMIZERS, SCHEDULES
from accelmlf.run.state import PARTS, State, put_back, take
from accelmlf.run.warmup import warm_up
from accelmlf.run.workload import Workload
from accelmlf.settings.run import RunConfig
from tests.laws.makers import CASES
from tests.makers import make_config, make_work
from tests.measure.makers import TickingDevice

EPOCHS, STOPPED_AFTER = 4, 2
Change = Callable[[Workload], Workload]


@pytest.fixture(autouse=True)
def _tiny(tiny_model: None) -> None: ...


def as_made(work: Workload) -> Workload:
    return work


def with_overflows(work: Workload) -> Workload:
    """Gradients are finite up to a scale of 4 only, so that the scale decides which steps are skipped."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**7, growth_interval=2)
    for parameter in work.model.parameters():
        parameter.register_hook(lambda gradient: gradient * (float("inf") if scaler.get_scale() > 4 else 1))
    return replace(work, scaler=scaler)


def ready(config: RunConfig, change: Change, seed: int) -> Workload:
    """A workload after its warm-up, on a clock that does not depend on this machine; generators as nobody left them."""
    work = change(replace(make_work(config), meter=Meter(TickingDevice(host_s=1_000.0 * seed))))
    warm_up(work)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    return work


def figures(epochs: list[EpochMetrics]) -> list[tuple[Any, ...]]:
    return [(*astuple(e.position), e.train_loss, e.learning_rate, e.quality.loss, e.skipped_steps or 0) for e in epochs]


Run = tuple[list[tuple[Any, ...]], dict[str, Any]]
"""Figures of the epochs, and the model at the end."""


def whole_and_continued(
    config: RunConfig, *, change: Change = as_made, without: str | None = None
) -> tuple[Run, Run, Position]:
    """The run as a whole, the same from a state and a position on, and where it was stopped.

    `without`: this part of the state is that of the fresh workload.
    """
    config = replace(config, epochs=EPOCHS)
    work, epochs = ready(config, change, seed=1), list[EpochMetrics]()
    state: State = {}
    with work.techniques.process_context():
        for epoch in train_epochs(work, max_epochs=EPOCHS):
            epochs.append(epoch)
            if epoch.epoch == STOPPED_AFTER:
                state = take(work)
    position = epochs[STOPPED_AFTER - 1].position
    fresh = ready(config, change, seed=2)
    put_back(fresh, {**state, without: take(fresh)[without]} if without else state)
    with fresh.techniques.process_context():
        rest = list(train_epochs(fresh, max_epochs=EPOCHS, start=position))
    assert [epoch.epoch for epoch in rest] == [3, 4]
    whole = figures(epochs), take(work)["model"]
    return whole, (whole[0][:STOPPED_AFTER] + figures(rest), take(fresh)["model"]), position


def assert_same(whole: Run, continued: Run, device: str = "cpu") -> None:
    # On a GPU some sums are taken in no fixed order.
    tolerance = 0.0 if device == "cpu" else 1e-3
    torch.testing.assert_close(continued, whole, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("word", "device"), CASES)
def test_with_every_technique(word: str, device: str) -> None:
    whole, continued, _ = whole_and_continued(make_config(techniques=word, device=device, accumulation_steps=2))
    assert_same(whole, continued, device)


@pytest.mark.parametrize("techniques", ["none", "fused_optimizer"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_with_every_optimizer_and_every_schedule(optimizer: str, schedule: str, techniques: str) -> None:
    config = replace(make_config(techniques=techniques), optimizer=optimizer, schedule=schedule)
    whole, continued, _ = whole_and_continued(config)
    assert_same(whole, continued)


@pytest.mark.parametrize("settings", [{"pipeline": "stream"}, {"pipeline": "stream", "techniques": "workers:2"}])
def test_with_pictures_that_are_streamed(settings: dict[str, str]) -> None:
    whole, continued, _ = whole_and_continued(make_config(**settings))
    assert_same(whole, continued)


@pytest.mark.parametrize("techniques", ["none", "fused_optimizer"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_with_a_gradient_scaler_in_the_midst_of_skipped_steps(optimizer: str, techniques: str) -> None:
    config = replace(make_config(techniques=techniques, accumulation_steps=3), optimizer=optimizer)
    whole, continued, position = whole_and_continued(config, change=with_overflows)
    assert (position.applied_steps, position.skipped_in_a_row) == (0, 4)
    assert_same(whole, continued)
    without_it = whole_and_continued(config, change=with_overflows, without="scaler")[1]
    with pytest.raises(AssertionError):
        assert_same(whole, without_it)


@pytest.mark.parametrize("part", [*sorted({*PARTS} - {"scaler"}), "generators"])
def test_without_a_part_of_the_state_it_is_another_run(part: str) -> None:
    config = make_config()
    whole, continued, _ = whole_and_continued(config, without=part)
    with pytest.raises(AssertionError):
        assert_same(whole, continued)
    assert_same(whole, whole_and_continued(config)[1])


def test_without_its_position_it_is_another_run() -> None:
    config = replace(make_config(), epochs=EPOCHS)
    work = ready(config, as_made, seed=1)
    epochs = figures(list(train_epochs(work, max_epochs=1)))
    state = take(work)
    epochs += figures(list(train_epochs(work, max_epochs=2, start=Position(*epochs[0][:4]))))
    put_back(work, state)
    assert figures(list(train_epochs(work, max_epochs=1, start=START))) != epochs[1:]
    put_back(work, state)
    assert figures(list(train_epochs(work, max_epochs=2, start=Position(*epochs[0][:4])))) == epochs[1:]
