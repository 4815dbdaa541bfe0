"""The settings of a run: one frozen record; flags, help texts, logged parameters and tests are read off it.

Standard library only, so that everything may import it.
"""

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
from dataclasses import dataclass
from typing import Any, TypeVar

from accelmlf.errors import ConfigError

T = TypeVar("T")
TRUE_WORDS, FALSE_WORDS = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
ALL_IMAGES = "all"
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
) -> Any:
    """A field that a user may set; `default_text` is what the help shows for it instead of the default."""
    metadata = {
        "choices": choices,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "default_text": default_text or str(default).lower(),
        "settable": True,
    }
    return dataclasses.field(default=default, metadata=metadata)


def from_recipe(default_text: str = "recipe", **rules: Any) -> Any:
    """A field that a user may set and that the recipe of the model and data set fills otherwise."""
    return setting(default_text=default_text, **rules)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Every resolved setting of one run. `recipes.resolve` makes it from what the user gave."""

    model: str = setting(choices=("resnet50", "efficientnet_b0", "vit"), default_text="resnet50")
    """The network to train."""
    dataset: str = setting("digits", choices=("digits", "cifar10", "cifar100", "folder"))
    """digits (embedded, no download), cifar10, cifar100, or folder (your own pictures)."""
    data_dir: str = setting("data")
    """Where archives are kept; for dataset=folder the folder with train/<class>/* and test/<class>/*."""
    tuned: bool = setting(False)
    """true = gradient accumulation, mixed precision and pinned memory as the recipe sets them."""
    pipeline: str = setting("memory", choices=("memory", "stream"))
    """memory: pictures held once as uint8, augmented in batches on the device; stream: decoded per picture."""
    techniques: str = from_recipe("as tuned says")
    """Comma list such as amp:bf16,pin_memory,channels_last; none; replaces the list that tuned sets."""
    accumulation_steps: int = from_recipe("as tuned says", at_least=1, at_most=2**20)
    """Micro-batches per optimizer step."""
    batch_size: int = from_recipe(at_least=1, at_most=2**20)
    """Pictures per forward/backward pass; times accumulation_steps it is the effective batch size."""
    epochs: int = from_recipe(at_least=1, at_most=100_000)
    """Passes over the training pictures."""
    learning_rate: float = from_recipe("recipe, following the effective batch size", above=0, at_most=100)
    """Peak learning rate."""
    image_size: int = from_recipe(at_least=4, at_most=1024)
    """Side of the square pictures that the network sees, in pixels."""
    weights: str = from_recipe()
    """pretrained, random, a local file or folder, a hub id, or a former run's weights (runs:/<id>)."""
    target_accuracy: float = from_recipe(above=0, at_most=1)
    """Validation accuracy (a fraction) at which the time to accuracy is taken."""
    stop_at_target: bool = setting(False)
    """End the run at the target."""
    validation: str = setting("split", choices=("split", "test"))
    """split: a fixed stratified part of the training set; test: the test set, watched every epoch."""
    train_images: int | None = setting(None, at_least=2, default_text=ALL_IMAGES)
    """Use only this many pictures of the training set (stratified; the validation split is cut from them)."""
    save_model: bool = setting(True)
    """Keep the final weights as the artifact model.safetensors."""
    seed: int = setting(0, at_least=0, at_most=2**32 - 1)
    """Seed of the weights, the order of the pictures, the augmentation and dropout."""
    device: str = setting("auto")
    """auto, cpu, cuda, cuda:N, or mps (untested)."""

    optimizer: str
    schedule: str
    weight_decay: float
    clip_norm: float | None
    augmentation: str
    normalisation: str
    learning_rate_multipliers: tuple[tuple[str, float], ...]
    arm: str
    techniques_given: bool

    @property
    def effective_batch_size(self) -> int:
        """Pictures per optimizer step."""
        return self.batch_size * self.accumulation_steps

    def as_texts(self) -> dict[str, str]:
        """Every resolved setting and the effective batch size as text, the same however a run was started."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "techniques_given"]
        values = {name: getattr(self, name) for name in names}
        values["effective_batch_size"] = self.effective_batch_size
        return {name: as_text(name, value) for name, value in values.items()}


def as_text(name: str, value: object) -> str:
    """A setting's value as a user would type it: true/false, all, none, plain numbers."""
    if name == "train_images" and value is None:
        return ALL_IMAGES
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(x) if isinstance(x, int) else f"{x[0]}:{x[1]:g}" for x in value) or "none"
    return "none" if value is None else str(value)


def settable_fields(record: type = RunConfig) -> dict[str, "dataclasses.Field[Any]"]:
    """The fields of a record of settings that have a flag, by name, in their order."""
    return {f.name: f for f in dataclasses.fields(record) if f.metadata.get("settable")}


@functools.cache
def field_help(record: type = RunConfig) -> Mapping[str, str]:
    """The docstring under each field of a record of settings."""
    body = ast.parse(textwrap.dedent(inspect.getsource(record))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            texts[field.target.id] = ast.literal_eval(text.value)
    return texts


def parse_setting(name: str, text: str, record: type = RunConfig) -> object:
    """The value that `text` means for the setting `name` of a record of settings.

    Raises:
        ConfigError: no such setting, not that kind of value, or outside its range.
    """
    field = pick(settable_fields(record), name, name, text)
    kind, value = _kind(field), text.strip()
    if kind is bool:
        return parse_bool(name, value)
    if kind is str:
        return _checked_choice(field, name, value)
    if kind == NUMBERS:
        return _parse_list(field, name, text)
    if field.metadata["default_text"] == ALL_IMAGES and value.lower() == ALL_IMAGES:
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
    return words + (f", or {ALL_IMAGES}" if field.metadata["default_text"] == ALL_IMAGES else "")
