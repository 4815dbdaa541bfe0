import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from accelmlf.errors import DataError
from accelmlf.pictures import (
    ArraySource,
    FileSource,
    decode,
    free_host_memory_bytes,
    refuse_if_too_large,
    shorter_side,
)
from tests.data_makers import header_of_png, pixels, random_image

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
    assert torch.equal(decode(path, 100), pixels(image)[:, top : top + 8, left : left + 8])
    assert shorter_side(path) == 8


def test_a_larger_picture_is_reduced_a_smaller_one_kept_and_enlarged_only_where_asked(tmp_path: Path) -> None:
    image = random_image(12)
    path = saved(image, tmp_path / "x.png")
    assert decode(path, 5).shape == (3, 5, 5)
    assert torch.equal(decode(path, 12), pixels(image))
    assert torch.equal(decode(path, 100), pixels(image))
    assert decode(path, 100, enlarge_to=20).shape == (3, 20, 20)


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


def test_files_in_memory_are_the_files_one_by_one(tmp_path: Path) -> None:
    source = file_source(tmp_path, [12, 9, 30], 9)
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


def test_a_fingerprint_changes_with_a_pixel_a_label_and_the_order() -> None:
    pictures, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    known = ArraySource(pictures, labels).fingerprint()
    pixel = pictures.clone()
    pixel[1, 2, 3, 3] = 1
    assert ArraySource(pictures.clone(), labels.clone()).fingerprint() == known
    assert ArraySource(pixel, labels).fingerprint() != known
    assert ArraySource(pictures, labels.flip(0)).fingerprint() != known
    assert ArraySource(pixel.flip(0), labels).fingerprint() != ArraySource(pixel, labels).fingerprint()


def test_files_have_a_fingerprint_of_names_and_sizes(tmp_path: Path) -> None:
    source = file_source(tmp_path, [8, 8], 8)
    known = source.fingerprint()
    assert source.fingerprint() == known
    source.paths[0].write_bytes(b"another size")
    assert source.fingerprint() != known


def test_free_memory_is_what_the_machine_or_the_container_has() -> None:
    assert 0 < free_host_memory_bytes() < psutil.virtual_memory().total


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
