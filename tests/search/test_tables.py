"""The tables of a search hold every trial and every seed, and no figure for what was missed."""

import csv
from pathlib import Path

from accelmlf.search.confirmation import Confirmation
from accelmlf.search.settings import TuneConfig
from accelmlf.search.space import Point
from accelmlf.search.tables import confirmation_table, trial_table, write_confirmation, write_trials
from accelmlf.settings.technique_list import TechniqueList
from tests.search.makers import FAST, REACHED, SLOW, make_arm, make_own, make_plan, make_record

# --- as lines ---


def test_the_table_of_trials_begins_with_the_fastest() -> None:
    lines = [" ".join(line.split()) for line in trial_table(REACHED)]
    assert lines == [
        "trial 1 batch 64 x 1 target after 24.1 s of training (5 epochs)",
        "trial 0 batch 32 x 1 target after 48.2 s of training (6 epochs)",
        "trial 2 batch 16 x 4 pruned after 25.0 s (1 epoch): it can no longer win",
        'trial 3 batch 128 x 4 out of memory: no room, "at all" really',
        "trial 4 batch 64 x 2 target not reached: 0.8800 at best in 55.0 s (10 epochs)",
    ]


def test_a_table_of_nothing_is_empty() -> None:
    assert trial_table([]) == []
    assert len(trial_table([make_record(0, None, "killed")])) == 1


def test_the_table_of_the_confirmation_shows_every_seed_and_no_ratio_with_a_miss() -> None:
    arms = [make_arm(FAST, 5.0, 5.1, 5.1), make_arm(SLOW, 7.0, None, 7.1), make_own(10.0, 10.3, 10.2)]
    table = confirmation_table(Confirmation(arms))
    rows = {name: next(line for line in table if name in line) for name in ("64 x 1", "16 x 4", "32 x 1")}
    assert "faster: 2.0" in rows["64 x 1"]
    assert "missed" in rows["16 x 4"] and "2 of 3" in rows["16 x 4"] and "x [" not in rows["16 x 4"]
    assert "the recipe's own" in rows["32 x 1"] and "x [" not in rows["32 x 1"]
    for name, times in (("64 x 1", ("5.0", "5.1")), ("16 x 4", ("7.0",)), ("32 x 1", ("10.0", "10.3"))):
        assert all(text in rows[name] for text in times)


# --- as files ---


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_of_trials_holds_every_trial_and_no_time_for_a_miss(tmp_path: Path) -> None:
    write_trials(path := tmp_path / "trials.csv", REACHED, make_plan().space)
    rows = rows_of(path)
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row["time_to_accuracy_s"] for row in rows] == ["48.2", "24.1", "", "", ""]
    assert [row["outcome"] for row in rows] == [record.outcome for record in REACHED]
    assert [int(row["batch_size"]) for row in rows] == [
        record.point["batch_size"] for record in REACHED if record.point
    ]
    assert rows[3]["error"] == REACHED[3].error  # a comma, quotes and a line break are kept
    assert rows[2]["saved_at_most_s"] == "90.0"


def test_the_table_of_the_confirmation_holds_every_seed(tmp_path: Path) -> None:
    arms = [make_arm(FAST, 5.0, 5.1), make_arm(SLOW, 7.0, None), make_own(10.0, 10.2)]
    write_confirmation(path := tmp_path / "confirmation.csv", Confirmation(arms))
    rows = rows_of(path)
    assert [(row["setting"], row["seed"], row["time_to_accuracy_s"]) for row in rows] == [
        ("batch 64 x 1", "1", "5.0"),
        ("batch 64 x 1", "2", "5.1"),
        ("batch 16 x 4", "1", "7.0"),
        ("batch 16 x 4", "2", ""),
        ("batch 32 x 1", "1", "10.0"),
        ("batch 32 x 1", "2", "10.2"),
    ]
    assert [row["is_recipe"] for row in rows] == ["False"] * 4 + ["True"] * 2
    assert [row["time_to_accuracy_wall_s"] for row in rows] == ["6.0", "6.1", "8.0", "", "11.0", "11.2"]
    assert [row["warmup_s"] for row in rows] == ["0.5", "0.5", "0.5", "", "0.5", "0.5"]
    assert rows[3]["test_accuracy"] == ""
    assert {row["failure"] for row in rows} == {""}


def test_a_table_of_no_trials_is_its_heading(tmp_path: Path) -> None:
    write_trials(path := tmp_path / "trials.csv", [], make_plan().space)
    assert rows_of(path) == []
    assert path.read_text().startswith("trial,batch_size,accumulation_steps,outcome,")


def test_techniques_and_learning_rates_have_columns_of_their_own(tmp_path: Path) -> None:
    space = make_plan(TuneConfig(search_learning_rate=True), (TechniqueList(), TechniqueList(("amp:bf16",)))).space
    point: Point = {**FAST, "amp:bf16": True, "learning_rate": 0.00123}
    found = [make_record(0, point, "completed", 5.0, epochs=1), make_record(1, None, "killed")]
    write_trials(path := tmp_path / "trials.csv", found, space)
    rows = rows_of(path)
    assert {name: rows[0][name] for name in point} == {name: str(value) for name, value in point.items()}
    assert {rows[1][name] for name in point} == {""}
