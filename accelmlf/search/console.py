"""What a person sees of a search: a line as a trial begins and as it ends, and a bar of its epochs on a terminal."""

import statistics
import time
from collections.abc import Sequence

from tqdm import tqdm

from accelmlf.many_runs.console import RunsConsole
from accelmlf.search.trials import TrialRecord, in_short
from accelmlf.text import counted, say


class SearchConsole(RunsConsole):
    """Progress of a search. The time that is left is by the trials so far, or by the budget where that is less."""

    def __init__(self, n_trials: int, timeout_s: float | None) -> None:
        super().__init__()
        self.n_trials, self.timeout_s = n_trials, timeout_s
        self.started_s = time.monotonic()
        self.told_waiting = 0

    def goes_on(self, records: Sequence[TrialRecord]) -> None:
        """How many trials earlier starts and other workers have finished already."""
        if done := sum(record.is_finished for record in records):
            left = "" if done < self.n_trials else ": nothing is left to search"
            say(f"{done} of {self.n_trials} trials are finished already{left}")

    def trial_ended(self, record: TrialRecord, records: Sequence[TrialRecord]) -> None:
        """How a trial went, the best so far, and how long the search may still take."""
        self.bar.close()
        done = [r for r in records if r.is_finished]
        winners = [r for r in done if r.time_to_accuracy_s is not None]
        best = min(winners, key=lambda r: r.time_to_accuracy_s or 0.0, default=None)
        so_far = (
            "no trial at the target yet"
            if best is None
            else f"best {best.time_to_accuracy_s:.1f} s (trial {best.number})"
        )
        left = f"  left {tqdm.format_interval(self.left_s(done))}" if len(done) < self.n_trials else ""
        say(f"  {in_short(record)}  {so_far}  {len(done)} of {self.n_trials} finished{left}")

    def left_s(self, done: Sequence[TrialRecord]) -> float:
        """Seconds that the search may still take, by the mean of the trials that are done."""
        durations = [r.duration_s for r in done if r.duration_s is not None]
        by_trials_s = statistics.fmean(durations) * (self.n_trials - len(done)) if durations else 0.0
        if self.timeout_s is None:
            return by_trials_s
        return max(0.0, min(by_trials_s, self.timeout_s - (time.monotonic() - self.started_s)))

    def waiting(self, running: int) -> None:
        """Nothing is left to start here, but other workers still run trials; said once for each number of them."""
        if running != self.told_waiting:
            say(f"waiting for {counted(running, 'trial')} of other workers")
        self.told_waiting = running
