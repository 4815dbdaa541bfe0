"""What happens to a stored picture before the network sees it: geometry, augmentation, normalisation.

Batched tensor operations with separate draws per picture, on whatever device the pictures are; the same functions
serve a single picture inside a loader process, so that both pipelines give the same pixels. Everything is
elementwise arithmetic and gathers (no matrix product, whose rounding would depend on the batch or on TF32).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

Augmentation = Callable[[Tensor, Tensor, int], Tensor]
"""(pictures uint8 [B, 3, s, s], draws [B, 6] in [0, 1), side S) -> float32 [B, 3, S, S] in [0, 1]"""


class PictureTransform:
    """Stored pictures uint8 [B, 3, s, s] to network input float32 [B, 3, S, S], with or without augmentation."""

    def __init__(self, augmentation: Augmentation, image_size: int, normalisation: str) -> None:
        self.augmentation, self.image_size = augmentation, image_size
        mean, std = NORMALISATIONS[normalisation]
        self.mean, self.std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)

    def __call__(self, pictures: Tensor, draws: Tensor | None) -> Tensor:
        if self.mean.device != pictures.device:
            self.mean, self.std = self.mean.to(pictures.device), self.std.to(pictures.device)
        if draws is None:
            seen = resize(pictures, self.image_size)
        else:
            seen = self.augmentation(pictures, draws, self.image_size)
        return (seen - self.mean) / self.std


def resize(pictures: Tensor, size: int) -> Tensor:
    """Pictures [B, 3, s, s] in 0..255 as float32 [B, 3, size, size] in [0, 1], bicubic."""
    scaled = pictures.float() / 255
    if pictures.shape[-1] == size:
        return scaled
    shrinks = pictures.shape[-1] > size
    resized = F.interpolate(scaled, (size, size), mode="bicubic", align_corners=False, antialias=shrinks)
    return resized.clamp(0, 1)


def unchanged(pictures: Tensor, _: Tensor, size: int) -> Tensor:
    """No augmentation; a function with a name, because it travels to loader processes."""
    return resize(pictures, size)


def crop_flip(pictures: Tensor, draws: Tensor, size: int) -> Tensor:
    """Random crop after reflect-padding by an eighth of the side (4 of 32 pixels), and a horizontal flip.

    One gather with reflected indices: no padded copy, and on uint8 where no resizing is needed.
    """
    if pictures.shape[-1] != size:
        pictures = resize(pictures, size) * 255
    padding = max(1, size // 8)
    steps = torch.arange(size, device=pictures.device)
    offsets = (draws[:, :2] * (2 * padding + 1)).long() - padding
    rows = _reflect(steps + offsets[:, :1], size)
    columns = _reflect(steps + offsets[:, 1:], size)
    columns = torch.where(draws[:, 2:3] < 0.5, columns.flip(1), columns)
    picture = torch.arange(len(pictures), device=pictures.device).view(-1, 1, 1, 1)
    channel = torch.arange(pictures.shape[1], device=pictures.device).view(1, -1, 1, 1)
    return pictures[picture, channel, rows[:, None, :, None], columns[:, None, None, :]].float() / 255


def affine(
    pictures: Tensor,
    draws: Tensor,
    size: int,
    *,
    degrees: float,
    translate: float,
    scale: float,
    shear: float,
    flip: bool,
) -> Tensor:
    """Random rotation and shear (degrees), translation (fraction of the side), zoom (1 +- scale), and flip."""
    signed = draws * 2 - 1
    angle, slant = (signed[:, i] * math.radians(d) for i, d in ((0, degrees), (1, shear)))
    shift = signed[:, 2:4] * 2 * translate
    zoom = 1 + signed[:, 4] * scale
    mirror = torch.where(draws[:, 5] < 0.5, -1.0, 1.0) if flip else torch.ones_like(zoom)
    cos, sin, tan = angle.cos() / zoom, angle.sin() / zoom, slant.tan()
    matrix = torch.stack([cos * mirror, -sin + cos * tan, sin * mirror, cos + sin * tan], 1)
    return _sample(pictures, matrix, shift, size)


def resized_crop_flip(pictures: Tensor, draws: Tensor, size: int) -> Tensor:
    """A random part of 8 to 100 % of the area with a ratio of 3/4 to 4/3, resized to the whole, and a flip.

    Where the part would be larger than the picture it is cut to the picture (torchvision draws again, up to ten times).
    """
    area = 0.08 + 0.92 * draws[:, 0]
    ratio = ((draws[:, 1] * 2 - 1) * math.log(4 / 3)).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    shift = (draws[:, 2:4] * 2 - 1) * (1 - torch.stack([width, height], 1))
    mirror = torch.where(draws[:, 4] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(width)
    return _sample(pictures, torch.stack([width * mirror, zero, zero, height], 1), shift, size)


def _sample(pictures: Tensor, matrix: Tensor, shift: Tensor, size: int) -> Tensor:
    """Bicubic samples where `matrix` [B, 4] and `shift` [B, 2] take the output grid; coordinates in [-1, 1]."""
    axis = (torch.arange(size, device=pictures.device) * 2 + 1) / size - 1
    y, x = axis.view(1, -1, 1), axis.view(1, 1, -1)
    a, b, c, d = (matrix[:, i].view(-1, 1, 1) for i in range(4))
    grid = torch.stack([a * x + b * y + shift[:, 0].view(-1, 1, 1), c * x + d * y + shift[:, 1].view(-1, 1, 1)], dim=-1)
    sampled = F.grid_sample(pictures.float() / 255, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return sampled.clamp(0, 1)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Positions outside 0..size-1 mirrored at the borders, without repeating them."""
    last = size - 1
    return last - (last - positions.abs()).abs()


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": unchanged,
    "crop_flip": crop_flip,
    "affine_flip": partial(affine, degrees=2, translate=0.02, scale=0.02, shear=2, flip=True),
    "resized_crop_flip": resized_crop_flip,
    "slight_affine": partial(affine, degrees=5, translate=0.03, scale=0.06, shear=0, flip=False),
}

NORMALISATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "digits": ((0.3053, 0.3053, 0.3053), (0.3760, 0.3760, 0.3760)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
