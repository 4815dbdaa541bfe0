"""What is known of a run before it is started is what the run itself then finds."""

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from accelmlf import __version__
from accelmlf.errors import AccelmlfError, ConfigError, DataError, DeviceError
from accelmlf.machine.devices import device_key
from accelmlf.machine.facts import DECIDES_SPEED
from accelmlf.machine.isolation import call
from accelmlf.many_runs.preflight import Preflight, common_facts, digest_of, look
from accelmlf.many_runs.server import start_server
from accelmlf.run.one_run import one_run
from accelmlf.run.plan import settle
from accelmlf.run.tracker import MemoryTracker
from accelmlf.run.workload import prepare
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig
from accelmlf.settings.technique_list import TechniqueList
from accelmlf.techniques.catalogue import TECHNIQUES
from accelmlf.techniques.stack import technique_sets
from tests.data.makers import write_folder
from tests.makers import make_config, make_splits

ROOT = Path(__file__).parents[2]
ASKING = """
import torch
from accelmlf.machine.isolation import call
from accelmlf.many_runs.server import start_server
from accelmlf.many_runs.preflight import look
from accelmlf.settings.recipes import resolve
if __name__ == "__main__":
    start_server("vit")
    call(look, resolve({"model": "vit", "device": "cuda", "train_images": 100}), False)
    print(torch.cuda.is_initialized())
"""
CPU = torch.device("cpu")
PIPELINES = settable_fields(RunConfig)["pipeline"].metadata["choices"]


def config_of(**settings: Any) -> RunConfig:
    return resolve({"model": "vit", "device": "cpu", "train_images": 100, "epochs": 1, **settings})


def made_ready(techniques: TechniqueList, pipeline: str) -> TechniqueList:
    """All of a run of the tiny network up to its first step; the techniques as they were understood."""
    config = replace(make_config(pipeline=pipeline), techniques=techniques)
    settled, stack, skipped = settle(config)
    assert skipped == []
    with stack.process_context():
        prepare(settled, make_splits(), stack, "random")
    return settled.techniques


def words_of(techniques: TechniqueList) -> set[str]:
    return set(techniques.words)


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_set_of_techniques_can_be_run_and_no_other_set_can(pipeline: str) -> None:
    found = technique_sets(CPU, pipeline)
    assert TechniqueList() in found
    assert len(set(found)) == len(found)
    for labels in found:
        assert made_ready(labels, pipeline) == labels
    # The control: what was left out is refused, each set by the rule that it breaks.
    refused = 0
    left = [set(words) for size in range(1, 4) for words in itertools.combinations(TECHNIQUES, size)]
    for words in (words for words in left if words not in [words_of(labels) for labels in found]):
        with pytest.raises((ConfigError, DeviceError)):
            made_ready(TechniqueList(tuple(sorted(words))), pipeline)
        refused += 1
    assert refused > 0


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_no_set_holds_a_technique_beside_one_that_replaces_it(pipeline: str) -> None:
    sets = [words_of(labels) for labels in technique_sets(CPU, pipeline)]
    for word, kind in TECHNIQUES.items():
        assert not [words for words in sets if word in words and words & set(kind.replaces)], word
    replaced = {word for kind in TECHNIQUES.values() for word in kind.replaces}
    assert replaced & set().union(*sets)  # the control: there is one on this device, on its own


def test_only_a_set_that_is_held_can_be_resident() -> None:
    in_memory, streamed = ({words for labels in technique_sets(CPU, name) for words in words_of(labels)}
                           for name in ("memory", "stream"))  # fmt: skip
    assert in_memory - streamed == {word for word, kind in TECHNIQUES.items() if kind.pipelines == ("memory",)}
    assert "resident" in in_memory
    assert streamed < in_memory


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_sets_of_a_cpu_have_nothing_that_needs_cuda(pipeline: str) -> None:
    words = set().union(*(words_of(labels) for labels in technique_sets(CPU, pipeline)))
    assert not words & {word for word, kind in TECHNIQUES.items() if kind.needs == "CUDA"}
    assert "channels_last" in words


@pytest.mark.parametrize("wanted", [True, False])
def test_technique_sets_are_there_only_where_they_are_asked_for(wanted: bool) -> None:
    assert bool(look(config_of(), with_technique_sets=wanted).technique_sets) is wanted


@pytest.mark.parametrize("pipeline", ["memory", "stream"])
@pytest.mark.parametrize("dataset", ["digits", "folder"])
def test_a_look_finds_the_data_that_the_run_then_has(dataset: str, pipeline: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dataset": dataset, "pipeline": pipeline}
    if dataset == "folder":
        write_folder(tmp_path)
        settings |= {"data_dir": str(tmp_path), "train_images": None, "image_size": 8}
    config = config_of(**settings, weights="random", save_model=False)
    seen, tracker = look(config, with_technique_sets=False), MemoryTracker()
    one_run(config, tracker, read_test=False)
    assert tracker.dataset is not None and tracker.config is not None
    assert (seen.data_digest, seen.sizes) == (tracker.dataset.digest, tracker.dataset.sizes)
    assert seen.config == tracker.config
    other = look(config_of(train_images=101), with_technique_sets=False)
    assert other.data_digest != seen.data_digest


def test_a_look_says_what_of_the_preset_the_device_leaves_out() -> None:
    seen = look(config_of(tuned=True), with_technique_sets=False)
    assert "pin_memory" in [technique.label for technique in seen.skipped]
    assert "pin_memory" not in seen.config.techniques.words
    assert seen.config.device == "cpu"


@pytest.mark.parametrize(("model", "expected"), [("resnet50", True), ("efficientnet_b0", True), ("vit", False)])
def test_a_look_knows_which_models_have_batch_norm(model: str, expected: bool) -> None:
    assert look(config_of(model=model), with_technique_sets=False).has_batch_norm is expected


@pytest.mark.parametrize(
    ("settings", "kind", "setting"),
    [
        ({"dataset": "folder", "data_dir": "nowhere"}, DataError, "data_dir"),
        ({"train_images": 5000}, DataError, "train_images"),
        ({"device": "cuda:99"}, DeviceError, "device"),
        ({"device": "gpu"}, ConfigError, "device"),
        ({"techniques": "pin_memory"}, DeviceError, "techniques"),
        ({"techniques": "resident,workers:1"}, ConfigError, "techniques"),
    ],
)
def test_what_is_not_there_is_an_error_before_anything_is_run(
    settings: dict[str, Any], kind: type[AccelmlfError], setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind) as error:
        look(config_of(**settings), with_technique_sets=False)
    assert error.value.setting == setting
    assert list(tmp_path.iterdir()) == []


def test_a_look_leaves_the_device_a_name_that_can_be_part_of_a_file_name() -> None:
    seen = look(config_of(), with_technique_sets=False)
    assert seen.device_key == device_key(CPU) == "cpu"
    assert "/" not in seen.device_key


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_looking_at_a_gpu_leaves_it_alone_in_the_process_that_asked() -> None:
    """What is initialised there would hold memory of the device as long as the search goes on."""
    start_server("vit")
    seen = call(look, config_of(device="cuda"), False)
    assert seen.device_key == str(torch.cuda.get_device_properties(0).uuid)
    process = [sys.executable, "-c", ASKING]
    assert subprocess.run(process, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split() == ["False"]


# --- what all runs of a study have in common ---


def test_the_facts_of_a_study_are_its_settings_its_data_its_machine_and_the_versions(seen: Preflight) -> None:
    facts, settings = common_facts(seen), seen.config.as_texts()
    free = {"save_model", "data_dir", "device", "arm", "effective_batch_size"}
    assert {name for name in settings if name not in facts} == free
    assert all(facts[name] == text for name, text in settings.items() if name not in free)
    hardware = seen.environment["hardware"]
    assert {name: text for name, text in facts.items() if name not in settings} == {
        "cpu": hardware["cpu"],
        "cpu_threads_used": str(hardware["cpu_threads_used"]),
        "torch": seen.environment["versions"]["torch"],
        "data": seen.data_digest,
        "device_type": "cpu",
        "accelmlf": __version__,
    }


def test_what_a_study_varies_by_itself_is_none_of_its_facts(seen: Preflight) -> None:
    varied = {"seed", "batch_size", "techniques"}
    assert common_facts(seen).keys() - common_facts(seen, without=varied).keys() == varied


@pytest.mark.parametrize("fact", DECIDES_SPEED)
def test_another_machine_has_other_facts(seen: Preflight, fact: str) -> None:
    part, name = fact.split(".")
    part = {"version": "versions"}.get(part, part)
    other = replace(seen, environment={**seen.environment, part: {**seen.environment[part], name: "another"}})
    assert common_facts(other) == common_facts(seen) | {name: "another"}
    memory = {**seen.environment["hardware"], "memory_gib": 1.0}  # the control
    assert common_facts(replace(seen, environment={**seen.environment, "hardware": memory})) == common_facts(seen)


def test_the_digest_of_facts_depends_on_all_of_them_and_not_on_their_order() -> None:
    facts = {"b": "1", "a": {"d": 2, "c": 3}}
    assert digest_of(facts) == digest_of({"a": {"c": 3, "d": 2}, "b": "1"})
    assert digest_of(facts) == "a79202a770a191b6577838d18cc9f0eaf6b489e176bafff537def6f11fbdff7d"
    assert digest_of(facts) != digest_of(facts | {"b": "2"})
