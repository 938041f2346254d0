"The finder's guards: nobody is asked about what it was taught, nothing but the objects tells the classes apart, and no measure-only pixel teaches."

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.resources import manifest
from dark_halo_scope.learning.checkpoints import load_checkpoint, model_name
from dark_halo_scope.learning.network import network_file
from dark_halo_scope.lensing.sources import sersic_profile
from dark_halo_scope.lists.scores import network_card
from dark_halo_scope.real import finder
from dark_halo_scope.real.finder import BASE, CHANGES, Light, corpus_of, make_stamps, numbers_of, read_corpus, refuse_taught, unseen
from dark_halo_scope.real.lookalikes import drawn_lookalikes
from dark_halo_scope.stamps.codec import decode
from dark_halo_scope.stats.metrics import auroc
from dark_halo_scope.survey.pictures import sky_level
from dark_halo_scope.trust.exam import fold_by_key, pasted
from dark_halo_scope.trust.real_sets import read_set, real_set, rendered

SIGMA = np.array([0.0031, 0.0044, 0.0117])[:, None, None]


def frames(n, seed):
    y, x = np.mgrid[-50:51, -50:51] * 0.262
    draw = np.random.default_rng(seed)
    host = gaussian_filter(np.array([4, 15, 30])[:, None, None] * sersic_profile(x, y, 1.0, 3.0, 0.8, 0.3) * 0.262**2, (0, 1.9, 1.9))
    out = []
    for _ in range(n):
        image = host * draw.uniform(0.7, 1.5)
        for _ in range(4):
            image = image + 0.15 * np.roll(host, tuple(draw.integers(-16, 17, size=2)), (1, 2)) * np.array([2, 1, 0.6])[:, None, None]
        out.append(image + SIGMA * draw.normal(size=host.shape))
    return np.array(out, np.float32)


def toy(name, n, seed, label, chain, **known):
    flux = frames(n, seed)
    one = real_set(name, "flux", True, flux, label, name, mag_r=22.5 - 2.5 * np.log10(flux[:, 1].sum((1, 2))), **known)
    return rendered(one) if chain else one


@pytest.fixture(scope="module")
def corpus():
    lenses = toy("lenses", 12, 2, 1, True, ra=np.arange(12.0), dec=np.zeros(12))
    return corpus_of(toy("LRGs", 16, 1, 0, False), lenses, toy("galaxies", 10, 3, 0, True), 3)


def test_an_exam_object_in_training_is_refused_by_position_and_by_pixels(corpus):
    refuse_taught(corpus, corpus.sets)
    near = real_set("list", "viewer", False, frames(1, 77), 1, "A", ra=corpus.lenses.ra[4:5] + 0.0003, dec=corpus.lenses.dec[4:5])
    with pytest.raises(BadInput, match="arcsec from lenses"):
        refuse_taught(corpus, [near])
    turned = real_set("list", "viewer", False, np.rot90(corpus.lrgs.flux[5:6], 3, axes=(2, 3))[..., ::-1], 0, "x")
    with pytest.raises(BadInput, match="looks like LRGs"):
        refuse_taught(corpus, [turned])
    assert len(unseen(corpus.lenses, [near])) == 11 and len(unseen(corpus.lrgs, [turned])) == 15


def test_a_lens_of_its_own_fold_under_another_name_is_refused(corpus):
    "The same frame as an object of another name falls in whatever fold its name says, and one of the networks was taught with it"
    again = replace(corpus.lenses, name="again", ident=np.char.add("again/", np.arange(12).astype(str)))
    with pytest.raises(BadInput, match="lenses/"):
        refuse_taught(corpus, [again])


def test_pixels_to_measure_with_do_not_teach(corpus):
    with pytest.raises(BadInput, match="measure with"):
        corpus_of(replace(corpus.lrgs, train=False), corpus.lenses, corpus.galaxies, 3)


def test_without_arcs_nothing_tells_the_classes_apart(corpus):
    "Painted light of nothing, no real lens, unlensed sources as often in both: brightness, noise, host and rendering of lenses and of others are alike"
    nothing = np.zeros((3, 3, 101, 101), np.float16)
    recipe = replace(BASE, n_stamps=500, n_real=0, unlensed=0.0)
    stamps = make_stamps(corpus, (Light(nothing, nothing),) * 3, recipe)
    lens = ~stamps["is_control"].to_numpy(zero_copy_only=False)
    flux = decode(stamps)
    seen = {"light": flux[:, 1].sum((1, 2)), "noise": sky_level(flux, 8)[1][:, 1], "middle": flux[:, 0, 30:34, 30:34].sum((1, 2))}
    seen |= {c: stamps[c].to_numpy(zero_copy_only=False).astype(float) for c in ("clipped", "coarse")}
    seen |= {kind: (stamps["kind"].to_numpy(zero_copy_only=False) == kind).astype(float) for kind in finder.HOST_KINDS[:3]}
    for name, value in seen.items():
        found = auroc(value, lens)
        assert abs(found.value - 0.5) < 3.5 * (found.hi - found.lo) / 3.92, (name, found)


def test_what_is_on_a_stamp_comes_from_one_fold(corpus, monkeypatch):
    "Each object's frames carry its fold as their flux; a stamp holds the flux of its own fold alone"
    marked = []
    for one in corpus.sets:
        level = 10.0 ** (1.5 * fold_by_key(one.ident, 3))
        marked.append(replace(one, flux=np.broadcast_to(level[:, None, None, None], one.flux.shape).astype(np.float32)))
    monkeypatch.setattr(finder, "rendered", lambda given: given)
    monkeypatch.setattr(finder, "finished", lambda frame, coarse, clipped, noise, n_pix, draw: frame[:, :n_pix, :n_pix])
    nothing = np.zeros((3, 3, 101, 101), np.float16)
    made = replace(corpus, lrgs=marked[0], lenses=marked[1], galaxies=marked[2], removed=marked[1].flux, control=marked[1].flux)
    stamps = make_stamps(made, (Light(nothing, nothing),) * 3, replace(BASE, n_stamps=120))
    size = np.log10(decode(stamps)[:, 1].max((1, 2)))
    assert (np.abs(size - 1.5 * stamps["fold"].to_numpy()) < 0.75).all()


def test_pixels_to_measure_with_teach_only_who_asks_for_them_and_one_of_two_twins_teaches_nobody(corpus, monkeypatch):
    "Candidates and pairs come in with their own recipe; an object that stands twice in its set would be asked of a network that saw its twin"
    with pytest.raises(BadInput, match="expected two folds or more and 5 shares"):
        replace(BASE, n_measured=10)
    wants = replace(BASE, n_measured=10, shares=finder.WITH_MEASURED)
    nothing = Light(*(np.zeros((3, 3, 101, 101), np.float16) for _ in range(2)))
    with pytest.raises(BadInput, match="read_measured"):
        make_stamps(corpus, (nothing,) * 3, wants)
    candidates = real_set("candidates", "viewer", False, frames(9, 5), 1, "A", ra=np.arange(9.0) + 50, dec=np.zeros(9))
    twice = np.r_[np.arange(8), 3]
    pairs = real_set("pairs", "viewer", False, frames(8, 6)[twice], 0, "random pair", ra=twice + 90.0, dec=np.zeros(9))
    monkeypatch.setattr(finder, "read_set", lambda folder, name: {"huang2020": candidates, "desi_pairs": pairs}[name])
    measured = finder.read_measured("")
    assert len(measured.candidates) == 9 and list(measured.pairs.ra) == [90, 91, 92, 94, 95, 96, 97]
    home = replace(corpus, measured=measured)
    refuse_taught(home, [*home.sets, candidates, pairs])
    shown = make_stamps(home, (nothing,) * 3, replace(wants, n_stamps=200)).to_pandas()
    assert {"candidate frame", "pair"} < set(shown["kind"]) and not shown.query("kind == 'pair'")["real"].any()
    base = make_stamps(corpus, (nothing,) * 3, replace(BASE, n_stamps=40)).to_pandas()
    assert set(base["kind"]) <= set(finder.HOST_KINDS[:3])


def test_drawn_lookalikes_stand_on_galaxies_without_an_arc_in_their_share_and_none_where_none_is_asked_for(corpus):
    nothing = Light(*(np.zeros((3, 3, 101, 101), np.float16) for _ in range(2)))
    bright = Light(*(np.full((3, 3, 101, 101), 0.0, np.float16) for _ in range(2)))
    for form in (bright.plain, bright.soft):
        form[:, :, 50, 50] = 1000.0
    for share in (0.0, 0.3):
        stamps = make_stamps(corpus, (nothing, nothing, bright), replace(BASE, n_stamps=300, lookalikes=share))
        control, marked = stamps["is_control"].to_numpy(zero_copy_only=False), decode(stamps)[:, 1].max((1, 2)) > 100
        assert not marked[~control].any() and abs(marked[control].mean() - share) < 0.11
    with pytest.raises(BadInput, match="lookalikes=1.5"):
        replace(BASE, lookalikes=1.5)


def test_a_drawn_lookalike_has_the_colours_and_the_visibility_of_its_arc_and_another_form(corpus):
    y, x = np.mgrid[-50:51, -50:51] * 0.262
    arc = np.exp(-((np.hypot(x, y) - 2.0) ** 2) / 0.3) * (x > 1)
    arcs = np.array([0.01, 0.02, 0.015])[None, :, None, None] * arc * np.linspace(1, 3, 12)[:, None, None, None]
    shapes = drawn_lookalikes(arcs, (1.5, 1.3, 1.2))
    assert np.allclose(np.sqrt((shapes**2).sum((2, 3))), np.sqrt((arcs**2).sum((2, 3))), rtol=1e-4)
    alike = [np.corrcoef(a[1].ravel(), s[1].ravel())[0, 1] for a, s in zip(arcs, shapes)]
    assert max(alike) < 0.9 and len({round(a, 3) for a in alike}) == 12
    with pytest.raises(BadInput, match="look-alikes"):
        drawn_lookalikes(arcs[..., :-1], (1.5, 1.3, 1.2))


def test_a_network_that_began_with_pictures_to_measure_with_stays_at_home(corpus):
    told = {half: {"chooses": 0.6} for half in ("chosen on", "reported on", "all")} | {"identity": "i", "network": "n"}
    ran = {"seconds": 1.0, "finished": "2026-11-28T00:00:00Z", "cpus": 2, "machine": "x86_64"}
    rows = {"base": told | {"recipe": {"seed": 1}, "run": ran}}
    rows["lucky"] = rows["base"] | {"recipe": {"seed": 1, "start": "pictures"}, "chosen on": {"chooses": 0.9}}
    assert finder.study_receipt(rows, {"rows": {"small": {"reported on": {"chooses": 0.5}}}}, "study")["chosen"] == "base"


def test_no_object_of_the_exam_teaches_features(corpus, monkeypatch, tmp_path):
    "Two luminous red galaxies of the exam stand among unlabelled pictures, and are left out by their pixels"
    studio, taught = object.__new__(finder.Studio), []
    studio.bank, studio.folder, studio.shown = tmp_path / "bank.h5", tmp_path, [{"LRGs": corpus.lrgs}]
    pictures = real_set("pictures", "lupton", False, np.concatenate([frames(5, 60), corpus.lrgs.flux[3:5]]), -1, "unvetted")
    monkeypatch.setattr(finder, "read_set", lambda folder, name: pictures)
    monkeypatch.setattr(finder, "learn_features", lambda flux, *more: taught.append(flux))
    studio.features(1)
    assert np.array_equal(taught[0], pictures.flux[:5])


def test_fewer_hosts_are_some_of_all_hosts(corpus):
    quarter, whole = (finder.hosts_of(corpus, replace(BASE, host_share=share)) for share in (0.25, 1.0))
    for few, every in zip(quarter, whole):
        assert len(few.pool) == round(len(every.pool) / 4) and set(few.pool) < set(every.pool)


def test_what_is_mined_for_a_network_was_found_by_one_of_its_own_fold_and_is_not_of_it(corpus, monkeypatch, tmp_path):
    "Half of its galaxies without an arc are the others of highest score, none of them of the fold that it is asked about"
    nothing, taught = Light(*(np.zeros((3, 3, 101, 101), np.float16) for _ in range(2))), []
    recipe = replace(BASE, n_stamps=120, mined=0.5)
    stamps, more = (make_stamps(corpus, (nothing,) * 3, replace(recipe, seed=seed)) for seed in (1, 1001))

    def noted(given, recipe, out, fold):
        taught.append((given, str(out), fold))
        return f"{fold}"

    class Brightness:
        load = staticmethod(lambda file: Brightness())
        logits = staticmethod(lambda images: images.sum((1, 2, 3)))

    monkeypatch.setattr(finder, "train_without", noted)
    monkeypatch.setattr(finder, "LensNetwork", Brightness)
    with pytest.raises(BadInput, match="expected other stamps to mine"):
        finder.train_folds(stamps, recipe, tmp_path)
    assert finder.train_folds(stamps, recipe, tmp_path, more) == ["0", "1", "2"] and len(taught) == 6
    first, others = {image.tobytes() for image in decode(stamps)}, more.filter(more["is_control"])
    for given, where, fold in taught[3:]:
        new = [image.tobytes() in first for image in decode(given)]
        mined = given.filter(np.logical_not(new))
        assert where.endswith("mined") and len(given) == 120 and len(mined) == 30 and fold not in mined["fold"].to_pylist()
        left = others.filter(np.array(others["fold"].to_pylist()) != fold)
        assert decode(mined).sum((1, 2, 3)).min() >= np.sort(decode(left).sum((1, 2, 3)))[-30]


def test_a_constant_answer_per_set_scores_one_half(corpus):
    sets = {
        "lenses": corpus.lenses,
        "LRGs": corpus.lrgs,
        "DR10 galaxies": corpus.galaxies,
        "LRGs with a pasted galaxy": pasted(corpus.lrgs),
    }
    sets |= {"own frames without arc": corpus.lenses, "own frames, opposite patch out": corpus.lenses}
    sets |= {
        "Huang": replace(corpus.lenses, group=np.repeat("A", 12)),
        "pairs": replace(corpus.galaxies, group=np.repeat("random pair", 10)),
    }
    for half in (None, 0, 1):
        found = numbers_of({name: np.full(len(s), 2.0) for name, s in sets.items()}, sets, half)
        assert all(v["value"] == 0.5 for v in found["auc"].values()) and found["above all LRGs"]["lenses"]["k"] == 0


@pytest.mark.slow
def test_the_real_corpus_is_fit_to_be_asked(real_data):
    "Of the sets at hand, no network is asked about an object that it was taught"
    whole = [read_set(real_data, name) for name in ("huang2020", "desi_pairs")]
    made = read_corpus(real_data, BASE.n_folds, whole)
    refuse_taught(made, [*made.sets, *whole])
    assert [len(s) for s in made.sets] == [30, 47, 20]


def test_the_packaged_network_is_the_study_s_and_its_card_says_the_study_s_numbers():
    "The file, the receipt and the card: one network, one set of counts; README says the same"
    study = json.loads(manifest("receipts", "finder.json").read_text())
    found, card = study["rows"][study["chosen"]]["all"], manifest("models", "finder.md").read_text()
    state = load_checkpoint(network_file())
    assert model_name(state) == study["packaged"]["network"] and state["calibration"] is not None
    assert study["gain on the reported half"] > 0 and CHANGES[study["chosen"]].n_stamps == 20000
    above, front = found["above all LRGs"], Path(network_file()).parents[2].joinpath("README.md").read_text()
    itself, small = study["packaged"]["asked itself"], study["rows"]["small"]["all"]
    rare, counts = found["at one in a hundred of all negatives"], itself["above a logit of 0"]
    said = [
        row["above all LRGs"][name] for row in (found, small) for name in ("lenses", "own frames without arc", "LRGs with a pasted galaxy")
    ]
    said += [rare["lenses"], rare["Huang A and B"], *counts.values()]
    assert [c["text"] for c in said if c["text"] not in card and c is not counts["own frames, opposite patch out"]] == []
    index = Path(network_file()).parents[2].joinpath("nbs", "index.ipynb").read_text()
    for page in (front, index):
        quoted = {"finds {k} of {n} real lenses": above["lenses"], "flags {k} of the same frames": above["own frames without arc"]}
        for words, c in (quoted | {"finds {k} of {n} lenses": rare["lenses"]}).items():
            assert f"{words.format(**c)} ({100 * c['lo']:.0f} to {100 * c['hi']:.0f} %)" in page
        for name, words in (("Huang A and B", "candidates"), ("random pairs", "random pairs")):
            assert f"{counts[name]['k']} of {counts[name]['n']} {words}" in page
    said = network_card("x", network_file(), True)
    assert said["name"] == "finder, x" and network_card("x", network_file("small"), True)["name"] == "small, x"
    assert above["own frames without arc"]["text"] in said["warnings"][0] and above["lenses"]["text"] in " ".join(said["facts"])
