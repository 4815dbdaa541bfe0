"""What tests of a search share."""

import pytest

from accelmlf.search.study import open_study


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real database, made once: its tables take most of a second. Each test has studies of its own in it."""
    made = f"sqlite:///{tmp_path_factory.mktemp('studies') / 'optuna.db'}"
    open_study(made, "first", {})
    return made
