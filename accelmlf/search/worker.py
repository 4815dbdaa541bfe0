"""One of the processes that search together: trial after trial, until the search is over."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import optuna
from optuna.trial import TrialState

from accelmlf.errors import AccelmlfError, recognise
from accelmlf.many_runs.child_run import failure_of_all, is_fatal, too_many
from accelmlf.search.console import SearchConsole
from accelmlf.search.objective import Objective
from accelmlf.search.one_trial import Ended, TrialFailedError, run_one_trial
from accelmlf.search.plan import Plan
from accelmlf.search.study import FINISHED, finished, mend, records, seen_points
from accelmlf.search.trials import KILLED, TrialRecord, times_s
from accelmlf.tracking.parent_run import KILLED_RUN, ParentRun

POLL_S = 2.0


@dataclass
class Worker:
    """The trials of one process on a study that others may share."""

    study: optuna.Study
    storage: str
    plan: Plan
    parent: ParentRun
    console: SearchConsole
    deadline_s: float = field(init=False)
    """The end of the budget, on time.monotonic(); infinite without one."""
    failures_in_a_row: Counter[str] = field(default_factory=Counter)
    """By outcome, since the last trial that finished."""
    ended_at: str = "n_trials"
    """What the search came to its end by: n_trials, timeout, failures or exhausted."""

    def __post_init__(self) -> None:
        budget_s = self.plan.tune.timeout_s
        self.deadline_s = math.inf if budget_s is None else time.monotonic() + budget_s

    def run(self) -> None:
        """Until n_trials are finished over all workers, the budget is spent, or every point was run.

        Raises:
            AccelmlfError: what no further trial would survive, or the last failure where no trial has finished.
            Interrupted: a signal.
        """
        found = self.records()
        self.console.goes_on(found)
        self.log_series(found, found)
        objective = Objective(self.study, self.plan, self.parent, self.console, self.deadline_s)
        while not self.is_over():
            ended = run_one_trial(self.study, objective)
            self.judge(ended)
            self.tell(ended.number)
        if not finished(self.study) and (failed := [r for r in self.records() if r.has_failed]):
            last = failed[-1]
            raise failure_of_all("trial", last.number, last.outcome, last.error)

    def is_over(self) -> bool:
        """Whether no trial is left to start. Waits while other workers may still leave one."""
        while True:
            self.mend()
            states = Counter(trial.state for trial in self.study.get_trials(deepcopy=False))
            done, running = sum(states[state] for state in FINISHED), states[TrialState.RUNNING]
            if done >= self.plan.tune.n_trials:
                return self.ends("n_trials")
            if time.monotonic() >= self.deadline_s:
                return self.ends("timeout", "the budget of timeout_s is spent")
            if too_many(self.failures_in_a_row):
                return self.ends("failures", f"the last {self.failures_in_a_row.total()} trials have all failed")
            if states[TrialState.WAITING]:
                return False
            unseen = self.plan.space.unseen(seen_points(self.study, self.plan.space))
            if unseen and done + running < self.plan.tune.n_trials:
                return False
            if not running:
                return self.ends("exhausted", f"every point of the space was run: {done} trials finished")
            self.console.waiting(running)
            time.sleep(POLL_S)

    def ends(self, by: str, why: str = "") -> bool:
        """Note what ended the search."""
        self.ended_at = by
        if why:
            self.console.say(f"the search ends here: {why}")
        return True

    def mend(self) -> None:
        """Trials whose process was killed are failed, and their runs closed."""
        known = {record.number for record in self.records() if record.outcome == KILLED}
        mend(self.study, self.storage, self.plan.space)
        for record in self.records():
            if record.outcome == KILLED and record.number not in known:
                self.console.say(f"trial {record.number} was killed")
                if record.run_id is not None:
                    self.parent.end_child(record.run_id, *KILLED_RUN)

    def records(self) -> list[TrialRecord]:
        """The trials of all workers so far."""
        return records(self.study, self.plan.space)

    def judge(self, ended: Ended) -> None:
        """Count the failures in a row, and end the search with what no other trial would survive.

        Raises:
            AccelmlfError, Interrupted: that; and whatever else an objective raises.
        """
        error = ended.error
        if isinstance(error, AccelmlfError) and not is_fatal(error):
            self.failures_in_a_row[error.outcome] += 1
        elif error is not None and not isinstance(error, TrialFailedError):
            raise recognise(error, batch_size=0) if isinstance(error, Exception) else error
        if ended.given_up:
            self.console.say(f"trial {ended.number} was given up by another worker, which heard nothing from this one")
        elif error is None:
            self.failures_in_a_row.clear()

    def tell(self, number: int) -> None:
        """The trial that has just ended, on the console and in the series of the parent run."""
        found = self.records()
        own = [record for record in found if record.number == number]
        for record in own:
            self.console.trial_ended(record, found)
        self.log_series(own, found)

    def log_series(self, new: Sequence[TrialRecord], found: Sequence[TrialRecord]) -> None:
        """The figures of the `new` among all that were found, and the best up to each, by the number of the trial."""
        for record in new:
            own = {"trial_time_to_accuracy_s": record.time_to_accuracy_s, "trial_best_accuracy": record.best_accuracy}
            best_s = min(times_s(r for r in found if r.number <= record.number), default=None)
            figures = own | {"best_time_to_accuracy_s": best_s}
            known = {name: value for name, value in figures.items() if value is not None}
            if known:
                self.parent.run.log_metrics(known, record.number)
