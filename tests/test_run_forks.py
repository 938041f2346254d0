"Kernels forked from one process: they end with their run, and a process that died is named"

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.run.forks import Fork, Forks

PAGE = """
import os, time
from pathlib import Path
Path("kernel").write_text(str(os.getpid()))
time.sleep(wait)
"""
RUN = """
from pathlib import Path
from dark_halo_scope.run import forks, phases
phases.phase_notebook = lambda phase: Path("phase0_long.ipynb").resolve()
with forks.Forks() as begun:
    begun.begin()
    phases.run_notebook("phase0_long", {}, "logs/long.ipynb", begun)
"""


def is_running(pid: int) -> bool:
    "Whether a process is there and has not ended"
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")
def test_a_killed_run_leaves_no_kernel(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell("wait = 120", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(PAGE)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "phase0_long.ipynb")
    run, kernel = subprocess.Popen([sys.executable, "-c", RUN], cwd=tmp_path), tmp_path / "kernel"
    while not (kernel.exists() and kernel.read_text()):
        assert run.poll() is None
        time.sleep(0.05)
    pid = int(kernel.read_text())
    assert is_running(pid)
    run.kill()
    run.wait()
    end = time.monotonic() + 60
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")
def test_a_process_that_died_is_named(tmp_path: Path) -> None:
    with Forks() as forks:
        assert not forks.begun
        forks.begin()
        os.kill(forks._process.pid, signal.SIGKILL)
        with pytest.raises(BadInput, match="exit code -9"):
            forks.fork(["-f", "none.json"], os.environ, str(tmp_path), tmp_path / "said")


@pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")
def test_a_fork_ends_as_it_is_told() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    fork = Fork(sleeper.pid)
    assert fork.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        fork.wait(0.01)
    fork.terminate()
    assert fork.wait(30) == fork.poll() == 0 and sleeper.wait() == -signal.SIGTERM
    fork.kill()  # of what has ended: nothing
    assert Fork(sleeper.pid).poll() == 0
