"Catalogues in the HATS layout: valid to HATS, open to LSDB, and a source of parents like the sweeps"

import warnings
from pathlib import Path

import lsdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hats.io.validation import is_valid_catalog

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.hats import CELL, cells_of, hats_files, read_hats, write_hats
from dark_halo_scope.base.schema import product_columns
from dark_halo_scope.mock.release import make_mock
from dark_halo_scope.mock.sky import MockRecipe
from dark_halo_scope.run.phases import open_run
from dark_halo_scope.run.products import Run, ensure, opened

from .conftest import dhs, dhs_here
from .tap_service import tractor_rows

SKY = MockRecipe(seed=5, rows=1, columns=2, n_pix=400, lrgs=40, blue=15, spirals=1, rings=1, mergers=1, stars=10, n_lenses=3)


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> str:
    "A mock release, and its Tractor catalogues in the HATS layout beside it"
    folder = tmp_path_factory.mktemp("hats")
    make_mock(str(folder / "release"), SKY)
    rows = tractor_rows(str(folder / "release"))
    columns = {n: rows[n].astype(str) if rows[n].dtype.kind in "SU" else np.asarray(rows[n]) for n in rows.colnames}
    write_hats(pa.table(columns), str(folder / "tractor"), "tractor", 60)
    return str(folder)


def sample(run: Run) -> pa.Table:
    "The parent sample of all its files, in one order"
    return opened(run, "parent").read().sort_by([("brickid", "ascending"), ("objid", "ascending")])


def catalogue(folder: str) -> lsdb.Catalog:
    "A catalogue as LSDB opens it; a warning is an error"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return lsdb.open_catalog(folder)


def test_parents_from_hats_are_those_from_sweeps(sky: str, tmp_path: Path) -> None:
    assert len(hats_files(f"{sky}/tractor")) > 3 and is_valid_catalog(f"{sky}/tractor", strict=True, verbose=False)
    found = []
    for name, source in (("sweeps", []), ("hats", [f"catalogue.hats={sky}/tractor"])):
        run = open_run("toy", str(tmp_path / name), ["rooms=[]", f"release={sky}/release", "lists.known=[]", *source], workers=1)
        ensure(run, "parent")
        found.append([sample(run), *(pq.read_table(run.path(f"{t}.parquet")) for t in ("attrition", "density"))])
    assert all(ours.equals(theirs) and len(ours) for ours, theirs in zip(*found, strict=True))


def test_lsdb_opens_what_was_written(sky: str, tmp_path: Path) -> None:
    known = f"lists.known=[{sky}/release/truth/known_lenses.csv]"
    run = open_run("toy", str(tmp_path / "run"), ["rooms=[]", f"release={sky}/release", known], workers=1)
    ensure(run, "parent")
    assert list(Path(run.path("parent")).glob("_known_hosts/*.parquet")), "known hosts lie beside the sample, and are no part of it"
    done = dhs("hats", run.path("parent"), str(tmp_path / "parent"), "--max-rows", "20", cwd=tmp_path)
    assert done.returncode == 0 and " rows in " in done.stdout, done.stderr
    assert is_valid_catalog(str(tmp_path / "parent"), strict=True, verbose=False)
    ours, theirs = sample(run), catalogue(str(tmp_path / "parent"))
    frame = theirs.compute()
    assert len(frame) == len(ours) and set(theirs.columns) == {c.name for c in product_columns("parent")}
    assert np.array_equal(np.sort(frame.index.to_numpy()), np.sort(cells_of(ours["ra"].to_numpy(), ours["dec"].to_numpy())))
    assert sorted(frame["mag_z"].tolist()) == sorted(ours["mag_z"].to_pylist())
    near = theirs.cone_search(float(ours["ra"][0].as_py()), float(ours["dec"][0].as_py()), 1.0).compute()
    assert near["objid"].tolist() == [ours["objid"][0].as_py()]


def test_nulls_and_text_survive(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    table = pa.table(
        {
            "name": pa.array([f"DESI-{i}" for i in range(50)]),
            "ra": rng.uniform(0, 360, 50),
            "dec": np.concatenate([[-90.0, 90.0], rng.uniform(-90, 90, 48)]),
            "grade": pa.array(["A", None] * 25),
            "known_arcsec": pa.array([None, 1.5] * 25, pa.float32()),
            "n_merged": pa.array(range(50), pa.int32()),
        }
    )
    assert write_hats(table, str(tmp_path / "c"), "candidates") == len(hats_files(str(tmp_path / "c"))) <= 12
    back = read_hats(str(tmp_path / "c"))
    assert back.schema == table.schema and back.sort_by("n_merged").equals(table)
    assert is_valid_catalog(str(tmp_path / "c"), strict=True, verbose=False)
    assert catalogue(str(tmp_path / "c")).compute()["grade"].isna().sum() == 25
    write_hats(table.slice(0, 3), str(tmp_path / "c"), "fewer")  # a catalogue is replaced whole
    assert len(read_hats(str(tmp_path / "c"))) == 3 and is_valid_catalog(str(tmp_path / "c"), strict=True, verbose=False)


def test_what_lsdb_writes_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    frame = pa.table({"ra": rng.uniform(0, 90, 40), "dec": rng.uniform(0, 60, 40), "objid": np.arange(40)}).to_pandas()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = lsdb.from_dataframe(frame, catalog_name="theirs", margin_threshold=None)
        made.write_catalog(str(tmp_path / "theirs"), as_collection=False, progress_bar=False)
    back = read_hats(str(tmp_path / "theirs"))
    assert back["objid"].to_numpy().sum() == frame["objid"].sum() and CELL not in back.column_names


def test_files_end_as_the_catalogue_says(tmp_path: Path) -> None:
    write_hats(pa.table({"ra": [1.0, 200.0], "dec": [2.0, -30.0]}), str(tmp_path), "mine")
    plain = hats_files(str(tmp_path))
    for file in plain:
        Path(file).rename(file.removesuffix("parquet") + "snappy.parquet")
    facts = (tmp_path / "hats.properties").read_text().replace("hats_npix_suffix=.parquet", "hats_npix_suffix=.snappy.parquet")
    (tmp_path / "hats.properties").write_text(facts)
    assert sorted(read_hats(str(tmp_path))["ra"].to_pylist()) == [1.0, 200.0]
    (tmp_path / "hats.properties").unlink()
    assert hats_files(str(tmp_path)) == plain, ".parquet, where nothing is said"
    (tmp_path / "hats.properties").write_text(facts.replace("=.snappy.parquet", "=/"))
    with pytest.raises(BadInput, match="files ending in '/'; expected Norder and Npix, and one file per cell"):
        hats_files(str(tmp_path))


def test_what_is_no_catalogue_is_one_line(sky: str, tmp_path: Path) -> None:
    run = open_run("toy", str(tmp_path), ["rooms=[]", f"release={sky}/release", f"catalogue.hats={sky}/release"], workers=1)
    with pytest.raises(BadInput, match="no partition_info.csv"):
        ensure(run, "density")
    broken = tmp_path / "broken"
    write_hats(pa.table({"ra": [1.0], "dec": [2.0]}), str(broken), "broken")
    with pytest.raises(BadInput, match=r"Npix=\d+.parquet: lacks column.s. flux_g"):
        read_hats(str(broken), ["flux_g"])
    Path(hats_files(str(broken))[0]).write_bytes(b"PAR1")
    with pytest.raises(BadInput, match="not readable as Parquet"):
        read_hats(str(broken))
    done = dhs_here("hats", str(tmp_path / "none.parquet"), str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 2 and "not there" in done.stderr
