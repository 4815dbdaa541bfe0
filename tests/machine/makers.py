"""A server of processes that a test starts by itself, and a core that is shared with a busy neighbour."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def fresh_server(**variables: str) -> Iterator[None]:
    """No server before and none after: the one that is started inside sees these variables and one thread.

    One that is there already has another environment.
    """
    from multiprocessing import forkserver, util

    server: Any = forkserver._forkserver
    util.get_temp_dir()  # made once for the whole process, so not below
    # Locks are in there; the name has to be short, because sockets are there, too.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="accelmlf-") as temporary:
        for name, text in {"OMP_NUM_THREADS": "1", "TMPDIR": temporary, **variables}.items():
            patch.setenv(name, text)
        patch.setattr(tempfile, "tempdir", temporary)
        server._stop()
        try:
            yield
        finally:
            server._stop()


@contextmanager
def on_one_core(*, neighbour: bool) -> Iterator[None]:
    """This thread has one core, alone or with a process that never rests: each then has half of it."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        if neighbour:
            with subprocess.Popen([sys.executable, "-c", "print('busy', flush=True)\nwhile True: pass"],
                                  stdout=subprocess.PIPE) as busy:  # fmt: skip
                assert busy.stdout is not None
                busy.stdout.readline()
                yield
                busy.kill()
        else:
            yield
    finally:
        os.sched_setaffinity(0, cores)
