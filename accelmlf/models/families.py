"""The networks: a table of families, and how one is built with its first weights.

Weights that cannot be had are an error; nothing starts from random weights that was not asked to.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from accelmlf.errors import DataError
from accelmlf.models.vit import small_vit, vit, vit_from_source
from accelmlf.models.weights import Architecture, fetch, load_all_but_head
from accelmlf.settings.fields import pick
from accelmlf.settings.run import MODEL_FILE


@dataclass(frozen=True)
class ModelFamily:
    """One row of MODELS: how a network is built, and where its first weights come from."""

    build: Callable[[Architecture, int], nn.Module]
    """(architecture, number of classes) -> network with random weights, from [B, 3, s, s] to logits [B, classes]."""
    from_scratch: Callable[[int], Architecture]
    """Side of the pictures in pixels -> the architecture for random weights: JSON values that `build` understands."""
    hub_id: str
    """The Hugging Face repository of weights=pretrained."""
    from_source: Callable[[Path, int], tuple[nn.Module, Architecture]]
    """(folder with safetensors, number of classes) -> network with those weights and its architecture."""
    head: str
    """The prefix of the parameters that depend on the classes."""
    imports: tuple[str, ...] = ()
    """Modules that building it imports: seconds that many runs pay once."""


def build_model(model: str, weights: str, *, num_classes: int, image_size: int) -> nn.Module:
    """A network with outputs [B, num_classes] for pictures [B, 3, image_size, image_size].

    `weights`: random, pretrained, a file that `save_weights` wrote, a folder or a hub id with safetensors.
    Of the result's attributes `architecture` is what `save_weights` stores, and `source` says which weights it has:
    random, a path, or <hub id>@<commit>.

    Raises:
        DataError: weights that are missing, unreachable, broken, or of another network.
    """
    family = pick(MODELS, model, "model")
    path = Path(os.path.expanduser(weights))  # noqa: PTH111 - that of Path raises where there is no such user
    local = weights != "pretrained"  # whatever files have that name
    if weights == "random":
        source, architecture = weights, family.from_scratch(image_size)
        network = family.build(architecture, num_classes)
    elif local and path.is_file():
        source, (network, architecture) = str(path.resolve()), _from_saved(model, path, num_classes)
    else:
        folder, source = (path, str(path.resolve())) if local and path.is_dir() else fetch(weights, family.hub_id)
        try:
            network, architecture = family.from_source(folder, num_classes)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            rule = f"{folder} has no usable {model} weights ({error})"
            raise DataError("weights", weights, rule, f"Give a folder with {MODEL_FILE} of a {model}") from None
    network.architecture, network.source = architecture, source  # type: ignore[assignment]
    return network


def _from_saved(model: str, path: Path, num_classes: int) -> tuple[nn.Module, Architecture]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        remedy = "Give a file that a run saved"
        raise DataError("weights", path, f"not a readable safetensors file ({error})", remedy) from None
    if metadata.get("accelmlf.model") != model:
        rule = f"the file holds weights of {metadata.get('accelmlf.model', 'an unknown model')}, not of {model}"
        raise DataError("weights", path, rule, "Give a file that a run of the same model saved")
    family = MODELS[model]
    try:
        architecture = json.loads(metadata["accelmlf.architecture"])
        network = family.build(architecture, num_classes)
    except Exception as error:  # whatever a network's library says of settings that are none
        rule = f"the file does not say how its network is built ({type(error).__name__}: {error})"
        raise DataError("weights", path, rule, "Give a file that a run saved") from None
    load_all_but_head(network, state, family.head, path)
    return network, architecture


def _resnet50(architecture: Architecture, num_classes: int) -> nn.Module:
    from torchvision.models import resnet50

    # Each block starts as the identity, which a deep network learns from sooner (Goyal et al. 2017, arXiv 1706.02677).
    network: nn.Module = resnet50(weights=None, num_classes=num_classes, zero_init_residual=True)
    if architecture["stem"] == "cifar":
        # Source: He et al. 2016 (arXiv 1512.03385), section 4.2: small pictures are not reduced by the stem.
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return network


def _efficientnet_b0(_: Architecture, num_classes: int) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model("efficientnet_b0", pretrained=False, num_classes=num_classes)
    return network


def _imagenet_source(
    build: Callable[[Architecture, int], nn.Module], architecture: Architecture, head: str
) -> Callable[[Path, int], tuple[nn.Module, Architecture]]:
    """Weights whose names are the network's own: timm's files for its EfficientNet and for torchvision's ResNet."""

    def load(folder: Path, num_classes: int) -> tuple[nn.Module, Architecture]:
        network = build(architecture, num_classes)
        load_all_but_head(network, load_file(folder / MODEL_FILE), head, folder)
        return network, architecture

    return load


MODELS: dict[str, ModelFamily] = {
    "resnet50": ModelFamily(
        build=_resnet50,
        from_scratch=lambda _: {"stem": "cifar"},
        hub_id="timm/resnet50.tv_in1k",
        from_source=_imagenet_source(_resnet50, {"stem": "imagenet"}, "fc."),
        head="fc.",
    ),
    "efficientnet_b0": ModelFamily(
        build=_efficientnet_b0,
        from_scratch=lambda _: {},
        hub_id="timm/efficientnet_b0.ra_in1k",
        from_source=_imagenet_source(_efficientnet_b0, {}, "classifier."),
        head="classifier.",
        imports=("timm",),
    ),
    "vit": ModelFamily(
        build=vit,
        from_scratch=small_vit,
        hub_id="google/vit-base-patch16-224-in21k",
        from_source=vit_from_source,
        head="classifier.classifier.",
        imports=("transformers.models.vit.modeling_vit",),
    ),
}


def has_batch_norm(network: nn.Module) -> bool:
    """Whether gradient accumulation is only approximately a larger batch: statistics are per micro-batch."""
    return any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in network.modules())
