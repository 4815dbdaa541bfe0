"""The entry points: what each is called, which settings it takes, and what it starts.

Nothing heavy is imported before an entry point starts, so that help and a wrong setting are answered at once.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from accelmlf import PROCESS_STARTED_S
from accelmlf.ablation.settings import SET_BY_ABLATION, AblateConfig
from accelmlf.errors import ConfigError
from accelmlf.machine import signals
from accelmlf.report.settings import ReportConfig
from accelmlf.search.settings import SET_BY_SEARCH, TuneConfig
from accelmlf.settings.recipes import model_names, resolve
from accelmlf.settings.run import RunConfig
from accelmlf.settings.technique_list import AUTO, TechniqueList
from accelmlf.text import say
from accelmlf.tracking.settings import UiConfig

Given = Mapping[str, Any]
NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class EntryPoint:
    """A row of ENTRY_POINTS."""

    does: str
    start: Callable[[Any, Given, bool], None]
    """Called with its own settings (or None), those given for its runs, and dry_run."""
    settings_class: type | None = None
    """Its own settings, beside those of runs."""
    takes_runs: bool = True
    """Whether it takes the settings of runs."""
    in_project: bool = True
    """Whether MLproject has it: what makes a run can be started by MLflow."""
    set_by_itself: Mapping[str, str] = field(default_factory=dict)
    """Settings of runs that it sets, and what to give instead."""
    defaults: Given = field(default_factory=dict)
    """Settings of runs that it starts from."""


def train(_: None, given: Given, dry_run: bool) -> None:
    config, labels = resolve(given), NOTHING
    if dry_run:
        with signals.held():
            from accelmlf.run.plan import print_plan
        if config.techniques.is_auto:
            say(f"techniques={AUTO}: a measurement chooses them, which a dry run does not make; without any:")
            config = resolve({**given, "techniques": TechniqueList()})
        print_plan(config)
        return
    with signals.held():
        from accelmlf.run.one_run import one_run
        from accelmlf.techniques.allocators import environment_of
        from accelmlf.tracking.store import open_store
        from accelmlf.tracking.tracker import MlflowTracker
    started_s = PROCESS_STARTED_S
    if config.techniques.is_auto:
        config, labels = with_chosen_techniques(given)
        started_s = time.perf_counter()  # a measurement that later runs share is no set-up of this one
    elif environment := environment_of(config.techniques):
        begin_again(environment)
    one_run(config, MlflowTracker(open_store()), started_s=started_s, labels=labels)


def begin_again(environment: Mapping[str, str]) -> None:
    """Start this command anew with more in its environment; once, where that does not bring what it is for."""
    if any(os.environ.get(name) == value for name, value in environment.items()):
        return
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **environment})


def with_chosen_techniques(given: Given) -> tuple[RunConfig, Mapping[str, str]]:
    """The run with the techniques that a measurement has chosen, and what is to be recorded of that."""
    with signals.held():
        from accelmlf.ablation.auto import choose
        from accelmlf.many_runs.server import start_server
    start_server(given["model"])
    choice = choose(given)
    say(f"techniques=auto takes {choice.techniques}: {choice.reason}")
    return resolve({**given, "techniques": choice.techniques}), {"techniques_chosen": choice.reason}


def prepare_runs(settings: TuneConfig | AblateConfig, given: Given) -> None:
    """Check the settings of many runs, and start what these are forked from.

    That imports what a run needs, while this process imports the rest.
    """
    settings.check_runs(given)
    if resolve(given).techniques.is_auto:
        rule = "it is a measurement itself, and of a single run"
        raise ConfigError("techniques", AUTO, rule, "Leave techniques out")
    with signals.held():
        from accelmlf.many_runs.server import start_server
    start_server(given["model"])


def tune(settings: TuneConfig, given: Given, dry_run: bool) -> None:
    prepare_runs(settings, given)
    with signals.held():
        from accelmlf.search.tune import run_tune
    run_tune(settings, given, dry_run=dry_run)


def ablate(settings: AblateConfig, given: Given, dry_run: bool) -> None:
    prepare_runs(settings, given)
    with signals.held():
        from accelmlf.ablation.ablate import run_ablate
    run_ablate(settings, given, dry_run=dry_run)


def report(settings: ReportConfig, _: Given, __: bool) -> None:
    with signals.held():
        from accelmlf.report.report import run_report
    run_report(settings)


def ui(settings: UiConfig, _: Given, __: bool) -> None:
    with signals.held():
        from accelmlf.tracking.ui import run_ui
    run_ui(settings)


FIRST_MODEL = {"model": model_names()[0]}
ENTRY_POINTS = {
    "main": EntryPoint(does="Train the model that --model names.", start=train, defaults=FIRST_MODEL),
    **{
        model: EntryPoint(
            does=f"Train {model}.",
            start=train,
            set_by_itself={"model": "another entry point, or main with model"},
            defaults={"model": model},
        )
        for model in model_names()
    },
    "tune": EntryPoint(
        does="Search for the settings that reach a target accuracy soonest, and confirm them with fresh seeds.",
        start=tune,
        settings_class=TuneConfig,
        set_by_itself=SET_BY_SEARCH,
        defaults=FIRST_MODEL,
    ),
    "ablate": EntryPoint(
        does="Say what each technique is worth: arms that differ in nothing else, interleaved and repeated.",
        start=ablate,
        settings_class=AblateConfig,
        set_by_itself=SET_BY_ABLATION,
        defaults=FIRST_MODEL,
    ),
    "report": EntryPoint(
        does="Write report.md and report.html of all that an experiment of the tracking store holds.",
        start=report,
        settings_class=ReportConfig,
        takes_runs=False,
    ),
    "ui": EntryPoint(
        does="Serve the MLflow UI on the local store, and print the link that opens this project's charts.",
        start=ui,
        settings_class=UiConfig,
        takes_runs=False,
        in_project=False,
    ),
}
