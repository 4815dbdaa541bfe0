"""The three sets of a run: training, validation, test."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from accelmlf.data.datasets import DATASETS, stratified
from accelmlf.data.pictures import Source, refuse_if_too_large
from accelmlf.errors import DataError
from accelmlf.settings.fields import pick


@dataclass(frozen=True)
class Splits:
    """The three sets of a run.

    `digest` identifies pictures, labels and split, whatever image_size and pipeline they are used with. Of a picture
    file it sees class, name, size and the first and last 4 KiB.
    """

    train: Source
    validation: Source
    test: Source
    class_names: tuple[str, ...]
    digest: str
    source: str
    """Where the pictures are from."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def sizes(self) -> dict[str, int]:
        """Pictures in each part."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}


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
    digest = hashlib.sha256()
    for part in (train, held_out, test):
        part.update(digest)
    parts = (train, test) if validation == "test" else (train, test, held_out)
    # For a stream, too: headers that are read here are not read again in each loader process.
    needed_bytes = sum(part.bytes_to_load() for part in parts)
    if in_memory:
        refuse_if_too_large(needed_bytes)
        train, test = train.in_memory(), test.in_memory()
        held_out = test if validation == "test" else held_out.in_memory()
    source = pictures.source or str(Path(data_dir).resolve())
    return Splits(train, held_out, test, pictures.class_names, digest.hexdigest()[:16], source)
