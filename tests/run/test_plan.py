"""A configuration as a device will run it."""

from typing import Any

import pytest

from accelmlf.errors import DeviceError
from accelmlf.run.plan import print_plan, settle
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig
from accelmlf.techniques.catalogue import TECHNIQUES


def config_of(**settings: Any) -> RunConfig:
    return resolve({"model": "vit", "device": "cpu", **settings})


@pytest.mark.usefixtures("bf16")
def test_what_a_device_lacks_of_a_preset_is_left_out_and_the_arm_says_so() -> None:
    config, stack, skipped = settle(config_of(tuned=True))
    assert [technique.label for technique in skipped] == ["pin_memory"]
    assert (config.arm, config.techniques.labels) == ("tuned_partial", stack.labels)
    assert "pin_memory" not in config.techniques.words

    whole, _, nothing = settle(config_of())  # the control
    assert (whole.arm, nothing) == ("baseline", [])


def test_what_a_device_lacks_of_what_was_asked_for_is_an_error() -> None:
    with pytest.raises(DeviceError, match=r"^techniques=pin_memory: this device cannot run it"):
        settle(config_of(techniques="pin_memory,channels_last"))


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("settings", [{}, {"tuned": True}, {"techniques": "fused_optimizer,amp"}], ids=",".join)
def test_what_is_settled_is_settled_for_good(settings: dict[str, Any]) -> None:
    config, *_ = settle(config_of(**settings))
    assert settle(config)[0] == config


@pytest.mark.parametrize("word", TECHNIQUES)
def test_a_dry_run_says_what_each_technique_needs(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(config_of())
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line[2:].split()[:1] == [word]]
    needs = TECHNIQUES[word].needs
    assert f" (needs {needs}); " in line if needs else " (needs " not in line
