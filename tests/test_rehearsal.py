"""A rehearsal of the sky: a release served read-only over HTTP, without its truth, with an outside list of known lenses, missing files and a broken brick

A generation runs from the parent sample to candidates, stage 0 and a report, by the very functions that run on the survey's own files."""

import functools
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dark_halo_scope.base.receipts import read_receipt, receipt_path
from dark_halo_scope.mock.products import mock_lists
from dark_halo_scope.mock.release import make_mock
from dark_halo_scope.mock.sky import MockRecipe
from dark_halo_scope.run.phases import open_run
from dark_halo_scope.run.products import asked_for, verify
from dark_halo_scope.survey.release import Release

from .conftest import dhs

SKY = MockRecipe(rows=3, columns=4, n_pix=440, lrgs=24, blue=20, spirals=1, rings=2, mergers=1, stars=4, n_lenses=10, seed=11)
# What differs from the recorded recipe is its size, nothing else.
FEW = [
    "splits.nside=256", "splits.fractions={train: 0.5, val: 0.25, test: 0.25}", "splits.salt=toy",
    "plan.n_total_per_split={train: 60, val: 40, test: 40}", "train.epochs=1", "train.max_steps=2", "train.read.batch_size=16",
    "train.monitor=loss", "train.patience=0", "candidates.fpr=0.5", "candidates.prevalence=[0.05, 0.2]",
    "completeness.edges={theta_E: [0.5, 1.0, 1.5, 2.5], arc_mag_r: [16, 20, 22, 24, 28], psfsize_r: [1.0, 1.3, 1.6], depth_r: [23.5, 24.5, 25.5]}",
    "completeness.maps=[[theta_E, psfsize_r], [theta_E, arc_mag_r]]",
]  # fmt: skip
REASON = "a rehearsal of a few stamps decides nothing"
GUARDS = [f"--override={guard}={REASON}" for guard in ("gates", "score_gates", "stage0", "predecessor")]
PRODUCTS = (
    "density.parquet",
    "parent",
    "plan",
    "stamps",
    "model",
    "scores.parquet",
    "sky",
    "candidates/candidates.parquet",
)


@dataclass
class Survey:
    "A served release"

    url: str
    folder: Path  # What is served
    lists: list[str]  # "section.key=value": known lenses, anchors, impostors
    missing: list[str]  # Bricks that lack a file
    broken: str  # The brick with a damaged file


class Quiet(http.server.SimpleHTTPRequestHandler):
    "Serves files and says nothing; refuses to write"

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        "Nothing"


def spoil(release: Release, bricks: list[str]) -> tuple[list[str], str]:
    "Takes a file from two bricks and cuts one of a third in half"
    for brick, kind in zip(bricks, ("image", "invvar")):
        Path(release.coadd(brick, kind, "r")).unlink()
    broken = Path(release.coadd(bricks[2], "image", "g"))
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    return bricks[:2], bricks[2]


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survey]:
    "The release without truth, receipts or lists; the lists lie elsewhere"
    root = tmp_path_factory.mktemp("survey")
    make_mock(root / "made", SKY, 2)
    lenses, objects = (pq.read_table(root / "made" / "truth" / f"{name}.parquet") for name in ("planted_lenses", "objects"))
    for name, data in mock_lists(lenses, objects).items():
        (root / Path(name).name).write_bytes(data)
    served = root / "served"
    shutil.copytree(root / "made", served, ignore=shutil.ignore_patterns("truth", "*receipt.json"))
    names = sorted({p.name for p in (served / "south" / "coadd").glob("*/*")})
    missing, broken = spoil(Release(str(served)), names[3:6])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lists = [
        f"lists.{key}=['{root}/{name}.csv']"
        for key, name in (("known", "known_lenses"), ("anchors", "anchors"), ("impostors", "impostors"))
    ]
    yield Survey(f"http://127.0.0.1:{server.server_port}", served, lists, missing, broken)
    server.shutdown()
    server.server_close()


def generation(name: str, survey: Survey, folder: Path, *more: str) -> subprocess.CompletedProcess:
    "One generation by the command, as a person runs it"
    changes = [f"--set={text}" for text in (*FEW, *survey.lists)]
    return dhs("generation", name, "--release", survey.url, "--out", f"runs/{name}", "--limit", "400", *changes, *GUARDS, *more, cwd=folder)


def finished(name: str, survey: Survey, folder: Path) -> Path:
    "The run's folder, everything that its recipe asks for made and as it was written"
    run = folder / "runs" / name
    opened = open_run(name, str(run), [*FEW, *survey.lists, f"release={survey.url}"], limit=400)
    assert all(Path(receipt_path(run / p.address)).exists() for p in asked_for(opened))
    receipts, faults = verify(str(run))
    assert receipts > 12 and not faults
    assert {p.stem for p in (run / "logs").glob("*.ipynb")} >= {p.phase for p in asked_for(opened) if p.phase}
    return run


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_gaps_stop_the_run_unless_they_are_allowed(survey: Survey, tmp_path: Path) -> None:
    done = generation("gen1", survey, tmp_path, "--workers", "2", "--set=train.model.name=small_cnn")
    assert done.returncode == 2, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("dhs:")]
    assert len(lines) == 1 and "set aside" in lines[0] and any(brick in lines[0] for brick in (*survey.missing, survey.broken))
    assert done.stdout.startswith("gen1: release http://127.0.0.1")
    page = (tmp_path / "runs" / "gen1" / "report.html").read_text()
    assert "The run stopped" in page and "--allow-missing" in page  # a report also of a run that stopped
    again = generation("gen1", survey, tmp_path, "--workers", "2", "--set=train.model.name=small_cnn", "--allow-missing")
    assert again.returncode == 0, again.stderr[-3000:]
    assert "phase2_density: done before" in again.stdout
    run = tmp_path / "runs" / "gen1"
    aside = read_receipt(run / "stamps").identity["set_aside"]
    assert set(aside) <= {*survey.missing, survey.broken} and aside
    stage0 = json.loads((run / "stage0.json").read_text())
    assert stage0["passed"] in (True, False) and stage0["recall"][0]["n"] > 0
    result = json.loads((run / "generation.json").read_text())
    assert result["label"] == "as the recipe says" and result["overrides"]["stage0"] == REASON
    assert "What failed" in (run / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gen1", "gen3", "gen5_prime"])
def test_local_and_spark_write_the_same_bytes(name: str, survey: Survey, tmp_path: Path) -> None:
    "Three generations of the record, their own networks, local and on Spark"
    sources = ["--set=plan.src_kind=clumpy"] if name == "gen5_prime" else []  # the record's HST bank is not at hand
    for engine in ("local", "spark"):
        (tmp_path / engine).mkdir()
        done = generation(name, survey, tmp_path / engine, "--engine", engine, "--allow-missing", *sources)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "failed" not in done.stdout
    local, spark = (tmp_path / engine / "runs" / name for engine in ("local", "spark"))
    for product in PRODUCTS:
        assert read_receipt(local / product).name == read_receipt(spark / product).name, product
    for file in sorted(p for p in local.rglob("*.parquet") if "parts" not in p.parts):
        assert file.read_bytes() == (spark / file.relative_to(local)).read_bytes(), file.name


def test_nothing_that_is_asked_for_is_dropped(survey: Survey, tmp_path: Path) -> None:
    "A release without its table of bricks, a predecessor that failed, a folder of other code: one line, exit code 2"
    (tmp_path / "empty").mkdir()
    done = dhs("generation", "gen1", "--release", str(tmp_path / "empty"), "--out", "runs/x", cwd=tmp_path)
    assert done.returncode == 2 and "survey-bricks-dr10-south.fits.gz: not there" in done.stderr and "Traceback" not in done.stderr
