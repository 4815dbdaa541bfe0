"""What speaks against an ablation is said, each thing once, and of what it is said."""

import pytest

from accelmlf.ablation.marks import unfit, unfit_for_speeds, unfit_in_words
from accelmlf.ablation.result import Ablation
from accelmlf.ablation.tables import as_lines, as_markdown
from accelmlf.tracking.tags import ARM, BLOCK, OWNER
from tests.ablation.test_result import asked, parent_of, stored, whole


def test_an_ablation_with_nothing_against_it_is_fit() -> None:
    ablation = Ablation.of(parent_of(asked()), whole(asked()))
    assert unfit(ablation) == unfit_in_words(ablation) == []
    assert "unfit" not in as_markdown(ablation)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"accelmlf.skipped_techniques": "pin_memory"}, "technique skipped: pin_memory (1 of 12 runs)"),
        ({"accelmlf.unfit": "phases leave 9.0% of the epochs unexplained"}, "unexplained (1 of 12 runs)"),
        ({"accelmlf.code.uncommitted_changes": "true"}, "code not committed (1 of 12 runs)"),
        ({"accelmlf.config.validation": "test"}, "validation on the test set (1 of 12 runs)"),
        ({"accelmlf.resumed_in_epoch": "3"}, "resumed in the middle of epoch 3, which is timed (1 of 12 runs)"),
        ({"accelmlf.code.commit": "decaf"}, "code of 2 commits"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_one_of_its_runs_says_against_itself_is_said_of_the_whole(spoil: dict[str, str], says: str) -> None:
    runs = whole(asked())
    spoilt = [*runs[:-1], stored("all", 2, tags=spoil)]
    against = unfit(Ablation.of(parent_of(asked()), spoilt))
    assert len(against) == 1 and says in against[0]
    assert f"unfit for a claim: {against[0]}" in "\n".join(as_lines(Ablation.of(parent_of(asked()), spoilt)))
    assert unfit(Ablation.of(parent_of(asked()), runs)) == []  # the control


def test_failures_and_what_is_missing_are_counted_apart() -> None:
    runs = whole(asked(repeats=4))
    failed = [stored("all", 3, outcome="out_of_memory"), stored("baseline", 3, outcome="diverged")]
    rest = [run for run in runs if run.tags[BLOCK] != "3"]
    against = unfit(Ablation.of(parent_of(asked(repeats=4)), [*rest, *failed, runs[-2]]))
    assert against == ["2 of 16 runs failed (diverged, out of memory)", "1 of 16 runs are missing"]
    assert unfit(Ablation.of(parent_of(asked(repeats=4)), [*rest, *runs])) == []  # the control


def test_failures_that_another_run_has_taken_the_place_of_are_told_all_the_same() -> None:
    runs = whole(asked(repeats=4))
    broken = [stored("all", 3, outcome="failed"), stored("baseline", 3, outcome="failed")]
    against = unfit(Ablation.of(parent_of(asked(repeats=4)), [*broken, *runs]))
    assert against == ["2 runs failed and were repeated"]


def test_a_block_that_was_cut_short_and_continued_later_is_named() -> None:
    runs = whole(asked(repeats=4))
    later = stored("all", 3, tags={OWNER: "here/start/all/2/2"})
    rest = [run for run in runs if (run.tags[BLOCK], run.tags[ARM]) != ("3", "all")]
    against = unfit(Ablation.of(parent_of(asked(repeats=4)), [*rest, later]))
    assert against == ["cut short and continued later: block 4"]


def test_an_ablation_that_was_judged_more_than_once_says_so() -> None:
    runs, last = whole(asked(repeats=5)), parent_of(asked(repeats=5))
    against = unfit(Ablation.of(last, [parent_of(asked(repeats=3)), *runs, last]))
    assert against == ["judged more than once, with 3, 5 repeats, which the verdicts do not allow for"]
    assert unfit(Ablation.of(last, [parent_of(asked(repeats=5)), *runs, last])) == []


def test_what_only_the_preset_beside_the_others_lacks_is_said_of_the_preset_alone() -> None:
    skipped = {"accelmlf.skipped_techniques": "pin_memory"}
    beside = asked(design="with_preset")
    rest = [run for run in whole(beside) if run.tags[ARM] != "tuned"]
    of_preset = [stored("tuned", block, tags=skipped) for block in range(3)]
    ablation = Ablation.of(parent_of(beside), [*rest, *of_preset])
    assert unfit(ablation) == []
    (line,) = unfit_in_words(ablation)
    assert line.startswith("unfit for a claim about tuned: technique skipped: pin_memory (3 of ")
    # The controls: another arm that lacks it; and a design that is about nothing but the preset.
    spoilt = [*rest[:-1], stored(rest[-1].tags[ARM], 2, tags=skipped), *of_preset]
    (line,) = unfit_in_words(Ablation.of(parent_of(beside), spoilt))
    assert line.startswith("unfit for a claim: technique skipped: pin_memory (1 of ")
    about = asked(design="preset")
    runs = [run for run in whole(about) if run.tags[ARM] != "tuned"] + of_preset
    assert unfit(Ablation.of(parent_of(about), runs)) == ["technique skipped: pin_memory (3 of 6 runs)"]


@pytest.mark.parametrize(
    ("spoil", "is_of_speed"),
    [
        ({"accelmlf.unfit": "phases leave 9.0% of the epochs unexplained"}, True),
        ({"accelmlf.config.validation": "test"}, False),
        ({"accelmlf.code.uncommitted_changes": "true"}, False),
        ({"accelmlf.code.commit": "decaf"}, False),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_against_speeds_speaks_what_is_about_speed_and_nothing_else(spoil: dict[str, str], is_of_speed: bool) -> None:
    spoilt = Ablation.of(parent_of(asked()), [*whole(asked())[:-1], stored("all", 2, tags=spoil)])
    assert bool(unfit_for_speeds(spoilt)) == is_of_speed
    assert unfit(spoilt)  # the control
