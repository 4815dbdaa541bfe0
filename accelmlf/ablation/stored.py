"""How the generations of an ablation lie in the tracking store: a run per arm and generation, a step per round."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from accelmlf.ablation.effects import ARMS_AT_ONCE, SECONDS_PER_PICTURE
from accelmlf.ablation.generation import Turns
from accelmlf.ablation.plan import AblationPlan
from accelmlf.ablation.settings import TUNED
from accelmlf.ablation.stopping import Spent
from accelmlf.errors import AccelmlfError
from accelmlf.machine.facts import as_tags
from accelmlf.machine.processes import machine_of
from accelmlf.measure.cost import Cost, total_of
from accelmlf.measure.records import cost_metrics
from accelmlf.tracking.parent_run import ParentRun
from accelmlf.tracking.stored_runs import StoredRun
from accelmlf.tracking.tags import ARM, ARM_STRETCHES, BLOCK, DEVICE, OWNER, UNFIT
from accelmlf.tracking.tracker import MlflowRun

FAILED_FOR_GOOD = ("diverged", "out_of_memory")
FAILED_BY_ITSELF = (*FAILED_FOR_GOOD, "failed")
"""Outcomes of an arm that are its own doing: trying until it passes would hide that it does not."""
START_S, ROUNDS_S, NUM_ROUNDS = "generation_start_s", "generation_rounds_s", "rounds"
STEPS_PER_STRETCH, ROUND_VARIANCE, CLIPPED = "steps_per_stretch", "round_variance", "clipped_share"
LONG = "long_block_seconds_per_image"
"""Of an arm that trained alone for a while, after the last round of all."""
PLAIN = "plain_seconds_per_image"
"""Of all stretches together, those far off in full: beside the location of an arm, which spikes do not move."""
CARRIED_OVER = "carried_over"
"""log of how much slower a stretch right after one of an arm's own was."""


@dataclass
class Kept:
    """What the store has of an ablation's generations."""

    measured: dict[str, dict[int, Mapping[str, float]]] = field(default_factory=dict)
    """Arm -> generation -> its figures, of generations that are complete."""
    spent: list[Spent] = field(default_factory=list)
    round_variances: list[float] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)
    """Arm -> optimizer steps of its stretches, the same in all generations."""
    failed: dict[str, str] = field(default_factory=dict)
    """Arm -> the outcome of its failure."""
    next_number: int = 0
    """Of a generation: one that was cut short keeps its number, and counts for nothing."""


def kept_generations(parent: ParentRun, plan: AblationPlan) -> Kept:
    """Those that are complete, of this start and of earlier ones that were ended or killed."""
    return kept_of(parent.children(ARM_STRETCHES), [arm.name for arm in plan.asked.as_design().arms])


def kept_of(runs: Sequence[StoredRun], arms: Sequence[str]) -> Kept:
    """From the runs of arms in generations."""
    runs = [run for run in runs if run.tags[ARM] in arms]
    kept = Kept(measured={arm: {} for arm in arms}, failed=failed_arms(runs))
    kept.next_number = 1 + max((int(run.tags[BLOCK]) for run in runs), default=0)
    for number, found in complete_generations(runs, arms).items():
        for arm, run in found.items():
            kept.measured[arm][number] = run.metrics
            kept.steps.setdefault(arm, int(run.metrics[STEPS_PER_STRETCH]))
        figures = next(iter(found.values())).metrics
        kept.spent.append(Spent(figures[START_S], figures[ROUNDS_S], int(figures[NUM_ROUNDS])))
        kept.round_variances.append(figures[ROUND_VARIANCE])
    return kept


def failed_arms(runs: Sequence[StoredRun]) -> dict[str, str]:
    """Arm -> the outcome of its failure."""
    return {run.tags[ARM]: str(run.outcome) for run in runs if run.outcome in FAILED_BY_ITSELF}


def complete_generations(runs: Sequence[StoredRun], arms: Sequence[str]) -> dict[int, dict[str, StoredRun]]:
    """Block -> arm -> its run, of generations that have every arm that has not failed, in their order.

    A generation is of one device of one machine: two that share a store may number theirs alike.
    """
    found: dict[tuple[int, tuple[str, str]], dict[str, StoredRun]] = {}
    for run in runs:
        if run.has_ended_well and run.tags[ARM] in arms:
            found.setdefault((int(run.tags[BLOCK]), place_of(run)), {})[run.tags[ARM]] = run
    living = set(arms) - failed_arms(runs).keys()
    complete: dict[int, dict[str, StoredRun]] = {}
    for (number, _), of_place in sorted(found.items(), key=lambda item: item[0]):
        if living <= of_place.keys():
            complete[number if number not in complete else max(complete) + 1] = of_place
    return complete


def place_of(run: StoredRun) -> tuple[str, str]:
    """The machine and the device on it."""
    return machine_of(run.tags.get(OWNER, "")), run.tags.get(DEVICE, "")


def record_generation(
    parent: ParentRun,
    plan: AblationPlan,
    number: int,
    turns: Sequence[Turns],
    locations: Mapping[str, float],
    failed: Mapping[str, AccelmlfError],
) -> None:
    """A run per arm. They are closed when all are written: a generation whose runs are not all closed is none."""
    written: dict[str, str] = {}
    start_s, rounds_s = sum(group.start_s for group in turns), sum(group.rounds_s for group in turns)
    for group in turns:
        reduced, carried_over = group.reduced()[1], group.carried_over()
        of_group = {
            START_S: start_s,
            ROUNDS_S: rounds_s,
            NUM_ROUNDS: float(len(group.rounds)),
            ROUND_VARIANCE: reduced.round_variance,
            CLIPPED: reduced.clipped,
            ARMS_AT_ONCE: float(len(group.ready)),
        }
        for arm in (*group.ready, *group.failed):
            if arm not in written:  # in pairs the first arm is in every group
                run = started(parent, plan, number, arm)
                written[arm] = run.run_id
                if arm not in failed:
                    at_end = {CARRIED_OVER: carried_over[arm]} if arm in carried_over else {}
                    if (long := group.long_blocks.get(arm)) is not None:
                        at_end[LONG] = long.train_s / long.images
                    run.log_metrics(of_group | at_end | figures_of_arm(arm, group, locations[arm]), 0)
                    run.log_series(series_of(arm, group))
                    if (reason := total_of([turn[arm] for turn in group.rounds]).unexplained) is not None:
                        parent.store.set_tags(run.run_id, {UNFIT: reason})
    for arm, run_id in written.items():
        error = failed.get(arm)
        parent.end_child(run_id, "completed" if error is None else error.outcome, None if error is None else str(error))


def started(parent: ParentRun, plan: AblationPlan, number: int, arm: str) -> MlflowRun:
    """The open run of an arm in a generation, with its settings."""
    tags = {ARM: arm, BLOCK: str(number), DEVICE: plan.seen.device_key}
    run_id = parent.start_child(f"{arm}, generation {number}", ARM_STRETCHES, tags)
    run, config = MlflowRun(parent.store, run_id, parent.run.experiment_id), plan.configs[arm]
    skipped = plan.skipped_of_preset if arm == TUNED else "none"
    labels = {"arm": config.arm, "skipped_techniques": skipped, **as_tags(plan.seen.environment)}
    run.log_config(config, labels)
    return run


def figures_of_arm(arm: str, group: Turns, location: float) -> dict[str, float]:
    """What its stretches come to, and what it has cost to start."""
    ready = group.ready[arm]
    figures = figures_of([turn[arm] for turn in group.rounds], math.exp(location), ready.images_per_epoch)
    if others := figures.get("other_gpu_processes"):  # the other arms are held there, too
        figures["other_gpu_processes"] = max(others - (len(group.ready) - 1), 0)
    return figures | {STEPS_PER_STRETCH: float(ready.steps), "setup_s": ready.setup_s, "warmup_s": ready.warmup_s}


def figures_of(costs: Sequence[Cost], seconds_per_image: float, images_per_epoch: int) -> dict[str, float]:
    """What an arm's stretches come to, by the names by which a whole run logs them; seconds are of an epoch."""
    total = total_of(costs)

    def phase_s(phase: str) -> float:
        """By the median stretch, which no spike moves, as the speed is not moved by one."""
        return images_per_epoch * statistics.median(cost.phases_s.get(phase, 0.0) / cost.images for cost in costs)

    figures: dict[str, float | None] = {
        SECONDS_PER_PICTURE.metric: seconds_per_image,
        PLAIN: total.train_s / total.images,
        "mean_epoch_s": seconds_per_image * images_per_epoch,
        **{f"mean_{phase}_s": phase_s(phase) for phase in total.phases_s},
        "mean_other_s": total.other_s / total.images * images_per_epoch,
        "mean_images_per_s": 1 / seconds_per_image,
        "mean_gpu_joules": None if total.gpu_joules is None else total.gpu_joules / total.images * images_per_epoch,
        "peak_gpu_allocated_mib": total.gpu_peak_allocated_mib,
        "peak_gpu_reserved_mib": total.gpu_peak_reserved_mib,
        "peak_host_mib": total.host_peak_mib,
        "other_gpu_processes": total.other_gpu_processes,
        "gpu_throttle_reasons": None if total.gpu_state is None else total.gpu_state.throttle_reasons,
        "missing_cores_share": total.missing_cores_share,
    }
    return {name: value for name, value in figures.items() if value is not None}


def series_of(arm: str, group: Turns) -> dict[str, list[float]]:
    """Of each round what an epoch logs of its cost, and the stretch's pictures and its place in the round."""
    costs = [turn[arm] for turn in group.rounds]
    figures = [cost_metrics(cost) for cost in costs]
    known = set.intersection(*(set(found) for found in figures))
    return {
        "stretch/images": [float(cost.images) for cost in costs],
        "stretch/place": [float(group.place(arm, number) + 1) for number in range(len(costs))],
        **{name: [found[name] for found in figures] for name in sorted(known)},
    }
