"""Which point comes next: one that has not been run, chosen by grid, by chance, or by Optuna's TPE."""

import math
import random
import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial

from accelmlf.search.space import Point, SearchSpace
from accelmlf.search.study import distributions, interrupted_points, seen_points

STARTUP_TRIALS = 6
"""Random ones before TPE has enough to model; its own default of 10 is most of a small budget."""
TPE_TRIES = 32


class UnseenPoints(BaseSampler):
    """Proposes only points that no trial of the study has had, the recipe's own first, then what was interrupted.

    Optuna's samplers revisit points of a small grid, and the same seed repeats the same trials after a restart. Here
    chance depends on the seed and on the number of the trial, so a study goes on with new points however often it is
    started.
    """

    def __init__(self, space: SearchSpace, kind: str, first: Point, seed: int) -> None:
        self.space, self.kind, self.first, self.seed = space, kind, first, seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return distributions(self.space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        seen = seen_points(study, self.space, before=trial.number)
        if self.first in self.space and self.first not in seen:
            return dict(self.first)
        if cut_short := [point for point in interrupted_points(study, self.space) if point not in seen]:
            return dict(cut_short[0])
        if self.kind == "grid":
            return dict((self.space.unseen(seen) or self.space.grid)[0])  # none: another worker has taken the last
        chance = random.Random(f"{self.seed}/{trial.number}")
        if self.kind == "tpe" and (point := self._modelled(study, trial, seen, chance)):
            return dict(point)
        return dict(self.space.random_point(seen, chance))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name} is no part of the space")

    def _modelled(
        self, study: optuna.Study, trial: FrozenTrial, seen: list[Point], chance: random.Random
    ) -> Point | None:
        """TPE's proposal, if it has one that is possible and new."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            tpe = TPESampler(multivariate=True, n_startup_trials=STARTUP_TRIALS, seed=chance.randrange(2**32))
        space = {name: kind for name, kind in distributions(self.space).items() if not kind.single()}
        for _ in range(TPE_TRIES):
            proposed = tpe.sample_relative(study, trial, space)
            if not proposed:
                return None
            point = {name: proposed.get(name, values[0]) for name, values in self.space.choices.items()}
            if self.space.learning_rates:
                point["learning_rate"] = self.space.rounded(proposed["learning_rate"])
            if point in self.space and point not in seen:
                return point
        return None


def choose(kind: str, space: SearchSpace, n_trials: int) -> str:
    """What `auto` stands for."""
    if kind != "auto":
        return kind
    return "grid" if not math.isinf(space.size) and space.size <= n_trials else "tpe"
