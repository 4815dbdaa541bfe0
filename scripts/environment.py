"""Makes, checks and repairs .venv; run, test and ui in this folder start here.

environment.py run|dev [COMMAND ...]  installs requirements.txt (dev: requirements-dev.txt), then runs COMMAND
environment.py experiment             prints the experiment's id and the local store, for scripts/ui

Standard library only, since it runs before anything is installed; and in syntax that Python 3.6 can read, so
that a python3 that is too old gets as far as saying so.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "accelmlf.json"
PIP_LOG = VENV / "pip.log"

REQUIREMENTS = {"run": ["requirements.txt"], "dev": ["requirements.txt", "requirements-dev.txt"]}
# Importing these loads the compiled half of nearly everything else, so a torn installation shows.
KEY_PACKAGES = {
    "run": "torch, torchvision, timm, transformers, mlflow, optuna, sklearn, matplotlib",
    "dev": "torch, torchvision, timm, transformers, mlflow, optuna, sklearn, matplotlib, mypy, importlinter, pytest",
}
GIB_NEEDED = 8  # measured: 6.5 GiB in .venv, the rest for what pip unpacks


def say(message):
    print(f"accelmlf: {message}", file=sys.stderr, flush=True)


def fail(message, code=70):
    say(f"error: {message}")
    sys.exit(code)


def use_suitable_python():
    """Goes on under $PYTHON where that is set, else under a Python >= 3.11 where this one is older."""
    asked = os.environ.pop("PYTHON", None)  # popped: the process that goes on must not ask again
    if asked is None and sys.version_info >= (3, 11):
        return
    question = "import sys; sys.exit(sys.version_info < (3, 11))"
    for name in [asked] if asked else [f"python3.{minor}" for minor in range(11, 20)]:
        path = shutil.which(name)
        if path and subprocess.call([path, "-c", question], stderr=subprocess.DEVNULL) == 0:
            os.execv(path, [path, *sys.argv])
    what = f"PYTHON={asked}" if asked else f"python3 is Python {sys.version.split()[0]}"
    fail(f"{what}: Python 3.11 or newer is needed. Install it and name it: PYTHON=/path/to/python3.11 ...")


# --- .venv ---


@contextlib.contextmanager
def locked():
    """One process at a time. pip inherits the lock: if this process is killed, the next one waits for pip."""
    with (ROOT / ".venv.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is at work on .venv or the database; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)
        yield


def hashes(kind):
    return {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in REQUIREMENTS[kind]}


def contents():
    """What lies in bin and site-packages: two directory listings are enough to notice a deleted package."""
    found = [*VENV.glob("bin/*"), *VENV.glob("lib/python*/site-packages/*")]
    return {str(path.relative_to(VENV)) for path in found if path.suffix not in {".dist-info", ".pyc"}}


def identity():
    """A .venv is tied to its folder (the first line of its commands) and to the Python that made it."""
    return {"folder": str(VENV), "python": os.path.realpath(PYTHON)}


def read_stamp():
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):  # never finished
        return None


def is_ready(kind):
    stamp = read_stamp()
    return (
        stamp is not None
        and stamp["identity"] == identity()
        and hashes(kind).items() <= stamp["requirements"].items()
        and set(stamp["contents"]) <= contents()
        and os.access(PYTHON, os.X_OK)
    )


def run(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def last_line(text):
    return (text.strip().splitlines() or ["no message"])[-1]


def make_venv(fresh):
    """Without `fresh`, what is installed stays: only a lost interpreter or pip is put back."""
    if not VENV.exists() and shutil.disk_usage(ROOT).free < GIB_NEEDED * 2**30:
        fail(f"less than {GIB_NEEDED} GiB free in {ROOT}. Free some space, or use a larger disk", 9)
    # The Python below an active virtual environment: that one may be the very .venv that is replaced here.
    python = getattr(sys, "_base_executable", sys.executable)
    made = run(python, "-m", "venv", *(["--clear"] if fresh else []), str(VENV))
    if "ensurepip is not" in made.stdout or "No module named venv" in made.stdout:
        fail(f"{sys.executable} has no venv module. Debian and Ubuntu: apt install python3-venv")
    if made.returncode:
        full = shutil.disk_usage(ROOT).free < 2**27
        fail(f"cannot make {VENV}: {'the disk is full' if full else last_line(made.stdout)}", 9 if full else 70)


def pip_install(kind):
    """False where pip failed for a reason that a fresh .venv may cure."""
    PIP_LOG.unlink(missing_ok=True)
    options = ["--no-input", "--disable-pip-version-check", "--log", str(PIP_LOG)]
    command = [str(PYTHON), "-m", "pip", "install", *options, "-r", REQUIREMENTS[kind][-1]]
    # To stderr: stdout belongs to COMMAND. close_fds=False hands on the lock.
    if subprocess.run(command, stdout=sys.stderr, close_fds=False, check=False).returncode == 0:
        return True
    log = PIP_LOG.read_text(errors="replace") if PIP_LOG.exists() else ""
    if "No space left on device" in log or "Disk quota exceeded" in log:
        places = f"{GIB_NEEDED} GiB in {ROOT} and 4 GiB in the temporary folder (TMPDIR)"
        fail(f"the disk is full: {places} are needed. Free some space and run this again", 9)
    if "after connection broken by" in log or "ReadTimeoutError" in log:
        fail("the package index cannot be reached. Check the network and pip's settings, then run this again")
    missing = re.search("No matching distribution found for (.*)", log)
    if missing:
        version = sys.version.split()[0]
        fail(f"pip finds no {missing[1]} for Python {version} here. Try another: PYTHON=python3.11 ...")
    return False


def set_up(kind):
    stamp = read_stamp()
    # When the same packages were complete, all this was there. pip itself does not look for lost files.
    same = stamp is not None and hashes(kind).items() <= stamp["requirements"].items()
    expected = set(stamp["contents"]) if same else set()
    what = "updating or repairing" if VENV.exists() else "making"
    say(f"{what} .venv; a full installation takes some minutes and 6.5 GiB")
    STAMP.unlink(missing_ok=True)
    problem = ""
    for fresh in (False, True):  # what pip cannot mend in place is made anew
        if fresh:
            say(f"making .venv anew ({problem})")
        usable = os.access(PYTHON, os.X_OK) and run(str(PYTHON), "-m", "pip", "--version").returncode == 0
        if fresh or not usable:
            make_venv(fresh)
        if not fresh and stamp is not None and stamp["identity"] != identity():
            problem = "the folder or the Python has changed"
            continue
        if not pip_install(kind):
            problem = f"pip failed, see {PIP_LOG}"
            continue
        say("checking that the packages can be imported")
        check = run(str(PYTHON), "-c", "import " + KEY_PACKAGES[kind])
        lost = set() if fresh else expected - contents()
        if check.returncode == 0 and not lost:
            stamp = {"identity": identity(), "requirements": hashes(kind), "contents": sorted(contents())}
            STAMP.write_text(json.dumps(stamp))
            say(".venv is ready")
            return
        problem = last_line(check.stdout) if check.returncode else f"{min(lost)} is missing"
    fail(f"the installation does not work: {problem}. Delete .venv and run this again")


def ensure(kind):
    if not is_ready(kind):
        with locked():
            if not is_ready(kind):  # another process may have done it while this one waited
                set_up(kind)


# --- the local store ---


def store_and_experiment():
    store = os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")  # MLflow's own default
    return store, os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", "accelmlf")


def experiment_id(store, name):
    """None where the database or the experiment is not there yet."""
    import sqlite3

    path = Path(store[len("sqlite:///") :])
    if not path.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            query = "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ?"
            row = database.execute(query, (name,)).fetchone()
    except sqlite3.Error as error:
        fail(f"MLFLOW_TRACKING_URI={store}: cannot be read ({error}). Try again, or move {path} away", 8)
    if row and row[1] != "active":
        undo = f"MLFLOW_TRACKING_URI={store} .venv/bin/mlflow experiments restore -x {row[0]}"
        fail(f"MLFLOW_EXPERIMENT_NAME={name}: that experiment was deleted. To restore it: {undo}", 8)
    return row and row[0]


def prepare_store():
    """Makes a fresh database and the experiment in it: runs that race to do so die."""
    store, name = store_and_experiment()
    if not store.startswith("sqlite:///") or experiment_id(store, name) is not None:
        return
    with locked():
        if experiment_id(store, name) is not None:
            return
        path = Path(store[len("sqlite:///") :])
        # Under another name until it is complete: a half-made database would be refused for ever.
        draft = path if path.exists() else path.with_name(path.name + ".new")
        if draft != path:
            draft.unlink(missing_ok=True)
        code = "import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).create_experiment(sys.argv[2])"
        made = run(str(PYTHON), "-c", code, f"sqlite:///{draft}", name)
        if made.returncode:
            fail(f"MLFLOW_TRACKING_URI={store}: cannot make experiment {name!r}: {last_line(made.stdout)}", 8)
        draft.replace(path)


def print_experiment():
    store, name = store_and_experiment()
    if not store.startswith("sqlite:///"):
        fail(f"MLFLOW_TRACKING_URI={store}: scripts/ui shows a local sqlite store. Open that server", 2)
    found = experiment_id(store, name)
    if found is None:
        fail(f"no experiment {name!r} in {store} yet. First: scripts/run -e resnet50 -P tuned=true", 8)
    print(found, store)


def main(kind="", *command):
    if kind not in {"experiment", *REQUIREMENTS}:
        sys.exit(__doc__)
    os.chdir(ROOT)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if kind == "experiment":
        print_experiment()
        return
    ensure(kind)
    if command:
        os.environ["PATH"] = f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"
        prepare_store()
        os.execvp(command[0], command)


if __name__ == "__main__":
    # Turned into an exception, on which subprocess.run ends its child: no pip is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        use_suitable_python()
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        say("interrupted; run it again to go on")
        sys.exit(130)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", 9)
