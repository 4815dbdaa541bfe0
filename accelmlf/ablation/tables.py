"""What an ablation leaves: its verdicts and reasons in words, tables in Markdown and CSV, pictures."""

import re
import statistics
from collections.abc import Mapping, Sequence

from accelmlf.ablation.break_even import break_even
from accelmlf.ablation.designs import Contrast
from accelmlf.ablation.effects import SECONDS_PER_EPOCH, SECONDS_PER_PICTURE, TIME_TO_ACCURACY
from accelmlf.ablation.marks import unfit_in_words
from accelmlf.ablation.noise import how_measured
from accelmlf.ablation.result import Ablation
from accelmlf.ablation.settings import RUNS, STEPS, AblateConfig
from accelmlf.many_runs.comparison import as_ratio
from accelmlf.settings.comparable import departures
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.run import batch_in_words
from accelmlf.text import aligned, code, counted, heading, listed, short, table
from accelmlf.tracking.tags import COMMAND, DATA_DIGEST

HOW_TO_READ = {
    RUNS: "What is compared is paired within a block (one run of every arm, in random order, with one seed); the noise "
    "is that of all arms together. ",
    STEPS: "What is compared is paired within a round (a stretch of steps of every arm, in random order), and averaged "
    "over generations of fresh processes, between which the noise is taken, that of all arms together. ",
}
HOW_VERDICTS_ARE_MADE = (
    "The intervals of speed are simultaneous, and so are those of time: those of all factors hold together in 95 % of "
    "ablations. The verdicts are read off them: faster or slower where 1 is outside, the same where all of it is "
    "within 2 %, else not decided yet. All else is shown with 95 % t intervals of its own and without a verdict."
)


SPEED = {RUNS: "seconds per epoch", STEPS: "speed"}


def verdict_rows(ablation: Ablation) -> list[list[str]]:
    """A row per contrast: its name, and what is said of speed and of time to accuracy."""
    rows = []
    for contrast in ablation.design.contrasts:
        speed = ablation.judged(contrast)[0]
        rows.append([contrast.name, speed.in_words, ablation.time_in_words(contrast)])
    return rows


def reasons(ablation: Ablation) -> list[str]:
    """A sentence per contrast, where the phases say anything."""
    return [f"{c.name}: {reason}." for c in ablation.design.contrasts if (reason := ablation.reason(c))]


def caveats(ablation: Ablation) -> list[str]:
    """What a reader of its figures has to know."""
    if not any(contrast.is_mixed for contrast in ablation.design.contrasts):
        return []
    return [
        "a screening: each figure is an average over combinations of the others, into which pairs are mixed that work "
        "together or against one another; what matters has to be asked for alone and together"
    ]


def paid_once(ablation: Ablation) -> list[str]:
    """A sentence per contrast that costs more set-up or warm-up than it saves in an epoch."""
    epochs = ablation.settings["epochs"]
    contrasts = ablation.design.contrasts if epochs.isdecimal() else ()  # a store may hold anything
    faster = [c for c in contrasts if ablation.is_faster(c)]
    found = {c.name: break_even(c, ablation.measured, int(epochs)) for c in faster}
    return [f"{name} {paid}." for name, paid in found.items() if paid is not None]


ARM_HEAD = {
    RUNS: ["arm", "its settings", "seconds per epoch", "time to accuracy (s)", "test accuracy"],
    STEPS: ["arm", "its settings", "ms per picture, by generation", "seconds per epoch"],
}


def arm_rows(ablation: Ablation) -> list[list[str]]:
    """A row per arm: what it is, and what its runs measured, each figure in the order of the blocks."""
    cells = stretch_cells if ablation.asked.measure == STEPS else run_cells
    rows = []
    for arm in ablation.design.arms:
        blocks, settings = ablation.measured[arm.name], ablation.settings_of(arm.name)
        figures = [blocks[block] for block in sorted(blocks)]
        rows.append([arm.name, in_words(settings) if settings else "", *cells(figures)])
    return rows


def run_cells(figures: Sequence[Mapping[str, float]]) -> list[str]:
    """Of an arm's whole runs."""
    return [
        ", ".join(short(run["median_epoch_s"]) for run in figures if "median_epoch_s" in run),
        ", ".join(_time(run) for run in figures),
        ", ".join(f"{run['final_accuracy']:.4f}" for run in figures if "final_accuracy" in run),
    ]


def stretch_cells(figures: Sequence[Mapping[str, float]]) -> list[str]:
    """Of an arm's generations."""
    if not figures:
        return ["", ""]
    epoch_s = statistics.geometric_mean(found["mean_epoch_s"] for found in figures)
    return [", ".join(short(1e3 * found["seconds_per_image"]) for found in figures), short(epoch_s)]


def _time(run: Mapping[str, float]) -> str:
    return f"{run['time_to_accuracy_s']:.1f}" if "time_to_accuracy_s" in run else "missed"


def in_words(settings: Mapping[str, str]) -> str:
    """What sets arms apart."""
    batch = batch_in_words(settings["batch_size"], settings["accumulation_steps"])
    return f"{batch}, learning rate {float(settings['learning_rate']):.3g}, {settings['techniques']}"


def as_lines(ablation: Ablation) -> list[str]:
    """The result as it stands on the console."""
    measure = ablation.asked.measure
    lines = ["", ablation.question, "", *aligned([ARM_HEAD[measure], *arm_rows(ablation)]), ""]
    for name, on_speed, on_target in verdict_rows(ablation):
        lines += [f"  {name}", f"    {SPEED[measure]:<17}  {on_speed}", f"    time to accuracy   {on_target}"]
    if how := [*how_measured(ablation), *caveats(ablation)]:
        lines += ["", *how]
    if why := reasons(ablation):
        lines += ["", "why:", *(f"  {reason}" for reason in why)]
    if pays := paid_once(ablation):
        lines += ["", "paid once:", *(f"  {text}" for text in pays)]
    if against := unfit_in_words(ablation):
        lines += ["", *against]
    return lines


def as_markdown(ablation: Ablation, *, level: int = 1, pictures: Sequence[str] = ()) -> str:
    """The result as a piece of a document; `pictures`: Markdown for them."""
    settings, asked = ablation.settings, ablation.asked
    facts = [
        f"{settings['epochs']} epochs, seed {settings['seed']}, "
        f"target {settings['target_accuracy']} on validation, data {ablation.parent.tags.get(DATA_DIGEST, 'unknown')}",
        *(how_measured(ablation) or [f"{counted(asked.repeats, 'repeat')}, {of_runs_planned(ablation)}"]),
        f"on {ablation.parent.machine}",
        *caveats(ablation),
        *(f"left out: {text}" for text in asked.left_out),
    ]
    of_runs = {name: text for name, text in settings.items() if name not in settable_fields(AblateConfig)}
    common = [name for name in (*departures(of_runs), "techniques") if settings.get(name, "none") != "none"]
    if common:
        facts.insert(1, f"in every arm: {', '.join(f'{name}={settings[name]}' for name in common)}")
    facts += unfit_in_words(ablation)
    parts = [
        heading(ablation.question, level),
        listed(facts),
        table(["", SPEED[asked.measure], "time to accuracy"], verdict_rows(ablation)),
        table(ARM_HEAD[asked.measure], arm_rows(ablation)),
        *pictures,
    ]
    if why := reasons(ablation):
        parts += [heading("Why", level + 1), listed(why)]
    if pays := paid_once(ablation):
        parts += [heading("Paid once", level + 1), listed(pays)]
    parts += [
        heading("Everything else that was measured, without verdicts (with it, against without)", level + 1),
        table(["", *(contrast.name for contrast in ablation.design.contrasts)], other_rows(ablation)),
        HOW_TO_READ[asked.measure] + HOW_VERDICTS_ARE_MADE,
    ]
    if command := ablation.parent.tags.get(COMMAND):
        parts.append(code(command))
    return "\n\n".join(parts) + "\n"


def of_runs_planned(ablation: Ablation) -> str:
    return f"{ablation.num_runs} of {ablation.num_planned} runs"


def other_rows(ablation: Ablation) -> list[list[str]]:
    """A row per measure without verdicts, a column per contrast."""
    found = {(effect.measure, effect.contrast.name): effect.figure for effect in ablation.effects}
    measures = dict.fromkeys(effect.measure for effect in ablation.effects if not effect.measure.has_verdict)
    names = [contrast.name for contrast in ablation.design.contrasts]
    return [[measure.title, *(found[measure, name] for name in names)] for measure in measures]


def metrics(ablation: Ablation) -> dict[str, float]:
    """The ratios that verdicts are about, with their intervals, by names that MLflow takes."""
    figures: dict[str, float] = {}
    for contrast in ablation.design.contrasts:
        for effect in ablation.judged(contrast):
            if effect.interval is not None:
                ratio = as_ratio(effect.interval)
                name = f"{GROUPS[effect.measure]}/{metric_name(contrast)}"
                figures[name] = ratio.value
                if ratio.low is not None and ratio.high is not None:
                    figures |= {f"{name}_low": ratio.low, f"{name}_high": ratio.high}
    return figures


GROUPS = {
    SECONDS_PER_PICTURE: "speedup",
    SECONDS_PER_EPOCH: "epoch_speedup",
    TIME_TO_ACCURACY: "time_to_accuracy_speedup",
}


def metric_name(contrast: Contrast) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", contrast.name)


def verdict(ablation: Ablation) -> str:
    """All verdicts on one line."""
    rows = verdict_rows(ablation)
    said = [
        f"{name}: {on_speed} ({SPEED[ablation.asked.measure]}), {on_target} (time to accuracy)"
        for name, on_speed, on_target in rows
    ]
    return f"with pipeline={ablation.settings['pipeline']}: " + "; ".join([*said, *unfit_in_words(ablation)])
