"""The warm-up: every shape is met, and nothing that is trained is changed."""

from typing import Any

import pytest

from accelmlf.run.loop import evaluate, train_epochs
from accelmlf.run.warmup import warm_up
from tests.makers import make_config, make_work


@pytest.fixture(autouse=True)
def _tiny(tiny_model: None) -> None: ...


@pytest.mark.usefixtures("bf16")
def test_a_warm_up_leaves_no_trace() -> None:
    def losses(warmed: bool, **settings: Any) -> list[float]:
        work = make_work(make_config(clip_norm=None, **settings))
        if warmed:
            warm_up(work)
        return [e.train_loss for e in train_epochs(work, max_epochs=2)]

    for techniques in ("none", "channels_last,amp:bf16,fused_optimizer", "workers:1"):
        assert losses(True, techniques=techniques) == losses(False, techniques=techniques)


def test_a_warm_up_that_did_not_restore_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    untouched = [e.train_loss for e in train_epochs(make_work(make_config()), max_epochs=2)]
    monkeypatch.setattr("accelmlf.run.warmup.put_back", lambda *_: None)
    work = make_work(make_config())
    warm_up(work)
    assert [e.train_loss for e in train_epochs(work, max_epochs=2)] != untouched


def test_a_warm_up_meets_every_shape_of_the_run() -> None:
    work = make_work(make_config(batch_size=16))
    met: set[tuple[int, ...]] = set()
    work.model.register_forward_pre_hook(lambda model, inputs: met.add((model.training, *inputs[0].shape)))
    warm_up(work)
    warmed = met.copy()
    met.clear()
    list(train_epochs(work, max_epochs=1))
    evaluate(work, work.test)
    assert met and met <= warmed
