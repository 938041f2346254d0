"The exam's guards, each with its fault put back: coarse input, a rendering that tells, an object seen in training, thresholds of another network."

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.resources import manifest
from dark_halo_scope.learning.checkpoints import load_model
from dark_halo_scope.learning.scoring import score_images
from dark_halo_scope.lensing.sources import sersic_profile
from dark_halo_scope.survey.pictures import from_8bit, lupton, render_8bit, sky_level, to_pictures
from dark_halo_scope.trust import exam, real_sets
from dark_halo_scope.trust.exam import (
    Examinee,
    ExamRecipe,
    above_negatives,
    count,
    fold_by_key,
    folded_examinee,
    nested_passes,
    network_examinee,
    sit_exam,
)
from dark_halo_scope.trust.real_sets import fingerprints, near_duplicates, one_rendering, read_set, real_set, refuse_seen, rendered

NETWORK = str(manifest("models", "small.safetensors"))
ONE = ExamRecipe(seeds=(0,))
SIGMA = np.array([0.0031, 0.0044, 0.0117])[:, None, None]


def frames(n, seed, arc=0.0):
    y, x = np.mgrid[-50:51, -50:51] * 0.262
    draw = np.random.default_rng(seed)
    host = gaussian_filter(np.array([4, 15, 30])[:, None, None] * sersic_profile(x, y, 1.0, 3.0, 0.8, 0.3) * 0.262**2, (0, 1.9, 1.9))
    out = []
    for _ in range(n):
        image = host * draw.uniform(0.7, 1.5)
        for _ in range(4):
            image = image + 0.15 * np.roll(host, tuple(draw.integers(-16, 17, size=2)), (1, 2)) * np.array([2, 1, 0.6])[:, None, None]
        turned = np.angle(np.exp(1j * (np.arctan2(y, x) - draw.uniform(0, 6.28))))
        shape = np.exp(-(((np.hypot(x, y) - 2.4) / 0.45) ** 2) / 2 - (turned / 0.5) ** 2 / 2)
        out.append(image + arc * np.array([0.06, 0.05, 0.05])[:, None, None] * shape + SIGMA * draw.normal(size=host.shape))
    return np.array(out, np.float32)


def whole(flux):
    return 22.5 - 2.5 * np.log10(flux[:, 1].sum((1, 2)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "The files of an exam, made here; the galaxies' figures are deeper than the lenses'"
    path = tmp_path_factory.mktemp("pixels")
    lrg, lens, other = frames(16, 1), frames(14, 2, 1.0), frames(12, 3)
    np.savez(path / "lrg_des_grz.npz", image=lrg)
    np.savez(path / "real_lenses_dr10_8bit.npz", image_zrg_uint8=render_8bit(lens), r_mag=whole(lens), ra=np.arange(14.0), dec=np.zeros(14))
    np.savez(path / "dr10_nonlens_8bit.npz", image_zrg_uint8=render_8bit(other), r_mag=whole(other))
    hosts = frames(20, 4, 1.0)
    np.savez(
        path / "lenses_huang2020_rgb.npz", rgb=to_pictures(hosts * 0.5), grade=np.array(list("AABBC" * 4)), ra=np.zeros(20), dec=np.ones(20)
    )
    np.savez(
        path / "desi_pairs_rgb.npz", rgb=to_pictures(frames(20, 5)), group=np.repeat(["random", "topthetaE"], 10), group_id=np.arange(20)
    )
    rows = "".join(f"{i},{50 + i},2,97,0.27\n" for i in range(20))
    (path / "desi_pairs_index.csv").write_text("group_id,ra,dec,size_pix,pixscale\n" + rows)
    return path


def test_the_input_that_spoilt_the_first_exam_is_refused():
    "Clipped 8-bit frames, in their own units or with their flux scale given back, are refused for any network; with noise they pass"
    model, recipe, _ = load_model(NETWORK)
    flux = frames(4, 1)
    inner = np.s_[..., 18:82, 18:82]
    with pytest.raises(BadInput, match="quantisation steps"):
        score_images(model, recipe, from_8bit(render_8bit(flux))[inner])
    chain = rendered(real_set("toy", "flux", True, flux, 0, "LRG", mag_r=whole(flux)))
    with pytest.raises(BadInput, match="quantisation steps"):
        score_images(model, recipe, chain.flux[inner])
    assert np.isfinite(score_images(model, recipe, one_rendering([chain])[0].flux[inner])).all()


def test_an_exam_without_its_noise_is_red(folder, monkeypatch):
    "The fix put back wrong: fluxes restored, no noise added"
    model, recipe, name = load_model(NETWORK)
    one_way_up = lambda images, ident: (score_images(model, recipe, images), np.zeros(len(images), int))
    who = Examinee(name, ("g", "r", "z"), 64, one_way_up)
    assert sit_exam(who, folder, ONE)["renderings"]["8bit"]["auc"]
    monkeypatch.setattr(real_sets, "levelled", lambda given, *a, **k: given)
    monkeypatch.setattr(exam, "levelled", lambda given, *a, **k: given)
    with pytest.raises(BadInput, match="quantisation steps"):
        sit_exam(who, folder, ONE)


def noise_meter(images, ident):
    "A network that sees the rendering alone: the noise of the sky"
    return -np.log(sky_level(images, 8)[1][:, 1]) - 5.4, np.zeros(len(images), int)


def test_a_network_that_sees_the_rendering_alone_scores_one_half(folder, monkeypatch):
    "Constant sky per set, one noise: nothing is left to see; with the levelling left out the same network tells the sets apart"
    who = Examinee("noise", ("g", "r", "z"), 64, noise_meter)
    found = sit_exam(who, folder, ONE)["renderings"]
    for name, key in (("8bit", "rendering alone: lenses over LRGs"), ("viewer", "rendering alone: lenses over pairs")):
        auc = found[name]["auc"][key]
        assert auc["lo"] < 0.5 < auc["hi"], (name, auc)
    for module in (real_sets, exam):
        monkeypatch.setattr(module, "levelled", lambda given, *a, **k: given)
    spoilt = sit_exam(who, folder, ONE)["renderings"]["viewer"]["auc"]["rendering alone: lenses over pairs"]
    assert spoilt["lo"] > 0.5, spoilt


def test_a_constant_answer_per_set_scores_one_half(folder):
    "A network that returns the same logit whatever it is shown: every area is one half, no lens is found, no test rejects"
    who = Examinee("constant", ("g", "r", "z"), 64, lambda images, ident: (np.full(len(images), 3.0), np.zeros(len(images), int)))
    found = sit_exam(who, folder, ONE)["renderings"]
    assert all(v["value"] == 0.5 for block in found.values() for v in block["auc"].values())
    assert all(v["k"] == 0 for block in found.values() for v in block["found"].values())
    assert all(v["p"] == 1 for v in found["8bit"]["paired"].values())


def test_an_object_seen_in_training_is_refused_by_position_and_by_pixels(folder):
    lenses = read_set(folder, "real_lenses_dr10_8bit")
    model = network_examinee(NETWORK)
    near = real_set("list", "flux", True, frames(1, 77), 0, "x", ra=lenses.ra[3:4] + 0.0003, dec=lenses.dec[3:4])
    with pytest.raises(BadInput, match="arcsec from list"):
        sit_exam(Examinee(model.name, model.bands, 64, model.ask, (near,)), folder, ONE)
    turned = real_set("list", "flux", True, np.rot90(frames(14, 2, 1.0)[5:6], 3, axes=(2, 3))[..., ::-1], 0, "x")
    with pytest.raises(BadInput, match="looks like list"):
        sit_exam(Examinee(model.name, model.bands, 64, model.ask, (turned,)), folder, ONE)
    refuse_seen([lenses], [real_set("list", "flux", True, frames(3, 77), 0, "x")])


def test_thresholds_never_come_from_the_galaxy_they_judge_nor_from_another_network():
    "A galaxy above all others passes; scores of a network on another scale change nothing for the first"
    one = np.arange(20.0)
    alone = nested_passes(one, np.zeros(20, int), np.arange(20), 0)
    assert alone[19] and alone.sum() <= 4
    both = np.r_[one, 1000 * one]
    network = np.repeat([0, 1], 20)
    assert (nested_passes(both, network, np.r_[np.arange(20), np.arange(20)], 0)[:20] == alone).all()
    assert above_negatives(np.array([19.5]), np.array([0]), both, network, 0).all()
    with pytest.raises(BadInput, match="no galaxy to set|no galaxy"):
        above_negatives(np.array([1.0]), np.array([2]), both, network, 0)


def test_folded_networks_answer_for_their_own_fold(folder):
    who = folded_examinee([NETWORK, NETWORK], lambda ident: fold_by_key(ident, 2))
    lenses = one_rendering([read_set(folder, "real_lenses_dr10_8bit")])[0]
    logit, network = who.of(lenses)
    assert set(network) == {0, 1} and (network == fold_by_key(lenses.ident, 2)).all()
    assert np.allclose(logit, network_examinee(NETWORK).of(lenses)[0], atol=1e-4)


def test_counts_say_what_none_means():
    assert count(np.zeros(30, bool))["text"] == "0 of 30 (below 9.5 %)"
    assert count(np.arange(30) < 1)["lo"] == pytest.approx(0.00084, abs=1e-4)


def test_stamps_of_one_galaxy_count_as_what_they_are_worth():
    "Eight stamps of a galaxy that all agree give the interval of the galaxies; eight that do not depend on it, nearly that of the stamps"
    galaxy = np.repeat(np.arange(30), 8)
    agree, alone = count(np.repeat(np.arange(30) < 9, 8), galaxy), count(np.arange(30) < 9)
    assert abs((agree["hi"] - agree["lo"]) / (alone["hi"] - alone["lo"]) - 1) < 0.05 and agree["hosts"] == 30
    free = count(np.random.default_rng(0).random(240) < 0.3, galaxy)
    assert (free["hi"] - free["lo"]) < 0.6 * (agree["hi"] - agree["lo"])


def test_bands_that_are_missing_are_named(folder):
    who = Examinee("griz", ("g", "r", "i", "z"), 64, noise_meter)
    assert all("cannot be compared" in why for why in sit_exam(who, folder, ONE)["not_compared"].values() if "not found" not in why)


def test_pictures_without_z_are_asked_of_a_network_of_g_and_r(folder, tmp_path):
    "Arcs of a search in g, r, i over what it scored high; each threshold's false positives are counted on the half that did not set it"
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    rgb = to_pictures(np.concatenate([frames(30, 6, 1.0), frames(400, 7)])[..., 28:73, 28:73] * 3, lupton(("i", "r", "g"), 11, 40, 30))
    shown_in = np.repeat(["Real_lenses_search_Jack", "Explore_detections", "Real_lenses_test"], [30, 370, 30])
    np.savez(
        tmp_path / "des_unlabelled_rgb45.npz",
        rgb=rgb,
        shown_in=shown_in,
        coadd_object_id=np.r_[np.repeat(np.arange(1, 16), 2), np.zeros(400, int)],
    )
    two = Examinee(
        "two", ("g", "r"), 44, lambda images, ident: (images[:, 0].max((1, 2)) / images[:, 1].max((1, 2)), np.zeros(len(images), int))
    )
    exam = sit_exam(two, tmp_path, ONE)
    assert set(exam["renderings"]) == {"8bit", "viewer", "lupton"} and not exam["not_compared"]
    found = exam["renderings"]["lupton"]["found"]["where 0.1 of look-alikes pass"]
    assert found["n"] == 30 and found["hosts"] == 15 and " of 370 " in found["false positives, nested"]
    assert (
        "needs g,r,z: they cannot be compared"
        in sit_exam(Examinee("grz", ("g", "r", "z"), 44, noise_meter), tmp_path, ONE)["not_compared"]["lupton"]
    )


def test_the_known_answer_on_real_galaxies(real_data):
    "The same 30 galaxies in flux and as restored from 8 bit: neither set lies above the other; taken as they are, the pictures would have been called lenses"
    who, lrgs = network_examinee(NETWORK), read_set(real_data, "des_lrgs")
    flux = real_sets.levelled(lrgs, times=2**0.5)
    chain = one_rendering([rendered(lrgs)])[0]
    one, two = who.of(flux)[0], who.of(chain)[0]
    assert abs(int((one > 0).sum()) - int((two > 0).sum())) <= 4
    assert np.corrcoef(one, two)[0, 1] > 0.6
    with pytest.raises(BadInput, match="quantisation steps"):
        who.of(rendered(lrgs))


def test_three_lenses_of_the_exam_are_among_the_des_pictures(real_data):
    "By pixels alone, across renderings; and no lens of the exam is among the galaxies that may train"
    lenses, des = read_set(real_data, "real_lenses_dr10_8bit"), read_set(real_data, "des_search")
    pairs = near_duplicates(fingerprints(lenses.flux), fingerprints(des.flux))
    assert {i for i, _, _ in pairs} == {22, 42, 45} and all(des.label[j] == 1 for _, j, _ in pairs)
    refuse_seen([lenses], [read_set(real_data, "des_lrgs"), read_set(real_data, "dr10_nonlens_8bit")])


@pytest.mark.slow
def test_the_best_grades_score_best_once_noise_and_sampling_are_one(real_data):
    "A over C, against the same pairs; as the figures come, the softest (C) score highest"
    who = network_examinee(NETWORK)
    lenses = one_rendering([read_set(real_data, "huang2020"), read_set(real_data, "desi_pairs")])[0]
    logit = who.of(lenses)[0]
    assert np.mean(logit[lenses.group == "A"] > 0) > np.mean(logit[lenses.group == "C"] > 0)
    asis = read_set(real_data, "huang2020")
    naive = who.of(asis)[0]
    assert np.median(naive[asis.group == "C"]) > np.median(naive[asis.group == "A"])
