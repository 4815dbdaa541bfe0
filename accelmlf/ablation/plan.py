"""What an ablation is going to run: its arms as this device can run them, and what they have in common."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelmlf.ablation.designs import Arm, Asked, design_by_number
from accelmlf.ablation.factors import Factors, look_at_factors, settings_of
from accelmlf.ablation.settings import BY_NUMBER, OF_PRESETS, STEPS, TUNED, AblateConfig
from accelmlf.data.batches import BatchPlan
from accelmlf.errors import ConfigError, DeviceError
from accelmlf.machine import isolation
from accelmlf.many_runs.preflight import Preflight, common_facts, digest_of, look_in_own_process
from accelmlf.settings.commands import as_given, command_line
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig, require_trainable_batch


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """What every run of an ablation has in common, and what it has of its own."""

    ablate: AblateConfig
    given: Mapping[str, Any]
    seen: Preflight
    asked: Asked
    configs: Mapping[str, RunConfig]
    """Arm -> its run with the first seed, as the device will run it."""

    @property
    def base(self) -> RunConfig:
        return self.seen.config

    def config_of(self, arm: Arm, block: int) -> RunConfig:
        own = settings_of(arm, self.base) | {"seed": (self.base.seed + block) % 2**32, "device": self.base.device}
        if self.asked.measure == STEPS:  # its epochs are counted, no more
            own["stop_at_target"] = True
        given = given_of_preset(self.given) if arm.name == TUNED else self.given
        return resolve({**given, **own})

    def facts(self) -> dict[str, Any]:
        """What the runs of one ablation have in common, and what was asked."""
        return {
            **common_facts(self.seen),
            "measure": self.asked.measure,
            "design": self.asked.design,
            "factors": self.asked.factors,
            "learning_rates": {name: config.as_texts()["learning_rate"] for name, config in self.configs.items()},
        }

    def study_id(self) -> str:
        """The same for the same facts, so that the same command goes on where it was."""
        return digest_of(self.facts())[:16]

    def command(self) -> str:
        own = {"model": self.base.model, **as_given(AblateConfig, vars(self.ablate))}
        command = command_line("ablate", own | as_given(RunConfig, {**self.given, "model": None}))
        threads = os.environ.get("OMP_NUM_THREADS")  # with another number it would be another ablation
        return f"OMP_NUM_THREADS={shlex.quote(threads)} {command}" if threads else command


NO_MATTER_FOR_SPEED = (
    "epochs",
    "learning_rate",
    "learning_rate_multipliers",
    "weight_decay",
    "target_accuracy",
    "stop_at_target",
    "normalisation",
    "seed",
    "techniques",
    "tuned",
)
"""Settings whose values leave a step as long as it is."""


def speed_key(seen: Preflight) -> str:
    """The same for runs whose steps are equally long but for their techniques, on equal machines and versions."""
    return digest_of(common_facts(seen, NO_MATTER_FOR_SPEED))[:16]


def given_of_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, without what the recipe's preset sets itself."""
    of_preset = ("techniques", "batch_size", "accumulation_steps")
    return {name: value for name, value in given.items() if name not in of_preset} | {TUNED: True}


def make_plan(ablate: AblateConfig, given: Mapping[str, Any]) -> AblationPlan:
    """The arms as this device can run them.

    Raises:
        DeviceError: it can run none of the factors.
    """
    words = ablate.factor_words()
    seen = look_in_own_process(resolve(given), False)
    require_trainable_batch(seen.config.model, seen.config.batch_size, seen.has_batch_norm)
    if ablate.design == "preset":
        tuned = look_in_own_process(resolve({**given, TUNED: True}), False)
        left_out = tuple(f"{technique.label} ({technique.reason})" for technique in tuned.skipped)
        factors = Factors(labels=words, left_out=left_out, clash=None)
    else:
        factors = isolation.call(look_at_factors, words, seen.config)
    if not factors.labels:
        rule = f"the device {seen.config.device} can run none of them: {'; '.join(factors.left_out)}"
        remedy = "Give some that it has: dry_run=true of a model lists them"
        raise DeviceError("factors", ",".join(words), rule, remedy)
    asked = Asked(
        design=design_by_number(len(factors.labels), clash=factors.clash)
        if ablate.design == BY_NUMBER
        else ablate.design,
        factors=factors.labels,
        clash=factors.clash,
        repeats=ablate.num_repeats,
        left_out=factors.left_out,
        measure=ablate.measure,
        precision=ablate.precision,
    )
    arms = asked.as_design().arms
    configs = {arm.name: resolve({**given, **settings_of(arm, seen.config)}) for arm in arms}
    for config in configs.values():
        batches = len(BatchPlan(seen.sizes["train"], config.batch_size))
        if config.accumulation_steps > batches:
            few = f"an epoch of {seen.sizes['train']} pictures has {batches} batch{'es' * (batches > 1)} of that size"
            rule = f"{few}, too few for {config.accumulation_steps} micro-batches per step"
            raise ConfigError("batch_size", config.batch_size, rule, "Give a smaller batch_size, or more pictures")
    if ablate.design in OF_PRESETS:
        tuned = look_in_own_process(resolve(given_of_preset(given)), False)
        configs[TUNED] = tuned.config  # without what the device had to leave out
    return AblationPlan(ablate=ablate, given=given, seen=seen, asked=asked, configs=configs)
