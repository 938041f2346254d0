"""A rehearsal of the sky: a release served read-only over HTTP, without its truth, with an outside list of known lenses, missing files and a broken brick

A generation runs from the parent sample to candidates, stage 0 and a report, by the very functions that run on the survey's own files."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dark_halo_scope.base.receipts import identity_of, read_receipt, receipt_path, write_receipt
from dark_halo_scope.base.storage import read_bytes
from dark_halo_scope.mock.files import read_columns
from dark_halo_scope.mock.products import mock_lists
from dark_halo_scope.mock.release import make_bricks, make_mock, with_seeing, write_catalogues, write_truth
from dark_halo_scope.mock.sky import MockRecipe, mock_bricks
from dark_halo_scope.run.phases import open_run
from dark_halo_scope.run.products import asked_for, make, verify
from dark_halo_scope.survey.release import Release

from .conftest import dhs, dhs_here

SKY = MockRecipe(rows=3, columns=4, n_pix=440, lrgs=24, blue=20, spirals=1, rings=2, mergers=1, stars=4, n_lenses=10, seed=11)
WIDE = ("1498p020", "1501p020")  # Bricks of 3600 pixels, as the survey's are
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


class Portal(http.server.SimpleHTTPRequestHandler):
    "Serves files and parts of files, as the survey's portal does, and says nothing; refuses to write"

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        "The whole file, or the range that is asked for"
        file, wanted = Path(self.translate_path(self.path)), re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted or not file.is_file():
            return super().do_GET()
        size = file.stat().st_size
        first, last = int(wanted[1]), min(int(wanted[2] or size), size - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        with file.open("rb") as stream:
            stream.seek(first)
            self.wfile.write(stream.read(last + 1 - first))

    def end_headers(self) -> None:
        "Every answer says that ranges may be asked for"
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        "Nothing"


def make_release(root: str) -> None:
    "The release, two of whose bricks are as wide as the survey's"
    bricks = mock_bricks(SKY)
    made = {}
    for recipe, some in (
        (SKY, [b for b in bricks if b.name not in WIDE]),
        (replace(SKY, n_pix=3600), [b for b in bricks if b.name in WIDE]),
    ):
        made |= {one.name: one for one in make_bricks(some, recipe, root, 2)}
    tractors = [read_columns(read_bytes(Release(root).tractor(b.name))) for b in bricks]
    write_catalogues(bricks, tractors, root)
    whole = [replace(made[b.name], lenses=with_seeing(made[b.name].lenses, t)) for b, t in zip(bricks, tractors)]
    write_truth(whole, root, identity_of(SKY))


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
    make_release(str(root / "made"))
    lenses, objects = (pq.read_table(root / "made" / "truth" / f"{name}.parquet") for name in ("planted_lenses", "objects"))
    for name, data in mock_lists(lenses, objects).items():
        (root / Path(name).name).write_bytes(data)
    served = root / "served"
    shutil.copytree(root / "made", served, ignore=shutil.ignore_patterns("truth", "*receipt.json"))
    names = sorted({p.name for p in (served / "south" / "coadd").glob("*/*")} - set(WIDE))
    missing, broken = spoil(Release(str(served)), names[3:6])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Portal, directory=str(served)))
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
    return dhs(
        "generation",
        name,
        "--release",
        survey.url,
        "--out",
        f"runs/{name}",
        "--limit",
        "400",
        *changes,
        *GUARDS,
        *more,
        cwd=folder,
        timeout=2400,  # a busy machine is no failure
    )


def finished(name: str, survey: Survey, folder: Path) -> Path:
    "The run's folder, everything that its recipe asks for made and as it was written"
    run = folder / "runs" / name
    opened = open_run(name, str(run), [*FEW, *survey.lists, f"release={survey.url}"], limit=400)
    assert all(Path(receipt_path(run / p.address)).exists() for p in asked_for(opened))
    receipts, faults = verify(str(run))
    assert receipts > 12 and not faults
    assert {p.stem for p in (run / "logs").glob("*.ipynb")} >= {p.phase for p in asked_for(opened) if p.phase}
    return run


@pytest.mark.timeout(4800)
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
    stamps = read_receipt(run / "stamps").identity
    aside = stamps["set_aside"]
    assert set(WIDE) <= set(stamps["content"])
    assert set(aside) <= {*survey.missing, survey.broken} and aside
    stage0 = json.loads((run / "stage0.json").read_text())
    assert stage0["passed"] in (True, False) and stage0["recall"][0]["n"] > 0
    result = json.loads((run / "generation.json").read_text())
    assert result["label"] == "as the recipe says" and result["overrides"]["stage0"] == REASON
    assert "What failed" in (run / "report.html").read_text()


@pytest.mark.timeout(4800)
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


def refusal(*arguments: str, folder: Path) -> str:
    "The one line of a command that ends with exit code 2"
    done = dhs_here(*arguments, cwd=folder)
    lines = [line for line in done.stderr.splitlines() if line.startswith("dhs:")]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    return lines[0]


def test_a_release_without_its_table_of_bricks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = refusal("generation", "gen1", "--release", str(tmp_path / "empty"), "--out", "runs/x", folder=tmp_path)
    assert "survey-bricks-dr10-south.fits.gz: not there" in said


@pytest.fixture(scope="module")
def one_brick(tmp_path_factory: pytest.TempPathFactory) -> str:
    "Root of the smallest release"
    root = tmp_path_factory.mktemp("brick") / "release"
    make_mock(root, replace(SKY, rows=1, columns=1, n_lenses=1))
    return str(root)


@pytest.mark.parametrize("verdict", ["FAILED: recall 0 of 9", ""])
def test_a_predecessor_that_failed_or_was_not_examined_stops_the_run_at_once(one_brick: str, tmp_path: Path, verdict: str) -> None:
    "Before anything is made, with a report that says why"
    (tmp_path / "runs" / "gen5").mkdir(parents=True)
    if verdict:
        (tmp_path / "runs" / "gen5" / "stage0.json").write_text(json.dumps({"passed": False, "verdict": verdict}))
    asked = ("--release", one_brick, "--out", "runs/gen5_prime", "--set", "plan.src_kind=clumpy")
    said = refusal("generation", "gen5_prime", *asked, folder=tmp_path)
    assert "the guard 'predecessor'" in said and (verdict or "has not been examined") in said and "--override 'predecessor=REASON'" in said
    run = tmp_path / "runs" / "gen5_prime"
    assert "The run stopped" in (run / "report.html").read_text() and not list(run.rglob("*.parquet"))


def test_a_folder_made_by_other_code_is_refused_by_a_phase(one_brick: str, tmp_path: Path) -> None:
    changes = [f"release={one_brick}", "splits.nside=256"]
    density = tmp_path / "run" / "density.parquet"
    receipt = make(open_run("gen1", str(density.parent), changes, workers=1), "density")
    write_receipt(replace(receipt, identity={**receipt.identity, "code": "of another day"}), density)
    said = refusal("run", "phase3_parent", "--recipe", "gen1", "--out", "run", *(f"--set={text}" for text in changes), folder=tmp_path)
    assert "density.parquet: made with another code that makes it (of another day" in said and "run phase2_density first" in said
