"""An ablation read back from its runs: which of them stands for an arm of a block, and what is left over."""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from accelmlf.ablation.designs import DESIGNS, Asked
from accelmlf.ablation.effects import SECONDS_PER_EPOCH, TIME_TO_ACCURACY
from accelmlf.ablation.factors import ACCUMULATION, SAME_EFFECTIVE_BATCH, settings_of
from accelmlf.ablation.result import Ablation, blocks_of
from accelmlf.ablation.settings import RUNS, STEPS
from accelmlf.ablation.stored import place_of
from accelmlf.settings.recipes import resolve
from accelmlf.tracking.stored_runs import StoredRun
from accelmlf.tracking.tags import ABLATION, ARM, ARM_RUN, ASKED, BLOCK, DEVICE, KIND, OUTCOME, OWNER, SETTING
from tests.ablation.makers import Figures, figures_of

FACTORS = ("amp:bf16", "channels_last")
ARMS = ("baseline", *FACTORS, "all")
GIVEN: dict[str, Any] = {"model": "vit", "device": "cpu", "epochs": 10, "train_images": 300}
NUMBERS = itertools.count()


def asked(design: str = "one_at_a_time", factors: Sequence[str] = FACTORS, **fields: Any) -> Asked:
    others: dict[str, Any] = {"clash": None, "repeats": 3, "left_out": ()}
    return Asked(design=design, factors=tuple(factors), **(others | fields))


def as_tags(settings: Mapping[str, str]) -> dict[str, str]:
    return {SETTING + name: text for name, text in settings.items()}


def record(
    tags: Mapping[str, str], metrics: Mapping[str, float], name: str = "a run", run_id: str | None = None
) -> StoredRun:
    number = next(NUMBERS)
    run_id = run_id or f"{number:032x}"
    return StoredRun(run_id=run_id, name=name, started_ms=number, tags=tags, metrics=metrics, data_digest="the-data")


def parent_of(what: Asked, tags: Mapping[str, str] | None = None, **given: Any) -> StoredRun:
    """The run of the whole ablation."""
    own = {KIND: ABLATION, ASKED: what.as_json(), OUTCOME: "completed", "accelmlf.hardware.cpu": "a processor"}
    settings = as_tags(resolve(GIVEN | given).as_texts())
    return record({**settings, **own, **(tags or {})}, {}, "ablation")


def stored(
    arm: str,
    block: int,
    figures: Figures | None = None,
    *,
    what: Asked | None = None,
    machine: str = "here",
    device: str = "cpu",
    outcome: str | None = "completed",
    kind: str = ARM_RUN,
    tags: Mapping[str, str] | None = None,
    run_id: str | None = None,
    **given: Any,
) -> StoredRun:
    """A run of an arm as it is read back, its code committed; one that has no outcome is under way."""
    arms = {known.name: known for known in (what or asked()).as_design().arms}
    base = resolve(GIVEN | given)
    own = settings_of(arms[arm], base) if arm in arms else {}
    settings = as_tags(resolve({**GIVEN, **given, **own, "seed": block}).as_texts())
    own_tags = {KIND: kind, ARM: arm, BLOCK: str(block), OWNER: f"{machine}/start/all/1/1", DEVICE: device}
    code = {"accelmlf.code.commit": "c0ffee", "accelmlf.code.uncommitted_changes": "false"}
    ended = {} if outcome is None else {OUTCOME: outcome}
    all_tags = {**settings, **own_tags, **code, **ended, **(tags or {})}
    return record(all_tags, figures_of() if figures is None else figures, f"{arm}, seed {block}", run_id)


def ablation_of(
    what: Asked,
    table: Mapping[str, Mapping[int, Figures]],
    *,
    parent_tags: Mapping[str, str] | None = None,
    **given: Any,
) -> Ablation:
    """An ablation whose runs have measured just this."""
    runs = [
        stored(
            arm,
            block,
            figures,
            what=what,
            outcome="completed" if "time_to_accuracy_s" in figures else "target_not_reached",
            **given,
        )
        for arm, blocks in table.items()
        for block, figures in blocks.items()
    ]
    return Ablation.of(parent_of(what, parent_tags, **given), runs)


def whole(what: Asked) -> list[StoredRun]:
    """Every run that was asked for."""
    return [stored(arm.name, block, what=what) for block in range(what.repeats) for arm in what.as_design().arms]


def ids(blocks: Mapping[int, Mapping[str, StoredRun]]) -> dict[int, dict[str, str]]:
    return {block: {arm: run.run_id for arm, run in runs.items()} for block, runs in blocks.items()}


# --- what was asked ---

EVERY_ASKED = [
    asked(),
    asked("leave_one_out", repeats=1),
    asked("factorial", ("workers:2", ACCUMULATION), left_out=("pin_memory (it needs CUDA, and the device is cpu)",)),
    asked("one_at_a_time", ("workers:2", "resident"), clash="resident replaces workers, which would do nothing"),
    asked("screening"),
    asked("alone"),
    asked("with_preset"),
    asked("preset", ("tuned",), left_out=('"quoted", \\ and é',)),
]


IN_STRETCHES = [
    asked(repeats=0, measure=STEPS),
    asked("factorial", repeats=0, measure=STEPS, precision=0.005),
]


@pytest.mark.parametrize("what", [*EVERY_ASKED, *IN_STRETCHES], ids=lambda what: f"{what.design}, {what.measure}")
def test_what_was_asked_comes_back_as_it_was(what: Asked) -> None:
    back = Asked.from_json(what.as_json())
    assert back == what
    assert back.as_design() == what.as_design()
    others = [other for other in (*EVERY_ASKED, *IN_STRETCHES) if other is not what]
    assert all(Asked.from_json(other.as_json()) != what for other in others)


def test_what_a_store_of_the_first_version_was_asked_was_of_whole_runs() -> None:
    fields = json.loads(asked().as_json())
    for name in ("measure", "precision"):
        del fields[name]
    assert Asked.from_json(json.dumps(fields)) == asked()
    assert asked().measure == RUNS


def test_there_is_an_example_of_every_design() -> None:
    assert {what.design for what in EVERY_ASKED} == set(DESIGNS)


# --- which runs ---


@pytest.mark.parametrize("what", EVERY_ASKED, ids=lambda what: what.design)
def test_every_arm_of_every_block_has_the_run_that_was_made_for_it(what: Asked) -> None:
    runs = whole(what)
    ablation = Ablation.of(parent_of(what), runs)
    assert {(block, arm) for block, found in ablation.runs.items() for arm in found} == {
        (block, arm.name) for block in range(what.repeats) for arm in what.as_design().arms
    }
    for block, found in ablation.runs.items():
        for arm, run in found.items():
            assert (run.tags[ARM], run.tags[BLOCK]) == (arm, str(block))
    assert ablation.num_runs == ablation.num_planned == len(runs)
    assert ablation.failures == []


def test_what_was_measured_is_what_the_runs_have_logged() -> None:
    what = asked(repeats=2)
    table = {
        arm: {block: figures_of(num_epochs=3, accuracy=0.5 + number / 10 + block / 100) for block in range(2)}
        for number, arm in enumerate(ARMS)
    }
    assert ablation_of(what, table).measured == table
    del table["all"][1]
    assert ablation_of(what, table).measured == table


def test_blocks_come_in_their_order_whatever_was_run_first() -> None:
    runs = [stored(arm, block) for block in (2, 0, 1) for arm in ARMS]
    assert list(blocks_of(runs, asked().as_design().arms)) == [0, 1, 2]


def test_of_runs_of_the_same_arm_and_block_the_first_counts() -> None:
    runs = whole(asked())
    again = [stored(arm, block) for block in range(3) for arm in ARMS]
    ablation = Ablation.of(parent_of(asked()), [*runs, *again])
    assert ids(ablation.runs) == ids(Ablation.of(parent_of(asked()), runs).runs)
    assert ids(Ablation.of(parent_of(asked()), [*again, *runs]).runs) != ids(ablation.runs)  # the control


@pytest.mark.parametrize("kind", ["trial", "confirmation", "search", ABLATION, "report", "anything"])
def test_runs_of_other_kinds_are_passed_over(kind: str) -> None:
    what = asked(repeats=1)
    others = [record({KIND: kind, OUTCOME: "failed"}, {}), stored("all", 0, kind=kind)]  # one without any other tag
    assert Ablation.of(parent_of(what), [*whole(what)[:3], *others, record({}, {})]).num_runs == 3
    assert Ablation.of(parent_of(what), [*whole(what)[:3], stored("all", 0)]).num_runs == 4  # the control


def test_arms_that_were_not_asked_for_are_passed_over() -> None:
    stranger = stored("tf32", 0)
    ablation = Ablation.of(parent_of(asked()), [stranger, *whole(asked())])
    assert "tf32" not in ablation.runs[0] and "tf32" not in ablation.measured
    assert ablation.num_runs == ablation.num_planned


def test_blocks_beyond_the_repeats_that_were_asked_for_are_passed_over() -> None:
    runs = whole(asked(repeats=5))
    few = Ablation.of(parent_of(asked(repeats=3)), runs)
    assert list(few.runs) == [0, 1, 2]
    assert few.num_runs == few.num_planned == 12
    assert {effect.interval.count for effect in few.effects if effect.interval is not None} == {3}
    assert list(Ablation.of(parent_of(asked(repeats=5)), runs).runs) == [0, 1, 2, 3, 4]  # the control


def test_what_is_missing_is_absent_and_counted() -> None:
    runs = [run for run in whole(asked()) if (run.tags[ARM], run.tags[BLOCK]) != ("all", "1")]
    ablation = Ablation.of(parent_of(asked()), runs)
    assert sorted(ablation.measured["all"]) == [0, 2]
    assert sorted(ablation.measured["baseline"]) == [0, 1, 2]
    assert (ablation.num_runs, ablation.num_planned) == (11, 12)
    (on_all,) = [contrast for contrast in ablation.design.contrasts if contrast.name == "all"]
    assert [effect.absent for effect in ablation.judged(on_all)] == [{"all": 1}] * 2


# --- failures ---


@pytest.mark.parametrize("outcome", ["diverged", "out_of_memory", "failed"])
def test_a_run_that_failed_by_itself_stands_for_nothing_and_is_a_failure(outcome: str) -> None:
    runs = whole(asked())
    failed = stored("all", 1, outcome=outcome)
    rest = [run for run in runs if (run.tags[ARM], run.tags[BLOCK]) != ("all", "1")]
    ablation = Ablation.of(parent_of(asked()), [failed, *rest])
    assert "all" not in ablation.runs[1]
    assert ablation.failures == [failed]
    again = Ablation.of(parent_of(asked()), [failed, *runs])  # its place is taken
    assert (again.failures, again.num_runs) == ([], 12)


def test_a_miss_of_the_target_is_no_failure() -> None:
    missed = stored("all", 0, figures_of(epochs_to_accuracy=None), outcome="target_not_reached")
    ablation = Ablation.of(parent_of(asked(repeats=1)), [missed])
    assert ablation.runs == {0: {"all": missed}}
    assert ablation.failures == []


@pytest.mark.parametrize("outcome", ["interrupted", "pruned", None])
def test_a_run_that_was_ended_from_outside_or_is_under_way_is_neither_measured_nor_a_failure(
    outcome: str | None,
) -> None:
    ablation = Ablation.of(parent_of(asked(repeats=1)), [stored("all", 0, outcome=outcome)])
    assert (ablation.runs, ablation.failures, ablation.num_runs) == ({}, [], 0)


def test_of_a_place_that_failed_again_and_again_the_last_failure_counts() -> None:
    first, other, last = (stored("all", 0, outcome=outcome) for outcome in ("diverged", "interrupted", "out_of_memory"))
    assert Ablation.of(parent_of(asked(repeats=1)), [first, last]).failures == [last]
    assert Ablation.of(parent_of(asked(repeats=1)), [first, other]).failures == [first]
    two = [first, stored("baseline", 0, outcome="diverged")]
    assert Ablation.of(parent_of(asked(repeats=1)), two).failures == two  # the control: two places


def test_a_failed_run_has_not_reached_the_target_and_a_missing_one_has_not_tried() -> None:
    runs = [run for run in whole(asked()) if (run.tags[ARM], run.tags[BLOCK]) != ("all", "1")]
    failed = Ablation.of(parent_of(asked()), [*runs, stored("all", 1, outcome="diverged")])
    missing = Ablation.of(parent_of(asked()), runs)
    for ablation, expected in ((failed, {"baseline": (3, 3), "all": (2, 3)}), (missing, {})):
        on_all = ablation.design.contrasts[-1]
        assert ablation.judged(on_all)[1].reached == expected
        assert [effect.verdict for effect in ablation.judged(on_all)] == [None, None]


# --- judged more than once ---


def test_every_number_of_repeats_with_which_it_was_judged_is_known() -> None:
    runs, last = whole(asked(repeats=5)), parent_of(asked(repeats=5))
    former = [parent_of(asked(repeats=repeats)) for repeats in (3, 4, 3)]
    assert Ablation.of(last, [*former, *runs, last]).looks == ["3", "4", "5"]
    assert Ablation.of(last, [*runs, last]).looks == ["5"]
    assert Ablation.of(last, runs).looks == ["5"]


@pytest.mark.parametrize("outcome", ["interrupted", "failed", "diverged"])
def test_a_start_that_did_not_come_to_its_end_has_judged_nothing(outcome: str) -> None:
    former = parent_of(asked(repeats=3), {OUTCOME: outcome})
    assert Ablation.of(parent_of(asked(repeats=5)), [former, *whole(asked(repeats=5))]).looks == ["5"]


def test_a_failure_beyond_the_repeats_that_were_asked_for_is_passed_over() -> None:
    runs = [*whole(asked(repeats=3)), stored("all", 3, outcome="diverged")]
    assert Ablation.of(parent_of(asked(repeats=3)), runs).failures == []
    assert len(Ablation.of(parent_of(asked(repeats=4)), runs).failures) == 1  # the control


# --- machines ---


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [(3, 1, "here"), (1, 3, "there"), (4, 0, "here"), (0, 4, "there"), (2, 2, "here")],
    ids=["most of it here", "most of it there", "all here", "all there", "halves: that of the first run"],
)
def test_a_block_is_of_the_one_machine_that_has_most_of_it(here: int, there: int, expected: str) -> None:
    machines = ["here"] * here + ["there"] * there
    runs = [stored(arm, 0, machine=machine) for arm, machine in zip(ARMS, machines, strict=True)]
    (found,) = blocks_of(runs, asked().as_design().arms).values()
    assert {place_of(run) for run in found.values()} == {(expected, "cpu")}
    assert len(found) == max(here, there)


def test_each_block_may_be_of_another_machine() -> None:
    runs = [stored(arm, block, machine=f"machine {block}") for block in range(3) for arm in ARMS]
    ablation = Ablation.of(parent_of(asked()), runs)
    assert ablation.num_runs == 12
    for block, found in ablation.runs.items():
        assert {place_of(run) for run in found.values()} == {(f"machine {block}", "cpu")}


def test_the_same_machine_after_it_was_started_again_is_the_same() -> None:
    later = {OWNER: "here/another start/another numbering/7/7"}
    runs = [stored(arm, 0, tags=later if arm == "all" else None) for arm in ARMS]
    assert len(blocks_of(runs, asked().as_design().arms)[0]) == 4
    other = {OWNER: "there/start/all/1/1"}  # the control
    runs = [stored(arm, 0, tags=other if arm == "all" else None) for arm in ARMS]
    assert len(blocks_of(runs, asked().as_design().arms)[0]) == 3


def test_two_devices_of_one_machine_are_not_mixed_in_a_block() -> None:
    runs = [stored(arm, 0, device="GPU-1" if arm == "all" else "GPU-0") for arm in ARMS]
    (found,) = blocks_of(runs, asked().as_design().arms).values()
    assert set(found) == set(ARMS) - {"all"}
    assert {place_of(run) for run in found.values()} == {("here", "GPU-0")}


# --- what it says ---


@pytest.mark.parametrize(
    ("design", "factors", "expected", "most"),
    [
        ("one_at_a_time", FACTORS, 1, 1),
        ("one_at_a_time", (ACCUMULATION,), 2, 2),
        ("one_at_a_time", (SAME_EFFECTIVE_BATCH,), 1, 2),
        ("one_at_a_time", (ACCUMULATION, SAME_EFFECTIVE_BATCH), 2, 4),
        ("leave_one_out", (ACCUMULATION, SAME_EFFECTIVE_BATCH), 2, 4),
        ("factorial", (ACCUMULATION, "channels_last"), 2, 2),
        ("preset", ("tuned",), 1, 2),
    ],
)
def test_the_steps_of_accumulation_are_those_of_the_arms_that_accumulate_like_the_recipe(
    design: str, factors: tuple[str, ...], expected: int, most: int
) -> None:
    what = asked(design, factors, repeats=1)
    ablation = Ablation.of(parent_of(what), whole(what))
    assert ablation.accumulation_steps == expected
    assert max(int(run.settings["accumulation_steps"]) for run in ablation.runs[0].values()) == most


@pytest.mark.parametrize("what", EVERY_ASKED, ids=lambda what: what.design)
def test_every_contrast_of_whole_runs_is_judged_by_its_speed_and_by_its_time_to_accuracy(what: Asked) -> None:
    ablation = Ablation.of(parent_of(what), whole(what))
    for contrast in ablation.design.contrasts:
        on_epochs, on_target = ablation.judged(contrast)
        assert (on_epochs.measure, on_target.measure) == (SECONDS_PER_EPOCH, TIME_TO_ACCURACY)
        assert on_epochs.contrast is on_target.contrast is contrast
        assert {effect.contrast.name for effect in ablation.effects_of(contrast)} == {contrast.name}


def test_an_ablation_without_any_run_says_what_is_missing_and_no_number() -> None:
    ablation = Ablation.of(parent_of(asked()), [])
    assert (ablation.num_runs, ablation.runs) == (0, {})
    for contrast in ablation.design.contrasts:
        for effect in ablation.judged(contrast):
            assert effect.interval is None and effect.verdict is None
            assert effect.in_words == f"no verdict: 3 runs of baseline, 3 runs of {contrast.name} failed or missing"


@pytest.mark.parametrize("pipeline", ["memory", "stream"])
def test_what_is_said_of_loading_names_the_pipeline_that_was_measured(pipeline: str) -> None:
    what = asked(factors=("workers:2",))
    ablation = ablation_of(
        what, {arm: {block: figures_of() for block in range(3)} for arm in ("baseline", "workers:2")}, pipeline=pipeline
    )
    (contrast,) = ablation.design.contrasts
    assert f"with pipeline={pipeline}" in ablation.reason(contrast)


def test_an_ablation_is_called_after_its_model_its_data_and_its_design() -> None:
    ablation = Ablation.of(parent_of(asked("leave_one_out"), model="resnet50"), [])
    assert ablation.title == "resnet50 on digits, pipeline=memory, leave one out"
    assert ablation.settings["epochs"] == "10"
