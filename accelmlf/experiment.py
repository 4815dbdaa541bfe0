"""One run, from its configuration to its summary: the only place where the parts meet."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from accelmlf import artifacts, environment
from accelmlf.augmentation import AUGMENTATIONS, PictureTransform
from accelmlf.batches import BatchPlan
from accelmlf.config import RunConfig, pick
from accelmlf.console import Console
from accelmlf.costs import meter_for
from accelmlf.data import Splits, load_splits
from accelmlf.errors import ConfigError, recognise
from accelmlf.loading import BatchLoader, make_loader
from accelmlf.models import build_model, has_batch_norm
from accelmlf.optimization import SCHEDULES, Schedule, build_optimizer
from accelmlf.pictures import Source
from accelmlf.progress import Progress
from accelmlf.records import DatasetRecord, EpochMetrics, RunSummary, TrackedRun, Tracker
from accelmlf.stack import Skipped, TechniqueStack, build_stack
from accelmlf.training import Workload, evaluate, train_epochs, warm_up

StopEarly = Callable[[EpochMetrics], str | None]
"""After an epoch: the outcome as which the run ends here, or None to go on."""


def never(_: EpochMetrics) -> None:
    """Every run trains all its epochs."""


def run_experiment(
    config: RunConfig,
    tracker: Tracker,
    *,
    started_s: float | None = None,
    stop_early: StopEarly = never,
    read_test: bool = True,
    quiet: bool = False,
) -> RunSummary:
    """Train, measure and record one run.

    `started_s`: where its wall clock begins (time.perf_counter); default now. `stop_early` is asked after each epoch,
    off the training clock. `read_test=False`: the test set is not touched, for a run that chooses something.

    Raises:
        AccelmlfError: whatever ends the run early, after the tracker has closed it with that outcome.
    """
    started_s = time.perf_counter() if started_s is None else started_s
    console, ended_as = Console(quiet=quiet), None
    with tracker.run() as run, known_errors(config), closing_console(console):
        config, techniques, skipped = settle(config)
        console.opening(config, skipped)
        log_opening(run, config, techniques, skipped)
        with techniques.process_context():
            splits = load_data(config)
            work = prepare(config, splits, techniques, tracker.local_weights(config.weights))
            run.log_inputs(dataset_record(config, splits), str(work.model.source))
            progress = Progress(config, work, started_s)
            warm_up(work)
            progress.ready()
            console.ready(work, splits.sizes(), config.accumulation_steps, progress.setup_s, progress.warmup_s)
            for epoch in train_epochs(
                work, max_epochs=config.epochs, accumulation_steps=config.accumulation_steps, watch=console.watch
            ):
                progress.add(epoch)
                run.log_epoch(epoch)
                console.epoch(epoch)
                ended_as = stop_early(epoch)
                progress.logged()
                if ended_as or (config.stop_at_target and progress.wall_to_target_s is not None):
                    break
            summary = progress.summary(evaluate(work, work.test) if read_test else None, ended_as)
        run.log_summary(summary)
        with tempfile.TemporaryDirectory() as folder:
            artifacts.write_closing(Path(folder), config, progress.epochs, summary, splits.class_names, work.model)
            run.log_artifacts(Path(folder))
        console.closing(config, progress.epochs, summary, run.url())
    return summary


def settle(config: RunConfig) -> tuple[RunConfig, TechniqueStack, list[Skipped]]:
    """The configuration as this device will run it, with its techniques and what of a preset had to be left out."""
    device = environment.pick_device(config.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # some questions to torch, and pinning, are about the current device
    techniques, skipped = build_stack(config.techniques, device, from_preset=not config.techniques_given)
    arm = "tuned_partial" if skipped and config.arm == "tuned" else config.arm
    return replace(config, device=str(device), techniques=techniques.label, arm=arm), techniques, skipped


def log_opening(run: TrackedRun, config: RunConfig, techniques: TechniqueStack, skipped: Sequence[Skipped]) -> None:
    """All that is known before the first picture is read."""
    facts = environment.describe(techniques.device)
    labels = {
        "accelmlf.arm": config.arm,
        "accelmlf.skipped_techniques": ",".join(technique.label for technique in skipped) or "none",
        **environment.as_tags(facts),
    }
    run.log_config(config, labels)
    with tempfile.TemporaryDirectory() as folder:
        artifacts.write_opening(Path(folder), config, facts)
        run.log_artifacts(Path(folder))


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
    steps_per_epoch = -(-len(train.plan) // config.accumulation_steps)
    factors = pick(SCHEDULES, config.schedule, "schedule")(steps_per_epoch * config.epochs, steps_per_epoch)
    return Workload(
        model=model,
        optimizer=optimizer,
        schedule=Schedule(optimizer, factors),
        scaler=techniques.gradient_scaler(),
        clip_norm=config.clip_norm,
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


@contextmanager
def known_errors(config: RunConfig) -> Iterator[None]:
    """Memory that ran out, a full disk and the like as the errors of this project."""
    try:
        yield
    except Exception as error:
        known = recognise(error, config.batch_size)
        if known is error:
            raise
        raise known from error


@contextmanager
def closing_console(console: Console) -> Iterator[None]:
    """No bar is left on the screen, whatever ends the run."""
    try:
        yield
    finally:
        console.stop()
