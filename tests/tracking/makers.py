"""Parent runs in a real store."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.store import Store, open_store
from accelmlf.tracking.tracker import MlflowTracker


@contextmanager
def parent_run(kind: str, study_id: str | None = None, store: Store | None = None) -> Iterator[ParentRun]:
    """An open parent run that has joined a study, by default one that no other test knows."""
    with MlflowTracker(store or open_store()).run() as run:
        parent = ParentRun(run, kind)
        parent.join("the-study", study_id or uuid.uuid4().hex, {}, {})
        yield parent
