"A parent sample asked of a TAP service is the one selected from the sweeps: rows, columns, attrition, and counts per brick"

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.receipts import read_receipt
from dark_halo_scope.mock.release import make_mock
from dark_halo_scope.mock.sky import MockRecipe
from dark_halo_scope.parent import selection
from dark_halo_scope.parent.selection import SELECTIONS, ColourCut, SelectionRecipe, column, cuts, measure_galaxies, with_house_bits
from dark_halo_scope.parent.tap import (
    CatalogueRecipe,
    count_piece,
    estimate_queries,
    in_piece,
    named_cuts,
    pieces_of,
    rows_query,
    select_piece,
)
from dark_halo_scope.run.phases import open_run
from dark_halo_scope.run.products import ensure, opened, state
from dark_halo_scope.survey import tap
from dark_halo_scope.survey.facts import TapTable, survey_facts
from dark_halo_scope.survey.release import Release
from dark_halo_scope.survey.tap import JobPolicy, ask, check_columns

from .tap_service import TABLE, TapServer, tractor_rows

SKY = MockRecipe(seed=5, rows=2, columns=2, n_pix=400, lrgs=40, blue=15, spirals=1, rings=1, mergers=1, stars=30, n_lenses=3)
FACTS = survey_facts()
QUICK = JobPolicy(tries=2, first_wait=0.01)


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> str:
    "A mock release"
    root = str(tmp_path_factory.mktemp("tap") / "release")
    make_mock(root, SKY)
    return root


@pytest.fixture
def service(sky: str) -> Iterator[TapServer]:
    "A fresh service that holds the mock's catalogue"
    server = TapServer(tractor_rows(sky))
    yield server
    server.close()


def table_of(service: TapServer) -> TapTable:
    return TapTable(service.url, TABLE)


def both(tmp_path: Path, sky: str, service: TapServer, *changes: str) -> dict[str, list[pa.Table]]:
    "Phases 2 and 3 from the sweeps and from the service"
    found: dict[str, list[pa.Table]] = {}
    for name, source in (("sweeps", []), ("tap", [f"catalogue.tap={service.url}", "catalogue.nside=256"])):
        run = open_run(
            "toy",
            str(tmp_path / name),
            ["rooms=[]", f"release={sky}", f"lists.known=[{sky}/truth/known_lenses.csv]", *source, *changes],
            workers=1,
        )
        ensure(run, "parent")
        sample = opened(run, "parent").read().sort_by([("brickid", "ascending"), ("objid", "ascending")])
        found[name] = [sample, *(pq.read_table(run.path(f"{t}.parquet")) for t in ("known_hosts", "attrition", "density", "regions"))]
    return found


def test_phases_2_and_3_are_the_same_from_either(tmp_path: Path, sky: str, service: TapServer, capfd: pytest.CaptureFixture) -> None:
    found = both(tmp_path, sky, service)
    for ours, theirs in zip(found["sweeps"], found["tap"], strict=True):
        assert ours.equals(theirs)
    assert all(len(table) for table in found["tap"][:4])
    parts = sorted((tmp_path / "tap" / "parent").glob("*.parquet"))
    assert len(parts) > 3 and all(read_receipt(str(p)).identity["table"] == TABLE for p in parts)
    assert f"{len(parts)} pieces of sky to ask for; from 3 of them about " in capfd.readouterr().out
    assert len(service.deleted) == len(service.queries)  # no job is left behind


@pytest.mark.parametrize("variant", SELECTIONS)
@pytest.mark.parametrize("dereddened", [True, False])
def test_every_cut_in_words_is_the_cut_on_arrays(variant: str, dereddened: bool, sky: str, service: TapServer) -> None:
    recipe = SelectionRecipe(variant=variant, dereddened=dereddened, mask_names=("BRIGHT", "GALAXY", "CLUSTER", "MEDIUM"))
    table = pa.table(
        {
            n: service.rows[n].astype(str) if service.rows[n].dtype.kind in "SU" else np.asarray(service.rows[n])
            for n in service.rows.colnames
        }
    )
    arrays, words = cuts(table, recipe, measure_galaxies(table, recipe)), named_cuts(FACTS, recipe)
    assert list(arrays) == list(words)
    for name, condition in words.items():
        found = service.base.execute(f"SELECT {condition.text} FROM tractor").fetchall()
        passed = arrays[name]
        if name == "its brick owns it":  # a catalogue of a brick lists the overlap too, and says so in this column
            passed = column(table, "brick_primary").astype(bool)
        assert np.array_equal(np.array([bool(v) for (v,) in found]), passed), name


def test_a_threshold_moves_in_both(sky: str, service: TapServer, monkeypatch: pytest.MonkeyPatch) -> None:
    piece = pieces_of(*(np.atleast_1d(v) for v in (150.0, 2.0)), 8)[0]
    before, _ = select_piece(table_of(service), piece, 8, FACTS, SelectionRecipe(), QUICK)
    monkeypatch.setitem(selection.VARIANTS, "v3_color_relaxed", ColourCut(19.0, 0.4, 0.8))
    rows, attrition = select_piece(table_of(service), piece, 8, FACTS, SelectionRecipe(), QUICK)
    assert 0 < len(rows) < len(before) and attrition["kept"][-1].as_py() == len(rows)
    assert (
        "19.0" in str(attrition["cut"].to_pylist()) and len(count_piece(table_of(service), piece, 8, FACTS, SelectionRecipe(), QUICK)) == 4
    )


def test_a_service_that_goes_away_is_gone_on_with(tmp_path: Path, sky: str, service: TapServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(tap, "time", SimpleNamespace(monotonic=time.monotonic, sleep=waits.append))
    changes = ["rooms=[]", f"release={sky}", "lists.known=[]", f"catalogue.tap={service.url}", "catalogue.nside=256", "catalogue.pilot=0"]
    run = open_run("toy", str(tmp_path), changes, workers=1)
    service.refuse_after = 25
    with pytest.raises(BadInput, match=r"sweeps set aside.*no answer in 4 tries.*the same command goes on"):
        ensure(run, "density")
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "parts" / "density").rglob("hpx*.parquet")}
    assert done and len(done) < len(pieces_of(np.array([150.0]), np.array([2.0]), 256)) + 10
    assert waits == [2.0, 4.0, 8.0]  # of the first piece; those after it are tried once
    service.refuse_after = -1
    asked = len(service.queries)
    ensure(run, "density")
    assert state(run)["density"] == "done" and all(p.stat().st_mtime_ns == at for p, at in done.items())
    again = service.queries[asked:]
    assert again and not any(f"BETWEEN {int(p.stem.split('-')[1]) * 256} " in query for p in done for query in again)


def test_what_a_service_can_do_wrong_is_one_line(sky: str, service: TapServer) -> None:
    table, recipe = table_of(service), SelectionRecipe()
    with pytest.raises(BadInput, match="refuses the query .*no such column: nonsense"):
        ask(service.url, f"SELECT nonsense FROM {TABLE}", QUICK)
    with pytest.raises(BadInput, match=r"no table 'ls_dr12.tractor'"):
        check_columns(service.url, "ls_dr12.tractor", ["ra"])
    with pytest.raises(BadInput, match="lacks column.s. flux_y"):
        check_columns(service.url, TABLE, ["ra", "flux_y"])
    with pytest.raises(BadInput, match="nside=8192; expected at most 4096"):
        in_piece(table, 0, 8192)
    piece = pieces_of(np.array([150.0]), np.array([2.0]), 8)[0]
    service.cut_at = 3
    with pytest.raises(BadInput, match="cut its answer at 3 rows"):
        ask(service.url, rows_query(table, in_piece(table, piece, 8), FACTS, recipe), QUICK)


def test_size_and_time_are_said_first(sky: str, service: TapServer) -> None:
    piece = pieces_of(np.array([150.0]), np.array([2.0]), 8)
    found = estimate_queries(table_of(service), piece, FACTS, SelectionRecipe(), CatalogueRecipe("release"), QUICK)
    rows, _ = select_piece(table_of(service), piece[0], 8, FACTS, SelectionRecipe(), QUICK)
    assert found.rows == len(rows) > 0 and found.counted == found.pieces == 1 and found.hours > 0
    assert found.megabytes == pytest.approx(rows.nbytes / 1e6, rel=0.5)


def test_a_release_without_a_service_says_so(sky: str, tmp_path: Path) -> None:
    run = open_run("toy", str(tmp_path), ["rooms=[]", f"release={sky}#ls-dr11-north", "catalogue.tap=release"], workers=1)
    with pytest.raises(BadInput):
        ensure(run, "density")
    assert with_house_bits(pa.table({"maskbits": pa.array([2], pa.int32())}), FACTS.maskbits)["maskbits"].to_pylist() == [2]
    assert Release(sky).facts.tap is not None
