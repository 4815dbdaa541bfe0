"""What is said of a search is what was measured, and the command line that it ends with is the winner."""

import dataclasses
import itertools
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from accelmlf.cli import parsed
from accelmlf.search.confirmation import Candidate, Confirmation
from accelmlf.search.plan import Plan
from accelmlf.search.result import Result, draw, verdict_of, write_tables
from accelmlf.search.settings import TuneConfig
from accelmlf.search.space import Point, SearchSpace, make_space
from accelmlf.search.study import TARGET_CONSTRAINT, distributions, open_study, records
from accelmlf.search.tables import confirmation_table
from accelmlf.search.trials import TrialRecord
from accelmlf.settings.fields import parse_setting, settable_fields
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig
from accelmlf.settings.technique_list import TechniqueList
from tests.search.makers import FAST, MISSED, OWN, REACHED, SLOW, make_arm, make_own, make_record


def plan(tune: TuneConfig | None = None, sets: Sequence[TechniqueList] = (), **given: Any) -> Plan:
    given = {"save_model": False, "model": "resnet50", **given}
    tune, base = tune or TuneConfig(), resolve(given)
    space, _ = make_space(tune, base, 1_078, sets, has_batch_norm=True)
    return Plan(tune=tune, given=given, base=base, space=space, device_key="cpu")


# --- the verdict ---


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        (
            [make_arm(FAST, 5.0, 5.1, 5.2), make_own(10.0, 10.3, 10.2)],
            "winner: batch 64 x 1, 1.99x [1.92, 2.07] the recipe's speed: faster (95 % interval, 3 seeds)",
        ),
        (
            [make_arm(FAST, 5.0, 5.1, 5.2), make_arm(SLOW, None, 9.1, 9.2), make_own(10.0, 10.3, 10.2)],
            "winner: batch 64 x 1, 1.99x [1.89, 2.10] the recipe's speed: faster (95 % interval, 3 seeds; picked as "
            "the best of 2, so the point is on the optimistic side; the interval holds for all of them together)",
        ),
        (
            [make_arm(FAST, 10.0, 10.28, 10.18), make_own(10.0, 10.3, 10.2)],
            "winner: batch 64 x 1, 1.001x [0.999, 1.004] the recipe's speed: the same within 2 % "
            "(95 % interval, 3 seeds)",
        ),
        (
            [make_arm(FAST, 5.0, 14.0, 5.2), make_own(10.0, 10.3, 10.2)],
            "winner: batch 64 x 1, 1.42x [0.34, 5.89] the recipe's speed: not decided yet (95 % interval, 3 seeds)",
        ),
        (
            [make_own(10.0, 10.3, 10.2), make_arm(FAST, 15.0, 15.1, 15.2)],
            "no setting that the search found is confirmed to be faster than the recipe's own",
        ),
        ([make_own(10.0)], "no setting that the search found is confirmed to be faster than the recipe's own"),
        (
            [make_arm(FAST, 5.0), make_own(10.0)],
            "winner: batch 64 x 1, 2.00x the recipe's speed with 1 seed, 3 are needed: no claim",
        ),
        (
            [make_arm(FAST, 5.0, 5.1), make_own(10.0, 10.1)],
            "winner: batch 64 x 1, 1.99x [1.87, 2.12] the recipe's speed with 2 seeds, 3 are needed: no claim",
        ),
        (
            [make_arm(FAST, 5.0, 5.0, 5.0), make_own(10.0, 10.0, 10.0)],
            "winner: batch 64 x 1, 2.00x the recipe's speed with 3 seeds, all alike to the digit: no claim",
        ),
        (
            [make_arm(FAST, 5.0, 5.1, 5.2), make_own(10.0, None, 10.2)],
            "winner: batch 64 x 1; it and the recipe reached the target in 3 of 3 and 2 of 3 runs: no ratio of times",
        ),
        (
            [make_arm(FAST, 5.0, None), make_own(None, None)],
            "winner: batch 64 x 1; it and the recipe reached the target in 1 of 2 and 0 of 2 runs: no ratio of times",
        ),
    ],
    ids=[
        "faster",
        "the best of two",
        "the same",
        "too noisy",
        "the recipe",
        "the recipe alone",
        "one seed",
        "two seeds",
        "seeds that tie",
        "a miss of the recipe",
        "misses of both",
    ],
)
def test_the_verdict_says_no_more_than_was_measured(arms: list[Candidate], sentence: str) -> None:
    assert verdict_of(Confirmation(arms)) == sentence


@pytest.mark.parametrize(
    "arms",
    [
        [make_arm(FAST, 5.0), make_own(10.0)],
        [make_arm(FAST, 5.0, 14.0, 5.2), make_own(10.0, 10.3, 10.2)],
        [make_arm(FAST, 5.0, 5.1, None), make_own(10.0, 10.3, 10.2)],
        [make_own(10.0, 10.3, 10.2), make_arm(FAST, 15.0, 15.1, 15.2)],
    ],
)
def test_only_an_interval_above_one_makes_a_winner_faster(arms: list[Candidate]) -> None:
    clear = verdict_of(Confirmation([make_arm(FAST, 5.0, 5.1, 5.2), make_own(10.0, 10.3, 10.2)]))
    assert "the recipe's speed: faster" in clear
    assert "the recipe's speed: faster" not in verdict_of(Confirmation(arms))


def test_what_never_reached_the_target_again_is_no_winner() -> None:
    assert "winner" not in verdict_of(Confirmation([make_arm(FAST, None, None, None), make_own(None, None, None)]))


def test_table_verdict_and_metrics_give_one_interval() -> None:
    arms = [make_arm(FAST, 5.0, 5.1, 5.4), make_arm(SLOW, 8.0, 8.1, 7.8), make_own(10.0, 10.3, 9.8)]
    confirmation = Confirmation(arms)
    result, ratio = Result(plan(), REACHED, confirmation, "n_trials"), confirmation.speedup(arms[0])
    assert ratio is not None and str(ratio) in result.verdict
    assert f"faster: {ratio}" in next(line for line in confirmation_table(confirmation) if "64 x 1" in line)
    figures = result.metrics()
    assert (figures["speedup"], figures["speedup_low"], figures["speedup_high"]) == (ratio.value, ratio.low, ratio.high)
    alone = Confirmation([arms[0], arms[2]])  # the control: another confidence and another residual
    assert str(alone.speedup(arms[0])) not in result.as_text()


# --- the result ---


def test_without_a_time_there_is_no_winner_and_the_nearest_is_named() -> None:
    result = Result(plan(), MISSED, None, "n_trials")
    assert result.outcome == "target_not_reached"
    assert (result.winning_point, result.best, result.winner_settings(), result.params()) == (None, None, {}, {})
    assert "no trial reached the target of 0.9; the nearest was trial 1 (batch 64 x 1) with 0.8750" in result.as_text()
    assert "to reproduce" not in result.as_text()
    figures = result.metrics()
    assert (figures["finished_trials"], figures["missed_trials"], figures["best_accuracy"]) == (2, 2, 0.875)
    assert not {"confirmed_time_to_accuracy_s", "speedup"} & figures.keys()


def test_where_nothing_was_finished_nothing_was_near() -> None:
    result = Result(plan(), [make_record(0, OWN, "out_of_memory", error="no room")], None, "timeout")
    assert "none was finished" in result.as_text()
    assert "best_accuracy" not in result.metrics()
    assert result.outcome == "interrupted"


def test_a_miss_is_not_the_best_however_short_it_was() -> None:
    short = make_record(7, SLOW, "target_not_reached", best_accuracy=0.89, epochs=1, train_s=0.1)
    result = Result(plan(), [short, *REACHED], None, "n_trials")
    assert result.best is not None and result.best.number == 1


def test_without_a_confirmation_that_is_said() -> None:
    result = Result(plan(), REACHED, None, "n_trials")
    assert result.winning_point == FAST
    assert "not confirmed" in result.as_text()
    assert "pruning saved at most 90 s" in result.as_text()
    assert "pruning" not in Result(plan(), REACHED[:2], None, "n_trials").as_text()


def test_the_winner_is_the_best_confirmed_not_the_luckiest_of_the_search() -> None:
    confirmation = Confirmation([make_arm(SLOW, 20.0, 21.0), make_own(30.0, 30.0), make_arm(FAST, 40.0, 41.0)])
    result = Result(plan(), REACHED, confirmation, "n_trials")
    assert result.best is not None and result.best.point == FAST
    assert result.winning_point == SLOW
    assert result.params() == {
        "best_batch_size": "16",
        "best_accumulation_steps": "4",
        "best_learning_rate": str(resolve({"model": "resnet50", **SLOW}).learning_rate),
        "best_techniques": "none",
    }
    figures = result.metrics()
    assert figures["confirmed_time_to_accuracy_s"] == pytest.approx((20 * 21) ** 0.5)
    assert figures["recipe_time_to_accuracy_s"] == pytest.approx(30)
    assert figures["speedup_low"] < figures["speedup"] < figures["speedup_high"]
    counts = ("finished_trials", "pruned_trials", "missed_trials", "failed_trials", "confirmed_reached")
    assert [figures[name] for name in counts] == [4, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("arms", "absent"),
    [
        ([make_arm(FAST, 5.0), make_own(10.0)], {"speedup_low", "speedup_high"}),
        ([make_arm(FAST, 5.0, 5.0), make_own(10.0, None)], {"speedup", "speedup_low", "recipe_time_to_accuracy_s"}),
        ([make_own(10.0, 10.0), make_arm(FAST, 15.0, 15.0)], {"speedup", "speedup_low", "speedup_high"}),
    ],
    ids=["one seed", "a miss", "the recipe wins"],
)
def test_what_there_is_not_is_absent_from_the_metrics(arms: list[Candidate], absent: set[str]) -> None:
    figures = Result(plan(), REACHED, Confirmation(arms), "n_trials").metrics()
    assert not absent & figures.keys()
    assert all(isinstance(value, (int, float)) for value in figures.values())


# --- the command line ---


def typed(line: str) -> RunConfig:
    """The run that a command line stands for."""
    command, *words = shlex.split(line)
    assert command == "scripts/run" and words[0] == "-e"
    assert all(flag == "-P" for flag in words[2::2])
    texts = dict(word.split("=", 1) for word in words[3::2])
    return resolve({"model": words[1], **{name: parse_setting(name, text, RunConfig) for name, text in texts.items()}})


GIVEN: list[dict[str, Any]] = [
    {},
    {"model": "vit", "epochs": 3, "seed": 7},
    {"dataset": "folder", "data_dir": "/data/my 'own' pictures; rm", "target_accuracy": 0.25},
    {"tuned": True},
    {"techniques": "channels_last", "learning_rate": 1e-05, "train_images": 500},
    {"train_images": None, "tuned": False, "save_model": True},
]
SPACES: list[tuple[TuneConfig, Sequence[TechniqueList]]] = [
    (TuneConfig(), ()),
    (TuneConfig(search_learning_rate=True), ()),
    (
        TuneConfig(batch_sizes=(8, 16)),
        tuple(map(TechniqueList.parse, ("none", "amp:bf16", "channels_last", "amp:bf16,channels_last"))),
    ),
]


def last_line(result: Result) -> str:
    line = result.as_text().strip().splitlines()[-1]
    assert line.startswith("to reproduce the winner: ")
    return line.removeprefix("to reproduce the winner: ")


@pytest.mark.parametrize(("given", "space"), list(itertools.product(GIVEN, SPACES)))
@pytest.mark.parametrize("confirmed", [False, True])
def test_the_command_line_is_the_winner(
    given: dict[str, Any], space: tuple[TuneConfig, Sequence[TechniqueList]], confirmed: bool
) -> None:
    tune, sets = space
    if sets and "techniques" in given:
        pytest.skip("refused: the techniques are searched")
    own_plan = plan(tune, sets, **given)
    for grid_point in own_plan.space.grid[::4]:
        point = {**grid_point, "learning_rate": 0.00123} if tune.search_learning_rate else grid_point
        confirmation = Confirmation([make_arm(point, 5.0, 5.1), make_own(10.0, 10.1)]) if confirmed else None
        result = Result(own_plan, [make_record(0, point, "completed", 5.0, epochs=1)], confirmation, "n_trials")
        meant = own_plan.config_of(point, save_model=True)
        assert typed(last_line(result)) == meant
        assert own_plan.space.point_of(meant) == point
        assert meant.stop_at_target


@pytest.mark.parametrize(("given", "space"), list(itertools.product(GIVEN, SPACES)))
def test_where_the_recipe_wins_the_command_line_is_the_recipe(
    given: dict[str, Any], space: tuple[TuneConfig, Sequence[TechniqueList]]
) -> None:
    tune, sets = space
    if sets and "techniques" in given:
        pytest.skip("refused: the techniques are searched")
    own_plan = plan(tune, sets, **given)
    point = own_plan.space.point_of(own_plan.base)
    confirmation = Confirmation([make_arm(point, 5.0, 5.1, is_recipe=True), make_arm(FAST, 10.0, 10.1)])
    result = Result(own_plan, [make_record(0, point, "completed", 5.0, epochs=1)], confirmation, "n_trials")
    assert typed(last_line(result)) == own_plan.config_of(None, save_model=True)


def test_a_command_line_with_another_value_would_be_another_run() -> None:
    result = Result(plan(), REACHED, None, "n_trials")
    line = last_line(result)
    assert typed(line.replace("batch_size=64", "batch_size=63")) != typed(line)


# --- the tags of the parent run ---


def search_of(line: str) -> tuple[TuneConfig, dict[str, Any]]:
    """The search that a command line stands for, and the settings of its runs."""
    words = shlex.split(line)
    assert words[:3] == ["scripts/run", "-e", "tune"] and set(words[3::2]) == {"-P"}
    texts = dict(word.split("=", 1) for word in words[4::2])
    own = {name: texts.pop(name) for name in settable_fields(TuneConfig) if name in texts}
    return TuneConfig(**parsed(own, TuneConfig)), parsed(texts, RunConfig)


ASKED_FOR: list[TuneConfig] = [
    TuneConfig(),
    TuneConfig(batch_sizes=(8, 16), accumulation_choices=(1, 3), n_trials=7, confirm_repeats=5),
    TuneConfig(search_learning_rate=True, timeout_s=12.5, sampler="random", study_name="my-study.2"),
]


@pytest.mark.parametrize(("given", "tune"), list(itertools.product(GIVEN, ASKED_FOR)))
def test_the_command_of_a_search_is_that_search(given: dict[str, Any], tune: TuneConfig) -> None:
    own_plan = plan(tune, **given)
    again, of_runs = search_of(Result(own_plan, MISSED, None, "n_trials").tags()["accelmlf.command"])
    assert again == tune
    assert resolve({"save_model": False, **of_runs}) == dataclasses.replace(own_plan.base, save_model=False)
    assert not {"batch_size", "accumulation_steps", "stop_at_target"} & of_runs.keys()


def test_another_search_has_another_command() -> None:
    """The control."""
    lines = {Result(plan(tune), MISSED, None, "n_trials").tags()["accelmlf.command"] for tune in ASKED_FOR}
    assert len(lines) == len(ASKED_FOR)


@pytest.mark.parametrize(
    ("found", "confirmation"),
    [
        (REACHED, None),
        (REACHED, Confirmation([make_arm(FAST, 5.0, 5.1, 5.2), make_own(10.0, 10.3, 10.2)])),
        (REACHED, Confirmation([make_own(10.0, 10.3, 10.2), make_arm(FAST, 15.0, 15.1, 15.2)])),
        (REACHED, Confirmation([make_arm(FAST, None, None), make_own(None, None)])),
    ],
    ids=["not confirmed", "faster", "the recipe", "never again"],
)
def test_the_tags_say_what_the_console_says(found: list[TrialRecord], confirmation: Confirmation | None) -> None:
    result = Result(plan(), found, confirmation, "timeout")
    tags = result.tags()
    assert tags["accelmlf.verdict"] == result.verdict
    assert result.verdict in result.as_text().split("\n\n")
    assert tags["accelmlf.ended_at"] == "timeout"
    assert tags["accelmlf.winner_command"] == last_line(result)
    assert typed(tags["accelmlf.winner_command"]).stop_at_target
    assert all("\n" not in text for text in tags.values())


@pytest.mark.parametrize("found", [[], MISSED], ids=["nothing", "misses"])
def test_where_nobody_won_there_is_no_command_of_a_winner(found: list[TrialRecord]) -> None:
    result = Result(plan(), found, None, "n_trials")
    tags = result.tags()
    assert "accelmlf.winner_command" not in tags
    assert tags["accelmlf.verdict"] == result.missed_text()
    assert search_of(tags["accelmlf.command"])[0] == TuneConfig()


def test_a_point_of_one_seed_is_not_called_confirmed() -> None:
    confirmed = Confirmation([make_arm(FAST, 5.0, 5.1, 5.2), make_own(10.0, 10.3, 10.2)])
    assert "not confirmed" in Result(plan(), REACHED, None, "n_trials").verdict
    assert "not confirmed" not in Result(plan(), REACHED, confirmed, "n_trials").verdict


# --- files ---


def study_of(found: Sequence[TrialRecord], space: SearchSpace, folder: Path) -> optuna.Study:
    """A real study whose trials are these records."""
    study = open_study(f"sqlite:///{folder / 'optuna.db'}", "study", {"model": "resnet50"})
    names = ("outcome", "best_accuracy", "epochs", "train_s", "saved_at_most_s", "run_id", "error")
    for record in found:
        state = TrialState.PRUNED if record.outcome == "pruned" else TrialState.COMPLETE
        state = state if record.is_finished else TrialState.FAIL
        attrs = {name: getattr(record, name) for name in names if getattr(record, name) is not None}
        missed_by = 0.0 if record.time_to_accuracy_s is not None else 0.1
        study.add_trial(
            create_trial(
                state=state,
                value=(record.time_to_accuracy_s or record.train_s) if state == TrialState.COMPLETE else None,
                params=dict(record.point or {}),
                distributions=distributions(space),
                user_attrs=attrs,
                constraints={TARGET_CONSTRAINT: missed_by} if state == TrialState.COMPLETE else None,
            )
        )
    return study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a search with a confirmation leaves."""
    made, database = tmp_path_factory.mktemp("artifacts"), tmp_path_factory.mktemp("database")
    own_plan = plan()
    study = study_of(REACHED, own_plan.space, database)
    confirmation = Confirmation([make_arm(FAST, 5.0, 5.1), make_arm(SLOW, 7.0, None), make_own(10.0, 10.3)])
    result = Result(own_plan, records(study, own_plan.space), confirmation, "n_trials")
    write_tables(made, result, study)
    draw(made, result, study)
    return made


def test_a_search_leaves_tables_pictures_and_texts(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names >= {"trials.csv", "confirmation.csv", "search.json", "summary.txt"}
    pictures = {"time_to_accuracy.png", "confirmation.png", "optimization_history.png", "contour.png", "timeline.png"}
    assert names >= pictures
    for name in names:
        assert (folder / name).stat().st_size > 0
        assert not name.endswith(".png") or (folder / name).read_bytes()[:4] == b"\x89PNG"


def test_the_json_says_what_the_study_is_about_and_who_won(folder: Path) -> None:
    content = json.loads((folder / "search.json").read_text(), parse_constant=pytest.fail)
    assert (content["study"], content["about"], content["outcome"]) == ("study", {"model": "resnet50"}, "completed")
    won = {name: parse_setting(name, text, RunConfig) for name, text in content["winner"].items()}
    assert {name: won[name] for name in FAST} == FAST
    assert content["metrics"]["finished_trials"] == 4
    assert content["ended_at"] == "n_trials"


def test_the_summary_is_the_text_of_the_console(folder: Path) -> None:
    text = (folder / "summary.txt").read_text()
    assert "to reproduce the winner: scripts/run -e resnet50 -P " in text
    assert "winner: batch 64 x 1, 2.01x [1.78, 2.28] the recipe's speed with 2 seeds, 3 are needed: no claim" in text
    assert "faster" not in text


@pytest.mark.parametrize("found", [[], MISSED], ids=["nothing", "misses"])
def test_a_search_that_found_nothing_leaves_its_table_and_its_map(
    tmp_path: Path, found: list[TrialRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    own_plan = plan()
    study = study_of(found, own_plan.space, tmp_path)
    made = tmp_path / "artifacts"
    made.mkdir()
    result = Result(own_plan, records(study, own_plan.space), None, "n_trials")
    write_tables(made, result, study)
    draw(made, result, study)
    names = {path.name for path in made.iterdir()}
    assert names >= {"trials.csv", "search.json", "summary.txt", "time_to_accuracy.png"}
    assert not {"confirmation.csv", "confirmation.png"} & names
    assert len((made / "trials.csv").read_text().splitlines()) == 1 + len(found)
    assert json.loads((made / "search.json").read_text())["winner"] == {}
    assert "Traceback" not in capsys.readouterr().out


def test_a_search_of_techniques_and_learning_rates_leaves_its_map_too(tmp_path: Path) -> None:
    own_plan = plan(TuneConfig(search_learning_rate=True), (TechniqueList(), TechniqueList(("amp:bf16",))))
    point: Point = {**FAST, "amp:bf16": True, "learning_rate": 0.00123}
    found = [make_record(0, point, "completed", 5.0, epochs=1), make_record(1, None, "killed")]
    result = Result(own_plan, found, None, "n_trials")
    study = study_of([], own_plan.space, tmp_path)
    write_tables(tmp_path, result, study)
    draw(tmp_path, result, study)
    assert {path.name for path in tmp_path.iterdir()} >= {"trials.csv", "time_to_accuracy.png"}
