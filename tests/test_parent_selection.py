"Selections against published flags, desitarget's rows, and rows on either side of every threshold"

import csv
import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.magnitudes import flux_of
from dark_halo_scope.base.sphere import near_any
from dark_halo_scope.parent import selection
from dark_halo_scope.parent.selection import FLAGS, VARIANTS, SelectionRecipe
from dark_halo_scope.survey.sweeps import read_fits_columns

RAW = SelectionRecipe(dereddened=False, exclude_psf=False)
LIMITS = [(name, field) for name in VARIANTS for field in ("z_max", "rz_min", "zw1_min")]


def rows_of(z, rz, zw1):
    "A catalogue from magnitudes and colours"
    z, rz, zw1 = np.broadcast_arrays(*(np.atleast_1d(np.asarray(a, float)) for a in (z, rz, zw1)))
    return {"flux_z": flux_of(z), "flux_r": flux_of(z + rz), "flux_w1": flux_of(z - zw1), "type": np.full(z.shape, "DEV")}


def on_either_side(name, field):
    "Two rows well inside every cut but one, on either side of that one: the first passes, the second does not"
    cut = VARIANTS[name]
    values = {"z_max": cut.z_max - 1.0, "rz_min": cut.rz_min + 1.0, "zw1_min": cut.zw1_min + 1.0}
    step = -0.004 if field == "z_max" else 0.004
    edge = getattr(cut, field)
    pair = {key: np.array([value, value]) for key, value in values.items()} | {field: np.array([edge + step, edge - step])}
    return rows_of(pair["z_max"], pair["rz_min"], pair["zw1_min"])


def thresholds_hold():
    "Whether every selection takes the first and leaves the second row of each pair; the pairs are made from the thresholds as published"
    return all(
        selection.colour_flags(PAIRS[name, field], RAW)[FLAGS[name]].tolist() == [True, False] for name, field in LIMITS
    )  # fmt: skip


PAIRS = {(name, field): on_either_side(name, field) for name, field in LIMITS}


def test_the_thresholds_are_the_published_ones():
    published = {
        "v1_pure_massive": (20.0, 0.5, 1.6), "v2_baseline_dr10": (20.4, 0.4, 1.6), "v3_color_relaxed": (20.4, 0.4, 0.8),
        "v4_mag_relaxed": (21.0, 0.4, 0.8), "v5_very_relaxed": (21.5, 0.3, 0.8),
    }  # fmt: skip
    assert {name: dataclasses.astuple(cut) for name, cut in VARIANTS.items()} == published
    assert thresholds_hold()


@pytest.mark.parametrize("name, field", LIMITS)
@pytest.mark.parametrize("shift", [-0.01, 0.01])
def test_moving_a_threshold_by_a_hundredth_is_noticed(name, field, shift, monkeypatch):
    moved = dataclasses.replace(VARIANTS[name], **{field: getattr(VARIANTS[name], field) + shift})
    monkeypatch.setitem(VARIANTS, name, moved)
    assert not thresholds_hold()


def published_rows(real_data):
    "The published catalogue as arrays"
    with open(real_data / "dr10_rows" / "lrg_rows.csv") as file:
        rows = list(csv.DictReader(file))
    table = {name: np.array([float(row[name.upper()]) for row in rows]) for name in ("flux_r", "flux_z", "flux_w1")}
    table["type"] = np.array([row["TYPE"] for row in rows])
    flags = {f"is_v{i}": np.array([row[f"is_lrg_v{i}"] == "True" for row in rows]) for i in range(1, 6)}
    return table, flags


def test_published_flags_are_reproduced_when_the_type_is_ignored(real_data):
    table, flags = published_rows(real_data)
    ours = selection.colour_flags(table, RAW)
    assert sum((ours[name] == flags[name]).sum() for name in flags) == 7545 == 5 * len(table["type"])


def test_the_stars_among_the_published_rows_are_named(real_data):
    table, flags = published_rows(real_data)
    ours = selection.colour_flags(table, dataclasses.replace(RAW, exclude_psf=True))
    disagree = np.logical_or.reduce([ours[name] != flags[name] for name in flags])
    assert disagree.sum() == 183 and set(table["type"][disagree]) == {"PSF"} and (table["type"] == "PSF").sum() == 183


def desitarget_rows(real_data):
    "Real sweep and Tractor rows of six files"
    folder = real_data / "catalogues" / "desitarget_rows"
    columns = ["brickid", "objid", "ra", "dec", "type", *selection.DESI_COLUMNS]
    return pa.concat_tables([read_fits_columns(str(path), columns) for path in sorted(folder.glob("[st][wr]*.fits"))])


@pytest.mark.parametrize("dereddened", [True, False])
def test_the_rows_that_desitarget_ships(real_data, dereddened):
    table = desitarget_rows(real_data)
    assert table.num_rows == 36
    identity = list(zip(table["brickid"].to_pylist(), table["objid"].to_pylist(), strict=True))
    lrg = selection.desi_lrg(table)
    v3 = selection.colour_flags(table, SelectionRecipe(dereddened=dereddened))["is_v3"]
    assert {identity[k] for k in np.flatnonzero(lrg)} == {(321640, 99), (331689, 21), (331689, 32)}
    assert {identity[k] for k in np.flatnonzero(v3 & ~lrg)} == {(327368, 0)} and v3.sum() == 4 and (lrg & v3).sum() == 3


def test_desi_colours_on_either_side_of_every_line():
    "One row of an LRG, and one per line that is moved just across it and no other; the lines are those of Zhou et al. 2023, section 2"
    lrg = {"g": 23.9, "r": 21.4, "z": 20.0, "w1": 18.6, "f": 21.0}  # r-z 1.4, z-W1 1.4, r-W1 2.8, W1-17.14 = 1.46
    passes = lambda **change: bool(selection.desi_lrg_colours(*(np.array([(lrg | change)[key]]) for key in ("g", "r", "z", "w1", "f")))[0])
    assert passes()
    assert passes(f=21.595) and not passes(f=21.605)
    # z - W1 > 0.8 (r - z) - 0.6, by z alone: z (1 + 0.8) > 0.8 r + W1 - 0.6
    edge = (0.8 * 21.4 + 18.6 - 0.6) / 1.8
    assert passes(z=edge + 0.004) and not passes(z=edge - 0.004)
    # Near galaxies: g - W1 > 2.9 or r - W1 > 1.8, at W1 = 17.5 so that the sliding cut leaves room
    near = {"w1": 17.5, "z": 18.6, "f": 19.5}
    assert passes(**near, r=19.31, g=20.0) and not passes(**near, r=19.29, g=20.39) and passes(**near, r=19.29, g=20.41)
    assert passes(**near, r=19.29, g=np.nan)  # A g flux that is not positive counts as red
    # r - W1 > 1.8 (W1 - 17.14) and r - W1 > W1 - 16.33, or r - W1 > 3.3
    faint = {"w1": 18.8, "z": 20.2, "g": 25.0}  # 1.8 x 1.66 = 2.988, W1 - 16.33 = 2.47
    assert passes(**faint, r=18.8 + 2.99) and not passes(**faint, r=18.8 + 2.985)
    bright = {"w1": 17.3, "z": 18.2, "g": 22.0, "f": 19.0}  # 1.8 x .16 = .288, W1 - 16.33 = .97, but r - W1 > 1.8 or g - W1 > 2.9
    assert passes(**bright, r=17.3 + 0.975) and not passes(**bright, r=17.3 + 0.965)
    fainter = {"w1": 19.4, "z": 20.9, "g": 26.0}  # 1.8 x 2.26 = 4.07: only r - W1 > 3.3 lets it in
    assert passes(**fainter, r=19.4 + 3.305) and not passes(**fainter, r=19.4 + 3.295)


def good_lrg(n=1):
    "A catalogue that passes DESI's cut, as arrays that tests may spoil"
    magnitudes = {"g": 23.9, "r": 21.4, "z": 20.0, "w1": 18.6}
    table = {f"flux_{band}": np.full(n, float(flux_of(m)), np.float32) for band, m in magnitudes.items()}
    table |= {name: np.ones(n, np.float32) for name in selection.DESI_COLUMNS if name.startswith(("flux_ivar", "mw_"))}
    table |= {name: np.full(n, float(flux_of(21.0)), np.float32) for name in ("fiberflux_z", "fibertotflux_z")}
    table |= {name: np.ones(n, np.int16) for name in ("nobs_g", "nobs_r", "nobs_z")}
    table |= {"gaia_phot_g_mean_mag": np.zeros(n, np.float32), "maskbits": np.zeros(n, np.int32)}
    table |= {"ra": np.full(n, 150.1), "dec": np.full(n, 2.2), "brickid": np.full(n, 343_928, np.int32), "type": np.full(n, "DEV")}
    return table


@pytest.mark.parametrize(
    "spoil",
    [
        {"flux_ivar_r": 0}, {"flux_ivar_z": 0}, {"flux_ivar_w1": 0}, {"flux_r": -1}, {"flux_z": 0}, {"flux_w1": -2}, {"fiberflux_z": 0},
        {"nobs_g": 0}, {"nobs_r": 0}, {"nobs_z": 0}, {"gaia_phot_g_mean_mag": 17.9}, {"fibertotflux_z": 100.5},
        {"maskbits": 2}, {"maskbits": 4096}, {"maskbits": 8192}, {"flux_r": np.nan},
    ],
)  # fmt: skip
def test_each_quality_condition_of_desi_counts(spoil):
    table = good_lrg()
    assert selection.desi_lrg(table).all()
    assert not selection.desi_lrg(table | {name: np.array([value]).astype(table[name].dtype) for name, value in spoil.items()}).any()


@pytest.mark.parametrize(
    "harmless", [{"gaia_phot_g_mean_mag": 18.1}, {"maskbits": 1 + 2048}, {"flux_g": -1.0}, {"fibertotflux_z": 99.5}, {"type": "PSF"}]
)
def test_what_desi_lets_through(harmless):
    table = good_lrg()
    assert selection.desi_lrg(table | {name: np.array([value]) for name, value in harmless.items()}).all()


def test_dust_changes_the_answer_when_the_recipe_says_so():
    table = rows_of(20.45, 1.0, 1.2) | {f"mw_transmission_{band}": np.array([t]) for band, t in (("r", 0.85), ("z", 0.91), ("w1", 0.985))}
    seen, corrected = (selection.colour_flags(table, SelectionRecipe(dereddened=d))["is_v3"][0] for d in (False, True))
    assert not seen and corrected


def test_a_flux_that_is_not_positive_or_not_a_number_never_passes():
    for name in ("flux_r", "flux_z", "flux_w1"):
        for value in (0.0, -1.0, np.nan, np.inf):
            table = rows_of(18.0, 1.0, 2.0)
            table[name] = np.full_like(table[name], value)
            assert not any(flag.any() for flag in selection.colour_flags(table, RAW).values()), (name, value)


def random_table(n, seed=3):
    "A catalogue with everything in it"
    draw = np.random.default_rng(seed)
    table = good_lrg(n) | rows_of(draw.uniform(18, 22, n), draw.uniform(0, 1.8, n), draw.uniform(-0.5, 2.2, n))
    table |= {"ra": draw.uniform(149.9, 150.3, n), "dec": draw.uniform(2.1, 2.4, n), "type": draw.choice(["DEV", "PSF", "SER", "REX"], n)}
    table |= {"maskbits": draw.choice([0, 0, 0, 2, 2048, 4096], n).astype(np.int32), "nobs_r": draw.choice([0, 1, 2], n).astype(np.int16)}
    return pa.table(table)


@pytest.mark.parametrize("variant", selection.SELECTIONS)
def test_selection_and_attrition_agree_with_a_row_by_row_reading(variant):
    table, recipe = random_table(3000), SelectionRecipe(variant=variant)
    known = (np.array([150.1]), np.array([2.2]))
    kept, counts = selection.select(table, recipe, known)
    expected = 0
    for row in table.to_pylist():
        z, r, w1 = (22.5 - 2.5 * np.log10(row[f"flux_{b}"]) for b in ("z", "r", "w1"))
        owned = bool(selection.is_brick_primary(np.array([row["brickid"]]), np.array([row["ra"]]), np.array([row["dec"]]))[0])
        far = np.hypot((row["ra"] - 150.1) * np.cos(np.deg2rad(2.2)), row["dec"] - 2.2) * 3600 > 12
        good = owned and min(row["nobs_g"], row["nobs_r"], row["nobs_z"]) >= 1 and not row["maskbits"] & (2 + 4096 + 8192) and far
        if variant == "desi_lrg":
            passed = bool(selection.desi_lrg({name: np.array([value]) for name, value in row.items()})[0])
        elif variant == "bright_z20":
            passed = row["type"] != "PSF" and z < 20
        else:
            cut = VARIANTS[variant]
            passed = row["type"] != "PSF" and z < cut.z_max and r - z > cut.rz_min and z - w1 > cut.zw1_min
        expected += good and passed
    before, after = counts["before"].to_pylist(), counts["kept"].to_pylist()
    assert kept.num_rows == expected == after[-1] > 0
    assert before[0] == 3000 and before[1:] == after[:-1]


def test_near_a_known_lens_agrees_with_astropy():
    from astropy import units as u
    from astropy.coordinates import SkyCoord, match_coordinates_sky

    draw = np.random.default_rng(8)
    for dec0 in (0.0, 60.0, -89.99):
        ra, dec = draw.uniform(0, 0.2, 3000) % 360 - 0.1, np.clip(draw.uniform(-0.1, 0.1, 3000) + dec0, -90, 90)
        other = slice(0, 300)
        other_ra, other_dec = ra[other] + 2e-3 * draw.normal(size=300), np.clip(dec[other] + 2e-3 * draw.normal(size=300), -90, 90)
        _, separation, _ = match_coordinates_sky(SkyCoord(ra * u.deg, dec * u.deg), SkyCoord(other_ra * u.deg, other_dec * u.deg))
        ours = near_any(ra, dec, other_ra, other_dec, 12.0)
        assert (ours == (separation.arcsec <= 12.0)).all() and 0 < ours.sum() < 3000


def test_no_known_lens_means_none_is_near():
    assert not near_any(np.array([1.0]), np.array([1.0]), np.array([]), np.array([]), 12.0).any()


@pytest.mark.parametrize(
    "change", [{"variant": "v6"}, {"mask_names": ("MEDIUN",)}, {"bands": ("g", "y")}, {"min_nobs": -1}, {"known_lens_arcsec": -2.0}]
)
def test_recipes_that_mean_nothing_are_refused(change):
    with pytest.raises(BadInput):
        SelectionRecipe(**change)


@pytest.mark.parametrize("name", ["flux_w1", "type", "brickid", "nobs_g", "fiberflux_z", "mw_transmission_r"])
def test_a_missing_column_is_named(name):
    with pytest.raises(BadInput, match=f"'{name}'"):
        selection.select(random_table(10).drop_columns([name]), SelectionRecipe())


def test_positions_that_are_not_numbers_are_refused_not_selected():
    table = random_table(10)
    table = table.set_column(table.schema.get_field_index("ra"), "ra", pa.array([np.nan] * 10))
    with pytest.raises(BadInput, match="positions"):
        selection.select(table, SelectionRecipe())


@pytest.mark.parametrize("variant", ["v1_pure_massive", "v3_color_relaxed", "desi_lrg", "bright_z20"])
def test_the_fate_of_each_position_adds_up_to_the_attrition(variant):
    table, recipe = random_table(2000), SelectionRecipe(variant=variant)
    fate = selection.fates(table, recipe, table["ra"].to_numpy(), table["dec"].to_numpy())
    _, counts = selection.select(table, recipe)
    lost = {name: before - kept for name, before, kept in zip(*(counts[key].to_pylist() for key in ("cut", "before", "kept")), strict=True)}
    assert {name: int((fate == name).sum()) for name in lost} == lost and (fate == "selected").sum() == counts["kept"][-1].as_py()


def test_a_position_without_a_galaxy_is_not_given_its_neighbour_s_fate():
    table = random_table(50)
    ra, dec = table["ra"].to_numpy()[:1], table["dec"].to_numpy()[:1]
    near, far = (selection.fates(table, SelectionRecipe(), ra, dec + offset / 3600)[0] for offset in (1.4, 1.6))
    assert near != "not in the catalogue" == far


@pytest.mark.slow
def test_two_million_rows_a_second_and_a_sweep_in_bounded_memory():
    from dark_halo_scope.bench.select import bench_select

    figures = bench_select(n=2_000_000)
    assert figures["five_selections_rows_per_s"] > 2e6 and figures["desi_lrg_rows_per_s"] > 2e6, figures
    assert figures["kept"] == figures["stream_kept"] and figures["pieces"] > 5
    assert 0 < figures["stream_peak_mb"] < 400, figures
