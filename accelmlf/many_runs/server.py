"""What the processes of many runs are forked from: it has imported all that a run needs, and so they need not.

Nothing heavier than the table of models is imported here: it can start before the rest of a command is imported.
"""

from accelmlf.machine import isolation
from accelmlf.machine.facts import own_code_state
from accelmlf.models.families import MODELS

IMPORTED_FIRST = (
    "accelmlf.many_runs.child_run",
    "sklearn.datasets",
    "sklearn.metrics",
    "sklearn.model_selection",
    "mlflow.store.tracking.sqlalchemy_store",
    "matplotlib.figure",
)
"""What every run imports, some of it only when it gets there; a second or two each. A model's own are in MODELS."""


def start_server(model: str) -> None:
    """Start it with all that a run of `model` imports, and note which code that is. A second call does nothing."""
    own_code_state()  # a run may start hours later, when the files are others
    family = MODELS.get(model)
    isolation.start_server([*IMPORTED_FIRST, *(family.imports if family else ())])
