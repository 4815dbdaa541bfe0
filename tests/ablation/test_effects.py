"""What is said of a factor is right as often as it claims, over simulated ablations whose truth is known."""

import functools
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from accelmlf.ablation.designs import Contrast, Design, make_design
from accelmlf.ablation.effects import (
    INTERACTION,
    MEASURES,
    SECONDS_PER_EPOCH,
    SECONDS_PER_PICTURE,
    TIME_TO_ACCURACY,
    VERDICTS,
    Effect,
    Measure,
    Measured,
    effects,
    interval_of,
    kind_of,
)
from accelmlf.ablation.settings import BASELINE
from accelmlf.ablation.stored import figures_of as stretch_figures_of
from accelmlf.many_runs.comparison import CONFIDENCE, MIN_REPEATS, SAME_WITHIN, Interval, t_interval
from accelmlf.many_runs.pooled import simultaneous
from accelmlf.measure.cost import PHASES, Cost
from tests.ablation.makers import Table, figures_of, measured_from, seconds_of, study_of

REPEATS = pytest.mark.parametrize("repeats", [3, 5, 7])
EVERY_MEASURE = pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.metric)
JUDGED = (SECONDS_PER_EPOCH, TIME_TO_ACCURACY)
"""Of whole runs, each with verdicts of its own."""
FASTER, SLOWER, SAME, UNDECIDED = VERDICTS[""]
AMP, LAST = "amp:bf16", "channels_last"
NOISE = 0.01
"""Standard deviation of the log seconds of a run; that of a block is fifty times as large."""
ONE = make_design("one_at_a_time", (AMP,))
WITH_AMP = ONE.contrasts[0]


def effect_of(found: Sequence[Effect], contrast: str, measure: Measure = SECONDS_PER_EPOCH) -> Effect:
    (effect,) = [effect for effect in found if effect.contrast.name == contrast and effect.measure is measure]
    return effect


def limits(effect: Effect) -> tuple[float, float]:
    interval = effect.interval
    assert interval is not None and interval.low is not None and interval.high is not None
    return interval.low, interval.high


# --- simulated ablations ---

GAIN, LOSS, MORE = 0.3, -0.05, 0.1
"""Logarithms of the speed-up by one factor and by another, and what they are worth together beyond that."""
TRUTH = {BASELINE: 0.0, AMP: -GAIN, LAST: -LOSS, "all": -GAIN - LOSS - MORE}
TRUTH[f"{AMP}+{LAST}"] = TRUTH["all"]
EXPECTED = {
    "one_at_a_time": {AMP: GAIN, LAST: LOSS, "all": GAIN + LOSS + MORE},
    "leave_one_out": {AMP: GAIN + MORE, LAST: LOSS + MORE},
    # A main effect is the mean of those without and with the other factor.
    "factorial": {AMP: GAIN + MORE / 2, LAST: LOSS + MORE / 2, f"{AMP} x {LAST}": MORE},
}
COVERAGE_STUDIES = 1_000


def seconds_in(design: Design) -> dict[str, float]:
    """Log seconds of each arm; that of `leave_one_out` without a factor is that with the other one."""
    other = {f"all but {AMP}": LAST, f"all but {LAST}": AMP}
    return {arm.name: TRUTH[other.get(arm.name, arm.name)] for arm in design.arms}


def coverage(design_name: str, repeats: int, studies: int, expected: Mapping[str, float]) -> dict[str, float]:
    """In how many of the studies an interval holds what is expected: of each contrast, and of all of a measure."""
    design, chance = make_design(design_name, (AMP, LAST)), random.Random(f"{design_name}/{repeats}")
    truth = seconds_in(design)
    held: Counter[str] = Counter()
    for _ in range(studies):
        found = effects(design.contrasts, study_of(truth, repeats, NOISE, chance), repeats)
        for measure in JUDGED:
            holds = {}
            for contrast in design.contrasts:
                low, high = limits(effect_of(found, contrast.name, measure))
                holds[contrast.name] = low <= expected[contrast.name] <= high
            held.update({f"{name}, {measure.title}": is_held for name, is_held in holds.items()})
            held[f"every one, {measure.title}"] += all(holds.values())
    return {name: count / studies for name, count in held.items()}


@pytest.mark.slow
@REPEATS
@pytest.mark.parametrize("design", ["one_at_a_time", "factorial"])
def test_in_ninety_five_of_a_hundred_ablations_all_intervals_hold_the_true_effects(design: str, repeats: int) -> None:
    found = coverage(design, repeats, COVERAGE_STUDIES, EXPECTED[design])
    assert len(found) == (len(EXPECTED[design]) + 1) * len(JUDGED)
    # 1,000 studies tell .95 to .007, and .983 to .004: these are three times that. Three contrasts that share an arm
    # err together, so that all hold in .955 to .965.
    together = {name: share for name, share in found.items() if name.startswith("every one, ")}
    assert {name: share for name, share in together.items() if not 0.93 <= share <= 0.98} == {}
    each = simultaneous(len(EXPECTED[design]))
    alone = {name: share for name, share in found.items() if name not in together}
    assert {
        name: share
        for name, share in alone.items()
        if not each - (0.025 if repeats == 3 else 0.0125) <= share <= each + 0.0125
    } == {}


def test_an_interval_around_something_else_would_be_found_out() -> None:
    shifted = {name: effect + NOISE for name, effect in EXPECTED["factorial"].items()}
    assert max(coverage("factorial", 7, 300, shifted).values()) < CONFIDENCE - 0.02


@pytest.mark.parametrize("design", EXPECTED)
def test_without_noise_every_design_finds_the_true_effects(design: str) -> None:
    made = make_design(design, (AMP, LAST))
    table = measured_from(seconds_in(made), 3)
    found = {c.name: effect_of(effects(made.contrasts, table, 3), c.name).interval for c in made.contrasts}
    assert {name: one and one.mean for name, one in found.items()} == pytest.approx(EXPECTED[design])


@pytest.mark.parametrize("noise", [NOISE, 0.06])
def test_the_noise_of_an_ablation_is_that_of_all_its_arms(noise: float) -> None:
    """With three blocks: a contrast by its own would take an interval twice as wide."""
    chance, widths = random.Random(8), []
    for _ in range(100):
        table = study_of(seconds_in(TWO), 3, noise, chance)
        low, high = limits(effect_of(effects(TWO.contrasts, table, 3), AMP))
        logs = [math.log(table[BASELINE][b]["median_epoch_s"] / table[AMP][b]["median_epoch_s"]) for b in range(3)]
        own = t_interval(logs, confidence=simultaneous(len(TWO.contrasts)))
        assert own.low is not None and own.high is not None
        assert low <= own.mean <= high
        widths.append((high - low) / (own.high - own.low))
    assert sorted(widths)[50] < 0.5


def test_arms_that_failed_do_not_take_the_others_residual_away() -> None:
    table = study_of(seconds_in(TWO), 5, NOISE, random.Random(9))
    whole = effect_of(effects(TWO.contrasts, table, 5), AMP).interval
    del table["all"][4]
    fewer = effect_of(effects(TWO.contrasts, table, 5), AMP).interval
    assert whole is not None and fewer is not None
    assert fewer.mean == whole.mean and fewer.count == whole.count == 5
    without = {arm: blocks for arm, blocks in table.items() if arm != "all"}
    assert fewer == interval_of(TWO.contrasts[0], SECONDS_PER_EPOCH, without, len(TWO.contrasts))
    assert fewer != whole  # the control: it was in the residual


FACTORS = (AMP, LAST, "workers:2")
NULL_STUDIES, NULL_NOISE = 800, 0.05
"""So noisy that hardly anything is shown to be the same."""
NULL_CASES: dict[str, dict[str, float]] = {
    "all are worth nothing": {},
    "one is worth something": {AMP: -0.5, "all": -0.5},
}


@dataclass
class FalseVerdicts:
    """Of ablations of three factors, in how many something was said of what is worth nothing."""

    studies: int = 0
    by_measure: Counter[str] = field(default_factory=Counter)
    """Any verdict on this one."""
    unadjusted: Counter[str] = field(default_factory=Counter)
    """What would have been any verdict on it by 95 % intervals each."""
    by_factor: Counter[str] = field(default_factory=Counter)
    """A verdict on this one."""


@functools.cache
def false_verdicts(case: str) -> FalseVerdicts:
    design, found = make_design("one_at_a_time", FACTORS), FalseVerdicts()
    truth = dict.fromkeys((arm.name for arm in design.arms), 0.0) | NULL_CASES[case]
    for repeats in (3, 5, 7):
        chance = random.Random(f"null/{case}/{repeats}")
        for _ in range(NULL_STUDIES):
            table = study_of(truth, repeats, NULL_NOISE, chance)
            effects_found = effects(design.contrasts, table, repeats)
            nulls = [effect for effect in effects_found if truth[effect.contrast.name] == 0.0]
            assert all(effect.verdict is not None for effect in nulls)
            wrong = [effect for effect in nulls if effect.verdict in (FASTER, SLOWER)]
            found.studies += 1
            found.by_factor.update({effect.contrast.name for effect in wrong})
            found.by_measure.update({effect.measure.title for effect in wrong})
            alone = [replace(e, interval=interval_of(e.contrast, e.measure, table, 1)) for e in nulls]
            found.unadjusted.update({e.measure.title for e in alone if e.verdict in (FASTER, SLOWER)})
    return found


ALLOWED = 1 - CONFIDENCE


@pytest.mark.slow
@pytest.mark.parametrize("case", NULL_CASES)
def test_a_factor_that_is_worth_nothing_gets_a_verdict_in_at_most_five_of_a_hundred_ablations(case: str) -> None:
    found = false_verdicts(case)
    assert found.by_factor.keys() <= {name for name in (*FACTORS, "all") if name not in NULL_CASES[case]}
    assert 0 < max(found.by_factor.values()) / found.studies <= ALLOWED


@pytest.mark.slow
@pytest.mark.parametrize("case", NULL_CASES)
def test_at_most_five_of_a_hundred_ablations_have_any_verdict_on_the_speed_of_what_is_worth_nothing(case: str) -> None:
    # Three factors and all together; so it is for the time to accuracy. As many studies as these tell .05 to .0045,
    # hence the allowance of two such errors.
    found = false_verdicts(case)
    error = math.sqrt(ALLOWED * (1 - ALLOWED) / found.studies)
    assert found.by_measure.keys() == {measure.title for measure in JUDGED}
    for count in found.by_measure.values():
        assert 0.01 < count / found.studies <= ALLOWED + 2 * error < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("case", NULL_CASES)
def test_by_intervals_that_hold_one_by_one_it_would_be_many_more(case: str) -> None:
    found = false_verdicts(case)
    for count in found.unadjusted.values():
        assert count / found.studies > 1.7 * ALLOWED


@pytest.mark.parametrize(("gain", "verdict"), [(math.log(1.05), "faster"), (-math.log(1.05), "slower")])
def test_five_percent_with_one_percent_of_noise_get_a_verdict_at_five_repeats(gain: float, verdict: str) -> None:
    chance, studies = random.Random(verdict), 500
    for measure in JUDGED:
        verdicts = [
            effect_of(effects([WITH_AMP], study_of({BASELINE: 0.0, AMP: -gain}, 5, NOISE, chance), 5), AMP, measure)
            for _ in range(studies)
        ]
        words = [effect.verdict for effect in verdicts]
        assert words.count(verdict) / studies > 0.95
        assert set(words) <= {verdict, UNDECIDED}  # and never the wrong way round


def test_noise_as_large_as_the_effect_gets_none_in_most_studies() -> None:
    chance, truth = random.Random(0), {BASELINE: 0.0, AMP: -math.log(1.05)}
    words = [effect_of(effects([WITH_AMP], study_of(truth, 5, 0.05, chance), 5), AMP).verdict for _ in range(200)]
    assert words.count(UNDECIDED) > 100


def test_what_disturbs_a_whole_block_does_not_hide_an_effect() -> None:
    truth = {BASELINE: 0.0, AMP: -0.1}
    together = measured_from(truth, 5, NOISE, random.Random(1), block_noise=1.0)
    moved = {(block + 1) % 5: figures for block, figures in together[AMP].items()}
    paired, torn = (effect_of(effects([WITH_AMP], t, 5), AMP) for t in (together, {**together, AMP: moved}))
    assert paired.verdict == "faster"
    assert torn.verdict == UNDECIDED  # the control: the same runs, not by block


# --- measures ---


def two_arms(without: Mapping[str, float], within: Mapping[str, float], repeats: int = 3) -> Table:
    """Runs that are all alike, and have reached the target."""
    reached = {TIME_TO_ACCURACY.metric: 1.0}
    return {
        arm: {block: {**reached, **figures} for block in range(repeats)}
        for arm, figures in ((BASELINE, without), (AMP, within))
    }


EVERYTHING: dict[str, Any] = {"gpu_peak_allocated_mib": 100.0, "gpu_peak_reserved_mib": 120.0, "gpu_joules": 50.0}


def test_every_measure_is_a_figure_that_a_run_or_a_stretch_logs() -> None:
    own = {SECONDS_PER_PICTURE.metric}
    assert {measure.metric for measure in MEASURES} - own <= figures_of(**EVERYTHING).keys()
    assert own <= stretch_figures_of([Cost(1.0, {}, 10)], 0.1, 100).keys()
    assert not own & figures_of(**EVERYTHING).keys()  # so that it tells the two apart
    assert {measure.metric for measure in MEASURES} > {f"mean_{phase}_s" for phase in PHASES}


def test_the_judged_measures_are_speed_and_time_to_accuracy() -> None:
    assert tuple(measure for measure in MEASURES if measure.has_verdict) == (SECONDS_PER_PICTURE, *JUDGED)
    for names in ([m.metric for m in MEASURES], [m.title for m in MEASURES]):
        assert len(set(names)) == len(names)


FEWER_IS_BETTER = {"seconds_per_image", "median_epoch_s", "time_to_accuracy_s"}
DIFFERENCES = {f"mean_{phase}_s": 1.0 for phase in PHASES} | {"final_accuracy": 100.0}


@EVERY_MEASURE
def test_times_are_without_over_with_and_all_else_is_with_over_or_minus_without(measure: Measure) -> None:
    found = effects([WITH_AMP], two_arms({measure.metric: 0.25}, {measure.metric: 0.5}), 3)
    if measure.metric in DIFFERENCES:
        expected = 0.25 * DIFFERENCES[measure.metric]
    else:
        expected = math.log(0.5) if measure.metric in FEWER_IS_BETTER else math.log(2)
    interval = effect_of(found, AMP, measure).interval
    assert interval is not None and interval.mean == pytest.approx(expected)
    assert (interval.low, interval.high) == (None, None)  # values that tie do not say how sure they are


def test_half_the_seconds_are_twice_as_fast_on_every_measure_of_a_real_record() -> None:
    less = {name: 0.5 * figure for name, figure in EVERYTHING.items()}
    table = {
        BASELINE: {b: figures_of(seconds_of(10), accuracy=0.9, host_peak_mib=800.0, **EVERYTHING) for b in range(3)},
        AMP: {b: figures_of(seconds_of(5), accuracy=0.91, host_peak_mib=400.0, **less) for b in range(3)},
    }
    found = {effect.measure.metric: effect.figure for effect in effects([WITH_AMP], table, 3)}
    assert found == {
        "median_epoch_s": "2.00x",
        "time_to_accuracy_s": "2.00x",
        "mean_images_per_s": "2.00x",
        "mean_data_wait_s": "-0.25 s per epoch",
        "mean_transfer_s": "-0.25 s per epoch",
        "mean_augment_s": "-0.25 s per epoch",
        "mean_forward_s": "-1.50 s per epoch",
        "mean_backward_s": "-2.00 s per epoch",
        "mean_optimizer_s": "-0.75 s per epoch",
        "peak_gpu_allocated_mib": "0.50x",
        "peak_gpu_reserved_mib": "0.50x",
        "peak_host_mib": "0.50x",
        "mean_gpu_joules": "0.50x",
        "final_accuracy": "+1.00 points",
    }


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.5, 0.4, 0.6, 3), "+0.50 [+0.40, +0.60] s per epoch"),
        (Interval(-0.0012, -0.0023, -0.0001, 3), "-0.0012 [-0.0023, -0.0001] s per epoch"),
        (Interval(0.01, -0.2, 0.22, 3), "+0.01 [-0.20, +0.22] s per epoch"),
        (Interval(-1.25, None, None, 1), "-1.25 s per epoch"),
    ],
)
def test_a_difference_is_written_with_its_sign_and_as_many_digits_as_it_needs(interval: Interval, text: str) -> None:
    (measure,) = [measure for measure in MEASURES if measure.metric == "mean_forward_s"]
    assert Effect(WITH_AMP, measure, interval, {}, {}).figure == text


OF_RUNS = {*MEASURES} - {SECONDS_PER_PICTURE}
EVERY_MEASURE_OF_RUNS = pytest.mark.parametrize(
    "measure", [m for m in MEASURES if m in OF_RUNS], ids=lambda measure: measure.metric
)


def test_what_was_measured_in_stretches_has_no_time_to_accuracy() -> None:
    table: Measured = {arm: {block: {"seconds_per_image": 0.1} for block in range(3)} for arm in (BASELINE, AMP)}
    assert [effect.measure for effect in effects([WITH_AMP], table, 3)] == [SECONDS_PER_PICTURE]
    of_runs = two_arms({"median_epoch_s": 1.0}, {"median_epoch_s": 1.0})  # the control
    assert [effect.measure for effect in effects([WITH_AMP], of_runs, 3)] == list(JUDGED)


@EVERY_MEASURE_OF_RUNS
def test_a_figure_that_no_run_has_is_absent(measure: Measure) -> None:
    table = measured_from({BASELINE: 0.0, AMP: -0.3}, 3, **EVERYTHING)
    for blocks in table.values():
        for figures in blocks.values():
            del figures[measure.metric]
    found = {effect.measure for effect in effects([WITH_AMP], table, 3)}
    # But that the target was never reached is said.
    assert found == OF_RUNS - ({measure} - {TIME_TO_ACCURACY})


@EVERY_MEASURE_OF_RUNS
def test_a_figure_that_one_arm_lacks_is_not_compared(measure: Measure) -> None:
    table = measured_from({BASELINE: 0.0, AMP: -0.3}, 3, **EVERYTHING)
    for figures in table[AMP].values():
        del figures[measure.metric]
    effect = effect_of(effects([WITH_AMP], table, 3), AMP, measure)
    assert (effect.interval, effect.figure, effect.verdict) == (None, "", None)


@EVERY_MEASURE_OF_RUNS
@pytest.mark.parametrize("arm", [BASELINE, AMP])
def test_a_zero_is_no_number_of_a_ratio_and_one_of_a_difference(measure: Measure, arm: str) -> None:
    table = measured_from({BASELINE: 0.0, AMP: -0.3}, 3, **EVERYTHING)
    table[arm][1][measure.metric] = 0.0
    found = effects([WITH_AMP], table, 3)
    effect = effect_of(found, AMP, measure)
    assert (effect.interval is None) == measure.is_ratio
    assert effect.verdict is None
    others = [other for other in found if other.measure is not measure]
    assert all(other.interval is not None for other in others)


# --- the target was missed ---


def with_misses(*missed: tuple[str, int], repeats: int = 5) -> Table:
    """A clear effect; in some runs the target was not reached."""
    table = measured_from({BASELINE: 0.0, AMP: -0.3, LAST: 0.0, "all": -0.3}, repeats, 0.004, random.Random(2))
    for arm, block in missed:
        epoch_s = table[arm][block]["median_epoch_s"]
        table[arm][block] = figures_of(seconds_of(epoch_s), epochs_to_accuracy=None)
    return table


TWO = make_design("one_at_a_time", (AMP, LAST))


@pytest.mark.parametrize(
    ("missed", "words"),
    [
        ([(AMP, 1)], f"target reached in 5 of 5 (baseline), 4 of 5 ({AMP}): no verdict"),
        ([(AMP, 1), (AMP, 4), (AMP, 0)], f"target reached in 5 of 5 (baseline), 2 of 5 ({AMP}): no verdict"),
        ([(BASELINE, 3)], f"target reached in 4 of 5 (baseline), 5 of 5 ({AMP}): no verdict"),
        (
            [(arm, block) for arm in (BASELINE, AMP) for block in range(5)],
            f"target reached in 0 of 5 (baseline), 0 of 5 ({AMP}): no verdict",
        ),
    ],
    ids=["one", "three", "of the other arm", "all"],
)
def test_a_miss_of_the_target_is_counted_and_never_averaged(missed: list[tuple[str, int]], words: str) -> None:
    found = effects(TWO.contrasts, with_misses(*missed), 5)
    effect = effect_of(found, AMP, TIME_TO_ACCURACY)
    assert (effect.interval, effect.verdict, effect.figure) == (None, None, "")
    assert effect.in_words == words
    assert effect_of(found, AMP).verdict == "faster"  # an epoch takes what it takes, target or not


def test_a_miss_is_held_against_the_arms_that_missed_alone() -> None:
    found = effects(TWO.contrasts, with_misses((AMP, 1)), 5)
    verdicts = {c.name: effect_of(found, c.name, TIME_TO_ACCURACY).verdict for c in TWO.contrasts}
    assert verdicts == {AMP: None, LAST: SAME, "all": FASTER}


def test_in_a_factorial_design_a_miss_touches_every_effect() -> None:
    design = make_design("factorial", (AMP, LAST))
    table = with_misses((AMP, 0))
    table[f"{AMP}+{LAST}"] = table.pop("all")
    found = effects(design.contrasts, table, 5)
    on_target = [effect for effect in found if effect.measure is TIME_TO_ACCURACY]
    assert [effect.interval for effect in on_target] == [None] * 3
    assert all(effect.reached[AMP] == (4, 5) for effect in on_target)


# --- runs that failed, or are not there ---


def without_runs(*missing: tuple[str, int], repeats: int = 5) -> Table:
    table = with_misses(repeats=repeats)
    for arm, block in missing:
        del table[arm][block]
    return table


@pytest.mark.parametrize(
    ("missing", "count", "words"),
    [
        ([(AMP, 1)], 4, f"no verdict: 1 run of {AMP} failed or missing"),
        ([(AMP, 1), (AMP, 4)], 3, f"no verdict: 2 runs of {AMP} failed or missing"),
        ([(AMP, 1), (BASELINE, 3)], 3, f"no verdict: 1 run of baseline, 1 run of {AMP} failed or missing"),
        ([(AMP, 1), (BASELINE, 1)], 4, f"no verdict: 1 run of baseline, 1 run of {AMP} failed or missing"),
    ],
    ids=["one", "two of one arm", "of two blocks", "a whole block"],
)
def test_with_a_run_missing_there_are_numbers_over_whole_blocks_and_no_verdict(
    missing: list[tuple[str, int]], count: int, words: str
) -> None:
    whole = effects(TWO.contrasts, without_runs(), 5)
    found = effects(TWO.contrasts, without_runs(*missing), 5)
    for measure in JUDGED:
        effect = effect_of(found, AMP, measure)
        assert effect.interval is not None and effect.interval.count == count
        assert effect.interval.mean == pytest.approx(0.3, abs=0.03)
        assert effect.verdict is None
        assert effect.in_words == f"{effect.figure}; {words}"
        assert effect_of(whole, AMP, measure).verdict == "faster"  # the control


def test_the_numbers_of_an_ablation_that_was_cut_short_are_those_of_its_whole_blocks() -> None:
    table = without_runs((AMP, 3), (AMP, 4), (BASELINE, 4))
    table[BASELINE][3] = figures_of(seconds_of(1e6))  # a block without its other arm must not count
    cut = effect_of(effects([WITH_AMP], table, 5), AMP)
    whole = {arm: {block: figures for block, figures in blocks.items() if block < 3} for arm, blocks in table.items()}
    short = effect_of(effects([WITH_AMP], whole, 3), AMP)
    assert cut.interval == short.interval
    assert (cut.verdict, short.verdict) == (None, "faster")


def test_an_arm_without_any_run_has_nothing_to_compare() -> None:
    table = without_runs()
    del table[AMP]
    for effect in effects([WITH_AMP], table, 5):
        assert effect.interval is None
        assert effect.in_words == f"no verdict: 5 runs of {AMP} failed or missing"


def test_an_ablation_without_any_run_says_so() -> None:
    (effect,) = effects([WITH_AMP], {}, 3)
    assert effect.measure is TIME_TO_ACCURACY
    assert effect.in_words == f"no verdict: 3 runs of baseline, 3 runs of {AMP} failed or missing"


NONE_OF_ONE = f"no verdict (1 run of {AMP} failed or missing)"


def test_a_run_that_failed_has_not_reached_the_target() -> None:
    table = without_runs((AMP, 4))
    missing, failed = (effects([WITH_AMP], table, 5, arms) for arms in (None, {AMP: 1}))
    assert effect_of(failed, AMP) == effect_of(missing, AMP)  # an epoch takes what it takes
    on_target = effect_of(failed, AMP, TIME_TO_ACCURACY)
    assert (on_target.interval, on_target.verdict) == (None, None)
    assert on_target.in_words == f"target reached in 5 of 5 (baseline), 4 of 5 ({AMP}): {NONE_OF_ONE}"
    unknown = effect_of(missing, AMP, TIME_TO_ACCURACY)  # the control: a run that was not made may yet reach it
    assert unknown.interval is not None
    assert unknown.in_words == f"{unknown.figure}; no verdict: 1 run of {AMP} failed or missing"


@pytest.mark.parametrize(("failed", "runs"), [({}, 4), ({AMP: 1}, 5)])
def test_misses_are_counted_beside_runs_that_failed(failed: dict[str, int], runs: int) -> None:
    table = with_misses((AMP, 1), (AMP, 2))
    del table[AMP][4]
    effect = effect_of(effects([WITH_AMP], table, 5, failed), AMP, TIME_TO_ACCURACY)
    assert (effect.interval, effect.verdict) == (None, None)
    assert effect.in_words == f"target reached in 5 of 5 (baseline), 2 of {runs} ({AMP}): {NONE_OF_ONE}"


def test_a_failed_run_takes_the_verdict_from_the_effects_of_its_arm_alone() -> None:
    found = effects(TWO.contrasts, without_runs((AMP, 1)), 5)
    assert [effect_of(found, c.name).verdict for c in TWO.contrasts] == [None, SAME, FASTER]


# --- few repeats ---


@pytest.mark.parametrize("repeats", [1, 2])
def test_with_fewer_than_three_repeats_there_are_numbers_and_no_verdicts(repeats: int) -> None:
    found = effects([WITH_AMP], with_misses(repeats=repeats), repeats)
    assert all(effect.verdict is None for effect in found)
    for measure in JUDGED:
        effect = effect_of(found, AMP, measure)
        assert effect.interval is not None and effect.interval.mean == pytest.approx(0.3, abs=0.05)
        assert effect.in_words == f"{effect.figure}, no verdict with fewer than 3 repeats"
        assert ("[" in effect.figure) == (repeats == 2)  # one run of each arm has no interval
    others = [effect for effect in found if not effect.measure.has_verdict]
    assert others and all("verdict" not in effect.in_words for effect in others)


def test_three_repeats_are_enough() -> None:
    found = effects([WITH_AMP], with_misses(repeats=MIN_REPEATS), MIN_REPEATS)
    assert [effect_of(found, AMP, measure).verdict for measure in JUDGED] == ["faster", "faster"]


# --- verdicts ---


def ablations() -> Iterator[tuple[Table, list[Effect]]]:
    """Of every kind: clear effects and none, large noise and small, misses and failures, few repeats and many."""
    chance = random.Random(7)
    for _ in range(120):
        design = make_design(chance.choice(["one_at_a_time", "leave_one_out", "factorial"]), (AMP, LAST))
        truth = {arm.name: chance.choice([0.0, 0.02, -0.02, -0.3]) for arm in design.arms}
        repeats = chance.randint(1, 6)
        table = study_of(truth, repeats, chance.choice([0.001, 0.01, 0.1]), chance)
        if chance.random() < 0.2:
            table[chance.choice(design.arms).name].popitem()
        if chance.random() < 0.2:
            for figures in table[chance.choice(design.arms).name].values():
                figures.pop(TIME_TO_ACCURACY.metric)
        yield table, effects(design.contrasts, table, repeats)


def test_a_verdict_is_read_off_the_interval_beside_it() -> None:
    seen: set[str | None] = set()
    margin = math.log(1 + SAME_WITHIN)
    for _, found in ablations():
        for effect in found:
            assert (effect.verdict is not None) == effect.can_have_verdict
            seen.add(effect.verdict)
            if effect.verdict is None:
                continue
            low, high = limits(effect)
            faster, slower, same, undecided = VERDICTS[kind_of(effect.contrast)]
            expected = faster if low > 0 else slower if high < 0 else undecided
            assert effect.verdict == (same if -margin <= low and high <= margin else expected)
            assert effect.in_words == f"{effect.verdict}: {effect.figure}"
    assert seen == {None, *VERDICTS[""], *VERDICTS[INTERACTION]}


def test_every_interval_that_is_judged_pays_for_all_questions() -> None:
    for table, found in ablations():
        asked = len({effect.contrast.name for effect in found})
        for effect in found:
            if effect.can_have_verdict:
                paid, alone = (interval_of(effect.contrast, effect.measure, table, count) for count in (asked, 1))
                assert effect.interval == paid
                assert (paid == alone) == (asked == 1)  # the control


def test_each_further_question_costs_the_others_some_certainty() -> None:
    table = measured_from({BASELINE: 0.0, AMP: -0.02, LAST: 0.0, "all": 0.0}, 5, NOISE, random.Random(3))
    widths = []
    for contrasts in ([WITH_AMP], TWO.contrasts[:2], TWO.contrasts):
        low, high = limits(effect_of(effects(contrasts, table, 5), AMP))
        widths.append(high - low)
    assert widths == sorted(set(widths))


def test_what_has_no_verdict_of_its_own_kind_costs_nothing() -> None:
    truth = {BASELINE: 0.0, AMP: -0.02, LAST: 0.0, "all": 0.0}
    table = measured_from(truth, 5, NOISE, random.Random(3), **EVERYTHING)
    bare = {
        arm: {block: {m.metric: figures[m.metric] for m in JUDGED} for block, figures in blocks.items()}
        for arm, blocks in table.items()
    }
    assert effect_of(effects(TWO.contrasts, table, 5), AMP) == effect_of(effects(TWO.contrasts, bare, 5), AMP)
    assert effect_of(effects(TWO.contrasts, bare, 5), AMP) != effect_of(effects([WITH_AMP], bare, 5), AMP)


@EVERY_MEASURE
def test_nothing_but_the_judged_measures_has_a_verdict(measure: Measure) -> None:
    table = measured_from({BASELINE: 0.0, AMP: -2.0}, 5, NOISE, random.Random(4), **EVERYTHING)
    if measure is SECONDS_PER_PICTURE:
        table = {
            arm: {block: {measure.metric: figures["median_epoch_s"]} for block, figures in blocks.items()}
            for arm, blocks in table.items()
        }
    effect = effect_of(effects([WITH_AMP], table, 5), AMP, measure)
    assert (effect.verdict == "faster") == measure.has_verdict == effect.in_words.startswith("faster: ")
    assert measure.has_verdict or effect.in_words == effect.figure != ""


@pytest.mark.parametrize("measure", [SECONDS_PER_PICTURE, SECONDS_PER_EPOCH])
def test_values_that_tie_have_a_number_and_no_verdict(measure: Measure) -> None:
    table: Measured = {
        arm: {block: {measure.metric: seconds} for block in range(5)} for arm, seconds in ((BASELINE, 2.0), (AMP, 1.0))
    }
    effect = effect_of(effects([WITH_AMP], table, 5), AMP, measure)
    assert (effect.verdict, effect.in_words) == (None, "2.00x")


BOTH = Contrast("a x b", ("a", "b"), {}, is_interaction=True)


@pytest.mark.parametrize(
    ("contrast", "interval", "words"),
    [
        (WITH_AMP, Interval(0.4824, 0.4383, 0.5306, 3), "faster: 1.62x [1.55, 1.70]"),
        (WITH_AMP, Interval(-0.0513, -0.0726, -0.0305, 5), "slower: 0.95x [0.93, 0.97]"),
        (WITH_AMP, Interval(0.0, -0.0513, 0.0488, 5), "not decided yet: 1.00x [0.95, 1.05]"),
        (WITH_AMP, Interval(0.04, -0.01, 0.09, 5), "not decided yet: 1.04x [0.99, 1.09]"),
        (WITH_AMP, Interval(0.0, -0.0101, 0.0099, 5), "the same within 2 %: 1.00x [0.99, 1.01]"),
        (WITH_AMP, Interval(0.0099, 0.005, 0.0149, 5), "the same within 2 %: 1.010x [1.005, 1.015]"),
        (WITH_AMP, Interval(0.0149, 0.01, 0.0201, 5), "faster: 1.0150x [1.0101, 1.0203]"),
        (WITH_AMP, Interval(0.001, -0.015, 0.0201, 5), "not decided yet: 1.0010x [0.9851, 1.0203]"),
        (WITH_AMP, Interval(-0.015, -0.02, -0.01, 5), "slower: 0.9851x [0.9802, 0.9900]"),
        (BOTH, Interval(0.1, 0.05, 0.15, 5), "worth more together: 1.11x [1.05, 1.16]"),
        (BOTH, Interval(-0.1, -0.15, -0.05, 5), "worth less together: 0.90x [0.86, 0.95]"),
        (BOTH, Interval(0.04, -0.01, 0.09, 5), "not decided yet: 1.04x [0.99, 1.09]"),
        (BOTH, Interval(0.0, -0.01, 0.01, 5), "no interaction above 2 %: 1.00x [0.99, 1.01]"),
    ],
)
def test_a_verdict_in_words(contrast: Contrast, interval: Interval, words: str) -> None:
    assert Effect(contrast, SECONDS_PER_EPOCH, interval, {}, {}).in_words == words


@pytest.mark.parametrize("gain", [0.03, 0.05, -0.03, -0.05])
def test_a_verdict_and_the_numbers_beside_it_do_not_contradict_each_other(gain: float) -> None:
    table = measured_from({BASELINE: 0.0, AMP: -gain}, 5, 0.002, random.Random(5))
    effect = effect_of(effects([WITH_AMP], table, 5), AMP)
    assert effect.verdict == (FASTER if gain > 0 else SLOWER)
    low, high = (float(text) for text in effect.figure.partition("[")[2].rstrip("]").split(", "))
    assert low > 1 if gain > 0 else high < 1


@pytest.mark.parametrize("gain", [0.0, 0.004, -0.004])
def test_what_is_so_small_that_it_does_not_matter_is_said_to_be_the_same(gain: float) -> None:
    """Though it is measured so well that 1 is left out."""
    table = measured_from({BASELINE: 0.0, AMP: -gain}, 5, 0.0002, random.Random(5))
    effect = effect_of(effects([WITH_AMP], table, 5), AMP)
    assert effect.verdict == SAME
    low, high = limits(effect)
    assert (low > 0 or high < 0) == (gain != 0)
    noisy = measured_from({BASELINE: 0.0, AMP: -gain}, 5, 0.05, random.Random(5))
    assert effect_of(effects([WITH_AMP], noisy, 5), AMP).verdict == UNDECIDED  # the control


def test_what_is_shown_to_be_the_same_is_so_in_ninety_five_of_a_hundred_ablations() -> None:
    """A true difference just above two per cent is called the same in at most 2.5 %, that of one side."""
    chance, wrong, studies = random.Random(11), Counter[str | None](), 1_500
    truth = {BASELINE: 0.0, AMP: -math.log(1.0201)}
    for _ in range(studies):
        wrong[effect_of(effects([WITH_AMP], study_of(truth, 5, 0.004, chance), 5), AMP).verdict] += 1
    assert 0 < wrong[SAME] / studies <= 0.025 + 2 * math.sqrt(0.025 * 0.975 / studies)
    assert wrong[SLOWER] == 0
