"""Why a factor helps or does not: each rule says what the measured phases say, with their numbers, or nothing."""

import itertools
import random
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from accelmlf.ablation.designs import Contrast, make_design
from accelmlf.ablation.effects import Measured
from accelmlf.ablation.factors import ACCUMULATION, SAME_EFFECTIVE_BATCH
from accelmlf.ablation.reasons import (
    LITTLE,
    LOADING,
    MOST,
    NOTICEABLE,
    RULES,
    Case,
    how_many_epochs,
    nothing_to_win,
    what_changed_elsewhere,
    what_it_did,
    why,
)
from accelmlf.ablation.settings import BASELINE, TUNED
from accelmlf.many_runs.comparison import CONFIDENCE, MIN_REPEATS
from accelmlf.many_runs.pooled import simultaneous
from accelmlf.measure.cost import PHASES
from accelmlf.techniques.catalogue import TECHNIQUES
from tests.ablation.makers import Table, figures_of, measured_from, seconds_of

AMP, LAST, WORKERS, PIN = "amp:bf16", "channels_last", "workers:2", "pin_memory"
EPOCH = {"data_wait": 0.5, "transfer": 0.5, "augment": 0.5, "forward": 3.0, "backward": 4.0, "optimizer": 1.5}
"""Seconds of each phase; ten together, so that a share is easily seen."""
DRIFT = (1.0, 1.01, 0.99, 1.02, 0.98)
"""What the blocks do to all their runs alike."""
HALF_WIDTH = 4.851008 * 0.0158114 / 5**0.5
"""Of the interval of a change, as a share of it: five blocks with that drift, Student's t of 4 degrees of freedom, and
5 % shared by the six phases of one contrast."""


def became(before: float, after: float) -> str:
    """How a change of seconds is written, from a tenth of a second on."""
    change, half = after - before, HALF_WIDTH * abs(after - before)
    limits = f"[{change - half:+.2f}, {change + half:+.2f}]"
    return f"{before:.2f} s became {after:.2f} s ({change:+.2f} {limits} s)"


def table_of(arms: Mapping[str, Mapping[str, float]], repeats: int = 5) -> Table:
    """Runs of arms with these seconds per phase; blocks differ a little."""
    return {
        arm: {b: figures_of({phase: s * DRIFT[b] for phase, s in phases.items()}) for b in range(repeats)}
        for arm, phases in arms.items()
    }


def changed(**seconds: float) -> dict[str, float]:
    """An epoch of ten seconds without a factor is `EPOCH`; with it some phases take other times."""
    return {**EPOCH, **seconds}


def filled(**seconds: float) -> dict[str, float]:
    """Ten seconds, of which some phases take these and backward the rest."""
    others = {phase: s for phase, s in (EPOCH | seconds).items() if phase != "backward"}
    return {**others, "backward": 10 - sum(others.values())}


def contrast_of(factor: str) -> Contrast:
    (contrast,) = make_design("one_at_a_time", (factor,)).contrasts
    return contrast


def case_of(
    factor: str,
    without: Mapping[str, float],
    within: Mapping[str, float],
    *,
    repeats: int = 5,
    steps: int = 2,
    pipeline: str = "stream",
) -> Case:
    return Case(contrast_of(factor), table_of({BASELINE: without, factor: within}, repeats), steps, pipeline)


def rerun(case: Case, epochs: Mapping[str, Sequence[int | None]]) -> Case:
    """The same phases, with other numbers of epochs to the target."""
    measured = {
        arm: {block: figures_of(seconds_of(), epochs_to_accuracy=number) for block, number in enumerate(epochs[arm])}
        for arm in case.measured
    }
    return Case(case.contrast, measured, case.accumulation_steps, case.pipeline)


# --- what a factor is meant to act on ---


@pytest.mark.parametrize("word", TECHNIQUES)
@pytest.mark.parametrize("option", ["", ":2"])
def test_a_technique_acts_on_the_phases_that_it_names(word: str, option: str) -> None:
    case = case_of(word + option, EPOCH, EPOCH)
    assert case.acts_on == TECHNIQUES[word].acts_on != ()
    assert set(case.acts_on) <= set(PHASES)


def test_accumulation_acts_on_the_optimizer_and_small_batches_on_the_passes() -> None:
    assert case_of(ACCUMULATION, EPOCH, EPOCH).acts_on == ("optimizer",)
    # There are as many optimizer steps as with the whole batch.
    assert case_of(SAME_EFFECTIVE_BATCH, EPOCH, EPOCH).acts_on == ("forward", "backward")


def test_several_factors_together_are_meant_for_no_phase() -> None:
    together = make_design("one_at_a_time", (AMP, WORKERS)).contrasts[-1]
    preset = make_design("preset", (TUNED,)).contrasts[0]
    for contrast in (together, preset):
        assert Case(contrast, {}, 2, "stream").acts_on == ()


# --- nothing to win ---


@pytest.mark.parametrize(
    ("factor", "phases", "sentence"),
    [
        (
            WORKERS,
            {"data_wait": 0.19},
            "it acts on data wait, which is 2% of an epoch without it with pipeline=stream, "
            "so it has next to nothing to win there: at most 1.02x as fast from that alone",
        ),
        (
            WORKERS,
            {"data_wait": 0.03},
            "it acts on data wait, which is 0.3% of an epoch without it with pipeline=stream, "
            "so it has next to nothing to win there: at most 1.00x as fast from that alone",
        ),
        (
            PIN,
            {"data_wait": 0.1, "transfer": 0.09},
            "it acts on data wait and transfer, together 2% of an epoch without it with pipeline=stream, "
            "so it has next to nothing to win there: at most 1.02x as fast from that alone",
        ),
        (
            "fused_optimizer",
            {"optimizer": 0.18},
            "it acts on the optimizer step, which is 2% of an epoch without it, "
            "so it has next to nothing to win there: at most 1.02x as fast from that alone",
        ),
        (
            ACCUMULATION,  # of two steps one is left
            {"optimizer": 0.18},
            "it acts on the optimizer step, which is 2% of an epoch without it, "
            "so it has next to nothing to win there: at most 1.01x as fast from that alone",
        ),
    ],
)
def test_a_small_phase_leaves_nothing_to_win(factor: str, phases: dict[str, float], sentence: str) -> None:
    case = case_of(factor, filled(**phases), filled(**phases))
    assert nothing_to_win(case) == sentence
    assert what_it_did(case) is None
    assert why(case) == sentence


@pytest.mark.parametrize(("share", "is_little"), [(LITTLE - 0.001, True), (LITTLE + 0.001, False), (0.31, False)])
@pytest.mark.parametrize("factor", [WORKERS, PIN, "fused_optimizer", ACCUMULATION])
def test_either_there_is_nothing_to_win_or_it_is_said_what_became_of_it(
    factor: str, share: float, is_little: bool
) -> None:
    phases = dict.fromkeys(case_of(factor, EPOCH, EPOCH).acts_on, 0.0)
    phases[next(iter(phases))] = 10 * share
    case = case_of(factor, filled(**phases), filled(**phases))
    assert (nothing_to_win(case) is not None, what_it_did(case) is not None) == (is_little, not is_little)


def test_a_small_phase_that_grew_is_told() -> None:
    # Loader processes on a machine without a core to spare: there was nothing to win, and much to lose.
    sentence = why(case_of(WORKERS, filled(data_wait=0.1), {**filled(data_wait=0.1), "data_wait": 2.1}))
    assert sentence.startswith("it acts on data wait, which is 1% of an epoch")
    assert sentence.endswith(f"data wait: {became(0.1, 2.1)}")
    assert "elsewhere" not in sentence


# --- what became of the phases it acts on ---


@pytest.mark.parametrize(
    ("factor", "without", "within", "sentence"),
    [
        (
            AMP,
            EPOCH,
            changed(forward=1.5, backward=2.0),
            f"it acts on forward and backward, together 70% of an epoch without it: {became(7.0, 3.5)}",
        ),
        (
            LAST,
            EPOCH,
            changed(forward=3.6, backward=4.8),
            f"it acts on forward and backward, together 70% of an epoch without it: {became(7.0, 8.4)}",
        ),
        (
            WORKERS,
            filled(data_wait=3.1),
            {**filled(data_wait=3.1), "data_wait": 0.3},
            "it acts on data wait, which is 31% of an epoch without it with pipeline=stream, "
            f"at most 1.45x as fast from that alone: {became(3.1, 0.3)}",
        ),
        (
            "fused_optimizer",
            EPOCH,
            changed(optimizer=0.7),
            "it acts on the optimizer step, which is 15% of an epoch without it, "
            f"at most 1.18x as fast from that alone: {became(1.5, 0.7)}",
        ),
        (
            SAME_EFFECTIVE_BATCH,
            EPOCH,
            changed(forward=6.0, backward=8.0),
            f"it acts on forward and backward, together 70% of an epoch without it: {became(7.0, 14.0)}",
        ),
    ],
)
def test_it_is_said_what_became_of_the_phases_that_a_factor_acts_on(
    factor: str, without: dict[str, float], within: dict[str, float], sentence: str
) -> None:
    case = case_of(factor, without, within)
    assert what_it_did(case) == sentence
    assert nothing_to_win(case) is None
    assert why(case) == sentence


@pytest.mark.parametrize(
    ("share", "steps", "bound"), [(0.31, 2, "1.18x"), (0.31, 15, "1.41x"), (0.10, 2, "1.05x"), (0.45, 2, "1.29x")]
)
def test_accumulation_wins_at_most_the_steps_that_it_saves(share: float, steps: int, bound: str) -> None:
    without = filled(optimizer=10 * share)
    case = case_of(ACCUMULATION, without, {**without, "optimizer": 10 * share / 2}, steps=steps)
    assert what_it_did(case) == (
        f"it acts on the optimizer step, which is {share:.0%} of an epoch without it; "
        f"{steps} micro-batches per step leave about 1/{steps} of that, at most {bound} as fast from that alone: "
        f"{became(10 * share, 10 * share / 2)}"
    )


@pytest.mark.parametrize(("share", "is_bound"), [(MOST - 0.01, True), (MOST + 0.01, False)])
@pytest.mark.parametrize("factor", ["fused_optimizer", ACCUMULATION])
def test_what_is_most_of_an_epoch_is_no_bound(factor: str, share: float, is_bound: bool) -> None:
    without = filled(optimizer=10 * share, forward=1.0)
    sentence = what_it_did(case_of(factor, without, without))
    assert sentence is not None and ("at most" in sentence) == is_bound


@pytest.mark.parametrize("factor", [AMP, "fused_optimizer", SAME_EFFECTIVE_BATCH])
def test_nothing_but_accumulation_speaks_of_micro_batches(factor: str) -> None:
    assert "micro-batches" not in why(case_of(factor, EPOCH, EPOCH))
    assert "2 micro-batches" in why(case_of(ACCUMULATION, EPOCH, EPOCH))  # the control


@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_a_change_within_noise_is_said_to_be_none(repeats: int) -> None:
    table = table_of({BASELINE: EPOCH, AMP: EPOCH}, repeats)
    for block in range(repeats):
        table[AMP][block]["mean_forward_s"] *= 1 + 0.2 * (-1) ** block
    found = what_it_did(Case(contrast_of(AMP), table, 2, "stream"))
    told = "are too few to judge" if repeats < MIN_REPEATS else "do not tell from no change"
    assert found is not None and found.endswith(f", which {repeats} repeats {told}")


def test_one_repeat_is_too_few_to_judge() -> None:
    case = case_of(AMP, EPOCH, changed(forward=1.5, backward=2.0), repeats=1)
    assert what_it_did(case) == (
        "it acts on forward and backward, together 70% of an epoch without it: "
        "7.00 s became 3.50 s (-3.50 s), which 1 repeat is too few to judge"
    )


@pytest.mark.parametrize(("repeats", "is_told"), [(1, False), (2, False), (3, True), (5, True)])
def test_a_clear_change_is_told_from_none_as_soon_as_there_are_verdicts(repeats: int, is_told: bool) -> None:
    case = case_of(AMP, EPOCH, changed(forward=1.0, backward=1.0, data_wait=2.0), repeats=repeats)
    assert ("too few to judge" in why(case)) == (not is_told)
    assert "do not tell" not in why(case)
    assert (what_changed_elsewhere(case) is not None) == is_told


# --- what bounds what can be won ---

LOADERS = [word for word in TECHNIQUES if set(TECHNIQUES[word].acts_on) <= LOADING]
"""Techniques that act on loading alone."""


@pytest.mark.parametrize("share", [0.005, 0.3])
@pytest.mark.parametrize("factor", [*LOADERS, "fused_optimizer", ACCUMULATION])
def test_loading_bounds_what_can_be_won_on_a_processor_and_nothing_on_a_gpu(factor: str, share: float) -> None:
    case = case_of(factor, EPOCH, EPOCH)
    without = filled(**dict.fromkeys(case.acts_on, 10 * share / len(case.acts_on)))
    case = case_of(factor, without, without)
    on_gpu = replace(case, device="cuda:0")
    assert ("at most" in why(case)) and case.has_bound
    assert (nothing_to_win(case) is not None) == (share < LITTLE)
    if factor in LOADERS:
        # The copy that keeps the host from running ahead costs time that stands in other phases.
        assert "at most" not in why(on_gpu) and not on_gpu.has_bound
        assert nothing_to_win(on_gpu) is None
        assert what_it_did(on_gpu) is not None  # what became of the phases is told all the same
    else:  # the control
        assert why(on_gpu) == why(case)


def test_there_are_techniques_that_act_on_loading_alone() -> None:
    assert {"pin_memory", "prefetch", "resident", "workers"} <= {*LOADERS} < {*TECHNIQUES}


# --- the pipeline ---


@pytest.mark.parametrize("pipeline", ["memory", "stream"])
@pytest.mark.parametrize("share", [0.02, 0.4])
@pytest.mark.parametrize("factor", [*TECHNIQUES, ACCUMULATION, SAME_EFFECTIVE_BATCH])
def test_what_is_said_of_loading_names_the_pipeline(factor: str, share: float, pipeline: str) -> None:
    acts_on = case_of(factor, EPOCH, EPOCH).acts_on
    without = filled(**{acts_on[0]: 10 * share})
    sentence = why(case_of(factor, without, without, pipeline=pipeline))
    assert (f"pipeline={pipeline}" in sentence) == bool(LOADING & set(acts_on))
    assert sentence


# --- elsewhere ---


@pytest.mark.parametrize(
    ("factor", "within", "sentence"),
    [
        (AMP, changed(data_wait=1.0), f"elsewhere: data wait: {became(0.5, 1.0)}"),
        (WORKERS, changed(optimizer=1.0), f"elsewhere: the optimizer step: {became(1.5, 1.0)}"),
        (
            ACCUMULATION,
            changed(transfer=0.2, backward=5.0),
            f"elsewhere: transfer: {became(0.5, 0.2)}, backward: {became(4.0, 5.0)}",
        ),
        (AMP, changed(forward=1.0, backward=1.0), None),  # what it is meant to do
        (AMP, changed(data_wait=0.5 + 10 * (NOTICEABLE - 0.005)), None),
        (AMP, EPOCH, None),
    ],
    ids=["longer", "less", "two phases", "its own", "hardly anything", "nothing"],
)
def test_a_phase_that_changed_elsewhere_is_told(factor: str, within: dict[str, float], sentence: str | None) -> None:
    assert what_changed_elsewhere(case_of(factor, EPOCH, within)) == sentence


def test_a_change_elsewhere_is_told_after_what_the_factor_did_itself() -> None:
    assert why(case_of(AMP, EPOCH, changed(forward=1.5, backward=2.0, data_wait=1.0))) == (
        f"it acts on forward and backward, together 70% of an epoch without it: {became(7.0, 3.5)}; "
        f"elsewhere: data wait: {became(0.5, 1.0)}"
    )


def test_a_change_elsewhere_that_is_noise_is_not_told() -> None:
    table = table_of({BASELINE: EPOCH, AMP: changed(data_wait=1.0)})
    case = Case(contrast_of(AMP), table, 2, "stream")
    assert what_changed_elsewhere(case) is not None  # the control
    for block, seconds in enumerate((0.1, 3.0, 0.2, 0.1, 0.2)):
        table[AMP][block]["mean_data_wait_s"] = seconds
    assert what_changed_elsewhere(case) is None
    assert what_changed_elsewhere(case_of(AMP, EPOCH, changed(data_wait=1.0), repeats=1)) is None


class Unadjusted(Case):
    """The control: as if nothing else could have made a sentence."""

    @property
    def confidence(self) -> float:
        return CONFIDENCE


def ablation_of_nothing(chance: random.Random, arms: Sequence[str], blocks: int = 5) -> Table:
    """Arms that are all alike, whose phases vary by a third from run to run, so that any may seem to have changed."""
    table: Table = {arm: {} for arm in arms}
    for arm, block in itertools.product(arms, range(blocks)):
        seconds = {f"mean_{phase}_s": chance.gauss(EPOCH[phase], EPOCH[phase] / 3) for phase in PHASES}
        table[arm][block] = {**seconds, "mean_epoch_s": sum(seconds.values())}
    return table


def test_of_ablations_in_which_nothing_changed_one_in_twenty_is_told_of_a_change() -> None:
    design, chance, studies = make_design("alone", (AMP, LAST, WORKERS, ACCUMULATION)), random.Random(3), 400
    told = {Case: 0, Unadjusted: 0}
    for _ in range(studies):
        table = ablation_of_nothing(chance, [arm.name for arm in design.arms])
        for kind in told:
            cases = [kind(contrast, table, 2, "stream", comparisons=4) for contrast in design.contrasts]
            told[kind] += any(_is_told_of_a_change(case) for case in cases)
    assert told[Case] / studies <= 0.05 + 2 * (0.05 * 0.95 / studies) ** 0.5
    assert told[Unadjusted] / studies > 0.3


def _is_told_of_a_change(case: Case) -> bool:
    """Of any of its phases, those that the factor acts on among them."""
    own = case.seconds(case.acts_on)
    return what_changed_elsewhere(case) is not None or (own is not None and own.is_shown)


@pytest.mark.parametrize("comparisons", [1, 4, 10])
def test_a_change_of_many_that_could_have_been_told_needs_more_to_be_told(comparisons: int) -> None:
    case = replace(case_of(AMP, EPOCH, changed(data_wait=1.0)), comparisons=comparisons)
    assert case.confidence == simultaneous(comparisons * len(PHASES)) > CONFIDENCE
    found, alone = case.seconds(["data_wait"]), replace(case, comparisons=1).seconds(["data_wait"])
    assert found is not None and alone is not None and found.change.low is not None and alone.change.low is not None
    assert (found.change.low < alone.change.low) == (comparisons > 1)
    assert what_changed_elsewhere(case) is not None  # and what is clear is told


def test_of_several_factors_together_every_phase_that_changed_is_told() -> None:
    contrast = make_design("one_at_a_time", (AMP, WORKERS)).contrasts[-1]
    within = changed(forward=1.5, backward=2.0, data_wait=0.1)
    case = Case(contrast, table_of({BASELINE: EPOCH, "all": within}), 2, "stream")
    assert why(case) == (f"data wait: {became(0.5, 0.1)}, forward: {became(3.0, 1.5)}, backward: {became(4.0, 2.0)}")
    preset = make_design("preset", (TUNED,)).contrasts[0]
    assert why(Case(preset, table_of({"untuned": EPOCH, TUNED: within}), 2, "stream")) == why(case)


# --- epochs to the target ---


@pytest.mark.parametrize(
    ("without", "within", "sentence"),
    [
        ([5, 5, 5, 5, 5], [8, 8, 9, 8, 9], "the target took 8.4 epochs instead of 5.0"),
        ([6, 7, 6, 7, 6], [4, 5, 3, 4, 3], "the target took 3.8 epochs instead of 6.4"),
        # Whole numbers that tie do not say how far the next one would be off.
        (
            [5, 5, 5],
            [6, 6, 6],
            "the target took 6.0 epochs instead of 5.0, which 3 repeats do not tell from no change",
        ),
        (
            [5, 6, 5],
            [5, 9, 4],
            "the target took 6.0 epochs instead of 5.3, which 3 repeats do not tell from no change",
        ),
        ([5], [6], "the target took 6.0 epochs instead of 5.0, which 1 repeat is too few to judge"),
        ([5, 6, 5], [5, 6, 5], None),
        ([5, 6, 5], [6, 5, 5], None),
        ([5, 5, 5], [6, None, 6], None),
        ([5, None, 5], [6, 6, 6], None),
        ([None] * 3, [None] * 3, None),
    ],
    ids=[
        "more",
        "fewer",
        "one more each time",
        "perhaps more",
        "one block",
        "the same",
        "the same in the mean",
        "a miss",
        "a miss without it",
        "never reached",
    ],
)
def test_how_many_epochs_the_target_took_is_told_where_every_run_reached_it(
    without: list[int | None], within: list[int | None], sentence: str | None
) -> None:
    case = rerun(case_of(AMP, EPOCH, EPOCH), {BASELINE: without, AMP: within})
    assert how_many_epochs(case) == sentence
    assert (why(case).split("; ")[-1] == sentence) == (sentence is not None)


def test_a_miss_of_an_arm_that_is_not_compared_says_nothing() -> None:
    case = rerun(case_of(AMP, EPOCH, EPOCH), {BASELINE: [5, 5, 5], AMP: [6, 6, 6]})
    other = {0: figures_of(seconds_of(), epochs_to_accuracy=None)}
    beside = Case(case.contrast, {**case.measured, LAST: other}, 2, "stream")
    found = how_many_epochs(case)
    assert found is not None and how_many_epochs(beside) == found


# --- all rules ---


def test_every_rule_has_something_to_say_and_something_to_be_silent_about() -> None:
    cases = [
        rerun(case_of(AMP, EPOCH, EPOCH), {BASELINE: [5, 5, 5], AMP: [6, 6, 6]}),
        case_of(WORKERS, filled(data_wait=0.1), filled(data_wait=0.1)),
        case_of(AMP, EPOCH, changed(data_wait=1.0)),
    ]
    for rule in RULES:
        assert {rule(case) is None for case in cases} == {True, False}


def test_interactions_have_no_phases_of_their_own() -> None:
    design = make_design("factorial", (AMP, LAST))
    arms = {arm.name: changed(forward=3.0 / (1 + len(arm.factors))) for arm in design.arms}
    table = table_of(arms)
    sentences = {c.name: why(Case(c, table, 2, "stream")) for c in design.contrasts}
    assert {name: bool(sentence) for name, sentence in sentences.items()} == {
        AMP: True,
        LAST: True,
        f"{AMP} x {LAST}": False,
    }


def test_nothing_measured_is_nothing_said() -> None:
    whole = case_of(AMP, EPOCH, changed(forward=1.0))
    assert why(whole)
    tables: list[Measured] = [
        {},
        {BASELINE: whole.measured[BASELINE]},
        {BASELINE: whole.measured[BASELINE], AMP: {}},
        {BASELINE: {0: whole.measured[BASELINE][0]}, AMP: {1: whole.measured[AMP][1]}},
        {BASELINE: {0: {"median_epoch_s": 1.0}}, AMP: {0: {"median_epoch_s": 1.0}}},
    ]
    for table in tables:
        assert why(Case(whole.contrast, table, 2, "stream")) == ""


def test_phases_that_were_not_measured_are_not_spoken_of() -> None:
    # A stream has no phase of its own for augmentation, and a run may have no figure for the transfer.
    without = {phase: s for phase, s in filled(data_wait=0.2).items() if phase not in ("augment", "transfer")}
    sentence = why(case_of(PIN, without, without))
    assert "augment" not in sentence
    assert re.search(r"\b2%", sentence)


def test_what_is_said_rests_on_whole_blocks() -> None:
    case = case_of(AMP, EPOCH, changed(forward=1.5, backward=2.0), repeats=3)
    lonely = figures_of(dict.fromkeys(PHASES, 100.0))
    measured = {**case.measured, BASELINE: {**case.measured[BASELINE], 3: lonely}}
    assert why(Case(case.contrast, measured, 2, "stream")) == why(case)
    shared = {**measured, AMP: {**case.measured[AMP], 3: lonely}}
    assert why(Case(case.contrast, shared, 2, "stream")) != why(case)  # the control


def seconds_in(text: str) -> tuple[float, float]:
    found = re.search(r": ([\d.]+) s became ([\d.]+) s", text)
    assert found is not None, text
    return float(found[1]), float(found[2])


def mean_of(measured: Measured, arms: Sequence[str]) -> float:
    """Forward and backward, over all runs of some arms."""
    runs = [run for arm in arms for run in measured[arm].values()]
    return statistics.fmean(run["mean_forward_s"] + run["mean_backward_s"] for run in runs)


@pytest.mark.parametrize("design", ["one_at_a_time", "leave_one_out", "factorial"])
def test_the_numbers_of_a_sentence_are_the_means_of_what_was_measured(design: str) -> None:
    made = make_design(design, (AMP, LAST, "compile:default"))
    truth = {arm.name: 2.0 - 0.1 * len(arm.factors) - 0.3 * (AMP in arm.factors) for arm in made.arms}
    measured = measured_from(truth, 4, 0.05, random.Random(1))
    checked = 0
    for contrast in made.contrasts:
        if len(contrast.factors) != 1:
            continue
        checked += 1
        (factor,) = contrast.factors
        compared = [arm for arm in made.arms if arm.name in contrast.weights]
        sides = [[arm.name for arm in compared if (factor in arm.factors) == on] for on in (False, True)]
        expected = [mean_of(measured, side) for side in sides]
        assert expected[0] != pytest.approx(expected[1], abs=0.01)
        sentence = why(Case(contrast, measured, 2, "stream"))
        assert seconds_in(sentence) == pytest.approx(expected, abs=0.0051)
    assert checked == 3


def test_a_share_is_that_of_the_epochs_mean_and_not_of_the_phases_sum() -> None:
    # Two of ten seconds are in no phase.
    measured = {arm: {b: figures_of(seconds_of(8.0), other_s=2.0) for b in range(3)} for arm in (BASELINE, AMP)}
    assert "together 56% of an epoch" in why(Case(contrast_of(AMP), measured, 2, "stream"))


@pytest.mark.parametrize("factor", [AMP, ACCUMULATION, WORKERS])
def test_seconds_of_a_quick_epoch_are_not_printed_as_nothing(factor: str) -> None:
    # The digits on a GPU: an epoch of a fifth of a second.
    quick, quicker = ({phase: f * seconds for phase, seconds in EPOCH.items()} for f in (0.02, 0.01))
    case = case_of(factor, {**quick, "data_wait": 0.05}, {**quicker, "data_wait": 0.025})
    before, after = seconds_in(why(case))
    assert after / before == pytest.approx(0.5, rel=0.1)


def test_the_bound_is_what_an_epoch_would_be_without_what_it_acts_on() -> None:
    for share, steps in itertools.product((0.005, 0.01, 0.019), (2, 4)):
        without = filled(optimizer=10 * share)
        for factor, left in (("fused_optimizer", 0.0), (ACCUMULATION, 1 / steps)):
            sentence = nothing_to_win(case_of(factor, without, without, steps=steps))
            assert sentence is not None
            assert f"at most {10 / (10 - 10 * share * (1 - left)):.2f}x as fast" in sentence


def test_a_contrast_that_nobody_knows_is_read_like_several_factors_together() -> None:
    contrast = Contrast("of another version", ("gone",), {BASELINE: 1.0, "gone": -1.0})
    case = Case(contrast, table_of({BASELINE: EPOCH, "gone": changed(forward=1.0)}), 2, "stream")
    assert case.acts_on == ()
    assert why(case) == f"forward: {became(3.0, 1.0)}"
