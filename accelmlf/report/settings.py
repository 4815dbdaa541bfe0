"""The settings of a report. Standard library only."""

from dataclasses import dataclass

from accelmlf.settings.fields import setting


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What a report is made of, and where it goes."""

    experiment_name: str | None = setting(None, default_text="the experiment that runs go to")
    """The MLflow experiment to report on; the store is that of MLFLOW_TRACKING_URI."""
    output: str = setting("report")
    """Folder for report.md, its pictures, and report.html, which needs none of them."""
