"""What techniques=auto takes of a measurement: the fastest of what is shown and pays, and in which words."""

from collections.abc import Mapping

import pytest

from accelmlf.ablation.auto import fastest, in_words, techniques_of
from accelmlf.ablation.effects import SECONDS_PER_PICTURE
from accelmlf.ablation.marks import unfit, unfit_for_speeds
from accelmlf.ablation.result import Ablation
from accelmlf.ablation.settings import ALL, STEPS, TUNED
from accelmlf.settings.technique_list import TechniqueList
from accelmlf.tracking.stored_runs import StoredRun
from accelmlf.tracking.tags import ARM_STRETCHES, SKIPPED
from tests.ablation.test_result import asked, parent_of, stored

FORMAT, COMPILE = "channels_last", "compile:default"
BESIDE = asked("with_preset", (FORMAT, COMPILE), repeats=0, measure=STEPS)
EPOCH_S, ONCE_S = 10.0, 40.0
WORTH = {FORMAT: 1.1, COMPILE: 1.2, ALL: 1.3, TUNED: 1.05}
"""Times as fast. What is compiled costs ONCE_S before it begins."""
GENERATIONS = 4


def generation(number: int, worth: Mapping[str, float], tags: Mapping[str, Mapping[str, str]]) -> list[StoredRun]:
    runs = []
    for place, arm in enumerate(BESIDE.as_design().arms):
        noise = 1 + 0.001 * ((3 * number + 5 * place) % 7 - 3)
        epoch_s = EPOCH_S * noise / worth.get(arm.name, 1.0)
        once_s = ONCE_S * (COMPILE in arm.factors) + 1.0 + 0.1 * noise
        figures = {SECONDS_PER_PICTURE.metric: epoch_s / 1000, "mean_epoch_s": epoch_s}
        figures |= {"setup_s": once_s, "warmup_s": 0.5}
        own = tags.get(arm.name, {})
        runs.append(stored(arm.name, number, figures, what=BESIDE, kind=ARM_STRETCHES, tags=own))
    return runs


def ablation_with(
    worth: Mapping[str, float] = WORTH,
    *,
    failed: str | None = None,
    tags: Mapping[str, Mapping[str, str]] | None = None,
) -> Ablation:
    runs = [run for number in range(GENERATIONS) for run in generation(number, worth, tags or {})]
    if failed is not None:
        runs = [run for run in runs if not run.name.startswith(f"{failed},")]
        runs.append(stored(failed, 0, {}, what=BESIDE, kind=ARM_STRETCHES, outcome="failed"))
    return Ablation.of(parent_of(BESIDE), runs)


@pytest.mark.parametrize(("epochs", "name"), [(1, FORMAT), (10, FORMAT), (100, ALL)])
def test_of_one_measurement_is_taken_what_pays_in_the_run_that_follows(epochs: int, name: str) -> None:
    best = fastest(ablation_with(), epochs)
    assert best is not None and best.name == name
    assert techniques_of(best) == TechniqueList((FORMAT, COMPILE) if name == ALL else (FORMAT,))


def test_nothing_is_taken_where_nothing_is_shown_faster_though_the_preset_is() -> None:
    ablation = ablation_with({TUNED: 1.5})
    assert fastest(ablation, 100) is None and str(techniques_of(None)) == "none"
    assert in_words(ablation, None) == "no technique is shown to be faster"


def test_where_what_is_faster_does_not_pay_that_is_why_nothing_is_taken() -> None:
    ablation = ablation_with({COMPILE: 1.2, ALL: 1.2})
    assert fastest(ablation, 10) is None
    assert in_words(ablation, None) == (
        f"what is shown faster ({COMPILE}, {ALL}) costs more to start than it saves in so few epochs"
    )
    assert fastest(ablation, 100) is not None  # the control


@pytest.mark.parametrize("arm", [COMPILE, TUNED])
def test_an_arm_that_failed_is_neither_taken_nor_in_the_way_of_others(arm: str) -> None:
    ablation = ablation_with(failed=arm)
    assert unfit_for_speeds(ablation) == []
    best = fastest(ablation, 10)
    assert best is not None and best.name == FORMAT
    assert bool(unfit(ablation)) == (arm != TUNED)  # the control: the whole is not as it was asked for


def test_of_a_preset_it_is_said_what_it_lacks_here() -> None:
    for lacks, said in (("pin_memory", " (without pin_memory, which this device lacks)"), ("none", "")):
        ablation = ablation_with(tags={TUNED: {SKIPPED: lacks}})
        text = in_words(ablation, fastest(ablation, 100))
        assert text.endswith(
            f" as fast as the recipe's preset{said}, the fastest of 3 arms, so this is on the optimistic side"
        )
