"""`python -m accelmlf <entry point> --<parameter> <value>`: what MLproject calls."""

import sys

from accelmlf.machine import signals

signals.hold()
try:
    from accelmlf.cli import main
except ImportError as error:
    # A half-removed environment shows up here first; a traceback would not say how to mend it.
    if (error.name or "").startswith("accelmlf"):
        raise
    print(
        f"accelmlf: error: environment={sys.prefix}: {error}. "
        "Run scripts/run again to repair .venv, or: pip install -r requirements.txt",
        file=sys.stderr,
    )
    sys.exit(70)

if __name__ == "__main__":
    main()
