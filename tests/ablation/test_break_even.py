"""What is paid once beside what is saved each epoch: after how many epochs it pays, and when that is worth a word."""

import pytest

from accelmlf.ablation.break_even import BreakEven, break_even
from accelmlf.ablation.designs import make_design, with_twin
from accelmlf.ablation.settings import BASELINE
from tests.ablation.makers import Table, figures_of

COMPILE = "compile:default"
DESIGN = make_design("one_at_a_time", (COMPILE,))
(ALONE,) = DESIGN.contrasts


def run_of(epoch_s: float, setup_s: float = 1.0, warmup_s: float = 0.5) -> dict[str, float]:
    return {"mean_epoch_s": epoch_s, "setup_s": setup_s, "warmup_s": warmup_s}


def table_of(saved_s: float, once_s: float, epoch_s: float = 10.0) -> Table:
    """Arms of which the second costs so much more before it begins, and so much less each epoch."""
    return {
        BASELINE: {1: run_of(epoch_s)},
        COMPILE: {1: run_of(epoch_s - saved_s, warmup_s=0.5 + once_s)},
    }


def epochs_in(found: BreakEven | None) -> int:
    assert found is not None
    return found.epochs


@pytest.mark.parametrize(("num_epochs", "place"), [(10, "not in a run of 10"), (15, "in this run of 15")])
def test_it_is_said_after_how_many_epochs_it_pays_and_whether_the_run_has_so_many(num_epochs: int, place: str) -> None:
    said = break_even(ALONE, table_of(2.9, 41.0), num_epochs)
    assert str(said) == f"costs 41.0 s once and saves 2.90 s an epoch: pays after 15 epochs, {place}"


@pytest.mark.parametrize("saved_s", [0.01, 0.5, 3.0, 9.0])
@pytest.mark.parametrize("once_s", [11.0, 300.0, 5_000.0])
def test_before_it_has_paid_a_run_is_slower_and_after_that_it_is_not(saved_s: float, once_s: float) -> None:
    epochs = epochs_in(break_even(ALONE, table_of(saved_s, once_s), 10))
    assert (epochs - 1) * saved_s < once_s * (1 + 1e-9) and epochs * saved_s >= once_s * (1 - 1e-9)


@pytest.mark.parametrize(
    ("saved_s", "once_s", "is_told"),
    [(2.0, 1.9, False), (2.0, 2.1, True), (2.0, 0.0, False), (2.0, -5.0, False), (0.0, 5.0, False), (-1.0, 5.0, False)],
    ids=["within an epoch", "more than one", "costs nothing", "costs less", "saves nothing", "costs more each epoch"],
)
def test_what_pays_within_an_epoch_or_never_is_not_worth_a_word(saved_s: float, once_s: float, is_told: bool) -> None:
    assert (break_even(ALONE, table_of(saved_s, once_s), 10) is not None) == is_told


def test_set_up_is_paid_once_as_a_warm_up_is() -> None:
    table = table_of(2.0, 3.0)
    table[COMPILE][1]["setup_s"] += 4.0
    assert epochs_in(break_even(ALONE, table, 10)) == 4
    assert epochs_in(break_even(ALONE, table_of(2.0, 3.0), 10)) == 2  # the control


def test_it_is_the_mean_of_all_generations_that_counts() -> None:
    table = table_of(2.0, 10.0)
    for generation, off in ((2, 4.0), (3, -4.0)):
        table[BASELINE][generation] = run_of(10.0 + off / 10)
        table[COMPILE][generation] = run_of(8.0 + off / 10, warmup_s=10.5 + off)
    assert str(break_even(ALONE, table, 10)) == str(break_even(ALONE, table_of(2.0, 10.0), 10))
    del table[COMPILE][3]  # the control
    assert str(break_even(ALONE, table, 10)) != str(break_even(ALONE, table_of(2.0, 10.0), 10))


def test_what_starts_differ_by_themselves_is_not_paid_for_anything() -> None:
    table = table_of(0.1, 0.2)
    assert break_even(ALONE, table, 10) is not None  # the control: one generation says nothing of the noise
    for generation, off in ((2, 0.4), (3, -0.5)):
        table[BASELINE][generation], table[COMPILE][generation] = run_of(10.0), run_of(9.9, warmup_s=0.7 + off)
    assert break_even(ALONE, table, 10) is None


def test_of_a_baseline_that_is_there_twice_the_mean_counts() -> None:
    (twice,) = with_twin(DESIGN).contrasts
    table = table_of(2.0, 10.0)
    table[BASELINE][1], table[f"{BASELINE} again"] = run_of(9.0, setup_s=0.0), {1: run_of(11.0, setup_s=2.0)}
    assert break_even(twice, table, 10) == break_even(ALONE, table_of(2.0, 10.0), 10)


def test_whole_runs_have_what_it_needs() -> None:
    one, other = figures_of(), figures_of({"forward": 5.0})
    other["warmup_s"] += 60.0
    assert epochs_in(break_even(ALONE, {BASELINE: {0: one}, COMPILE: {0: other}}, 10)) == 12


@pytest.mark.parametrize("name", ["setup_s", "warmup_s", "mean_epoch_s"])
def test_what_was_not_recorded_is_not_spoken_of(name: str) -> None:
    for arm in (BASELINE, COMPILE):
        table = table_of(2.0, 10.0)
        del table[arm][1][name]
        assert break_even(ALONE, table, 10) is None
    assert break_even(ALONE, {}, 10) is None
    assert break_even(ALONE, table_of(2.0, 10.0), 10) is not None  # the control


def test_interactions_pay_for_nothing_by_themselves() -> None:
    design = make_design("factorial", (COMPILE, "channels_last"))
    table: Table = {
        arm.name: {1: run_of(10.0 - len(arm.factors) ** 2, warmup_s=0.5 + 40.0 * (COMPILE in arm.factors))}
        for arm in design.arms
    }
    found: dict[str, bool] = {c.name: break_even(c, table, 10) is not None for c in design.contrasts}
    assert found == {COMPILE: True, "channels_last": False, f"{COMPILE} x channels_last": False}


@pytest.mark.parametrize(("saved_s", "text"), [(0.00123, "0.00123"), (1.0, "1.00"), (45.67, "45.7"), (1234.0, "1234")])
def test_seconds_are_written_out_however_many_they_are(saved_s: float, text: str) -> None:
    said = break_even(ALONE, table_of(saved_s, 1e5, epoch_s=2e3), 10)
    assert f"saves {text} s an epoch" in str(said)
