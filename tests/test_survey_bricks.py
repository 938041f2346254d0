"Brick geometry against desiutil, brick by brick over the whole sky"

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.survey import bricks


@pytest.fixture(scope="module")
def theirs():
    "desiutil's table of all bricks"
    return pytest.importorskip("desiutil.brick").Bricks()


def test_every_brick_of_the_sky(theirs):
    table = theirs.to_table()
    ids = np.arange(1, 662_175)
    assert len(table) == 662_174
    ra, dec = bricks.brick_centres(ids)
    ra1, ra2, dec1, dec2 = bricks.brick_edges(ids)
    assert (np.asarray(table["BRICKID"]) == ids).all()
    assert (np.asarray(table["BRICKNAME"]).astype("U8") == bricks.brick_names(ids)).all()
    for ours, name in ((ra, "RA"), (dec, "DEC"), (ra1, "RA1"), (ra2, "RA2"), (dec1, "DEC1"), (dec2, "DEC2")):
        np.testing.assert_allclose(ours, table[name], atol=1e-9, err_msg=name)
    np.testing.assert_allclose(bricks.brick_areas(ids), table["AREA"], rtol=1e-9)


def test_every_name_leads_back_to_its_brick():
    ids = np.arange(1, 662_175)
    assert (bricks.ids_of_names(bricks.brick_names(ids)) == ids).all()


def test_positions_fall_into_the_bricks_that_desiutil_says(theirs):
    draw = np.random.default_rng(1)
    ra, dec = draw.uniform(0, 360, 200_000), np.rad2deg(np.arcsin(draw.uniform(-1, 1, 200_000)))
    assert (theirs.brickid(ra, dec) == bricks.brick_ids(ra, dec)).all()


@settings(max_examples=200, deadline=None)
@given(st.floats(-720, 720), st.floats(-90, 90))
def test_a_position_lies_within_the_edges_of_its_brick(ra, dec):
    ra1, ra2, dec1, dec2 = bricks.brick_edges(bricks.brick_ids(ra, dec))
    assert ra1 - 1e-9 <= ra % 360 <= ra2 + 1e-9 and dec1 - 1e-9 <= dec <= dec2 + 1e-9


def test_lower_edges_belong_to_a_brick_and_upper_ones_do_not():
    ids = np.arange(2, 662_174, 613)
    ra1, ra2, dec1, dec2 = bricks.brick_edges(ids)
    assert bricks.is_brick_primary(ids, ra1 + 1e-9, dec1 + 1e-9).all()
    assert not bricks.is_brick_primary(ids, ra2 + 1e-9, (dec1 + dec2) / 2).any()
    assert not bricks.is_brick_primary(ids, (ra1 + ra2) / 2, dec2 + 1e-9).any()


def test_neighbours_are_the_bricks_found_by_walking_round_the_edge():
    for brickid in (1, 2, 343_928, 343_927, 662_174, 330_000, 100_000, *bricks.brick_ids(np.zeros(5), np.linspace(-80, 80, 5))):
        ra1, ra2, dec1, dec2 = (float(edge) for edge in bricks.brick_edges(int(brickid)))
        steps, outside = np.linspace(0, 1, 4001), 1e-6
        lon, lat = ra1 - outside + steps * (ra2 - ra1 + 2 * outside), dec1 + steps * (dec2 - dec1)
        walk = [bricks.brick_ids(ra1 - outside + 0 * lat, lat), bricks.brick_ids(ra2 + outside + 0 * lat, lat)]
        walk += [bricks.brick_ids(lon, np.full_like(lon, edge)) for edge in (dec1 - outside, dec2 + outside) if abs(edge) < 90]
        found = set(np.concatenate(walk).tolist()) - {int(brickid)}
        assert set(bricks.brick_neighbours(int(brickid)).tolist()) == found


@pytest.mark.parametrize("ra, dec", [(np.nan, 0), (0, np.nan), (0, 90.1), (np.inf, 0)])
def test_positions_off_the_sky_are_refused(ra, dec):
    with pytest.raises(BadInput, match="expected finite"):
        bricks.brick_ids(ra, dec)


@pytest.mark.parametrize("brickid", [0, 662_175, -1, 1.5])
def test_ids_that_do_not_exist_are_refused(brickid):
    with pytest.raises(BadInput, match="1 to 662174"):
        bricks.brick_names(brickid)


@pytest.mark.parametrize("name", ["9999p999", "abc", "", "1501x022", "0000p900"])
def test_names_that_do_not_exist_are_refused(name):
    with pytest.raises(BadInput, match="unknown brick"):
        bricks.ids_of_names([name])
