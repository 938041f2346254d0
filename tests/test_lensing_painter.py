"""The painter against lenstronomy, against known answers, and with faults planted in it."""

import importlib.util
import os
import subprocess
import sys
import time
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dark_halo_scope.base import kernels
from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.kernels import compiled
from dark_halo_scope.bench.render import (
    Ranges,
    bench_render,
    caustics_draw,
    caustics_row,
    draw_per_band,
    draw_shared,
    drawn_bank,
    lenstronomy_draw,
    prepare,
    random_systems,
)
from dark_halo_scope.lensing import render
from dark_halo_scope.lensing.deflection import jacobian, sie_deflection, source_position
from dark_halo_scope.lensing.psf import noise_equivalent_area, psf_profile
from dark_halo_scope.lensing.rays import DROP, block_maps, judge_image, lens_rows, trace
from dark_halo_scope.lensing.reference import adaptive_rays, lenstronomy_lens, lenstronomy_source, reference_stamps
from dark_halo_scope.lensing.render import (
    ClumpyParams,
    GaussianPSF,
    ImageParams,
    LensParams,
    MoffatPSF,
    PixelPSF,
    SersicParams,
    SourceBank,
    clumpy,
    picked,
    psf_from_psfsize,
    render_arcs,
)
from dark_halo_scope.lensing.sources import bank_image_light, sersic_light, sersic_parts, sersic_profile

BACKENDS = ("numba", "torch", "lenstronomy")


def a_lens(**given):
    return LensParams(**(dict(theta_E=1.2, q=0.7, phi=0.4, gamma1=0.03, gamma2=-0.02, center_x=0.1, center_y=-0.1) | given))


def a_source(bands=1, **given):
    return SersicParams(**(dict(x=0.15, y=0.05, R_sersic=0.2, n_sersic=1.5, q=0.7, phi=1.0, flux=np.linspace(1, 2, bands)[None]) | given))


def differ(stamps, truth):
    return float((np.abs(stamps - truth).max((2, 3)) / truth.max((2, 3))).max())


CORNERS = {
    "odd": (a_lens(), a_source(), MoffatPSF([[1.0]], 3.0), 31),
    "pixel in the PSF": (a_lens(), a_source(), MoffatPSF([[1.0]], 3.0, True), 32),
    "narrow": (a_lens(), a_source(), MoffatPSF([[0.5]], 3.0), 33),
    "narrow, pixel in the PSF": (a_lens(), a_source(), MoffatPSF([[0.5]], 3.0, True), 40),
    "very narrow": (a_lens(), a_source(), MoffatPSF([[0.25]], 3.0), 33),
    "Gaussian": (a_lens(), a_source(), GaussianPSF([[0.8]]), 41),
    "five bands": (a_lens(), a_source(5), MoffatPSF(np.linspace(0.8, 1.5, 5)[None], 2.5), 33),
    "circular": (a_lens(q=1.0, gamma1=0.0, gamma2=0.0), a_source(), MoffatPSF([[1.0]], 3.5), 40),
    "nearly circular": (a_lens(q=1 - 1e-7), a_source(), MoffatPSF([[1.0]], 3.5), 40),
    "flat": (a_lens(q=0.2), a_source(), MoffatPSF([[1.0]], 3.5), 40),
    "no lens": (a_lens(theta_E=0.0), a_source(n_sersic=4.0, R_sersic=0.1), MoffatPSF([[1.0]], 3.0), 40),
    "small lens": (a_lens(theta_E=0.2), a_source(), MoffatPSF([[1.0]], 3.0), 32),
    "large lens": (a_lens(theta_E=6.0), a_source(x=1.0), MoffatPSF([[1.2]], 3.0), 64),
    "small and flat-topped": (a_lens(), a_source(n_sersic=0.5, R_sersic=0.03), MoffatPSF([[1.0]], 3.0), 40),
    "small and cuspy": (a_lens(), a_source(n_sersic=4.0, R_sersic=0.03, x=0.1, y=-0.1), MoffatPSF([[1.0]], 3.0), 40),
    "on the lens": (a_lens(), a_source(n_sersic=4.0, R_sersic=1.5, x=0.1, y=-0.1), MoffatPSF([[1.0]], 3.0), 40),
    "clumpy": (a_lens(), clumpy(a_source(3), [np.random.default_rng(0)]), MoffatPSF([[1.0, 1.1, 1.2]], 3.0), 40),
}


def true_stamps(lens, source, psf, n_pix=64):
    "lenstronomy's light to a tenth of what is allowed here, in a third of the time that its last digit takes"
    return reference_stamps(lens, source, psf, n_pix, 0.262, tolerance=3e-8)


@pytest.mark.parametrize("name", CORNERS)
def test_backends_agree(name):
    lens, source, psf, n_pix = CORNERS[name]
    truth = true_stamps(lens, source, psf, n_pix)
    for backend in ("numba", "torch"):
        assert differ(render_arcs(lens, source, psf, n_pix=n_pix, backend=backend), truth) < 4e-4, backend


def test_random_systems_within_a_thousandth():
    worst, flux = [], []
    for lens, source, psf in random_systems(6, seed=11):
        truth, ours = true_stamps(lens, source, psf), render_arcs(lens, source, psf)
        worst.append((np.abs(ours - truth).max((2, 3)) / truth.max((2, 3))).ravel())
        flux.append(np.abs(ours.sum((2, 3), dtype=float) / truth.sum((2, 3), dtype=float) - 1).ravel())
    assert np.quantile(np.concatenate(worst), 0.95) < 1e-3 and np.concatenate(flux).max() < 1e-3


def test_stamps_of_galaxies_within_two_thousandths():
    for lens, source, psf in random_systems(4, 4, "image", Ranges(theta_E=(0.5, 2.5))):
        truth = true_stamps(lens, source, psf)
        for backend in ("numba", "torch"):
            assert differ(render_arcs(lens, source, psf, backend=backend), truth) < 2e-3


def test_a_stamp_that_shows_only_a_small_image_is_as_true_as_any():
    "The arc lies beyond the stamp; what is left is an image of a twelfth of the source's flux, and errors count as shares of that"
    lens, source, psf = (picked(p, [0]) for p in random_systems(4, seed=5)[0])
    source, psf = replace(source, flux=source.flux[:, :1]), replace(psf, fwhm=psf.fwhm[:, :1], beta=psf.beta[:, :1])
    truth, ours = reference_stamps(lens, source, psf, 32, 0.262), render_arcs(lens, source, psf, n_pix=32)
    assert truth.sum() < 0.1 and differ(ours, truth) < 3e-4
    assert abs(float(ours.sum(dtype=float) / truth.sum(dtype=float)) - 1) < 3e-4


@pytest.mark.parametrize(("kind", "i"), [(1, 75), (1, 253), (0, 243)])
def test_the_hardest_of_a_thousand_systems_keep_their_flux(kind, i):
    "Two show a thousandth of their source's light on the stamp; in the third a wide PSF would throw light round the periodic grid"
    lens, source, psf = (picked(p, [i]) for p in random_systems(1000, 20261201)[kind])
    truth = reference_stamps(lens, source, psf, 64, 0.262).sum((2, 3), dtype=float)
    for backend in ("numba", "torch"):
        flux = render_arcs(lens, source, psf, backend=backend).sum((2, 3), dtype=float)
        assert np.abs(flux / truth - 1).max() < 1e-3, backend


@pytest.mark.slow
@pytest.mark.parametrize(("theta_E", "x"), [(4.9, 3.6), (5.9, 5.0)])
def test_small_images_of_every_kind_of_source(theta_E, x):
    lens, psf = a_lens(theta_E=theta_E, q=0.9), MoffatPSF([[1.2]], 3.5)
    compact, knots = a_source(x=x, y=0.3, R_sersic=0.05, n_sersic=2.4), clumpy(a_source(x=x, y=0.3), [np.random.default_rng(1)])
    for source, allowed in ((compact, 3e-4), (knots, 3e-4), (ImageParams(x, 0.3, 0.4, 1.0, 0, [[1.0]], drawn_bank(3)), 2e-3)):
        truth, ours = reference_stamps(lens, source, psf, 32, 0.262), render_arcs(lens, source, psf, n_pix=32)
        assert truth.sum() < 0.5 and differ(ours, truth) < allowed


@pytest.mark.parametrize(("theta_E", "x", "scale"), [(5.7, 5.2, 1.0), (5.8, 5.4, 0.7)])
def test_the_reference_misses_nothing_of_a_stamps_small_image(theta_E, x, scale):
    "Light beside the lens's centre, as much as a dense grid of rays finds there"
    lens, source = a_lens(theta_E=theta_E, q=0.8), ImageParams(x, 0.3, 0.4, scale, 0, [[1.0]], drawn_bank(3, 1, 33))
    at = (np.arange(1000) + 0.5) / 1000 * 2.4 - 1.2
    there = source_position(lens, *(axis[None] for axis in np.meshgrid(at, at)))
    dense = float(bank_image_light(source, *there)[0].sum() * (at[1] - at[0]) ** 2)
    ((model, _, finest),) = lenstronomy_source(source, 0)
    seen = float(adaptive_rays(lenstronomy_lens(lens, 0), model, finest, 2.4, 18)[2].sum())
    assert dense < 0.2 and abs(seen / dense - 1) < 1e-3


@pytest.mark.gpu
def test_torch_backend_on_a_gpu():
    "As true as the compiled backend, and at a rate worth the device; the figures are printed with its name"
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    systems, rate = random_systems(4096, seed=3), []
    for lens, source, psf in systems:
        some = np.arange(16)
        ours = render_arcs(picked(lens, some), picked(source, some), picked(psf, some), backend="torch")
        assert differ(ours, render_arcs(picked(lens, some), picked(source, some), picked(psf, some))) < 1e-3
        render_arcs(lens, source, psf, backend="torch")
        begin = time.perf_counter()
        render_arcs(lens, source, psf, backend="torch")
        rate.append(len(lens) / (time.perf_counter() - begin))
    print(f"{torch.cuda.get_device_name()}: {min(rate):.0f} stamps a second")
    assert min(rate) > 2000


def test_lenstronomys_own_image_model_converges_to_the_reference():
    lens, source, psf = a_lens(), a_source(R_sersic=0.3, n_sersic=1.0), MoffatPSF([[1.2]], 3.5)
    truth = render_arcs(lens, source, psf, n_pix=32, backend="lenstronomy")[0]
    off = [
        float(np.abs(draw_per_band(prepare(lens, source, psf, 0, s, 0.262), s, None, 32, 0.262) - truth).max() / truth.max())
        for s in (3, 5, 9)
    ]
    # The kernel's cut at 15 pixels leaves 0.3 % of its light out, which normalising spreads over the rest.
    assert off[2] < off[0] and off[2] < 4e-3


def test_deflection_to_1e_5_of_theta_E_everywhere():
    from lenstronomy.LensModel.lens_model import LensModel

    from dark_halo_scope.lensing.deflection import ellipticity

    rng = np.random.default_rng(0)
    x, y = rng.uniform(-10, 10, (2, 4000))
    x[:50], y[:50] = rng.normal(0, 1e-3, (2, 50))
    for q in (0.2, 0.5, 0.9, 0.9999, 1.0):
        for theta_E in (0.2, 6.0):
            e1, e2 = ellipticity(q, 0.6)
            theirs = LensModel(["SIE"]).alpha(x, y, [{"theta_E": theta_E, "e1": e1, "e2": e2, "center_x": 0.0, "center_y": 0.0}])
            for o, t in zip(sie_deflection(x, y, theta_E, q, 0.6), theirs):
                assert np.abs(o - t).max() < 1e-5 * theta_E


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "radius"), [(0.5, 0.5), (1.0, 0.3), (2.5, 0.1), (4.0, 0.05)])
def test_total_flux_and_half_light_radius(backend, n, radius):
    "No lens, a needle of a PSF for the half-light radius: the flux within the half-light circle is half of all flux"
    lens = LensParams(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    stamp = render_arcs(
        lens, a_source(x=0.0, y=0.0, R_sersic=radius, n_sersic=n, q=1.0), MoffatPSF([[0.7]], 4.5), n_pix=96, backend=backend
    )
    # What a Moffat throws beyond the stamp, and what a Sersic has there: under 1e-4 for these.
    assert abs(float(stamp.sum(dtype=float)) - 1) < 1e-4


def test_rays_of_any_ellipsoid_are_right():
    "Compiled rays, and torch's, beside the deflection in 40 digits, for axis ratios down to the limit and places on and near the axes"
    mp = pytest.importorskip("mpmath")
    draw, n = np.random.default_rng(3), 240
    go = compiled(_traced)
    for q in (0.02, 0.03, 0.05, 0.1, 0.17, 0.4, 0.8, 0.99):
        r, angle = np.geomspace(1e-3, 8, n), draw.uniform(0, 2 * np.pi, n)
        x, y = (r * np.cos(angle)).astype(np.float32), (r * np.sin(angle)).astype(np.float32)
        x[:30] *= 1e-4
        y[30:60] *= 1e-4
        rows = lens_rows(LensParams(1.5, q, 0.0, 0.0, 0.0, 0.0, 0.0))
        bx, by = x.copy(), y.copy()
        go(rows[0], bx, by, np.empty_like(x))
        with mp.workdps(40):
            exact = mp.mpf(q)
            f, worst = mp.sqrt(1 - exact**2), 0.0
            for k in range(0, n, 3):
                u, v = mp.mpf(float(x[k])), mp.mpf(float(y[k]))
                psi, b = mp.sqrt(exact**2 * u**2 + v**2), mp.mpf("1.5") * mp.sqrt(exact) / f
                true = float(b * mp.atan(f * u / psi)), float(b * mp.atanh(f * v / psi))
                worst = max(worst, abs(float(x[k]) - float(bx[k]) - true[0]), abs(float(y[k]) - float(by[k]) - true[1]))
                ours = sie_deflection(float(x[k]), float(y[k]), 1.5, q)
                assert abs(ours[0] - true[0]) < 1e-10 and abs(ours[1] - true[1]) < 1e-10
        assert worst < 3e-6, (q, worst)
    for wrong in (0.019, 0.0):
        with pytest.raises(BadInput, match="q"):
            LensParams(1.0, wrong, 0.0, 0.0, 0.0, 0.0, 0.0)


def _traced(lens, x, y, psi):
    trace(lens, x, y, x.size, psi)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_arcs_of_a_needle_of_mass(backend):
    "q = .05, where a series once ran out: a grid of 35 rays a pixel says the same"
    if backend == "torch":
        pytest.importorskip("torch")
    lens, source, psf = a_lens(q=0.05, theta_E=1.2), a_source(R_sersic=0.3, n_sersic=1.0), GaussianPSF([[1.0]], True)
    stamp = render_arcs(lens, source, psf, n_pix=48, backend=backend)[0, 0]
    fine, cell = 48 * 35, 0.262 / 35
    y, x = (np.mgrid[:fine, :fine] - (fine - 1) / 2) * cell
    bx, by = source_position(lens, x[None], y[None])
    light = sersic_light(sersic_parts(source), bx[0], by[0])[0] * cell**2
    coarse = light.reshape(240, 7, 240, 7).sum((1, 3))  # five cells a pixel, the middle one at its centre
    blurred = gaussian_filter(coarse, 1.0 / np.sqrt(8 * np.log(2)) / (0.262 / 5), truncate=6, mode="constant")
    truth = 25 * blurred[2::5, 2::5]
    assert np.abs(stamp - truth).max() < 4e-3 * truth.max()


@pytest.mark.parametrize("n", [4.0, 5.0, 6.0])
@pytest.mark.parametrize("radius", [0.03, 0.1, 0.5])
def test_steep_profiles(n, radius):
    "The middle pixel and the light of a steep Sersic under a Gaussian PSF, each one integral; steeper ones are refused"
    lens, sigma = LensParams(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0), 0.8 / np.sqrt(8 * np.log(2))
    source = a_source(x=0.0, y=0.0, R_sersic=radius, n_sersic=n, q=1.0)
    r = np.geomspace(1e-14, 100, 200001)
    middle = float(np.trapezoid(r * sersic_profile(r, 0, radius, n) * np.exp(-(r**2) / (2 * sigma**2)) / sigma**2, r)) * 0.262**2
    for margin in (0, 16, 48):
        stamp = render_arcs(lens, source, GaussianPSF([[0.8]], True), n_pix=49, margin=margin)
        assert abs(float(stamp[0, 0, 24, 24]) / middle - 1) < 1e-3
    with pytest.raises(BadInput, match="n_sersic"):
        a_source(n_sersic=6.5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [0.5, 1.0, 2.5, 4.0])
def test_half_light_radius(backend, n):
    "The middle pixel of a source under a Gaussian PSF is one integral; how far it is off, over how fast it changes with the radius"
    lens, sigma, radius = LensParams(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0), 0.8 / np.sqrt(8 * np.log(2)), 0.4
    stamp = render_arcs(
        lens, a_source(x=0.0, y=0.0, R_sersic=radius, n_sersic=n, q=1.0), GaussianPSF([[0.8]], True), n_pix=49, backend=backend
    )
    r = np.geomspace(1e-8, 20, 200001)

    def middle(half_light):
        light = 2 * np.pi * r * sersic_profile(r, 0, half_light, n) * np.exp(-(r**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
        return float(np.trapezoid(light, r)) * 0.262**2

    slope = (middle(radius * 1.001) - middle(radius * 0.999)) / 0.002
    assert abs((float(stamp[0, 0, 24, 24]) - middle(radius)) / slope) < 1e-4


def test_magnification_of_a_small_source_is_the_jacobians():
    lens, at = a_lens(), (np.array([1.9]), np.array([0.7]))
    bx, by = source_position(lens, at[0][None], at[1][None])
    stamp = render_arcs(lens, a_source(x=bx[0], y=by[0], R_sersic=0.004, n_sersic=0.5, q=1.0), GaussianPSF([[0.65]]), n_pix=80)[
        0, 0
    ].astype(float)
    axis = (np.arange(80) - 39.5) * 0.262
    here = np.hypot(axis - at[0], (axis - at[1])[:, None]) < 1.1
    expected = 1 / abs(np.linalg.det(jacobian(lens, *at)))[0]
    assert abs(stamp[here].sum() / expected - 1) < 5e-3


def test_noise_equivalent_area_is_the_surveys():
    for beta in (2.5, 3.5, None):
        psf = psf_from_psfsize([[1.48, 1.24]], beta)
        point = render_arcs(
            LensParams(0.0, 1.0, 0.0, 0.0, 0.0, 0.131, 0.131), a_source(2, x=0.131, y=0.131, R_sersic=0.002, n_sersic=0.5, q=1.0), psf
        )
        drawn = point.sum((2, 3), dtype=float) ** 2 / (point.astype(float) ** 2).sum((2, 3)) * 0.262**2
        survey = noise_equivalent_area(GaussianPSF([[1.48, 1.24]]))
        assert np.abs(drawn / survey - 1).max() < 0.01
        mistaken = noise_equivalent_area(MoffatPSF([[1.48, 1.24]], 3.5))
        assert np.abs(mistaken / survey - 1).min() > 0.4


def test_no_flux_no_change():
    stamp = np.random.default_rng(0).normal(size=(1, 2, 32, 32)).astype(np.float32)
    for backend in BACKENDS:
        dark = render_arcs(a_lens(), a_source(2, flux=[[0.0, 0.0]]), MoffatPSF([[1.0, 1.2]], 3.0), n_pix=32, backend=backend)
        assert (stamp + dark).tobytes() == stamp.tobytes()


def test_rotation_and_reflection():
    psf = MoffatPSF([[1.1]], 3.0)
    lens, source = a_lens(), a_source()
    stamp = render_arcs(lens, source, psf, n_pix=40)[0, 0]
    turned = render_arcs(
        a_lens(phi=0.4 + np.pi / 2, gamma1=-0.03, gamma2=0.02, center_x=0.1, center_y=0.1),
        a_source(x=-0.05, y=0.15, phi=1.0 + np.pi / 2),
        psf,
        n_pix=40,
    )[0, 0]
    assert np.abs(np.rot90(stamp, -1) - turned).max() < 2e-4 * stamp.max() or np.abs(np.rot90(stamp) - turned).max() < 2e-4 * stamp.max()
    mirrored = render_arcs(a_lens(phi=-0.4, gamma2=0.02, center_y=0.1), a_source(y=-0.05, phi=-1.0), psf, n_pix=40)[0, 0]
    assert np.abs(stamp[::-1] - mirrored).max() < 2e-4 * stamp.max()
    assert np.abs(stamp - mirrored).max() > 0.05 * stamp.max()


@pytest.mark.parametrize("kind", ["sersic", "clumpy", "image"])
def test_bytes_do_not_depend_on_the_batch(kind):
    lens, source, psf = random_systems(14, seed=2, kind=kind)[0]
    psf = MoffatPSF(np.vstack([psf.fwhm[:3] * 0.5, psf.fwhm[3:]]), psf.beta)
    together = render_arcs(lens, source, psf, n_pix=48)
    for order in ([5], [6, 1, 4], [3, 2, 1, 0, 6, 5, 4]):
        apart = render_arcs(picked(lens, order), picked(source, order), picked(psf, order), n_pix=48)
        assert apart.tobytes() == together[order].tobytes()


def test_margin_is_a_window_on_the_sky():
    lens, source, psf = a_lens(theta_E=3.0), a_source(R_sersic=0.5), MoffatPSF([[1.2]], 3.0)
    large, small = render_arcs(lens, source, psf, n_pix=64), render_arcs(lens, source, psf, n_pix=32, margin=16)
    assert np.array_equal(large[..., 16:48, 16:48], small)
    assert np.abs(render_arcs(lens, source, psf, n_pix=32) - small).max() > 1e-3 * small.max()


# caustics, a peer that the bench compares with -------------------------------------------------------------------------------------

NO_CAUSTICS = "caustics is not installed (a development dependency): nothing to compare with"


def test_caustics_is_given_the_same_systems():
    "Its rays and light, lenstronomy's kernels: what is left is single precision"
    pytest.importorskip("caustics", reason=NO_CAUSTICS)
    systems = random_systems(12, seed=7)
    theirs, lenstronomys = caustics_draw(3, systems, 40, 0.262)(), lenstronomy_draw(draw_shared, 3, None, systems, 40, 0.262)()
    assert differ(theirs, lenstronomys) < 3e-4


def test_caustics_finely_sampled_is_the_reference():
    pytest.importorskip("caustics", reason=NO_CAUSTICS)
    system = a_lens(q=0.6, gamma1=0.05), a_source(2, R_sersic=0.3, n_sersic=1.0, q=0.5), GaussianPSF([[1.1, 0.9]])
    truth = render_arcs(*system, n_pix=40, backend="lenstronomy")
    off = {s: differ(caustics_draw(s, [system], 40, 0.262)(), truth) for s in (3, 9)}
    assert off[9] < 5e-4 and off[9] < off[3]
    for change in ({"phi": 0.5}, {"gamma2": 0.02}, {"theta_E": 1.21}, {"q": 0.65}):
        other = caustics_draw(9, [(a_lens(**({"q": 0.6, "gamma1": 0.05} | change)), *system[1:])], 40, 0.262)()
        assert differ(other, truth) > 3e-3, change


def test_caustics_blur_is_its_own():
    "What `LensSource` draws with a PSF of its own, where no light crosses the edge"
    caustics, torch = pytest.importorskip("caustics", reason=NO_CAUSTICS), pytest.importorskip("torch")
    lens, source, psf = a_lens(theta_E=0.8), a_source(R_sersic=0.2, n_sersic=0.5), GaussianPSF([[0.9]])
    kernel = torch.tensor(prepare(lens, source, psf, 0, 3, 0.262).kernels[0], dtype=torch.float32)
    cosmology = caustics.FlatLambdaCDM()
    plane = caustics.SinglePlane(cosmology, (caustics.SIE(cosmology), caustics.ExternalShear(cosmology, x0=0.0, y0=0.0)), z_l=0.5, z_s=1.0)
    light = caustics.Sersic(use_lenstronomy_k=True)
    theirs = caustics.LensSource(plane, light, pixelscale=0.262, pixels_x=32, upsample_factor=3, psf=kernel)
    drawn = theirs(torch.tensor(caustics_row(lens, source, 0))).numpy() * 0.262**2
    assert differ(caustics_draw(3, [(lens, source, psf)], 32, 0.262)(), drawn[None, None]) < 1e-5


def test_a_bench_without_caustics_says_so(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "caustics" else find(name, *more))
    report = bench_render(n=2, seed=1, n_image=0, n_clumpy=0, n_pix=16, rounds=1)
    assert report["caustics"].startswith("not installed") and not any(
        "caustics" in k for k in (*report["ms_per_stamp"], *report["accuracy"])
    )
    assert not any(k.startswith("ratio_vs_caustics") for k in report)


# Planted faults -------------------------------------------------------------------------------------------------------------------


def core_excess(stamp, truth):
    "Light within 5 pixels of the centre beyond what the reference predicts, as a share of the arc's light"
    at = np.arange(stamp.shape[-1]) - (stamp.shape[-1] - 1) / 2
    core = np.hypot(at, at[:, None]) <= 5
    return float(np.abs(stamp[..., core].sum() - truth[..., core].sum()) / truth.sum())


def test_core_light_is_physics_until_a_fault_is_planted(monkeypatch):
    lens, source, psf = a_lens(theta_E=1.8), a_source(R_sersic=0.3), MoffatPSF([[1.2]], 3.0)
    truth = render_arcs(lens, source, psf, n_pix=48, backend="lenstronomy")
    assert core_excess(render_arcs(lens, source, psf, n_pix=48), truth) < 1e-4

    good = render.numba_stamps
    monkeypatch.setattr(render, "numba_stamps", lambda *a, **k: np.roll(good(*a, **k), 1, axis=3))
    shifted = render_arcs(lens, source, psf, n_pix=48)
    assert differ(shifted, truth) > 0.05 and core_excess(shifted, truth) > 1e-4


@pytest.mark.parametrize("fault", ["pedestal", "square edge", "negative ring", "nan", "flux"])
def test_a_bank_with_a_fault_is_refused(fault):
    image = drawn_bank(3).images[0].astype(float)
    edge = np.zeros_like(image)
    edge[40:60, 40:60] = image[40:60, 40:60]
    ring = image.copy()
    ring[0, 5] = -1e-6
    missing = image.copy()
    missing[50, 50] = np.nan
    wrong = {"pedestal": image + 1e-7, "square edge": edge / edge.sum(), "negative ring": ring, "nan": missing, "flux": 2 * image}[fault]
    with pytest.raises(BadInput, match=r"images\[1\]"):
        SourceBank([image, wrong], 0.03)


def test_psfsize_taken_for_a_fwhm_is_caught():
    "What the noise-equivalent area test sees when the survey's width is used as the Moffat's"
    right, wrong = psf_from_psfsize([[1.3]]), MoffatPSF([[1.3]], 3.5, True)
    lens, source = LensParams(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0), a_source(x=0.0, y=0.0, R_sersic=0.01, n_sersic=0.5, q=1.0)
    areas = [
        float(1 / (render_arcs(lens, source, p).astype(float) ** 2).sum() * 0.262**2 / noise_equivalent_area(GaussianPSF([[1.3]]))[0, 0])
        for p in (right, wrong)
    ]
    assert abs(areas[0] - 1) < 0.01 < 0.4 < areas[1] - 1


def test_gain_of_another_pipeline_is_caught():
    from dark_halo_scope.lensing.visibility import shot_noise

    arc = np.full((1, 200, 200), 0.05, np.float32)
    sigma = [float(shot_noise(arc[None], np.array([gain]), np.array([0])).std()) for gain in (12400.0, 150.0)]
    assert abs(sigma[0] / np.sqrt(0.05 / 12400) - 1) < 0.02 and sigma[1] > 8 * sigma[0]


# Bad input ------------------------------------------------------------------------------------------------------------------------

REFUSED = {
    "theta_E[1]": lambda: a_lens(theta_E=[1.0, np.nan]),
    "theta_E[0]": lambda: a_lens(theta_E=-1.0),
    "q[2]": lambda: a_lens(q=[0.5, 0.5, 0.0]),
    "gamma1[0]": lambda: a_lens(gamma1=np.inf),
    "theta_E: empty": lambda: a_lens(theta_E=[]),
    "phi: 2 systems": lambda: a_lens(theta_E=[1.0, 1.0, 1.0], phi=[0.0, 0.0]),
    "flux[0, 1]": lambda: a_source(flux=[[1.0, -1.0]]),
    "R_sersic[0]": lambda: a_source(R_sersic=0.0),
    "n_sersic[0]": lambda: a_source(n_sersic=20.0),
    "fwhm[0, 1]": lambda: MoffatPSF([[1.0, 0.0]], 3.0),
    "fwhm[1, 0]": lambda: GaussianPSF([[1.0], [np.nan]]),
    "fwhm: empty": lambda: GaussianPSF(np.zeros((0, 3))),
    "beta[0, 0]": lambda: MoffatPSF([[1.0]], 1.0),
    "psfsize[0, 0]": lambda: psf_from_psfsize([[0.0]]),
    "fwhm: 2 bands": lambda: render_arcs(a_lens(), a_source(3), MoffatPSF([[1.0, 1.0]], 3.0)),
    "lens: 2 systems": lambda: render_arcs(a_lens(theta_E=[1.0, 1.0]), a_source(x=[0.1, 0.1, 0.1]), MoffatPSF([[1.0]], 3.0)),
    "unknown backend 'nunba'; did you mean 'numba'": lambda: render_arcs(a_lens(), a_source(), MoffatPSF([[1.0]], 3.0), backend="nunba"),
    "n_pix is 0": lambda: render_arcs(a_lens(), a_source(), MoffatPSF([[1.0]], 3.0), n_pix=0),
    "pixscale is -1": lambda: render_arcs(a_lens(), a_source(), MoffatPSF([[1.0]], 3.0), pixscale=-1),
    "index[0]": lambda: ImageParams(0.0, 0.0, 0.0, 1.0, 9, [[1.0]], drawn_bank(1)),
    "clump_share": lambda: ClumpyParams(
        **{f.name: getattr(clumpy(a_source(), [np.random.default_rng(0)]), f.name) for f in fields(ClumpyParams)}
        | {"clump_share": [[0.95]]}
    ),
}


@pytest.mark.parametrize("said", REFUSED)
def test_bad_input_names_the_argument_and_the_first_bad_index(said):
    with pytest.raises(ValueError) as error:
        REFUSED[said]()
    assert said in str(error.value) and "\n" not in str(error.value)


# The machine ----------------------------------------------------------------------------------------------------------------------


def test_no_tile_that_may_see_light_is_dropped():
    "Tiles of several sizes along a row of a picture with one bright pixel: its distance, as far as the tile reaches, decides"
    image = np.zeros((72, 72), np.float32)
    image[36, 44] = 1.0
    maps, part = block_maps(image), np.array([0, 0, 1, 0, 1, 35.5, 35.5, 1], np.float32)  # one pixel per arcsec, no turn
    lens = lens_rows(a_lens(theta_E=1e-6, q=1.0, gamma1=0.0, gamma2=0.0))[0]
    x = np.arange(-36, 36, dtype=np.float32)
    for side in (2, 8, 14, 20):
        verdict, middle = np.empty(len(x), np.int8), np.stack([x, 0 * x + 0.5, 0 * x + 1e3, 0 * x]).astype(np.float32)
        judge_image(lens, part, maps, middle, len(x), np.float32(side), np.array([1e-6, 1e9, 1e-6], np.float32), verdict)
        away = np.abs(x + 35.5 - 44)
        assert (verdict[away < side * 2**-0.5] != DROP).all() and (verdict[away > side * 2**-0.5 + 26] == DROP).all()


@pytest.mark.parametrize(
    "held",
    [
        a_lens(),
        a_source(),
        clumpy(a_source(3), [np.random.default_rng(0)]),
        sersic_parts(a_source()),
        MoffatPSF([[1.0]], 3.0),
        GaussianPSF([[0.8]]),
    ],
    ids=lambda held: type(held).__name__,
)
def test_what_holds_arrays_is_equal_to_itself_alone(held):
    "So it can be the key of a cache, and no comparison asks which pixels are meant"
    twin = replace(held)
    assert held == held and held != twin and len({held, twin, held}) == 2


def test_importing_needs_no_writable_place_and_no_heavy_backend(tmp_path):
    code = "import sys, dark_halo_scope.lensing.render as r; print(sorted({'torch', 'lenstronomy'} & set(sys.modules)))"
    nowhere = os.environ | {"NUMBA_CACHE_DIR": "", "HOME": "/nonexistent", "TMPDIR": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=nowhere, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stderr


def test_where_nothing_can_be_cached_the_code_is_compiled_all_the_same(monkeypatch):
    monkeypatch.setattr(kernels, "cache_folder", lambda: "/proc/read-only")
    monkeypatch.setattr(kernels.config, "CACHE_DIR", "")

    def twice(x):
        return 2 * x

    assert kernels.compiled(twice)(21) == 42


# A PSF as pixels


def lopsided_star(n_band=2):
    "Pictures of no symmetry, each band another"
    y, x = np.mgrid[-20:21, -20:21] * 0.262
    star = np.exp(-((x - 0.15) ** 2 + (y + 0.1) ** 2 + 0.4 * x * y) / 0.5) + 0.1 * np.exp(-((x + 0.8) ** 2 + (y - 0.5) ** 2) / 0.5)
    return PixelPSF(np.stack([star, star[::-1], star.T])[None, :n_band], 0.262)


def test_pixels_of_a_round_star_are_the_closed_form():
    y, x = np.mgrid[-20:21, -20:21] * 0.262
    known = GaussianPSF([[1.2, 1.4]], True)
    pixels = PixelPSF(np.stack([psf_profile(known, np.hypot(x, y), 0, b) for b in (0, 1)])[None], 0.262)
    one, two = (render_arcs(a_lens(), a_source(2), p, n_pix=32) for p in (known, pixels))
    assert np.abs(one - two).max() < 1e-5 * one.max() and np.allclose(pixels.fwhm, known.fwhm, rtol=1e-3)


@pytest.mark.parametrize("source", [a_source(2), clumpy(a_source(2), [np.random.default_rng(1)])])
def test_pixels_against_lenstronomys_light(source):
    "No axis is exchanged and no sign is lost: a lopsided star, blurred by convolution on lenstronomy's light"
    ours, theirs = (paint(a_lens(), source, lopsided_star(), n_pix=32) for paint in (render_arcs, true_stamps))
    assert np.abs(ours - theirs).max() < 5e-4 * theirs.max()


def test_pixels_are_each_systems_own():
    star = lopsided_star(3)
    two = PixelPSF(np.concatenate([star.image, star.image[:, ::-1]]), 0.262)
    together = render_arcs(a_lens(), a_source(3), two)
    for i in (0, 1):
        assert render_arcs(a_lens(), a_source(3), picked(two, [i]))[0].tobytes() == together[i].tobytes()


def test_pixels_that_cannot_be_used_are_refused():
    star = lopsided_star()
    with pytest.raises(BadInput, match="pixels of 0.262 arcsec for stamps of 0.3"):
        render_arcs(a_lens(), a_source(2), star, pixscale=0.3)
    with pytest.raises(BadInput, match="torch backend"):
        render_arcs(a_lens(), a_source(2), star, backend="torch")
    for image in (star.image[..., 1:], -star.image, np.where(star.image > 0.01, np.nan, star.image)):
        with pytest.raises(BadInput):
            PixelPSF(image, 0.262)


def test_what_a_moffat_costs_beside_a_real_star(real_data):
    "PSF pictures of a real DES arc: a Moffat of their PSFSIZE is within some 2 % of the peak, a Gaussian within some 8 %"
    from dark_halo_scope.survey.viewer import psf_picture

    files = [next((real_data / "fits").glob(f"DESJ0330*_{b}_psf.fits")) for b in "grz"]
    star = PixelPSF(np.stack([psf_picture(f.read_bytes(), f.name) for f in files])[None], 0.263)
    assert np.allclose(star.fwhm[0], (1.327, 1.296, 1.284), atol=0.002)
    draw, n = np.random.default_rng(0), 60
    theta, angle = draw.uniform(0.8, 2.5, n), draw.uniform(0, 2 * np.pi, n)
    beta = np.sqrt(draw.random(n)) * theta
    lens = LensParams(theta, draw.uniform(0.6, 1, n), draw.uniform(0, np.pi, n), 0.02, 0.01, 0.0, 0.0)
    source = SersicParams(beta * np.cos(angle), beta * np.sin(angle), draw.uniform(0.1, 0.4, n), 1.0, 0.7, 0.3, np.ones((1, 3)))
    real = render_arcs(lens, source, star, pixscale=0.263)
    off = {}
    for name, width in (("moffat", 3.5), ("gaussian", None)):
        round_one = render_arcs(lens, source, psf_from_psfsize(star.fwhm, width), pixscale=0.263)
        off[name] = np.median(np.abs(round_one - real).max((2, 3)) / real.max((2, 3)), axis=0)
    assert (off["moffat"] < 0.03).all() and (off["gaussian"] > 0.05).all()
