"""What a workload takes from its settings."""

import pytest

from accelmlf.errors import ConfigError
from accelmlf.run.optimization import SCHEDULES
from tests.makers import make_config, make_splits, make_work


@pytest.fixture(autouse=True)
def _tiny(tiny_model: None) -> None: ...


@pytest.mark.parametrize(("accumulation_steps", "steps_per_epoch"), [(1, 5), (2, 3), (5, 1), (50, 1)])
def test_a_schedule_has_a_factor_for_each_step_of_the_run(accumulation_steps: int, steps_per_epoch: int) -> None:
    config = make_config(accumulation_steps=accumulation_steps, epochs=4)
    work = make_work(config, make_splits(71))
    assert work.accumulation_steps == accumulation_steps
    assert work.schedule.factors == SCHEDULES[config.schedule](4 * steps_per_epoch, steps_per_epoch)


def test_batch_norm_over_one_picture_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^batch_size=1: the BatchNorm of tiny") as error:
        make_work(make_config(batch_size=1))
    assert error.value.exit_code == 2
    make_work(make_config(batch_size=2))  # the control
