"""The painter of phase 4c: light beyond a stamp's edge, and what must not change a byte."""

from dataclasses import replace

import numpy as np
import pytest

from dark_halo_scope.base.receipts import content_hash
from dark_halo_scope.bench.render import drawn_bank
from dark_halo_scope.injection.paint import (
    PaintRecipe,
    lens_params,
    paint_arcs,
    paint_brick,
    psf_params,
    rows_of,
    source_flux,
    source_params,
)
from dark_halo_scope.injection.plan import PlanRecipe, make_plan
from dark_halo_scope.injection.quality import MIN_INSIDE, stamp_quality
from dark_halo_scope.lensing.psf import radial_table
from dark_halo_scope.lensing.render import crosses_edge, picked, render_arcs
from dark_halo_scope.search.completeness import Axis, completeness_map, injections_table
from dark_halo_scope.trust.core import toy_hosts, toy_sky

BANDS = ("g", "r", "z")
BANK = drawn_bank(3)


def injections(prior, n=160, **given):
    "Columns of tasks on toy galaxies, their cutouts, and what the painter is told of lens, source and PSF"
    parent, shift = toy_hosts(n, 3)
    columns = {"split": np.full(len(BANK), "train"), "z": np.ones(len(BANK))} | {f"mag_{b}": np.full(len(BANK), 24.0) for b in BANDS}
    plan = make_plan(parent, PlanRecipe(prior=prior, n_total_per_split={"train": n}, control_frac=0.0, **given), BANDS, columns)
    t = {c: plan[c].to_numpy(zero_copy_only=False) for c in plan.column_names}
    sky = rows_of(toy_sky(parent, shift, 3), t["objid"])
    lens = lens_params(t, sky.dx, sky.dy)
    source = source_params(str(t["src_kind"][0]), t, source_flux(t, BANDS), sky.dx, sky.dy, BANK)
    return t, sky, lens, source, psf_params(sky.psfsize, PaintRecipe())


def missed(arcs, lens, source, psf, rows):
    "Largest error of a pixel, as a share of the arc's peak, beside stamps drawn on a sky that goes on for 48 pixels more, (m,)"
    truth = render_arcs(*(picked(p, rows) for p in (lens, source, psf)), margin=48)
    return (np.abs(arcs[rows] - truth).max((2, 3)) / truth.max((2, 3))).max(1)


@pytest.mark.parametrize("kind", ["sersic", "clumpy", "hst"])
def test_light_beyond_the_edge_is_not_missed(kind):
    t, sky, lens, source, psf = injections("wide", src_kind=kind)
    crossing = crosses_edge(lens, source)
    some = np.concatenate([np.flatnonzero(crossing)[:40], np.flatnonzero(~crossing)[:8]])
    arcs, closed = (paint_arcs(t, sky, recipe, BANDS, bank=BANK)[0] for recipe in (PaintRecipe(), PaintRecipe(margin=0)))
    assert missed(arcs, lens, source, psf, some).max() < 1e-3
    without = missed(closed, lens, source, psf, some)
    assert (without > 1e-3).mean() > 0.2 and without.max() > 0.5
    assert arcs[~crossing].tobytes() == closed[~crossing].tobytes() and not np.array_equal(arcs[crossing], closed[crossing])


def test_ordinary_lenses_stay_within_their_stamps():
    "Nearly all of the compact prior is drawn as if there were no margin, and without loss"
    _, _, lens, source, psf = injections("compact", n=400)
    crossing = crosses_edge(lens, source)
    far = np.argsort(-lens.theta_E * ~crossing)[:24]
    assert crossing.mean() < 0.05
    assert missed(render_arcs(lens, source, psf), lens, source, psf, far).max() < 1e-3


def test_a_margin_is_each_stamps_own():
    t, sky, *_ = injections("wide", n=24)
    together = paint_arcs(t, sky, PaintRecipe(), BANDS)[0]
    for rows in ([3], [9, 2, 17], list(range(23, -1, -1))):
        apart = paint_arcs({c: v[rows] for c, v in t.items()}, rows_of(sky, np.array(rows)), PaintRecipe(), BANDS)[0]
        assert apart.tobytes() == together[rows].tobytes()


def test_a_margin_out_of_range_is_refused():
    for wrong in (-1, 65):
        with pytest.raises(ValueError, match=f"margin={wrong}: expected 0 to 64 pixels"):
            replace(PaintRecipe(), margin=wrong)


def test_larger_stamps_hold_wider_arcs():
    "What leaves a stamp is counted against the whole arc; a stamp of 96 or 128 pixels holds what one of 64 does not"
    parent, shift = toy_hosts(160, 3)
    plan = make_plan(parent, PlanRecipe(prior="published", n_total_per_split={"train": 160}, control_frac=0.0), BANDS)
    t = {c: plan[c].to_numpy(zero_copy_only=False) for c in plan.column_names}
    t["theta_E"] = np.where(np.arange(len(t["q"])) % 4 == 0, 7.0, t["theta_E"])
    made = {}
    for n_pix in (64, 96, 128):
        sky = rows_of(toy_sky(parent, shift, 3, n_pix), t["objid"])
        arcs, flux, inside = paint_arcs(t, sky, PaintRecipe(n_pix=n_pix), BANDS)
        made[n_pix] = arcs, inside
        assert arcs.shape[-1] == n_pix and ((inside >= 0) & (inside <= 1)).all()
    wide = t["theta_E"] == 7.0
    shares = {n: float(np.mean(inside[wide])) for n, (_, inside) in made.items()}
    assert shares[64] < 0.94 < 0.97 < shares[96] <= shares[128] and (made[128][1] > 0.97).mean() > 0.95
    total = {n: arcs.sum((1, 2, 3), dtype=float) / np.maximum(inside, 1e-3) for n, (arcs, inside) in made.items()}
    ok = made[64][1] > 0.1
    assert np.abs(total[64][ok] / total[128][ok] - 1).max() < 0.02  # the whole arc's light does not depend on the stamp


@pytest.mark.parametrize(("n_pix", "widest"), [(64, "stamp"), (128, "measured")])
def test_the_map_says_which_einstein_radii_the_stamp_itself_limits(n_pix, widest):
    "From the painter to the map: arcs of 8 arcsec leave stamps of 64 pixels, and the cell says so however many of them were found"
    parent, shift = toy_hosts(90, 3)
    plan = make_plan(parent, PlanRecipe(prior="published", n_total_per_split={"train": 90}, control_frac=0.0), BANDS)
    t = {c: plan[c].to_numpy(zero_copy_only=False) for c in plan.column_names}
    t["theta_E"] = np.where(np.arange(len(t["q"])) % 2 == 0, 8.0, np.minimum(t["theta_E"], 2.5))
    sky = rows_of(toy_sky(parent, shift, 3, n_pix), t["objid"])
    arcs, flux, inside = paint_arcs(t, sky, PaintRecipe(n_pix=n_pix), BANDS)
    told = stamp_quality(t, sky, arcs, sky.image + arcs, flux, BANDS, 0.262, np.full(3, 1e4), inside)
    columns = {c: np.asarray(told.get(c, t.get(c)), float) for c in ("theta_E", "arc_inside_frac")}
    m = completeness_map(injections_table(np.ones(len(inside), bool), t["objid"], columns), [Axis("theta_E", (0.3, 3.0, 9.0))])
    assert m.status.tolist() == ["measured", widest]
    says = np.array(["arc leaves the stamp" in w for w in told["warnings"].to_pylist()])
    assert (says == (inside < MIN_INSIDE)).all() and (says[t["theta_E"] == 8].mean() > 0.5) == (widest == "stamp")


WOBBLY = (
    "exp exp2 log log10 log2 log1p expm1 sin cos tan arcsin arccos arctan arctan2 sinh cosh tanh arcsinh arccosh arctanh power cbrt".split()
)


def wobbly(function):
    "The function on another processor: where its values are no whole numbers, some end in one digit more or less"

    def other(*arguments, **options):
        values = np.asarray(function(*arguments, **options))
        if values.dtype.kind != "f":
            return values[()]
        moved = np.nextafter(values, np.where(np.arange(values.size).reshape(values.shape) % 2, np.inf, -np.inf).astype(values.dtype))
        values[...] = np.where(values == np.rint(values), values, moved)
        return values[()]

    return other


@pytest.mark.parametrize("kind", ["sersic", "clumpy", "hst"])
def test_another_processors_last_digits_change_no_byte(kind, monkeypatch):
    "NumPy's functions end in other digits with AVX-512 than without; a plan and its stamps do not"

    parent, shift = toy_hosts(120, 3)
    toy = toy_sky(parent, shift, 3)
    columns = {"split": np.full(len(BANK), "train"), "z": np.ones(len(BANK))} | {f"mag_{b}": np.full(len(BANK), 24.0) for b in BANDS}

    def painted():
        radial_table.cache_clear()
        plan = make_plan(parent, PlanRecipe(prior="wide", n_total_per_split={"train": 120}, src_kind=kind), BANDS, columns)
        return plan, paint_brick(plan, rows_of(toy, np.unique(plan["objid"])), PaintRecipe(keep_control=True), BANDS, bank=BANK)

    before = painted()
    for name in WOBBLY:
        monkeypatch.setattr(np, name, wobbly(getattr(np, name)))
    after = painted()
    radial_table.cache_clear()
    for one, other in zip(before, after):
        assert [c for c in one.column_names if content_hash(one.select([c])) != content_hash(other.select([c]))] == []
