"""Where pictures come from: the embedded digits, CIFAR through torchvision, or a folder of the user's own."""

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import calculate_md5, extract_archive
from tqdm import tqdm

from accelmlf.data.pictures import PICTURE_SUFFIXES, ArraySource, FileSource, Source
from accelmlf.errors import DataError, DiskError
from accelmlf.machine.processes import locked

SPLIT_SEED = 0
"""The split is part of the data set, so the run's seed does not move it."""
NETWORK_TIMEOUT_S = 10.0
"""For a connection, and for a server that stops sending."""


@dataclass(frozen=True)
class PictureSets:
    """What a data set delivers: its training and test sets before any is set aside for validation."""

    train: Source
    test: Source
    class_names: tuple[str, ...]
    validation_fraction: float = 0.1
    """Of the training set, set aside for validation=split."""
    source: str | None = None
    """Where the pictures are from, for the record of a run; None: from data_dir."""


def stratified(labels: Tensor, size: int, setting: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sorted indices of `size` pictures with the classes in proportion, and of the rest."""
    from sklearn.model_selection import train_test_split

    everything = np.arange(len(labels))
    try:
        chosen, rest = train_test_split(everything, train_size=size, stratify=labels.numpy(), random_state=SPLIT_SEED)
    except ValueError:  # in scikit-learn's words, about arguments that nobody here gave
        remedy = "Each class needs a picture on either side: add pictures, or change train_images"
        raise DataError(setting, size, f"cannot be drawn from {len(labels)} pictures", remedy) from None
    return np.sort(chosen), np.sort(rest)


def digits(_: Path, __: int) -> PictureSets:
    """scikit-learn's 1,797 handwritten digits, 8 x 8: 1,437 to train on (359 of them set aside) and 360 to test."""
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(np.rint(values * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    pooled = ArraySource(grey.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(labels).long())
    test, train = stratified(pooled.labels, 360, "dataset")
    names = tuple(str(digit) for digit in range(10))
    parts = pooled.subset(train), pooled.subset(test)
    return PictureSets(*parts, names, validation_fraction=0.25, source="scikit-learn load_digits")


def cifar(kind: type[CIFAR10]) -> "DatasetLoader":
    """CIFAR: torchvision checks the MD5 of each file before it unpickles any."""

    def load(data_dir: Path, image_size: int) -> PictureSets:
        try:
            parts = _unpacked(kind, data_dir)
            if parts is None:
                with fetched_once(data_dir):
                    parts = _unpacked(kind, data_dir) or _fetched(kind, data_dir)
        except (OSError, RuntimeError, EOFError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise DiskError("data_dir", data_dir, str(error), "Free some space, or choose another folder") from None
            rule = f"{kind.__name__} is not there and cannot be fetched, or fails its checksum ({error})"
            remedy = f"Put {kind.url} (MD5 {kind.tgz_md5}) into {data_dir.resolve()}, or use dataset=digits"
            raise DataError("data_dir", data_dir, rule, remedy) from None
        stored = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in parts]
        labels = [torch.tensor(part.targets) for part in parts]
        train, test = (ArraySource(*arrays, image_size) for arrays in zip(stored, labels, strict=True))
        return PictureSets(train, test, tuple(parts[0].classes))

    return load


def _unpacked(kind: type[CIFAR10], data_dir: Path) -> list[Any] | None:
    """The training and the test set; None where a file is absent or not what its checksum says."""
    try:
        return [kind(data_dir, train=train) for train in (True, False)]
    except RuntimeError:
        return None


def _fetched(kind: type[CIFAR10], data_dir: Path) -> list[Any]:
    """The sets from the archive in `data_dir`, which is fetched where there is none; a wrong one is not replaced."""
    archive = data_dir / kind.filename
    part = data_dir / f"{kind.filename}.part"
    try:
        found = archive if archive.exists() else _download(kind.url, part)
        if (md5 := calculate_md5(found)) != kind.tgz_md5:
            raise RuntimeError(f"{found} has the MD5 {md5}, not {kind.tgz_md5}")
        found.rename(archive)
    finally:
        part.unlink(missing_ok=True)
    extract_archive(archive, data_dir)
    return [kind(data_dir, train=train) for train in (True, False)]


def _download(url: str, path: Path) -> Path:
    """Not left to torchvision, which falls back on plain HTTP and writes under the final name."""
    with urlopen(url, timeout=NETWORK_TIMEOUT_S) as response:
        address = urlsplit(response.url)  # after any redirection
        if address.scheme not in ("https", "file") and address.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise RuntimeError(f"{response.url} is not https")
        bar = tqdm(None, path.stem, getattr(response, "length", None), unit="B", unit_scale=True, disable=None)
        with path.open("wb") as file, bar:
            while chunk := response.read(2**16):
                bar.update(file.write(chunk))
    return path


@contextmanager
def fetched_once(data_dir: Path) -> Iterator[None]:
    """One process at a time fetches or unpacks in `data_dir`."""
    with ExitStack() as stack:
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(data_dir / ".lock"))
        except (FileExistsError, NotADirectoryError):
            raise DataError("data_dir", data_dir, "a file, not a folder", "Give a folder for the archives") from None
        except OSError as error:
            raise DiskError("data_dir", data_dir, str(error), "Choose a folder that can be written to") from None
        yield


def folder(data_dir: Path, image_size: int) -> PictureSets:
    """Pictures of the user's own: data_dir/train/<class>/* and data_dir/test/<class>/*, classes by name."""
    try:
        listed = {part: _list_classes(data_dir, part) for part in ("train", "test")}
    except OSError as error:
        rule = f"{error.filename} cannot be read ({error.strerror})"
        raise DataError("data_dir", data_dir, rule, "Give yourself the right to read it") from None
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

    return PictureSets(source("train"), source("test"), names)


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
        if others := [p.suffix or "no suffix" for p in files if p.suffix.lower() not in PICTURE_SUFFIXES]:
            rule = f"{class_dir} holds {len(others)} files that are no pictures ({', '.join(sorted(set(others)))})"
            remedy = f"Remove them; pictures end in {' '.join(sorted(PICTURE_SUFFIXES))}"
            raise DataError("data_dir", data_dir, rule, remedy)
        if not found[class_dir.name]:
            raise DataError("data_dir", data_dir, f"{class_dir} is empty", "Put pictures there or remove it")
    return found


DatasetLoader = Callable[[Path, int], PictureSets]
"""(data_dir, image_size) -> the sets. A source that is given image_size holds no picture larger than that side."""

DATASETS: dict[str, DatasetLoader] = {
    "digits": digits,
    "cifar10": cifar(CIFAR10),
    "cifar100": cifar(CIFAR100),
    "folder": folder,
}
