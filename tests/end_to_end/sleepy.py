"""The command line with a technique of known effect: at each step it does nothing for a twentieth of what that took.

Another one keeps to a pace: what is left of a beat it sleeps, so that a step takes as long however busy the machine is.
"""

import time
from collections.abc import Iterator

from accelmlf.cli import main
from accelmlf.data.batches import Batch
from accelmlf.techniques.base import Technique
from accelmlf.techniques.catalogue import TECHNIQUES

SHARE, PACE_S = 0.05, 0.1


class Sleep(Technique):
    does = "adds a share to each step"

    def prepare_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        ended_s = time.perf_counter()
        for batch in batches:
            yield batch
            until_s = time.perf_counter() + SHARE * (time.perf_counter() - ended_s)
            while (ended_s := time.perf_counter()) < until_s:  # awake: one that sleeps is woken later on a busy machine
                pass


class Pace(Technique):
    does = "ends each step at a beat, whatever it took"

    def prepare_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            until_s = time.perf_counter() + PACE_S
            yield batch
            time.sleep(max(until_s - time.perf_counter(), 0))


if __name__ in ("__main__", "__mp_main__"):  # this script, and the processes of its arms, which import it by that name
    TECHNIQUES.update(sleep=Sleep, pace=Pace)

if __name__ == "__main__":
    main()
