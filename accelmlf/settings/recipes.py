"""The table: model x data set -> settings, target and tuned preset, and how a run's settings follow from it.

Values for CIFAR are those of the paper's public code (arXiv 2312.10024), corrected as docs/paper.md lists.
Standard library only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from accelmlf.errors import ConfigError
from accelmlf.settings.fields import pick
from accelmlf.settings.run import RunConfig
from accelmlf.settings.technique_list import TechniqueList

NO_TECHNIQUES = TechniqueList(is_preset=True)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What the technique preset of a recipe sets: nothing but techniques, accumulation and the batch."""

    batch_size: int
    accumulation_steps: int = 1
    techniques: TechniqueList = NO_TECHNIQUES


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that both arms share, and the two arms. The learning rate is the one for `untuned`."""

    weights: str
    image_size: int
    epochs: int
    optimizer: str
    learning_rate: float
    learning_rate_multipliers: tuple[tuple[str, float], ...] = ()
    weight_decay: float
    schedule: str
    clip_norm: float | None = None
    augmentation: str
    normalisation: str
    target_accuracy: float
    untuned: Preset
    tuned: Preset


PAPER_TECHNIQUES = TechniqueList(("amp", "pin_memory"), is_preset=True)
DATASETS_LIKE_CIFAR10 = ("folder",)
"""Data sets that have no recipes of their own and are trained by those of CIFAR-10."""
DEMONSTRATIONS = ("digits",)
"""Data sets that are embedded, so that everything can be tried: a report keeps them apart from what was measured."""

RESNET50_CIFAR10 = Recipe(
    weights="random",
    image_size=32,
    epochs=30,
    optimizer="adam",
    learning_rate=1e-3,
    weight_decay=1e-3,
    schedule="one_cycle",
    augmentation="crop_flip",
    normalisation="cifar10",
    target_accuracy=0.85,
    untuned=Preset(batch_size=128),
    tuned=Preset(batch_size=128, accumulation_steps=2, techniques=PAPER_TECHNIQUES),
)
EFFICIENTNET_CIFAR10 = Recipe(
    weights="pretrained",
    image_size=224,
    epochs=20,
    optimizer="sgd",
    learning_rate=1e-3,
    learning_rate_multipliers=(("conv_head", 2.0), ("bn2", 2.0), ("classifier", 10.0)),
    weight_decay=1e-3,
    schedule="exponential",
    augmentation="affine_flip",
    normalisation="imagenet",
    target_accuracy=0.90,
    untuned=Preset(batch_size=96),
    # The paper calls the larger batch "gradient accumulation" and accumulates nothing; two batches of 96 are
    # the nearest that does accumulate.
    tuned=Preset(batch_size=96, accumulation_steps=2, techniques=PAPER_TECHNIQUES),
)
VIT_CIFAR10 = Recipe(
    weights="pretrained",
    image_size=224,
    epochs=10,
    optimizer="adamw",
    learning_rate=2e-5,
    weight_decay=0.01,
    schedule="linear",
    clip_norm=1.0,
    augmentation="resized_crop_flip",
    normalisation="half",
    target_accuracy=0.90,
    untuned=Preset(batch_size=70),
    tuned=Preset(batch_size=70, accumulation_steps=15, techniques=PAPER_TECHNIQUES),
)
EFFICIENTNET_CIFAR10_RANDOM = replace(
    EFFICIENTNET_CIFAR10,
    weights="random",
    image_size=32,
    epochs=60,
    optimizer="adamw",
    learning_rate=2e-3,
    learning_rate_multipliers=(),
    weight_decay=0.05,
    schedule="one_cycle",
    augmentation="crop_flip",
    normalisation="cifar10",
    target_accuracy=0.60,
    untuned=Preset(batch_size=64),
    tuned=Preset(batch_size=64, accumulation_steps=2, techniques=PAPER_TECHNIQUES),
)
VIT_CIFAR10_RANDOM = replace(
    VIT_CIFAR10,
    weights="random",
    image_size=32,
    epochs=60,
    learning_rate=1e-3,
    weight_decay=0.05,
    schedule="one_cycle",
    augmentation="crop_flip",
    normalisation="cifar10",
    target_accuracy=0.60,
    untuned=Preset(batch_size=128),
    tuned=Preset(batch_size=128, accumulation_steps=2, techniques=PAPER_TECHNIQUES),
)
RESNET50_DIGITS = Recipe(
    weights="random",
    image_size=8,
    epochs=10,
    optimizer="adamw",
    learning_rate=3e-3,
    weight_decay=0.01,
    schedule="one_cycle",
    augmentation="slight_affine",
    normalisation="digits",
    target_accuracy=0.90,
    untuned=Preset(batch_size=32),
    tuned=Preset(batch_size=32, accumulation_steps=2, techniques=PAPER_TECHNIQUES),
)
EFFICIENTNET_DIGITS = replace(
    RESNET50_DIGITS, image_size=32, epochs=14, learning_rate=8e-3, weight_decay=0.05, augmentation="none"
)
VIT_DIGITS = replace(RESNET50_DIGITS, epochs=40, learning_rate=1e-3, weight_decay=0.05, clip_norm=1.0)

# (model, data set, where the weights come from: "pretrained" stands for any that are not random)
RECIPES: dict[tuple[str, str, str], Recipe] = {
    ("resnet50", "digits", "random"): RESNET50_DIGITS,
    ("resnet50", "cifar10", "random"): RESNET50_CIFAR10,
    ("resnet50", "cifar100", "random"): replace(RESNET50_CIFAR10, normalisation="cifar100", target_accuracy=0.60),
    ("efficientnet_b0", "digits", "random"): EFFICIENTNET_DIGITS,
    ("efficientnet_b0", "cifar10", "pretrained"): EFFICIENTNET_CIFAR10,
    ("efficientnet_b0", "cifar10", "random"): EFFICIENTNET_CIFAR10_RANDOM,
    ("efficientnet_b0", "cifar100", "pretrained"): replace(EFFICIENTNET_CIFAR10, target_accuracy=0.70),
    ("efficientnet_b0", "cifar100", "random"): replace(
        EFFICIENTNET_CIFAR10_RANDOM, normalisation="cifar100", target_accuracy=0.30
    ),
    ("vit", "digits", "random"): VIT_DIGITS,
    ("vit", "cifar10", "pretrained"): VIT_CIFAR10,
    ("vit", "cifar10", "random"): VIT_CIFAR10_RANDOM,
    ("vit", "cifar100", "pretrained"): replace(
        VIT_CIFAR10,
        epochs=15,
        target_accuracy=0.75,
        tuned=Preset(batch_size=70, accumulation_steps=23, techniques=PAPER_TECHNIQUES),
    ),
    ("vit", "cifar100", "random"): replace(VIT_CIFAR10_RANDOM, normalisation="cifar100", target_accuracy=0.30),
}


def model_names() -> list[str]:
    """The models that have a recipe, in the order of the table."""
    return list(dict.fromkeys(model for model, _, _ in RECIPES))


def recipe_for(model: str, dataset: str, weights: str | None = None) -> Recipe:
    """The row for a model and data set; without `weights`, the row the paper starts from.

    A start that has no row of its own (an ImageNet ResNet50, say) uses the other row of that model and data.

    Raises:
        ConfigError: a model or data set that no row has, or no row that has both.
    """
    data = "cifar10" if dataset in DATASETS_LIKE_CIFAR10 else dataset
    rows = {start: recipe for (m, d, start), recipe in RECIPES.items() if (m, d) == (model, data)}
    if not rows:
        pick(dict.fromkeys(model_names()), model, "model")
        pick(dict.fromkeys((*(d for _, d, _ in RECIPES), *DATASETS_LIKE_CIFAR10)), dataset, "dataset")
        others = dict.fromkeys(d for m, d, _ in RECIPES if m == model)
        raise ConfigError("dataset", dataset, f"there is no recipe of {model} for it", f"Use {' or '.join(others)}")
    preferred = "random" if weights == "random" else "pretrained"
    return rows.get(preferred) or next(iter(rows.values()))


def resolve(given: Mapping[str, Any]) -> RunConfig:
    """A complete configuration from the settings that were given (already parsed), the recipe filling the rest.

    Raises:
        ConfigError: no model, or a setting that only some models or data sets have.
    """
    if "model" not in given:
        raise ConfigError("model", "none", "a run needs a model", f"Give {' or '.join(model_names())}")
    dataset = given.get("dataset", "digits")
    recipe = recipe_for(given["model"], dataset, given.get("weights"))
    preset = recipe.tuned if given.get("tuned", False) else recipe.untuned
    shared = {
        name: getattr(recipe, name)
        for name in Recipe.__dataclass_fields__
        if name not in ("untuned", "tuned", "learning_rate")
    }
    chosen: dict[str, Any] = shared | vars(preset) | dict(given)
    if isinstance(chosen["techniques"], str):  # as one writes it in Python
        chosen["techniques"] = TechniqueList.parse(chosen["techniques"])
    if "learning_rate" not in given:
        effective = chosen["batch_size"] * chosen["accumulation_steps"]
        chosen["learning_rate"] = follow_batch(recipe, effective)
    departs = any(chosen[name] != value for name, value in vars(preset).items())
    chosen["arm"] = "custom" if departs else "tuned" if given.get("tuned", False) else "baseline"
    return RunConfig(**chosen)


def follow_batch(recipe: Recipe, effective_batch_size: int) -> float:
    """The recipe's learning rate for another effective batch: linear for SGD, square root for Adam, at most x4.

    Source: Goyal et al. 2017 (arXiv 1706.02677) for SGD; Malladi et al. 2022 (arXiv 2205.10287) for Adam.
    """
    reference = recipe.untuned.batch_size * recipe.untuned.accumulation_steps
    ratio = effective_batch_size / reference
    factor = ratio if recipe.optimizer == "sgd" else math.sqrt(ratio)
    return float(f"{recipe.learning_rate * min(factor, 4.0):.6g}")
