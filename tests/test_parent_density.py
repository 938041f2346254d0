"Counts per brick against a row-by-row reading and against the published tables; regions against their definition"

import csv
import gzip

import numpy as np
import pyarrow as pa
import pytest

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.parent import density, selection
from dark_halo_scope.parent.density import COUNTS, RegionRecipe
from dark_halo_scope.parent.selection import SelectionRecipe
from dark_halo_scope.survey.bricks import brick_areas, brick_centres, brick_edges, brick_ids, brick_names, brick_neighbours, ids_of_names
from tests.test_survey_files import sweep_table


def some_sweep(path, n=3000, seed=2):
    "A sweep of 16 bricks on disk"
    table, draw = sweep_table(n, seed), np.random.default_rng(seed)
    table["RA"], table["DEC"] = draw.uniform(150.0, 151.0, n), draw.uniform(2.0, 3.0, n)
    table["BRICKID"] = brick_ids(table["RA"], table["DEC"]).astype(np.int32)
    east = brick_edges(table["BRICKID"][:50])[1]
    table["RA"][:50] = np.where(east < 151, east + 0.003, table["RA"][:50])  # Rows that another brick owns
    table["BRICKNAME"] = brick_names(np.asarray(table["BRICKID"]))
    z = draw.uniform(18, 22, n)
    for band, offset in (("R", draw.uniform(0, 1.8, n)), ("Z", 0.0), ("W1", -draw.uniform(-0.5, 2.2, n))):
        table[f"FLUX_{band}"] = (10 ** (0.4 * (22.5 - z - offset))).astype(np.float32)
    table.write(path, overwrite=True)
    return str(path)


def test_counts_agree_with_the_selections_one_by_one(tmp_path):
    uri = some_sweep(tmp_path / "sweep-150p000-155p005.fits")
    counts = density.count_bricks([uri], SelectionRecipe())
    assert (counts["brickid"].to_numpy()[1:] > counts["brickid"].to_numpy()[:-1]).all()
    for name in (*selection.VARIANTS, "desi_lrg"):
        kept, _ = selection.select_sweep(uri, SelectionRecipe(variant=name))
        ids, number = np.unique(kept["brickid"].to_numpy(), return_counts=True)
        ours = counts[f"n_{name}"].to_numpy()
        assert ours.sum() == kept.num_rows > 0 and dict(zip(ids, number, strict=True)) == {
            b: n for b, n in zip(counts["brickid"].to_numpy(), ours, strict=True) if n
        }
        np.testing.assert_allclose(counts[f"density_{name}"], ours / brick_areas(counts["brickid"].to_numpy()))


def test_pieces_and_their_order_do_not_matter(tmp_path, monkeypatch):
    one = some_sweep(tmp_path / "sweep-150p000-155p005.fits")
    (tmp_path / "b").mkdir()
    two = some_sweep(tmp_path / "b" / "sweep-150p000-155p005.fits", seed=9)
    whole = density.count_bricks([one, two], SelectionRecipe())
    small = selection.table_chunks
    monkeypatch.setattr(selection, "table_chunks", lambda uri, columns: small(uri, columns, chunk_bytes=20_000))
    assert density.count_bricks([two, one], SelectionRecipe()).equals(whole)


def patch_of_sky(seed):
    "Counts of a random patch, with a hole"
    draw = np.random.default_rng(seed)
    ra, dec = np.meshgrid(np.arange(358.0, 362.0, 0.2), np.arange(-1.0, 2.0, 0.2))
    ids = np.unique(brick_ids(ra.ravel(), dec.ravel()))
    ids = ids[draw.random(len(ids)) < 0.95]
    return density.counts_table({int(b): draw.poisson(30, len(COUNTS)) for b in ids})


@pytest.mark.parametrize("rank", density.RANKS)
@pytest.mark.parametrize("seed", [1, 2])
def test_regions_are_contiguous_maximal_dense_and_ranked(rank, seed):
    counts, recipe = patch_of_sky(seed), RegionRecipe(rank_by=rank, dense_share=0.25, min_bricks=2, top=100)
    region, table = density.regions(counts, recipe)
    ids, number, area = (counts[name].to_numpy() for name in ("brickid", "n_v3_color_relaxed", "area"))
    dense = number / area >= np.quantile(number / area, 0.75)
    assert not region[~dense].max(initial=-1) >= 0 and table.num_rows > 2
    for k in range(table.num_rows):
        members = set(ids[region == k].tolist())
        reached, frontier = set(), [min(members)]
        while frontier:
            reached.add(frontier[0])
            frontier = frontier[1:] + [
                b for b in brick_neighbours(frontier[0]).tolist() if b in members and b not in reached and b not in frontier
            ]
        border = {b for one in members for b in brick_neighbours(one).tolist()} - members
        assert reached == members and not border & set(ids[dense].tolist())
        row = {name: table[name][k].as_py() for name in table.column_names}
        n, size = number[region == k].sum(), area[region == k].sum()
        score = {"density": n / size, "total": n, "density_sqrt_area": n / size * size**0.5}[rank]
        assert row["n_galaxies"] == n and row["n_bricks"] == len(members) and row["score"] == pytest.approx(score)
    assert (np.diff(table["score"].to_numpy()) <= 0).all()


def test_a_region_may_lie_across_right_ascension_zero():
    ids = brick_ids([359.9, 0.1, 180.0], [0.0, 0.0, 0.0])
    assert density.touching(ids).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "change", [{"variant": "v9"}, {"rank_by": "size"}, {"dense_share": 0.0}, {"dense_share": 1.5}, {"top": 0}, {"min_bricks": 0}]
)
def test_region_recipes_that_mean_nothing_are_refused(change):
    with pytest.raises(BadInput):
        RegionRecipe(**change)


def test_no_bricks_is_an_error():
    with pytest.raises(BadInput, match="no bricks"):
        density.regions(density.counts_table({}), RegionRecipe())


def test_published_regions_are_bricks_of_ours_that_touch(real_data):
    with open(real_data / "dr10_rows" / "region_bricks.csv") as file:
        rows = list(csv.DictReader(file))
    ids = ids_of_names([row["brickname"] for row in rows])
    np.testing.assert_allclose(brick_areas(ids), [float(row["area_deg2"]) for row in rows], rtol=1e-5)
    ra, dec = brick_centres(ids)
    np.testing.assert_allclose(dec, [float(row["dec"]) for row in rows], atol=1e-9)
    np.testing.assert_allclose(ra, [float(row["ra"]) for row in rows], atol=1e-9)
    region = np.array([int(row["region_id"]) for row in rows])
    apart = [int(k) for k in np.unique(region) if density.touching(ids[region == k]).max() > 0]
    # Of 2,693 published regions these seven join bricks whose corners miss each other by a few hundredths of a degree.
    assert len(np.unique(region)) == 2693 and apart == [132, 141, 212, 1725, 2449, 2480, 2682]


def test_published_counts_are_read_to_the_last_brick(real_data):
    with gzip.open(real_data / "dr10_rows" / "lrg_counts_per_brick.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    names, number = [row["brickname"] for row in rows], np.array([int(row["lrg_count"]) for row in rows])
    ids = ids_of_names(names)
    assert len(rows) == 319_078 == len(np.unique(ids))
    table = density.counts_table({int(b): np.full(len(COUNTS), n, np.int64) for b, n in zip(ids, number, strict=True)})
    assert isinstance(table, pa.Table) and table["n_v2_baseline_dr10"].to_numpy().sum() == number.sum()
