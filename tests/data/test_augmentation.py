import math
import pickle
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from accelmlf.data.augmentation import AUGMENTATIONS, NORMALISATIONS, PictureTransform, affine, crop_flip, resize
from accelmlf.data.batches import DRAWS_PER_PICTURE
from tests.data.makers import smooth_pictures

EVERY_AUGMENTATION = pytest.mark.parametrize("name", AUGMENTATIONS)
RANDOM_ONES = pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
STORED_SIDES = pytest.mark.parametrize("side", [8, 16, 24])
SIZE = 16
UNCHANGED = [0.5] * DRAWS_PER_PICTURE
WHOLE_PICTURE = [1.0, *UNCHANGED[1:]]
turn = partial(affine, degrees=20, translate=0.25, scale=0.4, shear=10, flip=True)


def noise(count: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def random_draws(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, DRAWS_PER_PICTURE, generator=torch.Generator().manual_seed(seed))


def chosen_draws(**changes: float) -> Tensor:
    """One row of draws that change nothing, but for those named d0 to d5."""
    return torch.tensor([[changes.get(f"d{i}", value) for i, value in enumerate(UNCHANGED)]])


@STORED_SIDES
@EVERY_AUGMENTATION
def test_every_augmentation_gives_pictures_of_the_size_asked_for_within_0_and_1(name: str, side: int) -> None:
    pictures = noise(5, side)
    kept = pictures.clone()
    seen = AUGMENTATIONS[name](pictures, random_draws(5), SIZE)
    assert (seen.shape, seen.dtype) == ((5, 3, SIZE, SIZE), torch.float32)
    assert 0 <= seen.min() < 0.2 < 0.8 < seen.max() <= 1
    assert torch.equal(pictures, kept)


@STORED_SIDES
@pytest.mark.parametrize("name", [*AUGMENTATIONS, "evaluation"])
def test_a_picture_has_the_same_pixels_alone_and_in_a_batch(name: str, side: int) -> None:
    augmented = name != "evaluation"
    transform = PictureTransform(AUGMENTATIONS[name if augmented else "none"], SIZE, "imagenet")
    pictures, draws = noise(7, side), random_draws(7) if augmented else None
    batched = transform(pictures, draws)
    alone = [transform(pictures[i : i + 1], None if draws is None else draws[i : i + 1]) for i in range(7)]
    assert torch.equal(batched, torch.cat(alone))
    assert not torch.equal(batched, torch.cat(alone[::-1]))


@EVERY_AUGMENTATION
def test_an_augmentation_can_travel_to_a_loader_process(name: str) -> None:
    pictures, draws = noise(3, SIZE), random_draws(3)
    arrived = pickle.loads(pickle.dumps(PictureTransform(AUGMENTATIONS[name], SIZE, "half")))
    assert torch.equal(arrived(pictures, draws), PictureTransform(AUGMENTATIONS[name], SIZE, "half")(pictures, draws))
    assert not torch.equal(arrived(pictures, draws), arrived(pictures.flip(0), draws))


@RANDOM_ONES
def test_the_same_draws_give_the_same_pixels_and_others_do_not(name: str) -> None:
    pictures = noise(1, SIZE).expand(4, -1, -1, -1)
    seen = AUGMENTATIONS[name](pictures, random_draws(4), SIZE)
    assert torch.equal(seen, AUGMENTATIONS[name](pictures, random_draws(4), SIZE))
    assert not torch.equal(seen, AUGMENTATIONS[name](pictures, random_draws(4, seed=1), SIZE))
    assert len({picture.numpy().tobytes() for picture in seen}) == 4


def test_no_augmentation_is_what_an_evaluation_sees() -> None:
    transform = PictureTransform(AUGMENTATIONS["none"], SIZE, "half")
    pictures = noise(3, 24)
    assert torch.equal(transform(pictures, random_draws(3)), transform(pictures, None))
    assert not torch.equal(transform(pictures, None), transform(pictures.flip(0), None))


@RANDOM_ONES
def test_an_augmentation_in_the_middle_of_its_range_changes_nothing(name: str) -> None:
    pictures = noise(2, SIZE)
    neutral = WHOLE_PICTURE if name == "resized_crop_flip" else UNCHANGED
    seen = AUGMENTATIONS[name](pictures, torch.tensor([neutral] * 2), SIZE)
    assert torch.allclose(seen, pictures.float() / 255, atol=1e-4)
    moved = AUGMENTATIONS[name](pictures, torch.tensor([[0.1] * DRAWS_PER_PICTURE] * 2), SIZE)
    assert not torch.allclose(moved, pictures.float() / 255, atol=0.1)


def slow_crop_flip(picture: npt.NDArray[np.uint8], draws: npt.NDArray[np.float32]) -> Tensor:
    size = picture.shape[-1]
    padding = max(1, size // 8)
    top, left = (int(draw * np.float32(2 * padding + 1)) for draw in draws[:2])
    padded = np.pad(picture, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
    cut = padded[:, top : top + size, left : left + size]
    return torch.from_numpy((cut[:, :, ::-1] if draws[2] < 0.5 else cut).astype(np.float32) / 255)


@pytest.mark.parametrize("size", [4, 8, 16, 33])
def test_the_crop_is_the_one_of_a_padded_picture(size: int) -> None:
    pictures, draws = noise(64, size), random_draws(64)
    slow = torch.stack([slow_crop_flip(p.numpy(), d.numpy()) for p, d in zip(pictures, draws, strict=True)])
    assert torch.equal(crop_flip(pictures, draws, size), slow)
    assert not torch.equal(crop_flip(pictures, 1 - draws, size), slow)


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-24])
def test_the_crop_reaches_the_border_of_the_padding_and_not_beyond(draw: float) -> None:
    pictures, draws = noise(1, 8), torch.full((1, DRAWS_PER_PICTURE), draw)
    assert torch.equal(crop_flip(pictures, draws, 8)[0], slow_crop_flip(pictures[0].numpy(), draws[0].numpy()))


def test_a_stored_picture_of_another_size_is_resized_before_it_is_cropped() -> None:
    pictures, draws = noise(4, 8), random_draws(4)
    resized = (resize(pictures, SIZE) * 255).numpy()
    slow = [slow_crop_flip(p, d.numpy()) for p, d in zip(resized, draws, strict=True)]
    assert torch.allclose(crop_flip(pictures, draws, SIZE), torch.stack(slow), atol=1e-6)


def inner(pictures: Tensor) -> Tensor:
    """Without the border, which the two implementations fill differently."""
    return pictures[..., 10:-10, 10:-10]


# draw, torchvision's arguments for it, and the same with the opposite sign
TURNS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "rotation": ("d0", {"angle": -20 * 0.6}, {"angle": 20 * 0.6}),
    "shear": ("d1", {"shear": [10 * 0.6, 0.0]}, {"shear": [-10 * 0.6, 0.0]}),
    "shift to the left": ("d2", {"translate": [-6, 0]}, {"translate": [6, 0]}),
    "shift upwards": ("d3", {"translate": [0, -6]}, {"translate": [0, 6]}),
    "zoom": ("d4", {"scale": 1 + 0.4 * 0.6}, {"scale": 1 - 0.4 * 0.6}),
}


@pytest.mark.parametrize("what", TURNS)
def test_an_affine_change_is_torchvisions(what: str) -> None:
    draw, arguments, opposite = TURNS[what]
    pictures = smooth_pictures(1, 40)
    seen = turn(pictures, chosen_draws(**{draw: 0.8}), 40)

    def expected(changed: dict[str, Any]) -> Tensor:
        plain = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
        moved: Tensor = reference.affine(
            pictures.float() / 255, **(plain | changed), interpolation=InterpolationMode.BILINEAR
        )
        return moved

    assert torch.allclose(inner(seen), inner(expected(arguments)), atol=0.01)
    assert not torch.allclose(inner(seen), inner(expected(opposite)), atol=0.05)


def test_a_flip_mirrors_what_is_seen_without_it() -> None:
    pictures, plain = noise(1, SIZE), chosen_draws(d0=0.9, d2=0.7, d4=0.6)
    mirrored = chosen_draws(d0=0.9, d2=0.7, d4=0.6, d5=0.4)
    assert torch.allclose(turn(pictures, mirrored, SIZE), turn(pictures, plain, SIZE).flip(3), atol=1e-4)
    assert not torch.allclose(turn(pictures, mirrored, SIZE), turn(pictures, plain, SIZE), atol=0.1)


@pytest.mark.parametrize("flip", [True, False])
def test_a_resized_crop_is_torchvisions(flip: bool) -> None:
    pictures, (top, left, height, width) = noise(1, 32), (4, 10, 12, 16)
    area, ratio = height * width / 32**2, width / height
    draws = chosen_draws(
        d0=(area - 0.08) / 0.92,
        d1=(math.log(ratio) / math.log(4 / 3) + 1) / 2,
        d2=left / (32 - width),
        d3=top / (32 - height),
        d4=0.2 if flip else 0.7,
    )
    box = (top, left, height, width)
    expected = reference.resized_crop(
        pictures.float() / 255, *box, [32, 32], InterpolationMode.BICUBIC, antialias=False
    ).clamp(0, 1)
    seen = AUGMENTATIONS["resized_crop_flip"](pictures, draws, 32)
    right, wrong = (expected.flip(3), expected) if flip else (expected, expected.flip(3))
    # Near its border torchvision's crop repeats its own last pixels, and this one sees those of the picture.
    assert torch.allclose(seen[..., 7:-7, 6:-6], right[..., 7:-7, 6:-6], atol=1e-4)
    assert not torch.allclose(seen[..., 7:-7, 6:-6], wrong[..., 7:-7, 6:-6], atol=0.1)


def test_resizing_keeps_smooth_pictures_and_reduces_noise_with_antialiasing() -> None:
    large, small = smooth_pictures(2, 32), smooth_pictures(2, 16)
    assert torch.allclose(resize(large, 16)[..., 2:-2, 2:-2], small.float()[..., 2:-2, 2:-2] / 255, atol=0.15)
    assert torch.allclose(resize(resize(small, 32) * 255, 16), small.float() / 255, atol=0.03)
    assert resize(noise(2, 32), 8).std() < 0.6 * resize(noise(2, 32), 32).std()


def test_a_picture_of_the_right_size_is_scaled_and_no_more() -> None:
    pictures = noise(2, SIZE)
    assert torch.equal(resize(pictures, SIZE), pictures.float() / 255)


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_a_normalisation_is_torchvisions(name: str) -> None:
    pictures = noise(3, SIZE)
    mean, std = NORMALISATIONS[name]
    seen = PictureTransform(AUGMENTATIONS["none"], SIZE, name)(pictures, None)
    assert torch.allclose(seen, reference.normalize(pictures.float() / 255, mean, std), atol=1e-6)
    assert not torch.allclose(seen, reference.normalize(pictures.float() / 255, mean[::-1], (1, 1, 1)), atol=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_gpu_sees_the_pixels_that_a_cpu_sees(name: str) -> None:
    transform = PictureTransform(AUGMENTATIONS[name], SIZE, "imagenet")
    pictures, draws = noise(7, SIZE), random_draws(7)
    seen = transform(pictures, draws)
    on_gpu = transform(pictures.cuda(), draws.cuda()).cpu()
    assert torch.allclose(on_gpu, seen, atol=1e-3)
    assert not torch.allclose(on_gpu, seen.flip(0), atol=0.1)
