"""A run that is held warm: its process answers when it is asked, rests in between, and ends with the block."""

import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from accelmlf.errors import ConfigError, DataError, DivergedError, ProcessKilledError
from accelmlf.many_runs.warm_run import WarmRun, processor_s, warm_run
from accelmlf.measure.cost import Cost
from accelmlf.run.workload import load_data
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig
from tests.many_runs.makers import serving

pytestmark = pytest.mark.slow
BATCH = 8
SMALL: dict[str, Any] = {"model": "vit", "device": "cpu", "batch_size": BATCH, "train_images": 250, "epochs": 2}
WEIGHTS = "random"


@pytest.fixture(scope="module", autouse=True)
def _server(store_uri: str) -> Iterator[None]:
    with serving(store_uri):
        yield


def config_of(**settings: Any) -> RunConfig:
    return resolve({**SMALL, **settings})


def family_of(run: WarmRun) -> list[psutil.Process]:
    """Its process, and its loader processes."""
    own = psutil.Process(run.talk.worker.pid)
    return [own, *own.children(recursive=True)]


@pytest.fixture(scope="module")
def held() -> Iterator[WarmRun]:
    with warm_run(config_of(), WEIGHTS, steps=2) as run:
        yield run


def test_it_says_what_it_is_once_it_is_warm(held: WarmRun) -> None:
    ready = held.ready
    assert (ready.steps, ready.lead_in) == (2, 1)
    assert ready.images_per_epoch == load_data(config_of()).sizes()["train"]
    assert ready.setup_s > 0 and ready.warmup_s > 0
    assert ready.memory_bytes > 2**20 and ready.free_bytes > 2**20


def test_it_gives_what_the_next_stretch_has_cost_whenever_it_is_asked(held: WarmRun) -> None:
    costs = [held.stretch() for _ in range(3)]
    for cost in costs:
        assert isinstance(cost, Cost)
        assert cost.images == 2 * BATCH
        assert cost.train_s > 0 and sum(cost.phases_s.values()) == pytest.approx(cost.train_s, rel=0.1)
    assert len({cost.train_s for cost in costs}) == 3


def test_it_uses_next_to_no_processor_while_it_waits(held: WarmRun) -> None:
    held.stretch()
    before = processor_s(family_of(held))
    time.sleep(1.0)
    waited = processor_s(family_of(held)) - before
    before = processor_s(family_of(held))
    for _ in range(5):
        held.stretch()
    worked = processor_s(family_of(held)) - before  # the control
    assert waited <= 0.02 < worked


def test_its_loader_processes_rest_too() -> None:
    with warm_run(config_of(techniques="workers:1"), WEIGHTS, steps=2) as run:
        run.stretch()
        assert len(family_of(run)) >= 2
        before = processor_s(family_of(run))
        time.sleep(1.0)
        assert processor_s(family_of(run)) - before <= 0.02
        assert run.ready.lead_in == 3  # what a loader process holds ready is no part of a stretch


def test_without_a_number_of_steps_it_finds_one_that_fills_its_time() -> None:
    with warm_run(config_of(), WEIGHTS) as run:
        assert 3 <= run.ready.steps <= run.ready.images_per_epoch // BATCH
        assert run.stretch().images == run.ready.steps * BATCH


def test_it_ends_with_the_block_whatever_ends_that() -> None:
    ended: list[psutil.Process] = []
    with warm_run(config_of(), WEIGHTS, steps=1) as run:
        ended += family_of(run)
        assert all(process.is_running() for process in ended)  # the control

    def fail() -> None:
        with warm_run(config_of(techniques="workers:1"), WEIGHTS, steps=1) as run:
            ended.extend(family_of(run))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    _, alive = psutil.wait_procs(ended, timeout=10)
    assert alive == [] and len(ended) >= 3


def test_several_are_held_beside_one_another_and_asked_in_any_order() -> None:
    with warm_run(config_of(), WEIGHTS, steps=1) as one, warm_run(config_of(batch_size=16), WEIGHTS, steps=2) as other:
        images = [run.stretch().images for run in (one, other, other, one)]
    assert images == [8, 32, 32, 8]


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"dataset": "folder", "data_dir": "nowhere"}, DataError, "nowhere"),
        ({"learning_rate": 1e30}, DivergedError, "the loss is not finite"),
        ({"batch_size": 1, "model": "resnet50", "image_size": 8}, ConfigError, "batch_size=1"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_failure_before_it_is_warm_arrives_as_the_error_that_it_is(
    settings: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says), warm_run(config_of(**settings), WEIGHTS):
        raise AssertionError


def test_a_failure_of_a_stretch_arrives_where_it_was_asked_for() -> None:
    with warm_run(config_of(learning_rate=1e30), WEIGHTS, steps=1) as run:
        with pytest.raises(DivergedError) as caught:
            for _ in iter(run.stretch, None):
                pass
        assert "the loss is not finite" in str(caught.value) and caught.value.outcome == "diverged"


def test_a_process_that_is_killed_is_told_from_one_that_fails() -> None:
    with warm_run(config_of(), WEIGHTS, steps=1) as run:
        run.stretch()
        psutil.Process(run.talk.worker.pid).kill()
        with pytest.raises(ProcessKilledError, match="SIGKILL"):
            run.stretch()
