"Each guard deleted, one by one, and a test goes red"

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .guards_deleted import GUARDS

ROOT = Path(__file__).parents[1]


def outcome(guard: str, tests: list[str], toy: Path, folder: Path) -> tuple[int, str]:
    "Exit code and last lines of pytest, a guard deleted; empty: none"
    environment = {**os.environ, "GUARD": guard, "DHS_TOY": str(toy)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.guards_deleted", "-p", "no:cacheprovider", f"--basetemp={folder}", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout[-3000:]


@pytest.mark.slow
def test_with_every_guard_in_place_their_tests_pass(toy: Path, tmp_path: Path) -> None:
    code, said = outcome("", [guard.test for guard in GUARDS.values()], toy, tmp_path / "all")
    assert code == 0 and said.startswith("." * len(GUARDS)), said


@pytest.mark.slow
@pytest.mark.parametrize("name", GUARDS)
def test_a_deleted_guard_is_missed(name: str, toy: Path, tmp_path: Path) -> None:
    code, said = outcome(name, [GUARDS[name].test], toy, tmp_path / "one")
    assert code == 1 and f"FAILED {GUARDS[name].test}" in said, said
