"""What a drawn picture shows, seen from its pixels."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image


def drawn(path: Path) -> npt.NDArray[np.uint8]:
    """The pixels [H, W, 3] of a PNG that is not blank."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.array(image.convert("RGB"))
    assert pixels.std() > 5
    return pixels


def is_cut_off(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether something reaches the edge of the picture."""
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    return any(bool((edge < 250).any()) for edge in edges)
