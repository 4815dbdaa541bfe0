"""The settings of an ablation. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelmlf.errors import ConfigError
from accelmlf.settings.fields import setting

DEFAULT_FACTORS = "accumulation,amp,pin_memory"
BASELINE, ALL, UNTUNED, TUNED = "baseline", "all", "untuned", "tuned"
STEPS, RUNS = "steps", "runs"
DEFAULT_REPEATS = 5
DEFAULT_PRECISION, DEFAULT_BUDGET = 0.02, 12.0
SET_BY_ABLATION = {"tuned": "design=preset"}
"""Settings of a run that an ablation sets by itself, and what to give instead."""


OF_PRESETS = ("preset", "with_preset")
"""Designs that have an arm of the recipe's preset."""
BY_NUMBER = "auto"
"""What becomes a design once it is known how many factors this device can run."""
MOST_ONE_AT_A_TIME = 5
DESIGN_NAMES = (
    BY_NUMBER,
    "one_at_a_time",
    "leave_one_out",
    "factorial",
    "screening",
    "alone",
    "with_preset",
    "preset",
)


@dataclass(frozen=True, kw_only=True)
class AblateConfig:
    """The settings of an ablation beside those of its runs."""

    factors: str | None = setting(None, default_text=DEFAULT_FACTORS)
    """Comma list of techniques, accumulation (as the recipe), accumulation:same_effective_batch, or all techniques."""
    design: str = setting(
        BY_NUMBER,
        choices=DESIGN_NAMES,
        default_text=f"one_at_a_time, and screening above {MOST_ONE_AT_A_TIME} factors",
    )
    """one_at_a_time, leave_one_out, factorial, screening, alone (none together), with_preset, or preset."""
    measure: str = setting(STEPS, choices=(STEPS, RUNS))
    """steps: short stretches of steps, in minutes; runs: whole training runs, each to its last epoch."""
    precision: float = setting(DEFAULT_PRECISION, at_least=0.001, at_most=0.5)
    """With measure=steps: half the width of the intervals (of the ratio) at which the measurement ends."""
    budget: float = setting(DEFAULT_BUDGET, above=0, at_most=10_000)
    """With measure=steps: minutes after which it ends, however wide the intervals; on a GPU up to a quarter more."""
    repeats: int | None = setting(None, at_least=1, at_most=100, default_text="5 with measure=runs, none with steps")
    """Seeds with which whole runs of every arm are trained: measure=runs times them, measure=steps counts epochs."""
    least_generations: int = 1
    """No setting of a user, who is told and can give a larger budget: what ends without a verdict chooses nothing."""

    def __post_init__(self) -> None:
        if self.design == "preset" and self.factors is not None:
            rule = "the preset's factors are those of the recipe"
            raise ConfigError("factors", self.factors, rule, "Leave factors out, or choose another design")
        for name, default in (("precision", DEFAULT_PRECISION), ("budget", DEFAULT_BUDGET)):
            if self.measure == RUNS and (value := getattr(self, name)) != default:
                rule = f"measure={RUNS} ends after its repeats"
                raise ConfigError(name, value, rule, f"Give repeats, or measure={STEPS}")

    def factor_words(self) -> tuple[str, ...]:
        """What was typed, word by word."""
        if self.design == "preset":
            return (TUNED,)
        words = tuple(word.strip() for word in (self.factors or DEFAULT_FACTORS).split(","))
        if "" in words:
            raise ConfigError("factors", self.factors, "a name is empty", "Separate the factors by single commas")
        if twice := [word for word in words if words.count(word) > 1]:
            raise ConfigError("factors", self.factors, f"{twice[0]} is there twice", "Name each factor once")
        return words

    @property
    def num_repeats(self) -> int:
        """Blocks of whole runs that are asked for."""
        return self.repeats or (DEFAULT_REPEATS if self.measure == RUNS else 0)

    def check_runs(self, given: Mapping[str, Any]) -> None:
        """Raises ConfigError for settings of its runs that contradict an ablation, or factors that are none."""
        self.factor_words()
        of_recipe = ("techniques", "batch_size", "accumulation_steps") if self.design == "preset" else ()
        if fixed := [name for name in of_recipe if name in given]:
            rule = f"design={self.design} compares the recipe's own arms"
            raise ConfigError(fixed[0], given[fixed[0]], rule, f"Leave {fixed[0]} out, or choose another design")
