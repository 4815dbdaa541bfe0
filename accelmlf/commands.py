"""What a person types for a run, a search or an ablation. Standard library only."""

import shlex
from collections.abc import Mapping
from typing import Any

from accelmlf.config import as_text, parse_setting, settable_fields
from accelmlf.errors import ConfigError
from accelmlf.recipes import resolve

WITHOUT_EFFECT = ("save_model",)
"""Settings that change nothing that is measured."""
SET_BY_ARM = ("techniques", "accumulation_steps", "batch_size")
"""What `tuned` sets. The resolved text of the techniques has options that the preset leaves to the device."""
PRESET_ARMS = ("baseline", "tuned", "tuned_partial")


def command_line(entry_point: str, settings: Mapping[str, str]) -> str:
    """The command that starts an entry point with these settings."""
    parts = [f"-P {shlex.quote(f'{name}={value}')}" for name, value in settings.items()]
    return " ".join(["scripts/run", "-e", entry_point, *parts])


def as_given(record: type, given: Mapping[str, Any]) -> dict[str, str]:
    """Settings as one would type them, without those that are the default anyway."""
    fields = settable_fields(record)
    return {
        name: as_text(name, value)
        for name, value in given.items()
        if value is not None and value != fields[name].default and name not in WITHOUT_EFFECT
    }


def command_of(texts: Mapping[str, str]) -> str:
    """The shortest command whose run resolves to these settings (`RunConfig.as_texts`) on the same device.

    Raises:
        ConfigError: settings that this version cannot read.
    """
    given: dict[str, Any] = {"model": texts["model"]}
    # First those that choose the row of the table, or that others follow.
    first = ("dataset", "weights", "tuned", "device", *SET_BY_ARM)
    names = [*first, *(name for name in settable_fields() if name not in (*first, "model", *WITHOUT_EFFECT))]
    for name in names:
        if name in SET_BY_ARM and texts.get("arm") in PRESET_ARMS:
            continue
        if name in texts and resolve(given).as_texts()[name] != texts[name]:
            given[name] = parse_setting(name, texts[name])
    return command_line(
        texts["model"], {name: as_text(name, value) for name, value in given.items() if name != "model"}
    )


def command_or_nothing(texts: Mapping[str, str]) -> str:
    """`command_of`, or nothing for the settings of another version."""
    try:
        return command_of(texts)
    except (ConfigError, KeyError):
        return ""
