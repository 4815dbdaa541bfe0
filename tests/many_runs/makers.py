"""What tests of many runs share: the server of their processes."""

from collections.abc import Iterator
from contextlib import contextmanager

from accelmlf.many_runs.server import start_server
from tests.machine.makers import fresh_server


@contextmanager
def serving(store_uri: str) -> Iterator[None]:
    """A server of processes for runs of the smallest model, which are tracked in this store."""
    with fresh_server(MLFLOW_TRACKING_URI=store_uri):
        start_server("vit")
        yield
