"""The final figures of a run: means per epoch, peaks, and nothing that was not captured."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from accelmlf.ablation.effects import MEASURES, SECONDS_PER_PICTURE
from accelmlf.ablation.stored import figures_of as figures_of_stretches
from accelmlf.machine.presence import Presence
from accelmlf.measure.cost import PHASES, Cost
from accelmlf.measure.gpu import GpuState
from accelmlf.measure.records import RunSummary, cost_metrics
from tests.search.makers import make_epoch

QUALITY = make_epoch(1, 0.9, 10.0).quality
PHASES_S = {phase: 2.0 * (index + 1) for index, phase in enumerate(PHASES)}
TOTAL = Cost(
    train_s=50.0,
    phases_s=PHASES_S,
    images=4_000,
    host_peak_mib=800.0,
    gpu_peak_allocated_mib=300.0,
    gpu_peak_reserved_mib=400.0,
    gpu_joules=1_000.0,
    other_gpu_processes=0,
    gpu_state=GpuState(1_980.0, 61.0, 0x4),
    presence=Presence(60.0, 3.0, 500, 40, waited_s=20.0, others_s=10.0, stolen_s=0.0, throttled_s=0.0),
)
NUM_EPOCHS = 4


def summary(total: Cost = TOTAL, **changed: Any) -> RunSummary:
    """Four epochs on a GPU, at the target after three."""
    figures: dict[str, Any] = {
        "outcome": "completed",
        "target_accuracy": 0.9,
        "test": QUALITY,
        "best_eval_accuracy": 0.92,
        "time_to_accuracy_s": 37.0,
        "time_to_accuracy_wall_s": 45.0,
        "epochs_to_accuracy": 3,
        "crossing_epochs": 2.6,
        "num_epochs": NUM_EPOCHS,
        "total": total,
        "total_train_s": total.train_s,
        "median_epoch_s": 12.0,
        "warmup_s": 1.0,
        "setup_s": 2.0,
        "tracking_s": 0.5,
        "test_s": 0.7,
        "wall_s": 60.0,
    }
    return RunSummary(**(figures | changed))


def test_means_are_per_epoch_and_those_of_the_phases_add_up() -> None:
    figures = summary().as_metrics()
    assert figures["mean_epoch_s"] == 12.5
    assert figures["mean_images_per_s"] == 80.0
    assert figures["mean_gpu_joules"] == 250.0
    phases = {phase: figures[f"mean_{phase}_s"] for phase in PHASES}
    assert phases == {phase: seconds / NUM_EPOCHS for phase, seconds in PHASES_S.items()}
    assert sum(phases.values()) + figures["mean_other_s"] == pytest.approx(figures["mean_epoch_s"])
    assert figures["mean_other_s"] > 0


def test_peaks_are_those_of_the_whole_run() -> None:
    figures = summary().as_metrics()
    names = ("peak_gpu_allocated_mib", "peak_gpu_reserved_mib", "peak_host_mib")
    assert [figures[name] for name in names] == [300.0, 400.0, 800.0]


def test_the_median_is_not_the_mean() -> None:
    figures = summary().as_metrics()
    assert (figures["median_epoch_s"], figures["mean_epoch_s"]) == (12.0, 12.5)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("host_peak_mib", "peak_host_mib"),
        ("gpu_peak_allocated_mib", "peak_gpu_allocated_mib"),
        ("gpu_peak_reserved_mib", "peak_gpu_reserved_mib"),
        ("gpu_joules", "mean_gpu_joules"),
        ("other_gpu_processes", "other_gpu_processes"),
        ("gpu_state", "gpu_throttle_reasons"),
        ("presence", "missing_cores_share"),
    ],
)
def test_what_was_not_captured_is_absent_and_nothing_else_is(field: str, name: str) -> None:
    whole = summary().as_metrics()
    nothing: dict[str, Any] = {field: None}
    without = summary(dataclasses.replace(TOTAL, **nothing)).as_metrics()
    assert whole.keys() - without.keys() == {name}
    assert without == {other: value for other, value in whole.items() if other != name}


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("time_to_accuracy_s", {"time_to_accuracy_s"}),
        ("time_to_accuracy_wall_s", {"time_to_accuracy_wall_s"}),
        ("epochs_to_accuracy", {"epochs_to_accuracy"}),
        ("crossing_epochs", {"crossing_epochs"}),
        ("test", {"final_accuracy", "final_f1", "final_loss"}),
        ("test_s", {"test_s"}),
    ],
)
def test_what_a_run_has_not_is_absent(field: str, names: set[str]) -> None:
    nothing: dict[str, Any] = {field: None}
    assert summary().as_metrics().keys() - summary(**nothing).as_metrics().keys() == names


def test_a_miss_is_no_time_and_no_number_of_epochs() -> None:
    of_target = ("time_to_accuracy_s", "time_to_accuracy_wall_s", "epochs_to_accuracy", "crossing_epochs")
    nothing: dict[str, Any] = dict.fromkeys(of_target)
    figures = summary(**nothing).as_metrics()
    assert figures["reached_target"] == 0
    assert not [name for name in figures if "to_accuracy" in name or "crossing" in name]
    assert summary().as_metrics()["reached_target"] == 1
    assert summary().as_metrics()["epochs_to_accuracy"] == 3
    assert summary().as_metrics()["crossing_epochs"] == 2.6


def test_a_count_of_nothing_was_captured() -> None:
    figures = summary(dataclasses.replace(TOTAL, gpu_joules=0.0)).as_metrics()
    assert (figures["other_gpu_processes"], figures["mean_gpu_joules"]) == (0, 0.0)


def epoch_figures(total: Cost = TOTAL) -> dict[str, float]:
    return dataclasses.replace(make_epoch(1, 0.9, 10.0), cost=total, skipped_steps=0).as_metrics()


def test_of_the_cores_that_were_missing_an_epoch_and_a_run_have_the_share() -> None:
    assert epoch_figures()["machine/missing_cores_share"] == summary().as_metrics()["missing_cores_share"] == 0.125
    assert epoch_figures()["machine/waited_s"] == 20.0


def test_of_the_machine_is_absent_what_it_does_not_tell() -> None:
    presence = dataclasses.replace(TOTAL.presence, waited_s=None)  # type: ignore[type-var]
    part = dataclasses.replace(TOTAL, presence=presence, gpu_state=GpuState(temperature_c=61.0))
    unknown = {"machine/" + name for name in ("waited_s", "missing_cores_share")}
    unknown |= {"machine/gpu_sm_clock_mhz", "machine/gpu_throttle_reasons"}
    assert epoch_figures().keys() - epoch_figures(part).keys() == unknown
    nothing = dataclasses.replace(TOTAL, presence=None, gpu_state=None)
    assert not [name for name in epoch_figures(nothing) if name.startswith("machine/")]


def test_every_figure_is_a_number_under_a_name_without_a_prefix() -> None:
    for name, value in summary().as_metrics().items():
        assert "/" not in name
        assert isinstance(value, (int, float)) and not isinstance(value, bool)


def test_the_page_of_records_names_every_figure() -> None:
    page = (Path(__file__).parents[2] / "docs" / "records.md").read_text()
    phase = rf"(time/|mean_)({'|'.join([*PHASES, 'other'])})_s"
    figures = {re.sub(phase, r"\1<phase>_s", name) for name in (*epoch_figures(), *summary().as_metrics())}
    assert {"time/<phase>_s", "mean_<phase>_s", "train/loss", "wall_s"} <= figures
    assert figures <= set(re.findall(r"`([^`\s]+)`", page))
    assert set(PHASES) <= set(re.findall(r"\w+", page))


def test_all_that_ablations_compare_is_recorded() -> None:
    compared, of_runs = {measure.metric for measure in MEASURES}, summary().as_metrics().keys()
    # Stretches have a speed and no epoch that was whole.
    assert compared - of_runs == {SECONDS_PER_PICTURE.metric}
    assert SECONDS_PER_PICTURE.metric in figures_of_stretches([TOTAL], 0.0125, 1_000)


def test_what_an_epoch_has_cost_is_recorded_by_the_names_of_any_stretch_of_training() -> None:
    of_cost, whole = cost_metrics(TOTAL), epoch_figures()
    assert of_cost.items() <= whole.items()
    of_epochs = {"train/loss", "train/learning_rate", "train/skipped_steps", "time/eval_s", "time/elapsed_train_s"}
    assert whole.keys() - of_cost.keys() == of_epochs | {"eval/loss", "eval/accuracy", "eval/f1_macro"}
    nothing = Cost(50.0, {"forward": 49.0}, 4_000)
    expected = {"time/train_s": 50.0, "time/forward_s": 49.0, "time/other_s": 1.0, "throughput/images_per_s": 80.0}
    assert cost_metrics(nothing) == expected  # the control: what was not captured is absent


@pytest.mark.parametrize(
    ("explained", "text"),
    [
        (50.0, None),
        (49.5, None),
        (45.0, "phases leave 10.0% of the epochs unexplained"),
        (55.0, "phases leave 10.0% of the epochs unexplained"),
    ],
)
def test_phases_that_explain_too_little_or_too_much_show(explained: float, text: str | None) -> None:
    assert dataclasses.replace(TOTAL, phases_s={"forward": explained}).unexplained == text
