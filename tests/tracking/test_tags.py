"""The schema of a record: one page has every tag, their names stay, and nobody writes one by hand."""

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

import accelmlf
from accelmlf.run.one_run import one_run
from accelmlf.run.tracker import MemoryTracker
from accelmlf.tracking import tags
from accelmlf.tracking.store import open_store
from accelmlf.tracking.tags import PREFIX, under
from accelmlf.tracking.tracker import MlflowTracker
from tests.makers import make_config

PACKAGE = Path(accelmlf.__file__).parent
PAGE = Path(tags.__file__)
NAMES = {
    "ablation", "ablation_arm", "arm", "block", "choice", "choice_reason", "choice_refused", "code.", "code.commit",
    "code.uncommitted_changes", "command", "config.", "continued_by", "data_digest", "device_key", "ended_at", "error",
    "hardware.", "kind", "outcome", "owner", "point", "resumed_in_epoch", "sampler", "skipped_techniques", "space.",
    "speed_key", "stopped_by", "study", "study_id", "techniques_chosen", "trial", "unfit", "verdict",
    "version.", "weights_source", "winner_command",
}  # fmt: skip
"""As stores of every version have them, without PREFIX; a group ends with a point."""
OF_WEIGHTS = {"accelmlf.model", "accelmlf.architecture"}
"""Keys in a file of weights, which are no tags."""


def constants() -> dict[str, str]:
    """The constants of the page that are tags."""
    found = {name: text for name, text in vars(tags).items() if isinstance(text, str) and name.isupper()}
    return {name: text for name, text in found.items() if text.startswith(PREFIX) and text != PREFIX}


def literals() -> Iterator[tuple[str, str]]:
    """Every text of the package that looks like a tag, with its file; the names of modules are none."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(PREFIX):
                module = PACKAGE.parent / node.value.replace(".", "/")
                if not (module.is_dir() or module.with_suffix(".py").is_file()) or node.value in constants().values():
                    yield node.value, str(path.relative_to(PACKAGE))


def is_known(tag: str) -> bool:
    groups = tuple(text for text in constants().values() if text.endswith("."))
    return tag in constants().values() or tag.startswith(groups)


def test_the_names_of_tags_are_those_that_stores_have() -> None:
    assert set(constants().values()) == {PREFIX + name for name in NAMES}
    assert len(constants()) == len(NAMES)


def test_every_tag_on_the_page_says_what_it_holds() -> None:
    body = ast.parse(PAGE.read_text()).body
    told = {
        node.targets[0].id
        for node, after in itertools.pairwise(body)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(after, ast.Expr)
    }
    assert constants().keys() <= told


def test_nobody_names_a_tag_by_hand() -> None:
    found = set(literals())
    assert found - {(text, path) for text, path in found if text in OF_WEIGHTS} == set()
    assert {text for text, _ in found} >= OF_WEIGHTS  # the control: what is there is found


@pytest.mark.usefixtures("tiny_model")
def test_every_tag_of_a_run_is_on_the_page_though_the_run_knows_none(store: mlflow.MlflowClient) -> None:
    memory, run_id = MemoryTracker(), store.create_run("0").info.run_id
    config = make_config(epochs=1)
    for tracker in (memory, MlflowTracker(open_store(), run_id)):
        one_run(config, tracker, quiet=True, labels={"techniques_chosen": "1.20x as fast as without"})
    own = {name for name in store.get_run(run_id).data.tags if name.startswith(PREFIX)}
    assert under(PREFIX, memory.tags).keys() < own
    assert [name for name in own if not is_known(name)] == []
    assert not is_known(PREFIX + "anything")  # the control
