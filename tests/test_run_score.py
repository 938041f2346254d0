"Scoring lists and the sky: the command against a local cutout service, killed runs, broken bricks"

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.receipts import read_receipt, read_table
from dark_halo_scope.base.schema import check_table
from dark_halo_scope.learning import products as learning
from dark_halo_scope.lists.scores import packaged_network, score_places, score_positions
from dark_halo_scope.parent.products import searched_galaxies
from dark_halo_scope.run.phases import open_run
from dark_halo_scope.run.products import Run, ensure, make, opened, product_files
from dark_halo_scope.survey.viewer import ViewerRecipe
from dark_halo_scope.survey.web import HttpClient, RequestPolicy
from dark_halo_scope.trust.products import concat

from .conftest import dhs

TINY = ["mock.rows=1", "mock.columns=4", "mock.lrgs=20", "mock.blue=6", "mock.stars=3", "mock.n_lenses=2"]
TINY += ["plan.n_total_per_split={train: 40, val: 24, test: 24}", "train.epochs=1", "candidates.splits=[]"]
TINY += [f"score.committee=[{packaged_network()}]"]
KILLED = """
import sys, time
from dark_halo_scope.learning import products as learning
from dark_halo_scope.run.phases import open_run
from dark_halo_scope.run.products import make
read = learning.read_cutouts
learning.read_cutouts = lambda *given: (time.sleep(1.5), read(*given))[1]
make(open_run("toy", sys.argv[1], {overrides!r}, workers=1), "sky")
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Four bricks, their parent sample and a network; the sky is scored by the packaged one"
    folder = tmp_path_factory.mktemp("tiny")
    ensure(open_run("toy", str(folder), TINY, workers=1), "model")
    return folder


def at(folder: Path, workers: int = 1, **more) -> Run:
    "The tiny run in a folder"
    return open_run("toy", str(folder), TINY, workers=workers, **more)


def contents(folder: Path) -> dict[str, bytes]:
    "Every file of scores, byte for byte"
    return {p.name: p.read_bytes() for p in sorted((folder / "sky").rglob("*.parquet"))}


def copied(tiny: Path, folder: Path) -> Path:
    "The tiny run somewhere else"
    shutil.copytree(tiny, folder)
    return folder


def test_ten_positions_through_the_cutout_service(service, tmp_path):
    rows = [f"place {i},{150 + 0.1 * i:.2f},{2 + 0.1 * i:.2f}" for i in range(9)]
    (tmp_path / "list.csv").write_text("\n".join(["name,ra,dec", *rows, "no data here,10.0,-88.0"]) + "\n")
    done = dhs("score", "list.csv", "--out", "out", "--service", service.address, cwd=tmp_path)
    assert done.returncode == 0 and "9 scored, 1 without" in done.stdout, done.stderr
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        table = list(csv.DictReader(file, strict=True))
    assert len(table) == 10 and sorted(int(r["rank"]) for r in table if r["rank"]) == list(range(1, 10))
    best = max((r for r in table if r["logit"]), key=lambda r: float(r["logit"]))
    assert best["rank"] == "1" and table[-1]["logit"] == "" and "data" in table[-1]["why"]
    page = (tmp_path / "out" / "scores.html").read_text()
    assert "data:image/png;base64," in page and "no data here" in page and 'src="http' not in page
    scores = check_table(read_table(tmp_path / "out" / "scores.parquet"), "scores")
    assert scores["logit"].to_numpy().dtype == np.float32 and len(np.unique(scores["logit"].to_numpy())) == 9


def test_a_list_that_cannot_be_scored_leaves_nothing(service, tmp_path):
    (tmp_path / "none.csv").write_text("name,ra,dec\nnowhere,10.0,-88.0\n")
    with pytest.raises(BadInput, match="no cutout"):
        score_positions(
            str(tmp_path / "none.csv"),
            str(tmp_path / "out"),
            viewer=ViewerRecipe(service=service.address),
            client=HttpClient(RequestPolicy(pause=0)),
        )
    assert not (tmp_path / "out" / "scores.csv").exists()


def test_a_place_scored_alone_has_the_score_it_has_in_company(tiny, tmp_path):
    "The same pixels by another path: a list cut from the release, and the search over its bricks"
    run = at(copied(tiny, tmp_path / "a"))
    make(run, "sky")
    searched = concat(product_files(run, "sky")).slice(0, 5)
    lines = [f"{i},{ra!r},{dec!r}" for i, ra, dec in zip(range(5), searched["ra"].to_pylist(), searched["dec"].to_pylist())]
    (tmp_path / "list.csv").write_text("\n".join(["name,ra,dec", *lines]) + "\n")
    score_positions(str(tmp_path / "list.csv"), str(tmp_path / "out"), release=str(tmp_path / "a" / "release"))
    stamps = read_table(tmp_path / "out" / "stamps.parquet")
    logit, _ = score_places(stamps, packaged_network(), turns=False)
    np.testing.assert_allclose(logit, searched["logit"].to_numpy(), atol=5e-3)  # the list's stamps were stored in float16


@pytest.mark.slow
def test_workers_change_nothing(tiny, tmp_path):
    one, two = at(copied(tiny, tmp_path / "one")), at(copied(tiny, tmp_path / "two"), workers=2)
    names = [make(run, "sky").name for run in (one, two)]
    assert names[0] == names[1] and contents(tmp_path / "one") == contents(tmp_path / "two") and len(contents(tmp_path / "one")) == 4


def test_killed_and_resumed_gives_the_same_bytes(tiny, tmp_path):
    whole, cut = copied(tiny, tmp_path / "whole"), copied(tiny, tmp_path / "cut")
    make(at(whole), "sky")
    child = subprocess.Popen([sys.executable, "-c", KILLED.format(overrides=TINY), str(cut)], cwd=tmp_path)
    while not list((cut / "sky").rglob("*.receipt.json")) and child.poll() is None:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    there = contents(cut)
    assert 0 < len(there) < 4 and not (cut / "_sky.receipt.json").exists()
    receipt = make(at(cut), "sky")
    assert 0 < receipt.run["skipped"] < 4 and contents(cut) == contents(whole)
    assert receipt.name == read_receipt(whole / "sky").name


def test_a_broken_brick_is_set_aside_and_named(tiny, tmp_path):
    folder = copied(tiny, tmp_path / "a")
    broken = sorted((folder / "release").rglob("*image-r.fits.fz"))[0]
    broken.write_bytes(broken.read_bytes()[:4000])
    brick = broken.parent.name
    with pytest.raises(BadInput, match=f"1 of 4 bricks set aside, the first: {brick}"):
        make(at(folder), "sky")
    receipt = make(at(folder, allow_missing=True), "sky")
    assert receipt.identity["set_aside"] == [brick] and receipt.identity["bricks"] == 3 and receipt.run["skipped"] == 3


def test_galaxies_without_a_cutout_are_counted_not_scored(tiny, tmp_path, monkeypatch):
    "Every galaxy searched is scored or counted with its reason; here the first of each brick has no usable cutout"
    run, read = at(copied(tiny, tmp_path / "a")), learning.read_cutouts

    def without_first(release, brick, *given):
        cut = read(release, brick, *given)
        first = np.arange(len(cut.ok)) == 0
        return replace(cut, ok=cut.ok & ~first, why=np.where(first, f"reaches over the edge of brick {brick}", cut.why))

    monkeypatch.setattr(learning, "read_cutouts", without_first)
    receipt = make(run, "sky")
    assert receipt.identity["no_cutout"] == {"reaches over the edge": 4}
    assert receipt.identity["rows"] == len(searched_galaxies(opened(run, "parent"))) - 4 == len(concat(product_files(run, "sky")))
    with pytest.raises(BadInput, match="no galaxy in split"):
        make(open_run("toy", run.out, [*TINY, "candidates.splits=[nonsense]"], workers=1), "sky")
