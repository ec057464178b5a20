"""pytest-flask: a project that uses it, run by a pytest of its own, with the plugin active."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parent / "pytest_flask_project"


def run_pytest(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in the project."""
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def test_project_with_pytest_flask_passes() -> None:
    """P2, P3, P4, P8: ``client``, ``live_server`` and the pushed request context all behave."""
    result = run_pytest("checks.py")
    assert result.returncode == 0, result.stdout + result.stderr


def test_work_that_a_test_forgot_is_named() -> None:
    """P7: the context that the plugin pushed never commits, and says what it discards."""
    result = run_pytest("forgetful.py", "-W", "default")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "DiscardedWork" in result.stdout
    assert "1 User (new)" in result.stdout
