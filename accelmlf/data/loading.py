"""How pictures get from a source to a training step: the two pipelines, and the set that lives on the device."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from accelmlf.data.augmentation import PictureTransform
from accelmlf.data.batches import DRAWS_PER_PICTURE, Batch, BatchPlan, Selection
from accelmlf.data.pictures import ArraySource, Source
from accelmlf.errors import AccelmlfError, ConfigError
from accelmlf.machine import signals

WORKER_TIMEOUT_S = 300.0
"""A loader process that gives nothing for so long hangs; a batch takes seconds."""


@dataclass(frozen=True)
class BatchLoader:
    """Batches of one set. `transform` is what is left to do on the device; None when the loader did it.

    An item of `batches` may be an error instead of a batch: it comes from a loader process whole that way.
    """

    plan: BatchPlan
    batches: Iterable[Batch | AccelmlfError]
    transform: PictureTransform | None
    delivered_shape: tuple[int, ...]
    """[3, s, s] of the pictures in `batches`"""

    def dummy(self, size: int) -> Batch:
        """A batch of `size` random pictures of the kind that `batches` delivers."""
        if self.transform is None:
            pictures = torch.randn(size, *self.delivered_shape)
        else:
            pictures = torch.randint(0, 256, (size, *self.delivered_shape), dtype=torch.uint8)
        draws = torch.rand(size, DRAWS_PER_PICTURE) if self.plan.shuffled else None
        return Batch(pictures, torch.zeros(size, dtype=torch.int64), draws)


class HeldPictures(Dataset[Batch | AccelmlfError]):
    """pipeline=memory: a batch is one gather of uint8 pictures."""

    def __init__(self, source: ArraySource) -> None:
        self.source = source

    def __getitem__(self, selection: Selection) -> Batch:
        indices, draws = selection
        return Batch(self.source.pictures[indices], self.source.labels[indices], draws)


class StreamedPictures(Dataset[Batch | AccelmlfError]):
    """pipeline=stream: each picture is decoded and transformed by itself, in the loader."""

    def __init__(self, source: Source, transform: PictureTransform) -> None:
        self.source, self.transform = source, transform

    def __getitem__(self, selection: Selection) -> Batch | AccelmlfError:
        indices, draws = selection
        try:
            pictures = [
                self.transform(self.source.picture(index)[None], None if draws is None else draws[row : row + 1])
                for row, index in enumerate(indices.tolist())
            ]
        except AccelmlfError as error:
            return error
        return Batch(torch.cat(pictures), self.source.labels[indices], draws)


class ResidentPictures:
    """The set on the device as uint8: an epoch's order and draws are copied once, a batch is a gather there."""

    def __init__(self, source: ArraySource, plan: BatchPlan, device: torch.device) -> None:
        self.plan, self.device = plan, device
        self.pictures, self.labels = source.pictures.to(device), source.labels.to(device)

    def __iter__(self) -> Iterator[Batch]:
        if self.plan.is_empty:
            return
        order = self.plan.order().to(self.device, non_blocking=True)
        table = self.plan.draws()
        draws = None if table is None else table.to(self.device, non_blocking=True)
        for indices in torch.split(order, self.plan.sizes):
            chosen: Tensor | None = None if draws is None else draws[indices]
            yield Batch(self.pictures[indices], self.labels[indices], chosen)


class ShieldedDataLoader(DataLoader[Batch | AccelmlfError]):
    """A DataLoader whose worker processes no signal reaches before they have learned to leave it to their parent."""

    def __iter__(self) -> Any:
        with signals.held() if self._iterator is None else nullcontext():
            return super().__iter__()


def make_loader(
    source: Source,
    plan: BatchPlan,
    transform: PictureTransform,
    *,
    pipeline: str,
    num_workers: int = 0,
    pin_memory: bool = False,
    resident_on: torch.device | None = None,
) -> BatchLoader:
    """The loader of one set; the last three are what techniques may ask for.

    Raises:
        ConfigError: a resident set with pipeline=stream.
    """
    if pipeline == "stream" and resident_on is not None:
        rule = "resident holds the pictures on the device, and a stream decodes them again every epoch"
        raise ConfigError("pipeline", pipeline, rule, "Use pipeline=memory, or leave resident out")
    if pipeline == "stream":
        held: Dataset[Batch | AccelmlfError] = StreamedPictures(source, transform)
        left_to_do: PictureTransform | None = None
        delivered: tuple[int, ...] = (3, transform.image_size, transform.image_size)
    else:
        array = source.in_memory()
        left_to_do, delivered = transform, tuple(array.pictures.shape[1:])
        if resident_on is not None:
            return BatchLoader(plan, ResidentPictures(array, plan, resident_on), transform, delivered)
        held = HeldPictures(array)
    batches = ShieldedDataLoader(
        held,
        sampler=plan,
        batch_size=None,  # the plan makes the batches, so that worker processes receive whole ones
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        timeout=WORKER_TIMEOUT_S if num_workers else 0,
        worker_init_fn=signals.leave_ending_to_parent,
        # Without one of its own a loader draws from the global generator, and with workers it would shift
        # dropout from the second epoch on.
        generator=torch.Generator(),
    )
    return BatchLoader(plan, batches, left_to_do, delivered)
