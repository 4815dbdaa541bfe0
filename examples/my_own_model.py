"""A network of one's own: a class, a row of MODELS, and one of RECIPES per data set that it is to train on.

From the project's folder: .venv/bin/python -m examples.my_own_model
"""

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from torch import Tensor, nn

from accelmlf.models.families import MODELS, ModelFamily
from accelmlf.run.one_run import one_run
from accelmlf.run.tracker import MemoryTracker
from accelmlf.settings.recipes import RECIPES, RESNET50_DIGITS, resolve


class SmallNet(nn.Module):
    """Pictures [B, 3, S, S] of any size S -> logits [B, classes]."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, kernel_size=3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, kernel_size=3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
        )
        self.head = nn.Linear(2 * width * 4 * 4, num_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(pictures))
        return logits


def no_pretrained_weights(folder: Path, num_classes: int) -> NoReturn:
    raise ValueError("a small_net starts from random weights, or from those that a run saved")


MODELS["small_net"] = ModelFamily(
    build=lambda architecture, num_classes: SmallNet(architecture["width"], num_classes),
    # What `build` is given, and what is saved beside the weights so that they can be loaded again.
    from_scratch=lambda image_size: {"width": 16},
    hub_id="",
    from_source=no_pretrained_weights,
    head="head.",
)
# (model, data set, first weights); here with what the ResNet50 has on the digits, and what differs.
RECIPES["small_net", "digits", "random"] = replace(RESNET50_DIGITS, epochs=4, target_accuracy=0.8)

if __name__ == "__main__":
    one_run(resolve({"model": "small_net", "tuned": True, "save_model": False}), MemoryTracker())
