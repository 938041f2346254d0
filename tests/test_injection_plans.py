"Plans: the earlier generations' own, the physical prior against other codes, one-sided arcs, controls matched in total light"

from functools import lru_cache

import numpy as np
import pyarrow as pa
import pytest
from astropy.cosmology import FlatLambdaCDM
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.injection.claims import validate
from dark_halo_scope.injection.grid import GRIDS, draw_configurations
from dark_halo_scope.injection.physical import Physical, draw_physical, draw_sources, host_redshift
from dark_halo_scope.injection.plan import PlanRecipe, expected_magnification, make_plan
from dark_halo_scope.injection.products import plan_parts
from dark_halo_scope.lensing.cosmology import absolute_magnitude
from dark_halo_scope.lensing.render import LensParams, SersicParams, psf_from_psfsize, render_arcs
from dark_halo_scope.lensing.visibility import image_count
from dark_halo_scope.survey.photometry import passive_colours

WANTED = {"train": 60_000, "val": 40_000, "test": 40_000}


@lru_cache(1)
def sky(n: int = 9_000) -> pa.Table:
    "A parent sample in which v4 is a part of v3, some 40 galaxies a brick"
    draw = np.random.default_rng(4)
    mag, brick = draw.normal(19.5, 0.7, n), np.arange(n) // 40
    columns = {"release": np.full(n, 10_002), "brickid": 300_000 + brick, "objid": np.arange(n) % 40}
    columns |= {"brickname": [f"b{b:07d}" for b in columns["brickid"]], "ra": draw.uniform(0, 1, n), "dec": draw.uniform(0, 1, n)}
    columns |= {"split": np.array(["train", "val", "test"])[brick % 3], "ebv": np.full(n, 0.03)}
    columns |= {"is_v3": draw.random(n) < 0.9, "is_v4": draw.random(n) < 0.5}
    columns |= {f"mag_{b}": mag + d for b, d in zip("grz", (1.4, 0, -0.9))} | {f"mw_transmission_{b}": np.full(n, 0.93) for b in "grz"}
    columns |= {f"psfsize_{b}": draw.normal(1.35, 0.1, n) for b in "grz"} | {f"psfdepth_{b}": draw.normal(900, 90, n) for b in "grz"}
    return pa.table(columns | {f"shape_e{i}": draw.normal(0, 0.1, n) for i in (1, 2)})


@pytest.mark.parametrize(("selection", "grid"), [("is_v3", "grid_small"), ("is_v4", "grid_sota")])
def test_the_records_own_plans(selection: str, grid: str) -> None:
    plan = make_plan(sky(), PlanRecipe(f"{selection}-{grid}", grid, WANTED, 0.5, "unpaired", selection))
    frame = plan.select(["split", "is_control", "weight", "config_id", "brickid", "objid", "task_id"]).to_pandas()
    injected, controls = frame[~frame.is_control], frame[frame.is_control]
    for split, wanted in WANTED.items():
        assert (injected.split == split).sum() == wanted / 2
        assert controls[controls.split == split].weight.sum() == pytest.approx(wanted / 2)
        counts = injected[injected.split == split].config_id.value_counts()
        cells = len(GRIDS[grid].configurations())
        assert len(counts) == cells
        expected = wanted / 2 / cells
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected) + 3
    host, control = ({*zip(f.brickid, f.objid)} for f in (injected, controls))
    assert not host & control and len(control) == len(controls) and frame.task_id.is_unique
    allowed = sky().filter(sky()[selection])
    assert host | control <= {*zip(allowed["brickid"].to_pylist(), allowed["objid"].to_pylist())}
    assert all(claim["passed"] for claim in validate(plan)), validate(plan)


# The physical prior

COSMOLOGY = FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0)


def test_physical_radii_against_astropy() -> None:
    n = 300
    draw = np.random.default_rng(3)
    lens = draw_physical(Physical(), [np.arange(n)], np.zeros(n, int), draw.normal(19.3, 0.5, n), draw.normal(1.1, 0.1, n), "x")
    ratio = (COSMOLOGY.angular_diameter_distance(lens["z_l"], lens["z_s"]) / COSMOLOGY.angular_diameter_distance(lens["z_s"])).value
    expected = 4 * np.pi * (lens["sigma_v"] / 299792.458) ** 2 * ratio * 180 / np.pi * 3600
    assert np.abs(lens["theta_E"] / expected - 1).max() < 1e-5


def test_redshifts_follow_their_density() -> None:
    "One line of sight: the density written down once more, with astropy's volume and a fine grid"
    n, mag, colour = 20_000, 19.4, 1.05
    drawn = host_redshift(np.full(n, mag), np.full(n, colour), (np.arange(n) + 0.5) / n)
    z = np.linspace(0.08, 0.92, 4001)
    track = np.array([passive_colours(value)[1] for value in z])
    density = COSMOLOGY.differential_comoving_volume(z).value * stats.norm(-21.15, 0.84).pdf(absolute_magnitude(mag, z))
    growth = np.cumsum(density * stats.norm(colour, 0.07).pdf(track))
    assert stats.kstest(drawn, lambda x: np.interp(x, z, growth / growth[-1])).statistic < 0.02
    with pytest.raises(BadInput, match="finite"):
        host_redshift(np.array([19.0]), np.array([np.nan]), np.array([0.5]))


def test_sources_are_counts_weighted_by_area() -> None:
    "Numbers and redshifts by brute force: galaxies of the faint counts, each kept by its lensed area"
    draw, z_l = np.random.default_rng(6), 0.5
    mag = 21.5 + np.log10(1 + draw.random(400_000) * (10 ** (0.31 * 5) - 1)) / 0.31
    z0 = 0.0417 * mag - 0.744
    z = draw.gamma(3.0, z0)  # of all galaxies brighter than mag; one at mag is redder by the growth of z0
    at = np.maximum(0.31 * np.log(10) + 0.0417 * (z / z0**2 - 3 / z0), 0)
    behind = np.where(z > z_l, 1 - COSMOLOGY.comoving_distance(z_l).value / COSMOLOGY.comoving_distance(np.maximum(z, 0.01)).value, 0) ** 2
    weight = at * behind
    ours = draw_sources(draw.random((20_000, 2)), np.full(20_000, z_l))
    for theirs, mine in zip((mag, z), ours):
        order = np.argsort(theirs)
        growth = np.cumsum(weight[order]) / weight.sum()
        assert stats.kstest(mine, lambda x, t=theirs[order], g=growth: np.interp(x, t, g)).statistic < 0.03


def test_a_galaxy_is_drawn_alone() -> None:
    "Other galaxies, splits and replicates change nothing about one; its redshift is its own for every replicate"
    recipe = PlanRecipe("alone", "physical", {"train": 3000, "val": 200})
    rows = sky().filter(pa.array(np.arange(len(sky())) % 3 != 1))
    plans = [make_plan(table, recipe).to_pandas().set_index("task_id") for table in (sky(), rows)]
    both = plans[0].index.intersection(plans[1].index)
    assert len(both) > 1000 and plans[0].loc[both].drop(columns="weight").equals(plans[1].loc[both].drop(columns="weight"))
    again = make_plan(rows, PlanRecipe("alone", "physical", {"val": 200})).to_pandas().set_index("task_id")
    assert again.equals(plans[1][plans[1].split == "val"])
    of_galaxy = plans[1][~plans[1].is_control].groupby(["brickid", "objid"])
    assert (of_galaxy.z_l.nunique() == 1).all() and of_galaxy.z_s.nunique().max() > 1
    with pytest.raises(BadInput, match="r - z"):
        draw_configurations("physical", [np.arange(2)], np.zeros(2, int), np.full(2, 19.0))


# One-sided arcs


@lru_cache(1)
def wide() -> pa.Table:
    return make_plan(sky(), PlanRecipe("sides", "wide", {"train": 600}, 0.3))


def painted(plan: pa.Table, n: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    "Columns and r-band light of the first n injections"
    t = {c: plan[c].to_numpy(zero_copy_only=False) for c in plan.column_names}
    t = {c: v[~t["is_control"].astype(bool)][:n] for c, v in t.items()}
    zero = np.zeros(len(t["q"]))
    lens = LensParams(t["theta_E"], t["q"], t["phi"], t["gamma1"], t["gamma2"], zero, zero)
    flux = 10 ** (0.4 * (22.5 - t["src_mag_r"].astype(float)))[:, None]
    source = SersicParams(t["src_x"], t["src_y"], t["src_reff"], t["src_n"], t["src_q"], t["src_phi"], flux)
    return t, render_arcs(lens, source, psf_from_psfsize(t["psfsize_r"].astype(float)[:, None]), margin=16)[:, 0]


def test_group_scale_arcs_are_one_sided() -> None:
    t, light = painted(wide(), 300)
    y, x = (np.mgrid[:64, :64] - 31.5) * 0.262
    near = (x * t["src_x"][:, None, None] + y * t["src_y"][:, None, None]) > 0
    far_share = (light * ~near).sum(axis=(1, 2)) / light.sum(axis=(1, 2))
    off = np.hypot(t["src_x"], t["src_y"]) / t["theta_E"]
    group = (t["theta_E"] > 2.5) & (off > 0.5) & (np.hypot(t["gamma1"], t["gamma2"]) > 0.05)
    assert group.sum() > 60 and np.median(far_share[group]) < 0.2 < np.median(far_share[off < 0.25])


# Controls matched in total light


def test_controls_matched_in_total_light() -> None:
    "Total light alone tells hosts with bright arcs from controls, and no longer does once they are matched"
    auc = {}
    for match in ("host", "total"):
        recipe = PlanRecipe("match", "grid_sota", {"train": 3000}, 0.4, match=match, src_dmag_of="lensed")
        plan = make_plan(sky(), recipe)
        t = {c: plan[c].to_numpy(zero_copy_only=False) for c in ("is_control", "weight", "mag_r", "src_mag_r")}
        total = -2.5 * np.log10(10 ** (-0.4 * t["mag_r"].astype(float)) + 10 ** (-0.4 * t["src_mag_r"].astype(float)))
        control = t["is_control"].astype(bool)
        auc[match] = roc_auc_score(~control, -total, sample_weight=t["weight"])
        of_match = {c["claim"]: c["passed"] for c in validate(plan, recipe) if "agree" in c["claim"] or "total r light" in c["claim"]}
        assert of_match and all(of_match.values()), of_match
        assert t["weight"][control].sum() == pytest.approx(1200, rel=1e-3)
    assert auc["host"] > 0.58 and abs(auc["total"] - 0.5) < 0.04, auc
    too_bright = PlanRecipe("match", "grid_sota", {"train": 3000}, 0.4, match="total")  # arcs as bright as hosts: no galaxy is like that
    claims = {claim["claim"]: claim["passed"] for claim in validate(make_plan(sky(), too_bright), too_bright)}
    assert not claims["largest difference of the cumulative distributions of total r light"]


def test_magnification_as_planned_and_as_painted() -> None:
    t, light = painted(wide(), 300)
    magnification = light.sum(axis=(1, 2)) / 10 ** (0.4 * (22.5 - t["src_mag_r"].astype(float)))
    expected = expected_magnification(t["theta_E"], np.hypot(t["src_x"], t["src_y"]), t["src_reff"])
    assert abs(np.median(magnification / expected) - 1) < 0.1


def test_limits_of_hosts() -> None:
    table = sky().append_column("shape_r", pa.array(np.linspace(0.3, 3, len(sky()))))
    plan = make_plan(table, PlanRecipe("bright", "wide", {"train": 200}, host_mag_r=(17.0, 19.0), min_host_radius=1.5)).to_pandas()
    radius = {(b, o): r for b, o, r in zip(*(table[c].to_pylist() for c in ("brickid", "objid", "shape_r")))}
    assert plan.mag_r.between(17, 19).all() and min(radius[key] for key in zip(plan.brickid, plan.objid)) >= 1.5
    with pytest.raises(BadInput, match="shape_r"):
        make_plan(sky(), PlanRecipe("small", "wide", {"train": 200}, min_host_radius=1.5))
    with pytest.raises(ValueError, match="paired"):
        PlanRecipe(match="total", controls="paired")


# What the plan claims of lens and source


@lru_cache(1)
def physical() -> dict[str, np.ndarray]:
    "Injections of the physical prior with HST sources of a made-up bank whose colour is its redshift"
    z = np.linspace(0.3, 3.5, 400)
    bank = {"split": np.full(400, "train"), "z": z, "mag_r": np.full(400, 24.0), "mag_g": 24.0 + z, "mag_z": 24.0 - z / 2}
    plan = make_plan(sky(), PlanRecipe("hst", "physical", {"train": 1500}, 0.3, src_kind="hst"), bank=bank)
    return {c: plan[c].to_numpy(zero_copy_only=False) for c in plan.column_names}


def test_colours_follow_redshift_in_the_physical_prior() -> None:
    plan = make_plan(sky(), PlanRecipe("colours", "physical", {"train": 3000}, 0.0))
    z_s, g, r, z = (plan[c].to_numpy() for c in ("z_s", "src_mag_g", "src_mag_r", "src_mag_z"))
    assert abs(stats.spearmanr(z_s, r - z).statistic) > 0.3
    near = np.median((r - z)[(z_s > 0.8) & (z_s < 1.1)])
    assert near > np.median((r - z)[z_s > 1.8]) + 0.4  # the break between r and z


def test_hst_sources_keep_their_colours_and_lie_near_the_drawn_redshift() -> None:
    p = physical()
    made = ~p["is_control"].astype(bool)
    z = np.linspace(0.3, 3.5, 400)[p["src_index"][made]]
    assert np.allclose(p["src_mag_g"][made] - p["src_mag_r"][made], z, atol=1e-5)
    assert np.allclose(p["src_mag_r"][made] - p["src_mag_z"][made], z / 2, atol=1e-5)
    within = (p["z_s"][made] > 0.5) & (p["z_s"][made] < 3.3)
    assert np.abs(z - p["z_s"][made])[within].max() < 0.1
    assert np.allclose((p["src_mag_r"] - p["mag_r"])[made], p["src_dmag"][made], atol=1e-5)


def test_the_mass_lies_along_the_light() -> None:
    "Light at a known angle of the catalogue; a mass drawn without it knows nothing of it"
    table = sky().drop_columns(["shape_e1", "shape_e2"])
    with pytest.raises(BadInput, match="shape_e1"):
        make_plan(table, PlanRecipe("light", "wide", {"train": 20}))
    e, angle = np.full(len(table), 0.2), np.pi / 6  # north to east; in the stamp that is 120 degrees from +x
    table = table.append_column("shape_e1", pa.array(e * np.cos(2 * angle))).append_column("shape_e2", pa.array(e * np.sin(2 * angle)))
    turned = {}
    for follow in (True, False):
        plan = make_plan(table, PlanRecipe("light", "wide", {"train": 800}, 0.0, follow_light=follow))
        off = (plan["phi"].to_numpy() - np.radians(120) + np.pi / 2) % np.pi - np.pi / 2
        turned[follow] = np.degrees(np.sqrt(np.mean(off**2)))
    assert turned[True] < 10 < 40 < turned[False]


@pytest.mark.parametrize("prior", ["grid_sota", "compact", "wide", "published", "physical"])
def test_sources_have_several_images(prior: str) -> None:
    "Weighted by magnification, hardly any injection is a single stretched image"
    plan = make_plan(sky(), PlanRecipe("caustic", prior, {"train": 1000}, 0.0))
    t = {c: plan[c].to_numpy(zero_copy_only=False) for c in plan.column_names}
    lens = LensParams(t["theta_E"], t["q"], t["phi"], t["gamma1"], t["gamma2"], 0.0, 0.0)
    grown = expected_magnification(t["theta_E"], np.hypot(t["src_x"], t["src_y"]), t["src_reff"])
    single = image_count(lens, t["src_x"], t["src_y"]) == 1
    assert np.average(single, weights=grown) < 0.01


def test_hosts_are_weighted_by_their_lensed_area() -> None:
    plan = make_plan(sky(), PlanRecipe("area", "physical", {"train": 2400}, 0.5)).to_pandas()
    for _, part in plan.groupby("is_control"):
        assert part.weight.mean() == pytest.approx(1, rel=1e-5) and stats.spearmanr(part.mag_r, part.weight).statistic < -0.3
    injected, controls = plan[~plan.is_control], plan[plan.is_control]
    means = [np.average(f.mag_r, weights=f.weight) for f in (injected, controls)]
    assert abs(means[0] - means[1]) < 0.1 < plan.mag_r.mean() - means[0]
    assert (make_plan(sky(), PlanRecipe("area", "wide", {"train": 200}))["weight"].to_numpy() == 1).all()


def test_no_host_is_forced_to_the_end_of_the_track() -> None:
    for colour in (1.95, 2.1, 2.2):
        z = host_redshift(np.full(2000, 20.8), np.full(2000, colour), (np.arange(2000) + 0.5) / 2000)
        assert np.histogram(z, np.arange(0.6, 1.35, 0.02))[0].max() < 400 and (z > 1.28).mean() < 0.02


@given(st.dictionaries(st.text("0123456789pm", min_size=8, max_size=8), st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 20))
def test_parts_of_a_plan_are_runs_of_bricks_just_as_large_as_asked_for(rows, max_rows):
    "Every brick once, in order; a part but the last has as many rows as asked for, and would not have them without its last brick"
    names, parts = sorted(rows), plan_parts(rows, max_rows)
    held = [[name for name in names if first <= name <= last] for first, last in parts]
    assert [name for part in held for name in part] == names
    counts = [[rows[name] for name in part] for part in held]
    assert all(sum(part) >= max_rows for part in counts[:-1]) and all(sum(part[:-1]) < max_rows for part in counts)
