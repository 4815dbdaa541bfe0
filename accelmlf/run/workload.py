"""All that an epoch needs, made from settings: model, optimizer, schedule, loaders, clock."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from accelmlf.data.augmentation import AUGMENTATIONS, PictureTransform
from accelmlf.data.batches import BatchPlan, num_steps
from accelmlf.data.loading import BatchLoader, make_loader
from accelmlf.data.pictures import Source
from accelmlf.data.splits import Splits, load_splits
from accelmlf.measure.cost import Meter, meter_for
from accelmlf.measure.records import DatasetRecord
from accelmlf.models.families import build_model, has_batch_norm
from accelmlf.run.optimization import SCHEDULES, Schedule, build_optimizer
from accelmlf.settings.fields import pick
from accelmlf.settings.run import RunConfig, require_trainable_batch
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
    """The training, validation and test sets of a run."""
    return load_splits(
        config.dataset,
        config.data_dir,
        image_size=config.image_size,
        validation=config.validation,
        train_images=config.train_images,
        in_memory=config.pipeline == "memory",
    )


def dataset_record(config: RunConfig, splits: Splits) -> DatasetRecord:
    """What identifies the data of a run, for whoever records it."""
    return DatasetRecord(config.dataset, splits.digest, splits.source, splits.sizes())


def prepare(config: RunConfig, splits: Splits, techniques: TechniqueStack, weights: str) -> Workload:
    """Model, optimizer and loaders on their device, seeded, before any warm-up."""
    torch.manual_seed(config.seed)
    model = build_model(config.model, weights, num_classes=splits.num_classes, image_size=config.image_size)
    require_trainable_batch(config.model, config.batch_size, has_batch_norm(model))
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
    """The loader of one set: `shuffled` and augmented for training, in order and as it is for evaluation."""
    plan = BatchPlan(len(source), config.batch_size, seed=config.seed, shuffled=shuffled)
    transform = PictureTransform(AUGMENTATIONS[config.augmentation], config.image_size, config.normalisation)
    return make_loader(source, plan, transform, pipeline=config.pipeline, **techniques.loader_options())
