"""Search for the settings that reach a target accuracy soonest on this machine, and prove what was found."""

from collections.abc import Mapping
from typing import Any

from accelmlf.errors import ConfigError
from accelmlf.many_runs.opened import opened
from accelmlf.many_runs.preflight import Preflight, look_in_own_process
from accelmlf.search import sampling, storage
from accelmlf.search.confirmation import Confirmation, confirm
from accelmlf.search.console import SearchConsole
from accelmlf.search.plan import Plan, default_name, labels, study_facts
from accelmlf.search.result import Result, draw, write_tables
from accelmlf.search.settings import DEFAULT_STORAGE, TuneConfig
from accelmlf.search.space import make_space
from accelmlf.search.study import open_study, study_id
from accelmlf.search.trials import times_s
from accelmlf.search.worker import Worker
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import batch_in_words
from accelmlf.text import say
from accelmlf.tracking.store import tracking_uri
from accelmlf.tracking.tags import SEARCH


def run_tune(tune: TuneConfig, given: Mapping[str, Any], *, dry_run: bool = False) -> None:
    """Search, confirm, record. `given`: the settings of its runs that the user gave, with which it goes.

    Its runs are forked from `many_runs.server`, which is to be started before.

    Raises:
        AccelmlfError: settings, data, device or storage that cannot be used, or trials of which none survived.
    """
    given = {"save_model": False, **given}
    url = storage.storage_url(tune.storage)
    if storage.is_same_database(url, tracking_uri()):  # both make tables for Alembic, which clash
        raise ConfigError("storage", url, "MLflow's own database", f"Use another one, such as {DEFAULT_STORAGE}")
    seen = look_in_own_process(resolve(given), tune.search_techniques)
    space, left_out = make_space(tune, seen.config, seen.sizes["train"], seen.technique_sets, seen.has_batch_norm)
    plan = Plan(tune=tune, given=given, base=seen.config, space=space, device_key=seen.device_key)
    facts = study_facts(seen, space)
    name = tune.study_name or default_name(seen, facts)
    kind = sampling.choose(tune.sampler, space, tune.n_trials)
    if dry_run:
        announce(plan, seen, name, url, kind, left_out)
        return
    with opened(SEARCH, seen.device_key) as parent, storage.study_errors(url):
        announce(plan, seen, name, url, kind, left_out)
        study = open_study(url, name, facts)
        study.sampler = sampling.UnseenPoints(space, kind, space.point_of(seen.config), seen.config.seed)
        own = labels(plan, seen, {"name": name, "storage": url, "sampler": kind})
        parent.join(name, study_id(study), *own)
        console = SearchConsole(int(min(tune.n_trials, space.size)), tune.timeout_s)
        search_and_confirm(Worker(study, url, plan, parent, console))


def search_and_confirm(worker: Worker) -> None:
    """The search, its confirmation, and what both leave in the parent run and on the console."""
    try:
        worker.run()
        records = worker.records()
        confirmation: Confirmation | None = None
        if times_s(records) and worker.plan.tune.confirm_repeats:
            confirmation = confirm(worker.plan, records, worker.parent, worker.console)
    finally:
        worker.console.stop()
    result = Result(worker.plan, records, confirmation, worker.ended_at)
    say(result.as_text())
    worker.study.set_user_attr("outcome", result.outcome)
    worker.parent.log_result(result.params(), result.metrics(), result.outcome, result.tags())
    for write in (write_tables, draw):  # a picture that fails takes no table with it
        worker.parent.run.log_written(write, result, worker.study)
    say(f"tables and pictures (scripts/ui serves them): {worker.parent.run.files_url()}")


def announce(plan: Plan, seen: Preflight, name: str, url: str, kind: str, left_out: list[str]) -> None:
    """What is about to be searched, and how."""
    tune, base, space = plan.tune, plan.base, plan.space
    many = f"{len(space.grid)} points" + (" and a range of learning rates" if space.learning_rates else "")
    say(f"searching for the fastest time to {base.target_accuracy:g} accuracy: {base.model} on {base.dataset}")
    for key, text in space.as_texts().items():
        say(f"  {key:<18}  {text}")
    if left_out:
        say(f"  left out: {', '.join(left_out)} (effective batch over the {seen.sizes['train']} training pictures)")
    for technique in seen.skipped:
        say(f"  left out: {technique.label} ({technique.reason})")
    say(f"  {'sampler':<18}  {kind} ({many}, n_trials {tune.n_trials})")
    say(f"  {'recipe':<18}  {batch_in_words(base.batch_size, base.accumulation_steps)}, techniques {base.techniques}")
    say(f"  {'study':<18}  {name} in {storage.shown(url)}")
