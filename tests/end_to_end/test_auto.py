"""techniques=auto as people run it: what is measured once, taken at once by the next run, and by what it is not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from accelmlf.tracking.tags import ABLATION, ASKED, CHOICE, CHOICE_REFUSED
from tests.end_to_end.makers import SMALL, StretchPlace, places

pytestmark = pytest.mark.slow
SETTINGS = {name: text for name, text in SMALL.items() if name != "model"} | {"techniques": "auto", "epochs": "1"}

SCRIPT = """
import time
import accelmlf.ablation.auto as auto
import accelmlf.many_runs.claims as claims
from accelmlf.ablation import factors
from accelmlf.cli import main
from accelmlf.run import stretches
from accelmlf.techniques.base import Technique
from accelmlf.techniques.catalogue import TECHNIQUES
from accelmlf.techniques.stack import TechniqueStack

def prepare_batches(self, batches, whole=TechniqueStack.prepare_batches):
    for batch in whole(self, batches):
        time.sleep(0.0 if "hurry" in self.labels else 0.03)
        yield batch

class Hurry(Technique):
    does = "leaves out the sleep of each step"

class Broken(Technique):
    does = "ends the process that it is switched on in"

    def prepare_batches(self, batches):
        raise RuntimeError("it is broken")

if __name__ in ("__main__", "__mp_main__"):
    TECHNIQUES.update(hurry=Hurry, broken=Broken)
    TechniqueStack.prepare_batches = prepare_batches
    factors.every_technique = lambda config, device: (["broken", "hurry"], [])
    stretches.STRETCH_S["cpu"] = 0.1
    claims.MAX_MISSING_SHARE = 1.0  # the tests beside this one have the cores, too, which is not the question here

if __name__ == "__main__":
    for look in (auto.FIRST_LOOK, auto.SECOND_LOOK):
        look.update(LIMITS, precision=0.3)
    main()
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[StretchPlace]:
    for name, limits in (("long", "budget=2.5"), ("short", "budget=0.01, least_generations=1")):
        (tmp_path / f"{name}.py").write_text(SCRIPT.replace("LIMITS", limits))

    def make() -> StretchPlace:
        return StretchPlace("vit", tmp_path, f"sqlite:///{tmp_path}/mlflow.db")

    with places(make) as make_one:
        yield make_one()


def test_what_is_shown_faster_is_taken_and_by_the_next_run_at_once(place: StretchPlace) -> None:
    program = [str(place.folder / "long.py")]
    first = place.end_of(place.start(SETTINGS, program))
    assert first.code == 0, first.err
    assert "broken is left out from here on, failed: " in first.out  # and is no reason to take nothing
    assert "techniques=auto takes hurry: " in first.out, first.out
    assert " as fast as without and " in first.out and " as fast as the recipe's preset (without " in first.out
    (choice,) = [run for run in place.runs(ABLATION) if CHOICE in run.data.tags]
    assert choice.data.tags[CHOICE] == "hurry"
    num_ablations = len(place.runs(ABLATION))
    assert num_ablations == 2  # alone, and beside the preset, which lacks pin_memory here: that is nothing against it

    second = place.end_of(place.start(SETTINGS | {"seed": "5", "epochs": "2"}, program))
    assert second.code == 0, second.err
    assert f"measured before (run {choice.info.run_id})" in second.out
    assert len(place.runs(ABLATION)) == num_ablations
    runs = [run for run in place.runs() if "accelmlf.kind" not in run.data.tags]
    assert [run.data.tags["accelmlf.config.techniques"] for run in runs] == ["hurry", "hurry"]
    assert all(f"run {choice.info.run_id}" in run.data.tags["accelmlf.techniques_chosen"] for run in runs)


def test_by_what_supports_no_claim_nothing_is_chosen_and_the_next_start_measures_afresh(place: StretchPlace) -> None:
    program = [str(place.folder / "short.py")]
    for start in (1, 2):
        ended = place.end_of(place.start(SETTINGS, program))
        assert ended.code == 0, ended.err
        assert "techniques=auto takes none: the measurement supports no claim (1 generation, 3 are needed" in ended.out
        assert "the next start measures afresh" in ended.out
        assert "there already" not in ended.out
        refused = [run for run in place.runs(ABLATION) if CHOICE_REFUSED in run.data.tags]
        assert len(refused) == start and all(ASKED in run.data.tags for run in refused)
    assert not [run for run in place.runs(ABLATION) if CHOICE in run.data.tags]
    runs = [run for run in place.runs() if "accelmlf.kind" not in run.data.tags]
    assert [run.data.tags["accelmlf.config.techniques"] for run in runs] == ["none", "none"]
