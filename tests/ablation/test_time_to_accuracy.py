"""Time to accuracy from its parts: whose epochs have to be counted, and what is said of speed and epochs together."""

import math
import random
from collections.abc import Mapping, Sequence

import pytest

from accelmlf.ablation.ablate import arms_of_whole_runs
from accelmlf.ablation.designs import DESIGNS, Contrast, Design, make_design, with_twin
from accelmlf.ablation.effects import SECONDS_PER_PICTURE, TIME_TO_ACCURACY, Effect
from accelmlf.ablation.factors import ACCUMULATION, SAME_EFFECTIVE_BATCH
from accelmlf.ablation.settings import BASELINE, TUNED
from accelmlf.ablation.time_to_accuracy import EQUAL_WITHIN, EpochsToAccuracy, keeps_epochs, learning_alike
from accelmlf.many_runs.comparison import CONFIDENCE, Interval, as_ratio
from accelmlf.many_runs.pooled import Estimate, PooledTable, simultaneous
from accelmlf.many_runs.preflight import Preflight
from accelmlf.techniques.catalogue import TECHNIQUES
from tests.ablation.plan_makers import plan_of
from tests.laws.test_learning_curve import RELATIVE_TOLERANCE

AMP, WORKERS, RESIDENT = "amp:bf16", "workers:2", "resident"
TWICE = f"{BASELINE} again"
SPEED = Estimate(math.log(1.25), 0.0001, 20, 5)
"""Of the logarithm of how many times as fast: a quarter faster, give or take two per cent."""
ON_GPU = "cuda:0"
DEVICES = pytest.mark.parametrize("device", ["cpu", ON_GPU])
Epochs = Mapping[str, Sequence[float | None]]
"""Arm -> epochs to accuracy with each seed, None for a miss."""


def run_of(epochs: float | None) -> dict[str, float]:
    """What a run logs of its epochs to accuracy."""
    return {} if epochs is None else {"crossing_epochs": epochs, "epochs_to_accuracy": math.ceil(epochs)}


def counted(design: Design, epochs: Epochs, device: str = "cpu") -> EpochsToAccuracy:
    figures = {arm: {seed: run_of(found) for seed, found in enumerate(of)} for arm, of in epochs.items()}
    return EpochsToAccuracy(design, device, figures)


def one(*factors: str, design: str = "one_at_a_time") -> Design:
    return with_twin(make_design(design, factors))


def contrast_of(design: Design, name: str) -> Contrast:
    (contrast,) = [contrast for contrast in design.contrasts if contrast.name == name]
    return contrast


def speed_of(contrast: Contrast, estimate: Estimate = SPEED) -> Effect:
    return Effect(contrast, SECONDS_PER_PICTURE, estimate.interval(), {}, {})


def words(epochs: EpochsToAccuracy, contrast: Contrast, estimate: Estimate | None = SPEED) -> str:
    effect = None if estimate is None else epochs.effect(contrast, estimate)
    return epochs.in_words(contrast, speed_of(contrast, estimate or SPEED), effect)


def around(middle: float, spread: float, seeds: int = 8, seed: int = 1) -> list[float]:
    """Epochs to accuracy about a mean."""
    chance = random.Random(f"{seed}/{middle}")
    return [middle * math.exp(chance.gauss(0, spread)) for _ in range(seeds)]


# --- what leaves the epochs as they are ---


@pytest.mark.parametrize("word", TECHNIQUES)
def test_what_only_moves_data_leaves_the_epochs_as_they_are_on_a_processor_and_on_a_gpu_nobody_knows(word: str) -> None:
    assert keeps_epochs([word], "cpu") == TECHNIQUES[word].keeps_bits
    assert not keeps_epochs([word], ON_GPU)
    # The law of the learning curve holds each of them to the bit.
    assert RELATIVE_TOLERANCE[word] == 0.0 or not TECHNIQUES[word].keeps_bits


def test_of_several_factors_each_must_leave_them() -> None:
    assert keeps_epochs([], "cpu") and keeps_epochs([WORKERS, RESIDENT], "cpu")
    for label in (AMP, ACCUMULATION, SAME_EFFECTIVE_BATCH, TUNED, "a technique of another version"):
        assert not keeps_epochs([label], "cpu")
        assert not keeps_epochs([WORKERS, label], "cpu")


def test_arms_that_learn_alike_share_the_runs_of_the_first() -> None:
    design = one(AMP, WORKERS)
    alike = {arm: first.name for arm, first in learning_alike(design, "cpu").items()}
    assert alike == {BASELINE: BASELINE, TWICE: BASELINE, WORKERS: BASELINE, AMP: AMP, "all": AMP}
    apart = {arm: first.name for arm, first in learning_alike(design, ON_GPU).items()}
    assert apart == {BASELINE: BASELINE, TWICE: BASELINE, WORKERS: WORKERS, AMP: AMP, "all": "all"}


def test_runs_are_counted_of_one_arm_of_those_that_learn_alike_and_timed_of_all(seen: Preflight) -> None:
    factors = ("channels_last", WORKERS)
    stretches = plan_of(seen, factors=factors, measure="steps")
    assert [arm.name for arm in arms_of_whole_runs(stretches)] == [BASELINE, "channels_last"]
    whole = plan_of(seen, factors=factors)  # the control
    assert [arm.name for arm in arms_of_whole_runs(whole)] == [BASELINE, *factors, "all"]


@DEVICES
def test_a_factor_that_only_moves_data_is_said_to_have_the_same_epochs_and_needs_no_run(device: str) -> None:
    design = one(AMP, WORKERS)
    nothing = counted(design, {}, device)
    contrast = contrast_of(design, WORKERS)
    same = f"the same epochs, to the bit, so {speed_of(contrast).in_words}"
    assert words(nothing, contrast) == (same if device == "cpu" else "epochs not counted (repeats=8 does)")
    assert speed_of(contrast).in_words.startswith("faster: 1.25x [")
    assert words(nothing, contrast_of(design, AMP)) == "epochs not counted (repeats=8 does)"  # the control


@pytest.mark.parametrize("name", DESIGNS)
@DEVICES
def test_of_every_contrast_something_is_said_before_any_epoch_was_counted(name: str, device: str) -> None:
    """Of an interaction with what only moves data, too: it changes no epoch, whatever the other factor does."""
    factors = (TUNED,) if name == "preset" else (AMP, WORKERS, "channels_last")
    design = one(*factors, design=name)
    nothing, said = counted(design, {}, device), {}
    for contrast in design.contrasts:
        said[contrast.name] = words(nothing, contrast).startswith("the same epochs, to the bit, so ")
        assert said[contrast.name] or words(nothing, contrast) == "epochs not counted (repeats=8 does)"
    moving = {contrast.name for contrast in design.contrasts if WORKERS in contrast.factors}
    if name == "factorial":
        assert moving == {WORKERS, f"{AMP} x {WORKERS}", f"{WORKERS} x channels_last"}
    else:
        moving &= {WORKERS}  # beside others that it is on with, epochs may differ
    assert {contrast for contrast, is_same in said.items() if is_same} == (moving if device == "cpu" else set())


# --- what is compared ---


@DEVICES
def test_a_baseline_that_is_there_twice_was_counted_once(device: str) -> None:
    design = one(AMP, WORKERS)
    epochs = counted(design, {BASELINE: [4.0, 5.0, 6.0], AMP: [4.2, 5.2, 6.1]}, device)
    contrast = contrast_of(design, AMP)
    assert contrast.weights == {BASELINE: 0.5, TWICE: 0.5, AMP: -1.0}
    assert epochs.weights(contrast) == {BASELINE: 1.0, AMP: -1.0}
    expected = sum(math.log(a / b) for a, b in ((4.0, 4.2), (5.0, 5.2), (6.0, 6.1))) / 3
    assert epochs.epochs(contrast).mean == pytest.approx(expected)


def test_what_learns_alike_is_compared_by_the_runs_that_were_counted_for_it() -> None:
    design = one(AMP, WORKERS)
    epochs = counted(design, {BASELINE: around(5.0, 0.1), AMP: around(6.0, 0.1)})
    alone, together = (contrast_of(design, name) for name in (AMP, "all"))
    assert epochs.weights(together) == epochs.weights(alone) == {BASELINE: 1.0, AMP: -1.0}
    assert epochs.epochs(together) == epochs.epochs(alone)
    assert words(epochs, together) == words(epochs, alone)
    on_gpu = counted(design, epochs_of(epochs), ON_GPU)  # the control: there all together was not counted
    assert words(on_gpu, together) == "epochs not counted (repeats=8 does)"


def epochs_of(epochs: EpochsToAccuracy) -> Epochs:
    return {arm: [run.get("crossing_epochs") for run in of.values()] for arm, of in epochs.figures.items()}


def test_the_noise_is_that_of_all_arms_that_were_counted_with_the_same_seeds() -> None:
    design = one(AMP, "channels_last")
    two = {BASELINE: around(5.0, 0.1), AMP: around(6.0, 0.1)}
    contrast = contrast_of(design, AMP)
    alone = counted(design, two).epochs(contrast)
    beside = counted(design, {**two, "channels_last": around(5.5, 0.1)}).epochs(contrast)
    assert beside.mean == pytest.approx(alone.mean)
    assert (alone.degrees, beside.degrees) == (7, 14)
    missed: Epochs = {**two, "channels_last": [*around(5.5, 0.1)[:7], None]}
    assert counted(design, missed).epochs(contrast) == alone  # it has no epochs in one of them


def test_an_arm_that_lacks_a_seed_takes_it_from_no_other() -> None:
    design = one(AMP, "channels_last")
    figures = {
        arm: {seed: run_of(epochs) for seed, epochs in enumerate(around(middle, 0.1)) if seed != gone}
        for arm, middle, gone in ((BASELINE, 5.0, None), (AMP, 6.0, 7), ("channels_last", 5.5, 0))
    }
    epochs = EpochsToAccuracy(design, "cpu", figures)
    assert epochs.epochs(contrast_of(design, AMP)).count == 7
    assert epochs.epochs(contrast_of(design, "channels_last")).count == 7


def test_runs_of_earlier_versions_have_whole_epochs_and_those_are_taken() -> None:
    design = one(AMP)
    contrast = contrast_of(design, AMP)
    without = {seed: {"epochs_to_accuracy": float(5 + seed % 2)} for seed in range(4)}
    within = {seed: {"epochs_to_accuracy": float(6 + seed % 3)} for seed in range(4)}
    found = EpochsToAccuracy(design, "cpu", {BASELINE: without, AMP: within}).epochs(contrast)
    expected = sum(math.log((5 + seed % 2) / (6 + seed % 3)) for seed in range(4)) / 4
    assert found.mean == pytest.approx(expected)
    assert found.count == 4


# --- what is said ---


@pytest.mark.parametrize(
    ("without", "within", "counts"),
    [
        ([5.0, 6.0, 5.5], [5.0, None, 5.5], "3 of 3 (baseline), 2 of 3 (amp:bf16)"),
        ([5.0, None, None], [5.0, 6.0, 5.5], "1 of 3 (baseline), 3 of 3 (amp:bf16)"),
        ([None] * 3, [None] * 3, "0 of 3 (baseline), 0 of 3 (amp:bf16)"),
    ],
)
def test_a_miss_is_counted_and_no_time(without: list[float | None], within: list[float | None], counts: str) -> None:
    design = one(AMP, "channels_last")
    epochs = counted(design, {BASELINE: without, AMP: within, "channels_last": [5.0, 6.0, 5.5]})
    contrast = contrast_of(design, AMP)
    assert words(epochs, contrast) == f"target reached in {counts}: no verdict"
    effect = epochs.effect(contrast, SPEED)
    assert effect is not None and effect.interval is None and effect.verdict is None


def test_a_miss_that_does_not_concern_a_contrast_leaves_its_verdict() -> None:
    design = one(AMP, "channels_last")
    epochs = counted(design, {BASELINE: around(5, 0.01), AMP: [None] * 8, "channels_last": around(5, 0.01, seed=2)})
    assert words(epochs, contrast_of(design, "channels_last")).startswith("at equal epochs")


@pytest.mark.parametrize(("ratio", "is_equal"), [(1.0, True), (1.03, True), (0.97, True), (1.08, False), (0.9, False)])
def test_epochs_that_are_shown_to_be_equal_leave_the_words_of_the_speed(ratio: float, is_equal: bool) -> None:
    design = one(AMP)
    contrast = contrast_of(design, AMP)
    epochs = counted(design, {BASELINE: around(5.0, 0.005), AMP: around(5.0 * ratio, 0.005, seed=2)})
    said, speed = words(epochs, contrast), speed_of(contrast).in_words
    assert (said == f"at equal epochs (within {100 * EQUAL_WITHIN:g} %, 8 seeds), so {speed}") == is_equal
    if not is_equal:
        by_epochs = as_ratio(epochs.epochs(contrast).interval(simultaneous(1)))
        effect = epochs.effect(contrast, SPEED)
        assert effect is not None and effect.measure is TIME_TO_ACCURACY
        assert said == f"{effect.in_words}, of which {by_epochs} by epochs (8 seeds)"
        assert by_epochs.value == pytest.approx(1 / ratio, rel=0.01)


def test_epochs_that_only_look_equal_are_not_said_to_be_so() -> None:
    design = one(AMP)
    contrast = contrast_of(design, AMP)
    noisy = counted(design, {BASELINE: around(5.0, 0.2, seed=2), AMP: around(5.0, 0.2, seed=3)})
    assert "at equal epochs" not in words(noisy, contrast) and "by epochs (8 seeds)" in words(noisy, contrast)
    sure = counted(design, {BASELINE: around(5.0, 0.002, seed=2), AMP: around(5.0, 0.002, seed=3)})
    assert "at equal epochs" in words(sure, contrast)  # the control


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_leave_a_number_and_no_verdict(seeds: int) -> None:
    design = one(AMP)
    epochs = counted(design, {BASELINE: around(5.0, 0.01, seeds), AMP: around(5.0, 0.01, seeds)})
    assert words(epochs, contrast_of(design, AMP)).endswith("no verdict with fewer than 3 repeats")


def test_without_a_speed_the_epochs_are_no_time() -> None:
    design = one(AMP)
    epochs = counted(design, {BASELINE: around(5.0, 0.01), AMP: around(5.0, 0.01)})
    assert words(epochs, contrast_of(design, AMP), None) == "epochs not counted (repeats=8 does)"


# --- both noises ---


def estimated(chance: random.Random, truth: float, noise: float, generations: int = 5) -> Estimate:
    """A speed as generations of four arms would give it."""
    arms = {arm: [chance.gauss(at, noise) for _ in range(generations)] for arm, at in (("a", 0.0), ("b", -truth))}
    arms |= {arm: [chance.gauss(0.0, noise) for _ in range(generations)] for arm in ("c", "d")}
    return PooledTable.of({arm: dict(enumerate(of)) for arm, of in arms.items()}).estimate({"a": 1.0, "b": -1.0})


def holds(interval: Interval | None, truth: float) -> bool:
    assert interval is not None and interval.low is not None and interval.high is not None
    return interval.low <= truth <= interval.high


@pytest.mark.parametrize(("of_speed", "of_epochs"), [(0.02, 0.02), (0.005, 0.08), (0.04, 0.01)])
def test_the_noise_of_the_speed_and_that_of_the_epochs_are_both_in_the_interval(
    of_speed: float, of_epochs: float
) -> None:
    design, chance, studies = one(AMP), random.Random(5), 1_500
    contrast, by_speed, by_epochs = contrast_of(design, AMP), math.log(1.3), math.log(0.9)
    held, without_speed, without_epochs = 0, 0, 0
    for _ in range(studies):
        speed = estimated(chance, by_speed, of_speed)
        of_seed = [chance.gauss(math.log(5.0), 0.3) for _ in range(6)]  # a seed does to both arms alike
        epochs = counted(
            design,
            {
                BASELINE: [math.exp(at + chance.gauss(0, of_epochs)) for at in of_seed],
                AMP: [math.exp(at - by_epochs + chance.gauss(0, of_epochs)) for at in of_seed],
            },
        )
        effect = epochs.effect(contrast, speed)
        assert effect is not None
        held += holds(effect.interval, by_speed + by_epochs)
        # The controls: one of the two taken as if it were known.
        of_seeds, truth = epochs.epochs(contrast), by_speed + by_epochs
        without_speed += holds(of_seeds.interval(), truth - speed.mean)
        without_epochs += holds(speed.interval(), truth - of_seeds.mean)
    error = 2.5 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / studies)
    assert held / studies == pytest.approx(CONFIDENCE, abs=error + 0.01)
    assert min(without_speed, without_epochs) / studies < CONFIDENCE - 0.05
