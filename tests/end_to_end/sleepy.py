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


if __name__ in ("__main__", "__mp_main__"):  # this script, and the processes of its arms, which import it by that name
    TECHNIQUES["sleep"] = Sleep

if __name__ == "__main__":
    main()
