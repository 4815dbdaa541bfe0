"""The settings of the MLflow UI, and what is known of the store without MLflow. Standard library only."""

from dataclasses import dataclass

from accelmlf.settings.fields import setting

HOST, FIRST_PORT = "127.0.0.1", 5000
"""Where the UI is served, if the port is free."""
STORE_IMPORTS = ("mlflow.store.tracking.sqlalchemy_store",)
"""What MLflow imports only when it opens a database: a second."""


@dataclass(frozen=True, kw_only=True)
class UiConfig:
    """How the MLflow UI is served."""

    port: int | None = setting(
        None, at_least=1, at_most=65535, default_text=f"the first that is free, from {FIRST_PORT}"
    )
    """Port on this machine at which the UI listens."""
