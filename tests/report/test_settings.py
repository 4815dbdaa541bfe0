"""The settings of a report."""

import dataclasses

import pytest

from accelmlf.errors import ConfigError
from accelmlf.report.settings import ReportConfig
from accelmlf.settings.fields import field_help, parse_setting, settable_fields


def test_without_settings_a_report_is_of_the_projects_own_experiment_and_goes_to_a_folder_here() -> None:
    config = ReportConfig()
    assert (config.experiment_name, config.output) == (None, "report")


def test_every_setting_has_a_flag_and_a_help_text() -> None:
    assert set(settable_fields(ReportConfig)) == {"experiment_name", "output"}
    assert all(field_help(ReportConfig)[name] for name in settable_fields(ReportConfig))


@pytest.mark.parametrize("name", ["experiment_name", "output"])
@pytest.mark.parametrize("text", ["plain", "two words", "<b>", "../up", "é 名", "-leading"])
def test_a_setting_is_the_text_that_was_given(name: str, text: str) -> None:
    assert parse_setting(name, text, ReportConfig) == text


@pytest.mark.parametrize("name", ["experiment_name", "output"])
@pytest.mark.parametrize("text", ["", "   "])
def test_a_setting_that_is_given_says_something(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=.*empty"):
        parse_setting(name, text, ReportConfig)


def test_the_settings_stay_as_they_were_given() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ReportConfig().output = "elsewhere"  # type: ignore[misc]
