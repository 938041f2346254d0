"The list opens in what its users use, says the truth about itself, and refuses what is not a list"

import csv
import io
from dataclasses import replace
from decimal import Decimal

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits, votable
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from regions import Regions

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.schema import check_table, product_columns
from dark_halo_scope.base.sphere import separation
from dark_halo_scope.base.storage import write_bytes
from dark_halo_scope.search.candidates import (
    CandidateRecipe,
    KnownList,
    candidate_name,
    choose_threshold,
    crossmatch,
    known_list,
    list_candidates,
    same_system,
    search_cuts,
    threshold_at_fpr,
    threshold_at_purity,
)
from dark_halo_scope.search.catalogues import catalogue_files
from dark_halo_scope.search.products import Searched, beside_census
from dark_halo_scope.stats.calibration import fit_calibrator, survey_yield
from dark_halo_scope.stats.metrics import TiedScores
from dark_halo_scope.survey.bricks import brick_ids, brick_names
from dark_halo_scope.survey.maskbits import mask_value
from dark_halo_scope.trust.anchors import name_agrees

PREVALENCE = 0.02


def scores_of(rng, is_lens):
    return rng.normal(np.where(is_lens, 2.0, -2.0), 1.5).astype(np.float32)


def a_sky(rng, n=3000):
    ra, dec = rng.uniform(149, 151, n), rng.uniform(-1, 3, n)
    is_lens = rng.random(n) < PREVALENCE
    sky = {
        "ra": ra,
        "dec": dec,
        "brickid": brick_ids(ra, dec),
        "release": np.full(n, 10000),
        "objid": np.arange(n),
        "maskbits": np.zeros(n, int),
    }
    sky |= {"brickname": brick_names(sky["brickid"]), "split": np.full(n, "test", object), "psfdepth_r": np.full(n, 1400.0)}
    return sky | {f"{c}_{b}": np.full(n, v) for b in "grz" for c, v in (("mag", 19.0), ("psfsize", 1.3))}, is_lens, scores_of(rng, is_lens)


def a_search(seed, recipe, labelled=2000, lists=()):
    rng = np.random.default_rng(seed)
    label = np.arange(labelled) % 2
    logit = scores_of(rng, label == 1)
    threshold = choose_threshold(logit, label, np.arange(labelled), recipe)
    expected = survey_yield(logit, label, threshold.logit, recipe.prevalence)
    sky, is_lens, scores = a_sky(rng)
    found = list_candidates(sky, scores, "m", threshold, expected, fit_calibrator(logit, label), lists, recipe)
    return found, is_lens, sky, scores


RECIPE = CandidateRecipe(fpr=0.02, prevalence=(PREVALENCE, PREVALENCE))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A list in every dress"
    first = a_search(1, RECIPE)[0].table
    places = KnownList("book", np.array(["known, one", "known <two>"]), first["ra"].to_numpy()[:2] + 1e-5, first["dec"].to_numpy()[:2])
    found, *_ = a_search(1, RECIPE, lists=[places])
    table, folder = found.table, tmp_path_factory.mktemp("list")
    assert table["known_as"].to_pylist()[:3] == ["known, one", "known <two>", None]
    meta = {"threshold": found.threshold.logit, "purity expected": 0.3}
    for address, data in catalogue_files(table, str(folder / "candidates"), meta=meta, description="A list").items():
        write_bytes(data, address)
    return table, folder


def test_astropy_reads_back_values_units_and_ucds(made) -> None:
    table, folder = made
    wanted = {c.name: c for c in product_columns("candidates") if c.name in table.column_names or not c.optional}
    for name, how in (("fits", {"hdu": 1}), ("vot", {"format": "votable"}), ("ecsv", {"format": "ascii.ecsv"})):
        copy = Table.read(folder / f"candidates.{name}", **how)
        assert copy.colnames == table.column_names and len(copy) == len(table)
        for c in wanted.values():
            assert str(copy[c.name].unit or "") == c.unit, (name, c.name)
            values, mine = copy[c.name], table[c.name].to_pylist()
            mask = np.broadcast_to(np.ma.getmaskarray(np.ma.asarray(values)), len(copy))
            for got, absent, want in zip(np.ma.getdata(values).tolist(), mask, mine):
                got = got.decode() if isinstance(got, bytes) else got
                assert (
                    absent or got == "" or (isinstance(got, float) and np.isnan(got))
                    if want is None
                    else str(got) == str(want) or np.float32(got) == np.float32(want)
                )
        print(
            f"\n{name}: {len(copy)} rows, ra [{copy['ra'].unit}], psfsize_r [{copy['psfsize_r'].unit}], mag_r [{copy['mag_r'].unit}]",
            end="",
        )
    header = fits.getheader(folder / "candidates.fits", 1)
    place = {header[f"TTYPE{i}"]: i for i in range(1, header["TFIELDS"] + 1)}
    assert {n: header.get(f"TUCD{i}", "") for n, i in place.items()} == {n: c.ucd for n, c in wanted.items()}
    assert {n: header[f"TCOMM{i}"] for n, i in place.items()} == {n: c.meaning for n, c in wanted.items()} and header[
        "purity expected"
    ] == 0.3
    parsed = votable.parse(folder / "candidates.vot", verify="exception").get_first_table()
    assert {f.name: f.ucd or "" for f in parsed.fields} == {n: c.ucd for n, c in wanted.items()}
    assert [f.ref for f in parsed.fields if f.name in ("ra", "dec")] == ["icrs", "icrs"]
    ecsv = Table.read(folder / "candidates.ecsv", format="ascii.ecsv")
    assert {n: ecsv[n].meta.get("ucd", "") for n in ecsv.colnames} == {n: c.ucd for n, c in wanted.items()}
    print("\nucd of p_lens:", wanted["p_lens"].ucd, "| of ra:", wanted["ra"].ucd)


def test_strict_csv_and_regions(made) -> None:
    table, folder = made
    text = (folder / "candidates.viewer.csv").read_text()
    rows = list(csv.reader(io.StringIO(text), strict=True))
    assert (
        rows[0] == ["RA", "DEC", "NAME", "COLOR", "RADIUS"] and {len(r) for r in rows} == {5} and text.endswith("\n") and "\r" not in text
    )
    arrow = pyarrow.csv.read_csv(folder / "candidates.viewer.csv")
    assert np.allclose(arrow["RA"].to_numpy(), table["ra"].to_numpy(), atol=1e-7) and arrow["NAME"].to_pylist() == table["name"].to_pylist()
    circles = Regions.read(folder / "candidates.reg", format="ds9")
    sky = SkyCoord(table["ra"].to_numpy() * u.deg, table["dec"].to_numpy() * u.deg)
    centres = SkyCoord([c.center.icrs for c in circles])
    assert (sky.separation(centres).arcsec < 1e-3).all() and {c.radius.to_value("arcsec") for c in circles} == {5.0}
    assert [c.meta["text"] for c in circles] == table["name"].to_pylist()
    assert [c.visual["edgecolor"] for c in circles][:3] == ["orange", "orange", "green"] and [r[3] for r in rows[1:4]] == [
        "orange",
        "orange",
        "lime",
    ]
    check_table(table, "candidates")


def test_purity_lies_in_its_stated_interval() -> None:
    "150 searches: the interval forecast from labelled stamps holds the true purity of the list at least as often as it says"
    rng, held, gap = np.random.default_rng(0), [], []
    for _ in range(150):
        label = np.arange(1200) % 2
        logit = scores_of(rng, label == 1)
        threshold = threshold_at_fpr(logit, label, 0.03)
        y = survey_yield(logit, label, threshold.logit, PREVALENCE)
        # The purity that an endless survey has at this threshold.
        sky = np.arange(400_000) % 50 == 0
        true = sky[scores_of(rng, sky) >= threshold.logit].mean()
        held.append(y.purity_lo <= true <= y.purity_hi)
        gap.append(y.purity - true)
    assert np.mean(held) >= 0.93 and abs(np.mean(gap)) < 0.03, (np.mean(held), np.mean(gap))


def test_calibrated_probabilities_forecast_the_purity_too() -> None:
    listed = [a_search(seed, RECIPE) for seed in range(12)]
    truth = np.concatenate([is_lens[found.rows] for found, is_lens, *_ in listed])
    p = np.concatenate([found.table["p_lens"].to_numpy() for found, *_ in listed])
    assert len(p) > 500 and abs(p.mean() - truth.mean()) < 3 * np.sqrt(truth.mean() * (1 - truth.mean()) / len(p)) + 0.03


@settings(max_examples=80, deadline=None)
@given(fpr=st.sampled_from([0.01, 0.03, 0.1, 0.5]), seed=st.integers(0, 10**6))
def test_threshold_keeps_to_its_rate(fpr: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(1500) % 2)
    logit = scores_of(rng, label == 1)
    found = threshold_at_fpr(logit, label, fpr)
    negatives = logit[label == 0]
    assert (
        found.above == (negatives >= found.logit).sum() <= fpr * len(negatives) and found.found == (logit[label == 1] >= found.logit).sum()
    )
    lower = negatives[negatives < np.float32(found.logit)].max()
    assert (negatives >= lower).sum() > fpr * len(negatives)  # the next negative down would be one too many


def test_threshold_by_purity() -> None:
    rng = np.random.default_rng(3)
    label = np.arange(8000) % 2
    logit = scores_of(rng, label == 1)
    chosen = [threshold_at_purity(logit, label, purity, 0.02) for purity in (0.3, 0.6)]
    assert chosen[0].logit < chosen[1].logit
    fresh = np.arange(400_000) % 50 == 0
    scores = scores_of(rng, fresh)
    reached = [fresh[scores >= t.logit].mean() for t in chosen]
    assert abs(reached[0] - 0.3) < 0.08 and abs(reached[1] - 0.6) < 0.12
    copies = [np.repeat(v[:800], 10) for v in (logit, label)]
    with pytest.raises(BadInput, match="400 galaxies"):  # copies of a galaxy show no more than the galaxy
        threshold_at_purity(*copies, 0.9, 1e-3, hosts=np.repeat(np.arange(800), 10))


def test_ties_are_refused() -> None:
    label = np.arange(2000) % 2
    with pytest.raises(TiedScores):
        threshold_at_fpr(np.where(label == 1, 1.0, np.where(np.arange(2000) % 20 == 0, 1.0, 0.0)).astype(np.float32), label, 0.05)


@settings(max_examples=300, deadline=None)
@given(ra=st.floats(0, 359.99999999), dec=st.floats(-89.9999, 89.9999))
def test_a_name_never_points_beyond_its_object(ra: float, dec: float) -> None:
    name = candidate_name(ra, dec)
    assert len(name) == 21 and name_agrees(name, ra, dec)
    a, d = Decimal(name[5:13]), Decimal(name[13:])
    unit = Decimal("0.0001")
    assert 0 <= Decimal(repr(ra)) - a < unit and 0 <= abs(Decimal(repr(dec))) - abs(d) < unit


def test_names_of_awkward_places() -> None:
    assert candidate_name(150.1, 2.3) == "DESI-150.1000+02.3000" and candidate_name(-0.5, 0.0) == "DESI-359.5000+00.0000"
    assert candidate_name(0.29999999999999999, -1e-9) == "DESI-000.3000-00.0000" and candidate_name(1e-12, 90.0) == "DESI-000.0000+90.0000"
    for place in ((np.nan, 0.0), (10.0, 91.0)):
        with pytest.raises(BadInput, match="on the sky"):
            candidate_name(*place)


def test_crossmatch_is_astropys() -> None:
    "Random places with a match at every distance, at the pole and across 0 h"
    rng = np.random.default_rng(8)
    ra = np.concatenate([rng.uniform(0, 360, 300), rng.normal(0, 0.002, 100) % 360, rng.uniform(0, 360, 100)])
    dec = np.concatenate([rng.uniform(-85, 85, 300), rng.normal(0, 0.002, 100), 90 - rng.uniform(0, 0.003, 100)])
    other = (ra + rng.normal(0, 3, 500) / 3600 / np.cos(np.radians(dec))) % 360, np.clip(dec + rng.normal(0, 3, 500) / 3600, -90, 90)
    lists = [
        KnownList("a", np.arange(250).astype(str), *(v[:250] for v in other)),
        KnownList("b", np.arange(250, 500).astype(str), *(v[250:] for v in other)),
    ]
    found = crossmatch(ra, dec, lists, 5.0)
    at, apart, _ = SkyCoord(ra * u.deg, dec * u.deg).match_to_catalog_sky(SkyCoord(other[0] * u.deg, other[1] * u.deg))
    near = apart.arcsec <= 5.0
    assert 100 < near.sum() < 480 and [v is not None for v in found["known_as"]] == near.tolist()
    assert all(found["known_as"][i] == str(at[i]) and found["known_list"][i] == ("a" if at[i] < 250 else "b") for i in np.flatnonzero(near))
    assert np.allclose([found["known_arcsec"][i] for i in np.flatnonzero(near)], apart.arcsec[near], atol=1e-4)


def test_one_system_against_the_rule_written_out() -> None:
    rng = np.random.default_rng(9)
    ra, dec = (10 + rng.uniform(0, 40, 400) / 3600) % 360, rng.uniform(0, 40, 400) / 3600
    owner = same_system(ra, dec, 3.0)
    kept: list[int] = []
    for i in range(400):
        near = [j for j in kept if separation(ra[i], dec[i], ra[j], dec[j])[0] <= 3.0]
        assert owner[i] == (near[0] if near else i)
        kept += [] if near else [i]
    assert 20 < len(kept) < 200


def test_lenscats_table_is_read_and_its_clusters_left_out(tmp_path) -> None:
    rows = ["name,RA [deg],DEC [deg],zlens,type,grading,ref", "A,1.5,-2.5,0.4,galaxy,probable,Huang et al. (2021)"]
    rows.append("B,2.5,-2.5,not measured,galaxy,probable,Lopes et al. (2004)")
    (tmp_path / "lenscat.csv").write_text("\n".join(rows))
    assert known_list(str(tmp_path / "lenscat.csv"), ("Lopes",)).names.tolist() == ["A"]
    assert len(known_list(str(tmp_path / "lenscat.csv")).ra) == 2
    (tmp_path / "bad.csv").write_text("name,RA [deg],DEC [deg]\nA,1.5,north\n")
    with pytest.raises(BadInput, match=r"line 2: DEC \[deg\] 'north' is no angle"):
        known_list(str(tmp_path / "bad.csv"))


def test_published_candidates_are_recognised(real_data) -> None:
    "5,103 published positions, moved by up to an arc second: each is known, by a name that fits its place"
    book = known_list(str(real_data / "catalogues" / "desi_candidates.csv"))
    rng = np.random.default_rng(1)
    ra, dec = book.ra + rng.uniform(-0.5, 0.5, len(book.ra)) / 3600, book.dec + rng.uniform(-0.5, 0.5, len(book.ra)) / 3600
    found = crossmatch(ra, dec, [book], 5.0)
    assert all(v is not None for v in found["known_as"]) and max(found["known_arcsec"]) < 1
    assert (crossmatch(ra, dec + 0.1, [book], 5.0)["known_as"].count(None)) > 0.99 * len(ra)
    own = [candidate_name(a, d) for a, d in zip(book.ra, book.dec)]
    assert np.mean([name_agrees(n, a, d) for n, a, d in zip(own, book.ra, book.dec)]) == 1


def test_cuts_are_counted_and_made() -> None:
    sky, _, scores = a_sky(np.random.default_rng(4))
    sky["maskbits"][:10] = mask_value(["CLUSTER"])
    sky["psfdepth_r"][10:30] = 100.0
    recipe = CandidateRecipe(min_depth_r=23.5)
    cuts = search_cuts(sky, scores, 1.0, recipe)
    lost = [int((~keep).sum()) for keep in cuts.values()]
    assert lost[:3] == [0, 10, 20] and list(cuts)[0] == "its brick owns it" and lost[3] == (scores < 1).sum()
    sky["brickid"][0] += 1
    assert int((~search_cuts(sky, scores, 1.0, recipe)["its brick owns it"]).sum()) == 1


def test_a_lens_counts_once_though_two_candidates_lie_near_it() -> None:
    "A galaxy 4 arcsec from a planted lens, listed beside the lens's own galaxy, is what the census says it is"
    recipe = CandidateRecipe(fpr=0.02, prevalence=(PREVALENCE, PREVALENCE))
    found, _, sky, logit = a_search(1, recipe)
    ra, dec = (found.table[c].to_numpy() for c in ("ra", "dec"))
    beside = np.append(dec, dec[0] + 4 / 3600)
    pair = pa.table({"ra": np.append(ra, ra[0]), "dec": beside})
    census = {"kind": np.append(np.full(len(ra), "ring"), "spiral").astype(object), "ra": np.append(ra, ra[0]), "dec": beside}
    sample = Searched(sky | {"logit": logit}, "m", {}, len(logit), [], float(logit.max()))
    told = beside_census(replace(found, table=pair), sample, census, {"ra": ra[:1], "dec": dec[:1]}, recipe.known_arcsec)
    assert told.purity.found == 1 == told.lenses[-1]["lenses"] and told.kinds[0] == "lens" and told.kinds[-1] == "spiral"


def test_companions_are_one_candidate_and_equal_scores_are_ordered() -> None:
    found, _, sky, scores = a_search(3, RECIPE)
    lead = found.rows[0]
    more = {c: np.append(v, v[[lead, lead]]) for c, v in sky.items()}
    more["objid"][-2:] = 99990, 99991
    more["dec"][-2:] += np.array([2.0, 2.5]) / 3600
    again = list_candidates(
        more, np.append(scores, scores[[lead, lead]] - 0.01), "m", found.threshold, found.expected, _calibrator(), [], RECIPE
    )
    assert len(again.rows) == len(found.rows) and again.table["n_merged"].to_pylist()[0] == 2 and again.rows[0] == lead
    level = np.full(len(scores), 3.0, np.float32)
    ties = list_candidates(sky, level, "m", found.threshold, found.expected, _calibrator(), [], RECIPE)
    ids = list(zip(*(ties.table[c].to_pylist() for c in ("release", "brickid", "objid"))))
    assert ids == sorted(ids)


def _calibrator():
    label = np.arange(400) % 2
    return fit_calibrator(scores_of(np.random.default_rng(0), label == 1), label)


def test_bad_input_is_one_clear_line() -> None:
    found, _, sky, scores = a_search(5, RECIPE)
    args = ("m", found.threshold, found.expected, _calibrator(), [], RECIPE)
    empty = {c: v[:0] for c, v in sky.items()}
    twice = {c: np.append(v, v[:1]) for c, v in sky.items()}
    for rows, values, said in (
        (empty, scores[:0], "no galaxy was searched"),
        (twice, np.append(scores, scores[:1]), "occur more than once, such as release 10000"),
        (sky, np.where(np.arange(len(scores)) == 3, np.inf, scores), "1 of 3000 logits are not finite, the first of release 10000"),
        (sky, scores[:-1], "3000 galaxies and 2999 logits"),
        (sky, scores - 50, "none of 3,000 galaxies scores"),
    ):
        with pytest.raises(BadInput) as caught:
            list_candidates(rows, values, *args)
        assert said in str(caught.value) and "\n" not in str(caught.value)
    for choices, said in (
        ({"splits": ("val", "test")}, "sets the threshold and is searched"),
        ({"rates_split": "val"}, "name another rates_split"),
        ({"prevalence": (0.1, 0.01)}, "expected shares"),
        ({"mask_names": ("BRIGTH",)}, "did you mean 'BRIGHT'"),
    ):
        with pytest.raises(BadInput, match=said):
            CandidateRecipe(**choices)
