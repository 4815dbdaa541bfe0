"""Optuna's storage as an address: checked, shown without its password, locked where it cannot lock, its errors told."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from optuna.exceptions import ExperimentalWarning, OptunaError
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from accelmlf.errors import AccelmlfError, ConfigError, StudyError, redact
from accelmlf.machine.processes import locked
from accelmlf.search.settings import DEFAULT_STORAGE

OPENING_ERRORS = (ImportError, OSError, RuntimeError, ValueError)
"""A driver that is not installed, a file that cannot be made, a database of another version."""


def storage_url(given: str | None) -> str:
    """The storage to use. A password must not come as a parameter: `mlflow run` logs every one of them.

    Raises:
        ConfigError: not a database URL, one that keeps nothing, or one with a user or a password as a parameter.
    """
    text = given or os.environ.get("OPTUNA_STORAGE") or DEFAULT_STORAGE
    remedy = "Give a URL such as sqlite:///optuna.db or postgresql://host/database"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError("storage", re.sub("//.*@", "//***@", text), "not a database URL", remedy) from None
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ConfigError("storage", text, "a study in memory cannot go on after a restart", remedy)
    if given and (url.username or _secrets(url)):
        rule = "a URL with a user or a password would be logged as a parameter"
        raise ConfigError("storage", shown(text), rule, "Put it into the environment variable OPTUNA_STORAGE")
    return text


def shown(url: str) -> str:
    """A storage as it may be printed and logged."""
    parsed = make_url(url)
    text = parsed.render_as_string(hide_password=True)
    for secret in _secrets(parsed):
        text = text.replace(secret, "***")
    return text if parsed.get_backend_name() == "sqlite" else redact(text)  # a name of a file may hold an @


def _secrets(url: URL) -> list[str]:
    """What must not be printed: the password, and values of the query that are one."""
    queried = {key: value if isinstance(value, str) else " ".join(value) for key, value in url.query.items()}
    hidden = [value for key, value in queried.items() if re.search("pass|secret|token|key|user", key, re.IGNORECASE)]
    return [secret for secret in [str(url.password or ""), *hidden] if secret]


def is_same_database(one: str, other: str) -> bool:
    """Whether two addresses lead to one database, however they are written."""
    try:
        first, second = make_url(one), make_url(other)
    except (ArgumentError, ValueError):  # a folder or a server of MLflow
        return False
    if first.get_backend_name() != second.get_backend_name():
        return False
    if first.get_backend_name() == "sqlite":
        return Path(first.database or "").resolve() == Path(second.database or "").resolve()
    return (first.host, first.port, first.database) == (second.host, second.port, second.database)


def sqlite_lock(url: str) -> AbstractContextManager[None]:
    """One process at a time on a sqlite file, which locks no row: others lose what two of them do at once."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return nullcontext()
    file = Path(f"{parsed.database}.lock")
    if not file.parent.is_dir():
        raise StudyError("storage", shown(url), f"there is no folder {file.parent}", "Make it, or give another storage")
    return locked(file)


@contextmanager
def study_errors(url: str, *more: type[Exception]) -> Iterator[None]:
    """Whatever the storage raises as one error that names it (without its password)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            yield
        except AccelmlfError:
            raise
        except Exception as error:
            if not isinstance(error, (SQLAlchemyError, OptunaError, *more)):
                raise
            text = f"{type(error).__name__}: {error}".partition("\n")[0].strip()
            for secret in _secrets(make_url(url)):
                text = text.replace(secret, "***")
            remedy = "Check that the database is there and writable, that its driver is installed and its version fits"
            raise StudyError("storage", shown(url), text, remedy) from error
