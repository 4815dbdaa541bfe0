"""Search for the settings that reach a target accuracy soonest on this machine, and prove what was found."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from accelmlf import __version__, isolation, sampling, search_report, storage
from accelmlf import study as studies
from accelmlf.config import as_text, settable_fields
from accelmlf.confirmation import Confirmation, confirm
from accelmlf.console import say
from accelmlf.environment import as_tags
from accelmlf.errors import ConfigError
from accelmlf.family import Family, claim
from accelmlf.preflight import Preflight, look
from accelmlf.processes import MANY_RUNS, sole_use
from accelmlf.recipes import resolve
from accelmlf.search import Search
from accelmlf.search_console import SearchConsole
from accelmlf.stored_runs import SEARCH
from accelmlf.tracking import MlflowTracker, tracking_uri
from accelmlf.tuning import DEFAULT_STORAGE, SET_BY_SEARCH, Plan, SearchSpace, TuneConfig, make_space

NOT_PART_OF_A_STUDY = ("arm", "data_dir", "device", "effective_batch_size", "save_model", *SET_BY_SEARCH)
"""Settings of a run that may differ between the starts of one study, or that its space describes."""


def run_tune(tune: TuneConfig, given: Mapping[str, Any], *, dry_run: bool = False) -> None:
    """Search, confirm, record. `given`: the settings of its runs that the user gave.

    Raises:
        AccelmlfError: settings, data, device or storage that cannot be used, or trials of which none survived.
    """
    refuse(tune, given)
    given = {"save_model": False, **given}
    isolation.start_server(given["model"])
    url = storage.storage_url(tune.storage)
    if storage.is_same_database(url, tracking_uri()):  # both make tables for Alembic, which clash
        raise ConfigError("storage", url, "MLflow's own database", f"Use another one, such as {DEFAULT_STORAGE}")
    seen = isolation.call(look, resolve(given), tune.search_techniques)
    space, left_out = make_space(tune, seen.config, seen.sizes["train"], seen.technique_sets, seen.has_batch_norm)
    plan = Plan(tune=tune, given=given, base=seen.config, space=space, device_key=seen.device_key)
    facts = study_facts(seen, space)
    name = tune.study_name or default_name(seen, facts)
    kind = sampling.choose(tune.sampler, space, tune.n_trials)
    if dry_run:
        announce(plan, seen, name, url, kind, left_out)
        return
    with sole_use(seen.device_key, MANY_RUNS), MlflowTracker().run() as parent, storage.storage_errors(url):
        announce(plan, seen, name, url, kind, left_out)
        claim(parent, SEARCH)
        study = studies.open_study(url, name, facts)
        study.sampler = sampling.UnseenPoints(space, kind, space.point_of(seen.config), seen.config.seed)
        family = Family(parent, SEARCH, name, studies.study_id(study))
        family.log_settings(*labels(plan, seen, {"name": name, "storage": url, "sampler": kind}))
        family.adopt()
        console = SearchConsole(int(min(tune.n_trials, space.size)), tune.timeout_s)
        search_and_confirm(Search(study, url, plan, family, console))


def search_and_confirm(search: Search) -> None:
    """The search, its confirmation, and what both leave in the parent run and on the console."""
    try:
        search.run()
        records = studies.records(search.study, search.plan.space)
        confirmation: Confirmation | None = None
        if studies.times_s(records) and search.plan.tune.confirm_repeats:
            confirmation = confirm(search.plan, records, search.family, search.console)
    finally:
        search.console.stop()
    result = search_report.Result(search.plan, records, confirmation, search.ended_at)
    say(result.as_text())
    search.study.set_user_attr("outcome", result.outcome)
    search.family.log_result(result.params(), result.metrics(), result.outcome, result.tags())
    for write in (search_report.write_tables, search_report.draw):  # a picture that fails takes no table with it
        search.family.parent.log_written(write, result, search.study)
    say(f"tables and pictures (scripts/ui serves them): {search.family.parent.files_url()}")


def refuse(tune: TuneConfig, given: Mapping[str, Any]) -> None:
    """Raises ConfigError for settings of a run that contradict a search."""
    if given.get("validation") == "test":
        remedy = "Leave validation out: the search looks at a part of the training set"
        raise ConfigError("validation", "test", "a search that looks at the test set leaves nothing to test on", remedy)
    if tune.search_techniques and "techniques" in given:
        remedy = "Leave techniques or search_techniques out"
        raise ConfigError("techniques", given["techniques"], "the techniques are searched", remedy)


def study_facts(seen: Preflight, space: SearchSpace) -> dict[str, str]:
    """All that the trials of one study have in common: times on another machine, say, could not be compared."""
    searched = set(space.names) | ({"techniques"} if space.technique_sets else set())
    settings = {
        name: text
        for name, text in seen.config.as_texts().items()
        if name not in NOT_PART_OF_A_STUDY and name not in searched
    }
    hardware, versions = seen.environment["hardware"], seen.environment["versions"]
    named = ("cpu", "cpu_threads_used", "gpu", "cuda", "cudnn")
    machine = {name: str(hardware[name]) for name in named if name in hardware}
    machine["device_type"] = seen.config.device.partition(":")[0]
    searches = {f"space.{name}": text for name, text in space.as_texts().items()}
    return {
        **settings,
        "data": seen.data_digest,
        **searches,
        **machine,
        "torch": versions["torch"],
        "accelmlf": __version__,
    }


def default_name(seen: Preflight, facts: Mapping[str, str]) -> str:
    """The same for the same facts, so that the same command goes on with its study and another one starts its own."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{seen.config.model}-{seen.config.dataset}-{digest[:8]}"


def labels(plan: Plan, seen: Preflight, study: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Parameters and tags of the parent run."""
    asked = {f.name: as_text(f.name, getattr(plan.tune, f.name)) for f in fields(TuneConfig)}
    asked |= {
        name: as_text(name, plan.space.choices[key]) for key, name in SET_BY_SEARCH.items() if key in plan.space.choices
    }
    asked |= {"study_name": study["name"], "storage": storage.shown(study["storage"])}
    texts = seen.config.as_texts()
    params = asked | {key: texts[key] for key in settable_fields() if key not in SET_BY_SEARCH}
    tags = {f"accelmlf.config.{key}": text for key, text in (texts | asked).items()}
    space = {f"accelmlf.space.{key}": text for key, text in plan.space.as_texts().items()}
    skipped = ",".join(technique.label for technique in seen.skipped) or "none"
    others = {
        "accelmlf.sampler": study["sampler"],
        "accelmlf.skipped_techniques": skipped,
        "accelmlf.data_digest": seen.data_digest,
    }
    return params, tags | space | others | as_tags(seen.environment)


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
    say(f"  {'recipe':<18}  batch {base.batch_size} x {base.accumulation_steps}, techniques {base.techniques}")
    say(f"  {'study':<18}  {name} in {storage.shown(url)}")
