"""Where a study is kept: which address is taken, what of it is shown, and which two are one."""

import traceback
from pathlib import Path

import pytest
from sqlalchemy.exc import SQLAlchemyError

from accelmlf.errors import ConfigError, StudyError, redact
from accelmlf.search.storage import is_same_database, shown, sqlite_lock, storage_url, study_errors
from accelmlf.search.study import open_study

FACTS = {"model": "resnet50"}
CANARY = "c4n4ry"

# --- the address ---


def test_what_is_no_url_is_refused_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("optuna.db", "./optuna.db", "C:\\optuna.db", "://", "postgresql://host:port/db"):
        with pytest.raises(ConfigError, match="not a database URL"):
            storage_url(text)
    monkeypatch.setenv("OPTUNA_STORAGE", "optuna.db")
    with pytest.raises(ConfigError, match="not a database URL"):
        storage_url(None)


def test_a_parameter_comes_before_the_environment_and_that_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    assert storage_url(None) == "sqlite:///optuna.db"
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///variable.db")
    assert storage_url(None) == "sqlite:///variable.db"
    assert storage_url("sqlite:///given.db") == "sqlite:///given.db"


# --- passwords ---

WITH_PASSWORD = [
    f"postgresql://user:{CANARY}@host/db",
    f"postgresql+psycopg2://:{CANARY}@host:5432/db",
    f"mysql://{CANARY}@host/db",
    f"mysql+pymysql://user:{CANARY}%40%2F@host/db?charset=utf8",
    f"postgresql://user:a@{CANARY}@host/db",
    f"postgresql://user:a/{CANARY}@host/db",
    f"postgresql://user:a {CANARY}@host/db",
    f"mysql+pymysql://host/db?user=me&passwd={CANARY}",
    f"postgresql://host/db?user=me&password={CANARY}",
]


@pytest.mark.parametrize("storage", WITH_PASSWORD)
def test_a_password_given_as_a_parameter_is_refused_and_not_shown(storage: str) -> None:
    with pytest.raises(ConfigError, match="OPTUNA_STORAGE") as caught:
        storage_url(storage)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("storage", WITH_PASSWORD)
def test_a_password_from_the_environment_is_used_and_never_shown(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", storage)
    assert storage_url(None) == storage
    with pytest.raises(StudyError) as caught:
        open_study(storage, "s", FACTS)
    assert CANARY not in str(caught.value)
    assert CANARY not in redact("".join(traceback.format_exception(caught.value)))


def test_an_error_of_the_storage_later_on_hides_the_password_too() -> None:
    storage = f"postgresql://user:{CANARY}@host/db"
    with pytest.raises(StudyError) as caught, study_errors(storage):
        raise SQLAlchemyError(f"lost the connection to {storage}\nand more")
    assert CANARY not in str(caught.value)
    assert "lost the connection to postgresql://***@host/db" in str(caught.value)


def test_an_error_that_is_not_the_storage_s_is_not_told_as_one() -> None:
    with pytest.raises(OSError, match="elsewhere"), study_errors("sqlite:///x.db"):
        raise OSError("elsewhere")
    with pytest.raises(StudyError), study_errors("sqlite:///x.db", OSError):
        raise OSError("elsewhere")


def test_an_error_of_ours_passes_the_storage_as_it_is() -> None:
    error = ConfigError("epochs", 0, "too few", "Use 1")
    with pytest.raises(ConfigError) as caught, study_errors("sqlite:///x.db"):
        raise error
    assert caught.value is error


# --- one database, or two ---


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db", True),
        ("sqlite:///mlflow.db", "sqlite:///./mlflow.db", True),
        ("sqlite:///mlflow.db", "sqlite:///elsewhere/../mlflow.db", True),
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db", True),
        ("sqlite:///mlflow.db", "sqlite+pysqlite:///mlflow.db", True),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db?timeout=5", True),
        ("sqlite:///mlflow.db", "sqlite:///link.db", True),
        ("sqlite:///mlflow.db", "sqlite:///optuna.db", False),
        ("sqlite:///mlflow.db", "sqlite:////elsewhere/mlflow.db", False),
        ("sqlite:///mlflow.db", "postgresql://host/mlflow.db", False),
        ("sqlite:///mlflow.db", "http://127.0.0.1:5000", False),
        ("sqlite:///mlflow.db", "./mlruns", False),
        ("postgresql://host/db", "postgresql://user:secret@host/db", True),
        ("postgresql://host/db", "postgresql+psycopg2://host/db", True),
        ("postgresql://host/db", "postgresql://host/other", False),
        ("postgresql://host/db", "postgresql://elsewhere/db", False),
        ("postgresql://host:5433/db", "postgresql://host:5434/db", False),
        ("postgresql://host/db", "mysql://host/db", False),
    ],
)
def test_two_addresses_of_one_database_are_known_as_one_however_they_are_written(
    one: str, other: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to("mlflow.db")
    other = other.format(here=tmp_path)
    assert is_same_database(one, other) is is_same_database(other, one) is expected


def test_a_sqlite_file_is_locked_beside_itself_and_a_server_is_not(tmp_path: Path) -> None:
    with sqlite_lock(f"sqlite:///{tmp_path}/optuna.db"), sqlite_lock("postgresql://host/db"):
        assert [path.name for path in tmp_path.iterdir()] == ["optuna.db.lock"]
    for _ in range(2):  # and can be had again
        with sqlite_lock(f"sqlite:///{tmp_path}/optuna.db"):
            pass


@pytest.mark.parametrize("storage", WITH_PASSWORD)
def test_an_address_is_shown_without_its_secrets_and_else_as_it_is(storage: str) -> None:
    assert CANARY not in shown(storage)
    assert shown("sqlite:///optuna.db") == "sqlite:///optuna.db"
