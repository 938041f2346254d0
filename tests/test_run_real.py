"The demo on real pixels: a synthetic folder of the same layout gives a whole report; on the real one the pieces hold."

import json
import shutil

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy import ndimage

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.resources import manifest
from dark_halo_scope.lensing.cosmos import gaussian_psf
from dark_halo_scope.lensing.sources import sersic_profile
from dark_halo_scope.run import real
from dark_halo_scope.run.real import RealRecipe, count, examine_network, nested_thresholds, read_real, real_demo
from dark_halo_scope.trust.realism import from_8bit, render_8bit, rendering_facts

SMALL = RealRecipe(n_folds=2, n_pool=120, n_train=24, steps=3, batch=8, per_host=4, pasted_per_host=1, n_permutations=5, priors=("wide",))


def synthetic_hosts(n=10):
    y, x = np.mgrid[-45:46, -45:46] * 0.263
    generator = np.random.default_rng(3)
    light = sersic_profile(x, y, 1.0, 3.0, 0.8, 0.5)[None, None] * 0.263**2 * np.array([2.0, 8.0, 16.0])[:, None, None]
    return (light + generator.normal(size=(n, 3, 91, 91)) * np.array([0.0031, 0.0044, 0.0117])[:, None, None]).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Hosts, lenses and HST galaxies made here, in the real folder's layout"
    path = tmp_path_factory.mktemp("pixels")
    (path / "hst_sources").mkdir()
    hosts = synthetic_hosts()
    np.savez(path / "lrg_des_grz.npz", image=hosts, index=np.arange(len(hosts)))
    np.savez(
        path / "real_lenses_dr10_8bit.npz", image_zrg_uint8=render_8bit(hosts[:6]), r_mag=np.full(6, 20.2), name=np.array(list("abcdef"))
    )
    y, x = np.mgrid[-36:36, -36:36] + 0.5
    pictures = [
        ndimage.gaussian_filter(8 * sersic_profile(x, y, 5 + i / 4, 1.0, 0.7, i), 1.7) + np.random.default_rng(i).normal(0, 0.002, x.shape)
        for i in range(12)
    ]
    psf, n = gaussian_psf(), np.arange(12)
    fits.HDUList([fits.PrimaryHDU(pictures[0])] + [fits.ImageHDU(p) for p in pictures[1:]]).writeto(path / "hst_sources/images.fits")
    fits.HDUList([fits.PrimaryHDU(psf)] + [fits.ImageHDU(psf) for _ in n[1:]]).writeto(path / "hst_sources/psfs.fits")
    Table({"IDENT": n, "RA": 150 + n / 50, "DEC": 2 + n / 50, "MAG": 23.0 + n / 10, "BAND": ["F814W"] * 12, "GAL_FILENAME": ["images.fits"] * 12, "PSF_FILENAME": ["psfs.fits"] * 12,
           "GAL_HDU": n, "PSF_HDU": n, "PIXEL_SCALE": np.full(12, 0.03), "NOISE_VARIANCE": np.full(12, 4e-6)}).write(path / "hst_sources/real_galaxy_catalog_toy.fits")  # fmt: skip
    return path


def test_whole_report_twice(folder, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    first = real_demo(folder, tmp_path / "a", SMALL, workers=1, ledger=ledger)
    second = real_demo(folder, tmp_path / "b", SMALL, workers=1, ledger=ledger)
    assert first["counts"] == second["counts"] and first["probes"] == second["probes"], "one recipe, one answer"
    assert first["in_ledger"] and not second["in_ledger"] and len(ledger.read_text().splitlines()) == 1, "the first stands"
    cell = first["counts"]["wide, other galaxies, 8bit"]["allowed_0"]
    assert cell["lrg"]["n"] == 10 and cell["injected"]["n"] == 40 and cell["real"]["n"] == 6
    assert set(first["counts"]) == {"wide, other galaxies, flux", "wide, other galaxies, 8bit", "wide, same galaxies, 8bit"}
    html = (tmp_path / "a" / "report.html").read_text()
    assert "data:image/png;base64" in html and "src='http" not in html and "real lenses found" in html
    written = json.loads((tmp_path / "a" / "report.json").read_text())
    assert written["identity"] == first["identity"] and {"finished", "machine", "command"} <= set(written["run"])


def test_no_host_and_no_source_is_in_training_and_test(folder, tmp_path):
    real.prepare(folder, tmp_path, SMALL)
    pool, fold = real._load(real.ArcPool, tmp_path / "pool_wide"), np.load(tmp_path / "fold.npy")
    asked = np.load(tmp_path / "asked_wide.npz")
    source_fold = real.fold_of(pool.source, SMALL.n_folds, "source folds")
    assert (source_fold[asked["injected_arc"]] == fold[asked["injected_host"]]).all()
    assert np.unique(asked["injected_host"], return_counts=True)[1].tolist() == [4] * 10
    per_source = {s: set(source_fold[pool.source == s]) for s in np.unique(pool.source)}
    assert all(len(folds) == 1 for folds in per_source.values())


def test_arcs_have_the_brightness_asked_for(folder, tmp_path):
    real.prepare(folder, tmp_path, SMALL)
    data, pool = real._load(real.RealData, tmp_path / "data"), real._load(real.ArcPool, tmp_path / "pool_wide")
    assert (pool.magnification >= 3).all() and np.allclose(pool.light[:, 1].sum((1, 2)), 1, atol=1e-4)
    stamp = real.compose(pool.light[0], 2.0, data.hosts[0], 5, np.random.default_rng(0))
    added = stamp - real.turned(data.hosts[0], 5)
    assert added[1].sum() == pytest.approx(2.0, abs=0.15)
    rows = np.arange(20)
    lensed = real.arc_flux(pool, rows, data.flux[np.zeros(20, int), 1], SMALL)
    unlensed = real.arc_flux(pool, rows, data.flux[np.zeros(20, int), 1], RealRecipe(src_dmag_of="unlensed"))
    assert np.allclose(unlensed / lensed, pool.magnification[:20])


def test_thresholds_never_come_from_the_fold_they_judge():
    "A galaxy that scores above everything in its own fold must be able to pass as a false positive"
    lrg = [np.array([9.0, 0.0]), np.array([1.0, 0.5]), np.array([0.8, 0.2])]
    limit = nested_thresholds(lrg, 0)
    assert limit[0] == 1.0 and lrg[0][0] > limit[0]
    assert (limit[1:] == 9.0).all()


def test_counts_say_what_none_means():
    assert count(np.zeros(30, bool))["text"] == "0 of 30 (below 9.5 %)"
    assert count(np.arange(30) < 1)["lo"] == pytest.approx(0.00084, abs=1e-4)


def test_stamps_of_one_galaxy_count_as_what_they_are_worth():
    "Eight stamps a galaxy that all agree give the interval of the galaxies; eight that do not depend on it, nearly that of the stamps"
    galaxy = np.repeat(np.arange(30), 8)
    agree, alone = count(np.repeat(np.arange(30) < 9, 8), galaxy), count(np.arange(30) < 9)
    assert abs((agree["hi"] - agree["lo"]) / (alone["hi"] - alone["lo"]) - 1) < 0.05 and agree["hosts"] == 30
    free = count(np.random.default_rng(0).random(240) < 0.3, galaxy)
    assert (free["hi"] - free["lo"]) < 0.6 * (agree["hi"] - agree["lo"])


def test_bad_input(tmp_path):
    with pytest.raises(BadInput, match="lrg_des_grz.npz: not found"):
        read_real(tmp_path)
    with pytest.raises(BadInput, match="src_dmag_of"):
        RealRecipe(src_dmag_of="both")
    with pytest.raises(BadInput, match="grid_sota"):
        RealRecipe(priors=("narrow",))


def test_rendering_is_the_published_one(real_data):
    "Share of zeros and of 255 in our rendering of real galaxies against the public files'"
    data = read_real(real_data)
    theirs, ours = rendering_facts(data.lenses), rendering_facts(render_8bit(data.hosts))
    assert theirs["zeros_z"] == pytest.approx(0.11, abs=0.02) and theirs["zeros_r"] == pytest.approx(0.27, abs=0.03)
    assert all(abs(ours[k] - theirs[k]) < 0.08 for k in ("zeros_z", "zeros_r", "zeros_g"))
    assert 0.5 < ours["full"] / theirs["full"] < 1.5
    assert from_8bit(data.lenses).shape == (47, 3, 101, 101)


def test_a_network_from_elsewhere_sees_the_same_pictures_alike(folder, tmp_path):
    "When the lenses are six of the galaxies, sky taken off, in the lenses' rendering, none lies above all galaxies; a second look is not written"
    network, ledger = str(manifest("models", "small.safetensors")), tmp_path / "ledger.jsonl"
    alike = tmp_path / "alike"
    shutil.copytree(folder, alike)
    np.savez(
        alike / "real_lenses_dr10_8bit.npz",
        image_zrg_uint8=render_8bit(read_real(folder).hosts[:6]),
        r_mag=np.full(6, 20.2),
        name=np.array(list("abcdef")),
    )
    found = examine_network(network, alike, ledger)
    assert found["counts"]["real lenses above all but 0 of the galaxies"].startswith("0 of 6")
    assert found["auc_real"][1] < 0.5 < found["auc_real"][2]
    assert examine_network(network, alike, ledger) == found and len(ledger.read_text().splitlines()) == 1
