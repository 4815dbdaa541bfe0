"""The command line with a technique of known effect: for each step it sleeps a twentieth of what the step took."""

import time
from collections.abc import Iterator

from accelmlf.cli import main
from accelmlf.data.batches import Batch
from accelmlf.techniques.base import Technique
from accelmlf.techniques.catalogue import TECHNIQUES

SHARE = 0.05


class Sleep(Technique):
    does = "sleeps a share of each step"

    def prepare_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            started_s = time.perf_counter()
            yield batch
            time.sleep(SHARE * (time.perf_counter() - started_s))


TECHNIQUES["sleep"] = Sleep  # in every process that imports this file, those of the arms among them

if __name__ == "__main__":
    main()
