"""trust.anchors: the guards refuse what is wrong, and stage 0 counts as a hand would."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.resources import manifest
from dark_halo_scope.base.sphere import separation
from dark_halo_scope.trust import anchors as a


@pytest.fixture(scope="module")
def lenses():
    return a.known_lenses()


def test_own_lists_agree_with_their_names_and_name_their_sources(lenses):
    for i, name in enumerate(lenses["name"]):
        if lenses["survey"][i] != "imaging":
            assert a.name_agrees(name, lenses["ra"][i], lenses["dec"][i]), name
        assert lenses["position_source"][i]
        assert np.isnan(lenses["theta_E"][i]) == (lenses["theta_E_source"][i] == ""), name


def test_every_lens_of_the_exam_is_an_anchor_found_in_images(real_data):
    "The list of anchors says so, since a network taught on them must not be examined there"
    exam, listed = np.load(real_data / "real_lenses_dr10_8bit.npz", allow_pickle=True), a.known_lenses(("imaging",))
    apart = separation(*(np.asarray(exam[c], float)[:, None] for c in ("ra", "dec")), listed["ra"], listed["dec"])
    near = int((apart.min(1) < 3).sum())
    assert near == len(exam["ra"]) and f"All {near} lenses of the exam" in manifest("anchors", "README.md").read_text()


def test_sourced_theta_table(real_data, lenses):
    t = a.read_positions(str(real_data / "catalogues" / "theta_E_lenses.csv")).columns
    assert len(t["name"]) == 99
    assert sum(a.name_agrees(*row) is True for row in zip(t["name"], t["ra"], t["dec"])) == 99
    assert a.in_footprint(t["ra"], t["dec"]).sum() == 60
    apart = a.reference_separation(t, lenses)
    assert np.isfinite(apart).all() and t["name"][apart > 3].tolist() == ["J1016+3859"]  # two published positions differ by 25.5"
    for shift in ({"dec": 30 / 3600}, {"dec": -30 / 3600}):
        moved = {**t, "dec": t["dec"] + shift["dec"]}
        assert (a.reference_separation(moved, lenses) > 3).sum() == 99
    east = {**t, "ra": t["ra"] + 30 / 3600 / np.cos(np.radians(t["dec"]))}
    verdicts = a.check_anchors(east, lenses)
    assert not (verdicts["verdict"] == "ok").any() and set(verdicts["centre"]) == {"not checked"}


def test_moved_lenses_are_refused_against_the_own_table(lenses):
    moved = {**lenses, "ra": lenses["ra"] + 30 / 3600 / np.cos(np.radians(lenses["dec"]))}
    assert (a.check_anchors(moved, lenses)["verdict"] != "ok").all()


@pytest.mark.parametrize(
    "name, ra, dec, agrees",
    [
        ("SDSSJ002927.38+254401.7", 7.364083, 25.733806, True),
        ("SDSSJ002927.38+254401.7", 7.364083, 25.7345, False),
        ("J2321-0939", 350.3808, -9.6642, True),
        ("J2321-0939", 350.3808, -9.6942, False),
        ("DESI-007.0497-48.4352", 7.04975, -48.4352, True),
        ("DESI-007.0497-48.4352", 7.0497, -48.4400, False),
        ("SDSSJ2359+0001", 359.999, 0.02, True),
        ("Horseshoe", 177.138, 19.5, None),
    ],
)
def test_name_against_position(name, ra, dec, agrees):
    assert a.name_agrees(name, ra, dec) is agrees


def test_duplicates_and_empty_centres_are_refused():
    table = {
        "name": np.array(["A", "B", "C"], object),
        "ra": np.array([10.0, 10.0 + 1 / 3600, 11.0]),
        "dec": np.array([-40.0, -40.0, -40.0]),
    }
    r = np.random.default_rng(0)
    blank, y = r.normal(0, 0.01, (3, 64, 64)), np.indices((64, 64)) - 31.5
    galaxy = blank + np.exp(-np.hypot(*y) / 4)
    found = a.check_anchors(table, images={0: galaxy, 2: blank})
    assert found["verdict"].tolist() == ["ok", "repeats A", "no galaxy at the centre"]
    assert found["centre"].tolist() == ["ok", "not checked", "empty"]


def test_stage0_counts_by_hand():
    table = {"name": np.array(list("abcd"), object), "theta_E": np.array([0.5, 1.0, 2.0, np.nan])}
    p = np.array([0.1, 0.6, 0.8, 0.95])
    impostors = {"class": np.array(["ring", "ring", "merger"]), "p_lens": np.array([0.6, 0.1, 0.2])}
    rep = a.stage0(table, np.log(p / (1 - p)), p, impostors)
    assert [(s.found, s.n) for s in rep.recall] == [(3, 4), (2, 4), (1, 4)]
    assert [(s.what, s.found, s.n) for s in rep.contamination[3:]] == [("merger, p >= 0.5", 0, 1), ("ring, p >= 0.5", 1, 2)]
    assert not rep.passed  # one of three impostors is above a fifth
    assert a.stage0(table, p, p, {**impostors, "p_lens": impostors["p_lens"] / 10}).passed
    strata = {s.what: (s.found, s.n) for s in rep.strata}
    assert strata["visibility visible, p >= 0.5"] == (1, 1) and strata["visibility unknown, p >= 0.5"] == (1, 1)
    assert rep.found[0]["name"] == "d" and rep.missed[0]["name"] == "a" and rep.found[0]["theta_E"] is None


def test_without_calibration_the_logit_is_cut_and_named():
    "The same galaxies on either side, and nothing that calls itself a probability"
    table, p = {"name": np.array(list("abcd"), object)}, np.array([0.1, 0.6, 0.8, 0.95])
    impostors = {"name": np.array(list("xyz")), "class": np.array(["ring", "ring", "merger"]), "logit": np.log([1.5, 0.1, 0.25])}
    rep = a.stage0(table, np.log(p / (1 - p)), None, impostors)
    assert rep.measure == "logit" and [(s.what, s.found) for s in rep.recall] == [
        ("recall, logit >= 0", 3),
        ("recall, logit >= 0.8473", 2),
        ("recall, logit >= 2.197", 1),
    ]
    assert [(s.what, s.found, s.n) for s in rep.contamination[3:]] == [("merger, logit >= 0", 0, 1), ("ring, logit >= 0", 1, 2)]
    said = json.dumps(asdict(rep))
    assert "p_lens" not in said and '"p"' not in said and set(rep.scores["lenses"]) == {"n", "mean", "median", "std", "logit"}
    with pytest.raises(BadInput, match="not finite"):
        a.stage0(table, np.log(p / (1 - p)), np.full(4, np.nan), None)


def test_no_impostors_is_no_pass():
    "However many lenses are found: without impostors the rule was not tested"
    table = {"name": np.array(["a"], object)}
    rep = a.stage0(table, np.array([3.0]), np.array([0.95]))
    assert rep.passed is None and rep.verdict.startswith("not tested: recall 1 of 1")
    assert a.stage0(table, np.array([-3.0]), np.array([0.05])).passed is False


def test_saturated_negatives_are_told_not_hidden():
    rows = a.fixed_rate_recall(np.full(10, 9.0), np.r_[np.full(60, 9.0), np.random.default_rng(0).normal(-3, 1, 20000)], None, [1e-3])
    assert np.isnan(rows[0]["value"]) and "ties decide" in rows[0]["status"]


def test_bad_lists_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("name,ra\nx,1\n")
    with pytest.raises(BadInput, match="no column dec"):
        a.read_positions(str(tmp_path / "a.csv"))
    (tmp_path / "b.csv").write_text("name,ra,dec\nx,1,2\ny,,3\n")
    with pytest.warns(UserWarning, match="line 3: no right ascension"):
        assert a.read_positions(str(tmp_path / "b.csv")).columns["name"].tolist() == ["x"]
    with pytest.raises(BadInput, match="expected as many of each"):
        a.stage0({"name": np.array(["a"], object)}, np.zeros(2), np.zeros(2))


def test_footprint_ends_in_the_north_and_at_the_plane():
    assert a.in_footprint([150, 150, 266.4, 350], [2, 33, -29, -40]).tolist() == [True, False, False, True]
