"""What the processes of many runs are forked from: it has imported all that a run needs, and so they need not.

It begins before the rest of a command is imported, so of what is heavy only torch is imported here, for MODELS.
"""

from accelmlf.machine import isolation
from accelmlf.machine.facts import own_code_state
from accelmlf.models.families import MODELS
from accelmlf.tracking.settings import STORE_IMPORTS

WORK = ("accelmlf.many_runs.child_run", "accelmlf.many_runs.warm_run")
"""What its processes do."""
IMPORTED_LATE = ("sklearn.datasets", "sklearn.metrics", "sklearn.model_selection", "matplotlib.figure")
"""What every run imports only when it gets there, beside the store; a second or two. A model's own are in MODELS."""


def start_server(model: str) -> None:
    """Start it with all that a run of `model` imports, and note which code that is. A second call does nothing."""
    own_code_state()  # a run may start hours later, when the files are others
    of_model = MODELS[model].imports if model in MODELS else ()
    isolation.start_server([*WORK, *IMPORTED_LATE, *STORE_IMPORTS, *of_model])
