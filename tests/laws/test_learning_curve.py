"""A technique leaves the learning curve alone, by itself and beside others."""

import pytest

from accelmlf.techniques.base import Technique
from accelmlf.techniques.catalogue import TECHNIQUES
from tests.laws.makers import CASES
from tests.makers import make_config, train_losses

RELATIVE_TOLERANCE = {
    "allocator": 0.0,
    "workers": 0.0,
    "pin_memory": 0.0,
    "prefetch": 0.0,
    "resident": 0.0,
    "tf32": 1e-3,
    "cudnn_benchmark": 1e-4,
    "channels_last": 1e-5,
    "amp": 5e-4,
    "fused_optimizer": 1e-5,
    "compile": 1e-5,
}
"""How far a technique may move the loss of an epoch: nothing where it only moves data, rounding elsewhere.

Seen on a CPU: amp 5e-5, the others below 1e-7.
"""


@pytest.fixture(autouse=True)
def _tiny(tiny_model: None) -> None: ...


@pytest.mark.parametrize(("word", "device"), CASES)
def test_a_technique_leaves_the_learning_curve_alone(word: str, device: str) -> None:
    settings = {"device": device, "accumulation_steps": 2}
    baseline = train_losses(make_config(techniques="none", **settings))
    changed = train_losses(make_config(techniques=word, **settings))
    assert changed == pytest.approx(baseline, rel=RELATIVE_TOLERANCE[word], abs=0)


def test_every_technique_has_a_stated_tolerance() -> None:
    assert RELATIVE_TOLERANCE.keys() == TECHNIQUES.keys()


@pytest.mark.parametrize("broken", [{"seed": 1}, {"batch_size": 15}, {"learning_rate": 0.011}])
def test_what_does_change_the_curve_is_outside_every_tolerance(broken: dict[str, float]) -> None:
    baseline = train_losses(make_config())
    assert train_losses(make_config(**broken)) != pytest.approx(baseline, rel=max(RELATIVE_TOLERANCE.values()))


@pytest.mark.parametrize("pipeline", ["memory", "stream"])
def test_workers_change_no_bit_of_any_epoch(pipeline: str) -> None:
    baseline = train_losses(make_config(pipeline=pipeline))
    assert train_losses(make_config(pipeline=pipeline, techniques="workers:2")) == baseline


def test_both_pipelines_give_the_same_curve() -> None:
    assert train_losses(make_config(pipeline="stream")) == pytest.approx(train_losses(make_config()), rel=1e-5)


COMBINATIONS = [
    "compile,channels_last,amp:bf16",
    "workers:1,channels_last",
    "fused_optimizer,amp:bf16",
    "resident,compile",
]


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("techniques", COMBINATIONS)
def test_techniques_together_leave_the_learning_curve_alone(techniques: str) -> None:
    baseline = train_losses(make_config(accumulation_steps=2))
    changed = train_losses(make_config(techniques=techniques, accumulation_steps=2))
    words = [part.partition(":")[0] for part in techniques.split(",")]
    assert changed == pytest.approx(baseline, rel=max(RELATIVE_TOLERANCE[word] for word in words), abs=0)


def test_a_technique_that_overrides_nothing_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TECHNIQUES, "nothing", Technique)
    assert train_losses(make_config(techniques="nothing")) == train_losses(make_config())
