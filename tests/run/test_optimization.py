"""Schedules follow the steps that were applied, on the host or on the device."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accelmlf.run.optimization import OPTIMIZERS, SCHEDULES, Schedule, build_optimizer
from accelmlf.settings.recipes import RECIPES


def make_linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def rates_seen(
    name: str, *, fused: bool, overflow_at: set[int], steps: int = 6
) -> tuple[list[float], int, list[list[float]]]:
    """Each step's rate, how many were applied, and the weights, when the gradient overflows at some of them."""
    model = make_linear()
    optimizer = build_optimizer(model, name, learning_rate=1.0, weight_decay=0.0, options={"fused": fused})
    schedule = Schedule(optimizer, [1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125])
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    used, applied = [], 0
    for step in range(steps):
        used.append(schedule.learning_rate())
        before = model.weight.detach().clone()
        scaler.scale(model(torch.ones(2, 4)).sum()).backward()
        if step in overflow_at:
            assert isinstance(model.weight.grad, Tensor)
            model.weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        applied += int(not torch.equal(before, model.weight))
    assert int(schedule.applied_steps) == applied
    return used, applied, model.weight.tolist()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_step_does_not_advance_the_schedule(name: str, fused: bool) -> None:
    used, applied, _ = rates_seen(name, fused=fused, overflow_at={0, 1, 3})
    assert used == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]
    assert applied == 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fused_optimizer_takes_the_same_steps_even_when_the_first_is_skipped(name: str) -> None:
    for overflow_at in ({0}, {0, 1, 3}, set[int]()):
        fused, plain = (rates_seen(name, fused=fused, overflow_at=overflow_at)[2] for fused in (True, False))
        assert fused[0] == pytest.approx(plain[0], rel=1e-5)
    assert rates_seen(name, fused=True, overflow_at={1})[2] != fused


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("fused", [False, True])
def test_without_overflow_every_step_advances_it(name: str, fused: bool) -> None:
    used, applied, _ = rates_seen(name, fused=fused, overflow_at=set())
    assert used == [1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125]
    assert applied == 6


def test_a_fused_step_reads_nothing_back_to_advance_the_schedule() -> None:
    model = make_linear()
    optimizer = build_optimizer(model, "sgd", learning_rate=1.0, weight_decay=0.0, options={"fused": True})
    schedule = Schedule(optimizer, [1.0, 0.5])
    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]  # what the scaler sets
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert isinstance(schedule.applied_steps, Tensor)
    assert isinstance(optimizer.param_groups[0]["lr"], Tensor)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total_steps", [1, 2, 5, 100])
def test_a_schedule_has_a_factor_for_each_step(name: str, total_steps: int) -> None:
    factors = SCHEDULES[name](total_steps, 5)
    assert len(factors) == total_steps
    assert all(0 < factor <= 1 for factor in factors)


def test_one_cycle_is_torchs() -> None:
    optimizer = torch.optim.SGD(make_linear().parameters(), lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=50, cycle_momentum=False)
    rates = []
    for _ in range(50):
        rates.append(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    assert SCHEDULES["one_cycle"](50, 10) == pytest.approx(rates, abs=1e-9)
    assert SCHEDULES["linear"](50, 10) != pytest.approx(rates, abs=1e-9)


def test_exponential_falls_between_epochs_only() -> None:
    assert SCHEDULES["exponential"](6, 3) == pytest.approx([1, 1, 1, 0.975, 0.975, 0.975])


def test_the_rates_depend_on_the_number_of_steps_alone() -> None:
    for name in SCHEDULES:
        optimizer = torch.optim.SGD(make_linear().parameters(), lr=1.0)
        schedule = Schedule(optimizer, SCHEDULES[name](4, 2))
        for _ in range(6):  # more than there are factors: the last one stays
            optimizer.step()
        assert schedule.learning_rate() == pytest.approx(SCHEDULES[name](4, 2)[-1])


def test_multipliers_go_to_the_parameters_with_the_prefix() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = build_optimizer(
        model, "sgd", learning_rate=0.1, weight_decay=0.0, multipliers=[("1.", 10.0)], options={}
    )
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [rates[id(p)] for p in model.parameters()] == pytest.approx([0.1, 0.1, 1.0, 1.0])


@pytest.mark.parametrize(("name", "options"), list(itertools.product(OPTIMIZERS, [{}, {"fused": True}])))
def test_every_optimizer_takes_the_options_of_techniques(name: str, options: dict[str, Any]) -> None:
    optimizer = build_optimizer(make_linear(), name, learning_rate=0.1, weight_decay=0.1, options=options)
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def test_every_recipe_names_what_the_tables_have() -> None:
    for recipe in RECIPES.values():
        assert recipe.optimizer in OPTIMIZERS
        assert recipe.schedule in SCHEDULES


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_goes_on_where_its_state_was_taken_and_with_the_same_bits(name: str, fused: bool) -> None:
    def made() -> Schedule:
        optimizer = build_optimizer(
            make_linear(), "adamw", learning_rate=0.01, weight_decay=0.0, options={"fused": fused}
        )
        if fused:
            optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]  # what the scaler sets
        return Schedule(optimizer, SCHEDULES[name](9, 3))

    def stepped(schedule: Schedule, steps: int) -> list[float]:
        rates = [schedule.learning_rate()]
        for _ in range(steps):
            for parameter in schedule.optimizer.param_groups[0]["params"]:
                parameter.grad = torch.zeros_like(parameter)
            schedule.optimizer.step()
            rates.append(schedule.learning_rate())
        return rates

    whole, again, fresh = made(), made(), made()
    stepped(whole, 5)
    again.load_state_dict(whole.state_dict())
    assert isinstance(again.applied_steps, Tensor) == isinstance(whole.applied_steps, Tensor) == fused
    expected = stepped(whole, 3)
    assert stepped(again, 3) == expected != stepped(fresh, 3)
    assert again.applied_steps == whole.applied_steps == 8
