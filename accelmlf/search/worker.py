"""Trial after trial, each in a process of its own, until enough are finished."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.trial import TrialState

from accelmlf.errors import AccelmlfError, Interrupted, ProcessKilledError, recognise
from accelmlf.machine import signals
from accelmlf.many_runs.child_run import TimedRun, failure_of_all, is_fatal, too_many
from accelmlf.measure.records import EpochMetrics, RunSummary
from accelmlf.search import study as studies
from accelmlf.search.console import SearchConsole
from accelmlf.search.plan import Plan
from accelmlf.search.space import Point, in_words
from accelmlf.search.study import TARGET
from accelmlf.search.trials import KILLED, TrialRecord, times_s
from accelmlf.settings.run import RunConfig
from accelmlf.tracking.parent_run import Family
from accelmlf.tracking.tags import TRIAL

POLL_S = 2.0
SETTLING_S = 10.0


class TrialFailedError(Exception):
    """Tells Optuna that a trial failed; the reason is in its attributes."""


@dataclass
class Search:
    """The trials of one process on a study that others may share."""

    study: optuna.Study
    storage: str
    plan: Plan
    family: Family
    console: SearchConsole
    started_s: float = field(default_factory=time.monotonic)
    ended_by: BaseException | None = None
    failures_in_a_row: Counter[str] = field(default_factory=Counter)
    """By outcome, since the last trial that finished."""
    ended_at: str = "n_trials"
    """What the search came to its end by: n_trials, timeout, failures or exhausted."""
    number: int | None = None
    """The trial of this process; None while there is none."""

    def run(self) -> None:
        """Until n_trials are finished over all workers, the budget is spent, or every point was run.

        Raises:
            AccelmlfError: what no further trial would survive.
        """
        records = self.records()
        self.console.goes_on(records)
        self.log_series(records, records)
        while not self.is_over():
            self.one_trial()
            self.tell()
        if not studies.finished(self.study) and (failed := [r for r in self.records() if r.has_failed]):
            last = failed[-1]
            raise failure_of_all("trial", last.number, last.outcome, last.error)

    def one_trial(self) -> None:
        """Ask, run and tell one trial."""
        self.number = None
        try:
            self.study.optimize(self.objective, n_trials=1, catch=(Exception,))
        except (AssertionError, ValueError, UpdateFinishedTrialError):  # Optuna's, which has no word for this
            if self.ended_by is not None:
                raise self.ended_by from None
            if self.number is None or not self.study.trials[self.number].state.is_finished():
                raise
            self.console.say(f"trial {self.number} was given up by another worker, which heard nothing from this one")
        if self.ended_by is not None:
            raise self.ended_by

    def is_over(self) -> bool:
        """Whether no trial is left to start. Waits while other workers may still leave one."""
        while True:
            self.mend()
            done = len(studies.finished(self.study))
            if done >= self.plan.tune.n_trials:
                return self.ends("n_trials")
            if self.is_budget_spent():
                return self.ends("timeout", "the budget of timeout_s is spent")
            if too_many(self.failures_in_a_row):
                return self.ends("failures", f"the last {self.failures_in_a_row.total()} trials have all failed")
            if self._count(TrialState.WAITING):
                return False
            running = self._count(TrialState.RUNNING)
            unseen = self.plan.space.unseen(studies.seen_points(self.study, self.plan.space))
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
        studies.mend(self.study, self.storage, self.plan.space)
        for record in self.records():
            if record.outcome == KILLED and record.number not in known:
                self.console.say(f"trial {record.number} was killed")
                if record.run_id is not None:
                    self.family.end_child(record.run_id, "interrupted", "its process was killed")

    def records(self) -> list[TrialRecord]:
        return studies.records(self.study, self.plan.space)

    def is_budget_spent(self) -> bool:
        budget_s = self.plan.tune.timeout_s
        return budget_s is not None and time.monotonic() - self.started_s >= budget_s

    def _count(self, state: TrialState) -> int:
        return len(self.study.get_trials(deepcopy=False, states=(state,)))

    def objective(self, trial: optuna.Trial) -> float:
        """One trial: the training clock at the target, or, marked by its constraint, that of the whole run."""
        run_id = None
        try:
            self.number = trial.number
            studies.sign(trial)
            point = studies.suggest(trial, self.plan.space)
            if self.is_surplus(trial, point):
                trial.set_user_attr("outcome", "surplus")
                raise TrialFailedError("another worker has taken the last place or this point")
            run_id = self.start_run(trial, point)
            return self.timed(trial, point, run_id)
        except (TrialPruned, TrialFailedError):
            raise
        except (AccelmlfError, Interrupted) as error:
            if isinstance(error, Interrupted):
                signals.ignore_from_now_on()
            self.note_failure(trial, run_id, error)
            raise TrialFailedError(str(error)) from error  # Optuna leaves a trial running whose error it does not know
        except UpdateFinishedTrialError:  # another worker has given it up
            if run_id is not None:
                self.family.end_child(run_id, "interrupted", "another worker heard nothing from it")
            raise
        except Exception as error:
            self.ended_by = recognise(error, batch_size=0)
            raise

    def is_surplus(self, trial: optuna.Trial, point: Point) -> bool:
        """Whether an earlier trial of another worker, started in the same moment, makes this one too many."""
        deadline_s = time.monotonic() + SETTLING_S
        while (earlier := self.study.get_trials(deepcopy=False)[: trial.number]) and time.monotonic() < deadline_s:
            choosing = [t for t in earlier if t.state == TrialState.RUNNING]
            if all(studies.point_of(t, self.plan.space) is not None for t in choosing):
                break
            time.sleep(POLL_S / 10)
        taken = [t for t in earlier if t.state in (*studies.FINISHED, TrialState.RUNNING)]
        if len(taken) >= self.plan.tune.n_trials:
            return True
        return point in studies.seen_points(self.study, self.plan.space, before=trial.number)

    def start_run(self, trial: optuna.Trial, point: Point) -> str:
        name = f"trial {trial.number}: {in_words(point)}"
        run_id = self.family.start_child(name, TRIAL, {"accelmlf.trial": str(trial.number)})
        trial.set_user_attr("run_id", run_id)
        return run_id

    def timed(self, trial: optuna.Trial, point: Point, run_id: str) -> float:
        """Train and judge one trial."""
        config = self.plan.config_of(point)
        self.console.begins(f"trial {trial.number}", in_words(point), config.epochs)
        epochs: list[EpochMetrics] = []

        def asked(epoch: EpochMetrics) -> str | None:
            epochs.append(epoch)
            trial.report(1 - epoch.quality.accuracy, epoch.epoch)  # TPE ranks pruned trials by it, downwards
            self.console.epoch(epoch)
            return self.reason_to_stop(epoch, config)

        run = TimedRun(config, run_id, self.plan.device_key, read_test=False)
        summary = run.train(asked)
        self.note_result(trial, summary, epochs, config)
        self.family.end_child(run_id, summary.outcome)
        if summary.outcome == "pruned":
            raise TrialPruned
        if summary.outcome == "interrupted":
            raise TrialFailedError("the budget was spent")
        trial.set_constraint(TARGET, config.target_accuracy - summary.best_eval_accuracy)
        self.failures_in_a_row.clear()
        return summary.total_train_s if summary.time_to_accuracy_s is None else summary.time_to_accuracy_s

    def reason_to_stop(self, epoch: EpochMetrics, config: RunConfig) -> str | None:
        """Pruning that is exact: past the best finished time, a trial of the same seed can no longer win."""
        if epoch.quality.accuracy >= config.target_accuracy or epoch.epoch == config.epochs:
            return None
        if self.is_budget_spent():
            return "interrupted"
        best_s = studies.best_time_s(self.study)
        return "pruned" if best_s is not None and epoch.elapsed_train_s >= best_s else None

    def note_result(
        self, trial: optuna.Trial, summary: RunSummary, epochs: list[EpochMetrics], config: RunConfig
    ) -> None:
        attributes: dict[str, Any] = {
            "outcome": summary.outcome,
            "best_accuracy": summary.best_eval_accuracy,
            "epochs": len(epochs),
            "train_s": summary.total_train_s,
        }
        if summary.outcome == "pruned":
            self.failures_in_a_row.clear()
            seconds = sum(epoch.cost.train_s + epoch.eval_s for epoch in epochs)
            attributes["saved_at_most_s"] = seconds / len(epochs) * (config.epochs - len(epochs))
        if summary.outcome == "interrupted":
            attributes["error"] = "the budget of timeout_s was spent"
        for name, value in attributes.items():
            trial.set_user_attr(name, value)

    def note_failure(self, trial: optuna.Trial, run_id: str | None, error: AccelmlfError | Interrupted) -> None:
        """What this trial died of, for the study and for its run, and whether the search can go on."""
        if isinstance(error, Interrupted) or is_fatal(error):
            self.ended_by = error
        else:
            self.failures_in_a_row[error.outcome] += 1
        # A failure that is not the point's own leaves the point to be tried again; a process that was killed has no
        # outcome, and so gets its second try like one that was killed together with this one.
        if not isinstance(error, ProcessKilledError):
            trial.set_user_attr("outcome", "interrupted" if self.ended_by else error.outcome)
        trial.set_user_attr("error", str(error))
        if run_id is not None:
            self.family.end_child(run_id, error.outcome, str(error))

    def tell(self) -> None:
        """The trial that has just ended, on the console and in the series of the parent run."""
        records = self.records()
        own = [record for record in records if record.number == self.number]
        for record in own:
            self.console.trial_ended(record, records)
        self.log_series(own, records)

    def log_series(self, new: Sequence[TrialRecord], records: Sequence[TrialRecord]) -> None:
        """The figures of the `new` among all `records`, and the best up to each, by the number of the trial."""
        for record in new:
            own = {"trial_time_to_accuracy_s": record.time_to_accuracy_s, "trial_best_accuracy": record.best_accuracy}
            best_s = min(times_s(r for r in records if r.number <= record.number), default=None)
            figures = own | {"best_time_to_accuracy_s": best_s}
            known = {name: value for name, value in figures.items() if value is not None}
            if known:
                self.family.parent.log_metrics(known, record.number)
