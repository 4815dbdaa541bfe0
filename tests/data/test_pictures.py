import hashlib
import math
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from accelmlf.data import pictures
from accelmlf.data.pictures import (
    HASHED_BYTES,
    ArraySource,
    FileSource,
    Source,
    decode,
    refuse_if_too_large,
    shorter_side,
)
from accelmlf.errors import DataError
from accelmlf.machine.memory import free_host_memory_bytes
from tests.data.makers import header_of_png, pixels, random_image

ORIENTATION = 0x0112
# What a viewer does to the stored rows before they are upright, for each value of the EXIF tag.
UPRIGHT: dict[int, Callable[[Any], Any]] = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
    8: np.rot90,
}


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def exif_with_broken_resolution() -> bytes:
    """Orientation 6, and a horizontal resolution that is a text: it fails where Pillow writes the tags again."""
    entries = struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0) + struct.pack("<HHI4s", 0x011A, 2, 1, b"a")
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + struct.pack("<I", 0)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".jpg", ".jpeg"])
def test_every_kind_of_file_becomes_rgb_of_the_same_size(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(np.full((12, 12, 3), (250, 20, 90), dtype=np.uint8))
    found = decode(saved(image, tmp_path / f"x{suffix}"), 12)
    assert (found.shape, found.dtype) == ((3, 12, 12), torch.uint8)
    assert torch.allclose(found.float(), pixels(image).float(), atol=6)


def test_a_grey_picture_has_three_equal_channels(tmp_path: Path) -> None:
    image = random_image(10).convert("L")
    found = decode(saved(image, tmp_path / "x.png"), 10)
    assert torch.equal(found, torch.from_numpy(np.array(image)).expand(3, -1, -1))
    assert not torch.equal(found, decode(saved(random_image(10), tmp_path / "y.png"), 10))


def test_a_picture_with_a_palette_has_its_colours(tmp_path: Path) -> None:
    image = random_image(10).quantize(16)
    found = decode(saved(image, tmp_path / "x.png"), 10)
    assert torch.equal(found, pixels(image.convert("RGB")))
    assert found.float().std(dim=0).max() > 20


@pytest.mark.parametrize("mode", ["RGBA", "LA", "CMYK", "1"])
def test_other_modes_are_converted_to_rgb(tmp_path: Path, mode: str) -> None:
    image = random_image(10).convert(mode)
    found = decode(saved(image, tmp_path / f"x{'.tif' if mode == 'CMYK' else '.png'}"), 10)
    assert torch.equal(found, pixels(image.convert("RGB")))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_of_grey_are_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16) + 77
    path = saved(Image.fromarray(values), tmp_path / f"x{suffix}")
    expected = torch.arange(256).view(16, 16).expand(3, -1, -1)
    assert torch.equal(decode(path, 16).long(), expected)
    with Image.open(path) as image:
        clipped = pixels(Image.fromarray(np.array(image).clip(0, 255).astype(np.uint8)).convert("RGB"))
    assert not torch.equal(clipped.long(), expected)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_picture_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    image, exif = random_image(9), Image.Exif()
    exif[ORIENTATION] = orientation
    found = decode(saved(image, tmp_path / "x.png", exif=exif), 9)
    upright = np.ascontiguousarray(UPRIGHT[orientation](np.array(image)))
    assert torch.equal(found, torch.from_numpy(upright).permute(2, 0, 1))
    assert torch.equal(found, pixels(image)) == (orientation == 1)


@pytest.mark.parametrize(
    ("width", "height", "left", "top"), [(20, 8, 6, 0), (8, 20, 0, 6), (13, 8, 2, 0), (8, 8, 0, 0)]
)
def test_a_picture_that_is_not_square_is_cut_to_its_centre(
    tmp_path: Path, width: int, height: int, left: int, top: int
) -> None:
    image = random_image(width, height)
    path = saved(image, tmp_path / "x.png")
    assert torch.equal(decode(path, 8), pixels(image)[:, top : top + 8, left : left + 8])
    assert shorter_side(path) == 8


def test_a_picture_of_another_size_is_resized_and_one_of_the_same_kept(tmp_path: Path) -> None:
    image = random_image(12)
    path = saved(image, tmp_path / "x.png")
    assert decode(path, 5).shape == (3, 5, 5)
    assert torch.equal(decode(path, 12), pixels(image))
    assert decode(path, 20).shape == (3, 20, 20)


def test_reducing_averages_what_it_leaves_out(tmp_path: Path) -> None:
    path = saved(random_image(64), tmp_path / "x.png")
    assert decode(path, 4).float().std() < 0.3 * decode(path, 64).float().std()


BROKEN = {
    "text": b"this is not a picture",
    "nothing": b"",
    "header": header_of_png(10),
    "noise": bytes(range(256)) * 4,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_picture_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken one.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken one\.png.*cannot be read as a picture"):
        decode(path, 8)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tif", ".webp"])
def test_half_a_picture_is_named(tmp_path: Path, suffix: str) -> None:
    path = saved(random_image(32), tmp_path / f"half{suffix}")
    decode(path, 8)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"half{suffix}"):
        decode(path, 8)


def test_a_picture_with_broken_exif_data_is_named(tmp_path: Path) -> None:
    path = saved(random_image(8), tmp_path / "phone.jpg", exif=exif_with_broken_resolution())
    with pytest.raises(DataError, match=r"phone\.jpg.*TypeError"):
        decode(path, 8)


def test_a_picture_of_absurd_size_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(header_of_png(100_000))
    with pytest.raises(DataError, match=r"bomb\.png.*DecompressionBombError"):
        decode(path, 8)


def test_a_missing_picture_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.png", tmp_path):
        for read in (shorter_side, lambda path: decode(path, 8)):
            with pytest.raises(DataError, match=path.name):
                read(path)


def file_source(folder: Path, sides: list[int], image_size: int) -> FileSource:
    paths = [saved(random_image(side, seed=n), folder / f"{n}.png") for n, side in enumerate(sides)]
    return FileSource(paths, torch.arange(len(paths)) % 2, image_size)


@pytest.mark.parametrize("image_size", [7, 9, 20, 50])
def test_files_in_memory_are_the_files_one_by_one(tmp_path: Path, image_size: int) -> None:
    source = file_source(tmp_path, [12, 9, 30], image_size)
    held = source.in_memory()
    assert torch.equal(held.pictures, torch.stack([source.picture(n) for n in range(3)]))
    assert torch.equal(held.labels, source.labels)
    assert not torch.equal(held.pictures[0], held.pictures[1])


@pytest.mark.parametrize(("sides", "image_size", "stored"), [([4, 7], 20, 7), ([4, 7, 50], 20, 20), ([30, 50], 20, 20)])
def test_pictures_of_several_sizes_are_held_at_the_largest_up_to_the_image_size(
    tmp_path: Path, sides: list[int], image_size: int, stored: int
) -> None:
    source = file_source(tmp_path, sides, image_size)
    assert source.in_memory().pictures.shape == (len(sides), 3, stored, stored)
    assert source.bytes_to_load() == source.in_memory().pictures.nbytes


def test_the_headers_are_read_once_and_not_again_where_the_source_travels_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = file_source(tmp_path, [4, 7], 20)
    fresh = pickle.loads(pickle.dumps(source))
    source.bytes_to_load()
    arrived = pickle.loads(pickle.dumps(source))
    monkeypatch.setattr(pictures, "shorter_side", None)
    assert arrived.picture(0).shape == (3, 7, 7)
    with pytest.raises(TypeError):
        fresh.picture(0)


def test_no_more_headers_are_read_than_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, read = file_source(tmp_path, [9, 4], 8), []

    def count(path: Path) -> int:
        read.append(path)
        return shorter_side(path)

    monkeypatch.setattr(pictures, "shorter_side", count)
    paths = [*source.paths] * 1000
    FileSource(paths, torch.zeros(2000), 10).bytes_to_load()
    assert len(read) == 2000
    read.clear()
    FileSource(paths, torch.zeros(2000), 8).bytes_to_load()
    assert len(read) <= 1000


def test_an_array_gives_no_picture_larger_than_the_image_size(tmp_path: Path) -> None:
    image = random_image(12)
    stored, labels = pixels(image)[None], torch.tensor([0])
    small, plain = ArraySource(stored, labels, 5), ArraySource(stored, labels, 20)
    assert torch.equal(small.picture(0), decode(saved(image, tmp_path / "x.png"), 5))
    assert torch.equal(small.in_memory().pictures[0], small.picture(0))
    assert torch.equal(plain.in_memory().pictures[0], stored[0])
    assert (small.bytes_to_load(), plain.bytes_to_load()) == (3 * 5 * 5, 0)


def test_a_broken_file_among_those_to_be_held_is_named(tmp_path: Path) -> None:
    source = file_source(tmp_path, [8, 8, 8], 8)
    source.paths[1].write_bytes(header_of_png(8))
    with pytest.raises(DataError, match=r"1\.png"):
        source.in_memory()


def test_a_subset_has_its_own_pictures_and_labels(tmp_path: Path) -> None:
    files = file_source(tmp_path, [8, 9, 10, 11], 8)
    chosen = np.array([3, 0])
    for source in (files, files.in_memory()):
        part = source.subset(chosen)
        assert len(part) == 2
        assert part.labels.tolist() == [1, 0]
        assert torch.equal(part.picture(0), files.picture(3))
        assert not torch.equal(part.picture(0), files.picture(0))


def digest_of(source: Source) -> str:
    digest = hashlib.sha256()
    source.update(digest)
    return digest.hexdigest()


def test_a_digest_changes_with_a_pixel_a_label_and_the_order_and_not_with_the_image_size() -> None:
    stored, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    known = digest_of(ArraySource(stored, labels))
    pixel = stored.clone()
    pixel[1, 2, 3, 3] = 1
    assert digest_of(ArraySource(stored.clone(), labels.clone(), image_size=2)) == known
    assert digest_of(ArraySource(pixel, labels)) != known
    assert digest_of(ArraySource(stored, labels.flip(0))) != known
    assert digest_of(ArraySource(pixel.flip(0), labels)) != digest_of(ArraySource(pixel, labels))


def test_a_digest_of_what_is_held_copies_nothing() -> None:
    source = ArraySource(torch.zeros(100, 3, 64, 64, dtype=torch.uint8), torch.zeros(100))
    tracemalloc.start()
    try:
        digest_of(source)
        _, peak_bytes = tracemalloc.get_traced_memory()
        hashlib.sha256(source.pictures.numpy().tobytes())
        _, with_copy_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < source.pictures.nbytes / 10 < source.pictures.nbytes <= with_copy_bytes


@pytest.mark.parametrize(
    ("place", "seen"), [(0, True), (HASHED_BYTES - 1, True), (HASHED_BYTES, False), (-HASHED_BYTES, True), (-1, True)]
)
def test_the_digest_of_files_sees_their_beginnings_and_ends(tmp_path: Path, place: int, seen: bool) -> None:
    source = file_source(tmp_path, [8, 8], 8)
    content = bytearray(3 * HASHED_BYTES)
    source.paths[0].write_bytes(content)
    known = digest_of(source)
    assert digest_of(FileSource(source.paths, source.labels, 4)) == known
    content[place] ^= 1
    source.paths[0].write_bytes(content)
    assert (digest_of(source) != known) is seen


def test_the_digest_of_files_changes_with_size_name_class_label_and_order(tmp_path: Path) -> None:
    source = file_source(tmp_path, [8, 8], 8)
    (tmp_path / "other class").mkdir()
    copies = [tmp_path / "copy.png", tmp_path / "other class" / "0.png", tmp_path / "other class" / "longer.png"]
    for copy in copies:
        copy.write_bytes(source.paths[0].read_bytes())
    copies[2].write_bytes(source.paths[0].read_bytes() + b"x")
    first, second = source.paths
    variants = [[first, second], [second, first], *([copy, second] for copy in copies)]
    digests = {digest_of(FileSource(paths, source.labels, 8)) for paths in variants}
    assert len(digests | {digest_of(FileSource([first, second], source.labels.flip(0), 8))}) == len(variants) + 1


def test_what_cannot_be_opened_is_named_by_the_digest_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path.name}: the file cannot be read"):
        digest_of(FileSource([tmp_path], torch.tensor([0]), 8))


def make_cgroup(folder: Path, **values: str) -> Path:
    for name, value in values.items():
        (folder / f"memory.{name}").write_text(value)
    return folder


def test_free_memory_is_what_the_machine_or_the_container_has(tmp_path: Path) -> None:
    assert 0 < free_host_memory_bytes() < psutil.virtual_memory().total
    group = make_cgroup(tmp_path, max="5000000\n", current="4000000\n", stat="anon 10\nfile 20\n")
    assert free_host_memory_bytes(group) == 1_000_000
    make_cgroup(tmp_path, max="max\n")
    assert free_host_memory_bytes(group) > 5_000_000


def test_files_that_only_cache_count_as_free(tmp_path: Path) -> None:
    stat = "anon 1000000\ninactive_file 2500000\nactive_file 7\n"
    group = make_cgroup(tmp_path, max="5000000\n", current="4000000\n", stat=stat)
    assert free_host_memory_bytes(group) == 3_500_000


def test_pictures_that_do_not_fit_are_refused_and_those_that_do_are_not() -> None:
    refuse_if_too_large(1000)
    with pytest.raises(DataError, match=r"pipeline=memory.*GiB.*pipeline=stream") as caught:
        refuse_if_too_large(psutil.virtual_memory().total)
    assert caught.value.exit_code == 3


def test_the_memory_needed_is_known_from_the_headers_alone(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(header_of_png(9000))
    count = math.ceil(psutil.virtual_memory().total / (3 * 9000**2))
    source = FileSource([path] * count, torch.zeros(count, dtype=torch.int64), 9000)
    with pytest.raises(DataError, match="pipeline=stream"):
        refuse_if_too_large(source.bytes_to_load())
    with pytest.raises(DataError, match="cannot be read"):
        source.picture(0)
