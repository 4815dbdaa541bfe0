"""What a person sees of many runs: a line as one begins and as it ends, and a bar of its epochs on a terminal."""

import time
from typing import Any

from tqdm import tqdm

from accelmlf.machine.presence import MissingCores
from accelmlf.measure.records import EpochMetrics
from accelmlf.text import say

TELL_EVERY_S = 60.0
"""Where there is no bar, a long run shows at most so often that it lives."""


def left_in_words(started_s: float, done: int, total: int) -> str:
    """How long the rest will take by what is done; nothing before the first has ended."""
    if not done:
        return ""
    return f"  left {tqdm.format_interval((time.monotonic() - started_s) / done * (total - done))}"


class RunsConsole:
    """Progress of one run after the other."""

    def __init__(self) -> None:
        self.bar: tqdm[Any] = tqdm(disable=True)
        self.told_s = time.monotonic()
        self.missing_cores = MissingCores()

    say = staticmethod(say)

    def begins(self, name: str, what: str, num_epochs: int, left: str = "") -> None:
        """A run in a process of its own."""
        self.told_s, self.missing_cores = time.monotonic(), MissingCores()
        say(f"{name}: {what}{left}")
        self.bar.close()
        self.bar = tqdm(desc=name, total=num_epochs, unit=" epochs", leave=False, disable=None, dynamic_ncols=True)

    def epoch(self, epoch: EpochMetrics) -> None:
        state = f"accuracy {epoch.quality.accuracy:.4f}, {epoch.elapsed_train_s:.1f} s of training"
        self.bar.update()
        self.bar.set_postfix_str(state)
        if note := self.missing_cores.note(f"epoch {epoch.epoch}", epoch.cost.presence):
            say(f"  {note}")
        if self.bar.disable and time.monotonic() - self.told_s >= TELL_EVERY_S:
            say(f"  epoch {epoch.epoch}: {state}")
            self.told_s = time.monotonic()

    def stop(self) -> None:
        self.bar.close()
