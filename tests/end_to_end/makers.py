"""A command as people type it: a process in a folder of its own, what it says, and whatever it has started."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import psutil
from mlflow.entities import Run

from accelmlf.tracking.tags import ARM, ARM_STRETCHES, BLOCK, OUTCOME

ROOT = Path(__file__).parents[2]
PARENT = "mlflow.parentRunId"
PATIENCE_S = 120


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what was wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("accelmlf: error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


def as_flags(settings: Mapping[str, str]) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


class Place:
    """A folder with a store, and every process that was started for it."""

    patience_s = PATIENCE_S

    def __init__(self, command: str, folder: Path, store_uri: str) -> None:
        self.command, self.folder, self.store_uri = command, folder, store_uri
        self.client = mlflow.MlflowClient(store_uri)
        # Locks are there, so others on this machine are no concern; and it marks the processes. The address of a socket
        # has to be short.
        self.temporary = tempfile.mkdtemp(prefix="accelmlf-")
        self.starts = 0

    def variables(self) -> dict[str, str]:
        """The environment of the command."""
        # One thread, so that a busy machine does not have the threads of one process wait for another.
        own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": self.temporary}
        return {**os.environ, **own, "MLFLOW_TRACKING_URI": self.store_uri}

    def start(
        self, settings: Mapping[str, str], program: Sequence[str] = ("-m", "accelmlf"), **popen: Any
    ) -> "subprocess.Popen[bytes]":
        """The command, its output in files: nobody has to drain those, whatever process keeps them open.

        `program`: what stands for the command line, a script, say.
        """
        self.starts += 1
        with self.file("out").open("wb") as out, self.file("err").open("wb") as err:
            return subprocess.Popen(
                [sys.executable, *program, self.command, *as_flags(settings)],
                env=self.variables(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True, **popen,
            )  # fmt: skip

    def end_of(self, process: "subprocess.Popen[bytes]") -> Ended:
        code = process.wait(self.patience_s)
        return Ended(code, self.file("out").read_text(), self.file("err").read_text())

    def file(self, name: str) -> Path:
        """Standard output or error of the latest start."""
        return self.folder / f"{name}-{self.starts}.txt"

    def wait_for(self, process: "subprocess.Popen[bytes] | None", condition: Callable[[], object]) -> None:
        """Until the condition holds; the process, where there is one, must go on meanwhile."""
        deadline = time.monotonic() + self.patience_s
        while not condition():
            if process is not None:
                assert process.poll() is None, self.file("err").read_text() + self.file("out").read_text()
            assert time.monotonic() < deadline, self.file("out").read_text()
            time.sleep(0.05)

    def processes(self) -> list[psutil.Process]:
        """Everything that is alive and was started here, the youngest first."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.environ().get("TMPDIR") == self.temporary:
                    found.append(process)
        return sorted(found, key=lambda process: -process.create_time())

    def kill_all(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def is_quiet(self, within_s: float = 15) -> bool:
        """Whether nothing is left running."""
        deadline = time.monotonic() + within_s
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        return not self.processes()

    def experiments(self) -> list[str]:
        """Those whose runs are of this place."""
        return [experiment.experiment_id for experiment in self.client.search_experiments()]

    def runs(self, kind: str | None = None) -> list[Run]:
        """All runs, or those of one kind, the oldest first."""
        order = ["attributes.start_time ASC"]
        found = self.client.search_runs(self.experiments(), order_by=order, max_results=1000)
        return [run for run in found if kind in (None, run.data.tags.get("accelmlf.kind"))]

    def artifacts(self, run: Run) -> dict[str, Path]:
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        return {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}

    def close(self) -> None:
        self.kill_all()
        quiet = self.is_quiet()
        shutil.rmtree(self.temporary, ignore_errors=True)
        assert quiet


@contextlib.contextmanager
def places(make: Callable[[], Place]) -> Iterator[Callable[[], Any]]:
    """What makes places, and closes them at the end."""
    made: list[Place] = []

    def make_one() -> Place:
        made.append(make())
        return made[-1]

    yield make_one
    for place in made:
        place.close()


SMALL = {"model": "vit", "device": "cpu", "train_images": "400", "epochs": "2"}


class StretchPlace(Place):
    """A folder in which an ablation is measured in stretches."""

    patience_s = 400

    def stretches(self) -> list[Run]:
        """The runs of arms in generations that have ended well."""
        return [run for run in self.runs(ARM_STRETCHES) if run.data.tags.get(OUTCOME) == "completed"]

    def generations(self) -> dict[str, set[str]]:
        """Generation -> its arms."""
        found: dict[str, set[str]] = {}
        for run in self.stretches():
            found.setdefault(run.data.tags[BLOCK], set()).add(run.data.tags[ARM])
        return found
