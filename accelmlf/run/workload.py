"""All that an epoch needs, made from settings: model, optimizer, schedule, loaders, clock."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from accelmlf.data.augmentation import AUGMENTATIONS, PictureTransform
from accelmlf.data.batches import BatchPlan, num_steps
from accelmlf.data.loading import BatchLoader, make_loader
from accelmlf.data.pictures import Source
from accelmlf.data.splits import Splits, load_splits
from accelmlf.errors import ConfigError
from accelmlf.measure.cost import Meter, meter_for
from accelmlf.measure.records import DatasetRecord
from accelmlf.models.families import build_model, has_batch_norm
from accelmlf.run.optimization import SCHEDULES, Schedule, build_optimizer
from accelmlf.settings.fields import pick
from accelmlf.settings.run import RunConfig
from accelmlf.techniques.stack import TechniqueStack


@dataclass(frozen=True)
class Workload:
    """All that an epoch needs, ready on its device."""

    model: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    clip_norm: float | None
    accumulation_steps: int
    techniques: TechniqueStack
    train: BatchLoader
    validation: BatchLoader
    test: BatchLoader
    num_classes: int
    meter: Meter
    device: torch.device


def load_data(config: RunConfig) -> Splits:
    return load_splits(
        config.dataset,
        config.data_dir,
        image_size=config.image_size,
        validation=config.validation,
        train_images=config.train_images,
        in_memory=config.pipeline == "memory",
    )


def dataset_record(config: RunConfig, splits: Splits) -> DatasetRecord:
    source = "scikit-learn load_digits" if config.dataset == "digits" else str(Path(config.data_dir).resolve())
    return DatasetRecord(config.dataset, splits.digest, source, splits.sizes())


def prepare(config: RunConfig, splits: Splits, techniques: TechniqueStack, weights: str) -> Workload:
    """Model, optimizer and loaders on their device, seeded, before any warm-up."""
    torch.manual_seed(config.seed)
    model = build_model(config.model, weights, num_classes=splits.num_classes, image_size=config.image_size)
    if config.batch_size == 1 and has_batch_norm(model):
        rule = f"the BatchNorm of {config.model} cannot normalise over one picture"
        raise ConfigError("batch_size", 1, rule, "Use 2 or more")
    model = techniques.prepare_model(model)
    optimizer = build_optimizer(
        model,
        config.optimizer,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        multipliers=config.learning_rate_multipliers,
        options=techniques.optimizer_options(),
    )
    train = loader_for(config, splits.train, techniques, shuffled=True)
    steps_per_epoch = num_steps(len(train.plan), config.accumulation_steps)
    factors = pick(SCHEDULES, config.schedule, "schedule")(steps_per_epoch * config.epochs, steps_per_epoch)
    return Workload(
        model=model,
        optimizer=optimizer,
        schedule=Schedule(optimizer, factors),
        scaler=techniques.gradient_scaler(),
        clip_norm=config.clip_norm,
        accumulation_steps=config.accumulation_steps,
        techniques=techniques,
        train=train,
        validation=loader_for(config, splits.validation, techniques, shuffled=False),
        test=loader_for(config, splits.test, techniques, shuffled=False),
        num_classes=splits.num_classes,
        meter=meter_for(techniques.device),
        device=techniques.device,
    )


def loader_for(config: RunConfig, source: Source, techniques: TechniqueStack, *, shuffled: bool) -> BatchLoader:
    plan = BatchPlan(len(source), config.batch_size, seed=config.seed, shuffled=shuffled)
    transform = PictureTransform(AUGMENTATIONS[config.augmentation], config.image_size, config.normalisation)
    return make_loader(source, plan, transform, pipeline=config.pipeline, **techniques.loader_options())
