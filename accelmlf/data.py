"""Where pictures come from: the embedded digits, CIFAR through torchvision, or a folder of the user's own."""

import fcntl
import hashlib
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100

from accelmlf.config import pick
from accelmlf.errors import DataError
from accelmlf.pictures import PICTURE_SUFFIXES, ArraySource, FileSource, Source, refuse_if_too_large, square

SPLIT_SEED = 0
"""The split is part of the data set, so the run's seed does not move it."""
DOWNLOAD_STALL_S = 30


@dataclass(frozen=True)
class Splits:
    """The three sets of a run. `digest` identifies pictures, labels and split."""

    train: Source
    validation: Source
    test: Source
    class_names: tuple[str, ...]
    digest: str

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def sizes(self) -> dict[str, int]:
        """Pictures in each part."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}


@dataclass(frozen=True)
class Pictures:
    """What a data set delivers: its training and test sets before any is set aside for validation."""

    train: Source
    test: Source
    class_names: tuple[str, ...]
    validation_fraction: float = 0.1


def load_splits(
    dataset: str,
    data_dir: str,
    *,
    image_size: int,
    validation: str,
    train_images: int | None,
    in_memory: bool,
) -> Splits:
    """The sets of a run: `train_images` of the training set (stratified), a validation part cut from those.

    With validation="test" nothing is cut and the test set is the validation set (the paper's protocol).

    Raises:
        DataError: data that is missing, broken, too small for the split, or too large for memory.
    """
    pictures = pick(DATASETS, dataset, "dataset")(Path(data_dir), image_size)
    train, test = pictures.train, pictures.test
    if train_images is not None and train_images < len(train):
        train = train.subset(stratified(train.labels, train_images, "train_images")[0])
    elif train_images is not None and train_images > len(train):
        raise DataError("train_images", train_images, f"the set has {len(train)}", "Give at most that, or all")
    held_out = test
    if validation == "split":
        size = max(round(len(train) * pictures.validation_fraction), len(pictures.class_names))
        chosen, rest = stratified(train.labels, size, "validation")
        train, held_out = train.subset(rest), train.subset(chosen)
    if in_memory:
        parts = (train, test) if validation == "test" else (train, test, held_out)
        refuse_if_too_large(sum(part.bytes_to_load() for part in parts))
        train, test = train.in_memory(), test.in_memory()
        held_out = test if validation == "test" else held_out.in_memory()
    digest = hashlib.sha256()
    for part in (train, held_out, test):
        digest.update(part.fingerprint())
    return Splits(train, held_out, test, pictures.class_names, digest.hexdigest()[:16])


def stratified(labels: Tensor, size: int, setting: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sorted indices of `size` pictures with the classes in proportion, and of the rest."""
    from sklearn.model_selection import train_test_split

    everything = np.arange(len(labels))
    try:
        chosen, rest = train_test_split(everything, train_size=size, stratify=labels.numpy(), random_state=SPLIT_SEED)
    except ValueError as error:
        remedy = "Each class needs two pictures or more on either side; add pictures or classes' share"
        raise DataError(setting, size, f"cannot be drawn from {len(labels)} pictures ({error})", remedy) from None
    return np.sort(chosen), np.sort(rest)


def digits(_: Path, __: int) -> Pictures:
    """scikit-learn's 1,797 handwritten digits, 8 x 8: 1,437 for training (359 of them validation), 360 for test."""
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(np.rint(values * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    pooled = ArraySource(grey.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(labels).long())
    test, train = stratified(pooled.labels, 360, "dataset")
    names = tuple(str(digit) for digit in range(10))
    return Pictures(pooled.subset(train), pooled.subset(test), names, validation_fraction=0.25)


def cifar(kind: type[CIFAR10]) -> "DatasetLoader":
    """CIFAR through torchvision, which checks the MD5 of each file before it unpickles any."""

    def load(data_dir: Path, image_size: int) -> Pictures:
        with fetched_once(data_dir):
            parts = [_torchvision_part(kind, data_dir, train=train) for train in (True, False)]
        train_set, test_set = (_array_source(part, image_size) for part in parts)
        return Pictures(train_set, test_set, tuple(parts[0].classes))

    return load


def _torchvision_part(kind: type[CIFAR10], data_dir: Path, *, train: bool) -> Any:
    try:
        return kind(data_dir, train=train, download=True)
    except (OSError, RuntimeError, EOFError, HTTPException) as error:
        rule = f"{kind.__name__} is not there and cannot be fetched, or fails its checksum ({error})"
        remedy = f"Put {kind.url} (MD5 {kind.tgz_md5}) into {data_dir.resolve()}, or use dataset=digits"
        raise DataError("data_dir", data_dir, rule, remedy) from None


def _array_source(part: Any, image_size: int) -> ArraySource:
    pictures = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
    if image_size < pictures.shape[-1]:
        reduced = [square(Image.fromarray(picture), image_size) for picture in part.data]
        pictures = torch.stack(reduced)
    return ArraySource(pictures, torch.tensor(part.targets))


@contextmanager
def fetched_once(data_dir: Path) -> Iterator[None]:
    """One process at a time fetches or unpacks in `data_dir`; a download that stalls is an error."""
    stall_s = socket.getdefaulttimeout()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with (data_dir / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            socket.setdefaulttimeout(DOWNLOAD_STALL_S)
            yield
    except (FileExistsError, NotADirectoryError):
        raise DataError("data_dir", data_dir, "a file, not a folder", "Give a folder for the archives") from None
    finally:
        socket.setdefaulttimeout(stall_s)


def folder(data_dir: Path, image_size: int) -> Pictures:
    """Pictures of the user's own: data_dir/train/<class>/* and data_dir/test/<class>/*, classes by name."""
    listed = {part: _list_classes(data_dir, part) for part in ("train", "test")}
    names = tuple(listed["train"])
    if len(names) < 2:
        raise DataError("data_dir", data_dir, f"train has {len(names)} classes", "Put two class folders or more there")
    if strange := sorted(set(names) ^ set(listed["test"])):
        rule = f"train and test do not have the same classes: {', '.join(strange[:3])} is only in one"
        raise DataError("data_dir", data_dir, rule, "Give both the same class folders")

    def source(part: str) -> FileSource:
        paths = [path for name in names for path in listed[part][name]]
        counts = [len(listed[part][name]) for name in names]
        return FileSource(paths, torch.arange(len(names)).repeat_interleave(torch.tensor(counts)), image_size)

    return Pictures(source("train"), source("test"), names)


def _list_classes(data_dir: Path, part: str) -> dict[str, list[Path]]:
    root = data_dir / part
    if not root.is_dir():
        rule = f"there is no folder {root.resolve()}"
        remedy = "dataset=folder reads data_dir/train/<class>/* and data_dir/test/<class>/*"
        raise DataError("data_dir", data_dir, rule, remedy)
    found: dict[str, list[Path]] = {}
    for class_dir in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        files = sorted(p for p in class_dir.iterdir() if not p.name.startswith("."))
        found[class_dir.name] = [p for p in files if p.suffix.lower() in PICTURE_SUFFIXES]
        if others := Counter(p.suffix for p in files if p.suffix.lower() not in PICTURE_SUFFIXES):
            kinds = ", ".join(sorted(others)) or "no suffix"
            rule = f"{class_dir} holds {others.total()} files that are no pictures ({kinds})"
            raise DataError(
                "data_dir",
                data_dir,
                rule,
                f"Remove them; pictures end in {' '.join(sorted(PICTURE_SUFFIXES))}",
            )
        if not found[class_dir.name]:
            raise DataError("data_dir", data_dir, f"{class_dir} is empty", "Put pictures there or remove it")
    return found


DatasetLoader = Callable[[Path, int], Pictures]

DATASETS: dict[str, DatasetLoader] = {
    "digits": digits,
    "cifar10": cifar(CIFAR10),
    "cifar100": cifar(CIFAR100),
    "folder": folder,
}
