"""Which training-acceleration techniques are worth it for a model on this hardware, and how soon is it accurate?"""

import time

__version__ = "0.1.0"

PROCESS_STARTED_S = time.perf_counter()
"""time.perf_counter when the package was first imported: where the wall-clock figures of a run begin."""
