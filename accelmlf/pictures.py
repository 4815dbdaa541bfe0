"""Stored pictures: in memory or as files, and how a file becomes one.

Stored pictures are square and RGB, uint8 [3, s, s]. A picture that is not square is cut to its centre; one larger
than `image_size` is reduced to it (bicubic, antialiased); a smaller one keeps its size and is enlarged on the device.
"""

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import psutil
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from accelmlf.errors import DataError

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
MEMORY_SHARE = 0.8
"""Of the memory that is free, what the pictures may take."""


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

    def fingerprint(self) -> bytes: ...


@dataclass(frozen=True)
class ArraySource:
    """Pictures uint8 [N, 3, s, s] and labels int64 [N], held in memory."""

    pictures: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, index: int) -> Tensor:
        return self.pictures[index]

    def subset(self, indices: npt.NDArray[np.int64]) -> "ArraySource":
        chosen = torch.from_numpy(indices)
        return ArraySource(self.pictures[chosen], self.labels[chosen])

    def in_memory(self) -> "ArraySource":
        return self

    def bytes_to_load(self) -> int:
        return 0

    def fingerprint(self) -> bytes:
        return self.pictures.numpy().tobytes() + self.labels.numpy().tobytes()


@dataclass(frozen=True)
class FileSource:
    """Picture files, decoded when asked for."""

    paths: Sequence[Path]
    labels: Tensor
    image_size: int

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, index: int) -> Tensor:
        return decode(self.paths[index], self.image_size)

    def subset(self, indices: npt.NDArray[np.int64]) -> "FileSource":
        return FileSource([self.paths[i] for i in indices], self.labels[indices], self.image_size)

    @functools.cached_property
    def stored_side(self) -> int:
        """Side in pixels at which pictures of different sizes are held together: the largest, up to image_size."""
        with ThreadPoolExecutor() as pool:
            return min(max(pool.map(shorter_side, self.paths)), self.image_size)

    def bytes_to_load(self) -> int:
        return len(self) * 3 * self.stored_side**2

    def in_memory(self) -> ArraySource:
        """Every picture decoded, on all cores.

        Raises:
            DataError: a file that is no picture.
        """
        side = self.stored_side
        pictures = torch.empty(len(self), 3, side, side, dtype=torch.uint8)

        def store(index: int) -> None:
            pictures[index] = decode(self.paths[index], self.image_size, enlarge_to=side)

        with ThreadPoolExecutor() as pool:
            jobs = pool.map(store, range(len(self)))
            for _ in tqdm(jobs, "reading pictures", len(self), leave=False, disable=None):
                pass
        return ArraySource(pictures, self.labels)

    def fingerprint(self) -> bytes:
        return "\n".join(f"{p.parent.name}/{p.name} {p.stat().st_size}" for p in self.paths).encode()


def shorter_side(path: Path) -> int:
    """Pixels of the shorter side, read from the header."""
    with _opened(path) as image:
        return min(image.size)


def decode(path: Path, image_size: int, *, enlarge_to: int = 0) -> Tensor:
    """The picture of a file as uint8 [3, s, s]: turned upright, RGB, its centre square, at most `image_size`.

    Raises:
        DataError: naming the file, when it cannot be read as a picture.
    """
    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I;16", "I")):
            # PIL would clip 16 bits to 8 instead of scaling them.
            upright = Image.fromarray((np.asarray(upright, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8))
        return square(upright.convert("RGB"), image_size, enlarge_to)


def square(image: Image.Image, image_size: int, enlarge_to: int = 0) -> Tensor:
    """The centre of an RGB image as uint8 [3, s, s], reduced to `image_size` or enlarged to `enlarge_to`."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    stored_side = max(min(side, image_size), enlarge_to)
    box = (left, top, left + side, top + side)
    square = image.crop(box) if side == stored_side else image.resize((stored_side,) * 2, Image.Resampling.BICUBIC, box)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
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


def free_host_memory_bytes() -> int:
    """Free memory of the machine, or of the container where that is less."""
    free: int = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such group, or "max"
        pass
    return free
