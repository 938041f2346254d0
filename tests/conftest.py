"What tests share: a quiet, single-threaded process, the command, one toy run, a cutout service, a browser, and where real pixels lie"

import fcntl
import gc
import io
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from .cutout_service import Service

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "Heavy evidence may take longer than a quick test; one file that uses the toy run comes first and the others last, so that one process makes it while the other has work"
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))
    users = [item.path for item in items if "toy" in getattr(item, "fixturenames", ())]
    items.sort(key=lambda item: 1 if item.path not in users else 0 if item.path == users[-1] else 2)


def pytest_collection_finish() -> None:
    "What the imports made is no garbage, and need not be looked at again and again"
    gc.freeze()


@pytest.fixture(scope="session")
def real_data() -> Path:
    "The folder of real pixels and catalogues; a test that wants it skips where it is absent"
    folder = Path(os.environ.get("DHS_REAL_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
    if not (folder / "lrg_des_grz.npz").exists():
        pytest.skip(f"no real data at {folder}: set DHS_REAL_DATA")
    return folder


def dhs(*arguments: str, cwd: Path, timeout: float = 600) -> subprocess.CompletedProcess:
    "The command, as a user runs it"
    return subprocess.run([sys.executable, "-m", "dark_halo_scope", *arguments], cwd=cwd, capture_output=True, text=True, timeout=timeout)


def dhs_here(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    "The command in this process, which spares it the imports of another one"
    from dark_halo_scope.command import cli

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["dhs", *arguments])
        patch.setattr(warnings, "showwarning", warnings.showwarning)  # the command sets its own
        with pytest.raises(SystemExit) as end:
            cli.main()
    return subprocess.CompletedProcess(arguments, end.value.code or 0, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A folder in which `dhs demo --recipe toy` ran: every phase notebook once, through papermill; one for all processes of a test run"
    if made := os.environ.get("DHS_TOY"):  # by `make test`, or by the test run that started this one
        return Path(made)
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "toy"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the second process waits for the first one's run
        if not (folder / "runs" / "toy" / "report.html").exists():
            done = dhs("demo", "--recipe", "toy", "--out", "runs/toy", "--workers", "2", cwd=folder)
            assert done.returncode == 0, done.stderr[-3000:]
    return folder / "runs" / "toy"


@pytest.fixture
def service() -> Iterator[Service]:
    "A fresh cutout service"
    service = Service()
    yield service
    service.server.shutdown()
    service.server.server_close()


FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP another.example 127.0.0.1"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    "A headless Chromium with a fresh profile; a test that wants it skips where there is none"
    api = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine: install the package chromium")
    with api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield running
        running.close()
