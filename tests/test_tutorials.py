"Every tutorial by copy and paste: its bash blocks in its order, in a folder of its own, and then the files that it promises"

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cutout_service import Service

PAGES = Path(__file__).parents[1] / "nbs" / "tutorials"
HERE = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def blocks(page: str) -> list[str]:
    "What a reader copies; `sh` blocks are for other machines, or start what a person closes"
    return re.findall(r"^```bash\n(.*?)^```$", (PAGES / f"{page}.qmd").read_text(), re.MULTILINE | re.DOTALL)


def promised(page: str) -> list[str]:
    "First column of the table under 'What you have now'"
    table = (PAGES / f"{page}.qmd").read_text().split("## What you have now\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


def follow(page: str, folder: Path, service: str = "", limit: int = 550) -> str:
    "All blocks in one shell, as a person would run them; what they printed"
    script = "set -euo pipefail\n" + "\n".join(blocks(page))
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env={**HERE, "DHS_CUTOUT_SERVICE": service}, capture_output=True, text=True, timeout=limit
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def missing(page: str, folder: Path) -> list[str]:
    "Promised files and folders that are not there, or empty"

    def empty(path: Path) -> bool:
        return not any(path.iterdir()) if path.is_dir() else not path.stat().st_size

    return [name for name in promised(page) if not (folder / name).exists() or empty(folder / name)]


@pytest.fixture
def galaxies() -> Iterator[str]:
    "Address of a cutout service whose places have a galaxy each"
    service = Service(galaxy=2.0)
    yield service.address
    service.server.shutdown()
    service.server.server_close()


@pytest.fixture
def after_first_hour(toy: Path, tmp_path: Path) -> Path:
    "Where a reader stands after the first tutorial"
    shutil.copytree(toy, tmp_path / "runs" / "toy", ignore=shutil.ignore_patterns(".*"))
    return tmp_path


def test_a_first_hour(toy: Path) -> None:
    "Its one command is the one whose run the tests share"
    assert [b.strip() for b in blocks("01_first_hour")] == ["dhs demo --recipe toy --out runs/toy"]
    assert len(promised("01_first_hour")) > 8 and not missing("01_first_hour", toy.parents[1])


@pytest.mark.slow
def test_your_cutouts(tmp_path: Path, galaxies: str) -> None:
    said = follow("02_your_cutouts", tmp_path, galaxies)
    assert "4 stamps" in said and "3 scored, 1 without" in said and not missing("02_your_cutouts", tmp_path)


def test_your_anchors(after_first_hour: Path, galaxies: str) -> None:
    said = follow("03_your_anchors", after_first_hour, galaxies)
    assert "recall" in said and "of 5" in said and not missing("03_your_anchors", after_first_hour)


def mark_some(address: str, grades: str) -> None:
    "Grades as the page sends them"
    cards = json.load(urllib.request.urlopen(address + "state"))["cards"]
    marks = [
        {"id": f"{i:08d}", "card": card, "grade": grade, "comment": "", "seconds": 2, "undo": False}
        for i, (card, grade) in enumerate(zip(cards, grades))
    ]
    head = {"Origin": address.rsplit("/", 2)[0], "Content-Type": "application/json"}
    request = urllib.request.Request(address + "grades", json.dumps({"marks": marks}).encode(), head)
    assert len(json.load(urllib.request.urlopen(request))["saved"]) == len(marks)


def test_grading_with_colleagues(after_first_hour: Path) -> None:
    "The desk is opened, two people grade, Ctrl-C, and the count"
    desk, count = blocks("06_grading")
    process = subprocess.Popen(
        ["bash", "-c", f"exec {desk}"], cwd=after_first_hour, env=HERE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        pages, said = {}, ""
        for line in process.stdout:
            said += line
            if found := re.match(r"(Ana|Ben): (http://\S+)", line):
                pages[found[1]] = found[2]
            if len(pages) == 2:
                break
        assert len(pages) == 2, said
        mark_some(pages["Ana"], "ABC")
        mark_some(pages["Ben"], "ABA")
        process.send_signal(signal.SIGINT)
        assert "all grades are kept" in process.communicate(timeout=60)[0]
    finally:
        process.kill()
        process.wait()
    done = subprocess.run(["bash", "-c", count], cwd=after_first_hour, env=HERE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not missing("06_grading", after_first_hour)


@pytest.mark.slow
def test_a_lens_model_for_every_candidate(tmp_path: Path) -> None:
    said = follow("07_model", tmp_path)
    assert "4 modelled" in said and "theta_E" in said and not missing("07_model", tmp_path)


@pytest.mark.slow
def test_from_the_mock_to_dr10(tmp_path: Path) -> None:
    said = follow("08_to_dr10", tmp_path)
    assert "DR10 south: 319,078 bricks, 20.74 TB" in said and "0 faults" in said and not missing("08_to_dr10", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3700)
def test_the_loop_gains_on_lenses_that_nobody_graded(tmp_path: Path) -> None:
    said = follow("09_loop", tmp_path, limit=3600)
    found = [int(n) for n in re.findall(r"^round\d/east: (\d+) of \d+ lenses", said, re.MULTILINE)]
    assert len(found) == 4 and max(found[2:]) > found[0] + 3 and not missing("09_loop", tmp_path)


def test_the_cluster_that_would_be_started(tmp_path: Path) -> None:
    "The command of the Spark tutorial that costs nothing; the rest of the page runs among the slow tests"
    (said,) = [b for b in blocks("05_spark") if "dhs emr" in b]
    done = subprocess.run(["bash", "-c", said], cwd=tmp_path, env=HERE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "node-hours" in done.stderr, done.stderr
    assert json.loads((tmp_path / "job.json").read_text())["Steps"][0]["Name"] == "phase4c_inject"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["01_first_hour", "04_gpu", "05_spark"])
def test_from_nothing(page: str, tmp_path: Path) -> None:
    follow(page, tmp_path)
    assert not missing(page, tmp_path)


@pytest.mark.parametrize("page", sorted(p.stem for p in PAGES.glob("*.qmd")))
def test_every_page_has_commands_and_promises(page: str) -> None:
    assert blocks(page) and promised(page)
    text = (PAGES / f"{page}.qmd").read_text()
    assert text.count("```") == 2 * len(re.findall(r"^```(?:bash|sh)\n", text, re.MULTILINE))  # no third kind of block slips past
