"""What a search may be told, and how it refuses the rest."""

import dataclasses

import pytest

from accelmlf.errors import ConfigError
from accelmlf.search.settings import SET_BY_SEARCH, TuneConfig
from accelmlf.settings.fields import field_help, parse_setting, settable_fields
from accelmlf.settings.run import RunConfig
from tests.search.makers import parse_tune

FIELDS = settable_fields(TuneConfig)
LISTS = [name for name, field in FIELDS.items() if field.type == tuple[int, ...] | None]
WHOLE = [name for name, field in FIELDS.items() if field.type is int]
BOOLEANS = [name for name, field in FIELDS.items() if field.type is bool]


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_of_a_search_has_a_help_text_and_a_default_to_show(name: str) -> None:
    assert field_help(TuneConfig)[name].endswith(".")
    assert FIELDS[name].metadata["default_text"]
    if FIELDS[name].default is not None:
        assert parse_setting(name, FIELDS[name].metadata["default_text"], TuneConfig) == FIELDS[name].default


def test_no_setting_of_a_search_is_also_one_of_its_runs() -> None:
    assert not FIELDS.keys() & settable_fields(RunConfig).keys()
    assert SET_BY_SEARCH.keys() <= settable_fields(RunConfig).keys()
    assert set(SET_BY_SEARCH.values()) <= FIELDS.keys() | settable_fields(RunConfig).keys()


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    ("text", "numbers"),
    [("8", (8,)), ("8,16,32", (8, 16, 32)), (" 32 , 8,16 ", (8, 16, 32)), ("1,1048576", (1, 2**20))],
)
def test_a_list_is_read_in_rising_order(name: str, text: str, numbers: tuple[int, ...]) -> None:
    assert parse_setting(name, text, TuneConfig) == numbers


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "not a comma list"),
        (",", "not a comma list"),
        ("8,,16", "not a comma list"),
        ("8,", "not a comma list"),
        ("8;16", "not a comma list"),
        ("8 16", "not a comma list"),
        ("8.5", "not a comma list"),
        ("1e2", "not a comma list"),
        ("nan", "not a comma list"),
        ("inf", "not a comma list"),
        ("[8,16]", "not a comma list"),
        ("all", "not a comma list"),
        ("8,x\ny", "not a comma list"),
        ("0", "outside its range"),
        ("8,-1", "outside its range"),
        ("1048577", "outside its range"),
        ("8,8", "there twice"),
        ("8, 08", "there twice"),
    ],
)
def test_a_list_that_is_none_is_refused_in_one_line(name: str, text: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as caught:
        parse_setting(name, text, TuneConfig)
    assert str(caught.value).startswith(f"{name}={' '.join(text.split())}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", [*WHOLE, "timeout_s"])
def test_a_number_is_taken_at_its_bounds_and_refused_beyond(name: str) -> None:
    rules = FIELDS[name].metadata
    assert parse_setting(name, f"{rules['at_most']:.0f}", TuneConfig) == rules["at_most"]
    refused = [rules["at_most"] + 1, rules["above"] if name == "timeout_s" else rules["at_least"] - 1]
    if name != "timeout_s":
        assert parse_setting(name, str(rules["at_least"]), TuneConfig) == rules["at_least"]
    for number in refused:
        with pytest.raises(ConfigError, match=f"^{name}=.*outside its range"):
            parse_setting(name, str(number), TuneConfig)


@pytest.mark.parametrize("text", ["", "nan", "inf", "-inf", "1e999", "none", "10 minutes", "0", "-5"])
def test_a_budget_is_a_finite_number_above_nothing(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^timeout_s="):
        parse_setting("timeout_s", text, TuneConfig)
    assert parse_setting("timeout_s", "0.5", TuneConfig) == 0.5


@pytest.mark.parametrize("text", ["", "1.5", "1e3", "ten", "0x10", "5,6"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_count_is_a_whole_number(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}=.*not a whole number"):
        parse_setting(name, text, TuneConfig)


@pytest.mark.parametrize("name", BOOLEANS)
def test_a_switch_takes_the_words_of_a_boolean(name: str) -> None:
    assert parse_setting(name, "Yes", TuneConfig) is True
    assert parse_setting(name, "0", TuneConfig) is False
    with pytest.raises(ConfigError, match="neither true nor false"):
        parse_setting(name, "maybe", TuneConfig)


@pytest.mark.parametrize("name", FIELDS)
def test_a_misspelt_setting_is_refused_with_the_right_one(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no such setting.*{name}"):
        parse_setting(name[:-1] + "_", "1", TuneConfig)


def test_an_unknown_sampler_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean tpe"):
        parse_setting("sampler", "tpee", TuneConfig)


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 64, "resnet50-digits-0a1b2c3d"])
def test_a_study_may_be_called_by_a_plain_name(name: str) -> None:
    assert parse_tune({"study_name": name}).study_name == name
    assert parse_tune({"study_name": f" {name}\n"}).study_name == name


@pytest.mark.parametrize(
    "name",
    [
        "x" * 65,
        "two words",
        "a/b",
        "../up",
        "a\\b",
        "a'b",
        'a"b',
        "a`b",
        "a;b",
        "a$b",
        "$(reboot)",
        "' OR 1=1 --",
        "a%b",
        "{a}",
        "a\nb",
        "a\x00b",
        "a\u202eb",
        "名前",
        "é",
        "٣",
    ],
)
def test_a_study_may_not_be_called_what_a_shell_a_query_or_a_path_could_read(name: str) -> None:
    with pytest.raises(ConfigError, match="1 to 64 of") as caught:
        parse_tune({"study_name": name})
    assert str(caught.value).startswith("study_name=")
    assert "\n" not in str(caught.value)


def test_an_empty_study_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^study_name="):
        parse_tune({"study_name": " "})


def test_a_learning_rate_has_no_grid() -> None:
    with pytest.raises(ConfigError, match=r"^sampler=grid: a learning rate has no grid"):
        parse_tune({"sampler": "grid", "search_learning_rate": "true"})
    for sampler in ("auto", "tpe", "random"):
        assert parse_tune({"sampler": sampler, "search_learning_rate": "true"}).search_learning_rate


def test_the_settings_of_a_search_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(TuneConfig(), "n_trials", 1)  # noqa: B010


def test_a_search_looks_at_no_test_set_and_sets_its_techniques_itself() -> None:
    with pytest.raises(ConfigError, match=r"^validation=test: "):
        TuneConfig().check_runs({"validation": "test"})
    with pytest.raises(ConfigError, match=r"^techniques=amp: the techniques are searched"):
        TuneConfig(search_techniques=True).check_runs({"techniques": "amp"})
    TuneConfig(search_techniques=True).check_runs({"validation": "split"})  # the controls
    TuneConfig().check_runs({"techniques": "amp"})
