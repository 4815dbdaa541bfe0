"""Runs stand together where nothing but chance sets them apart, and no run is lost on the way."""

import dataclasses
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from accelmlf.ablation.designs import Asked
from accelmlf.data.datasets import DATASETS
from accelmlf.models.families import MODELS
from accelmlf.report.groups import Group, Sorted, numbered, sort_runs
from accelmlf.settings.comparable import FOLLOWS, VARIES, departures
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig
from accelmlf.text import duration
from accelmlf.tracking.stored_runs import StoredRun
from accelmlf.tracking.tags import (
    ABLATION,
    ARM_RUN,
    ASKED,
    CONFIRMATION,
    CONTINUED_BY,
    KIND,
    REPORT,
    SEARCH,
    SETTING,
    STUDY_ID,
    TRIAL,
)
from tests.report.makers import CPU, GPU, PAPER, foreign, make_run, make_runs, settings_of, typed

SETTINGS = tuple(settings_of({}))
ASKED_FOR = Asked(design="one_at_a_time", factors=("amp:bf16",), clash=None, repeats=3, left_out=()).as_json()


def together(one: StoredRun, other: StoredRun) -> bool:
    """Whether two runs stand in one group."""
    groups = [{run.run_id for run in group.runs} for group in sort_runs([one, other]).groups]
    return {one.run_id, other.run_id} in groups


def places_of(found: Sorted) -> list[str]:
    """The ids of the runs that are anywhere, as often as they are there."""
    groups: Sequence[Sequence[StoredRun]] = [group.runs for group in found.groups]
    return [run.run_id for runs in (*groups, *found.parents.values(), *found.left_out.values()) for run in runs]


def is_complete(runs: Sequence[StoredRun], found: Sorted) -> bool:
    """Whether every run is in one place, reports apart."""
    return sorted(places_of(found)) == sorted(run.run_id for run in runs if run.kind != REPORT)


# --- what stands together ---


def test_repeats_with_other_seeds_are_one_group() -> None:
    (group,) = sort_runs(make_runs(4)).groups
    assert group.seeds == [0, 1, 2, 3]


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in FOLLOWS])
def test_only_settings_without_effect_may_differ_within_a_group(name: str) -> None:
    value = {"seed": "7", "device": "cuda:1", "save_model": "false"}.get(name, "another")
    assert together(make_run(), make_run(tags={f"{SETTING}{name}": value})) is (name in VARIES)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in (*VARIES, *FOLLOWS)])
def test_a_setting_that_a_run_does_not_have_is_not_taken_for_the_others(name: str) -> None:
    assert not together(make_run(), make_run(tags={f"{SETTING}{name}": None}))


@pytest.mark.parametrize("tuned", [False, True])
def test_the_same_settings_stand_together_however_they_were_asked_for(tuned: bool) -> None:
    typed_out = {"techniques": "amp:bf16,pin_memory" if tuned else "none", "accumulation_steps": 2 if tuned else 1}
    assert together(make_run(given={"tuned": tuned}), make_run(given=typed_out))
    assert not together(make_run(given={"tuned": not tuned}), make_run(given=typed_out))  # the control


def on(**hardware: str) -> StoredRun:
    return make_run(hardware=hardware)


APART: dict[str, tuple[StoredRun, StoredRun]] = {
    "a CPU and a GPU": (on(**CPU), on(**GPU)),
    "two kinds of GPU": (on(**GPU), on(**{**GPU, "gpu": "Other GPU"})),
    "two kinds of CPU": (on(**CPU), on(**{**CPU, "cpu": "Other CPU"})),
    "one kind of GPU beside two kinds of CPU": (on(**GPU), on(**{**GPU, "cpu": "Other CPU"})),
    "two numbers of threads": (on(**CPU), on(**{**CPU, "cpu_threads_used": "4"})),
    "a CPU and an Apple GPU": (on(**CPU), on(**{**CPU, "device": "mps"})),
    "two versions of torch": (make_run(), make_run(tags={"accelmlf.version.torch": "2.11.0"})),
    "two data sets of one name": (make_run(digest="abc"), make_run(digest="abd")),
    "data that is known and data that is not": (make_run(digest="abc"), make_run(digest=None)),
    "two protocols": (make_run(), make_run(given={"validation": "test"})),
    "two pipelines": (make_run(), make_run(given={"pipeline": "stream"})),
    "the digits and CIFAR-10": (make_run(), make_run(given={"dataset": "digits"})),
    "all pictures and some": (make_run(), make_run(given={"train_images": 45_000})),
    "both arms": (make_run(), make_run(given={"tuned": True})),
    "the preset and what a device left of it": (
        make_run(given={"tuned": True}),
        make_run(given={"tuned": True}, tags={f"{SETTING}arm": "tuned_partial", f"{SETTING}techniques": "amp:bf16"}),
    ),
}


@pytest.mark.parametrize("case", APART)
def test_what_cannot_be_compared_never_stands_together(case: str) -> None:
    assert not together(*APART[case])


@pytest.mark.parametrize("case", APART)
def test_each_of_them_stands_with_its_like(case: str) -> None:
    """The control: it is the difference that parts them."""
    for run in APART[case]:
        assert together(run, dataclasses.replace(run, run_id="another", name="another", started_ms=7))


@pytest.mark.parametrize(
    "tags",
    [
        {"accelmlf.code.commit": "beef"},
        {"accelmlf.unfit": "phases leave 9 %"},
        {"accelmlf.hardware.device": "cuda:1", f"{SETTING}device": "cuda:1"},
        {KIND: ARM_RUN, STUDY_ID: "5"},
    ],
    ids=str,
)
def test_what_a_mark_tells_or_a_run_is_part_of_does_not_part_runs(tags: Mapping[str, str]) -> None:
    assert together(make_run(), make_run(tags=tags))


# --- nothing is lost ---

REASONS: list[tuple[StoredRun, str]] = [
    (foreign(), "not a run of this project"),
    (foreign(tags={"accelmlf.outcome": "failed"}), "not a run of this project"),
    (make_run(outcome=None), "under way"),
    (make_run(outcome="failed"), "did not complete: failed"),
    (make_run(outcome="out_of_memory"), "did not complete: out of memory"),
    (make_run(outcome="pruned"), "did not complete: pruned"),
    (make_run(outcome="interrupted", tags={KIND: SEARCH}), "did not complete: interrupted"),
    (make_run(outcome="failed", tags={KIND: ABLATION, ASKED: ASKED_FOR}), "did not complete: failed"),
    (make_run(outcome="interrupted", tags={KIND: SEARCH, CONTINUED_BY: "0" * 32}), "continued by a later start"),
    (make_run(tags={KIND: TRIAL}), "runs of searches"),
    (make_run(outcome="pruned", tags={KIND: TRIAL}), "runs of searches"),
    (make_run(tags={KIND: CONFIRMATION}), "runs of searches"),
    (make_run(tags={KIND: "of another version"}), "kind of another version"),
    (make_run(tags={f"{SETTING}model": "vgg"}), "another version"),
    (make_run(tags={f"{SETTING}pipeline": None}), "another version"),
]


@pytest.mark.parametrize(("run", "reason"), REASONS)
def test_what_is_left_out_is_there_with_its_reason(run: StoredRun, reason: str) -> None:
    found = sort_runs([make_run(), run])
    ((why, runs),) = found.left_out.items()
    assert (reason in why, list(runs)) == (True, [run])
    assert len(found.groups) == 1  # the control: a run that ended well is not left out


@pytest.mark.parametrize("outcome", ["completed", "target_not_reached"])
def test_a_run_that_trained_to_its_end_is_in_a_group_whether_or_not_it_met_its_target(outcome: str) -> None:
    assert together(make_run(), make_run(outcome=outcome))


@pytest.mark.parametrize("kind", [SEARCH, ABLATION])
def test_of_several_starts_of_a_study_the_last_stands_for_it(kind: str) -> None:
    def start(study: str, started_ms: int) -> StoredRun:
        return dataclasses.replace(
            make_run(tags={KIND: kind, STUDY_ID: study, ASKED: ASKED_FOR}), started_ms=started_ms
        )

    starts = [start("one", 3), start("one", 1), start("two", 2)]
    found = sort_runs(starts)
    assert {name: {run.run_id for run in runs} for name, runs in found.parents.items() if runs} == {
        kind: {starts[0].run_id, starts[2].run_id}
    }
    assert [list(runs) for runs in found.left_out.values()] == [[starts[1]]]
    assert not found.groups


@pytest.mark.parametrize("outcome", [None, "completed", "failed"])
def test_reports_are_passed_over_however_they_ended(outcome: str | None) -> None:
    report = make_run(outcome=outcome, tags={KIND: REPORT})
    assert places_of(sort_runs([report, foreign(tags={KIND: REPORT})])) == []
    assert len(places_of(sort_runs([make_run()]))) == 1


def any_runs(chance: random.Random, count: int) -> list[StoredRun]:
    """Whatever a store may hold."""
    outcomes = (None, "completed", "target_not_reached", "pruned", "interrupted", "diverged", "failed", "unheard_of")
    kinds = (None, SEARCH, ABLATION, ARM_RUN, TRIAL, CONFIRMATION, REPORT, "unheard of")
    runs = []
    for number in range(count):
        tags = {
            KIND: chance.choice(kinds),
            STUDY_ID: chance.choice((None, "one", "two")),
            ASKED: ASKED_FOR,
            CONTINUED_BY: chance.choice((None, None, "x")),
            f"{SETTING}{chance.choice(SETTINGS)}": chance.choice((None, "of another version")),
        }
        given = {
            "seed": chance.randrange(3),
            "model": chance.choice(tuple(MODELS)),
            "dataset": chance.choice(tuple(DATASETS)),
            "tuned": chance.random() < 0.5,
            "epochs": chance.choice((1, 2)),
        }
        made = make_run(
            f"run {number}",
            given,
            hardware=chance.choice((CPU, GPU)),
            outcome=chance.choice(outcomes),
            digest=chance.choice(("abc", "abd", None)),
            tags=tags if chance.random() < 0.5 else {},
        )
        runs.append(foreign(f"run {number}") if chance.random() < 0.1 else made)
    return runs


@pytest.mark.parametrize("seed", range(20))
def test_every_run_is_in_one_place_and_only_there(seed: int) -> None:
    runs = any_runs(random.Random(seed), 60)
    found = sort_runs(runs)
    assert is_complete(runs, found)
    assert not is_complete([*runs, make_run()], found)  # the control: one that is missing would be seen
    run = next(run for run in runs if run.kind != REPORT)
    assert not is_complete(runs, Sorted([*found.groups, Group([run])], found.parents, found.left_out))


def assert_can_be_told(groups: Sequence[Group]) -> None:
    """All that a report asks of a group has an answer."""
    for group in groups:
        assert group.machine and group.in_words and group.seeds
        assert not group.command or typed(group.command).model == group.settings["model"]
        assert group.preset in (None, "baseline", "tuned")


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_of_a_version_that_did_not_record_a_setting_is_not_lost(name: str) -> None:
    runs = [make_run(), make_run(tags={f"{SETTING}{name}": None})]
    found = sort_runs(runs)
    assert is_complete(runs, found)
    assert_can_be_told(found.groups)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_with_a_value_that_this_version_does_not_know_is_not_lost(name: str) -> None:
    runs = [make_run(), make_run(tags={f"{SETTING}{name}": "of another version"})]
    found = sort_runs(runs)
    assert is_complete(runs, found)
    assert_can_be_told(found.groups)


def test_groups_of_one_model_and_data_set_stand_next_to_one_another() -> None:
    whose = [(g.settings["dataset"], g.settings["model"]) for g in sort_runs(any_runs(random.Random(1), 400)).groups]
    assert len(set(whose)) > 5
    assert whose == sorted(whose)


# --- what is said of a group ---


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("hardware", [CPU, GPU], ids=["CPU", "GPU"])
def test_a_recipes_own_arms_depart_from_nothing(
    model: str, dataset: str, tuned: bool, hardware: Mapping[str, str]
) -> None:
    given = {"model": model, "dataset": dataset, "tuned": tuned}
    group = Group([make_run(given=given, hardware=hardware)])
    assert departures(group.settings) == []
    is_whole = not tuned or "gpu" in hardware  # a CPU has no memory to pin
    assert group.preset == (("tuned" if tuned else "baseline") if is_whole else None)
    for name, value in {"pipeline": "stream", "validation": "test"}.items():
        other = Group([make_run(given={**given, name: value}, hardware=hardware)])
        assert (departures(other.settings), other.preset) == ([name], group.preset)


DEPARTURES: dict[str, Any] = {
    "pipeline": "stream",
    "techniques": "channels_last",
    "accumulation_steps": 3,
    "batch_size": 64,
    "epochs": 5,
    "learning_rate": 0.0123,
    "image_size": 48,
    "weights": "pretrained",
    "target_accuracy": 0.5,
    "stop_at_target": True,
    "validation": "test",
    "train_images": 1000,
}

NAMED_BESIDE_THE_PAPER = ("pipeline", "validation")


def test_the_departures_are_all_settings_that_have_an_effect() -> None:
    assert {"model", "dataset", "tuned", *VARIES, *DEPARTURES} == set(settable_fields(RunConfig))


@pytest.mark.parametrize("name", DEPARTURES)
@pytest.mark.parametrize("tuned", [False, True])
def test_whatever_sets_a_group_apart_is_in_its_words_and_makes_it_another_than_the_papers(
    name: str, tuned: bool
) -> None:
    recipe = Group([make_run(given={"tuned": tuned})])
    other = Group([make_run(given={"tuned": tuned, name: DEPARTURES[name]})])
    assert recipe.preset == ("tuned" if tuned else "baseline")
    assert recipe.in_words != other.in_words
    assert other.preset == (recipe.preset if name in NAMED_BESIDE_THE_PAPER else None)


@pytest.mark.parametrize("name", ["optimizer", "weight_decay", "augmentation", "a_setting_of_tomorrow"])
def test_what_another_version_set_otherwise_is_not_taken_for_the_recipe(name: str) -> None:
    group = Group([make_run(tags={f"{SETTING}{name}": "another"})])
    assert name in departures(group.settings)
    assert f"{name}=another" in group.in_words
    assert group.preset is None


@pytest.mark.parametrize(
    ("given", "preset"),
    [
        ({"techniques": "amp:bf16,pin_memory", "accumulation_steps": 2}, "tuned"),
        ({"techniques": "pin_memory,amp:fp16", "accumulation_steps": 2}, "tuned"),
        ({"techniques": "none"}, "baseline"),
        ({"techniques": "amp:bf16,pin_memory"}, None),
        ({"techniques": "amp:bf16", "accumulation_steps": 2}, None),
        ({"techniques": "amp:bf16,pin_memory,channels_last", "accumulation_steps": 2}, None),
        ({"accumulation_steps": 2}, None),
    ],
    ids=str,
)
def test_an_arm_of_the_recipe_is_one_however_it_was_asked_for(given: dict[str, Any], preset: str | None) -> None:
    assert Group([make_run(given=given)]).preset == preset


def test_the_words_of_an_arm() -> None:
    assert Group([make_run()]).in_words == "baseline: none, batch 128 x 1"
    assert Group([make_run(given={"tuned": True})]).in_words == "tuned: amp:bf16,pin_memory, batch 128 x 2"
    custom = Group([make_run(given={"batch_size": 64, "epochs": 5})])
    assert custom.in_words == "custom: none, batch 64 x 1, epochs=5"


def test_a_figure_that_some_runs_lack_is_of_those_that_have_it() -> None:
    runs = [*make_runs(3), make_run(given={"seed": 3}, metrics={"only_here": 7.0, "total_train_s": 1.0})]
    group = Group(runs)
    assert group.figures("only_here") == [7.0]
    assert group.median("only_here") == 7.0
    assert group.figures("nowhere") == []
    assert group.median("nowhere") is None
    assert group.median("total_train_s") == statistics.median(run.metrics["total_train_s"] for run in runs)


@pytest.mark.parametrize("reached", [0, 1, 3])
def test_runs_that_reached_the_target_are_counted(reached: int) -> None:
    runs = [make_run(given={"seed": s}, metrics={"reached_target": float(s < reached)}) for s in range(3)]
    assert Group(runs).reached == (reached, 3)


def test_a_run_that_does_not_say_whether_it_reached_the_target_is_no_miss() -> None:
    silent = [dataclasses.replace(run, metrics={}) for run in make_runs(2)]
    assert Group(silent).reached == (0, 0)
    assert Group([*silent, make_run(metrics={"reached_target": 1.0})]).reached == (1, 1)
    assert Group(make_runs(3), failures=1).reached == (3, 4)  # what failed did not reach it


@pytest.mark.parametrize(
    "given", [{}, {"tuned": True}, {"epochs": 3, "batch_size": 7}, {"data_dir": "a b; c"}], ids=str
)
def test_the_command_of_a_group_repeats_its_first_seed(given: dict[str, Any]) -> None:
    runs = [make_run(given={**given, "seed": seed}) for seed in (5, 4)]
    asked = resolve({**PAPER, "device": GPU["device"], **given, "seed": 4})
    assert typed(Group(runs).command) == asked
    assert typed(Group(runs[:1]).command) != asked


@pytest.mark.parametrize("seeds", [[0], [0, 1], [0, 0, 1], [0, 1, 2], [0, 1, 2, 2]], ids=str)
def test_a_seed_that_was_run_twice_is_one_repeat(seeds: list[int]) -> None:
    group = Group([make_run(given={"seed": seed}) for seed in seeds])
    assert group.seeds == sorted(set(seeds))
    assert bool(group.marks) is (len(set(seeds)) < 3)


@pytest.mark.parametrize("outcome", ["failed", "diverged", "out_of_memory"])
def test_a_group_says_how_many_of_its_kind_have_failed(outcome: str) -> None:
    failed = make_run(given={"seed": 3}, outcome=outcome)
    (group,) = sort_runs([*make_runs(3), failed]).groups
    assert group.marks == ["1 of 4 runs failed"]
    elsewhere = make_run(given={"seed": 3, "epochs": 2}, outcome=outcome)  # the control
    (group,) = sort_runs([*make_runs(3), elsewhere]).groups
    assert group.marks == []


def test_a_run_that_somebody_ended_has_not_failed() -> None:
    (group,) = sort_runs([*make_runs(3), make_run(given={"seed": 3}, outcome="interrupted")]).groups
    assert group.marks == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.14, "0.1 s"),
        (119.0, "119.0 s"),
        (120.0, "2.0 min"),
        (2760.0, "46.0 min"),
        (7199.0, "120.0 min"),
        (7200.0, "2.00 h"),
        (15_120.0, "4.20 h"),
    ],
)
def test_a_duration_is_told_in_the_unit_that_the_paper_has(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_command_stands_below_its_name_and_all_seeds_and_where_there_is_none_that_is_said() -> None:
    group = Group(make_runs(3))
    assert numbered("7", group) == f"# 7, seed 0; likewise with seed=1, 2\n{group.command}"
    assert numbered("7", Group(make_runs(1))) == f"# 7, seed 0\n{group.command}"
    other = Group(make_runs(3, tags={f"{SETTING}weight_decay": "0.5"}))
    assert other.command == ""
    lines = numbered("8", other).splitlines()
    assert len(lines) == 2 and lines[1].startswith("# ")


def test_the_same_seed_again_repeats_the_clock_and_not_the_training() -> None:
    runs = [
        make_run(tags={f"{SETTING}seed": seed}, metrics={"final_accuracy": accuracy, "median_epoch_s": seconds})
        for seed, accuracy, seconds in (("0", 0.9, 1.0), ("0", 0.9, 2.0), ("0", 0.9, 3.0), ("1", 0.5, 4.0))
    ]
    group = Group(runs)
    assert sorted(group.accuracies()) == [0.5, 0.9]
    assert group.figures("median_epoch_s") == [1.0, 2.0, 3.0, 4.0]  # the control
    assert "2 seeds, 3 are needed" in group.marks
