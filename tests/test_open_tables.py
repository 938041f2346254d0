"Every table that the commands write opens in other programs, without a warning, and says the same in each"

import csv
import io
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io.votable import validate
from astropy.table import Table
from pyarrow import dataset
from regions import Regions

from dark_halo_scope.base.hats import write_hats
from dark_halo_scope.base.receipts import read_table
from dark_halo_scope.lensing.fit_parts import FitRecipe
from dark_halo_scope.lists.models import LensModelRecipe, model_list
from dark_halo_scope.lists.positions import stage0_on_sky
from dark_halo_scope.lists.scores import packaged_network, score_positions
from dark_halo_scope.mock.release import make_mock
from dark_halo_scope.mock.sky import MockRecipe
from dark_halo_scope.run.engine import Engine
from dark_halo_scope.survey.viewer import ViewerRecipe
from dark_halo_scope.survey.web import HttpClient, RequestPolicy

from .cutout_service import Service

COMMANDS = {  # Command -> stems of its tables, and the Parquet copy of each
    "score": {"scores": "scores.list.parquet"},
    "model": {"models": "models.parquet"},
    "anchors": {"anchors": "anchors.parquet"},
    "candidates": {"candidates": "candidates.parquet"},
}
TABLES = [(command, stem, parquet) for command, stems in COMMANDS.items() for stem, parquet in stems.items()]


def scored(folder: Path) -> Path:
    "Names that formats choke on, a known lens, a place without data, and columns that bear the names of ours"
    service = Service()
    rows = [
        "a$b^$c,150.1,2.2,7,ü",
        "SDSSJ0151+0049,27.780708,0.819167,,",
        "J0100\u22121200,15.0,-12.0,1,=cmd|x",
        "no data here,10,-88,2,{x}",
    ]
    (folder / "list.csv").write_text("Name,RAJ2000,DEJ2000,rank,Note\n" + "\n".join(rows) + "\n")
    client = HttpClient(RequestPolicy(pause=0))
    score_positions(str(folder / "list.csv"), str(folder / "out ü"), viewer=ViewerRecipe(service=service.address), client=client)
    service.server.shutdown()
    service.server.server_close()
    return folder / "out ü"


def modelled(folder: Path) -> Path:
    "A planted lens, and a place outside the release, which has no model"
    mock = MockRecipe(
        rows=1, columns=1, n_pix=400, lrgs=3.0, blue=3.0, spirals=0.0, rings=0.0, mergers=0.0, stars=1.0, n_lenses=1, uncovered=0.0
    )
    make_mock(str(folder / "release"), mock)
    lenses = (folder / "release" / "truth" / "known_lenses.csv").read_text().splitlines()
    (folder / "list.csv").write_text(
        "\n".join([*lenses, ",".join(["elsewhere", "30.0", "10.0", *[""] * (len(lenses[0].split(",")) - 3)])]) + "\n"
    )
    quick = LensModelRecipe(posterior=False, fit=FitRecipe(draws=300, children=64, starts=2, samples=150, sample_rounds=2))
    model_list(str(folder / "list.csv"), str(folder / "out"), quick, str(folder / "release"), Engine(workers=1))
    return folder / "out"


def examined(folder: Path) -> Path:
    "Two lenses, one place without data, two impostors"
    service = Service(galaxy=0.5)
    (folder / "lenses.csv").write_text("name,ra,dec,theta_E\nseen,150.1,2.2,2.1\nother,30.0,-5.0,\nblank,10.0,-88.0,1.0\n")
    (folder / "not.csv").write_text("name,class,ra,dec\nround,ring,40.0,3.0\nplain,spiral,50.0,-3.0\n")
    asked = (
        str(folder / "lenses.csv"),
        None,
        ViewerRecipe(service=service.address),
        HttpClient(RequestPolicy(pause=0)),
        str(folder / "not.csv"),
    )
    stage0_on_sky(packaged_network(), str(folder / "out"), *asked)
    service.server.shutdown()
    service.server.server_close()
    return folder / "out"


MAKERS: dict[str, Callable[[Path], Path]] = {"score": scored, "model": modelled, "anchors": examined}


@pytest.fixture(scope="module")
def written(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    "The folder that a command wrote, made when it is first asked for"
    made = {"candidates": toy / "candidates"}

    def of(command: str) -> Path:
        if command not in made:
            made[command] = MAKERS[command](tmp_path_factory.mktemp(command))
        return made[command]

    return of


def whole_text(path: Path) -> list[list[str]]:
    "The cells of a CSV, every line as long as its header"
    with path.open(newline="") as file:
        rows = list(csv.reader(file, strict=True))
    assert len({len(r) for r in rows}) == 1
    return rows


@pytest.mark.parametrize(("command", "stem", "parquet"), TABLES)
def test_every_program_opens_every_table_and_finds_the_same_rows(command: str, stem: str, parquet: str, written: Callable) -> None:
    "astropy, pandas, pyarrow.dataset, regions and csv, with warnings as errors; VOTables pass astropy's validator"
    folder = written(command)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copies = {
            "ecsv": Table.read(folder / f"{stem}.ecsv", format="ascii.ecsv"),
            "vot": Table.read(folder / f"{stem}.vot", format="votable"),
        }
        copies |= {"fits": Table.read(folder / f"{stem}.fits", hdu=1), "parquet": Table.from_pandas(pd.read_parquet(folder / parquet))}
        text, regions = pd.read_csv(folder / f"{stem}.csv"), Regions.read(folder / f"{stem}.reg", format="ds9")
        read = dataset.dataset(folder / parquet, format="parquet").to_table()
    n, viewer = len(text), whole_text(folder / f"{stem}.viewer.csv")
    assert n > 1 and viewer[0] == ["RA", "DEC", "NAME", "COLOR", "RADIUS"] and len(viewer) - 1 == n == len(regions) == read.num_rows
    assert len(whole_text(folder / f"{stem}.csv")) == n + 1
    report = io.StringIO()
    assert validate(str(folder / f"{stem}.vot"), report), report.getvalue()
    for copy in copies.values():
        assert np.allclose(np.asarray(copy["ra"], float), text["ra"], atol=1e-6) and len(copy) == n
    assert np.allclose([r.center.ra.deg for r in regions], text["ra"], atol=1e-6)
    assert {c for c in text.columns if not c.endswith("_parts")} == set(copies["fits"].colnames) == set(copies["vot"].colnames)
    for c in [c for c in text.columns if copies["ecsv"][c].dtype.kind in "iuf"]:  # absent in one copy is absent in all
        absent = text[c].isna().to_numpy()
        for kind in ("ecsv", "fits", "vot"):
            mine = np.ma.masked_invalid(np.ma.asarray(copies[kind][c]).astype(float))
            assert np.array_equal(np.ma.getmaskarray(mine), absent), (kind, c)
            assert np.allclose(mine.compressed(), text[c].to_numpy()[~absent].astype(float), rtol=1e-5, atol=1e-6), (kind, c)


def test_a_lists_own_columns_stay_beside_ours(written: Callable) -> None:
    "A list that ranks its places has its ranks, and ours"
    table = Table.read(written("score") / "scores.ecsv", format="ascii.ecsv")
    ours = dict(zip(table["name"].tolist(), np.ma.asarray(table["rank"]).tolist()))
    theirs = dict(zip(table["name"].tolist(), np.ma.asarray(table["list_rank"]).tolist()))
    assert sorted(r for r in ours.values() if r is not None) == [1, 2, 3] and ours["no data here"] is None
    assert theirs == {"a$b^$c": 7, "SDSSJ0151+0049": None, "J0100\u22121200": 1, "no data here": 2}


@pytest.mark.parametrize(("command", "stem", "parquet"), TABLES)
def test_stilts_opens_every_table(command: str, stem: str, parquet: str, written: Callable) -> None:
    stilts = shutil.which("stilts")
    if stilts is None:
        pytest.skip("no STILTS on this machine: where it and Java are installed it opens these tables too")
    folder = written(command)
    n = len(pd.read_csv(folder / f"{stem}.csv"))
    for name in (f"{stem}.fits", f"{stem}.vot", f"{stem}.csv", f"{stem}.ecsv", parquet):
        done = subprocess.run([stilts, "tpipe", f"in={folder / name}", "omode=count"], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and f"rows: {n}" in done.stdout, (name, done.stderr)


@pytest.mark.parametrize(("command", "stem", "parquet"), TABLES)
def test_lsdb_takes_every_table_and_its_hats_catalogue_is_valid(
    command: str, stem: str, parquet: str, written: Callable, tmp_path: Path
) -> None:
    "As a table, and as a HATS catalogue that passes HATS' own strict validation; warnings are errors"
    lsdb = pytest.importorskip("lsdb", reason="no lsdb in this environment")
    valid = pytest.importorskip("hats.io.validation", reason="no hats in this environment")
    file = written(command) / parquet
    write_hats(read_table(str(file)), str(tmp_path / "hats"), stem)
    assert valid.is_valid_catalog(str(tmp_path / "hats"), strict=True, verbose=False)
    frame = pd.read_parquet(file, dtype_backend="pyarrow")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = lsdb.open_catalog(str(tmp_path / "hats")).compute()
        taken = lsdb.from_dataframe(frame, ra_column="ra", dec_column="dec", margin_threshold=None).compute()
    assert len(opened) == len(taken) == len(frame) and set(frame.columns) <= set(opened.columns)
