"""The settings of a search. Standard library only."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelmlf.errors import ConfigError
from accelmlf.settings.fields import setting

SET_BY_SEARCH = {
    "batch_size": "batch_sizes",
    "accumulation_steps": "accumulation_choices",
    "stop_at_target": "target_accuracy",
}
"""Settings of a run that a search sets by itself, and what to set instead."""
DEFAULT_STORAGE = "sqlite:///optuna.db"


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """The settings of a search beside those of its runs."""

    batch_sizes: tuple[int, ...] | None = setting(
        None, at_least=1, at_most=2**20, default_text="half, one, two and four times the recipe's"
    )
    """Comma list of batch sizes to search."""
    accumulation_choices: tuple[int, ...] | None = setting(None, at_least=1, at_most=2**20, default_text="1,2,4")
    """Comma list of accumulation steps to search."""
    n_trials: int = setting(20, at_least=1, at_most=100_000)
    """Finished trials in all, over every worker and restart of the study; failed ones do not count."""
    timeout_s: float | None = setting(None, above=0, at_most=10**9, default_text="none")
    """Seconds after which the search ends, a trial under way after its epoch; the confirmation comes on top."""
    sampler: str = setting("auto", choices=("auto", "tpe", "grid", "random"))
    """auto: grid where n_trials covers every point, else tpe. None of them runs a point twice."""
    search_learning_rate: bool = setting(False)
    """Search the learning rate from a fifth to five times the recipe's, instead of following the effective batch."""
    search_techniques: bool = setting(False)
    """Search each technique that the device can run, on or off."""
    study_name: str | None = setting(None, default_text="model, dataset and a digest of the settings")
    """The same name goes on with that study, and refuses another space, target, model, data or device."""
    storage: str | None = setting(None, default_text=f"{DEFAULT_STORAGE}, or $OPTUNA_STORAGE")
    """Where Optuna keeps the study: any RDB URL. One with a password belongs into the variable OPTUNA_STORAGE."""
    confirm_repeats: int = setting(3, at_least=0, at_most=100)
    """Fresh seeds for each of the three best points and for the recipe's own setting; 0: no confirmation."""

    def __post_init__(self) -> None:
        name = self.study_name
        if name is not None and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
            raise ConfigError("study_name", name, "a name is 1 to 64 of A-Z a-z 0-9 . _ -", "Choose another name")
        if self.sampler == "grid" and self.search_learning_rate:
            remedy = "Use sampler=tpe or random, or leave search_learning_rate out"
            raise ConfigError("sampler", "grid", "a learning rate has no grid", remedy)

    def check_runs(self, given: Mapping[str, Any]) -> None:
        """Raises ConfigError for settings of its runs that contradict a search."""
        if given.get("validation") == "test":
            rule = "a search that looks at the test set leaves nothing to test on"
            remedy = "Leave validation out: the search looks at a part of the training set"
            raise ConfigError("validation", "test", rule, remedy)
        if self.search_techniques and "techniques" in given:
            remedy = "Leave techniques or search_techniques out"
            raise ConfigError("techniques", given["techniques"], "the techniques are searched", remedy)
