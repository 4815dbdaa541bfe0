"""What an ablation is going to run: its arms as this device can run them, and what they have in common."""

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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
from accelmlf.settings.technique_list import NONE
from accelmlf.techniques.stack import labels_of


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """What every run of an ablation has in common, and what it has of its own."""

    ablate: AblateConfig
    given: Mapping[str, Any]
    seen: Preflight
    asked: Asked
    configs: Mapping[str, RunConfig]
    """Arm -> its run with the first seed, as the device will run it."""
    skipped_of_preset: str = NONE
    """Comma list of the techniques of the recipe's preset that the device had to leave out, or none."""

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
    tuned = look_in_own_process(resolve(given_of_preset(given)), False) if ablate.design in OF_PRESETS else None
    of_preset = () if tuned is None else tuple(f"{skipped.label} ({skipped.reason})" for skipped in tuned.skipped)
    if ablate.design == "preset":
        factors = Factors(labels=words, left_out=of_preset, clash=None)
    else:
        factors = isolation.call(look_at_factors, words, seen.config)
        of_tuned = tuple(f"{text} of {TUNED}" for text in of_preset)
        factors = replace(factors, left_out=tuple(dict.fromkeys((*factors.left_out, *of_tuned))))
    if not factors.labels:
        rule = f"the device {seen.config.device} can run none of them: {'; '.join(factors.left_out)}"
        remedy = "Give some that it has: dry_run=true of a model lists them"
        raise DeviceError("factors", ",".join(words), rule, remedy)
    by_number = design_by_number(len(factors.labels), clash=factors.clash)
    asked = Asked(
        design=by_number if ablate.design == BY_NUMBER else ablate.design,
        factors=factors.labels,
        clash=factors.clash,
        repeats=ablate.num_repeats,
        left_out=factors.left_out,
        measure=ablate.measure,
        precision=ablate.precision,
        budget=ablate.budget,
    )
    configs = {arm.name: resolve({**given, **settings_of(arm, seen.config)}) for arm in asked.as_design().arms}
    skipped = NONE
    if tuned is not None:
        configs[TUNED], skipped = tuned.config, str(labels_of(tuned.skipped))
    require_full_steps(configs.values(), seen.sizes["train"])
    return AblationPlan(ablate=ablate, given=given, seen=seen, asked=asked, configs=configs, skipped_of_preset=skipped)


def require_full_steps(configs: Iterable[RunConfig], num_images: int) -> None:
    """Refuse an arm whose epoch has fewer batches than one optimizer step takes.

    Raises:
        ConfigError: the batch is too large for the pictures that there are.
    """
    for config in configs:
        batches = len(BatchPlan(num_images, config.batch_size))
        if config.accumulation_steps > batches:
            few = f"an epoch of {num_images} pictures has {batches} batch{'es' * (batches > 1)} of that size"
            rule = f"{few}, too few for {config.accumulation_steps} micro-batches per step"
            raise ConfigError("batch_size", config.batch_size, rule, "Give a smaller batch_size, or more pictures")
