"Lens models: bad input, sameness, what is found and what is not, the driver, and other codes' reading of the exports"

import importlib
import json
import multiprocessing
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.optimize import nnls
from scipy.special import logsumexp

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.receipts import read_table, write_product
from dark_halo_scope.base.schema import product_columns
from dark_halo_scope.bench.lens_trials import bias_and_coverage, painted_lens, psf_of, run_trial, unlensed, well_seen
from dark_halo_scope.command.cli import main
from dark_halo_scope.lensing import fit, fit_host, fit_solve
from dark_halo_scope.lensing import fit_lens as fit_lens_room
from dark_halo_scope.lensing.deflection import source_position
from dark_halo_scope.lensing.fit import fit_lens, intervals
from dark_halo_scope.lensing.fit_export import coolest
from dark_halo_scope.lensing.fit_lens import (
    Posterior,
    SharedRows,
    background_of,
    distinct,
    image_places,
    normalised,
    profile_chi2,
    settings_of,
    t_draws,
    t_log_density,
)
from dark_halo_scope.lensing.fit_parts import KINDS, FitRecipe, columns_of, fit_stamp, lens_of, new_part, paint_parts, source_of
from dark_halo_scope.lensing.fit_rival import judged
from dark_halo_scope.lensing.fit_solve import curvature, fluxes, refine, solve
from dark_halo_scope.lensing.psf import psf_from_psfsize
from dark_halo_scope.lensing.rays import REACH
from dark_halo_scope.lists.models import LensModelRecipe, brick_tasks, candidates_with, model_brick, model_list
from dark_halo_scope.mock.release import make_mock
from dark_halo_scope.mock.sky import MockRecipe
from dark_halo_scope.run.engine import Engine
from dark_halo_scope.search.candidates import candidate_name

PSF = psf_from_psfsize([[1.48, 1.33, 1.24]])
SKY = np.array([0.0031, 0.0044, 0.0117])[:, None, None]
QUICK = FitRecipe(draws=300, children=64, starts=2, samples=150, sample_rounds=2)


@pytest.fixture(scope="module")
def lens():
    "A lens of theta_E 1.6 arcsec"
    empty = fit_stamp(np.zeros((3, 64, 64)), np.broadcast_to(SKY**-2.0, (3, 64, 64)), PSF)
    galaxy = paint_parts(empty, "sersic", [0.05, 0.0, np.log(0.9), np.log(3.5), 0.1, -0.05])[0] * np.array([2.0, 6.0, 10.0])[:, None, None]
    arc = paint_parts(empty, "lensed", [np.log(1.6), 0.08, -0.05, 0.03, 0.0, 0.05, 0.0, 0.2, 0.1, np.log(0.3), 0.0, 0.1, 0.0])[0]
    return galaxy + 0.2 * arc + SKY * np.random.default_rng(6).normal(size=galaxy.shape), empty.weight


# ---- bad input: a named verdict or a clear error, never a number from nothing


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"psf": None}, "psf: missing"),
        ({"psf": psf_from_psfsize([[1.3, 1.2]])}, "psf: fwhm of shape"),
        ({"invvar": np.ones((2, 64, 64))}, "invvar: shape"),
        ({"image": np.zeros((3, 64, 60))}, "expected .band, y, x., square"),
        ({"image": np.full((3, 64, 64), np.nan)}, "band 0: no pixel counts"),
        ({"invvar": np.zeros((3, 64, 64))}, "band 0: no pixel counts"),
        ({"pixscale": 0.0}, "pixscale is 0"),
    ],
)
def test_a_stamp_that_is_not_one_is_refused(lens, change, says):
    given = {"image": lens[0], "invvar": lens[1], "psf": PSF} | change
    with pytest.raises(BadInput, match=says):
        fit_lens(**given, recipe=QUICK)


def test_what_cannot_be_judged_has_a_name(lens):
    empty = fit_stamp(np.zeros((3, 64, 64)), lens[1], PSF)
    star = 20 * paint_parts(empty, "sersic", [0, 0, -3.4, 0, 0, 0])[0] + SKY * np.random.default_rng(1).normal(size=lens[0].shape)
    r = np.hypot(*(np.mgrid[:64, :64] - 31.5)) * 0.262
    for image, good, says in ((star, None, "a star"), (lens[0], np.zeros((64, 64)), "masked"), (lens[0], r > 1.5, "masked")):
        model = fit_lens(image, lens[1], PSF, good, recipe=QUICK)
        assert model.verdict == "cannot tell" and says in model.why
        assert np.isnan(model.theta_E) and np.isnan(model.delta_log_evidence) and model.images == 0
        with pytest.raises(BadInput, match="none was fitted"):
            _ = model.lensed


def test_holes_and_wild_pixels_that_do_not_count_change_nothing(lens):
    image, good = lens[0].copy(), np.ones((64, 64), bool)
    good[10:14, 40:48] = False
    image[:, 12, 42], image[:, 11, 41] = np.nan, 1e6
    first = fit_lens(image, lens[1], PSF, good, recipe=QUICK, posterior=False)
    second = fit_lens(lens[0], lens[1], PSF, good, recipe=QUICK, posterior=False)
    assert first.theta_E == second.theta_E and first.delta_log_evidence == second.delta_log_evidence


@pytest.mark.parametrize("change", [{"draws": 0}, {"starts": 0}, {"lens_above": -9.0}, {"farthest": 5.0}])
def test_a_recipe_that_cannot_work_is_refused(change):
    with pytest.raises(BadInput, match="fit recipe"):
        FitRecipe(**change)


# ---- what is found, and what is not


PLAIN = {"ln_radius": 0.3, "ln_width": -1.2, "ln_length": 0.1}
ENDS = {
    ("bent", "ln_radius"): (-1.6, 2.3),
    ("bent", "ln_width"): (-2.5, 1.0),
    ("bent", "ln_length"): (-2.5, 3.0),
    ("ring", "ln_radius"): (-1.6, 2.3),
    ("ring", "ln_width"): (-2.5, 1.0),
    **{("ring", name): (-2.0, 2.0) for name in ("c1", "s1", "c2", "s2", "c3", "s3")},
}


@pytest.mark.parametrize(("kind", "name"), ENDS)
def test_bent_light_changes_up_to_its_limits_and_not_beyond(kind, name):
    stamp, column = fit_stamp(np.zeros((1, 88, 88)), np.ones((1, 88, 88)), psf_from_psfsize([[1.3]])), KINDS[kind].index(name)
    rows = np.tile([PLAIN.get(n, 0.0) for n in KINDS[kind]], (6, 1))
    low, high = ENDS[kind, name]
    rows[:, column] = low - 1, low, low + 0.2, high - 0.2, high, high + 1
    beyond_low, at_low, above, below, at_high, beyond_high = paint_parts(stamp, kind, rows)
    assert np.array_equal(beyond_low, at_low) and np.array_equal(beyond_high, at_high)
    assert np.abs(above - at_low).max() > 1e-5 < np.abs(below - at_high).max()


def test_draws_that_differ_in_radius_or_source_position_are_other_starts():
    "Best first: one that lies near a better one in these three is the same start, whatever the rest of it says"
    near = {"ln_theta_E": 0.1, "u": 0.12, "v": 0.12}
    for column, name in enumerate(KINDS["lensed"]):
        rows = np.zeros((3, len(KINDS["lensed"])))
        rows[1:, column] = 0.9 * near.get(name, 1.0), 1.1 * near.get(name, 1.0)
        assert distinct(rows, 3).tolist() == ([0, 2] if name in near else [0]), name
    apart = np.arange(4.0)[:, None] * np.ones(13)
    assert distinct(apart, 3).tolist() == [0, 1, 2]


def test_a_lens_is_a_lens_and_two_neighbours_are_not(lens):
    model = fit_lens(*lens, PSF)
    assert model.verdict == "lens preferred" and model.theta_E_95[0] < 1.6 < model.theta_E_95[1]
    assert model.theta_E_95[0] < model.theta_E_68[0] < model.theta_E_68[1] < model.theta_E_95[1] and model.images >= 2
    assert model.counter["allowed"] and model.magnification > 3 and model.effective > 100


def test_the_outer_image_of_a_wide_lens_is_no_stranger(monkeypatch):
    "theta_E of 3.1 arcsec: the outer image lies beyond 5 arcsec; without the partner rule it is masked, and the lens is not preferred"
    trial = painted_lens(3, 2, crowded=0.0)
    given = trial.image, trial.invvar, psf_of(trial.psfsize)
    wide = fit_lens(*given, posterior=False)
    monkeypatch.setattr(fit_host, "_paired", lambda x, y, far: np.zeros(len(x), bool))
    assert wide.verdict == "lens preferred" and abs(wide.theta_E / trial.truth["theta_E"] - 1) < 0.06 and trial.truth["theta_E"] > 3.1
    assert fit_lens(*given, posterior=False).verdict != "lens preferred"


def test_columns_hold_the_pixels_that_count_in_some_band(lens):
    "What is packed comes back to its place, and a stamp with holes has the columns of the whole one without them"
    image, invvar = lens
    holes = np.random.default_rng(4).random(image.shape) < [[[0.9]], [[0.5]], [[0.5]]]
    whole, some = (fit_stamp(image, np.where(h, 0, invvar), PSF) for h in (np.zeros_like(holes), holes))
    assert np.array_equal(some.used, np.flatnonzero(~holes.all(0))) and 0 < len(some.used) < len(whole.used) == 64 * 64
    assert np.array_equal(some.spread(some.packed(image)), np.where(holes.all(0), 0, image))
    blob = new_part("sersic", FitRecipe(), values=[0.4, -0.3, -1.0, 0.0, 0.1, 0.0])
    columns = whole.spread(columns_of(whole, blob.kind, blob.values))[0]
    assert np.array_equal(some.spread(columns_of(some, blob.kind, blob.values))[0], np.where(holes, 0, columns))


@pytest.mark.parametrize("kind", ["sersic", "lensed"])
def test_a_sketch_is_the_same_picture(kind):
    "On one cell per pixel, for seeings from 1.1 arcsec: of forty draws over the prior that lie within the stamp, none is off by more than 3 % of its peak"
    stamp = fit_stamp(np.zeros((3, 64, 64)), np.ones((3, 64, 64)), psf_from_psfsize([[1.4, 1.2, 1.1]]))
    part, draw = new_part(kind, FitRecipe()), np.random.default_rng(8)
    rows = part.middle + part.width * draw.normal(size=(40, len(part.middle)))
    rows[:, 0] = np.minimum(rows[:, 0], np.log(3)) if kind == "lensed" else np.clip(rows[:, 0], -4, 4)
    fine, sketch = paint_parts(stamp, kind, rows), paint_parts(stamp, kind, rows, stamp.sketch)
    inside = (slice(None), slice(None), slice(4, 60), slice(4, 60))
    assert (np.abs(sketch - fine)[inside].max((1, 2, 3)) < 0.03 * fine.max((1, 2, 3))).all()


def test_a_part_multiplied_once_serves_every_setting(lens):
    "The host alone, with each of two neighbours, and with both: chi2 from shared products is that of each setting's own"
    image, invvar = lens
    host = fit_host.fit_host(fit_stamp(image, invvar, PSF))
    beside = [new_part("sersic", FitRecipe(), values=[x, 1.0, np.log(0.4), 0.0, 0.0, 0.1]) for x in (-1.2, 1.5)]
    models = settings_of(host, beside)
    part, draw = new_part("lensed", FitRecipe()), np.random.default_rng(5)
    columns = columns_of(host.stamp, "lensed", part.middle + part.width * draw.normal(size=(12, len(part.middle))))
    shared = SharedRows(host.stamp, models).crosses(columns)
    assert len(models) == len(shared) == 4
    for model, crosses in zip(models, shared):
        back = background_of(host.stamp, model)
        assert np.allclose(profile_chi2(back, columns, False, crosses)[0], profile_chi2(back, columns)[0], rtol=1e-4)


def test_images_lie_on_their_source_and_none_lies_beyond_the_search(monkeypatch):
    "Thirty lenses over a wide prior: each ray lands near the source (an image about to merge with another need not exist), and a search over sixteen arcsec finds no other"
    part, draw, rows_of = new_part("lensed", FitRecipe(shear=0.1)), np.random.default_rng(9), fit_lens_room.lens_rows
    for values in part.middle + part.width * draw.normal(size=(30, len(part.middle))):
        monkeypatch.setattr(fit_lens_room, "lens_rows", rows_of)
        near, lens = image_places(part.at(values), reach=16), lens_of(values[None])
        bx, by = source_position(lens, near[None, :, 0], near[None, :, 1])
        assert np.allclose(np.stack([bx[0], by[0]]).T, source_of(values[None], lens)[0, 0, :2], atol=0.1 * max(lens.theta_E[0], 1))
        monkeypatch.setattr(fit_lens_room, "lens_rows", lambda one: rows_of(one) + 20 * (np.arange(11) == REACH))
        wide = image_places(part.at(values), reach=16)
        assert len(near) and (np.hypot(*(wide[:, None, :2] - near[None, :, :2]).T).min(0) < 0.02).all()


def test_slopes_carried_over_end_where_painted_ones_do(lens, monkeypatch):
    stamp = fit_stamp(*lens, PSF)
    start = solve(stamp, [new_part("host", FitRecipe())])
    carried = refine(stamp, start, steps=30, tolerance=0.01)
    monkeypatch.setattr(fit_solve, "PATIENCE", 0)
    painted = refine(stamp, start, steps=30, tolerance=0.01)
    assert abs(carried.objective - painted.objective) < 0.5 and carried.objective < start.objective - 500


def test_no_unlensed_galaxy_of_four_is_a_lens():
    rows = [run_trial(("unlensed", 3, i, False, QUICK)) for i in range(4)]
    assert [r["verdict"] for r in rows].count("lens preferred") == 0


def test_without_its_rival_a_neighbour_passes_for_a_lens(monkeypatch):
    "The guard is the rival: with the host alone for a rival, unlensed neighbours are lenses"
    trials = [unlensed(3, i) for i in range(3)]

    def deltas():
        return [fit_lens(t.image, t.invvar, psf_of(t.psfsize), recipe=QUICK, posterior=False).delta_log_evidence for t in trials]

    guarded = deltas()
    monkeypatch.setattr(fit, "search_rival", lambda host, recipe, *more: judged(host.stamp, host.model, recipe))
    assert max(guarded) < QUICK.lens_above < min(deltas())


@pytest.mark.parametrize("bands", [1, 2])
def test_any_number_of_bands(lens, bands):
    psf = psf_from_psfsize([[1.48, 1.33, 1.24][:bands]])
    model = fit_lens(lens[0][:bands], lens[1][:bands], psf, recipe=QUICK, posterior=False)
    assert abs(model.theta_E - 1.6) < 0.25 and len(model.source_mag) == bands


def test_light_as_red_as_the_host_is_no_arc(lens):
    "The same arc in the host's colours: its shape speaks for a lens, its colour for the host's own light"
    empty = fit_stamp(np.zeros((3, 64, 64)), lens[1], PSF)
    arc = paint_parts(empty, "lensed", [np.log(1.6), 0.08, -0.05, 0.03, 0.0, 0.05, 0.0, 0.2, 0.1, np.log(0.3), 0.0, 0.1, 0.0])[0]
    red = lens[0] + (np.array([0.05, 0.2, 0.5])[:, None, None] - 0.2) * arc
    recipe = replace(FitRecipe(), draws=300, children=64, starts=2)
    model = fit_lens(red, lens[1], PSF, recipe=recipe, posterior=False)
    assert model.verdict == "cannot tell" and "as red as the host" in model.why and model.delta_log_evidence > recipe.lens_above


def _fitted(pair) -> bytes:
    model = fit_lens(*pair, PSF, recipe=QUICK, seed=3)
    return model.lensed.values.tobytes() + np.array([*model.theta_E_68, model.delta_log_evidence]).tobytes()


def test_the_same_bytes_in_another_process(lens):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_fitted, [lens])[0] == _fitted(lens)


# ---- the pieces, against other codes


def test_fluxes_are_scipys_where_some_are_zero():
    generator = np.random.default_rng(5)
    a = np.abs(generator.normal(size=(200, 40, 6))) * generator.uniform(0.1, 3, (200, 1, 6))
    b = generator.normal(size=(200, 40)) + 0.2
    ours = fluxes(np.einsum("npk,npl->nkl", a, a), np.einsum("npk,np->nk", a, b))
    peer = np.array([nnls(x, y)[0] for x, y in zip(a, b)])
    chi2 = [((y - x @ f) ** 2).sum() for x, y, f in zip(a, b, ours)]
    best = [((y - x @ f) ** 2).sum() for x, y, f in zip(a, b, peer)]
    assert np.allclose(chi2, best, rtol=1e-4) and (ours == 0).mean() > 0.2


def test_the_evidence_is_the_integral():
    "Laplace's evidence of one galaxy against importance sampling of the very integral"
    empty = fit_stamp(np.zeros((1, 32, 32)), np.full((1, 32, 32), 1e4), psf_from_psfsize([[1.3]]))
    light = paint_parts(empty, "sersic", [0, 0, np.log(0.8), np.log(2.0), 0.0, 0.0])[0] * 3.0
    stamp, recipe = fit_stamp(light + 0.01 * np.random.default_rng(1).normal(size=light.shape), empty.weight, empty.psf), FitRecipe()
    model = refine(stamp, solve(stamp, [new_part("host", recipe)]), steps=30, tolerance=0.01)
    part, ours = model.parts[0], judged(stamp, model, recipe).log_z
    chol = np.linalg.cholesky(1.3 * np.linalg.inv(curvature(stamp, model, [0])[1]))
    rows = t_draws(part.values, chol, 1500, np.random.default_rng(2))
    log_p = []
    for row in rows:
        one = solve(stamp, [part.at(row)])
        log_p.append(-0.5 * one.objective - 0.5 * np.log((one.columns[0, 0].astype(float) ** 2).sum()))
    weight = np.array(log_p) - t_log_density(rows, part.values, chol)
    integral = (
        logsumexp(weight)
        - np.log(len(rows))
        - np.log(part.width).sum()
        - 3 * np.log(2 * np.pi)
        + np.log(np.sqrt(2 * np.pi) / recipe.flux_scale)
    )
    assert normalised(weight)[1] > 200 and ours == pytest.approx(integral, abs=0.4)


def test_weights_of_one_draw_are_one():
    weight, effective = normalised(np.array([-1e5, 0.0, -1e5]))
    assert weight.tolist() == [0, 1, 0] and effective == 1


def test_coolest_reads_our_file(lens, tmp_path):
    package = pytest.importorskip("coolest.template.json")
    model = fit_lens(*lens, PSF, recipe=QUICK)
    (tmp_path / "model.json").write_text(coolest(model, ra=150.0, dec=2.0, z_l=0.5, z_s=2.0))
    read = package.JSONSerializer(str(tmp_path / "model"), check_external_files=False).load(skip_jsonpickle=True, verbose=False)
    assert read.lensing_entities[1].mass_model[0].parameters["theta_E"].point_estimate.value == model.theta_E


# ---- the driver


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    "A mock release of two bricks"
    root = str(tmp_path_factory.mktemp("mock") / "release")
    recipe = MockRecipe(
        rows=1, columns=2, n_pix=400, lrgs=3.0, blue=3.0, spirals=0.0, rings=0.0, mergers=0.0, stars=1.0, n_lenses=4, uncovered=0.0
    )
    make_mock(root, recipe)
    return root


def test_a_list_is_modelled_once_and_resumed(release, tmp_path, monkeypatch):
    recipe, places = LensModelRecipe(posterior=False, fit=QUICK), f"{release}/truth/known_lenses.csv"
    first = model_list(places, str(tmp_path), recipe, release, Engine(workers=1))
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "bricks").glob("*.parquet")}
    (gone, *_) = sorted((tmp_path / "bricks").glob("*.parquet"))
    gone.unlink()
    second = model_list(places, str(tmp_path), recipe, release, Engine(workers=1))
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "bricks").glob("*.parquet")}
    assert first.identity["content"] == second.identity["content"] and {n for n in after if after[n] != before[n]} == {gone.name}
    table = read_table(str(tmp_path / "models.parquet"))
    assert len(table) == 4 and set(table["verdict"].to_pylist()) <= {"lens preferred", "rival preferred", "cannot tell"}
    assert json.loads(table["lens_parts"][0].as_py())[0]["kind"] == "sersic" and (tmp_path / "models.html").exists()
    assert len(list((tmp_path / "panels").glob("*.png"))) == len(list((tmp_path / "exports").glob("*.coolest.json")))


def test_candidates_get_columns_with_ucds(release, tmp_path):
    recipe = LensModelRecipe(posterior=True, fit=QUICK)
    model_list(f"{release}/truth/known_lenses.csv", str(tmp_path), recipe, release, Engine(workers=1))
    models = read_table(str(tmp_path / "models.parquet"))
    wanted = {c.name: c for c in product_columns("candidates")}
    assert {"theta_E", "theta_E_lo", "theta_E_hi", "delta_log_evidence", "verdict"} <= {
        n for n, c in wanted.items() if c.optional and c.ucd
    }
    n = len(models)
    columns = {
        c.name: ([0] * n if c.dtype.startswith("int") else [0.0] * n if c.dtype.startswith("float") else [""] * n)
        for c in wanted.values()
        if not c.optional
    }
    from dark_halo_scope.base.schema import table_from

    candidates = table_from(columns | {"name": models["name"]}, "candidates")
    whole = candidates_with(candidates, models, "grz")
    assert whole["theta_E"].to_pylist() == models["theta_E"].to_pylist() and whole["verdict"].null_count == 0
    with pytest.raises(BadInput, match="none for 1 candidates"):
        candidates_with(table_from(columns | {"name": ["another", *models["name"].to_pylist()[1:]]}, "candidates"), models, "grz")


def test_a_place_without_pixels_has_a_verdict(release, tmp_path):
    recipe = LensModelRecipe(posterior=False, fit=QUICK)
    model_list(f"{release}/truth/known_lenses.csv", str(tmp_path), recipe, release, Engine(workers=1))
    stamps = pq.read_table(tmp_path / "stamps.parquet")
    blind = stamps.set_column(stamps.column_names.index("cutout_ok"), "cutout_ok", [[False] * len(stamps)])
    write_product(blind, str(tmp_path / "blind.parquet"), "stamps", {"code": "x"})
    for _, task in brick_tasks(str(tmp_path / "blind.parquet"), str(tmp_path / "again"), recipe, ""):
        model_brick(task)
        assert set(read_table(task.out)["verdict_why"].to_pylist()) == {"no usable cutout"}


def test_a_list_that_is_not_one_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "list.csv").write_text("name,ra\nA,1\n")
    monkeypatch.setattr(
        "sys.argv", ["dhs", "model", str(tmp_path / "list.csv"), "--release", str(tmp_path), "--out", str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and "list.csv" in capsys.readouterr().err


@pytest.mark.slow
def test_spark_gives_the_same_models(release, tmp_path):
    pytest.importorskip("pyspark")
    recipe, places = LensModelRecipe(posterior=False, fit=QUICK), f"{release}/truth/known_lenses.csv"
    local = model_list(places, str(tmp_path / "local"), recipe, release, Engine(workers=1))
    spark = model_list(places, str(tmp_path / "spark"), recipe, release, Engine(kind="spark", master="local[1]"))
    assert local.identity["content"] == spark.identity["content"]


@pytest.mark.slow
def test_theta_E_is_unbiased_and_its_interval_honest():
    rows = [run_trial(("painted", 31, i, True, FitRecipe())) for i in range(40)]
    facts = bias_and_coverage([r for r in rows if well_seen(r)])
    print(facts)
    assert abs(facts["median_ratio"] - 1) < 0.02 + 2 * facts["median_error"] and facts["in_68"] > 0.45


def test_a_trial_stands_alone():
    a, b = painted_lens(4, 2), painted_lens(4, 2)
    assert np.array_equal(a.image, b.image) and not np.array_equal(a.image, painted_lens(4, 3).image)
    assert candidate_name(150.1, 2.2).startswith("DESI-") and importlib.util.find_spec("lenstronomy") and replace(QUICK, draws=5).draws == 5


def test_a_sampling_that_missed_the_posterior_gives_no_interval():
    "One draw far out with all the weight: no interval rather than a narrow one around it; a draw that cannot be painted has no weight"
    rows = np.log(np.array([[2.0], [2.1], [11.5]]))
    one, all_ = (
        intervals(Posterior(np.repeat(rows, 40, 0), np.repeat(w, 40) / 40, n), FitRecipe())
        for w, n in (([0, 0, 1.0], 1.0), ([0.5, 0.5, 0], 80.0))
    )
    assert np.isnan(one).all() and np.isfinite(all_).all()
    row = run_trial(("painted", 2001, 237, True, FitRecipe()))  # its widest draws overflow the painter
    assert np.isfinite(row["theta_E"]) and np.isnan([row["theta_E_lo"], row["theta_E_hi"]]).all()
