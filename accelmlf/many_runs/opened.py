"""The parent run of many: opened, with the device for itself; and what it says of itself."""

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress

from accelmlf.errors import Interrupted
from accelmlf.machine.facts import as_tags
from accelmlf.machine.processes import MANY_RUNS, sole_use
from accelmlf.many_runs.preflight import Preflight
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.run import RunConfig
from accelmlf.text import say
from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.store import open_store
from accelmlf.tracking.tags import DATA_DIGEST, PREFIX, SETTING, under
from accelmlf.tracking.tracker import MlflowTracker


@contextmanager
def recorded(kind: str, name: str | None = None) -> Iterator[ParentRun]:
    """An open run of a kind in the tracking store; whatever ends the block decides its outcome.

    `name`: what it is called if nobody has named it.

    Raises:
        TrackingError: the store does not answer.
    """
    with MlflowTracker(open_store()).run() as run:
        parent = ParentRun(run, kind)
        parent.claim(name)
        yield parent


@contextmanager
def opened(kind: str, device_key: str) -> Iterator[ParentRun]:
    """`recorded`, while no other search or ablation of this machine has the device.

    Raises:
        DeviceError: another one has it.
        TrackingError: the store does not answer.
    """
    with sole_use(device_key, MANY_RUNS), recorded(kind) as parent:
        try:
            yield parent
        except Interrupted:
            with suppress(OSError):  # the terminal may be gone
                say("what is complete is kept: the same command goes on from there")
            raise


def labels_of_parent(
    seen: Preflight, asked: Mapping[str, str], set_by_itself: Container[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Parameters and tags of a parent: what it was asked, the settings of its runs, their data, the machine.

    `set_by_itself`: settings of the runs that are no parameters, because the parent varies them.
    """
    texts = seen.config.as_texts()
    params = {name: texts[name] for name in settable_fields(RunConfig) if name not in set_by_itself}
    tags = under(SETTING, {**texts, **asked}) | under(PREFIX, as_tags(seen.environment))
    return {**asked, **params}, {**tags, DATA_DIGEST: seen.data_digest}
