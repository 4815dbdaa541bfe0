"""The machinery of settings: fields with rules, help texts that are docstrings, and the way from text to value."""

import ast
import dataclasses
import difflib
import functools
import inspect
import math
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from accelmlf.errors import ConfigError

T = TypeVar("T")
TRUE_WORDS, FALSE_WORDS = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


NUMBERS = tuple[int, ...]
KIND_WORDS = {int: "a whole number", float: "a number", NUMBERS: "a comma list of whole numbers"}


def setting(
    default: Any = dataclasses.MISSING,
    *,
    choices: tuple[str, ...] = (),
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    default_text: str = "",
    none_text: str = "",
) -> Any:
    """A field that a user may set.

    `default_text`: what the help shows instead of the default. `none_text`: the word for None, where it can be given.
    """
    metadata = {
        "choices": choices,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "default_text": default_text or (none_text if default is None else str(default).lower()),
        "none_text": none_text,
        "settable": True,
    }
    return dataclasses.field(default=default, metadata=metadata)


def from_recipe(default_text: str = "recipe", **rules: Any) -> Any:
    """A field that a user may set and that the recipe of the model and data set fills otherwise."""
    return setting(default_text=default_text, **rules)


def text_of(name: str, value: object, settings_class: type) -> str:
    """The value of a setting as a user would type it; `parse_setting` reads it back."""
    if value is None:
        return settings_class.__dataclass_fields__[name].metadata.get("none_text") or as_text(None)  # type: ignore[attr-defined]
    return as_text(value)


def as_text(value: object) -> str:
    """A value as a user would type it: true/false, none, plain numbers, comma lists."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(x) if isinstance(x, int) else f"{x[0]}:{x[1]:g}" for x in value) or "none"
    return "none" if value is None else str(value)


def settable_fields(settings_class: type) -> dict[str, "dataclasses.Field[Any]"]:
    """The fields of a settings class that have a flag, by name, in their order."""
    return {f.name: f for f in dataclasses.fields(settings_class) if f.metadata.get("settable")}


@functools.cache
def field_help(settings_class: type) -> Mapping[str, str]:
    """The docstring under each field of a settings class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(settings_class))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            texts[field.target.id] = ast.literal_eval(text.value)
    return texts


def parse_setting(name: str, text: str, settings_class: type) -> object:
    """The value that `text` means for the setting `name` of a settings class.

    Raises:
        ConfigError: no such setting, not that kind of value, or outside its range.
    """
    field = pick(settable_fields(settings_class), name, name, text)
    kind, value = _kind(field), text.strip()
    if kind is bool:
        return parse_bool(name, value)
    if hasattr(kind, "parse"):  # a type that reads its own text
        return kind.parse(value, name=name)
    if kind is str:
        return _checked_choice(field, name, value)
    if kind == NUMBERS:
        return _parse_list(field, name, text)
    if value and value.lower() == field.metadata["none_text"]:
        return None
    return _parse_number(field, name, value, text)


def _kind(field: "dataclasses.Field[Any]") -> Any:
    """The type of a setting, without the None that stands for its default."""
    kinds = typing.get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
    return kinds[0]


def _parse_list(field: "dataclasses.Field[Any]", name: str, text: str) -> tuple[float, ...]:
    """A comma list of different numbers, in rising order."""
    numbers = [_parse_number(field, name, part.strip(), text) for part in text.split(",")]
    if len(set(numbers)) < len(numbers):
        raise ConfigError(name, text, "a value is there twice", "Name each value once")
    return tuple(sorted(numbers))


def _parse_number(field: "dataclasses.Field[Any]", name: str, value: str, text: str) -> float:
    number_type = float if _kind(field) is float else int
    try:
        number = number_type(value)
    except ValueError:
        raise ConfigError(name, text, f"not {KIND_WORDS[_kind(field)]}", f"Give {_range(field)}") from None
    low, above, high = (field.metadata[key] for key in ("at_least", "above", "at_most"))
    if not (low <= number <= high and number > above):
        raise ConfigError(name, text, "outside its range", f"Give {_range(field)}")
    return number


def parse_bool(name: str, text: str) -> bool:
    """True or False for the words of a boolean, in any case, and nothing else."""
    if text.lower() in TRUE_WORDS:
        return True
    if text.lower() in FALSE_WORDS:
        return False
    raise ConfigError(name, text, "neither true nor false", f"Use one of {', '.join(TRUE_WORDS + FALSE_WORDS)}")


def pick(table: Mapping[str, T], name: str, setting_name: str, value: object = None) -> T:
    """`table[name]`, or an error that names the nearest entries."""
    if name in table:
        return table[name]
    shown = name if value is None else value
    rule = "there is no such setting" if setting_name == name else f"unknown {setting_name}"
    raise ConfigError(setting_name, shown, rule, suggest(name, table))


def suggest(name: str, known: Iterable[str]) -> str:
    """A sentence that names what was probably meant, or everything that is known."""
    known = list(known)
    near = difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.6)
    return f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}"


def _checked_choice(field: "dataclasses.Field[Any]", name: str, value: str) -> str:
    choices: tuple[str, ...] = field.metadata["choices"]
    if choices and value not in choices:
        raise ConfigError(name, value, f"unknown {name}", suggest(value, choices))
    if not value:
        raise ConfigError(name, value, "empty", f"Leave {name} out for its default")
    return value


def _range(field: "dataclasses.Field[Any]") -> str:
    low, above, high = (field.metadata[key] for key in ("at_least", "above", "at_most"))
    parts = [f"of at least {low}"] if low > -math.inf else []
    parts += [f"above {above}"] if above > -math.inf else []
    parts += [f"up to {high}"] if high < math.inf else []
    words = " ".join([KIND_WORDS[_kind(field)], *parts])
    return words + (f", or {field.metadata['none_text']}" if field.metadata["none_text"] else "")
