"""What a person types for a run, a search or an ablation. Standard library only."""

import shlex
from collections.abc import Mapping
from typing import Any

from accelmlf.errors import ConfigError
from accelmlf.settings.fields import as_text, parse_setting, settable_fields, text_of
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig

WITHOUT_EFFECT = ("save_model",)
"""Settings that change nothing that is measured."""
PRESET_ARMS = ("baseline", "tuned", "tuned_partial")


def command_line(entry_point: str, settings: Mapping[str, str]) -> str:
    """The command that starts an entry point with these settings."""
    parts = [f"-P {shlex.quote(f'{name}={value}')}" for name, value in settings.items()]
    return " ".join(["scripts/run", "-e", entry_point, *parts])


def as_given(settings_class: type, given: Mapping[str, Any]) -> dict[str, str]:
    """Settings as one would type them, without those that are the default anyway or have no flag."""
    return {
        name: as_text(given[name])
        for name, field in settable_fields(settings_class).items()
        if given.get(name) not in (None, field.default) and name not in WITHOUT_EFFECT
    }


def command_of(texts: Mapping[str, str]) -> str:
    """The shortest command whose run resolves to these settings (`RunConfig.as_texts`) on the same device.

    Raises:
        ConfigError: settings that no command of this version leads to.
    """
    given: dict[str, Any] = {"model": texts["model"]}
    # A preset leaves the options of its techniques, and which of them there are, to the device.
    left = (*WITHOUT_EFFECT, *(("techniques",) if texts["arm"] in PRESET_ARMS else ()))
    # First those that choose the row of the table, or that others follow.
    first = ("dataset", "weights", "tuned", "device", "techniques", "accumulation_steps", "batch_size")
    for name in (*first, *(name for name in settable_fields(RunConfig) if name not in (*first, "model"))):
        if name in texts and name not in left and resolve(given).as_texts()[name] != texts[name]:
            given[name] = parse_setting(name, texts[name], RunConfig)
    found = {**resolve(given).as_texts(), "arm": texts["arm"]}
    if other := [name for name, text in texts.items() if name not in left and found.get(name) != text]:
        rule = "no command of this version leads to it"
        raise ConfigError(other[0], texts[other[0]], rule, "Use the version that it was recorded with")
    return command_line(
        texts["model"], {name: text_of(name, value, RunConfig) for name, value in given.items() if name != "model"}
    )
