"The demo on real pixels: a synthetic folder of the same layout gives a whole report; on the real one the pieces hold."

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.injection.grid import PRIORS
from dark_halo_scope.lensing.sources import sersic_profile
from dark_halo_scope.real.corpus import RealRecipe, aperture_magnitudes, arc_frames, host_table, inject, real_demo, visible
from dark_halo_scope.stamps.codec import decode
from dark_halo_scope.survey.pictures import padded, render_8bit, rendering_facts
from dark_halo_scope.trust.exam import ExamRecipe
from dark_halo_scope.trust.real_sets import read_set, real_set
from dark_halo_scope.trust.realism import fold_of

SMALL = RealRecipe(priors=("wide",), src_kind="sersic", n_folds=3, n_train=40, per_host=4, n_permutations=5, exam=ExamRecipe(seeds=(0,)))
SMALL = replace(SMALL, train=replace(SMALL.train, epochs=1, max_steps=2))


def galaxies(n=9):
    y, x = np.mgrid[-45:46, -45:46] * 0.262
    light = gaussian_filter(np.array([4, 15, 30])[:, None, None] * sersic_profile(x, y, 1.0, 3.0, 0.8, 0.3) * 0.262**2, (0, 1.9, 1.9))
    noise = np.array([0.0031, 0.0044, 0.0117])[:, None, None] * np.random.default_rng(0).normal(size=(n, 3, 91, 91))
    return (light * np.linspace(0.6, 1.6, n)[:, None, None, None] + noise).astype(np.float32)


HOSTS = real_set("toy", "flux", True, galaxies(), 0, "LRG")
SPLIT = np.array(["train", "val", "test"])[fold_of(np.arange(9), 3)]


def test_the_priors_are_the_librarys():
    "wide here is injection.grid's: limits, group part and source sizes"
    stamps = inject(HOSTS, SPLIT, {"train": 300}, "wide", SMALL, control_frac=0.0)
    t = {c: stamps[c].to_numpy() for c in ("theta_E", "src_reff", "src_mag_r")}
    prior = PRIORS["wide"]
    assert prior.theta_E[0] <= t["theta_E"].min() and t["theta_E"].max() <= prior.theta_E[1]
    assert prior.src_reff[0] <= t["src_reff"].min() and t["src_reff"].max() <= prior.src_reff[1]
    assert prior.src_mag_r[0] <= t["src_mag_r"].min() + 1e-3 and t["src_mag_r"].max() <= prior.src_mag_r[1] + 1e-3
    assert np.mean(t["theta_E"] > 2.5) > 0.35


def test_brightness_is_relative_to_the_light_within_the_aperture():
    "A neighbour in the corner of the stamp makes no arc brighter; the arcs that are painted have the brightness that was planned"
    crowded = HOSTS.flux.copy()
    crowded[..., 3:12, 3:12] += 0.8
    beside = replace(HOSTS, flux=crowded)
    assert np.abs(aperture_magnitudes(crowded, 4.0) - aperture_magnitudes(HOSTS.flux, 4.0)).max() < 0.05
    assert (22.5 - 2.5 * np.log10(crowded[:, 1].sum((1, 2)))).max() < aperture_magnitudes(HOSTS.flux, 4.0)[:, 1].min() - 0.5
    recipe = replace(SMALL, priors=("grid_sota",))
    one, two = (inject(h, SPLIT, {"train": 40}, "grid_sota", recipe, control_frac=0.0) for h in (HOSTS, beside))
    assert np.abs(one["arc_mag_r"].to_numpy() - two["arc_mag_r"].to_numpy()).max() < 0.1
    inside = one["theta_E"].to_numpy() < 2
    contrast = (one["arc_mag_r"].to_numpy() - one["mag_r"].to_numpy())[inside]
    assert 0.4 < contrast.min() and contrast.max() < 2.2, "src_dmag of the lensed source: .5 to 2"


def test_light_put_back_on_frames_is_what_was_painted():
    stamps = inject(HOSTS, SPLIT, {"test": 12}, "wide", SMALL, control_frac=0.0)
    lit = arc_frames(stamps, HOSTS, np.arange(12))
    middle = lit.flux[..., 14:78, 14:78]
    assert np.allclose(middle, decode(stamps), atol=2e-3)
    sky = host_table(HOSTS, SPLIT, SMALL)[1]
    assert np.allclose(sky.dx, -0.131) and (visible(stamps, SMALL.train.select) < 12).all()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_whole_report_twice(tmp_path):
    flux = HOSTS.flux
    mag = 22.5 - 2.5 * np.log10(padded(flux)[:, 1].sum((1, 2)))
    np.savez(tmp_path / "lrg_des_grz.npz", image=flux)
    for file, part in (("real_lenses_dr10_8bit", slice(0, 6)), ("dr10_nonlens_8bit", slice(3, 9))):
        np.savez(tmp_path / f"{file}.npz", image_zrg_uint8=render_8bit(np.roll(flux[part], 2, -1)), r_mag=mag[part])
    ledger = tmp_path / "ledger.jsonl"
    first, second = (real_demo(tmp_path, tmp_path / name, SMALL, ledger) for name in "ab")
    assert first["priors"] == second["priors"] and len(ledger.read_text().splitlines()) == 1, "one recipe, one answer; the first stands"
    written = json.loads((tmp_path / "a" / "report.json").read_text())
    assert written["identity"] == first["identity"] and {"finished", "machine", "command"} <= set(written["run"])
    html = (tmp_path / "a" / "report.html").read_text()
    assert "Prior wide" in html and "src='http" not in html


def test_bad_input(tmp_path):
    with pytest.raises(BadInput, match="lrg_des_grz.npz: not found"):
        real_demo(tmp_path, tmp_path / "out", SMALL)
    with pytest.raises(BadInput, match="three folds"):
        RealRecipe(n_folds=2)


def test_rendering_is_the_published_one(real_data):
    "Share of zeros and of 255 in our rendering of real galaxies against the public files'"
    lenses = np.load(real_data / "real_lenses_dr10_8bit.npz")["image_zrg_uint8"]
    theirs, ours = rendering_facts(lenses), rendering_facts(render_8bit(read_set(real_data, "des_lrgs").flux))
    assert theirs["zeros_z"] == pytest.approx(0.11, abs=0.02) and theirs["zeros_r"] == pytest.approx(0.27, abs=0.03)
    assert all(abs(ours[k] - theirs[k]) < 0.08 for k in ("zeros_z", "zeros_r", "zeros_g"))
    assert 0.5 < ours["full"] / theirs["full"] < 1.5
