"""mypy accepts every file, as strictly as pyproject.toml says."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")


@pytest.mark.early
def test_every_file_has_types_that_fit() -> None:
    root = Path(__file__).parents[1]
    found = subprocess.run([sys.executable, "-m", "mypy"], cwd=root, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
