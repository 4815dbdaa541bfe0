"""The command line: one command per entry point of MLproject, its flags read off the settings class."""

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import click

from accelmlf.entry_points import ENTRY_POINTS, EntryPoint
from accelmlf.errors import AccelmlfError, ConfigError, Interrupted, broken_environment, one_line, redact
from accelmlf.machine import signals
from accelmlf.settings.fields import FALSE_WORDS, field_help, parse_bool, parse_setting, settable_fields, suggest
from accelmlf.settings.run import RunConfig

SWITCHES = {
    "dry_run": "Print what would be run, and (of a single run) what each technique needs; train nothing.",
    "debug": "Show the traceback of an error.",
}
INTERNAL_ERROR = 70


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code (docs/parameters.md); an error is one line on standard error."""
    with signals.as_exceptions():
        code = exit_code(list(sys.argv[1:] if arguments is None else arguments))
    sys.exit(code)


def exit_code(given: list[str]) -> int:
    """Run the command line; any error is reported and becomes its code."""
    debug = "--debug" in (token.partition("=")[0] for token in given)
    debug = debug and typed_value("debug", given).lower() not in FALSE_WORDS
    try:
        signals.release()
        refuse_repeats(given)
        entry_points().main(given or ["--help"], prog_name="python -m accelmlf", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except (Interrupted, AccelmlfError) as error:
        return fail(error, str(error), error.exit_code, debug)
    except click.UsageError as error:
        usage = usage_error(error, given)
        return fail(usage, str(usage), usage.exit_code, debug)
    except ImportError as error:
        broken = broken_environment(error)
        return fail(error, str(broken), broken.exit_code, debug)
    except Exception as error:
        line = f"internal={type(error).__name__}: {error}. Run again with --debug and report it"
        return fail(error, line, INTERNAL_ERROR, debug)
    return 0


def fail(error: BaseException, line: str, code: int, debug: bool) -> int:
    """One line on standard error, under its traceback when that was asked for; no run is left open."""
    signals.ignore_from_now_on()
    if debug:
        print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
    print(f"accelmlf: error: {one_line(line)}", file=sys.stderr, flush=True)
    close_inherited_run(getattr(error, "outcome", "failed"), line)
    return code


def close_inherited_run(outcome: str, error: str | None = None) -> None:
    """Close the run that `mlflow run` opened for a command that ends before its own begins."""
    if os.environ.get("MLFLOW_RUN_ID"):
        with suppress(ImportError):  # that was the error, perhaps
            from accelmlf.tracking import tracker  # seconds of imports, where there is a run to close

            tracker.close_inherited_run(outcome, error)


def entry_points() -> click.Group:
    """The group with one command per entry point."""
    # MLflow passes names with underscores; people type dashes.
    settings: dict[str, Any] = {
        "token_normalize_func": lambda token: token.replace("-", "_"),
        "help_option_names": ["--help", "-h"],
        "max_content_width": 110,
    }
    group = click.Group("accelmlf", help=sys.modules["accelmlf"].__doc__, context_settings=settings)
    for name, entry in ENTRY_POINTS.items():
        group.add_command(command(name, entry, settings))
    return group


def command(name: str, entry: EntryPoint, settings: dict[str, Any]) -> click.Command:
    """The command of an entry point: its own settings, and those of its runs that it does not set itself."""
    own = [] if entry.settings_class is None else flags_of(entry.settings_class)
    of_runs = flags_of(RunConfig, without=tuple(entry.set_by_itself)) if entry.takes_runs else []
    options = own + of_runs + switches(*(() if entry.takes_runs else ("debug",)))
    return click.Command(name, params=options, callback=callback(entry), help=entry.does, context_settings=settings)


def flags_of(settings_class: type, without: Sequence[str] = ()) -> list[click.Parameter]:
    """A flag for each setting of a class."""
    return [
        flag(name, f"{field_help(settings_class)[name]} [{field.metadata['default_text']}]", is_bool=field.type is bool)
        for name, field in settable_fields(settings_class).items()
        if name not in without
    ]


def switches(*names: str) -> list[click.Parameter]:
    """The options of SWITCHES: those of `names`, or all."""
    return [flag(switch, text, is_bool=True) for switch, text in SWITCHES.items() if switch in (names or SWITCHES)]


def flag(name: str, text: str, *, is_bool: bool) -> click.Option:
    """An option that takes text. A boolean may stand alone on a command line; MLflow always gives its value."""
    if is_bool:
        return click.Option([f"--{name}"], help=text, metavar="BOOL", is_flag=False, flag_value="true")
    return click.Option([f"--{name}"], help=text, metavar=name.rsplit("_", maxsplit=1)[-1].upper())


def callback(entry: EntryPoint) -> Callable[..., None]:
    """What a command does with the texts it was given."""

    def run(debug: str | None, dry_run: str | None = None, **texts: str | None) -> None:
        del debug  # exit_code reads it before anything can fail
        names = () if entry.settings_class is None else settable_fields(entry.settings_class)
        own = {name: text for name, text in texts.items() if name in names}
        of_runs = {name: text for name, text in texts.items() if name not in names}
        settings = None if entry.settings_class is None else entry.settings_class(**parsed(own, entry.settings_class))
        entry.start(settings, {**entry.defaults, **parsed(of_runs, RunConfig)}, is_on(dry_run))
        if is_on(dry_run):
            close_inherited_run("completed")

    return run


def parsed(texts: Mapping[str, str | None], settings_class: type) -> dict[str, Any]:
    """The settings that were given, as values."""
    return {name: parse_setting(name, text, settings_class) for name, text in texts.items() if text is not None}


def is_on(text: str | None) -> bool:
    return text is not None and parse_bool("dry_run", text)


def usage_error(error: click.UsageError, given: Sequence[str]) -> ConfigError:
    """click's complaint in this project's words, with what was typed and what was probably meant."""
    if isinstance(error, click.NoSuchOption):
        name = error.option_name.lstrip("-")
        if given[0].startswith("-"):
            first = next((token for token in given if token in ENTRY_POINTS), next(iter(ENTRY_POINTS)))
            command = " ".join(["python -m accelmlf", first, *(token for token in given if token != first)])
            return ConfigError(name, typed_value(name, given), "it stands before the entry point", f"Try {command}")
        entry = ENTRY_POINTS.get(given[0].replace("-", "_"), ENTRY_POINTS["main"])
        if name in entry.set_by_itself:
            rule, remedy = f"{given[0]} sets it by itself", f"Give {entry.set_by_itself[name]}"
            return ConfigError(name, typed_value(name, given), rule, remedy)
        own = () if entry.settings_class is None else settable_fields(entry.settings_class)
        known = [*own, *(settable_fields(RunConfig) if entry.takes_runs else ()), *SWITCHES]
        return ConfigError(name, typed_value(name, given), "there is no such setting", suggest(name, known))
    name = next((token for token in given if not token.startswith("-")), "none")
    if name not in ENTRY_POINTS:
        return ConfigError("entry_point", name, "there is no such entry point", suggest(name, ENTRY_POINTS))
    return ConfigError("arguments", " ".join(given[1:]), error.format_message(), "See --help")


def refuse_repeats(given: Sequence[str]) -> None:
    """Raises ConfigError for a setting that is there twice: which one was meant cannot be known."""
    seen: set[str] = set()
    for token in given:
        name = token.lstrip("-").partition("=")[0].replace("-", "_")
        if token.startswith("--") and name in seen:
            raise ConfigError(name, typed_value(name, given), "given twice", "Give each setting once")
        seen |= {name} if token.startswith("--") else set()


def typed_value(name: str, given: Sequence[str]) -> str:
    """What stands after `--name` on a command line."""
    for token, following in zip(given, [*given[1:], ""], strict=True):
        key, equals, value = token.lstrip("-").partition("=")
        if token.startswith("--") and key.replace("-", "_") == name.replace("-", "_"):
            return value if equals else following
    return ""
