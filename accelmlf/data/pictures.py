"""Stored pictures: in memory or as files, and how a file becomes one.

Stored pictures are square and RGB, uint8 [3, s, s], with one side s for the whole set: `image_size`, or that of the
largest picture where all are smaller (the device enlarges those). A picture that is not square is cut to its centre.
"""

import functools
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from accelmlf.errors import DataError
from accelmlf.machine.memory import free_host_memory_bytes

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
MEMORY_SHARE = 0.8
"""Of the memory that is free, what the pictures may take."""


HASHED_BYTES = 4096
"""Of a file's beginning and of its end, what its fingerprint reads."""
T = TypeVar("T")
R = TypeVar("R")


class Source(Protocol):
    """A set of pictures with labels, one at a time."""

    @property
    def labels(self) -> Tensor:
        """Classes, int64 [N]."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> Tensor:
        """The stored picture, uint8 [3, s, s]."""

    def subset(self, indices: npt.NDArray[np.int64]) -> "Source": ...

    def in_memory(self) -> "ArraySource": ...

    def bytes_to_load(self) -> int:
        """What `in_memory` would allocate."""

    def update(self, digest: "hashlib._Hash") -> None:
        """Add pictures (as they are before any resizing), labels and order to `digest`."""


@dataclass(frozen=True)
class ArraySource:
    """Pictures uint8 [N, 3, s, s] and labels int64 [N], held in memory; given out at no more than `image_size`."""

    pictures: Tensor
    labels: Tensor
    image_size: int = sys.maxsize

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, index: int) -> Tensor:
        picture = self.pictures[index]
        if picture.shape[-1] <= self.image_size:
            return picture
        return square(Image.fromarray(picture.permute(1, 2, 0).numpy()), self.image_size)

    def subset(self, indices: npt.NDArray[np.int64]) -> "ArraySource":
        chosen = torch.from_numpy(indices)
        return ArraySource(self.pictures[chosen], self.labels[chosen], self.image_size)

    def in_memory(self) -> "ArraySource":
        if self.pictures.shape[-1] <= self.image_size:
            return self
        return ArraySource(torch.stack([self.picture(index) for index in range(len(self))]), self.labels)

    def bytes_to_load(self) -> int:
        return 0 if self.pictures.shape[-1] <= self.image_size else len(self) * 3 * self.image_size**2

    def update(self, digest: "hashlib._Hash") -> None:
        for array in (self.pictures.numpy(), self.labels.numpy()):
            digest.update(array.data)


@dataclass(frozen=True)
class FileSource:
    """Picture files, decoded when asked for."""

    paths: Sequence[Path]
    labels: Tensor
    image_size: int

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, index: int) -> Tensor:
        return decode(self.paths[index], self.stored_side)

    def subset(self, indices: npt.NDArray[np.int64]) -> "FileSource":
        return FileSource([self.paths[i] for i in indices], self.labels[indices], self.image_size)

    @functools.cached_property
    def stored_side(self) -> int:
        """Side in pixels of every stored picture: the largest shorter side, up to image_size, read from the headers.

        Ask before the source travels to loader processes: they then have it, too.
        """
        largest = 0
        for side in in_threads(shorter_side, self.paths):
            largest = max(largest, side)
            if largest >= self.image_size:
                return self.image_size
        return largest

    def bytes_to_load(self) -> int:
        return len(self) * 3 * self.stored_side**2

    def in_memory(self) -> ArraySource:
        """Every picture decoded, on all cores.

        Raises:
            DataError: a file that is no picture.
        """
        pictures = torch.empty(len(self), 3, self.stored_side, self.stored_side, dtype=torch.uint8)

        def store(index: int) -> None:
            pictures[index] = self.picture(index)

        for _ in tqdm(in_threads(store, range(len(self))), "reading pictures", len(self), leave=False, disable=None):
            pass
        return ArraySource(pictures, self.labels)

    def update(self, digest: "hashlib._Hash") -> None:
        for fingerprint in in_threads(file_fingerprint, self.paths):
            digest.update(fingerprint)
        digest.update(self.labels.numpy().data)


def in_threads(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """The results in order, from threads on all cores."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(items), 1000):
            yield from pool.map(work, items[start : start + 1000])


def file_fingerprint(path: Path) -> bytes:
    """Of class, name, size, beginning and end: reading whole files would take minutes for a large set."""
    with _naming(path), path.open("rb") as file:
        size = path.stat().st_size
        beginning = file.read(HASHED_BYTES)
        file.seek(max(0, size - HASHED_BYTES))
        name = f"{path.parent.name}/{path.name} {size} ".encode()
        return hashlib.sha256(name + beginning + file.read()).digest()


def shorter_side(path: Path) -> int:
    """Pixels of the shorter side, read from the header."""
    with _naming(path), Image.open(path) as image:
        return min(image.size)


def decode(path: Path, side: int) -> Tensor:
    """The picture of a file as uint8 [3, side, side]: turned upright, RGB, its centre square resized.

    Raises:
        DataError: naming the file, when it cannot be read as a picture.
    """
    with _naming(path), Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            # PIL would clip 16 bits to 8 instead of scaling them.
            upright = Image.fromarray((np.asarray(upright, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8))
        return square(upright.convert("RGB"), side)


def square(image: Image.Image, side: int) -> Tensor:
    """The centre of an RGB image as uint8 [3, side, side], resized (bicubic, antialiased)."""
    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    box = (left, top, left + shorter, top + shorter)
    square = image.crop(box) if shorter == side else image.resize((side, side), Image.Resampling.BICUBIC, box)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many kinds: struct.error for some broken EXIF data, for one
        rule = f"the file cannot be read as a picture ({type(error).__name__}: {error})"
        raise DataError("data_dir", path, rule, "Repair or remove that file") from None


def refuse_if_too_large(needed_bytes: int) -> None:
    """Raises DataError when pictures of `needed_bytes` would take more than their share of the free memory."""
    free_bytes = free_host_memory_bytes()
    if needed_bytes > MEMORY_SHARE * free_bytes:
        rule = (
            f"the pictures need {needed_bytes / 2**30:.1f} GiB in memory, "
            f"and {free_bytes / 2**30:.1f} GiB are free (they may take {MEMORY_SHARE:.0%})"
        )
        raise DataError("pipeline", "memory", rule, "Use pipeline=stream, a smaller image_size or train_images")
