"""The three networks, and where their weights come from: safetensors only, from the hub, a folder or a former run.

Weights that cannot be had are an error; nothing starts from random weights that was not asked to.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from accelmlf.config import pick
from accelmlf.errors import DataError
from accelmlf.vit import small_vit, vit, vit_from_source

MODEL_FILE = "model.safetensors"
HUB_TIMEOUT_S = 5
HOW_TO_GET_WEIGHTS = f"Give weights=<folder with config.json and {MODEL_FILE}>, weights=random, or connect to the hub"
Architecture = dict[str, Any]
"""What, beside the number of classes, is needed to build a network again; written into the file of weights."""


@dataclass(frozen=True)
class ModelFamily:
    """One row of MODELS. `head`: the prefix of the parameters that depend on the classes."""

    build: Callable[[Architecture, int], nn.Module]
    from_scratch: Callable[[int], Architecture]
    hub_id: str
    from_source: Callable[[Path, int], tuple[nn.Module, Architecture]]
    head: str


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
        folder, source = (path, str(path.resolve())) if local and path.is_dir() else _fetch(weights, family.hub_id)
        try:
            network, architecture = family.from_source(folder, num_classes)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            rule = f"{folder} has no usable {model} weights ({error})"
            raise DataError("weights", weights, rule, f"Give a folder with {MODEL_FILE} of a {model}") from None
    network.architecture, network.source = architecture, source  # type: ignore[assignment]
    return network


def save_weights(network: nn.Module, path: Path, *, model: str) -> None:
    """Weights and what is needed to build the network again, as one safetensors file."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"accelmlf.model": model, "accelmlf.architecture": json.dumps(network.architecture)}
    save_file(state, path, metadata)


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
    _load_all_but_head(network, state, family.head, path)
    return network, architecture


def _load_all_but_head(network: nn.Module, state: dict[str, Tensor], head: str, source: Path) -> None:
    """Load `state`; the head only where its shape fits (another number of classes gets a new one)."""
    own = network.state_dict()
    fitting = {
        name: value
        for name, value in state.items()
        if not (name.startswith(head) and (name not in own or own[name].shape != value.shape))
    }
    try:
        missing, unexpected = network.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        raise DataError("weights", source, f"other shapes than the network's ({error})", "Give weights of it") from None
    missing = [name for name in missing if not name.startswith(head)]
    if wrong := (missing + unexpected)[:3]:
        remedy = "Give weights of the same network"
        raise DataError("weights", source, f"not this network's parameters: {', '.join(wrong)}", remedy)


def _fetch(weights: str, hub_id: str) -> tuple[Path, str]:
    """The folder in the hub's cache with config.json and model.safetensors, and which revision it is."""
    if weights.startswith((".", "/", "~")) or weights.endswith(".safetensors") or "\\" in weights:
        raise DataError("weights", weights, "there is no such file or folder", HOW_TO_GET_WEIGHTS)
    source = hub_id if weights == "pretrained" else weights
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "15")
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    unreachable: Exception | None = None
    try:
        # A download tries six times, with up to a minute each; a machine without a network should hear it at once.
        get_hf_file_metadata(hf_hub_url(source, MODEL_FILE), timeout=HUB_TIMEOUT_S)
    except Exception as error:  # the hub's client raises many kinds, some of its HTTP library's
        unreachable = error
    try:
        hf_hub_download(source, "config.json", local_files_only=unreachable is not None)
        folder = Path(hf_hub_download(source, MODEL_FILE, local_files_only=unreachable is not None)).parent
        return folder, f"{source}@{folder.name}"  # the cache has it as snapshots/<commit>
    except Exception as error:
        lines = str(unreachable or error).splitlines()
        reason = lines[0] if lines else type(unreachable or error).__name__
        rule = f"{source} is no file or folder here, and the hub did not give it ({reason})"
        raise DataError("weights", weights, rule, HOW_TO_GET_WEIGHTS) from None


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
        _load_all_but_head(network, load_file(folder / MODEL_FILE), head, folder)
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
    ),
    "vit": ModelFamily(
        build=vit,
        from_scratch=small_vit,
        hub_id="google/vit-base-patch16-224-in21k",
        from_source=vit_from_source,
        head="classifier.classifier.",
    ),
}


def has_batch_norm(network: nn.Module) -> bool:
    """Whether gradient accumulation is only approximately a larger batch: statistics are per micro-batch."""
    return any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in network.modules())
