"""The settings of the MLflow UI. Standard library only."""

from dataclasses import dataclass

from accelmlf.settings.fields import setting


@dataclass(frozen=True, kw_only=True)
class UiConfig:
    """How the MLflow UI is served."""

    port: int | None = setting(None, at_least=1, at_most=65535, default_text="the first that is free, from 5000")
    """Port on this machine at which the UI listens."""
