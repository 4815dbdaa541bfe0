"""What a search found: its result in figures and sentences, its files, and the command that reproduces the winner."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from accelmlf.many_runs.comparison import MIN_REPEATS
from accelmlf.search.confirmation import Confirmation
from accelmlf.search.plan import Plan
from accelmlf.search.plots import draw_confirmation, draw_optuna_plots, draw_time_to_accuracy
from accelmlf.search.settings import TuneConfig
from accelmlf.search.space import Point, in_words
from accelmlf.search.tables import confirmation_table, trial_table, write_confirmation, write_trials
from accelmlf.search.trials import TrialRecord, times_s
from accelmlf.settings.commands import as_given, command_line
from accelmlf.settings.fields import as_text
from accelmlf.settings.run import RunConfig
from accelmlf.text import counted
from accelmlf.tracking.tags import COMMAND, ENDED_AT, VERDICT, WINNER_COMMAND


@dataclass(frozen=True)
class Result:
    """What a search found, from its trials and their confirmation."""

    plan: Plan
    records: Sequence[TrialRecord]
    confirmation: Confirmation | None
    ended_at: str

    @property
    def outcome(self) -> str:
        if times_s(self.records):
            return "completed"
        return "target_not_reached" if any(record.is_finished for record in self.records) else "interrupted"

    @property
    def best(self) -> TrialRecord | None:
        """The trial that reached the target the soonest, with the seed of the search."""
        reached = [r for r in self.records if r.time_to_accuracy_s is not None]
        return min(reached, key=lambda r: r.time_to_accuracy_s or 0.0, default=None)

    @property
    def nearest(self) -> TrialRecord | None:
        """Where every trial missed: the one with the highest accuracy."""
        missed = [r for r in self.records if r.best_accuracy is not None]
        return max(missed, key=lambda r: r.best_accuracy or 0.0, default=None)

    @property
    def winning_point(self) -> Point | None:
        """The best confirmed point, or, without a confirmation, that of the best trial."""
        if self.confirmation is not None:
            return self.confirmation.winner.point
        return None if self.best is None else self.best.point

    def winner_settings(self) -> dict[str, str]:
        """The winner as settings of a run, with all that was given to the search."""
        if self.winning_point is None:
            return {}
        is_recipe = self.confirmation is not None and self.confirmation.winner.is_recipe
        searched = {} if is_recipe else self.plan.space.settings(self.winning_point)
        given = {name: value for name, value in self.plan.given.items() if name != "model"}
        texts = {name: as_text(value) for name, value in {**searched, "stop_at_target": True}.items()}
        return as_given(RunConfig, given) | texts

    @property
    def verdict(self) -> str:
        """One sentence on what was found."""
        if self.winning_point is None:
            return self.missed_text()
        if self.confirmation is None:
            return "not confirmed: one seed, and a search picks lucky seeds (confirm_repeats=0)"
        return verdict_of(self.confirmation)

    def tags(self) -> dict[str, str]:
        """The result in words, for the parent run."""
        own = {"model": self.plan.base.model, **as_given(TuneConfig, vars(self.plan.tune))}
        search = command_line("tune", own | as_given(RunConfig, {**self.plan.given, "model": None}))
        tags = {ENDED_AT: self.ended_at, VERDICT: self.verdict, COMMAND: search}
        if self.winning_point is not None:
            tags[WINNER_COMMAND] = command_line(self.plan.base.model, self.winner_settings())
        return tags

    def params(self) -> dict[str, str]:
        """`best_*`, by the names of a run's settings."""
        if self.winning_point is None:
            return {}
        config = self.plan.config_of(self.winning_point)
        names = ("batch_size", "accumulation_steps", "learning_rate", "techniques")
        techniques = {} if self.plan.space.technique_sets else {"techniques": as_text(self.plan.base.techniques)}
        texts = {name: as_text(getattr(config, name)) for name in names} | techniques
        return {f"best_{name}": text for name, text in texts.items()}

    def metrics(self) -> dict[str, float]:
        """Counts, the time that pruning saved, and what was confirmed. What there is not is absent."""
        outcomes = [record.outcome for record in self.records]
        figures: dict[str, float | None] = {
            "finished_trials": sum(record.is_finished for record in self.records),
            "pruned_trials": outcomes.count("pruned"),
            "missed_trials": outcomes.count("target_not_reached"),
            "failed_trials": sum(record.has_failed for record in self.records),
            "pruning_saved_at_most_s": self.saved_at_most_s,
            "best_accuracy": None if self.nearest is None else self.nearest.best_accuracy,
        }
        if self.confirmation is not None:
            winner = self.confirmation.winner
            figures["confirmed_time_to_accuracy_s"] = winner.mean_s
            figures["confirmed_reached"] = len(winner.reached_s)
            figures["confirmed_repeats"] = len(winner.repeats)
            figures["recipe_time_to_accuracy_s"] = self.confirmation.recipe.mean_s
            if (ratio := self.confirmation.speedup(winner)) is not None:
                figures |= {"speedup": ratio.value, "speedup_low": ratio.low, "speedup_high": ratio.high}
        return {name: value for name, value in figures.items() if value is not None}

    @property
    def saved_at_most_s(self) -> float:
        return sum(record.saved_at_most_s or 0.0 for record in self.records)

    def as_text(self) -> str:
        """The final table, the verdict, and the command line of the winner."""
        parts = ["\n".join(trial_table(self.records))]
        if saved_s := self.saved_at_most_s:
            parts.append(f"pruning saved at most {saved_s:.0f} s: what those trials still had of their epochs")
        if self.confirmation is not None:
            parts.append("\n".join(confirmation_table(self.confirmation)))
        parts.append(self.verdict)
        if self.winning_point is None:
            return "\n" + "\n\n".join(parts)
        if self.confirmation is not None:
            parts += wall_note(self.confirmation)
        command = command_line(self.plan.base.model, self.winner_settings())
        return "\n" + "\n\n".join([*parts, f"to reproduce the winner: {command}"])

    def missed_text(self) -> str:
        target = f"no trial reached the target of {self.plan.base.target_accuracy:g}"
        if self.nearest is None or self.nearest.point is None:
            return f"{target}: none was finished"
        nearest = f"trial {self.nearest.number} ({in_words(self.nearest.point)}) with {self.nearest.best_accuracy:.4f}"
        return f"{target}; the nearest was {nearest}. Give more epochs, or a lower target_accuracy"


def verdict_of(confirmation: Confirmation) -> str:
    """One sentence that says no more than was measured."""
    winner, recipe = confirmation.winner, confirmation.recipe
    if not winner.reached_s:
        return "no setting reached the target with fresh seeds: the search had lucky ones"
    if winner.is_recipe:
        return "no setting that the search found is confirmed to be faster than the recipe's own"
    ratio = confirmation.speedup(winner)
    if ratio is None:
        counts = " and ".join(f"{len(arm.reached_s)} of {len(arm.repeats)}" for arm in (winner, recipe))
        return f"winner: {winner.name}; it and the recipe reached the target in {counts} runs: no ratio of times"
    measured = f"winner: {winner.name}, {ratio} the recipe's speed"
    if (verdict := confirmation.verdict(winner)) is None:
        why = f"{MIN_REPEATS} are needed" if ratio.pairs < MIN_REPEATS else "all alike to the digit"
        return f"{measured} with {counted(ratio.pairs, 'seed')}, {why}: no claim"
    found = f"{measured}: {verdict} (95 % interval, {ratio.pairs} seeds"
    if confirmation.num_candidates == 1:
        return f"{found})"
    return (
        f"{found}; picked as the best of {confirmation.num_candidates}, so the point is on the optimistic side; "
        "the interval holds for all of them together)"
    )


def wall_note(confirmation: Confirmation) -> list[str]:
    """A sentence where the training clock and the clock on the wall disagree about the winner."""
    soonest, winner = confirmation.soonest_on_the_wall, confirmation.winner
    if soonest is None or soonest is winner or winner.mean_wall_s is None:
        return []
    times = f"{soonest.mean_wall_s:.0f} s against {winner.mean_wall_s:.0f} s"
    return [f"note: with set-up, warm-up and validation, {soonest.name} was the sooner: {times}"]


def write_tables(folder: Path, result: Result, study: optuna.Study) -> None:
    """trials.csv, confirmation.csv, search.json and summary.txt."""
    write_trials(folder / "trials.csv", result.records, result.plan.space)
    (folder / "summary.txt").write_text(result.as_text() + "\n")
    if result.confirmation is not None:
        write_confirmation(folder / "confirmation.csv", result.confirmation)
    facts = {"study": study.study_name, "about": study.user_attrs["accelmlf"], "outcome": result.outcome}
    content = facts | {"ended_at": result.ended_at, "winner": result.winner_settings(), "metrics": result.metrics()}
    (folder / "search.json").write_text(json.dumps(content, indent=2) + "\n")


def draw(folder: Path, result: Result, study: optuna.Study) -> None:
    """The heat map, the confirmation and Optuna's plots."""
    target = result.plan.base.target_accuracy
    draw_time_to_accuracy(result.records, result.plan.space, target, folder / "time_to_accuracy.png")
    if result.confirmation is not None:
        draw_confirmation(result.confirmation, target, folder / "confirmation.png")
    draw_optuna_plots(folder, study)
