"""The settings of one run: one frozen record; flags, help texts, logged parameters and tests are read off it."""

import dataclasses
from dataclasses import dataclass

from accelmlf.errors import ConfigError
from accelmlf.settings.fields import from_recipe, setting, text_of
from accelmlf.settings.technique_list import TechniqueList

MODEL_FILE = "model.safetensors"
"""The artifact that holds a run's final weights."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Every resolved setting of one run. `recipes.resolve` makes it from what the user gave."""

    model: str = setting(default_text="resnet50")
    """The network to train."""
    dataset: str = setting("digits")
    """digits (embedded, no download), cifar10, cifar100, or folder (your own pictures)."""
    data_dir: str = setting("data")
    """Where archives are kept; for dataset=folder the folder with train/<class>/* and test/<class>/*."""
    tuned: bool = setting(False)
    """true = gradient accumulation, mixed precision and pinned memory as the recipe sets them."""
    pipeline: str = setting("memory", choices=("memory", "stream"))
    """memory: pictures held once as uint8, augmented in batches on the device; stream: decoded per picture."""
    techniques: TechniqueList = from_recipe("as tuned says")
    """Comma list such as amp:bf16,pin_memory,channels_last; none; auto (measured first); replaces what tuned sets."""
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
    train_images: int | None = setting(None, at_least=2, none_text="all")
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

    @property
    def effective_batch_size(self) -> int:
        """Pictures per optimizer step."""
        return self.batch_size * self.accumulation_steps

    def as_texts(self) -> dict[str, str]:
        """Every resolved setting and the effective batch size as text, the same however a run was started."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["effective_batch_size"] = self.effective_batch_size
        return {name: text_of(name, value, RunConfig) for name, value in values.items()}


def batch_in_words(batch_size: object, accumulation_steps: object) -> str:
    """`batch 64 x 2`: pictures per forward pass, and forward passes per optimizer step; numbers or their texts."""
    return f"batch {batch_size} x {accumulation_steps}"


def least_batch_size(has_batch_norm: bool) -> int:
    """The smallest batch that a network can train on: BatchNorm has no variance over one picture."""
    return 2 if has_batch_norm else 1


def require_trainable_batch(
    model: str, batch_size: int, has_batch_norm: bool, *, name: str = "batch_size", given: object = None
) -> None:
    """Refuse a batch that the BatchNorm of `model` cannot normalise. `name`, `given`: the setting that has it.

    Raises:
        ConfigError: the batch is too small.
    """
    if batch_size < (least := least_batch_size(has_batch_norm)):
        rule = f"the BatchNorm of {model} cannot normalise over one picture"
        raise ConfigError(name, batch_size if given is None else given, rule, f"Use {least} or more")
