"""`python -m accelmlf.tracking.project`: `mlflow run .`, its store made first, because runs that race to make it die.

MLflow's own command line would make a fresh database and the experiment in it before any code of a project runs.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from accelmlf.errors import AccelmlfError, broken_environment


def main(arguments: Sequence[str]) -> NoReturn:
    """Hand `arguments` to `mlflow run .`; a store or an environment that is broken is one line and its exit code."""
    try:
        from mlflow.cli import cli

        from accelmlf.tracking.store import experiment_name, open_store

        store = open_store()
        store.own_experiment()
    except (AccelmlfError, ImportError) as error:
        known = broken_environment(error) if isinstance(error, ImportError) else error
        print(f"accelmlf: error: {known}", file=sys.stderr)
        sys.exit(known.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    os.environ["MLFLOW_TRACKING_URI"] = store.uri
    if not os.environ.get("MLFLOW_EXPERIMENT_ID"):
        os.environ["MLFLOW_EXPERIMENT_NAME"] = experiment_name()
    cli(["run", ".", *arguments], prog_name="mlflow")
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
