"""The settings of the MLflow UI, and what is known of the store without MLflow. Standard library only."""

from dataclasses import dataclass

from accelmlf.settings.fields import setting

STORE_IMPORTS = ("mlflow.store.tracking.sqlalchemy_store",)
"""What MLflow imports only when it opens a database: a second."""


@dataclass(frozen=True, kw_only=True)
class UiConfig:
    """How the MLflow UI is served."""

    port: int | None = setting(None, at_least=1, at_most=65535, default_text="the first that is free, from 5000")
    """Port on this machine at which the UI listens."""
