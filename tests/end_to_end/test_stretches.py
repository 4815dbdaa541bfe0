"""An ablation in stretches as people run it: the truth of a known effect, kill -9, arms that fail, and the choice."""

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from accelmlf.tracking.tags import ABLATION, ARM, ARM_STRETCHES, OUTCOME, STOPPED_BY, VERDICT
from tests.end_to_end import sleepy
from tests.end_to_end.makers import SMALL, StretchPlace, places
from tests.pixels import drawn

pytestmark = pytest.mark.slow
GENERATION = SMALL | {"factors": "fused_optimizer", "precision": "0.001"}
ARMS = {"baseline", "baseline again", "fused_optimizer"}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[StretchPlace]:
    def make() -> StretchPlace:
        return StretchPlace("ablate", tmp_path, f"sqlite:///{tmp_path}/mlflow.db")

    with places(make) as make_one:
        yield make_one()


def test_a_technique_that_sleeps_a_twentieth_of_each_step_is_found_to_do_so(place: StretchPlace) -> None:
    # Both arms keep to a pace, so that a busy machine hardly lengthens a step.
    settings = SMALL | {"techniques": "pace", "factors": "sleep", "budget": "1.5", "precision": "0.01"}
    ended = place.end_of(place.start(settings, [str(sleepy.__file__)]))
    assert ended.code == 0, ended.err
    (parent,) = place.runs(ABLATION)
    speed = {name: parent.data.metrics[f"speedup/sleep{name}"] for name in ("", "_low", "_high")}
    truth = 1 / (1 + sleepy.SHARE)
    half_width = (speed["_high"] - speed["_low"]) / 2
    # One interval in twenty does not hold the truth; hardly one in a thousand misses it by more than its width again.
    assert abs(speed[""] - truth) < 2 * half_width, speed
    assert speed["_high"] < 1  # the control: an interval of everything holds the truth, too
    assert "sleep: slower: 0.9" in parent.data.tags[VERDICT]
    assert parent.data.tags[STOPPED_BY] in ("precision", "budget")
    assert re.search(r"about \d+ min \(\d+ generations\); differences of", ended.out)
    assert "noise floor: baseline against itself is" in ended.out
    files = place.artifacts(parent)
    assert {"ablation.md", "effects.csv", "runs.csv", "stretches.csv", "forest.png", "phases.png"} == set(files)
    assert all(drawn(files[name]).size for name in ("forest.png", "phases.png"))
    rows = files["stretches.csv"].read_text().splitlines()
    rounds = sum(int(run.data.metrics["rounds"]) for run in place.stretches())
    assert len(rows) == 1 + rounds


def test_killed_in_the_third_generation_it_goes_on_there(place: StretchPlace) -> None:
    settings = GENERATION | {"budget": "1"}
    process = place.start(settings)
    place.wait_for(process, lambda: len(place.stretches()) >= 2 * len(ARMS))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert place.is_quiet()  # the arms that were held warm have gone, too
    of_pilot = "times as fast: "
    assert of_pilot in place.file("out").read_text()
    before = {run.info.run_id for run in place.stretches()}
    ended = place.end_of(place.start(settings))
    assert ended.code == 0, ended.err
    assert f"{len(before) // len(ARMS)} generations are there already" in ended.out
    assert before < {run.info.run_id for run in place.stretches()}
    complete = [arms for arms in place.generations().values() if arms == ARMS]
    assert len(complete) >= 3
    (killed, last) = place.runs(ABLATION)
    assert [run.data.tags[OUTCOME] for run in (killed, last)] == ["interrupted", "completed"]
    assert f"{len(complete)} generations of 3 fresh processes" in ended.out
    assert of_pilot not in ended.out  # it was paid for once
    again = place.end_of(place.start(settings))  # the budget is that of all starts together
    assert again.code == 0
    assert len(place.stretches()) == len(ARMS) * len(complete)


def test_sigterm_ends_it_with_nothing_left_running(place: StretchPlace) -> None:
    process = place.start(GENERATION | {"budget": "1"})
    place.wait_for(process, lambda: "about" in place.file("out").read_text())
    process.terminate()
    ended = place.end_of(process)
    assert ended.code == 128 + signal.SIGTERM
    assert "interrupted by SIGTERM" in ended.error
    assert place.is_quiet()
    (parent,) = place.runs(ABLATION)
    assert parent.data.tags[OUTCOME] == "interrupted"


def test_an_arm_that_fails_is_left_out_and_the_others_are_judged(
    place: StretchPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "false")  # a compiler that compiles nothing
    ended = place.end_of(place.start(SMALL | {"factors": "compile,fused_optimizer", "budget": "0.6"}))
    assert ended.code == 0, ended.err
    assert "compile:default is left out from here on" in ended.out
    failed = [run for run in place.runs(ARM_STRETCHES) if run.data.tags[OUTCOME] == "failed"]
    assert Counter(run.data.tags[ARM] for run in failed) == {"compile:default": 1, "all": 1}  # each once and no more
    (parent,) = place.runs(ABLATION)
    assert "speedup/fused_optimizer" in parent.data.metrics
    assert "speedup/compile_default" not in parent.data.metrics
    assert "compile:default: no verdict: " in parent.data.tags[VERDICT]
