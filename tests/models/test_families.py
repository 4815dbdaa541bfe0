import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from accelmlf.errors import ConfigError, DataError
from accelmlf.models.families import MODELS, build_model, has_batch_norm
from accelmlf.models.weights import save_weights
from accelmlf.settings.run import MODEL_FILE
from tests.data.makers import serve

EVERY_MODEL = pytest.mark.parametrize("model", MODELS)
SMALL_SIDES = {"resnet50": (8, 32), "efficientnet_b0": (32,), "vit": (8, 16, 32)}
TINY_VIT = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
QUICKLY_S = 5


def small(model: str, num_classes: int = 3, *, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(model, "random", num_classes=num_classes, image_size=16)


def equal_parts(network: nn.Module, other: dict[str, Tensor], *, but: str = "no prefix") -> bool:
    own = {name: value for name, value in network.state_dict().items() if not name.startswith(but)}
    return bool(own) and all(torch.equal(value, other[name]) for name, value in own.items())


def vit_folder(folder: Path, *, head: bool = True, **changes: int) -> dict[str, Tensor]:
    """A tiny ViT as transformers saves it; its weights."""
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    torch.manual_seed(1)
    settings: dict[str, Any] = {**TINY_VIT, **changes, "num_labels": 5}
    config = ViTConfig(**settings)
    network: Any = ViTForImageClassification(config) if head else ViTModel(config)
    network.save_pretrained(folder)
    return dict(network.state_dict())


def imagenet_folder(model: str, folder: Path) -> dict[str, Tensor]:
    """Weights under the names that the hub's file has; a head of 1,000 classes."""
    import timm

    torch.manual_seed(1)
    state = timm.create_model(model, num_classes=1000).state_dict()
    folder.mkdir()
    save_file(state, folder / MODEL_FILE)
    return dict(state)


# from random weights


@pytest.mark.parametrize(("model", "side"), [(model, side) for model in MODELS for side in SMALL_SIDES[model]])
def test_a_model_takes_small_pictures_and_one_step_changes_every_weight(model: str, side: int) -> None:
    torch.manual_seed(0)
    network = build_model(model, "random", num_classes=7, image_size=side)
    before = {name: value.clone() for name, value in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # the first step leaves what a zero factor hides
        logits = network(torch.randn(4, 3, side, side))
        F.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
    assert logits.shape == (4, 7)
    same = [name for name, value in network.named_parameters() if torch.equal(value, before[name])]
    assert [name for name in same if "key.bias" not in name and "k_proj.bias" not in name] == []


@EVERY_MODEL
def test_the_seed_decides_the_random_weights(model: str) -> None:
    network = small(model)
    assert equal_parts(network, small(model).state_dict())
    assert not equal_parts(network, small(model, seed=1).state_dict())


@EVERY_MODEL
def test_the_head_is_what_depends_on_the_classes(model: str) -> None:
    shapes = [{name: value.shape for name, value in small(model, classes).state_dict().items()} for classes in (3, 4)]
    different = {name for name in shapes[0] if shapes[0][name] != shapes[1][name]}
    assert different
    assert all(name.startswith(MODELS[model].head) for name in different)


def test_resnet50_from_scratch_does_not_reduce_small_pictures_in_its_stem() -> None:
    network = small("resnet50")
    assert network.conv1.stride == (1, 1)
    assert isinstance(network.maxpool, nn.Identity)


@pytest.mark.parametrize(("model", "expected"), [("resnet50", True), ("efficientnet_b0", True), ("vit", False)])
def test_models_with_batch_norm_are_known(model: str, expected: bool) -> None:
    assert has_batch_norm(small(model)) is expected


def test_an_unknown_model_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean resnet50"):
        build_model("resnet-50", "random", num_classes=2, image_size=8)


# a file that a run saved


@EVERY_MODEL
def test_saved_weights_build_the_same_network_whatever_size_is_asked_for(model: str, tmp_path: Path) -> None:
    network = small(model)
    save_weights(network, tmp_path / "x.safetensors", model=model)
    again = build_model(model, str(tmp_path / "x.safetensors"), num_classes=3, image_size=32)
    pictures = torch.randn(2, 3, 32, 32)
    assert equal_parts(again, network.state_dict())
    assert torch.equal(again.eval()(pictures), network.eval()(pictures))
    assert not torch.equal(again(pictures), small(model, seed=1).eval()(pictures))
    assert again.architecture == network.architecture
    assert [str(each.source) for each in (network, again)] == ["random", str(tmp_path / "x.safetensors")]


@EVERY_MODEL
def test_another_number_of_classes_gets_a_new_head_and_keeps_the_rest(model: str, tmp_path: Path) -> None:
    network, head = small(model), MODELS[model].head
    save_weights(network, tmp_path / "x.safetensors", model=model)
    again = build_model(model, str(tmp_path / "x.safetensors"), num_classes=8, image_size=16)
    assert again.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 8)
    assert equal_parts(again, network.state_dict(), but=head)
    assert not equal_parts(again, small(model, seed=1).state_dict(), but=head)


@pytest.fixture(scope="module")
def saved_vit(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "x.safetensors"
    save_weights(small("vit"), path, model="vit")
    return path.read_bytes()


@pytest.mark.parametrize("kept", [0, 4, 100, 100_000, -1])
def test_a_file_that_was_cut_is_refused(saved_vit: bytes, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(saved_vit)
    build_model("vit", str(path), num_classes=3, image_size=16)
    path.write_bytes(saved_vit[:kept])
    with pytest.raises(DataError, match=r"cut\.safetensors: not a readable safetensors file"):
        build_model("vit", str(path), num_classes=3, image_size=16)


@pytest.mark.parametrize("content", [b"garbage", b"\xff" * 64, b"\x80\x02}q\x00."], ids=["text", "length", "pickle"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable safetensors file"):
        build_model("vit", str(path), num_classes=3, image_size=16)


def test_a_file_of_another_model_is_refused(saved_vit: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(saved_vit)
    with pytest.raises(DataError, match="holds weights of vit, not of resnet50"):
        build_model("resnet50", str(path), num_classes=3, image_size=16)
    save_file(load_file(path), path)
    with pytest.raises(DataError, match="weights of an unknown model"):
        build_model("vit", str(path), num_classes=3, image_size=16)


@pytest.mark.parametrize("text", [None, "{", "[]", "3", '{"hidden_size": "many"}', '{"stem": "cifar"}'])
def test_a_file_that_does_not_say_how_its_network_is_built_is_refused(tmp_path: Path, text: str | None) -> None:
    path, network = tmp_path / "x.safetensors", small("vit")
    for architecture in (json.dumps(network.architecture), text):
        metadata = {} if architecture is None else {"accelmlf.architecture": architecture}
        save_file(dict(network.state_dict()), path, {"accelmlf.model": "vit", **metadata})
        if architecture != text:
            build_model("vit", str(path), num_classes=3, image_size=16)
    with pytest.raises(DataError, match=r"x\.safetensors: (the file does not say how|.*parameters|other shapes)"):
        build_model("vit", str(path), num_classes=3, image_size=16)


@pytest.mark.parametrize("spoil", ["missing", "extra", "shape"])
def test_a_file_with_other_parameters_than_the_networks_is_refused(tmp_path: Path, spoil: str) -> None:
    network, path = small("vit"), tmp_path / "x.safetensors"
    save_weights(network, path, model="vit")
    state = load_file(path)
    name = "classifier.vit.embeddings.cls_token"
    changed = {
        "missing": {},
        "extra": {name: state[name], "odd": torch.zeros(1)},
        "shape": {name: torch.zeros(1, 1, 5)},
    }
    metadata = {"accelmlf.model": "vit", "accelmlf.architecture": json.dumps(network.architecture)}
    save_file({k: v for k, v in state.items() if k != name} | changed[spoil], path, metadata)
    with pytest.raises(DataError, match="other shapes" if spoil == "shape" else "not this network's parameters"):
        build_model("vit", str(path), num_classes=3, image_size=16)


def test_a_file_and_a_folder_are_found_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_weights(small("vit"), tmp_path / "x.safetensors", model="vit")
    vit_folder(tmp_path / "folder")
    for name in ("x.safetensors", "folder"):
        network = build_model("vit", f"~/{name}", num_classes=3, image_size=16)
        assert network.source == str(tmp_path / name)


# a folder in the hub's form


@pytest.mark.parametrize("head", [True, False])
def test_a_vit_that_transformers_saved_keeps_its_weights(tmp_path: Path, head: bool) -> None:
    stored = vit_folder(tmp_path, head=head)
    network = build_model("vit", str(tmp_path), num_classes=3, image_size=16)
    backbone = {name: value for name, value in stored.items() if not name.startswith(("classifier", "pooler"))}
    prefix = "classifier." if head else "classifier.vit."
    own = network.state_dict()
    assert len(backbone) == len(own) - 2
    assert all(torch.equal(own[prefix + name], value) for name, value in backbone.items())
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 3)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_a_vit_from_a_folder_can_be_saved_and_built_again(tmp_path: Path) -> None:
    vit_folder(tmp_path)
    network = build_model("vit", str(tmp_path), num_classes=3, image_size=16)
    save_weights(network, tmp_path / "run.safetensors", model="vit")
    again = build_model("vit", str(tmp_path / "run.safetensors"), num_classes=3, image_size=16)
    pictures = torch.randn(2, 3, 16, 16)
    assert torch.equal(again.eval()(pictures), network.eval()(pictures))
    assert again.architecture == network.architecture


def test_a_vit_in_half_precision_is_trained_in_full(tmp_path: Path) -> None:
    vit_folder(tmp_path)
    stored = {name: value.half() for name, value in load_file(tmp_path / MODEL_FILE).items()}
    save_file(stored, tmp_path / MODEL_FILE, {"format": "pt"})
    description = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(description | {"dtype": "float16"}))
    network = build_model("vit", str(tmp_path), num_classes=3, image_size=16)
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    assert torch.equal(
        network.state_dict()["classifier.vit.embeddings.cls_token"].half(), stored["vit.embeddings.cls_token"]
    )


@pytest.mark.parametrize(
    "change",
    [{"image_size": 32}, {"intermediate_size": 96}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}],
    ids=str,
)
def test_a_vit_whose_weights_do_not_fit_its_description_is_refused_and_never_random(
    tmp_path: Path, change: dict[str, int]
) -> None:
    vit_folder(tmp_path)
    description = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(description | change))
    with pytest.raises(DataError, match=r"parameters do not fit its config\.json"):
        build_model("vit", str(tmp_path), num_classes=3, image_size=16)


@pytest.mark.parametrize("model", ["resnet50", "efficientnet_b0"])
def test_a_folder_with_imagenet_weights_keeps_all_but_the_head(tmp_path: Path, model: str) -> None:
    stored = imagenet_folder(model, tmp_path / "folder")
    network = build_model(model, str(tmp_path / "folder"), num_classes=3, image_size=32)
    assert equal_parts(network, stored, but=MODELS[model].head)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    if model == "resnet50":
        assert network.conv1.weight.shape == (64, 3, 7, 7)  # type: ignore[union-attr]
        assert isinstance(network.maxpool, nn.MaxPool2d)
    save_weights(network, tmp_path / "run.safetensors", model=model)
    again = build_model(model, str(tmp_path / "run.safetensors"), num_classes=3, image_size=32)
    assert equal_parts(again, network.state_dict())


@EVERY_MODEL
@pytest.mark.parametrize("content", [None, b"", b"garbage"], ids=["absent", "empty", "garbage"])
def test_a_folder_without_usable_weights_is_refused(tmp_path: Path, model: str, content: bytes | None) -> None:
    vit_folder(tmp_path)
    (tmp_path / MODEL_FILE).unlink()
    if content is not None:
        (tmp_path / MODEL_FILE).write_bytes(content)
    with pytest.raises(DataError, match=f"no usable {model} weights") as caught:
        build_model(model, str(tmp_path), num_classes=3, image_size=32)
    assert MODEL_FILE in caught.value.remedy


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    vit_folder(tmp_path)
    with pytest.raises(DataError, match="not this network's parameters"):
        build_model("resnet50", str(tmp_path), num_classes=3, image_size=32)


@EVERY_MODEL
def test_a_folder_with_nothing_but_a_pickle_is_refused(tmp_path: Path, model: str) -> None:
    state = {**vit_folder(tmp_path), **small(model).state_dict()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / MODEL_FILE).unlink()
    with pytest.raises(DataError, match="no usable"):
        build_model(model, str(tmp_path), num_classes=3, image_size=32)


# the hub


def test_pretrained_is_never_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vit_folder(tmp_path / "pretrained")
    monkeypatch.chdir(tmp_path)
    assert build_model("vit", "./pretrained", num_classes=3, image_size=16).source == str(tmp_path / "pretrained")
    with pytest.raises(DataError, match="the hub did not give it"):
        build_model("vit", "pretrained", num_classes=3, image_size=16)


PATHS_OF_NOTHING = ["./absent", "../absent", "/absent", "~/absent", "~nobody/absent", "absent.safetensors", "a\\b"]


@pytest.mark.parametrize("weights", PATHS_OF_NOTHING)
def test_what_is_clearly_a_path_is_not_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    import huggingface_hub

    def ask(*_: object, **__: object) -> None:
        raise RuntimeError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", ask)
    with pytest.raises(DataError, match="the hub was asked"):
        build_model("vit", "absent/absent", num_classes=3, image_size=32)
    with pytest.raises(DataError, match="there is no such file or folder") as caught:
        build_model("vit", weights, num_classes=3, image_size=32)
    assert caught.value.value == weights
    assert "weights=<folder" in caught.value.remedy


@pytest.mark.parametrize("weights", ["pretrained", "nobody/nothing", "no such thing"])
@EVERY_MODEL
def test_weights_that_cannot_be_had_are_an_error_that_says_how_to_get_them(model: str, weights: str) -> None:
    started_s = time.monotonic()
    with pytest.raises(DataError) as caught:
        build_model(model, weights, num_classes=3, image_size=32)
    assert time.monotonic() - started_s < QUICKLY_S
    assert caught.value.value == weights
    source = MODELS[model].hub_id if weights == "pretrained" else weights
    for part in (source, "weights=<folder", MODEL_FILE, "weights=random"):
        assert part in str(caught.value)


ASK_THE_HUB = """
import json, time
from accelmlf.errors import DataError
from accelmlf.models.families import build_model

def ask(weights):
    started_s = time.monotonic()
    try:
        network = build_model("vit", weights, num_classes=5, image_size=16)
        answer = {"token": network.state_dict()["classifier.vit.embeddings.cls_token"].flatten().tolist()}
        answer["source"] = network.source
    except DataError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer | {"seconds": time.monotonic() - started_s}), flush=True)

ask("someone/tiny")
input()
ask("someone/tiny")
ask("someone/else")
"""


@pytest.mark.slow
def test_weights_come_from_the_hub_and_then_from_its_cache_and_else_not_at_all(tmp_path: Path) -> None:
    token = vit_folder(tmp_path / "hub" / "someone" / "tiny" / "resolve" / "main")["vit.embeddings.cls_token"]
    variables = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    with serve(tmp_path / "hub") as url:
        # A process of its own, because the hub's client reads these when it is imported.
        variables |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "*"}
        command = [sys.executable, "-c", ASK_THE_HUB]
        process = subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        fetched = json.loads(process.stdout.readline())
    rest, _ = process.communicate("the server is gone\n", timeout=60)
    cached, absent = map(json.loads, rest.splitlines())
    assert fetched["token"] == cached["token"] == token.flatten().tolist()
    assert fetched["source"] == cached["source"] == f"someone/tiny@{'0' * 40}"
    assert "someone/else is no file or folder here, and the hub did not give it" in absent["error"]
    assert max(cached["seconds"], absent["seconds"]) < QUICKLY_S


LOAD_TWICE = """
import sys
from transformers import ViTForImageClassification
from accelmlf.models.families import build_model

build_model("vit", sys.argv[1], num_classes=3, image_size=16)
print("now transformers itself", file=sys.stderr)
ViTForImageClassification.from_pretrained(sys.argv[1], num_labels=3, ignore_mismatched_sizes=True)
"""


@pytest.mark.slow
def test_a_vit_is_loaded_in_silence_and_transformers_is_as_loud_as_before_afterwards(tmp_path: Path) -> None:
    vit_folder(tmp_path)
    command = [sys.executable, "-c", LOAD_TWICE, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    ours, theirs = done.stderr.split("now transformers itself")
    for words in ("Loading weights", "LOAD REPORT"):
        assert words not in ours
        assert words in theirs
