"""What is each technique worth? Arms that differ in nothing else, interleaved, repeated, and judged."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from accelmlf.ablation import tables
from accelmlf.ablation.designs import Arm
from accelmlf.ablation.files import draw, write_tables
from accelmlf.ablation.plan import AblationPlan, make_plan, speed_key
from accelmlf.ablation.result import Ablation, blocks_of
from accelmlf.ablation.settings import RUNS, SET_BY_ABLATION, STEPS, AblateConfig
from accelmlf.ablation.stored import FAILED_FOR_GOOD
from accelmlf.ablation.stretches import measure_stretches
from accelmlf.ablation.time_to_accuracy import learning_alike
from accelmlf.errors import AccelmlfError
from accelmlf.machine.processes import is_of_this_machine
from accelmlf.many_runs.child_run import Child, failure_of_all, run_child, too_many
from accelmlf.many_runs.comparison import block_orders
from accelmlf.many_runs.console import RunsConsole, left_in_words
from accelmlf.many_runs.opened import labels_of_parent, opened
from accelmlf.many_runs.verdicts import FASTER, SLOWER
from accelmlf.settings.commands import as_given, command_line
from accelmlf.settings.run import RunConfig, batch_in_words
from accelmlf.text import counted, say
from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.tags import (
    ABLATION,
    ARM,
    ARM_RUN,
    ASKED,
    BLOCK,
    COMMAND,
    DEVICE,
    ERROR,
    OWNER,
    SPEED_KEY,
    STOPPED_BY,
    VERDICT,
)


def run_ablate(ablate: AblateConfig, given: Mapping[str, Any], *, dry_run: bool = False) -> Ablation | None:
    """Measure, compare, record; None of a dry run.

    `given`: the settings of its runs that the user gave, with which it goes.

    Its runs are forked from `many_runs.server`, which is to be started before.

    Raises:
        AccelmlfError: settings, data or a device that cannot be used, or runs of which none survived.
    """
    given = {"save_model": False, **given}
    plan = make_plan(ablate, given)
    if dry_run:
        announce(plan)
        return None
    name = f"{plan.base.model}-{plan.base.dataset}-{plan.study_id()[:8]}"
    with opened(ABLATION, plan.seen.device_key) as parent:
        announce(plan)
        parent.join(name, plan.study_id(), *labels(plan))
        stopped_by, given_up_for = None, None
        if plan.asked.measure == STEPS:
            stopped_by = measure_stretches(plan, parent)
        if plan.asked.repeats:
            given_up_for = measure(plan, parent)
        runs = parent.store.runs_of_study(parent.run.experiment_id, parent.study_id)
        ablation = Ablation.of(next(run for run in runs if run.run_id == parent.run.run_id), runs)
        if not ablation.num_runs:
            last = ablation.failures[-1]
            raise failure_of_all("run", last.name, last.outcome or "failed", last.tags.get(ERROR))
        record(ablation, plan, parent, stopped_by)
        if given_up_for is not None:
            raise given_up_for
        return ablation


def measure(plan: AblationPlan, parent: ParentRun) -> AccelmlfError | None:
    """Every arm of every block that is not there yet, each in a process of its own.

    Returns the last failure where so many runs have failed that no other was tried.

    Raises:
        AccelmlfError: what no further run would survive.
    """
    arms, console = arms_of_whole_runs(plan), RunsConsole()
    done = places_done(parent, arms, plan.seen.device_key)
    todo = [
        (block, arm)
        for block, order in enumerate(block_orders(arms, plan.asked.repeats, plan.base.seed))
        for arm in order
        if (block, arm.name) not in done
    ]
    planned = plan.asked.repeats * len(arms)
    if len(todo) < planned:
        left = "" if todo else ": nothing is left to measure"
        say(f"{planned - len(todo)} of {planned} runs are there already{left}")
    started_s, in_a_row = time.monotonic(), Counter[str]()
    for number, (block, arm) in enumerate(todo):
        config, name = plan.config_of(arm, block), f"run {number + 1} of {len(todo)}, block {block + 1}"
        left = left_in_words(started_s, number, len(todo))
        console.begins(name, in_words(arm, plan.configs[arm.name], config.seed), config.epochs, left)
        tags = {ARM: arm.name, BLOCK: str(block), DEVICE: plan.seen.device_key}
        child = Child(f"{arm.name}, seed {config.seed}", ARM_RUN, tags)
        ended = run_child(child, config, plan.seen.device_key, parent, console)
        if not isinstance(ended, AccelmlfError):
            in_a_row.clear()
            continue
        in_a_row[ended.outcome] += 1
        if too_many(in_a_row):
            say(f"the ablation ends here: the last {in_a_row.total()} runs have all failed")
            return ended
    return None


def arms_of_whole_runs(plan: AblationPlan) -> tuple[Arm, ...]:
    """All of them; where stretches time them, those whose epochs to accuracy have to be counted."""
    design = plan.asked.as_design()
    if plan.asked.measure == RUNS:
        return design.arms
    counted = tuple(dict.fromkeys(learning_alike(design, plan.base.device).values()))
    return counted if len(counted) > 1 else ()  # all learn alike, to the bit


def in_words(arm: Arm, config: RunConfig, seed: int) -> str:
    """The arm, and what its factors make of the settings."""
    batch = batch_in_words(config.batch_size, config.accumulation_steps)
    return f"{arm.name} ({batch}, techniques {config.techniques}, seed {seed})"


def places_done(parent: ParentRun, arms: tuple[Arm, ...], device_key: str) -> set[tuple[int, str]]:
    """(block, arm) of what earlier starts have finished: whole blocks, and of others what this device has measured.

    A run that diverged or ran out of memory has finished, too: trying until it passes would hide that it does not.
    """
    runs = parent.children(ARM_RUN)
    own = [run for run in runs if is_of_this_machine(run.tags[OWNER]) and run.tags[DEVICE] == device_key]
    whole = {block: found for block, found in blocks_of(runs, arms).items() if len(found) == len(arms)}
    kept = blocks_of(own, arms) | whole
    ended = {(block, arm) for block, found in kept.items() for arm in found}
    return ended | {(int(run.tags[BLOCK]), run.tags[ARM]) for run in own if run.outcome in FAILED_FOR_GOOD}


def labels(plan: AblationPlan) -> tuple[dict[str, str], dict[str, str]]:
    """Parameters and tags of the parent run."""
    asked = plan.asked
    own = {"design": asked.design, "factors": ",".join(asked.factors), "measure": asked.measure}
    own |= {"repeats": str(asked.repeats)} if asked.measure == RUNS else {"precision": f"{asked.precision:g}"}
    params, tags = labels_of_parent(plan.seen, own, SET_BY_ABLATION)
    return params, tags | {SPEED_KEY: speed_key(plan.seen), ASKED: plan.asked.as_json(), COMMAND: plan.command()}


AFRESH = {
    STEPS: "another seed (-P seed=1000, say) measures afresh; a smaller precision or a larger budget goes on with this "
    "and is marked as judged twice",
    RUNS: "another seed (-P seed=1000, say) measures afresh; decide on the number of repeats before you look",
}
"""How one goes on from a result."""


def announce(plan: AblationPlan) -> None:
    """What is about to be measured, and how."""
    arms = plan.asked.as_design().arms
    repeats = plan.asked.repeats
    epochs = counted(plan.base.epochs, "epoch")
    what = f"{counted(repeats, 'repeat')} of {len(arms)} arms, interleaved: {repeats * len(arms)} runs of {epochs}"
    if plan.asked.measure == STEPS:
        until = f"until every interval is within {plan.ablate.precision:.1%}, or for {plan.ablate.budget:g} min"
        what = f"{len(arms)} arms in short stretches of steps, in generations of fresh processes, {until},"
    say(f"ablation of {', '.join(plan.asked.factors)}: {plan.base.model} on {plan.base.dataset} ({plan.base.pipeline})")
    say(f"  {plan.asked.design.replace('_', ' ')}, {what} on {plan.base.device}")
    width = max(len(arm.name) for arm in arms)
    for arm in arms:
        config = plan.configs[arm.name]
        batch = batch_in_words(config.batch_size, config.accumulation_steps)
        rate = f"learning rate {config.learning_rate:g}"
        say(f"  {arm.name:<{width}}  {batch}, {rate}, techniques {config.techniques}")
    for text in plan.asked.left_out:
        say(f"  left out: {text}")
    if plan.asked.clash is not None:
        say(f"  there is no arm with all of them: {plan.asked.clash}")


def next_command(ablation: Ablation, plan: AblationPlan) -> str | None:
    """After a screening, what asks for the factors that it shows to matter; None after another design, or for none."""
    speeds = [ablation.judged(contrast)[0] for contrast in ablation.design.contrasts]
    few = [e.contrast.name for e in speeds if e.decision in (FASTER, SLOWER)]
    if plan.asked.design != "screening" or not few:
        return None
    own = {"model": plan.base.model, "factors": ",".join(few), "design": "one_at_a_time"}
    return command_line("ablate", own | as_given(RunConfig, {**plan.given, "model": None}))


def record(ablation: Ablation, plan: AblationPlan, parent: ParentRun, stopped_by: str | None) -> None:
    """The result on the console and in the parent run: metrics, verdicts, tables, pictures."""
    if stopped_by is not None:
        ablation = replace(ablation, stopped_by=stopped_by)
    say("\n".join(tables.as_lines(ablation)))
    say(f"\nto show this again: {plan.command()}")
    say(AFRESH[plan.asked.measure])
    if follow_up := next_command(ablation, plan):
        say(f"those that matter, alone and together: {follow_up}")
    is_whole = stopped_by is not None or ablation.num_runs + len(ablation.failures) == ablation.num_planned
    tags = {VERDICT: tables.verdict(ablation)} | ({} if stopped_by is None else {STOPPED_BY: stopped_by})
    parent.log_result({}, tables.metrics(ablation), "completed" if is_whole else "failed", tags)
    parent.run.log_written(write_tables, parent.store, ablation)
    parent.run.log_written(draw, parent.store, ablation)  # a picture that fails takes no table with it
    say(f"tables and pictures (scripts/ui serves them): {parent.run.files_url()}")
