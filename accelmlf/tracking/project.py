"""`python -m accelmlf.tracking.project`: `mlflow run .`, its store made first, because runs that race to make it die.

MLflow's own command line would make a fresh database and the experiment in it before any code of a project runs.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from accelmlf.errors import AccelmlfError
from accelmlf.tracking.store import experiment_name, open_store


def main(arguments: Sequence[str]) -> NoReturn:
    """Hand `arguments` to `mlflow run .`; what is wrong with the store is one line and its exit code."""
    try:
        store = open_store()
        store.own_experiment()
    except AccelmlfError as error:
        print(f"accelmlf: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    os.environ["MLFLOW_TRACKING_URI"] = store.uri
    if not os.environ.get("MLFLOW_EXPERIMENT_ID"):
        os.environ["MLFLOW_EXPERIMENT_NAME"] = experiment_name()
    from mlflow.cli import cli

    cli(["run", ".", *arguments], prog_name="mlflow")
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
