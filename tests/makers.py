"""Small real things to train: a tiny network as a row of MODELS, pictures that can be learned, a whole workload."""

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from accelmlf.data.batches import BatchPlan
from accelmlf.data.pictures import ArraySource
from accelmlf.data.splits import Splits
from accelmlf.models.families import MODELS, ModelFamily
from accelmlf.run.loop import train_epochs
from accelmlf.run.plan import settle
from accelmlf.run.workload import Workload, prepare
from accelmlf.settings.recipes import RECIPES, resolve
from accelmlf.settings.run import RunConfig

CLASSES = 3
TINY_RECIPE = replace(RECIPES["resnet50", "digits", "random"], augmentation="crop_flip")
TINY_ROWS = {("tiny", dataset, "random"): TINY_RECIPE for dataset in ("digits", "cifar10")}


class TinyNet(nn.Module):
    """Convolution, a normalisation, dropout and a head: what techniques treat differently, in a few parameters."""

    def __init__(self, num_classes: int, *, batch_norm: bool = True, dropout: float = 0.2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if batch_norm else nn.GroupNorm(2, 8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, num_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.conv(pictures)))
        logits: Tensor = self.head(self.dropout(features.mean((2, 3))))
        return logits


def add_tiny_model() -> None:
    """What adding a model takes: one row."""

    def no_source(*_: Any) -> Any:
        raise ValueError("the tiny network has no pretrained weights")

    MODELS["tiny"] = ModelFamily(lambda _, n: TinyNet(n), lambda _: {}, "none/tiny", no_source, "head.")


def make_pictures(count: int, *, side: int = 8, seed: int = 0) -> ArraySource:
    """Noise with a brighter channel per class: learnable in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    pictures = torch.randint(0, 160, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    pictures[torch.arange(count), labels] += 60
    return ArraySource(pictures, labels)


def make_splits(train: int = 71, *, side: int = 8) -> Splits:
    train_set, validation, test = (make_pictures(n, side=side, seed=seed) for seed, n in enumerate((train, 20, 21)))
    return Splits(train_set, validation, test, class_names=("red", "green", "blue"), digest="test", source="makers")


def make_config(**settings: Any) -> RunConfig:
    """A complete configuration of the tiny network from settings as a user would give them."""
    base = {"model": "tiny", "epochs": 3, "batch_size": 16, "learning_rate": 0.01, "device": "cpu"}
    with patch.dict(RECIPES, TINY_ROWS):
        return resolve({**base, **settings})


def make_work(config: RunConfig, splits: Splits | None = None) -> Workload:
    """The workload of a configuration, on its device. The caller enters the techniques' process context."""
    config, techniques, _ = settle(config)
    return prepare(config, splits or make_splits(), techniques, config.weights)


def train_losses(config: RunConfig, splits: Splits | None = None) -> list[float]:
    """The training loss of every epoch."""
    work = make_work(config, splits)
    with work.techniques.process_context():
        return [epoch.train_loss for epoch in train_epochs(work, max_epochs=config.epochs)]


def plan_of(sizes: int, batch_size: int, seed: int = 0) -> BatchPlan:
    plan = BatchPlan(sizes, batch_size, seed=seed)
    plan.set_epoch(1)
    return plan
