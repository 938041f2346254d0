"Injection at its edges: the law of every drawn number, limits that count as allowed, and no more read or counted than is asked for"

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.cosmology import FlatLambdaCDM
from scipy import stats

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.injection.claims import Tally
from dark_halo_scope.injection.grid import PRIORS, draw_configurations
from dark_halo_scope.injection.paint import PaintRecipe, psf_params
from dark_halo_scope.injection.physical import source_radius
from dark_halo_scope.injection.plan import Enrolled, PlanRecipe, share_of
from dark_halo_scope.injection.products import file_bricks
from dark_halo_scope.lensing.psf import noise_equivalent_area

# What is drawn


def drawn(name, n=4000):
    "Configurations of as many galaxies, all of magnitude 19"
    identity = [np.full(n, 9010), np.arange(n) // 40, np.arange(n) % 40]
    return draw_configurations(name, identity, np.zeros(n, int), np.full(n, 19.0), "laws")


def uniform(low, high):
    return stats.uniform(low, high - low).cdf


def lognormal(median, scatter, low, high):
    "Cut off at two limits"
    ends = stats.norm.cdf(np.log(np.array([low, high]) / median) / scatter)
    return lambda x: (stats.norm.cdf(np.log(x / median) / scatter) - ends[0]) / (ends[1] - ends[0])


def counts(low, high):
    "Numbers of galaxies rising as 10^(0.3 m)"
    return lambda m: (10 ** (0.3 * m) - 10 ** (0.3 * low)) / (10 ** (0.3 * high) - 10 ** (0.3 * low))


GROUPS = {"theta_E": stats.loguniform(2.5, 6).cdf, "shear": uniform(0.05, 0.15)}
LAWS = {  # laws of galaxies, share and laws of groups, sources' distances from a group's axis
    "compact": (
        {"theta_E": stats.loguniform(0.5, 2.5).cdf, "src_mag_r": counts(22, 25), "src_reff": stats.loguniform(0.08, 0.5).cdf}
        | {"src_e": uniform(0, 0.6), "shear": uniform(0, 0.08)},
        (0.0, {}, ()),
    ),
    "wide": (
        {"theta_E": stats.loguniform(1, 6).cdf, "src_mag_r": counts(21.5, 24.5), "src_reff": stats.loguniform(0.1, 0.6).cdf}
        | {"src_e": uniform(0, 0.6), "shear": uniform(0, 0.15)},
        (0.35, GROUPS, (0.5, 0.95)),
    ),
    "imaging": (
        {"theta_E": stats.loguniform(0.5, 6).cdf, "src_mag_r": counts(21.5, 24.5), "src_reff": stats.loguniform(0.1, 0.6).cdf}
        | {"src_e": uniform(0, 0.6), "shear": uniform(0, 0.15)},
        (0.35, GROUPS, (0.5, 0.95)),
    ),
    "published": (
        {"theta_E": lognormal(1.27, 0.29, 0.4, 4), "src_mag_r": counts(21.5, 26), "src_reff": stats.loguniform(0.1, 0.6).cdf}
        | {"src_e": uniform(0, 0.6), "shear": uniform(0, 0.15)},
        (0.1, {"theta_E": lognormal(4.3, 0.4, 1.5, 12), "shear": uniform(0.05, 0.15)}, (0.0, 0.95)),
    ),
}


@pytest.mark.parametrize("name", list(PRIORS))
def test_a_prior_draws_the_laws_that_its_page_states(name):
    t, (galaxies, (share, groups, off)) = drawn(name), LAWS[name]
    t["src_mag_r"] = t["src_dmag"] + 19
    group = np.isfinite(t["off_low"]) if share else np.zeros(len(t["theta_E"]), bool)
    assert stats.binomtest(int(group.sum()), len(group), share).pvalue > 1e-3
    if share:
        assert {*zip(t["off_low"][group], t["off_high"][group])} == {off}
    for column, law in galaxies.items():
        rows = ~group if column in groups else np.ones(len(group), bool)
        assert stats.kstest(t[column][rows], law).pvalue > 1e-3, column
    for column, law in groups.items():
        assert stats.kstest(t[column][group], law).pvalue > 1e-3, column


@pytest.mark.parametrize("name", list(PRIORS))
def test_a_cell_of_a_prior_is_half_an_arcsecond(name):
    t = drawn(name, 1000)
    assert {*t["config"]} > {f"{name}/2", f"{name}/4"}
    for config, theta_E in zip(t["config"].tolist(), t["theta_E"]):
        prior, _, cell = config.partition("/")
        assert prior == name and int(cell) / 2 <= theta_E < (int(cell) + 1) / 2


@pytest.mark.parametrize("slope", [1.0, -1.0, 2.0])
def test_theta_E_may_be_tilted(slope, monkeypatch):
    "Density proportional to theta_E^slope per unit log theta_E: 1 is uniform in theta_E"
    monkeypatch.setitem(PRIORS, "tilted", replace(PRIORS["compact"], theta_E_slope=slope))
    theta_E = drawn("tilted")["theta_E"]
    low, high = 0.5**slope, 2.5**slope
    assert stats.kstest(theta_E, lambda x: (x**slope - low) / (high - low)).pvalue > 1e-3
    assert 0.5 <= theta_E.min() < 0.51 and 2.45 < theta_E.max() <= 2.5


def test_a_source_has_the_size_of_its_luminosity_and_redshift():
    "6.9 kpc (1 + z)^-1.2 at an ultraviolet magnitude of -21, and L^0.27 about it [Shibuya et al. 2015]"
    sky = FlatLambdaCDM(70, 0.3)
    z = np.array([0.5, 1.0, 2.0, 3.5])
    at_21 = -21 + sky.distmod(z).value - 2.5 * np.log10(1 + z)  # seen at a wavelength 1 + z times shorter, in a band so much narrower
    for fainter in (0.0, 2.5):
        kpc = 6.9 * (1 + z) ** -1.2 * 10 ** (-0.27 * fainter / 2.5)
        assert source_radius(at_21 + fainter, z) == pytest.approx(kpc * sky.arcsec_per_kpc_proper(z).value, rel=2e-3)
    assert source_radius(at_21, z, np.log(2)) == pytest.approx(2 * source_radius(at_21, z))


# What a recipe allows

LIMITS = {  # what lies on a limit, and what lies just beyond it
    "control_frac": ((0.0, 0.999), (-0.001, 1.0)),
    "src_reach": ((1e-9, 3.0), (0.0, 3.001, float("nan"))),
    "lens_q": (((0.02, 1.0), (0.02, 0.02), (1.0, 1.0)), ((0.019, 1.0), (0.6, 1.001), (0.7, 0.6))),
    "light_scatter": ((0.0, 0.499), (-0.001, 0.5)),
    "src_n": ((0.2, 10.0), (0.199, 10.001)),
    "min_theta_over_psf": ((0.0,), (-0.001,)),
    "min_host_radius": ((0.0,), (-0.001,)),
    "host_mag_r": (((0.0, 99.0),), ((-0.001, 99.0), (0.0, 99.001))),
    "n_total_per_split": (({"train": 0},), ({"train": -1},)),
}


@pytest.mark.parametrize("name", list(LIMITS))
def test_limits_of_a_plan_are_allowed_and_nothing_beyond(name):
    allowed, refused = LIMITS[name]
    for value in allowed:
        assert getattr(PlanRecipe(**{name: value}), name) == value
    for value in refused:
        with pytest.raises(ValueError, match=name):
            PlanRecipe(**{name: value})


@pytest.mark.parametrize("recipe", [PaintRecipe(psf="gaussian"), PaintRecipe(), PaintRecipe(beta=2.5), PaintRecipe(psfsize_means="fwhm")])
def test_every_psf_has_the_pixel_in_it_and_the_width_that_was_meant(recipe):
    psfsize = np.array([[1.1, 1.5], [1.3, 0.9]])
    psf = psf_params(psfsize, recipe)
    assert psf.includes_pixel is True
    if recipe.psfsize_means == "fwhm":
        assert (psf.fwhm == psfsize).all() and (psf.beta == recipe.beta).all()
    else:
        gaussian = 4 * np.pi * psfsize**2 / (8 * np.log(2))
        assert noise_equivalent_area(psf) == pytest.approx(gaussian, rel=1e-3)


# What is counted


def enrolled(hosts, candidates):
    "Galaxies of one split: hosts first, then candidates for controls"
    n, injected = hosts + candidates, np.arange(hosts + candidates) < hosts
    turn = np.random.default_rng(0).permutation(n) / max(n, 1)
    return Enrolled(injected, ~injected, turn, np.full(n, 19, np.float32), np.ones(n, np.float32), np.full(n, b"0001p000"))


@pytest.mark.parametrize("hosts", [0, 1, 3, 10])
@pytest.mark.parametrize("wanted", [0, 1, 2, 10, 25])
def test_hosts_and_controls_share_out_what_is_wanted(hosts, wanted):
    "No stamps of an empty split are no fault; stamps of it are"
    recipe, galaxies = PlanRecipe(control_frac=0.4), enrolled(hosts, 2 * hosts)
    n_injected, n_controls = round(0.6 * wanted), round(0.4 * wanted)
    if wanted and not hosts:
        with pytest.raises(BadInput, match="split 'val' has 0 hosts and 0 controls that pass is_v3"):
            share_of("val", wanted, galaxies, recipe)
        return
    share = share_of("val", wanted, galaxies, recipe)
    times = share.replicates(galaxies.turn[galaxies.injected])
    taken = int((galaxies.turn[galaxies.candidate] <= share.last[0]).sum())
    assert (share.wanted, share.hosts, share.area) == ((n_injected, n_controls), hosts, (1.0, 1.0))
    assert len(times) == hosts and times.sum() == n_injected and max(times, default=0) - min(times, default=0) <= 1
    assert taken == min(n_controls, 2 * hosts) and taken * share.weight[0] == pytest.approx(n_controls)


@pytest.mark.parametrize(("rows", "most", "share"), [(99, 99, 0.0), (100, 100, 1.0), (100, 1, 0.01), (250, 5, 0.02)])
def test_the_share_of_one_host_is_judged_from_a_hundred_rows_on(rows, most, share):
    tally = Tally(PlanRecipe(), cells=Counter({"wide/2": rows, "wide/3": 20}), worst={"wide/2": most, "wide/3": 20})
    claim = tally.claims()[-1]
    assert claim["claim"].endswith("in a cell of 100 rows or more")
    assert (claim["value"], claim["limit"], claim["passed"]) == (share, 0.01, share <= 0.01)


# What is read

BRICKS = ["a"] * 3 + ["b"] * 6 + ["c"] + ["d"] * 2  # In groups of four rows: b lies in the first, the second and the third
WHOLE = [("a", 0, 3), ("b", 3, 6), ("c", 9, 1), ("d", 10, 2)]


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    "A file of three groups of rows"
    pq.write_table(pa.table({"brickname": BRICKS}), tmp_path / "plan.parquet", row_group_size=4, compression="none")
    return tmp_path / "plan.parquet"


@pytest.mark.parametrize("limit", range(1, 14))
def test_rows_of_a_brick_are_one_run_over_groups_and_up_to_the_limit(plan, limit):
    expected = [(brick, first, min(n, limit - first)) for brick, first, n in WHOLE if first < limit]
    assert file_bricks(str(plan), f"limit {limit}", limit) == expected


def test_a_group_beyond_the_limit_is_not_read(plan):
    "It is damaged here: what is wanted of the others is found all the same"
    column = pq.read_metadata(plan).row_group(2).column(0)
    data = bytearray(plan.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    plan.write_bytes(data)
    assert file_bricks(str(plan), "damaged", 8) == [("a", 0, 3), ("b", 3, 5)]
    with pytest.raises(BadInput, match="plan.parquet"):
        file_bricks(str(plan), "damaged", 9)
