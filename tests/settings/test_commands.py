"""A command line that is printed is the run, the search or the ablation that it stands for, and a shell reads it so."""

import itertools
import random
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from accelmlf.ablation.settings import AblateConfig
from accelmlf.cli import main, parsed
from accelmlf.errors import ConfigError
from accelmlf.models.families import MODELS
from accelmlf.run.plan import settle
from accelmlf.search.settings import TuneConfig
from accelmlf.settings.commands import WITHOUT_EFFECT, as_given, command_line, command_of
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.recipes import RECIPES, resolve
from accelmlf.settings.run import RunConfig
from tests.report.makers import HOSTILE, settings_of, typed

Given = dict[str, Any]
ROWS = pytest.mark.parametrize("row", RECIPES, ids="-".join)
VALUES: dict[str, tuple[Any, ...]] = {
    "pipeline": ("stream",),
    "techniques": ("none", "amp,pin_memory", "channels_last,amp:bf16"),
    "accumulation_steps": (1, 2, 3),
    "batch_size": (7, 64, 128),
    "epochs": (2, 30),
    "learning_rate": (1e-05, 0.001, 0.0123),
    "image_size": (48,),
    "weights": ("random", "pretrained", "./my weights.safetensors", "runs:/0123456789abcdef", "some/hub-id"),
    "target_accuracy": (0.123, 1.0),
    "stop_at_target": (True,),
    "validation": ("test",),
    "train_images": (100,),
    "seed": (7, 2**32 - 1),
    "device": ("cpu", "cuda:1"),
    "data_dir": ("/data/my 'own' pictures; rm", "-leading", "a=b"),
    "save_model": (False,),
}


def texts_that_count(config: RunConfig) -> dict[str, str]:
    """Every resolved setting but those that change nothing that is measured."""
    return {name: text for name, text in config.as_texts().items() if name not in WITHOUT_EFFECT}


def starts_of(row: tuple[str, str, str]) -> Iterator[Given]:
    """Both arms of a recipe, as a user asks for them."""
    model, dataset, start = row
    rows = [weights for m, d, weights in RECIPES if (m, d) == (model, dataset)]
    for tuned in (False, True):
        given: Given = {"model": model, "dataset": dataset} | ({"tuned": True} if tuned else {})
        yield given if start == "pretrained" or len(rows) == 1 else {**given, "weights": start}


# --- the command line ---


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "two words",
        "it's",
        'say "yes"',
        "$HOME `id` $(id)",
        "a;b|c&d>e",
        "back\\slash",
        "a=b=c",
        "-leading",
        "*?[x]~",
        "line\nbreak",
        "é ü 名",
        "",
    ],
)
def test_a_shell_reads_from_the_command_line_what_was_meant(value: str) -> None:
    line = command_line("vit", {"data_dir": value, "epochs": "3"})
    assert shlex.split(line) == ["scripts/run", "-e", "vit", "-P", f"data_dir={value}", "-P", "epochs=3"]


def test_an_unquoted_command_line_would_be_read_otherwise() -> None:
    assert shlex.split("-P data_dir=two words") != ["-P", "data_dir=two words"]


def test_a_command_line_without_settings_is_the_entry_point() -> None:
    assert command_line("resnet50", {}) == "scripts/run -e resnet50"


@pytest.mark.parametrize("value", [*HOSTILE, "!history", "%s \\n", "\t tabs\t"])
def test_a_real_shell_does_nothing_but_pass_the_words_on(value: str) -> None:
    line = command_line("vit", {"data_dir": value})
    script = line.replace("scripts/run", "printf '%s\\0'", 1)
    ended = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True)
    assert ended.stderr == b""
    assert ended.stdout.decode().split("\0") == ["-e", "vit", "-P", f"data_dir={value}", ""]


# --- settings as they are given ---


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ({}, {}),
        ({"dataset": "digits", "tuned": False, "train_images": None, "seed": 0, "save_model": False}, {}),
        ({"dataset": "cifar10", "tuned": True}, {"dataset": "cifar10", "tuned": "true"}),
        ({"batch_size": 32, "techniques": "none"}, {"batch_size": "32", "techniques": "none"}),
        ({"learning_rate": 1e-05, "seed": 3}, {"learning_rate": "1e-05", "seed": "3"}),
        ({"model": None, "epochs": 3}, {"epochs": "3"}),
    ],
    ids=str,
)
def test_defaults_and_what_has_no_effect_need_not_be_given(given: Given, texts: dict[str, str]) -> None:
    assert as_given(RunConfig, given) == texts


@pytest.mark.parametrize(
    "record",
    [
        TuneConfig(),
        TuneConfig(batch_sizes=(8, 16), n_trials=7, search_learning_rate=True, timeout_s=12.5, study_name="a.b"),
        AblateConfig(),
        AblateConfig(factors="amp, channels_last", measure="runs", repeats=3),
        AblateConfig(design="preset"),
    ],
    ids=str,
)
def test_what_is_given_makes_the_same_record_again(record: TuneConfig | AblateConfig) -> None:
    texts = as_given(type(record), vars(record))
    assert type(record)(**parsed(texts, type(record))) == record
    defaults = {name: field.default for name, field in settable_fields(type(record)).items()}
    assert texts.keys() == {name for name, default in defaults.items() if getattr(record, name) != default}


# --- the command of a run ---


def assert_is_command_of(config: RunConfig) -> None:
    line = command_of(config.as_texts())
    assert texts_that_count(typed(line)) == texts_that_count(config), line


@ROWS
def test_the_command_of_a_recipe_is_that_recipe(row: tuple[str, str, str]) -> None:
    for given in starts_of(row):
        assert_is_command_of(resolve(given))


@ROWS
def test_the_command_of_any_departure_from_a_recipe_is_that_departure(row: tuple[str, str, str]) -> None:
    assert {"model", "dataset", "tuned", *VALUES} == set(settable_fields(RunConfig))
    for given in starts_of(row):
        for name, values in VALUES.items():
            for value in values:
                assert_is_command_of(resolve({**given, name: value}))


@ROWS
def test_the_command_of_several_departures_is_all_of_them(row: tuple[str, str, str]) -> None:
    chance = random.Random("/".join(row))
    for given in starts_of(row):
        for _ in range(60):
            names = chance.sample(tuple(VALUES), chance.randint(2, 7))
            assert_is_command_of(resolve({**given, **{name: chance.choice(VALUES[name]) for name in names}}))


@ROWS
def test_no_part_of_a_command_could_be_left_out(row: tuple[str, str, str]) -> None:
    for given, (name, values) in itertools.product(starts_of(row), VALUES.items()):
        config = resolve({**given, name: values[0]})
        words = shlex.split(command_of(config.as_texts()))
        for place in range(3, len(words), 2):
            shorter = shlex.join(words[:place] + words[place + 2 :])
            assert texts_that_count(typed(shorter)) != texts_that_count(config), words[place + 1]


def test_another_value_would_be_noticed() -> None:
    """The control of the properties above."""
    config = resolve({"model": "vit", "epochs": 3})
    line = command_of(config.as_texts())
    assert texts_that_count(typed(line.replace("epochs=3", "epochs=4"))) != texts_that_count(config)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"tuned": True},
        {"tuned": True, "batch_size": 24},
        {"techniques": "amp"},
        {"techniques": "channels_last,amp", "accumulation_steps": 3},
    ],
    ids=str,
)
@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("model", MODELS)
def test_the_command_of_what_a_device_made_of_a_preset_is_the_same_on_that_device(model: str, given: Given) -> None:
    settled, *_ = settle(resolve({"model": model, "device": "cpu", **given}))
    line = command_of(settled.as_texts())
    again, *_ = settle(typed(line))
    assert texts_that_count(again) == texts_that_count(settled)
    if given == {"tuned": True}:
        assert settled.arm == "tuned_partial"
        assert line == f"scripts/run -e {model} -P tuned=true -P device=cpu"


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_setting_comes_back_as_it_was(value: str) -> None:
    for name in ("data_dir", "weights"):
        assert_is_command_of(resolve({"model": "vit", name: value}))


@pytest.mark.parametrize(
    "given",
    [
        {"data_dir": "-leading"},
        {"data_dir": "--epochs"},
        {"data_dir": "two words; 'and' \"more\""},
        {"tuned": True, "weights": "./a=b", "learning_rate": 1e-05, "train_images": 100},
    ],
    ids=str,
)
def test_the_command_line_takes_what_is_printed(given: Given, capsys: pytest.CaptureFixture[str]) -> None:
    config, *_ = settle(resolve({"model": "vit", "device": "cpu", **given}))
    words = shlex.split(command_of(config.as_texts()))
    pairs = [word.split("=", 1) for word in words[4::2]]
    with pytest.raises(SystemExit) as ended:
        main([words[2], *(part for name, text in pairs for part in (f"--{name}", text)), "--dry_run"])
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    shown = dict(line.split(maxsplit=1) for line in out.partition("\n\n")[0].splitlines())
    assert shown == config.as_texts()


# --- settings of another version ---

UNREADABLE: dict[str, Mapping[str, str | None]] = {
    "a model that is gone": {"model": "vgg"},
    "a data set that is gone": {"dataset": "mnist"},
    "a value out of range": {"epochs": "0"},
    "a value that is no number": {"seed": "many"},
    "no model": {"model": None},
}
OTHERWISE: dict[str, Mapping[str, str | None]] = {
    "another optimizer": {"optimizer": "lamb"},
    "another weight decay": {"weight_decay": "0.5"},
    "another augmentation": {"augmentation": "mixup"},
    "a setting of tomorrow": {"label_smoothing": "0.1"},
}


def changed(change: Mapping[str, str | None]) -> dict[str, str]:
    texts: dict[str, str | None] = {**settings_of({}), **change}
    return {name: text for name, text in texts.items() if text is not None}


@pytest.mark.parametrize("case", UNREADABLE)
def test_settings_that_cannot_be_read_have_no_command(case: str) -> None:
    with pytest.raises((ConfigError, KeyError)):
        command_of(changed(UNREADABLE[case]))


@pytest.mark.parametrize("case", OTHERWISE)
def test_settings_that_no_command_leads_to_have_none(case: str) -> None:
    """A command that starts something else would be a lie."""
    with pytest.raises(ConfigError):
        command_of(changed(OTHERWISE[case]))


def test_an_arm_whose_recipe_had_another_batch_is_had_by_giving_the_batch() -> None:
    once = changed({"batch_size": "256", "effective_batch_size": "256"})
    assert typed(command_of(once)).as_texts() == {**once, "arm": "custom"}
    with pytest.raises(ConfigError):  # the control: numbers that do not belong together
        command_of(changed({"batch_size": "256"}))


def test_settings_of_this_version_have_a_command() -> None:
    """The control of both."""
    assert typed(command_of(changed({}))).as_texts() == settings_of({})
