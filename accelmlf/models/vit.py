"""transformers' ViT as a function of pictures: from random weights, and from a folder that transformers saved."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class VisionTransformer(nn.Module):
    """ViT as a function of the pictures alone; its position table is resampled for other sizes."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pictures: Tensor) -> Tensor:
        resample = pictures.shape[-1] != self.classifier.config.image_size  # type: ignore[union-attr]
        logits: Tensor = self.classifier(pixel_values=pictures, interpolate_pos_encoding=resample).logits
        return logits


def vit(architecture: dict[str, Any], num_classes: int) -> nn.Module:
    """A ViT with random weights; `architecture`: the VIT_FIELDS that are not transformers' usual ones."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(**architecture, num_labels=num_classes)
    return VisionTransformer(ViTForImageClassification(config))


def small_vit(image_size: int) -> dict[str, Any]:
    """A ViT that learns small pictures from random weights: patches of an eighth of the side (4 of 32 pixels)."""
    return {
        "image_size": image_size,
        "patch_size": max(2, image_size // 8),
        "hidden_size": 128 if image_size <= 16 else 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "intermediate_size": 256 if image_size <= 16 else 384,
    }


VIT_FIELDS = {
    "image_size",
    "patch_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "qkv_bias",
}
"""What of a ViT's configuration decides its computation."""


def vit_from_source(folder: Path, num_classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """The ViT that transformers saved in `folder`, with a new head where the number of classes differs.

    Raises:
        ValueError: weights that do not fit their description.
    """
    from transformers import ViTForImageClassification

    with _quiet_transformers():
        loaded: Any = ViTForImageClassification.from_pretrained(
            folder,
            num_labels=num_classes,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # for the head; whatever else does not fit is refused below
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.float32,  # else a file in half precision makes a network in half precision
        )
    classifier, report = loaded
    mismatched = {name for name, *_ in report["mismatched_keys"]}
    wrong = mismatched.union(report["missing_keys"], report["unexpected_keys"])
    # Without a head of its own a ViT may have a pooler, which classification does not use.
    if wrong := {name for name in wrong if not name.startswith(("classifier.", "pooler.", "vit.pooler."))}:
        raise ValueError(f"{len(wrong)} parameters do not fit its config.json, {min(wrong)} among them")
    kept = VIT_FIELDS & classifier.config.to_dict().keys()
    return VisionTransformer(classifier), {name: classifier.config.to_dict()[name] for name in sorted(kept)}


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without its bar and its report: what of them matters is checked by their reader."""
    from transformers.utils import logging

    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()
