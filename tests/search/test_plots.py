"""The pictures of a search show every trial and every seed, and drawing them leaves nothing behind."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import optuna
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from optuna.trial import TrialState

from accelmlf.search.confirmation import Candidate, Confirmation, Repeat
from accelmlf.search.plots import FAILED, MISSED, PRUNED, draw_confirmation, draw_optuna_plots, draw_time_to_accuracy
from accelmlf.search.space import Point, SearchSpace
from accelmlf.search.trials import TrialRecord
from tests.pixels import drawn, is_cut_off
from tests.search.makers import add_trial

ROOT = Path(__file__).parents[2]

SPACE = SearchSpace(
    batch_sizes=(16, 32, 64),
    accumulation_choices=(1, 2),
    learning_rates=None,
    technique_sets=(),
    max_effective_batch=1_000,
)


def trial(batch_size: int, accumulation_steps: int, outcome: str, **figures: Any) -> TrialRecord:
    defaults: dict[str, Any] = {"number": 0, "saved_at_most_s": None, "run_id": None, "error": None, "duration_s": 1.0}
    defaults |= {"time_to_accuracy_s": None, "best_accuracy": None, "epochs": None, "train_s": None}
    defaults["point"] = {"batch_size": batch_size, "accumulation_steps": accumulation_steps}
    return TrialRecord(**{**defaults, "outcome": outcome, **figures})


def reached(batch_size: int, accumulation_steps: int, seconds: float, **figures: Any) -> TrialRecord:
    return trial(batch_size, accumulation_steps, "completed", time_to_accuracy_s=seconds, best_accuracy=0.91, **figures)


EVERY_KIND = [
    reached(16, 1, 12.3),
    reached(32, 1, 48.0),
    trial(64, 1, "target_not_reached", best_accuracy=0.873, train_s=60.0),
    trial(16, 2, "pruned", best_accuracy=0.5, train_s=13.0),
    trial(32, 2, "out_of_memory"),
]
"""And 64 x 2, which was not run."""


def heat_map(
    path: Path, records: list[TrialRecord], space: SearchSpace = SPACE, target: float = 0.9
) -> npt.NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_time_to_accuracy(records, space, target, path)
    return drawn(path)


def area(pixels: npt.NDArray[np.uint8], colour: str) -> int:
    """How many pixels have a colour."""
    wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], dtype=np.uint8)
    return int((pixels == wanted).all(axis=2).sum())


def test_every_kind_of_cell_has_a_look_of_its_own(tmp_path: Path) -> None:
    pixels = heat_map(tmp_path / "map.png", EVERY_KIND)
    nothing = heat_map(tmp_path / "nothing.png", [])
    for colour in (MISSED, PRUNED, FAILED):
        assert area(pixels, colour) > area(nothing, colour) + 2_000
    assert len({MISSED, PRUNED, FAILED}) == 3


def test_every_trial_is_seen(tmp_path: Path) -> None:
    whole = heat_map(tmp_path / "whole.png", EVERY_KIND)
    assert np.array_equal(heat_map(tmp_path / "again.png", EVERY_KIND), whole)
    for gone in range(len(EVERY_KIND)):
        without = EVERY_KIND[:gone] + EVERY_KIND[gone + 1 :]
        assert not np.array_equal(heat_map(tmp_path / "part.png", without), whole)


@pytest.mark.parametrize(
    "records",
    [
        [],
        [reached(16, 1, 12.3)],
        [reached(16, 1, 12.3), reached(32, 1, 12.3)],
        [trial(16, 1, "target_not_reached", best_accuracy=0.0, train_s=1.0)],
        [trial(16, 1, "pruned", best_accuracy=0.1, train_s=1.0)],
        [trial(16, 1, "failed")],
        [trial(16, 1, "killed", point=None)],
    ],
    ids=["none", "one", "two alike", "a miss", "a pruned one", "a failure", "no point"],
)
def test_a_map_is_drawn_of_whatever_there_is(tmp_path: Path, records: list[TrialRecord]) -> None:
    heat_map(tmp_path / "map.png", records)


@pytest.mark.parametrize(("batches", "steps"), [((16,), (1,)), ((8, 16, 32, 64, 128, 256), (1, 2, 4, 8, 16))])
def test_a_map_has_room_for_its_cells(tmp_path: Path, batches: tuple[int, ...], steps: tuple[int, ...]) -> None:
    space = SearchSpace(
        batch_sizes=batches,
        accumulation_choices=steps,
        learning_rates=None,
        technique_sets=(),
        max_effective_batch=10_000,
    )
    records = [reached(batch, step, batch / step) for batch in batches for step in steps]
    height, width, _ = heat_map(tmp_path / "map.png", records, space).shape
    assert width > 120 * len(batches) and height > 80 * len(steps)


@pytest.mark.parametrize(
    ("batches", "steps"),
    [
        ((16, 32, 64), (1, 2)),
        ((16, 32, 64, 128), (1, 2, 4)),
        ((16,), (1, 2)),
        ((16, 32, 64), (1,)),
    ],
)
def test_nothing_of_a_map_is_cut_off(tmp_path: Path, batches: tuple[int, ...], steps: tuple[int, ...]) -> None:
    space = SearchSpace(
        batch_sizes=batches,
        accumulation_choices=steps,
        learning_rates=None,
        technique_sets=(),
        max_effective_batch=1_000,
    )
    assert not is_cut_off(heat_map(tmp_path / "map.png", [reached(16, 1, 12.3)], space))


def test_a_cell_shows_the_best_of_its_trials_whatever_their_order(tmp_path: Path) -> None:
    best = reached(16, 1, 12.3)
    others = [
        reached(16, 1, 20.0),
        trial(16, 1, "target_not_reached", best_accuracy=0.8, train_s=2.0),
        trial(16, 1, "pruned", best_accuracy=0.89, train_s=2.0),
        trial(16, 1, "diverged"),
    ]
    alone = heat_map(tmp_path / "alone.png", [best])
    assert np.array_equal(heat_map(tmp_path / "first.png", [best, *others]), alone)
    assert np.array_equal(heat_map(tmp_path / "last.png", [*others, best]), alone)
    assert not np.array_equal(heat_map(tmp_path / "others.png", others), alone)


def test_among_misses_a_cell_shows_the_nearest(tmp_path: Path) -> None:
    near, far = (trial(16, 1, "target_not_reached", best_accuracy=x, train_s=2.0) for x in (0.89, 0.5))
    assert np.array_equal(heat_map(tmp_path / "a.png", [far, near]), heat_map(tmp_path / "b.png", [near]))
    assert not np.array_equal(heat_map(tmp_path / "a.png", [far, near]), heat_map(tmp_path / "c.png", [far]))


def test_a_miss_is_hatched_and_has_no_colour_of_a_time(tmp_path: Path) -> None:
    """However fast it was to miss: next to a slow success it must not look like the fastest."""
    missed = trial(16, 1, "target_not_reached", best_accuracy=0.5, train_s=0.1)
    pixels = heat_map(tmp_path / "map.png", [missed, reached(32, 1, 50.0), reached(64, 1, 99.0)])
    other = heat_map(tmp_path / "other.png", [reached(16, 1, 0.1), reached(32, 1, 50.0), reached(64, 1, 99.0)])
    assert area(pixels, MISSED) > area(other, MISSED) + 2_000


# --- the confirmation ---

OWN: Point = {"batch_size": 32, "accumulation_steps": 1}
FAST: Point = {"batch_size": 64, "accumulation_steps": 1}


def arm(point: Point, *times_s: float | None) -> Candidate:
    repeats = {seed: Repeat(time_s=seconds) for seed, seconds in enumerate(times_s, start=1)}
    return Candidate(point, point == OWN, repeats)


def bars(path: Path, *arms: Candidate) -> npt.NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confirmation(Confirmation(list(arms)), 0.9, path)
    return drawn(path)


@pytest.mark.parametrize(
    "arms",
    [
        [arm(OWN, 10.0, 11.0, 12.0)],
        [arm(FAST, 5.0, 5.5, 5.2), arm(OWN, 10.0, 11.0, 12.0)],
        [arm(FAST, 5.0), arm(OWN, 10.0)],
        [arm(FAST, 5.0, 5.5, 5.2), arm(OWN, 10.0, None, 12.0)],
        [arm(FAST, 5.0, None, 5.2), arm(OWN, None, None, None)],
        [arm(FAST, None), arm(OWN, None)],
    ],
    ids=["the recipe alone", "two", "one seed", "a miss of the recipe", "misses", "nothing but misses"],
)
def test_a_confirmation_is_drawn_whatever_came_of_it(tmp_path: Path, arms: list[Candidate]) -> None:
    height, width, _ = bars(tmp_path / "confirmation.png", *arms).shape
    assert width > 900 and height > 100


def test_a_confirmation_shows_each_seed_and_each_miss(tmp_path: Path) -> None:
    path = tmp_path / "confirmation.png"
    plain = bars(path, arm(FAST, 5.0, 5.5), arm(OWN, 10.0, 12.0))
    assert np.array_equal(bars(path, arm(FAST, 5.0, 5.5), arm(OWN, 10.0, 12.0)), plain)
    assert not np.array_equal(bars(path, arm(FAST, 5.0, 6.5), arm(OWN, 10.0, 12.0)), plain)
    assert not np.array_equal(bars(path, arm(FAST, 5.0, None), arm(OWN, 10.0, 12.0)), plain)


def test_a_confirmation_shows_the_interval_of_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    save = Figure.savefig

    def savefig(figure: Figure, *args: Any, **kwargs: Any) -> None:
        shown.extend(text.get_text().strip() for axis in figure.axes for text in axis.texts)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    arms = [arm(FAST, 5.0, 5.5, 5.2), arm(LONG, 6.0, 6.2, 5.9), arm(OWN, 10.0, 12.0, 10.5)]
    bars(tmp_path / "confirmation.png", *arms)
    confirmation = Confirmation(arms)
    assert shown == [*(str(confirmation.speedup(each)) for each in arms[:2]), ""]
    assert str(Confirmation([arms[0], arms[2]]).speedup(arms[0])) not in shown  # the control: not chosen among two


LONG: Point = {**FAST, "learning_rate": 0.00123, "amp:bf16": True, "channels_last": True}


@pytest.mark.parametrize("point", [FAST, LONG])
def test_nothing_of_a_confirmation_is_cut_off(tmp_path: Path, point: Point) -> None:
    assert not is_cut_off(bars(tmp_path / "confirmation.png", arm(point, 5.0, 5.5), arm(OWN, 10.0, 12.0)))


def test_what_reaches_the_edge_is_found() -> None:
    pixels = np.full((20, 20, 3), 255, dtype=np.uint8)
    assert not is_cut_off(pixels)
    pixels[5, -1] = 0
    assert is_cut_off(pixels)


# --- what drawing leaves of matplotlib ---

IMPORTED = """
import sys
import accelmlf.search.plots
print("matplotlib.pyplot" in sys.modules)
import matplotlib
print(matplotlib.get_backend(auto_select=False))
"""


@pytest.mark.slow
def test_importing_loads_no_pyplot_and_chooses_no_backend() -> None:
    variables = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    chosen = IMPORTED + "matplotlib.use('svg'); print(matplotlib.get_backend(auto_select=False))"  # the control
    command = [sys.executable, "-c", chosen]
    ended = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["False", "None", "svg"]


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    """In memory, with trials enough for every picture."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = optuna.create_study(direction="minimize")
    for number, point in enumerate(SPACE.grid):
        batch, steps = int(point["batch_size"]), int(point["accumulation_steps"])
        seconds, state = 10.0 + number, TrialState.COMPLETE
        add_trial(made, SPACE, state, seconds, batch_size=batch, accumulation_steps=steps, outcome="completed")
    return made


OPTUNAS = {"optimization_history.png", "timeline.png", "param_importances.png", "contour.png"}


def test_optunas_pictures_are_drawn_into_files(
    study: optuna.Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_optuna_plots(tmp_path, study)
    assert {path.name for path in tmp_path.iterdir()} == OPTUNAS
    assert capsys.readouterr().out == ""
    for name in OPTUNAS:
        drawn(tmp_path / name)


def test_backend_style_and_figures_of_the_process_are_as_before_optunas_pictures(
    study: optuna.Study, tmp_path: Path
) -> None:
    before = plt.get_backend()
    plt.switch_backend("svg")
    try:
        with plt.rc_context({"lines.linewidth": 7.0}):
            own = plt.figure()
            style = dict(mpl.rcParams)
            draw_optuna_plots(tmp_path, study)
            assert mpl.get_backend() == "svg"
            assert dict(mpl.rcParams) == style
            assert plt.get_fignums() == [own.number]
            assert plt.gcf() is own
    finally:
        plt.close("all")
        plt.switch_backend(before)
    assert {path.name for path in tmp_path.iterdir()} == OPTUNAS


@pytest.mark.slow
def test_a_display_that_does_not_answer_is_not_asked(tmp_path: Path) -> None:
    """In a process of its own, where nobody has chosen a backend yet."""
    code = (
        "import sys, pathlib, optuna, accelmlf.search.plots as figures; study = optuna.create_study(); "
        "study.optimize(lambda trial: trial.suggest_categorical('batch_size', (8, 16)), n_trials=2); "
        "figures.draw_optuna_plots(pathlib.Path(sys.argv[1]), study)"
    )
    variables = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"} | {"DISPLAY": ":987"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=variables, check=True)
    assert {path.name for path in tmp_path.iterdir()} >= {"optimization_history.png", "timeline.png"}
