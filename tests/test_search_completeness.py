"Intervals that hold, weights that mean what they say, and no answer where nothing was measured"

import io

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.stats import binom_conf_interval
from astropy.table import Table
from scipy import special

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.receipts import read_table, write_table
from dark_halo_scope.search.candidates import rate_rows
from dark_halo_scope.search.catalogues import completeness_fits
from dark_halo_scope.search.completeness import (
    Axis,
    CellMap,
    CompletenessRecipe,
    LensDefinition,
    all_maps,
    completeness_from,
    completeness_map,
    completeness_table,
    could_be_found,
    disputed,
    effective_number,
    estimate,
    forecast,
    forecast_bins,
    host_correlation,
    injections_table,
    jeffreys,
    mixture_recall,
    survey_conditions,
    survey_weights,
)

CELLS = 250  # trials of one number and rate


def trials(rng, n, p, spread, luck, per_host, kept_hosts=True):
    "A map whose every cell is one trial: about n injections found at rate p, weights, and hosts that share luck"
    cell = rng.integers(0, CELLS, n * CELLS)
    host = cell * n + rng.integers(0, max(n // per_host, 1), len(cell))
    shared = rng.random(CELLS * n)[host]
    u = np.where(rng.random(len(cell)) < np.sqrt(luck), shared, rng.random(len(cell)))
    weight = rng.lognormal(0, spread, len(cell))
    table = injections_table(u < p, host if kept_hosts else np.arange(len(cell)), {"theta_E": cell + 0.5}, weight)
    return completeness_map(table, [Axis("theta_E", tuple(range(CELLS + 1)))])


def test_intervals_hold_over_numbers_rates_weights_and_hosts() -> None:
    "93 to 97 % of the intervals contain the truth, in every row and column of the grid"
    rng, numbers, rates = np.random.default_rng(11), (12, 30, 100, 400), (0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)
    ways = {"plain": (0.0, 0.0, 1), "weights": (0.6, 0.0, 1), "hosts": (0.0, 0.4, 4), "weights and hosts": (0.6, 0.4, 4)}
    held = np.zeros((len(ways), len(numbers), len(rates)))
    for at in np.ndindex(held.shape):
        n, p = numbers[at[1]], rates[at[2]]
        m = trials(rng, n, p, *list(ways.values())[at[0]])
        held[at] = ((m.lo <= p) & (p <= m.hi)).mean()
    print(f"\nall {held.mean():.4f}")
    for k, name in enumerate(ways):
        print(f"{name:18s}", {n: round(float(v), 3) for n, v in zip(numbers, held[k].mean(1))})
    print("by rate           ", {p: round(float(v), 3) for p, v in zip(rates, held.mean((0, 1)))})
    assert 0.94 < held.mean() < 0.965
    assert (0.93 < held.mean(2)).all() and (held.mean(2) < 0.97).all()
    assert (0.93 < held.mean((0, 1))).all() and (held.mean((0, 1)) < 0.97).all()
    assert held.min() > 0.87


def test_forgotten_hosts_and_weights_are_caught() -> None:
    "The same simulation goes red when repeated hosts or weights are taken for independent injections"
    rng = np.random.default_rng(12)
    careless = trials(rng, 100, 0.4, 0.0, 0.5, 8, kept_hosts=False)
    assert ((careless.lo <= 0.4) & (0.4 <= careless.hi)).mean() < 0.85
    m = trials(rng, 100, 0.4, 1.0, 0.0, 1)
    lo, hi = jeffreys(m.completeness * m.n_injected, m.n_injected)
    assert ((lo <= 0.4) & (0.4 <= hi)).mean() < 0.88 < ((m.lo <= 0.4) & (0.4 <= m.hi)).mean()


def truth_of(theta_E, psfsize_r):
    return special.expit(3 * (theta_E / psfsize_r - 1.1))


def a_search(seed, n=2500, n_hosts=500, seeing=1.35):
    rng = np.random.default_rng(seed)
    host = rng.integers(0, n_hosts, n)
    columns = {"theta_E": rng.uniform(0.5, 2.5, n), "psfsize_r": rng.normal(seeing, 0.12, n_hosts)[host], "psfdepth_r": np.full(n, 1400.0)}
    p = truth_of(columns["theta_E"], columns["psfsize_r"])
    u = np.where(rng.random(n) < np.sqrt(0.3), rng.random(n_hosts)[host], rng.random(n))
    return injections_table(u < p, host, columns), p


AXES = (Axis("theta_E", (0.5, 0.9, 1.3, 1.7, 2.1, 2.5)), Axis("psfsize_r", (1.0, 1.25, 1.35, 1.45, 1.7)))


def test_maps_weighted_by_area_contain_the_truth() -> None:
    "Whole maps over theta_E and seeing, clustered hosts, weights of a survey with other seeing: 93 to 97 % of the cells"
    survey = {"psfsize_r": np.random.default_rng(0).normal(1.4, 0.1, 3000), "depth_r": np.full(3000, 24.2), "area": np.ones(3000)}
    conditions = (Axis("psfsize_r", tuple(np.arange(0.95, 1.86, 0.05))), Axis("depth_r", (20.0, 28.0)))
    big, p = a_search(99, 400_000, 100_000)
    weight, _ = survey_weights(big, survey, conditions)
    place = np.ravel_multi_index(tuple(np.clip(a.index(big[a.name]), 0, None) for a in AXES), (5, 4))
    inside = np.all([a.index(big[a.name]) >= 0 for a in AXES], axis=0)
    truth = (np.bincount(place[inside], (weight * p)[inside]) / np.bincount(place[inside], weight[inside])).reshape(5, 4)
    held = []
    for seed in range(80):
        table, _ = a_search(seed)
        m = completeness_map(table | {"weight": survey_weights(table, survey, conditions)[0]}, AXES)
        held.append((m.lo <= truth) & (truth <= m.hi))
    print(
        f"\n{np.size(held)} cells, {np.mean(held):.4f} hold the truth; by cell {np.mean(held, 0).min():.3f} to {np.mean(held, 0).max():.3f}"
    )
    assert 0.93 < np.mean(held) < 0.97


def test_estimates_between_cells_hold_where_the_truth_is_straight() -> None:
    "Interpolation adds no lie of its own: at random places, under a truth without curvature"
    rng, held = np.random.default_rng(5), []
    axis = (Axis("theta_E", tuple(np.linspace(0, 5, 11))),)
    for _ in range(60):
        x = rng.uniform(0, 5, 1500)
        m = completeness_map(injections_table(rng.random(1500) < 0.1 + 0.15 * x, np.arange(1500), {"theta_E": x}), axis)
        at = rng.uniform(0.25, 4.75, 40)
        found = estimate(m, {"theta_E": at})
        held.append((found.lo <= 0.1 + 0.15 * at) & (0.1 + 0.15 * at <= found.hi))
    assert 0.93 < np.mean(held) < 0.97, np.mean(held)


def test_jeffreys_is_astropys() -> None:
    k, n = np.arange(0, 31), 30
    lo, hi = jeffreys(k, n)
    peer = binom_conf_interval(k, n, interval="jeffreys", confidence_level=0.95)
    assert np.allclose([lo[1:-1], hi[1:-1]], peer[:, 1:-1], atol=1e-9) and lo[0] == 0 and hi[-1] == 1


def test_effective_numbers_against_the_sum_written_out() -> None:
    rng = np.random.default_rng(3)
    weight, cell, host = rng.lognormal(0, 1, 300), rng.integers(0, 4, 300), rng.integers(0, 40, 300)
    for rho in (0.0, 0.3, 1.0):
        fast = effective_number(weight, cell, host, rho, 5)
        for c in range(4):
            w, h = weight[cell == c], host[cell == c]
            noise = sum(a * b * (1 if i == j else rho * (h[i] == h[j])) for i, a in enumerate(w) for j, b in enumerate(w))
            assert np.isclose(fast[c], w.sum() ** 2 / noise)
        assert fast[4] == 0
    pairs = np.repeat(np.arange(3000), 2)
    assert host_correlation(rng.random(3000)[pairs] < 0.3, np.zeros(6000, int), pairs) > 0.97


def test_by_area_is_the_mean_over_the_survey() -> None:
    "Weighted to a survey, completeness is what the survey's own injections would have"
    table, _ = a_search(1, 60_000, 60_000)
    survey = {"psfsize_r": np.random.default_rng(2).normal(1.45, 0.08, 5000), "depth_r": np.full(5000, 24.2), "area": np.ones(5000)}
    weight, missed = survey_weights(table, survey, (Axis("psfsize_r", tuple(np.arange(0.9, 1.9, 0.02))), Axis("depth_r", (20.0, 28.0))))
    whole = (Axis("theta_E", (0.5, 2.5)),)
    there = truth_of(np.random.default_rng(3).uniform(0.5, 2.5, 5000), survey["psfsize_r"]).mean()
    m = completeness_map(table | {"weight": weight}, whole)
    assert m.lo[0] < there < m.hi[0] and abs(m.completeness[0] - there) < 0.01 and missed < 0.02
    assert completeness_map(table, whole).completeness[0] > there + 0.03
    with pytest.raises(BadInput, match="no part|any part"):
        survey_weights(table, survey | {"psfsize_r": np.full(5000, 5.0)}, (Axis("psfsize_r", (1.0, 2.0)), Axis("depth_r", (20.0, 28.0))))


def test_large_bricks_weigh_more_and_edges_belong_to_the_last_cell() -> None:
    table = injections_table(
        np.array([True, False] * 50), np.arange(100), {"psfsize_r": np.tile([1.2, 1.4], 50), "psfdepth_r": np.full(100, 1400.0)}
    )
    axes = (Axis("psfsize_r", (1.1, 1.3, 1.5)), Axis("depth_r", (20.0, 28.0)))
    survey = {"psfsize_r": np.array([1.2, 1.4, 1.9]), "depth_r": np.full(3, 24.0), "area": np.array([0.3, 0.1, 0.1])}
    weight, missed = survey_weights(table, survey, axes)
    m = completeness_map(table | {"weight": weight}, axes[1:])
    assert m.completeness[0] == pytest.approx(0.75) and missed == pytest.approx(0.2)
    assert axes[0].index([1.1, 1.3, 1.5, 1.5001, 1.0999]).tolist() == [0, 1, 1, -1, -1]


def test_conditions_of_bricks_are_means_of_their_galaxies() -> None:
    parent = {"brickid": np.array([336726, 336726, 336727]), "psfsize_r": [1.2, 1.4, 1.5], "psfdepth_r": [1000.0, 3000.0, 1000.0]}
    bricks = survey_conditions(parent)
    assert np.allclose(bricks["psfsize_r"], [1.3, 1.5]) and np.isclose(bricks["depth_r"][1], 22.5 - 2.5 * np.log10(5 / np.sqrt(1000)))
    assert np.allclose(bricks["area"], 0.0625, rtol=0.05)


RECIPE = CompletenessRecipe(
    edges={"theta_E": (0.5, 1.0, 2.5, 4.0), "psfsize_r": (1.0, 1.3, 1.4, 1.8), "depth_r": (22.0, 26.0), "z_l": (0.2, 0.5, 0.8)},
    maps=(("theta_E", "psfsize_r"), ("theta_E", "z_l")),
)


def test_cells_travel_through_parquet_and_fits(tmp_path) -> None:
    table, _ = a_search(4)
    found = all_maps(table, RECIPE, 0.5)
    assert found.absent == ("z_l", "theta_E x z_l")
    product = completeness_table(found, all_maps({c: v[:50] for c, v in table.items()}, RECIPE))
    write_table(product, tmp_path / "c.parquet")
    back = completeness_from(read_table(tmp_path / "c.parquet"))
    assert back.absent == found.absent
    for name, m in found.maps.items():
        for column in ("n_injected", "n_found", "n_effective", "completeness", "lo", "hi", "status"):
            assert np.array_equal(getattr(back.maps[name], column), getattr(m, column), equal_nan=column == "completeness"), (name, column)
    named = product.filter(pa.compute.equal(product["status"], "not in this plan"))
    assert named["map"].to_pylist() == ["z_l", "theta_E x z_l"] and len(completeness_from(product, "planted").maps) == len(found.maps)
    data = completeness_fits(found, None, {"threshold": 0.5})
    cells = Table.read(io.BytesIO(data), hdu=1)
    assert len(cells) == sum(m.status.size for m in found.maps.values()) + 2
    assert cells["completeness"].mask.sum() == sum((m.status == "empty").sum() for m in found.maps.values()) + 2
    with fits.open(io.BytesIO(data)) as hdus:
        hdus.verify("exception")
        image = hdus["THETA_EXPSFSIZE_R"]
        m = found.maps["theta_E x psfsize_r"]
        assert np.allclose(image.data[0], m.completeness.T.astype("f4"), equal_nan=True) and np.allclose(image.data[2], m.hi.T, atol=1e-6)
        assert [image.header[f"XEDGE{i}"] for i in range(4)] == [0.5, 1.0, 2.5, 4.0] and image.header["YAXIS"] == "psfsize_r"


def test_redshift_is_an_axis_where_the_plan_has_it() -> None:
    table, _ = a_search(4)
    table["z_l"] = np.random.default_rng(1).uniform(0.2, 0.8, len(table["found"]))
    found = all_maps(table, RECIPE)
    assert not found.absent and found(theta_E=0.8, z_l=0.4).value[0] == pytest.approx(
        found.maps["theta_E x z_l"].completeness[0, 0], abs=0.2
    )


def test_no_answer_where_nothing_was_measured() -> None:
    "Beyond the edges, in an empty cell, over axes that have no map, and far from any galaxy: refused by name"
    found = all_maps(a_search(4)[0], RECIPE)
    for conditions, said in (
        ({"theta_E": 3.0, "psfsize_r": 1.35}, "nothing was injected at theta_E 2.5 to 4 arcsec, psfsize_r 1.3 to 1.4 arcsec"),
        ({"theta_E": 1.0, "psfsize_r": 2.5}, "psfsize_r = 2.5 is outside: measured is 1 to 1.8 arcsec"),
        ({"theta_E": np.nan, "psfsize_r": 1.3}, "theta_E = nan is outside"),
        ({"theta_E": 1.0, "z_l": 0.5}, "not in this plan"),
        ({"theta_E": 1.0, "z_s": 0.5}, "no such map"),
    ):
        with pytest.raises(BadInput) as caught:
            found(**conditions)
        assert said in str(caught.value) and "\n" not in str(caught.value)
    parent = {"ra": np.array([10.0]), "dec": np.array([0.0]), "psfsize_r": np.array([1.3]), "psfdepth_r": np.array([1400.0])}
    with pytest.raises(BadInput, match="not searched there"):
        could_be_found(found, parent, 11.0, 0.0, 1.2)
    with pytest.raises(BadInput, match="declinations"):
        could_be_found(found, parent, 10.0, 95.0, 1.2)
    near = could_be_found(found, parent, 10.001, 0.0, 1.2)
    assert near.nearest_arcsec == pytest.approx(3.6) and near.observability == "low trust" and 0 < near.lo < near.completeness < near.hi < 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((np.zeros(0, bool), np.zeros(0), {}), "at least one"),
        ((np.ones(3, bool), np.arange(3), {"theta_E": np.ones(2)}), "as many of each"),
        ((np.ones(3, bool), np.arange(3), {}, np.array([1, -1, 1])), "not negative"),
        ((np.ones(3, bool), np.arange(3), {}, np.array([1, np.nan, 1])), "finite"),
    ],
)
def test_bad_injections(given, said) -> None:
    with pytest.raises(BadInput, match=said):
        injections_table(*given)


def test_forecasts_are_calibrated() -> None:
    "Lenses of the same kind as the injections: p below 0.05 no more than one time in ten, and a shifted kind is noticed"
    p_values, shifted = [], []
    for seed in range(40):
        m = completeness_map(a_search(seed)[0], AXES)
        lenses, _ = a_search(1000 + seed, 80, 80)
        p_values.append(forecast(m, lenses).p_value)
        shifted.append(forecast(m, lenses | {"found": np.random.default_rng(seed).random(80) < 0.95}).p_value)
    assert np.mean(np.array(p_values) < 0.05) <= 0.1 and np.median(shifted) < 0.001
    with pytest.raises(BadInput, match="none of 80 lenses"):
        forecast(m, lenses | {"theta_E": np.full(80, 9.0)})


# Forecasts bin by bin, definitions, populations


def cells(p: float, n: int, seed: int = 0) -> CellMap:
    "A map over theta_E of known completeness from n injections a cell"
    draw = np.random.default_rng(seed)
    theta = draw.uniform(0.5, 2.0, 3 * n)
    return completeness_map(
        injections_table(draw.random(3 * n) < p, np.arange(3 * n), {"theta_E": theta}), [Axis("theta_E", (0.5, 1.0, 1.5, 2.0))]
    )


def test_bins_hold_what_they_say() -> None:
    "Lenses of the map's own completeness lie in the interval some 95 % of the time; others do not"
    held = {0.4: [], 0.7: []}
    for seed in range(60):
        m, draw = cells(0.4, 120, seed), np.random.default_rng([seed, 1])
        for p, kept in held.items():
            theta = draw.uniform(0.5, 2.0, 60)
            lenses = injections_table(draw.random(60) < p, np.arange(60), {"theta_E": theta})
            kept += [b.agrees for b in forecast_bins(m, lenses, "theta_E", (0.5, 1.0, 1.5, 2.0), draws=800)]
    assert 0.93 < np.mean(held[0.4]) < 0.995 and np.mean(held[0.7]) < 0.5


def test_a_failed_bin_marks_its_cells_and_no_others() -> None:
    m = cells(0.1, 200)
    theta = np.r_[np.full(30, 0.7), np.full(30, 1.7)]
    lenses = injections_table(np.r_[np.zeros(30, bool), np.ones(30, bool)], np.arange(60), {"theta_E": theta})
    bins = forecast_bins(m, lenses, "theta_E", (0.5, 1.0, 1.5, 2.0))
    assert [b.n for b in bins] == [30, 30] and [b.agrees for b in bins] == [True, False]
    assert disputed(m, bins).status.tolist() == ["measured", "measured", "disputed"]
    with pytest.raises(BadInput, match="axis"):
        forecast_bins(m, lenses, "arc_mag_r", (20, 25))


def test_cells_whose_arcs_leave_the_stamp_say_so() -> None:
    theta = np.r_[np.full(40, 0.7), np.full(40, 1.7)]
    columns = {"theta_E": theta, "arc_inside_frac": np.where(theta > 1, 0.5, 1.0)}
    m = completeness_map(injections_table(np.ones(80, bool), np.arange(80), columns), [Axis("theta_E", (0.5, 1.0, 2.0))])
    assert m.status.tolist() == ["measured", "stamp"]


def test_recall_of_a_population() -> None:
    "Cells found at .2, .4 and .9, and a population that lies half in the first, half in the last and a tenth outside"
    theta = np.repeat([0.7, 1.2, 1.7], 1000)
    hit = np.tile(np.arange(1000), 3) < np.repeat([200, 400, 900], 1000)
    m = completeness_map(injections_table(hit, np.arange(3000), {"theta_E": theta}), [Axis("theta_E", (0.5, 1.0, 1.5, 2.0))])
    told = mixture_recall(m, np.array([0.45, 0.0, 0.45]))
    assert told.value == pytest.approx(0.55) and told.unmeasured == pytest.approx(0.1) and told.lo < 0.55 < told.hi
    with pytest.raises(BadInput, match="share"):
        mixture_recall(m, np.ones(2))


def test_one_definition_of_a_lens() -> None:
    lens = LensDefinition(1.0, 23.0)
    keep = rate_rows(np.array([0, 1, 1, 1, -1]), np.array([0, 1.5, 0.5, 1.5, 2.0]), np.array([np.inf, 22, 22, 24, 20]), lens)
    assert keep.tolist() == [True, True, False, False, False] and "1 arcsec" in str(lens)
    with pytest.raises(BadInput, match="min_theta_E"):
        LensDefinition(-1.0)
