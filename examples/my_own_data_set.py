"""A data set of one's own: a function, a row of DATASETS, and one of RECIPES per model that is to train on it.

From the project's folder: .venv/bin/python -m examples.my_own_data_set
"""

from dataclasses import replace
from pathlib import Path

import torch

from accelmlf.data.datasets import DATASETS, PictureSets
from accelmlf.data.pictures import ArraySource
from accelmlf.run.one_run import one_run
from accelmlf.run.tracker import MemoryTracker
from accelmlf.settings.recipes import RECIPES, VIT_DIGITS, resolve

SIDE = 8
DIRECTIONS = {"horizontal": (0.0, 1.0), "vertical": (1.0, 0.0), "diagonal": (0.7, 0.7)}


def stripes(data_dir: Path, image_size: int) -> PictureSets:
    """Noisy stripes in three directions, 8 x 8, made on the spot: 600 for training, 150 for test."""
    return PictureSets(train=drawn(600, seed=0), test=drawn(150, seed=1), class_names=tuple(DIRECTIONS))


def drawn(count: int, *, seed: int) -> ArraySource:
    """Pictures uint8 [count, 3, 8, 8] and their labels, always the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(DIRECTIONS)
    across, down = torch.tensor(list(DIRECTIONS.values()))[labels].T.view(2, count, 1, 1)
    row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    phase = torch.rand(count, 1, 1, generator=generator) * 2 * torch.pi
    waves = (1.5 * (across * column + down * row) + phase).sin()
    noise = torch.randn(count, SIDE, SIDE, generator=generator)
    grey = (128 + 60 * waves + 10 * noise).clamp(0, 255).to(torch.uint8)
    return ArraySource(grey[:, None].expand(-1, 3, -1, -1).contiguous(), labels)


DATASETS["stripes"] = stripes
# (model, data set, first weights); here with what the ViT has on the digits, and what differs.
RECIPES["vit", "stripes", "random"] = replace(VIT_DIGITS, epochs=3, augmentation="none", normalisation="half")

if __name__ == "__main__":
    one_run(resolve({"model": "vit", "dataset": "stripes", "save_model": False}), MemoryTracker())
