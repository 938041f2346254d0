"A mock release is DR10's in form, the known sky's in content, and the same bytes however it is made."

import hashlib
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fitsio
import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from desiutil.brick import Bricks
from scipy import fft, ndimage

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.sky import PIXSCALE
from dark_halo_scope.mock import release as mock_release
from dark_halo_scope.mock import sky as mock_sky
from dark_halo_scope.mock.camera import MockPSF, camera_psf_transform, draw_light, exposures_of, mask_radius
from dark_halo_scope.mock.catalogue import mock_sweep_columns
from dark_halo_scope.mock.files import coadd_bytes, coadd_header, read_columns
from dark_halo_scope.mock.release import make_brick, make_mock, observe_brick
from dark_halo_scope.mock.sky import (
    FILTERS,
    MockLight,
    MockObject,
    MockRecipe,
    brick_objects,
    brick_to_pixels,
    flux_from,
    mock_bricks,
    pixels_to_sky,
    smooth_galaxy,
)
from dark_halo_scope.survey.bricks import brick_ids
from dark_halo_scope.survey.coadds import read_cutouts
from dark_halo_scope.survey.maskbits import any_bit
from dark_halo_scope.survey.photometry import tractor_axis_ratio
from dark_halo_scope.survey.release import Release
from dark_halo_scope.survey.sweeps import read_fits_columns

SMALL = MockRecipe(seed=3, rows=1, columns=2, n_pix=400, lrgs=14, blue=20, spirals=1, rings=1, mergers=1, stars=8, n_lenses=4)
EMPTY = MockRecipe(seed=3, rows=1, columns=1, n_pix=400, lrgs=0, blue=0, spirals=0, rings=0, mergers=0, stars=0, n_lenses=0, uncovered=0.0)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("mock"))
    make_mock(root, SMALL)
    return Release(root)


def hashes(root):
    files = sorted(p for p in Path(root).rglob("*") if p.is_file() and not p.name.endswith(".receipt.json"))
    return {str(p.relative_to(root)): hashlib.blake2b(p.read_bytes()).hexdigest() for p in files}


def at_centre(thing, brick, recipe, x=199.3, y=201.8):
    ra, dec = (float(v) for v in pixels_to_sky(x, y, brick, recipe.n_pix))
    return replace(thing, ra=ra, dec=dec)


def star(r):
    flux = flux_from(r, 0.6, 0.3, -1.0)
    return MockObject("star", flux, (MockLight(None, flux, 128),))


# ---- form ----


@pytest.mark.parametrize("kind", ["image", "invvar", "psfsize", "nexp"])
@pytest.mark.parametrize("band", ["g", "r", "z"])
def test_coadds_have_dr10s_layout_for_two_readers(release, kind, band):
    name = mock_bricks(SMALL)[0].name
    path = release.coadd(name, kind, band)
    with fits.open(path) as opened:
        assert opened[0].data is None and len(opened) == 2
        image, header = opened[1].data, opened[1].header
    other = fitsio.read(path, ext=1)
    assert image.shape == (400, 400) and image.dtype.kind == ("i" if kind == "nexp" else "f") and np.array_equal(image, other)
    centre = WCS(header).all_pix2world([[199.5, 199.5]], 0)[0]
    assert np.allclose(centre, (mock_bricks(SMALL)[0].ra, mock_bricks(SMALL)[0].dec), atol=1e-9)
    assert header["CRPIX1"] == 200.5 and header["CD1_1"] == pytest.approx(-0.262 / 3600) and header["CTYPE1"] == "RA---TAN"
    with fits.open(path, disable_image_compression=True) as raw:
        stored = raw[1].header
    assert (stored["ZTILE1"], stored["ZTILE2"]) == (100, 100) and "DATE" not in stored
    assert stored["ZCMPTYPE"] == {"image": "RICE_1", "invvar": "RICE_1", "psfsize": "GZIP_1", "nexp": "HCOMPRESS_1"}[kind]
    if kind == "image":
        assert stored["ZQUANTIZ"] == "SUBTRACTIVE_DITHER_2" and header["BUNIT"] == "nanomaggy" and header["MAGZERO"] == 22.5
        with fits.open(path, disable_image_compression=True) as raw:
            assert np.allclose(raw[1].data["ZSCALE"], 1e-4)
    if kind == "invvar":
        assert stored.get("ZQUANTIZ", "NO_DITHER") == "NO_DITHER" and header["BUNIT"] == "1/nanomaggy^2"


def test_the_lists_of_checksums_are_where_the_survey_has_them_and_sha256sum_agrees(release):
    "One in each brick's folder, one for the sweeps, one for the table of bricks"
    lists = sorted(Path(release.root).rglob("*.sha256sum"))
    bricks = [f"legacysurvey_dr10_south_coadd_{brick.name[:3]}_{brick.name}.sha256sum" for brick in mock_bricks(SMALL)]
    assert {path.name for path in lists} == {*bricks, "legacysurvey_dr10_south.sha256sum", "legacysurvey_dr10_south_sweep_10.1.sha256sum"}
    named = set()
    for path in lists:
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", path.name], cwd=path.parent, check=True)
        named |= {str(path.parent / line.split("*")[1]) for line in path.read_text().splitlines()}
    coadds = {str(path) for path in Path(release.coadds()).rglob("*.fz")}
    assert named == coadds | set(release.sweeps()) | {release.bricks()}


def test_maskbits_file(release):
    path = release.coadd(mock_bricks(SMALL)[0].name, "maskbits")
    with fits.open(path) as opened:
        assert [h.name for h in opened[1:]] == ["MASKBITS", "WISEM1", "WISEM2"]
        mask, header = opened[1].data, opened[1].header
    assert mask.dtype.kind == "i" and mask.dtype.itemsize == 4 and header["MB_11"] == "MEDIUM" and header["MB_14"] == "SATUR_I"
    assert np.array_equal(mask, fitsio.read(path, ext="MASKBITS"))


def test_sweeps_and_tractor(release):
    bricks = mock_bricks(SMALL)
    tractors = [fitsio.read(release.tractor(b.name), ext=1) for b in bricks]
    sweeps = [fitsio.read(path, ext=1) for path in release.sweeps()]
    assert sum(len(s) for s in sweeps) == sum(t["brick_primary"].sum() for t in tractors) > 40
    for sweep in sweeps:
        assert (
            all(n == n.upper() for n in sweep.dtype.names) and "BRICK_PRIMARY" not in sweep.dtype.names and "KIND" not in sweep.dtype.names
        )
        assert (
            sweep["MASKBITS"].dtype == np.dtype(">i4") and sweep["TYPE"].dtype.itemsize in (3, 12) and sweep["RA"].dtype == np.dtype(">f8")
        )
        assert sweep["BRICKID"].dtype == np.dtype(">i4") and sweep["RELEASE"].dtype == np.dtype(">i2") and sweep["DCHISQ"].shape[1] == 5
        for band in "GRIZ":
            for column in ("FLUX", "FLUX_IVAR", "PSFSIZE", "PSFDEPTH", "GALDEPTH", "MW_TRANSMISSION", "NOBS", "FIBERFLUX", "FIBERTOTFLUX"):
                assert np.isfinite(sweep[f"{column}_{band}"]).all()
        assert (sweep["FLUX_I"] == 0).all() and (sweep["NOBS_I"] == 0).all() and (sweep["NOBS_R"] >= 0).all()
    assert all(n == n.lower() for n in tractors[0].dtype.names) and "brick_primary" in tractors[0].dtype.names
    rows = fits.getdata(release.bricks(), 1)
    assert set(rows["brickname"]) == {b.name for b in bricks} and 22 < np.median(rows["psfdepth_r"]) < 26
    whole, theirs = fits.getdata(release.all_bricks(), 1), Bricks().to_table()
    for name in ("BRICKNAME", "BRICKID", "BRICKQ", "BRICKROW", "BRICKCOL", "RA", "DEC", "RA1", "RA2", "DEC1", "DEC2"):
        ours, reference = np.asarray(whole[name]), np.asarray(theirs[name][whole["BRICKID"] - 1])
        assert np.allclose(ours, reference, rtol=0, atol=1e-9) if ours.dtype.kind in "if" else (ours == reference).all(), name


def test_every_sweep_row_lies_in_its_sweep_and_brick(release):
    for path in release.sweeps():
        sweep = fitsio.read(path, ext=1)
        low = float(Path(path).name[6:9])
        assert ((sweep["RA"] >= low) & (sweep["RA"] < low + 5)).all()
        assert np.mean(Bricks().brickid(sweep["RA"], sweep["DEC"]) == sweep["BRICKID"]) > 0.99


def test_pixel_grid_agrees_with_astropy(release):
    brick = mock_bricks(SMALL)[1]
    wcs = WCS(fits.getheader(release.coadd(brick.name, "image", "r"), 1))
    x, y = np.array([0.0, 399, 17.3, 250.1]), np.array([399.0, 0, 222.2, 31.5])
    ra, dec = pixels_to_sky(x, y, brick, 400)
    assert np.allclose(wcs.all_pix2world(x, y, 0), (ra, dec), atol=1e-10, rtol=0)
    assert np.allclose(brick_to_pixels(ra, dec, brick, 400), (x, y), atol=1e-6)


# ---- content ----


def test_noise_is_what_the_inverse_variance_says_over_many_pixels_and_less_in_one():
    brick = mock_bricks(EMPTY)[0]
    pulls, singles, neighbours = [], [], []
    for seed in range(3):
        recipe = replace(EMPTY, seed=seed)
        for stack in observe_brick(brick, [], recipe)[0].values():
            ok = stack.invvar > 0
            pull = np.where(ok, stack.image * np.sqrt(stack.invvar), 0)
            blocks = pull.reshape(20, 20, 20, 20).sum((1, 3)) / np.sqrt(np.maximum(ok.reshape(20, 20, 20, 20).sum((1, 3)), 1))
            pulls.append(blocks.std())
            singles.append(pull[ok].std())
            neighbours.append(np.mean(pull[:, 1:] * pull[:, :-1]) / pull.var())
    assert np.mean(pulls) == pytest.approx(1, abs=0.04)
    assert 0.6 < np.mean(singles) < 0.97 and np.mean(neighbours) > 0.02


def test_noise_and_depth_are_the_surveys():
    sigma = {b: [] for b in "grz"}
    size = {b: [] for b in "grz"}
    for brick in mock_bricks(MockRecipe()):
        for band in "grz":
            exposures = exposures_of(brick.brickid, band, MockRecipe())
            weight = np.array([e.sigma**-2.0 for e in exposures])
            sigma[band].append(weight.sum() ** -0.5)
            size[band].append(np.sqrt(weight.sum() / np.sum(weight / np.array([e.psf.psfsize for e in exposures]) ** 2)))
    for band, median_sigma, median_size in (("g", 0.0031, 1.48), ("r", 0.0044, 1.33), ("z", 0.0117, 1.24)):
        assert np.median(sigma[band]) == pytest.approx(median_sigma, rel=0.1) and np.std(sigma[band]) > 0.03 * median_sigma
        assert np.median(size[band]) == pytest.approx(median_size, rel=0.04) and np.std(size[band]) > 0.02 * median_size


def test_psfsize_and_flux_measured_back_from_a_star():
    for seed in range(4):
        recipe = replace(EMPTY, seed=seed)
        brick = mock_bricks(recipe)[0]
        thing = at_centre(star(17.6), brick, recipe)
        stacks, _, tractor = observe_brick(brick, [thing], recipe)
        for band, stack in stacks.items():
            box = stack.image[202 - 32 : 202 + 32, 199 - 32 : 199 + 32].astype(float)
            total = thing.flux[FILTERS.index(band)] * tractor[f"mw_transmission_{band}"][0]
            assert tractor[f"flux_{band}"][0] == pytest.approx(total, abs=float(5 / np.sqrt(tractor[f"flux_ivar_{band}"][0])))
            noise = np.sum(np.where(stack.invvar > 0, 1 / np.maximum(stack.invvar, 1), 0)[170:234, 167:231])
            assert box.sum() == pytest.approx(total, abs=0.008 * total + 4 * np.sqrt(noise))
            nea = PIXSCALE**2 * total**2 / (np.sum(box**2) - noise)
            measured = np.sqrt(nea / (4 * np.pi)) * 2.35482
            assert measured == pytest.approx(tractor[f"psfsize_{band}"][0], rel=0.02)
            y, x = np.indices(box.shape) - 32
            core = (np.hypot(x, y) < 10) * box
            assert np.allclose((np.sum(core * x) / core.sum(), np.sum(core * y) / core.sum()), (0.3, -0.2), atol=0.05)


def test_galaxy_light_agrees_with_lenstronomy():
    from lenstronomy.LightModel.light_model import LightModel
    from lenstronomy.Util.param_util import phi_q2_ellipticity

    x, y = mock_sky.fine_grid(128)
    blur = camera_psf_transform(MockPSF(1.3, 3.0, 0.02, 0.0, 0.0), 128)
    e1, e2 = phi_q2_ellipticity(0.6, 0.7)
    along, across = x * np.cos(0.6) + y * np.sin(0.6), y * np.cos(0.6) - x * np.sin(0.6)
    radius = np.hypot(along * np.sqrt(0.7), across / np.sqrt(0.7)) / 1.1
    taper = np.where(radius < 6, 1.0, np.where(radius < 8, 0.5 + 0.5 * np.cos(np.pi * (radius - 6) / 2), 0.0))
    step = (np.arange(4) - 1.5) / 4 * PIXSCALE / mock_sky.FINER
    for n in (1.0, 4.0):
        one = [{"amp": 1.0, "R_sersic": 1.1, "n_sersic": n, "e1": e1, "e2": e2, "center_x": 0.0, "center_y": 0.0}]
        model = LightModel(["SERSIC_ELLIPSE"])
        drawn = sum(model.surface_brightness((x + dx).ravel(), (y + dy).ravel(), one) for dx in step for dy in step).reshape(x.shape)
        theirs = fft.irfft2(blur * mock_sky.fine_transform(drawn * taper))
        ours = fft.irfft2(blur * mock_sky.sersic_transform(128, 1.1, n, 0.7, 0.6))
        assert np.abs(ours - theirs).max() < 0.008 * ours.max()  # lenstronomy's b_n is approximate: half a per cent at n = 1
        turned = fft.irfft2(blur * mock_sky.sersic_transform(128, 1.1, n, 0.7, 0.6 + np.pi / 2))
        assert np.abs(turned - theirs).max() > 0.05 * ours.max()


def test_half_of_a_galaxys_light_lies_within_its_half_light_radius():
    for n in (1.0, 4.0):
        image = fft.fftshift(fft.irfft2(mock_sky.sersic_transform(512, 6.0, n, 1.0, 0.0)))
        y, x = np.indices(image.shape) - 256
        inside = image[np.hypot(x, y) * PIXSCALE < 6.0].sum()
        assert inside == pytest.approx({1.0: 0.5, 4.0: 0.54}[n], abs=0.015)  # the taper takes 7 % of an n = 4 galaxy's light, all outside


def test_catalogue_fluxes_scatter_by_their_own_errors(release):
    truth = pq.read_table(f"{release.root}/truth/objects.parquet").to_pandas().set_index(["brickid", "objid"])
    for band in "grz":
        pulls = []
        for path in release.sweeps():
            s = read_columns(Path(path).read_bytes())
            true = truth.loc[list(zip(s["BRICKID"].tolist(), s["OBJID"].tolist()))][f"true_flux_{band}"].to_numpy()
            ok = s[f"FLUX_IVAR_{band.upper()}"] > 0
            error = s[f"FLUX_{band.upper()}"] - true * s[f"MW_TRANSMISSION_{band.upper()}"]
            pulls.append((error * np.sqrt(s[f"FLUX_IVAR_{band.upper()}"]))[ok])
        assert np.std(np.concatenate(pulls)) == pytest.approx(1, abs=0.25)


def test_bright_star_is_saturated_masked_and_forces_types():
    recipe = EMPTY
    brick = mock_bricks(recipe)[0]
    thing, red = at_centre(star(12.6), brick, recipe), smooth_galaxy("lrg", flux_from(19, 1.6, 1.0, 1.0), 1.0, 4.0, 0.8, 0.3, 0.5)
    beside = at_centre(red, brick, recipe, 199.3 + 30)
    stacks, mask, tractor = observe_brick(brick, [thing, beside], recipe)
    data = coadd_bytes([stacks["r"].invvar], coadd_header(brick, 400, "invvar", "r"))
    assert fits.getdata(io.BytesIO(data), 1)[202, 199] == 0 and np.isfinite(stacks["r"].image).all()
    assert any_bit(mask[202, 199], ["SATUR_R"]) and any_bit(mask[202, 199], ["ALLMASK_R"]) and any_bit(mask[202, 199], ["BRIGHT"])
    medium, bright = any_bit(mask, ["MEDIUM"]), any_bit(mask, ["BRIGHT"])
    radius = mask_radius(12.5) / PIXSCALE
    assert np.sqrt(medium.sum() / np.pi) == pytest.approx(radius, rel=0.02) and medium.sum() == pytest.approx(4 * bright.sum(), rel=0.03)
    assert tractor["type"].tolist() == [b"PSF", b"PSF"] and tractor["maskbits"][1] != 0
    assert (fits.getdata(io.BytesIO(coadd_bytes([mask], coadd_header(brick, 400, "maskbits"), 1, ["MASKBITS"])), 1) == mask).all()


def test_uncovered_corner_has_no_data():
    recipe = replace(EMPTY, uncovered=1.0)
    stacks, _, _ = observe_brick(mock_bricks(recipe)[0], [], recipe)
    holes = {b: (s.nexp == 0) & (s.image == 0) for b, s in stacks.items()}
    missed = [b for b, hole in holes.items() if hole.mean() > 0.001]
    assert len(missed) == 1
    hole = ndimage.binary_erosion(holes[missed[0]])
    stack = stacks[missed[0]]
    assert (stack.invvar[hole] == 0).all() and (stack.psfsize[hole] == 0).all() and not stack.allmask[hole].any()


# ---- truth ----


def test_planted_lenses_are_hosts_and_known(release):
    lenses = pq.read_table(f"{release.root}/truth/planted_lenses.parquet").to_pandas()
    objects = pq.read_table(f"{release.root}/truth/objects.parquet").to_pandas()
    known = np.genfromtxt(f"{release.root}/truth/known_lenses.csv", delimiter=",", names=True, dtype=None, encoding="utf8")
    assert (
        len(lenses) == 4 == (objects.kind == "lens").sum()
        and set(known["name"]) == set(lenses.name)
        and known.dtype.names == ("name", "ra", "dec")
    )
    sweep = np.concatenate([fitsio.read(path, ext=1) for path in release.sweeps()])
    for lens in lenses.itertuples():
        row = sweep[(sweep["BRICKID"] == lens.brickid) & (sweep["OBJID"] == lens.objid)][0]
        assert np.hypot((row["RA"] - lens.ra) * np.cos(np.deg2rad(lens.dec)), row["DEC"] - lens.dec) * 3600 < 0.2
        r, z, w1 = (22.5 - 2.5 * np.log10(row[f"FLUX_{b}"] / row[f"MW_TRANSMISSION_{b}"]) for b in ("R", "Z", "W1"))
        assert z < 20.4 and r - z > 0.4 and z - w1 > 0.8
        assert lens.n_images >= 2 and lens.magnification > 1.5 and 0.7 <= lens.theta_E <= 5 and lens.z_s > lens.z_l
    assert not any("truth" in str(p) for p in Path(release.path()).rglob("*"))


def test_arc_flux_in_the_pixels_is_the_flux_in_the_truth():
    recipe = replace(EMPTY, n_lenses=3)
    brick = mock_bricks(recipe)[0]
    for thing in brick_objects(brick, recipe):
        if thing.kind != "lens":
            continue
        contrast = thing.lens["arc_mag_r"] - thing.mag["r"]
        assert 1.49 < contrast < 3.51 or thing.lens["arc_mag_r"] == pytest.approx(22.2, abs=0.01)
        centred = at_centre(thing, brick, recipe)
        psf = MockPSF(1.2, 3.0, 0.01, 0.0, 0.0)
        arcs = draw_light([(replace(centred, lights=centred.lights[1:]), 199.3, 201.8)], "r", psf, 400, 1.0)
        assert 22.5 - 2.5 * np.log10(arcs.sum()) == pytest.approx(thing.lens["arc_mag_r"], abs=0.01)
        y, x = np.indices(arcs.shape)
        distance = np.hypot(x - 199.3, y - 201.8) * PIXSCALE
        assert np.sum(arcs * distance) / arcs.sum() == pytest.approx(thing.lens["theta_E"], rel=0.5)


def test_lens_law_is_wider_than_a_painters():
    draws = [mock_sky.draw_mass(mock_sky.rng("test", i), MockRecipe()) for i in range(300)]
    slope, theta = np.array([d["gamma"] for d in draws]), np.array([d["theta_E"] for d in draws])
    assert slope.std() == pytest.approx(0.15, abs=0.03) and slope.mean() == pytest.approx(2, abs=0.03)
    assert theta.min() > 0.7 and theta.max() < 5 and (theta > 3).mean() > 0.15


def test_impostors_enter_the_parent_sample():
    for maker in (mock_sky.draw_ring, mock_sky.draw_spiral, mock_sky.draw_merger):
        mags = [maker(mock_sky.rng("test", i)).mag for i in range(24)]
        passed = [m["z"] < 20.4 and m["r"] - m["z"] > 0.4 and m["z"] - m["w1"] > 0.8 for m in mags]
        assert 0.3 < np.mean(passed) < 0.9


# ---- same answer however it is run ----


def test_order_and_workers_change_no_byte(release, tmp_path):
    make_mock(tmp_path / "two", SMALL, workers=2)
    assert hashes(tmp_path / "two") == hashes(release.root)
    for brick in reversed(mock_bricks(SMALL)):
        make_brick(brick, SMALL, str(tmp_path / "back"))
    assert {k: v for k, v in hashes(release.root).items() if "coadd" in k or "tractor" in k} == hashes(tmp_path / "back")


def test_second_call_does_nothing_and_an_unfinished_brick_is_made_again(tmp_path, monkeypatch):
    recipe = replace(SMALL, columns=1, bands=("r",), n_pix=300, n_lenses=1)
    receipt = make_mock(tmp_path, recipe)
    before = hashes(tmp_path)
    monkeypatch.setattr(mock_release, "observe_brick", lambda *a: pytest.fail("observed again"))
    assert make_mock(tmp_path, recipe) == receipt
    release = Release(str(tmp_path))
    Path(release.bricks()).unlink()
    assert make_mock(tmp_path, recipe).identity == receipt.identity  # the bricks were kept, the rest was made again
    monkeypatch.undo()
    Path(release.tractor(mock_bricks(recipe)[0].name)).unlink()
    Path(release.bricks()).unlink()
    assert make_mock(tmp_path, recipe).identity == receipt.identity and hashes(tmp_path) == before
    other = make_mock(tmp_path, replace(recipe, seed=4))
    assert (
        other.identity["recipe"] != receipt.identity["recipe"] and hashes(tmp_path).keys() == before.keys() and hashes(tmp_path) != before
    )


def test_no_lenses_no_rows_same_columns(tmp_path, release):
    make_mock(tmp_path, replace(EMPTY, n_pix=200, bands=("r",), stars=3.0))
    ours, theirs = (pq.read_table(f"{root}/truth/planted_lenses.parquet") for root in (tmp_path, release.root))
    assert len(ours) == 0 and ours.schema.names == theirs.schema.names and ours.schema.types == theirs.schema.types
    assert (tmp_path / "truth/known_lenses.csv").read_text() == "name,ra,dec\n"


def test_import_leaves_painter_and_torch_out():
    code = "import sys, dark_halo_scope.mock.release; print([m for m in sys.modules if m.split('.')[0] in ('lenstronomy', 'torch') or 'halo_scope.lensing' in m])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "wrong", [{"bands": ("g", "y")}, {"n_pix": 902}, {"n_pix": 100}, {"margin": 500}, {"rows": 0}, {"lrgs": -1.0}, {"theta_E": (5.0, 1.0)}]
)
def test_bad_recipes_are_refused(wrong):
    with pytest.raises(BadInput):
        MockRecipe(**wrong)


def test_unwritable_place_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="cannot be written"):
        make_mock(tmp_path / "file", replace(EMPTY, n_pix=200, bands=("r",)))


@pytest.mark.slow
def test_full_bricks_overlap_consistently():
    recipe = replace(MockRecipe(), rows=1, columns=2, n_pix=3600, bands=("r",), n_lenses=2, stars=60.0, lrgs=700.0)
    left, right = sorted(mock_bricks(recipe), key=lambda b: b.ra)
    (a, mask_a, cat_a), (b, mask_b, cat_b) = (observe_brick(x, brick_objects(x, recipe), recipe) for x in (left, right))
    assert any_bit(mask_a, ["NPRIMARY"]).mean() == pytest.approx(1 - left.area * 3600**2 / (3600 * PIXSCALE) ** 2, abs=0.01)
    foreign = np.flatnonzero(~cat_a["brick_primary"])
    assert foreign.size > 20 and any_bit(cat_a["maskbits"][foreign], ["NPRIMARY"]).mean() > 0.95
    foreign = foreign[brick_ids(cat_a["ra"][foreign], cat_a["dec"][foreign]) == right.brickid]
    foreign = foreign[(np.abs(cat_a["bx"][foreign] - 1799.5) < 1785) & (np.abs(cat_a["by"][foreign] - 1799.5) < 1785)]
    own_b = cat_b["brick_primary"]
    matched = 0
    for i in foreign[np.argsort(-cat_a["flux_r"][foreign])][:20]:
        separation = np.hypot((cat_b["ra"] - cat_a["ra"][i]) * np.cos(np.deg2rad(left.dec)), cat_b["dec"] - cat_a["dec"][i]) * 3600
        if separation[own_b].min() < 0.3:
            matched += 1
            j = np.flatnonzero(own_b)[separation[own_b].argmin()]
            flux = [
                s["r"].image[round(float(c["by"][k])) - 6 :, round(float(c["bx"][k])) - 6 :][:13, :13].sum()
                for s, c, k in ((a, cat_a, i), (b, cat_b, j))
            ]
            assert flux[0] == pytest.approx(flux[1], rel=0.25, abs=0.5)
    assert matched >= 3


def test_catalogue_shape_points_where_the_light_does():
    for phi in (0.3, 1.2, 2.6):
        recipe, brick = EMPTY, mock_bricks(EMPTY)[0]
        long = smooth_galaxy("lrg", flux_from(17.5, 1.6, 1.0, 1.0), 1.8, 3.0, 0.45, phi, 0.5)
        stacks, _, tractor = observe_brick(brick, [at_centre(long, brick, recipe)], recipe)
        box = np.where(
            np.hypot(*(np.indices((61, 61)) - 30.0)) < 25, stacks["r"].image[202 - 30 : 202 + 31, 199 - 30 : 199 + 31], 0
        ).astype(float)
        y, x = np.indices(box.shape) - 30.0
        measured = 0.5 * np.arctan2(2 * np.sum(box * x * y), np.sum(box * (x**2 - y**2)))
        position = 0.5 * np.arctan2(tractor["shape_e2"][0], tractor["shape_e1"][0])  # from north through east
        direction = np.arctan2(np.cos(position), -np.sin(position))  # east is -x
        assert abs((measured - direction + np.pi / 2) % np.pi - np.pi / 2) < 0.06
        assert tractor_axis_ratio(tractor["shape_e1"][0], tractor["shape_e2"][0]) == pytest.approx(0.45, abs=1e-3)
        assert tractor["shape_r"][0] * np.sqrt(0.45) == pytest.approx(1.8, rel=1e-5)  # the survey's radius is of the major axis


def test_the_projects_own_readers_find_the_galaxies(release):
    lenses = pq.read_table(f"{release.root}/truth/planted_lenses.parquet").to_pandas()
    for name, group in lenses.groupby("brickname"):
        cutouts = read_cutouts(release, name, group.ra.to_numpy(), group.dec.to_numpy())
        assert cutouts.ok.all() and np.allclose(cutouts.psfsize[:, 1], group.psfsize_r, rtol=1e-3)
        for image, dx, dy in zip(cutouts.image, cutouts.dx, cutouts.dy):
            core = np.maximum(image[2, 24:40, 24:40], 0) ** 2
            y, x = np.indices(core.shape) - 7.5
            centre = np.array([np.sum(core * x), np.sum(core * y)]) / core.sum() * PIXSCALE
            assert np.hypot(*(centre - (dx, dy))) < 0.4
    columns = ["flux_r", "flux_z", "flux_w1", "type", "maskbits"]
    table = read_fits_columns(release.sweeps()[0], columns)
    assert table["type"].to_pylist()[0] in ("PSF", "REX", "EXP", "DEV", "SER") and table["maskbits"].type == "int32"


def test_sweeps_leave_out_what_another_brick_owns():
    tractor = {"brick_primary": np.array([True, False, True]), "flux_r": np.arange(3.0), "bx": np.zeros(3)}
    assert {k: v.tolist() for k, v in mock_sweep_columns(tractor).items()} == {"FLUX_R": [0.0, 2.0]}


def test_planted_lenses_are_red_enough_in_the_infrared_wherever_they_are():
    near = mock_sky.draw_lrg(mock_sky.rng("test"), z=0.3)
    flux = near.flux * mock_sky._into_cuts(near)
    assert near.mag["z"] - near.mag["w1"] < 0.8 and -2.5 * np.log10(flux[3] / flux[4]) == pytest.approx(0.9)
    far = mock_sky.draw_lrg(mock_sky.rng("test"), z=0.6)
    assert (mock_sky._into_cuts(far) == 1).all()


def test_another_seed_is_another_night_under_another_sky():
    brick = mock_bricks(SMALL)[0]
    one, two = ([o.ra for o in brick_objects(brick, replace(SMALL, seed=s, n_lenses=0))] for s in (1, 2))
    assert set(one).isdisjoint(two)
    for band in "grz":
        assert exposures_of(brick.brickid, band, replace(SMALL, seed=1)) != exposures_of(brick.brickid, band, replace(SMALL, seed=2))
