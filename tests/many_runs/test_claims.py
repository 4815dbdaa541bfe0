"""Each check finds what it is for in the record of a run, and nothing in one that has nothing against it."""

import re
from collections.abc import Callable, Mapping

import pytest

from accelmlf.many_runs.claims import RUN_CHECKS, TOLERATED, marks, marks_of_group
from accelmlf.many_runs.comparison import MIN_REPEATS
from accelmlf.tracking.stored_runs import StoredRun
from tests.report.makers import make_run, make_runs

Found = tuple[str, Mapping[str, str | None], Mapping[str, float], str]
FOUND: list[Found] = [  # the check, tags and metrics of a run, what is said
    ("resumed_in_epoch", {"accelmlf.resumed_in_epoch": "4"}, {}, "resumed in the middle of epoch 4, which is timed"),
    ("watched_test_set", {"accelmlf.config.validation": "test"}, {}, "validation on the test set"),
    ("skipped_technique", {"accelmlf.skipped_techniques": "pin_memory"}, {}, "technique skipped: pin_memory"),
    ("unexplained_time", {"accelmlf.unfit": "phases leave 3.1% of it"}, {}, "phases leave 3.1% of it"),
    ("shared_gpu", {}, {"other_gpu_processes": 1}, "1 other process on the GPU"),
    ("shared_gpu", {}, {"other_gpu_processes": 2}, "2 other processes on the GPU"),
    (
        "missing_cores",
        {},
        {"missing_cores_share": 0.43},
        "cores missing: 43% of the processor time it asked for went to others",
    ),
    ("slowed_gpu", {}, {"gpu_throttle_reasons": 0x45}, "GPU slowed down: heat, by the hardware"),
    ("slowed_gpu", {}, {"gpu_throttle_reasons": 0xA8}, "GPU slowed down: hardware, heat, by the driver, power brake"),
    ("code_not_committed", {"accelmlf.code.uncommitted_changes": "true"}, {}, "code not committed"),
    ("code_not_committed", {"accelmlf.code.uncommitted_changes": None}, {}, "code not committed"),
    ("code_not_committed", {"accelmlf.code.commit": None}, {}, "code without a commit"),
]
SILENT: list[tuple[Mapping[str, str | None], Mapping[str, float]]] = [
    ({}, {}),
    ({}, {"other_gpu_processes": 0}),
    ({}, {"missing_cores_share": 0.02}),
    ({}, {"gpu_throttle_reasons": 0x5}),  # idle, or at its power cap
    ({"accelmlf.skipped_techniques": "none"}, {}),
    ({"accelmlf.config.validation": "split"}, {}),
    ({"accelmlf.unrelated": "true"}, {"unrelated": 7.0}),
]


@pytest.mark.parametrize(("name", "tags", "metrics", "says"), FOUND)
def test_a_check_fires_on_its_record_and_no_other_check_does(
    name: str, tags: Mapping[str, str | None], metrics: Mapping[str, float], says: str
) -> None:
    run = make_run(tags=tags, metrics=metrics)
    fired = {check.__name__: mark for check in RUN_CHECKS if (mark := check(run)) is not None}
    assert fired == {name: says}
    assert marks(run) == [says]


@pytest.mark.parametrize("check", RUN_CHECKS, ids=lambda check: check.__name__)
def test_every_check_is_shown_to_fire_and_is_silent_on_a_clean_record(
    check: Callable[[StoredRun], str | None],
) -> None:
    assert check.__name__ in {name for name, *_ in FOUND}
    for tags, metrics in SILENT:
        assert check(make_run(tags=tags, metrics=metrics)) is None


def test_what_was_not_captured_says_nothing_against_a_run() -> None:
    """Outside a GPU there is no count of other processes."""
    run = make_run()
    assert "other_gpu_processes" not in run.metrics
    assert marks(run) == []


def test_everything_that_is_against_a_run_is_said() -> None:
    tags: dict[str, str | None] = {}
    metrics: dict[str, float] = {}
    for name in dict.fromkeys(name for name, *_ in FOUND):
        _, own_tags, own_metrics, _ = next(found for found in FOUND if found[0] == name)
        tags |= own_tags
        metrics |= own_metrics
    assert len(marks(make_run(tags=tags, metrics=metrics))) == len(RUN_CHECKS)


# --- groups ---


@pytest.mark.parametrize("repeats", range(MIN_REPEATS + 2))
def test_too_few_repeats_are_a_mark_of_their_own(repeats: int) -> None:
    found = marks_of_group(make_runs(repeats), repeats)
    if repeats >= MIN_REPEATS:
        assert found == []
    else:
        assert found == [f"{repeats} repeat{'' if repeats == 1 else 's'}, {MIN_REPEATS} are needed"]


@pytest.mark.parametrize("marked", range(1, 5))
def test_a_mark_is_given_once_with_how_many_runs_it_is_of(marked: int) -> None:
    clean, against = make_runs(4 - marked), make_runs(marked, {"validation": "test"})
    says = "validation on the test set"
    assert marks_of_group(clean + against, 4) == [says if marked == 4 else f"{says} ({marked} of 4 runs)"]


def test_of_one_kind_of_mark_the_worst_is_told_and_all_are_counted() -> None:
    shared = [make_run(metrics={"other_gpu_processes": others}) for others in (0, 1, 12, 3)]
    assert marks_of_group(shared, 4) == ["12 other processes on the GPU (3 of 4 runs)"]
    assert marks_of_group(shared[::-1], 4) == marks_of_group(shared, 4)
    unexplained = [make_run(tags={"accelmlf.unfit": f"phases leave {share}%"}) for share in ("3.1", "10.2", "9.9")]
    assert marks_of_group(unexplained, 3) == ["phases leave 10.2%"]


@pytest.mark.parametrize(("marked", "tells"), [(1, False), (2, False), (3, True)])
def test_a_disturbance_that_passes_is_no_reason_where_few_of_many_short_runs_had_it(marked: int, tells: bool) -> None:
    runs = make_runs(20 - marked) + [make_run(metrics={"missing_cores_share": 0.2})] * marked
    assert bool(marks_of_group(runs, 4, of="generation", tolerated=TOLERATED)) == tells
    assert marks_of_group(runs, 4)  # the controls: of whole runs each counts, and so does what does not pass
    watched = make_runs(19) + make_runs(1, {"validation": "test"})
    assert marks_of_group(watched, 4, of="generation", tolerated=TOLERATED)


def test_different_kinds_of_mark_are_counted_apart() -> None:
    runs = [
        make_run(),
        make_run(metrics={"other_gpu_processes": 1}),
        make_run(metrics={"other_gpu_processes": 1}, tags={"accelmlf.skipped_techniques": "pin_memory"}),
    ]
    assert sorted(marks_of_group(runs, 3)) == [
        "1 other process on the GPU (2 of 3 runs)",
        "technique skipped: pin_memory (1 of 3 runs)",
    ]


@pytest.mark.parametrize(
    ("commits", "says"), [("aaa", []), ("aab", ["code of 2 commits"]), ("abc", ["code of 3 commits"])]
)
def test_code_that_changed_between_the_runs_is_said(commits: str, says: list[str]) -> None:
    runs = [make_run(tags={"accelmlf.code.commit": commit}) for commit in commits]
    assert marks_of_group(runs, len(runs)) == says


def test_reasons_stand_together_from_the_group_to_the_run() -> None:
    runs = make_runs(2, tags={"accelmlf.code.uncommitted_changes": "true"})
    found = "; ".join(marks_of_group(runs, 2))
    assert found == f"2 repeats, {MIN_REPEATS} are needed; code not committed"
    assert re.fullmatch(r"[^|\n]+", found)


def test_a_group_without_runs_supports_nothing() -> None:
    assert marks_of_group([], 0) == [f"0 repeats, {MIN_REPEATS} are needed"]
