"""The run's own clock: what is off the training clock has a number of its own, and a target is met once."""

from dataclasses import replace

import numpy as np
import pytest

from accelmlf.errors import DivergedError
from accelmlf.measure.cost import Cost, Meter
from accelmlf.measure.quality import Quality
from accelmlf.measure.records import EpochMetrics, Position
from accelmlf.run.clock import RunClock
from tests.makers import make_config, make_work
from tests.measure.makers import FakeDevice


def quality(accuracy: float, loss: float = 0.5, num_classes: int = 2) -> Quality:
    right = round(accuracy * 100)
    return Quality(loss, np.zeros(100, np.int64), np.array([0] * right + [1] * (100 - right)), num_classes)


def run_of(accuracies: list[float], target: float, num_classes: int = 2) -> tuple[RunClock, FakeDevice]:
    """Set-up 5 s, warm-up 3 s; each epoch 10 s of training, 2 s of validation and 1 s of tracking."""
    device = FakeDevice(host_s=105.0)
    work = replace(make_work(make_config()), meter=Meter(device))
    progress = RunClock(target, work.meter.clock, started_s=100.0)
    device.give(3.0)
    progress.ready()
    for number, accuracy in enumerate(accuracies, 1):
        device.give(12.0)
        cost, after = Cost(10.0, {"forward": 9.9}, 40), quality(accuracy, num_classes=num_classes)
        progress.add(EpochMetrics(Position(number, 10.0 * number), 1.0, 0.1, None, after, cost, 2.0))
        device.idle_host(1.0)
        progress.logged()
    device.give(4.0)
    return progress, device


@pytest.mark.usefixtures("tiny_model")
def test_every_second_off_the_training_clock_has_a_name() -> None:
    summary = run_of([0.2, 0.6, 0.9], target=0.5)[0].summary(quality(0.8))
    assert (summary.setup_s, summary.warmup_s, summary.tracking_s, summary.test_s) == (5.0, 3.0, 3.0, 4.0)
    assert summary.total_train_s == 30.0
    assert summary.wall_s == 5 + 3 + 3 * 13 + 4
    assert summary.median_epoch_s == 10.0
    assert summary.total.other_s == pytest.approx(0.01 * summary.total_train_s)


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize(
    ("accuracies", "train_s", "wall_s"),
    [([0.2, 0.6, 0.9], 20.0, 5 + 3 + 13 + 12), ([0.5, 0.4, 0.6], 10.0, 5 + 3 + 12), ([0.2, 0.3, 0.49], None, None)],
)
def test_time_to_accuracy_ends_with_the_first_epoch_at_the_target(
    accuracies: list[float], train_s: float | None, wall_s: float | None
) -> None:
    summary = run_of(accuracies, target=0.5)[0].summary(quality(0.8))
    assert (summary.time_to_accuracy_s, summary.time_to_accuracy_wall_s) == (train_s, wall_s)
    assert summary.outcome == ("target_not_reached" if train_s is None else "completed")
    assert ("time_to_accuracy_s" in summary.as_metrics()) == (train_s is not None)


@pytest.mark.usefixtures("tiny_model")
def test_a_higher_target_is_never_reached_sooner() -> None:
    times = [
        run_of([0.2, 0.6, 0.5, 0.9], target=t)[0].summary(quality(0.8)).time_to_accuracy_s for t in (0.1, 0.5, 0.8)
    ]
    assert times == sorted(times, key=lambda seconds: seconds or 0) == [10.0, 20.0, 40.0]


@pytest.mark.usefixtures("tiny_model")
def test_a_test_loss_that_is_not_finite_is_no_result() -> None:
    with pytest.raises(DivergedError, match="final_loss=nan"):
        run_of([0.9], target=0.5)[0].summary(quality(0.8, loss=float("nan")))


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize(
    ("accuracies", "epochs"), [([0.2, 0.6, 0.9], 2), ([0.5, 0.4, 0.6], 1), ([0.2, 0.3, 0.49], None)]
)
def test_the_first_epoch_at_the_target_is_counted_and_a_miss_has_none(
    accuracies: list[float], epochs: int | None
) -> None:
    figures = run_of(accuracies, target=0.5)[0].summary(quality(0.8)).as_metrics()
    assert figures.get("epochs_to_accuracy") == epochs
    assert ("epochs_to_accuracy" in figures) is (epochs is not None)


# --- where within its last epoch the target was crossed ---


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize(
    ("accuracies", "epochs"),
    [
        ([0.2, 0.6, 0.9], 1.75),
        ([0.2, 0.3, 0.9, 0.2], 2 + 1 / 3),
        ([0.6, 0.4, 0.9], 0.25 / 0.35),
        ([0.2, 0.5], 2.0),
        ([0.2, 0.3, 0.49], None),
    ],
    ids=["between two epochs", "in the last of three", "from chance", "at the very end", "a miss"],
)
def test_the_target_is_crossed_where_the_straight_line_between_two_accuracies_does(
    accuracies: list[float], epochs: float | None
) -> None:
    clock = run_of(accuracies, target=0.5, num_classes=4)[0]
    assert clock.crossing_epochs == (None if epochs is None else pytest.approx(epochs))
    summary = clock.summary(quality(0.8))
    assert summary.crossing_epochs == clock.crossing_epochs
    assert ("crossing_epochs" in summary.as_metrics()) is (epochs is not None)


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize(("num_classes", "chance"), [(2, 0.5), (4, 0.25), (10, 0.1), (100, 0.01)])
def test_before_its_first_epoch_a_run_is_as_accurate_as_chance(num_classes: int, chance: float) -> None:
    found = run_of([0.9], target=0.8, num_classes=num_classes)[0].crossing_epochs
    assert found == pytest.approx((0.8 - chance) / (0.9 - chance))


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize(
    ("accuracies", "target"),
    [([0.6], 0.4), ([0.45, 0.9], 0.4), ([0.5], 0.5)],
    ids=["chance is beyond the target", "worse than chance", "chance is the target"],
)
def test_where_the_line_says_nothing_the_epochs_are_whole(accuracies: list[float], target: float) -> None:
    assert run_of(accuracies, target)[0].crossing_epochs == 1.0
    assert run_of(accuracies, target, num_classes=10)[0].crossing_epochs != 1.0 or target == 0.5  # the control


@pytest.mark.usefixtures("tiny_model")
def test_the_crossing_is_in_the_epoch_that_came_to_the_target_and_later_for_a_higher_one() -> None:
    found = []
    for target in np.linspace(0.31, 0.9, 60):
        clock = run_of([0.3, 0.5, 0.4, 0.72, 0.9], float(target), num_classes=10)[0]
        assert clock.at_target is not None and clock.crossing_epochs is not None
        assert clock.at_target.epoch - 1 < clock.crossing_epochs <= clock.at_target.epoch
        found.append(clock.crossing_epochs)
    assert found == sorted(found) and len(set(found)) == len(found)


@pytest.mark.usefixtures("tiny_model")
def test_what_the_epochs_cost_together_is_in_the_summary() -> None:
    summary = run_of([0.2, 0.6, 0.9], target=0.5)[0].summary(quality(0.8))
    assert (summary.num_epochs, summary.total.images) == (3, 120)
    assert summary.total.train_s == summary.total_train_s == 30.0
    assert summary.total.phases_s == pytest.approx({"forward": 29.7})
    assert summary.as_metrics()["mean_forward_s"] == pytest.approx(9.9)


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize("stopped_after", [0, 1, 2, 3])
def test_a_clock_made_from_the_epochs_so_far_goes_on_as_the_one_that_saw_them(stopped_after: int) -> None:
    whole = run_of([0.2, 0.6, 0.9], target=0.5)[0]
    device = FakeDevice(host_s=1_000.0)
    again = RunClock(0.5, device, started_s=990.0, before=whole.epochs[:stopped_after])
    assert again.reached == (stopped_after >= 2)
    for epoch in whole.epochs[stopped_after:]:
        device.give(12.0)
        again.add(epoch)
        again.logged()
    expected, found = whole.summary(quality(0.8)), again.summary(quality(0.8))
    same = ("time_to_accuracy_s", "epochs_to_accuracy", "crossing_epochs", "num_epochs", "total", "total_train_s")
    for name in (*same, "outcome"):
        assert getattr(found, name) == getattr(expected, name), name
    # An epoch of before has no place on this wall clock.
    here_s = 10 + 12 * (2 - stopped_after)
    assert found.time_to_accuracy_wall_s == (None if stopped_after >= 2 else here_s)

    forgetful = RunClock(0.5, device, started_s=990.0)
    for epoch in whole.epochs[stopped_after:]:
        forgetful.add(epoch)
    assert (forgetful.at_target is whole.at_target) == (stopped_after < 2)


@pytest.mark.usefixtures("tiny_model")
def test_the_summary_says_what_its_target_was() -> None:
    for target in (0.5, 0.95):
        summary = run_of([0.2, 0.6, 0.9], target)[0].summary(quality(0.8))
        assert summary.target_accuracy == target
        assert summary.reached_target == (summary.best_eval_accuracy >= target)
