"""What is each technique worth? Arms that differ in nothing else, interleaved, repeated, and judged."""

import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from accelmlf import __version__, ablation_report, isolation
from accelmlf.ablation_result import ARM, ASKED, DEVICE, Ablation, Asked, blocks_of
from accelmlf.child_runs import Child, run_child
from accelmlf.commands import as_given, command_line
from accelmlf.comparison import block_orders
from accelmlf.config import RunConfig, settable_fields
from accelmlf.console import say
from accelmlf.designs import SET_BY_ABLATION, TUNED, AblateConfig, Arm, settings_of
from accelmlf.environment import as_tags
from accelmlf.errors import AccelmlfError, ConfigError, DeviceError, recognise
from accelmlf.failures import failure_of_all, too_many
from accelmlf.family import Family, claim
from accelmlf.preflight import Factors, Preflight, look, look_at_factors
from accelmlf.processes import MANY_RUNS, is_of_this_machine, sole_use
from accelmlf.recipes import resolve
from accelmlf.runs_console import RunsConsole
from accelmlf.stored_runs import ABLATION, ARM_RUN, BLOCK, OWNER, StoredRun, runs_of_study
from accelmlf.tracking import MlflowTracker

NOT_PART_OF_AN_ABLATION = ("arm", "data_dir", "device", "effective_batch_size", "save_model")
"""Settings of a run that may differ between the starts of one ablation, or that follow from others."""


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """What every run of an ablation has in common, and what it has of its own."""

    ablate: AblateConfig
    given: Mapping[str, Any]
    seen: Preflight
    asked: Asked
    configs: Mapping[str, RunConfig]
    """Arm -> its run with the first seed."""

    @property
    def base(self) -> RunConfig:
        return self.seen.config

    def config_of(self, arm: Arm, block: int) -> RunConfig:
        own = settings_of(arm, self.base) | {"seed": (self.base.seed + block) % 2**32, "device": self.base.device}
        return resolve({**self.given, **own})

    def facts(self) -> dict[str, Any]:
        """All that the runs of one ablation have in common: what was measured elsewhere could not be compared."""
        texts = {name: text for name, text in self.base.as_texts().items() if name not in NOT_PART_OF_AN_ABLATION}
        arms = {name: config.as_texts()["learning_rate"] for name, config in self.configs.items()}
        hardware, versions = self.seen.environment["hardware"], self.seen.environment["versions"]
        named = ("cpu", "cpu_threads_used", "gpu", "cuda", "cudnn")
        return {
            **texts,
            "data": self.seen.data_digest,
            "design": self.asked.design,
            "factors": self.asked.factors,
            "learning_rates": arms,
            "machine": {name: str(hardware[name]) for name in named if name in hardware},
            "device_type": self.base.device.partition(":")[0],
            "torch": versions["torch"],
            "accelmlf": __version__,
        }

    def study_id(self) -> str:
        """The same for the same facts, so that the same command goes on where it was."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()[:16]

    def command(self) -> str:
        own = {"model": self.base.model, **as_given(AblateConfig, vars(self.ablate))}
        return command_line("ablate", own | as_given(RunConfig, {**self.given, "model": None}))


def run_ablate(ablate: AblateConfig, given: Mapping[str, Any], *, dry_run: bool = False) -> None:
    """Measure, compare, record. `given`: the settings of its runs that the user gave.

    Raises:
        AccelmlfError: settings, data or a device that cannot be used, or runs of which none survived.
    """
    refuse(ablate, given)
    given = {"save_model": False, **given}
    isolation.start_server(given["model"])
    plan = make_plan(ablate, given)
    if dry_run:
        announce(plan)
        return
    name = f"{plan.base.model}-{plan.base.dataset}-{plan.study_id()[:8]}"
    with sole_use(plan.seen.device_key, MANY_RUNS), MlflowTracker().run() as parent:
        announce(plan)
        claim(parent, ABLATION)
        family = Family(parent, ABLATION, name, plan.study_id())
        family.log_settings(*labels(plan))
        family.adopt()
        measure(plan, family)
        runs = runs_of_study(parent.experiment_id, family.study_id)
        record(Ablation.of(next(run for run in runs if run.run_id == parent.run_id), runs), plan, family)


def refuse(ablate: AblateConfig, given: Mapping[str, Any]) -> None:
    """Raises ConfigError for settings of a run that contradict an ablation."""
    preset = ("techniques", "batch_size") if ablate.design == "preset" else ()
    if fixed := [name for name in preset if name in given]:
        rule = "design=preset compares the recipe's own arms"
        raise ConfigError(fixed[0], given[fixed[0]], rule, f"Leave {fixed[0]} out, or choose another design")


def make_plan(ablate: AblateConfig, given: Mapping[str, Any]) -> AblationPlan:
    """The arms as this device can run them.

    Raises:
        DeviceError: it can run none of the factors.
    """
    words = ablate.factor_words()
    seen = isolation.call(look, resolve(given), False)
    if seen.config.batch_size == 1 and seen.has_batch_norm:
        rule = f"the BatchNorm of {seen.config.model} cannot normalise over one picture"
        raise ConfigError("batch_size", 1, rule, "Use 2 or more")
    if ablate.design == "preset":
        tuned = isolation.call(look, resolve({**given, TUNED: True}), False)
        left_out = tuple(f"{technique.label} ({technique.reason})" for technique in tuned.skipped)
        factors = Factors(labels=words, left_out=left_out, clash=None)
    else:
        factors = isolation.call(look_at_factors, words, seen.config)
    if not factors.labels:
        rule = f"the device {seen.config.device} can run none of them: {'; '.join(factors.left_out)}"
        remedy = "Give some that it has: dry_run=true of a model lists them"
        raise DeviceError("factors", ",".join(words), rule, remedy)
    asked = Asked(
        design=ablate.design,
        factors=factors.labels,
        clash=factors.clash,
        repeats=ablate.repeats,
        left_out=factors.left_out,
    )
    arms = asked.as_design().arms
    configs = {arm.name: resolve({**given, **settings_of(arm, seen.config)}) for arm in arms}
    return AblationPlan(ablate=ablate, given=given, seen=seen, asked=asked, configs=configs)


def measure(plan: AblationPlan, family: Family) -> None:
    """Every arm of every block that is not there yet, each in a process of its own.

    Raises:
        AccelmlfError: what no further run would survive, or the last failure where all have failed.
    """
    arms, console = plan.asked.as_design().arms, RunsConsole()
    kept = kept_runs(family, arms, plan.seen.device_key)
    todo = [
        (block, arm)
        for block, order in enumerate(block_orders(arms, plan.asked.repeats, plan.base.seed))
        for arm in order
        if arm.name not in kept.get(block, {})
    ]
    done = plan.asked.repeats * len(arms) - len(todo)
    if done:
        say(f"{done} of {done + len(todo)} runs are there already" + ("" if todo else ": nothing is left to measure"))
    started_s, in_a_row = time.monotonic(), Counter[str]()
    for number, (block, arm) in enumerate(todo):
        left_s = (time.monotonic() - started_s) / number * (len(todo) - number) if number else None
        left = "" if left_s is None else f"  left {tqdm.format_interval(left_s)}"
        config = plan.config_of(arm, block)
        console.begins(
            f"run {number + 1} of {len(todo)}, block {block + 1}", described(arm, config), config.epochs, left
        )
        tags = {ARM: arm.name, BLOCK: str(block), DEVICE: plan.seen.device_key}
        child = Child(f"{arm.name}, seed {config.seed}", ARM_RUN, tags)
        ended = run_child(child, config, plan.seen.device_key, family, console)
        if not isinstance(ended, AccelmlfError):
            in_a_row.clear()
            continue
        in_a_row[ended.outcome] += 1
        if not done and in_a_row.total() == number + 1 and (too_many(in_a_row) or number + 1 == len(todo)):
            raise failure_of_all("run", child.name, ended.outcome, str(ended))
        if too_many(in_a_row):
            say(f"the ablation ends here: the last {in_a_row.total()} runs have all failed")
            return


def described(arm: Arm, config: RunConfig) -> str:
    """The arm, and what its factors make of the settings."""
    batch = f"batch {config.batch_size} x {config.accumulation_steps}"
    return f"{arm.name} ({batch}, techniques {config.techniques}, seed {config.seed})"


def kept_runs(family: Family, arms: tuple[Arm, ...], device_key: str) -> dict[int, dict[str, StoredRun]]:
    """What earlier starts have finished: whole blocks, and of one that was cut short what this device has measured."""
    runs = family.children(ARM_RUN)
    whole = {block: found for block, found in blocks_of(runs, arms).items() if len(found) == len(arms)}
    own = [run for run in runs if is_of_this_machine(run.tags[OWNER]) and run.tags[DEVICE] == device_key]
    return blocks_of(own, arms) | whole


def labels(plan: AblationPlan) -> tuple[dict[str, str], dict[str, str]]:
    """Parameters and tags of the parent run."""
    own = {"design": plan.asked.design, "factors": ",".join(plan.asked.factors), "repeats": str(plan.asked.repeats)}
    texts = plan.base.as_texts()
    params = own | {name: texts[name] for name in settable_fields() if name not in SET_BY_ABLATION}
    tags = {f"accelmlf.config.{name}": text for name, text in (texts | own).items()}
    others = {
        ASKED: plan.asked.as_json(),
        "accelmlf.command": plan.command(),
        "accelmlf.data_digest": plan.seen.data_digest,
    }
    return params, tags | others | as_tags(plan.seen.environment)


def announce(plan: AblationPlan) -> None:
    """What is about to be measured, and how."""
    arms = plan.asked.as_design().arms
    runs = f"{plan.asked.repeats} repeats of {len(arms)} arms, interleaved: {plan.asked.repeats * len(arms)} runs"
    say(f"ablation of {', '.join(plan.asked.factors)}: {plan.base.model} on {plan.base.dataset} ({plan.base.pipeline})")
    say(f"  {plan.asked.design.replace('_', ' ')}, {runs} of {plan.base.epochs} epochs on {plan.base.device}")
    width = max(len(arm.name) for arm in arms)
    for arm in arms:
        config = plan.configs[arm.name]
        batch = f"batch {config.batch_size} x {config.accumulation_steps}, learning rate {config.learning_rate:g}"
        say(f"  {arm.name:<{width}}  {batch}, techniques {config.techniques}")
    for text in plan.asked.left_out:
        say(f"  left out: {text}")
    if plan.asked.clash is not None:
        say(f"  there is no arm with all of them: {plan.asked.clash}")


def record(ablation: Ablation, plan: AblationPlan, family: Family) -> None:
    """The result on the console and in the parent run: metrics, verdicts, tables, pictures."""
    say("\n".join(ablation_report.as_lines(ablation)))
    say(f"\nto show this again: {plan.command()}")
    say("another seed (-P seed=1000, say) measures afresh; decide on the number of repeats before you look")
    is_whole = ablation.num_runs + len(ablation.failures) == ablation.num_planned
    outcome = "completed" if is_whole else "failed"
    tags = {"accelmlf.verdict": ablation_report.verdict(ablation)}
    family.log_result({}, ablation_report.metrics(ablation), outcome, tags)
    for write in (ablation_report.write_tables, ablation_report.draw):  # a picture that fails takes no table with it
        try:
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder), ablation)
                family.parent.log_artifacts(Path(folder))
        except OSError as error:
            raise recognise(error, batch_size=0) from error
    say(f"tables and pictures (scripts/ui serves them): {family.parent.files_url()}")
