"""What a search minimises: a point is trained in a process of its own, up to the target or until it cannot win."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.trial import TrialState

from accelmlf.errors import AccelmlfError, Interrupted, ProcessKilledError
from accelmlf.machine import signals
from accelmlf.many_runs.child_run import is_fatal, train_child
from accelmlf.measure.records import EpochMetrics, RunSummary
from accelmlf.search.console import SearchConsole
from accelmlf.search.one_trial import TrialFailedError
from accelmlf.search.plan import Plan
from accelmlf.search.space import Point, in_words
from accelmlf.search.study import FINISHED, TARGET_CONSTRAINT, best_time_s, chosen_point, seen_points, sign, suggest
from accelmlf.settings.run import RunConfig
from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.tags import TRIAL, TRIAL_NUMBER

POLL_S = 0.2
SETTLING_S = 10.0
"""How long a trial waits for earlier ones of other workers to choose their points."""


@dataclass(frozen=True)
class Objective:
    """The function of a trial that Optuna minimises."""

    study: optuna.Study
    plan: Plan
    parent: ParentRun
    console: SearchConsole
    deadline_s: float
    """On time.monotonic(): the end of the budget, after which a trial ends with its epoch; infinite without one."""

    def __call__(self, trial: optuna.Trial) -> float:
        """Seconds of training to the target or, marked by its constraint, of all the epochs that missed it.

        Raises:
            TrialPruned: it could no longer win.
            TrialFailedError: it was one too many, or the budget was spent.
            AccelmlfError, Interrupted: what ended it, noted on the trial.
        """
        try:
            sign(trial)
            point = suggest(trial, self.plan.space)
            if self.is_surplus(trial, point):
                trial.set_user_attr("outcome", "surplus")
                raise TrialFailedError("another worker has taken the last place or this point")
            return self.evaluate(trial, point)
        except (AccelmlfError, Interrupted) as error:
            if isinstance(error, Interrupted):
                signals.ignore_from_now_on()
            with suppress(Exception):  # what a storage says does not take the place of what ended the trial
                note_failure(trial, error)
            raise

    def is_surplus(self, trial: optuna.Trial, point: Point) -> bool:
        """Whether an earlier trial of another worker, started in the same moment, makes this one too many."""
        give_up_s = time.monotonic() + SETTLING_S
        while (earlier := self.study.get_trials(deepcopy=False)[: trial.number]) and time.monotonic() < give_up_s:
            choosing = [t for t in earlier if t.state == TrialState.RUNNING]
            if all(chosen_point(t, self.plan.space) is not None for t in choosing):
                break
            time.sleep(POLL_S)
        taken = [t for t in earlier if t.state in (*FINISHED, TrialState.RUNNING)]
        if len(taken) >= self.plan.tune.n_trials:
            return True
        return point in seen_points(self.study, self.plan.space, before=trial.number)

    def evaluate(self, trial: optuna.Trial, point: Point) -> float:
        """Train at a point, and note on the trial what came of it."""
        config = self.plan.config_of(point)
        epochs: list[EpochMetrics] = []

        def stop_early(epoch: EpochMetrics) -> str | None:
            epochs.append(epoch)
            self.console.epoch(epoch)
            try:
                trial.report(1 - epoch.quality.accuracy, epoch.epoch)  # TPE ranks pruned trials by it, downwards
            except UpdateFinishedTrialError:  # another worker has given it up; raised again below, with the run closed
                return "interrupted"
            return self.reason_to_stop(epoch, config)

        summary = self.train(trial, point, config, stop_early)
        for name, value in attributes_of(summary, epochs, config).items():
            trial.set_user_attr(name, value)
        if summary.outcome == "pruned":
            raise TrialPruned
        if summary.outcome == "interrupted":
            raise TrialFailedError("the budget was spent")
        trial.set_constraint(TARGET_CONSTRAINT, config.target_accuracy - summary.best_eval_accuracy)
        return summary.total_train_s if summary.time_to_accuracy_s is None else summary.time_to_accuracy_s

    def train(
        self, trial: optuna.Trial, point: Point, config: RunConfig, stop_early: Callable[[EpochMetrics], str | None]
    ) -> RunSummary:
        """The trial's run below the parent: started, trained in a process of its own, closed whatever ends it.

        Raises:
            AccelmlfError, Interrupted: what ended it.
        """
        name = f"trial {trial.number}: {in_words(point)}"
        run_id = self.parent.start_child(name, TRIAL, {TRIAL_NUMBER: str(trial.number)})
        trial.set_user_attr("run_id", run_id)  # where this process is killed, the next one closes the run
        self.console.begins(f"trial {trial.number}", in_words(point), config.epochs)
        key = self.plan.device_key
        return train_child(self.parent, run_id, config, key, stop_early=stop_early, read_test=False)

    def reason_to_stop(self, epoch: EpochMetrics, config: RunConfig) -> str | None:
        """Pruning that is exact: past the best finished time, a trial of the same seed can no longer win."""
        if epoch.quality.reaches(config.target_accuracy) or epoch.epoch == config.epochs:
            return None
        if time.monotonic() >= self.deadline_s:
            return "interrupted"
        best_s = best_time_s(self.study)
        return "pruned" if best_s is not None and epoch.elapsed_train_s >= best_s else None


def attributes_of(summary: RunSummary, epochs: Sequence[EpochMetrics], config: RunConfig) -> dict[str, Any]:
    """What the study keeps of a run, by the names that `study.records` reads."""
    attributes: dict[str, Any] = {
        "outcome": summary.outcome,
        "best_accuracy": summary.best_eval_accuracy,
        "epochs": len(epochs),
        "train_s": summary.total_train_s,
    }
    if summary.outcome == "pruned":
        seconds = sum(epoch.cost.train_s + epoch.eval_s for epoch in epochs)
        attributes["saved_at_most_s"] = seconds / len(epochs) * (config.epochs - len(epochs))
    if summary.outcome == "interrupted":
        attributes["error"] = "the budget of timeout_s was spent"
    return attributes


def note_failure(trial: optuna.Trial, error: AccelmlfError | Interrupted) -> None:
    """What the study keeps of a failure.

    One that is not the point's own leaves the point to be tried again. A process that was killed leaves no outcome, so
    that its point gets a second try, like that of one killed together with its search.
    """
    is_its_own = isinstance(error, AccelmlfError) and not is_fatal(error)
    if not isinstance(error, ProcessKilledError):
        trial.set_user_attr("outcome", error.outcome if is_its_own else "interrupted")
    trial.set_user_attr("error", str(error))
