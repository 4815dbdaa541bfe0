"""Where a network's weights come from and go to: safetensors only, from the hub, a folder or a former run."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from accelmlf.errors import DataError
from accelmlf.settings.run import MODEL_FILE

HUB_TIMEOUT_S = 5
HOW_TO_GET_WEIGHTS = f"Give weights=<folder with config.json and {MODEL_FILE}>, weights=random, or connect to the hub"
Architecture = dict[str, Any]
"""What, beside the number of classes, is needed to build a network again; written into the file of weights."""


def save_weights(network: nn.Module, path: Path, *, model: str) -> None:
    """Weights and what is needed to build the network again, as one safetensors file."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"accelmlf.model": model, "accelmlf.architecture": json.dumps(network.architecture)}
    save_file(state, path, metadata)


def load_all_but_head(network: nn.Module, state: dict[str, Tensor], head: str, source: Path) -> None:
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


def fetch(weights: str, hub_id: str) -> tuple[Path, str]:
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
