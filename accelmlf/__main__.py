"""`python -m accelmlf <entry point> --<parameter> <value>`: what MLproject calls."""

import sys

from accelmlf.errors import broken_environment
from accelmlf.machine import signals

signals.hold()
try:
    from accelmlf.cli import main
except ImportError as error:
    if (error.name or "").startswith("accelmlf"):
        raise
    print(f"accelmlf: error: {broken_environment(error)}", file=sys.stderr)
    sys.exit(70)

if __name__ == "__main__":
    main()
