import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from accelmlf.data import loading
from accelmlf.data.augmentation import AUGMENTATIONS, PictureTransform
from accelmlf.data.batches import Batch, BatchPlan
from accelmlf.data.loading import BatchLoader, make_loader
from accelmlf.data.pictures import FileSource
from accelmlf.errors import AccelmlfError, ConfigError, DataError, recognise
from tests.data.makers import random_image

COUNT, BATCH_SIZE, SIZE = 11, 3, 12
CPU = torch.device("cpu")
# The ways in which a technique or a setting may have pictures delivered.
WAYS = {
    "memory": {"pipeline": "memory"},
    "memory, 2 workers": {"pipeline": "memory", "num_workers": 2},
    "resident": {"pipeline": "memory", "resident_on": CPU},
    "stream": {"pipeline": "stream"},
    "stream, 2 workers": {"pipeline": "stream", "num_workers": 2},
}
EVERY_WAY = pytest.mark.parametrize("way", WAYS)


class Hanging(FileSource):
    """Files on a disk that does not answer."""

    def picture(self, index: int) -> torch.Tensor:
        time.sleep(3)
        return super().picture(index)


def files_in(folder: Path, *sides: int) -> FileSource:
    paths = [folder / f"picture {number}.png" for number in range(COUNT)]
    for number, path in enumerate(paths):
        random_image(sides[number % len(sides)], seed=number).save(path)
    return FileSource(paths, torch.arange(COUNT), SIZE)


@pytest.fixture
def source(tmp_path: Path) -> FileSource:
    return files_in(tmp_path, 18)


def loader_of(
    source: FileSource, way: str, *, shuffled: bool = True, seed: int = 0, augmentation: str = "crop_flip"
) -> BatchLoader:
    plan = BatchPlan(COUNT, BATCH_SIZE, seed=seed, shuffled=shuffled)
    transform = PictureTransform(AUGMENTATIONS[augmentation], SIZE, "half")
    return make_loader(source, plan, transform, **WAYS[way])  # type: ignore[arg-type]


def epoch_of(loader: BatchLoader, epoch: int) -> list[Batch]:
    """The batches of an epoch, as the network sees them."""
    loader.plan.set_epoch(epoch)
    seen = []
    for batch in loader.batches:
        if isinstance(batch, AccelmlfError):
            raise batch
        pictures = batch.pictures if loader.transform is None else loader.transform(batch.pictures, batch.draws)
        seen.append(batch._replace(pictures=pictures))
    return seen


def pictures_of(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.pictures for batch in batches])


def labels_of(batches: list[Batch]) -> list[int]:
    return [label for batch in batches for label in batch.labels.tolist()]


@EVERY_WAY
def test_order_and_pixels_are_the_same_in_every_way_over_two_epochs(source: FileSource, way: str) -> None:
    plain, other = loader_of(source, "memory"), loader_of(source, way)
    for epoch in (1, 2):
        expected, found = epoch_of(plain, epoch), epoch_of(other, epoch)
        assert labels_of(found) == labels_of(expected)
        assert torch.equal(pictures_of(found), pictures_of(expected))
        assert [len(batch.labels) for batch in found] == other.plan.sizes
    assert labels_of(found) != labels_of(epoch_of(plain, 1))


@pytest.mark.parametrize("sides", [(8,), (12,), (18,), (5, 9), (5, 18)], ids=str)
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_both_pipelines_augment_alike_and_another_seed_does_not(
    tmp_path: Path, augmentation: str, sides: Sequence[int]
) -> None:
    source = files_in(tmp_path, *sides)
    held, streamed, reseeded = (
        pictures_of(epoch_of(loader_of(source, way, seed=seed, augmentation=augmentation), 1))
        for way, seed in (("memory", 0), ("stream", 0), ("memory", 1))
    )
    assert torch.equal(streamed, held)
    assert not torch.equal(reseeded, held)


@EVERY_WAY
def test_an_evaluation_sees_every_picture_as_it_is_and_in_order(source: FileSource, way: str) -> None:
    loader = loader_of(source, way, shuffled=False)
    found = epoch_of(loader, 0)
    expected = torch.stack([source.picture(number) for number in range(COUNT)]).float() / 255 * 2 - 1
    assert labels_of(found) == list(range(COUNT))
    assert torch.allclose(pictures_of(found), expected, atol=1e-6)
    assert all(batch.draws is None for batch in found)


@EVERY_WAY
def test_epoch_0_delivers_nothing_and_changes_nothing(source: FileSource, way: str) -> None:
    started, other = loader_of(source, way), loader_of(source, way)
    assert epoch_of(started, 0) == []
    assert torch.equal(pictures_of(epoch_of(started, 1)), pictures_of(epoch_of(other, 1)))


@EVERY_WAY
def test_loading_leaves_the_global_generator_alone(source: FileSource, way: str) -> None:
    loader = loader_of(source, way)
    before = torch.get_rng_state()
    for epoch in (1, 2):
        epoch_of(loader, epoch)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loader_without_a_generator_of_its_own_would_not() -> None:
    before = torch.get_rng_state()
    list(torch.utils.data.DataLoader([1, 2]))  # type: ignore[arg-type]
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("way", [way for way in WAYS if "stream" in way])
def test_a_broken_picture_is_named_wherever_it_is_decoded(source: FileSource, way: str) -> None:
    loader = loader_of(source, way)
    epoch_of(loader, 1)
    source.paths[5].write_bytes(b"broken")
    loader.plan.set_epoch(2)
    items = list(loader.batches)
    (error,) = [item for item in items if not isinstance(item, Batch)]
    assert len(items) == len(loader.plan)
    assert type(error) is DataError
    assert error.value == source.paths[5]
    assert "picture 5.png: the file cannot be read as a picture" in str(error)


def test_a_process_that_hangs_is_an_error_and_a_slow_loader_without_processes_is_not(
    source: FileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "WORKER_TIMEOUT_S", 0.5)
    hanging = Hanging(source.paths[:1], source.labels[:1], SIZE)
    transform = PictureTransform(AUGMENTATIONS["none"], SIZE, "half")

    def only_batch(num_workers: int) -> Batch | AccelmlfError:
        loader = make_loader(
            hanging, BatchPlan(1, 1, shuffled=False), transform, pipeline="stream", num_workers=num_workers
        )
        (batch,) = loader.batches
        return batch

    assert isinstance(only_batch(0), Batch)
    with pytest.raises(RuntimeError, match="timed out") as caught:
        only_batch(1)
    known = recognise(caught.value, batch_size=1)
    assert isinstance(known, AccelmlfError) and known.exit_code == 70
    assert "workers" in str(known)


@pytest.mark.parametrize("way", [way for way in WAYS if "memory" in way])
def test_a_broken_picture_is_named_before_the_first_batch_where_all_are_held(source: FileSource, way: str) -> None:
    source.paths[5].write_bytes(b"broken")
    with pytest.raises(DataError, match=r"picture 5\.png"):
        loader_of(source, way)


@pytest.mark.parametrize("shuffled", [True, False])
@EVERY_WAY
def test_a_dummy_batch_is_like_a_real_one(source: FileSource, way: str, shuffled: bool) -> None:
    loader = loader_of(source, way, shuffled=shuffled)
    loader.plan.set_epoch(1)
    real = next(iter(loader.batches))
    dummy = loader.dummy(BATCH_SIZE)
    assert isinstance(real, Batch)
    for ours, theirs in zip(dummy, real, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert loader.dummy(5).pictures.shape[0] == 5


def test_a_stream_cannot_be_resident(source: FileSource) -> None:
    plan = BatchPlan(COUNT, BATCH_SIZE)
    transform = PictureTransform(AUGMENTATIONS["none"], SIZE, "half")
    with pytest.raises(ConfigError, match="pipeline=stream: resident"):
        make_loader(source, plan, transform, pipeline="stream", resident_on=CPU)


STILL_LOADING = """
import gc, os, signal, sys
from multiprocessing import active_children
from accelmlf.machine import signals
from accelmlf.data.augmentation import AUGMENTATIONS
from accelmlf.data.augmentation import PictureTransform
from accelmlf.data.batches import BatchPlan
from accelmlf.data.loading import make_loader
from tests.data.test_loading import files_in
from pathlib import Path

plan, transform = BatchPlan(11, 3), PictureTransform(AUGMENTATIONS["none"], 12, "half")
loader = make_loader(files_in(Path(sys.argv[1]), 18), plan, transform, pipeline="stream", num_workers=2)
plan.set_epoch(1)
batches = iter(loader.batches)
"""


def run_while_loading(tmp_path: Path, body: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", STILL_LOADING + textwrap.dedent(body), str(tmp_path)]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_a_process_ends_though_something_still_holds_its_loader(tmp_path: Path) -> None:
    # As the traceback of an error does. At exit Python asks loader processes to end, and waits.
    ended = run_while_loading(
        tmp_path, "next(batches); held = [batches]; held.append(held); gc.disable(); del batches, loader"
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(("before", "left"), [("", 4), ("next(batches)", 3)], ids=["as they start", "as they load"])
def test_loader_processes_outlive_a_signal_that_was_sent_to_every_process(
    tmp_path: Path, before: str, left: int
) -> None:
    ended = run_while_loading(
        tmp_path,
        f"""
        {before}
        for number in signals.ENDING:
            signal.signal(number, signal.SIG_IGN)
            for process in active_children():
                os.system(f"kill -{{int(number)}} {{process.pid}}")  # its parent would be obeyed
        print(len(list(batches)), len(active_children()))
        """,
    )
    assert (ended.stdout, ended.stderr) == (f"{left} 2\n", "")
