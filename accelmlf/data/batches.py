"""What a step consumes: a batch of pictures, which pictures make it, and how batches share an optimizer step."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

B = TypeVar("B")
DRAWS_PER_PICTURE = 6
"""Random numbers a picture has per epoch: the most that any augmentation uses."""
ORDER_STREAM, DRAWS_STREAM = 0, 1


class Batch(NamedTuple):
    """Pictures [B, 3, H, W] (uint8 as stored, float32 once transformed), labels int64 [B] and draws.

    `draws` float32 [B, DRAWS_PER_PICTURE], uniform in [0, 1), is what augmentation decides by; None: no augmentation.
    """

    pictures: Tensor
    labels: Tensor
    draws: Tensor | None

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Batch":
        """The batch on `device`; a tensor that is there already is not copied."""
        draws = None if self.draws is None else self.draws.to(device, non_blocking=non_blocking)
        return Batch(
            self.pictures.to(device, non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
            draws,
        )


class Selection(NamedTuple):
    """Pictures by index int64 [B] in their set, with the draws of each."""

    indices: Tensor
    draws: Tensor | None


class BatchPlan(Sampler[Selection]):
    """The order, the batches and the draws of an epoch, as a function of (seed, epoch) alone.

    Neither techniques, worker processes nor the batch size can change them: nothing is drawn from a shared
    generator, and the draws are one table per epoch, indexed by picture. With `shuffled=False` (evaluation) the
    order is that of the set and there are no draws.

    Every picture is used once; the last batch may be short. In training a single left-over picture joins the
    batch before, because BatchNorm cannot normalise over one value.
    """

    def __init__(self, num_pictures: int, batch_size: int, *, seed: int = 0, shuffled: bool = True) -> None:
        self.num_pictures, self.seed, self.shuffled, self.epoch = num_pictures, seed, shuffled, 0
        full, rest = divmod(num_pictures, batch_size)
        self.sizes = [batch_size] * full + ([rest] if rest else [])
        if shuffled and rest == 1 and full:
            self.sizes[-2:] = [batch_size + 1]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 1."""
        self.epoch = epoch

    @property
    def is_empty(self) -> bool:
        """True before the first epoch of training: iterating then only starts the worker processes."""
        return self.shuffled and self.epoch == 0

    def order(self) -> Tensor:
        """Indices int64 [N] in the order of this epoch."""
        if not self.shuffled:
            return torch.arange(self.num_pictures)
        return torch.randperm(self.num_pictures, generator=self._generator(ORDER_STREAM))

    def draws(self) -> Tensor | None:
        """The table of draws float32 [N, DRAWS_PER_PICTURE] of this epoch, indexed by picture."""
        if not self.shuffled:
            return None
        return torch.rand(self.num_pictures, DRAWS_PER_PICTURE, generator=self._generator(DRAWS_STREAM))

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Selection]:
        if self.is_empty:
            return
        draws = self.draws()
        for indices in torch.split(self.order(), self.sizes):
            yield Selection(indices, None if draws is None else draws[indices])

    def _generator(self, stream: int) -> torch.Generator:
        state = np.random.SeedSequence([self.seed, self.epoch, stream]).generate_state(1, np.uint64)
        # torch takes seeds of 64 bits, but a sign bit would make it refuse half of them.
        return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def num_steps(num_batches: int, accumulation_steps: int) -> int:
    """Optimizer steps of an epoch of so many batches; the last may have fewer of them than the others."""
    return -(-num_batches // accumulation_steps)


def accumulate(batches: Iterable[B], batch_sizes: Sequence[int], steps: int) -> Iterator[tuple[B, float, bool]]:
    """Each batch with its share of its optimizer step, and whether it ends that step.

    A window is `steps` consecutive batches; the last one holds what is left. A batch weighs what it holds: the sum
    of share x mean loss over a window is the mean loss over its pictures, whatever their division into batches.

    Source: what goes wrong otherwise, https://huggingface.co/blog/gradient_accumulation
    """
    for number, batch in enumerate(batches):
        start = number - number % steps
        window = batch_sizes[start : start + steps]
        yield batch, batch_sizes[number] / sum(window), number % steps == len(window) - 1
