"""The server of processes has imported what runs need, and a run finds next to nothing left to import."""

import sys
from collections.abc import Iterator

import pytest

from accelmlf.machine.isolation import call
from accelmlf.run.one_run import one_run
from accelmlf.settings.recipes import resolve
from accelmlf.tracking.store import open_store
from accelmlf.tracking.tracker import MlflowTracker
from tests.many_runs.makers import serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _server(store_uri: str) -> Iterator[None]:
    with serving(store_uri):
        yield


def imported_by_a_run() -> tuple[int, int]:
    """How many modules were there before a tracked run, and how many more there are after it."""
    before = len(sys.modules)
    settings = {"model": "vit", "device": "cpu", "train_images": 60, "epochs": 1, "save_model": False}
    one_run(resolve(settings), MlflowTracker(open_store()), quiet=True)
    return before, len(sys.modules) - before


@pytest.mark.usefixtures("store")
def test_a_run_has_next_to_nothing_left_to_import() -> None:
    before, more = call(imported_by_a_run)
    assert before > 1000
    # The code of a database dialect, of git. With MLflow's store and matplotlib it would be 500 more, for a second.
    assert more < 150
