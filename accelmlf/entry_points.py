"""The entry points beside those that train one run: their settings, and what they start."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from accelmlf.ablation.settings import SET_BY_ABLATION, AblateConfig
from accelmlf.report.settings import ReportConfig
from accelmlf.search.settings import SET_BY_SEARCH, TuneConfig


@dataclass(frozen=True, kw_only=True)
class EntryPoint:
    """An entry point beside those that train one run."""

    does: str
    record: type
    """Its settings."""
    run: Callable[..., None]
    set_by_itself: Mapping[str, str] = field(default_factory=dict)
    """Settings of its runs that it sets, and what to give instead."""
    has_runs: bool = True
    """Whether it takes the settings of runs."""


def tune(*given: Any, **switched: Any) -> None:
    from accelmlf.search.tune import run_tune  # Optuna: a single run need not wait for it

    run_tune(*given, **switched)


def ablate(*given: Any, **switched: Any) -> None:
    from accelmlf.ablation.ablate import run_ablate  # SciPy and Matplotlib likewise

    run_ablate(*given, **switched)


def report(*given: Any) -> None:
    from accelmlf.report.report import run_report

    run_report(*given)


ENTRY_POINTS = {
    "tune": EntryPoint(
        does="Search for the settings that reach a target accuracy soonest, and confirm them with fresh seeds.",
        record=TuneConfig,
        run=tune,
        set_by_itself=SET_BY_SEARCH,
    ),
    "ablate": EntryPoint(
        does="Say what each technique is worth: arms that differ in nothing else, interleaved and repeated.",
        record=AblateConfig,
        run=ablate,
        set_by_itself=SET_BY_ABLATION,
    ),
    "report": EntryPoint(
        does="Write report.md and report.html of all that an experiment of the tracking store holds.",
        record=ReportConfig,
        run=report,
        has_runs=False,
    ),
}
