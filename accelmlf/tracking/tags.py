"""The schema of a record: every tag that accelmlf writes into the tracking store, and the words that some hold.

What `run` records it hands over under plain names (`skipped_techniques`), because it knows no store; `tracking` puts
PREFIX before them. All others name their tags by these constants. Names stay: stores of earlier versions are read.
"""

from collections.abc import Mapping

PREFIX = "accelmlf."


def under(prefix: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Name -> text as tags of one group."""
    return {prefix + name: text for name, text in texts.items()}


# --- how a run ended: written by whoever closes it ---

OUTCOME = PREFIX + "outcome"
"""completed, target_not_reached, pruned, interrupted, diverged, out_of_memory or failed; absent while under way."""
WELL = ("completed", "target_not_reached")
"""Outcomes of runs that trained to their end."""
ERROR = PREFIX + "error"
"""The line that says what ended it; absent where it ended well."""

# --- what a run is, and on what it was measured: handed over by `run`, and written of parents by `many_runs` ---

SETTING = PREFIX + "config."
"""Group: every resolved setting as text, by its name; of a parent also the settings of its search or ablation."""
PRESET = PREFIX + "arm"
"""The arm of the recipe: baseline, tuned, tuned_partial (without what the device lacks) or custom."""
SKIPPED = PREFIX + "skipped_techniques"
"""Comma list of the techniques of a preset that the device had to leave out, or `none`."""
TECHNIQUES_CHOSEN = PREFIX + "techniques_chosen"
"""Of a run with `techniques=auto`: why it has those that it has; absent where they were given."""
WEIGHTS_SOURCE = PREFIX + "weights_source"
"""Where the first weights are from."""
HARDWARE = PREFIX + "hardware."
"""Group: device, cpu, cpu_cores, cpu_threads_used, memory_gib, gpu, gpu_memory_gib, cuda, cudnn, gpu_driver."""
VERSION = PREFIX + "version."
"""Group: python, system and each package that matters to a result (`machine.facts.PACKAGES`)."""
CODE = PREFIX + "code."
"""Group: the state of the code; absent outside a checkout."""
COMMIT = CODE + "commit"
"""Of the code that was run."""
UNCOMMITTED = CODE + "uncommitted_changes"
"""true or false: whether the files of the package differed from COMMIT."""

# --- what speaks against a run: read by `many_runs.claims` ---

UNFIT = PREFIX + "unfit"
"""Why its phases support no claim; written by `tracking` from the summary, absent where they do."""
RESUMED_IN_EPOCH = PREFIX + "resumed_in_epoch"
"""The number of the timed epoch in whose middle the run was continued."""

# --- what a run is of many: written by `tracking.parent_run` ---

KIND = PREFIX + "kind"
"""One of the seven words below; absent on a run of its own."""
SEARCH, TRIAL, CONFIRMATION = "search", "trial", "confirmation"
ABLATION, ARM_RUN, ARM_STRETCHES, REPORT = "ablation", "ablation run", "ablation stretches", "report"
STUDY = PREFIX + "study"
"""The name of the search or ablation, of its parent and of its children."""
STUDY_ID = PREFIX + "study_id"
"""What is that study's alone: another one may take its name."""
OWNER = PREFIX + "owner"
"""The process that has, or had, the run open (`machine.processes.identity`)."""
CONTINUED_BY = PREFIX + "continued_by"
"""Of a parent that was cut short: the run id of the one that took its children over."""

# --- what a parent was asked and has found: written by `search` and `ablation` ---

DATA_DIGEST = PREFIX + "data_digest"
"""Of the data that all its runs learn from."""
COMMAND = PREFIX + "command"
"""What starts it again."""
VERDICT = PREFIX + "verdict"
"""What was found, on one line."""
SPACE = PREFIX + "space."
"""Group: the choices of each setting that is searched."""
SAMPLER = PREFIX + "sampler"
"""tpe, grid or random: what `auto` has become."""
ENDED_AT = PREFIX + "ended_at"
"""What the search came to its end by: n_trials, timeout, failures or exhausted."""
WINNER_COMMAND = PREFIX + "winner_command"
"""What trains with the settings that won."""
STOPPED_BY = PREFIX + "stopped_by"
"""What an ablation in stretches came to its end by: precision, budget or failures (of the arms of every contrast)."""
SPEED_KEY = PREFIX + "speed_key"
"""Of an ablation: the same for runs whose steps are equally long, whose techniques may then be chosen by it."""
CHOICE = PREFIX + "choice"
"""Of an ablation: the techniques that `techniques=auto` has taken by it, as one types them."""
CHOICE_REASON = PREFIX + "choice_reason"
"""What they were measured to be worth."""
CHOICE_REFUSED = PREFIX + "choice_refused"
"""Of an ablation that `techniques=auto` did not choose by: what speaks against it."""
ASKED = PREFIX + "ablation"
"""The design, factors and repeats of an ablation as JSON (`ablation.designs.Asked`)."""

# --- the place of a child among its like: written by `search` and `ablation` ---

TRIAL_NUMBER = PREFIX + "trial"
"""Of a trial: its number in Optuna's study."""
POINT = PREFIX + "point"
"""Of a confirming run: its point of the space in words."""
BLOCK = PREFIX + "block"
"""Runs of one block were measured side by side: a name of it in a confirmation, its number in an ablation (of whole
runs from 0; of a generation from 1)."""
ARM = PREFIX + "ablation_arm"
"""Of a run of an ablation: its arm."""
DEVICE = PREFIX + "device_key"
"""Of a run of an ablation: the device on its machine (`machine.devices.device_key`)."""
