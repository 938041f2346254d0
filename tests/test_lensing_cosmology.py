"Distances and Einstein radii against astropy over the whole range, and the ways in which input is refused."

import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import gammainc

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.lensing.cosmology import (
    ARCSEC,
    C_KM_S,
    Cosmology,
    PopulationRecipe,
    comoving_distance,
    dispersion_for,
    dispersion_from_light,
    draw_population,
    draw_source_redshift,
    einstein_radius,
    observability,
)


@pytest.mark.parametrize("h0, omega_m", [(70, 0.3), (67.4, 0.315), (100, 1.0), (50, 0.05)])
def test_theta_E_is_astropys(h0, omega_m):
    z_l, z_s = map(np.ravel, np.meshgrid(np.linspace(0.02, 1.5, 12), np.linspace(0.1, 6, 15)))
    behind = z_s > z_l + 1e-9
    peer = FlatLambdaCDM(H0=h0, Om0=omega_m, Tcmb0=0)
    ratio = 1 - peer.comoving_distance(z_l).value / peer.comoving_distance(z_s).value
    ours = einstein_radius(250.0, z_l, z_s, Cosmology(h0, omega_m))
    expected = np.where(behind, 4 * np.pi * (250 / C_KM_S) ** 2 * ratio * ARCSEC, 0)
    assert np.abs(ours - expected).max() < 1e-6
    assert np.allclose(comoving_distance(z_s, Cosmology(h0, omega_m)), peer.comoving_distance(z_s).value, rtol=1e-8)


@settings(max_examples=40, deadline=None)
@given(st.floats(80, 500), st.floats(0.01, 1.5), st.floats(0.05, 4))
def test_inverse(sigma_v, z_l, gap):
    theta_E = einstein_radius(sigma_v, z_l, z_l + gap)
    assert np.isclose(dispersion_for(theta_E, z_l, z_l + gap), sigma_v, rtol=1e-9)


def test_slacs_like_galaxies_have_slacs_like_rings():
    "SLACS: r about 17.3 at z .2, sources near z .6, theta_E .8 to 1.7 (Bolton et al. 2008)"
    theta_E = einstein_radius(dispersion_from_light(16.8, 0.2), 0.2, 0.6)
    assert 0.8 < theta_E < 1.7


def test_source_redshifts_follow_their_density():
    "Share of field sources below z = 1 against the integral of z^2 exp(-(z/z0)^1.5): a gamma function of order 2"
    u = (np.arange(20000) + 0.5) / 20000
    drawn = draw_source_redshift(u, np.zeros(20000), z0=0.9, by_area=False)
    assert np.mean(drawn < 1.0) == pytest.approx(gammainc(2, (1 / 0.9) ** 1.5), abs=2e-3)
    assert np.mean(drawn < 2.0) == pytest.approx(gammainc(2, (2 / 0.9) ** 1.5), abs=2e-3)


def test_source_redshifts_are_no_steps():
    "Draws side by side differ, and by little: the bins of the density are not seen"
    drawn = draw_source_redshift(np.linspace(0.02, 0.98, 4000), np.full(4000, 0.4))
    assert (np.diff(drawn) > 0).all() and np.diff(drawn).max() < 0.005


def test_lens_redshifts_follow_volume_and_efficiency():
    "The density written down once more, with astropy's volume and distances"
    peer = FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0)
    z, z_s = np.linspace(0.01, 1.0, 100), np.linspace(0.02, 6, 300)
    ratio = peer.comoving_distance(z).value[:, None] / peer.comoving_distance(z_s).value
    behind = np.clip(1 - ratio, 0, None) ** 2 @ (z_s**2 * np.exp(-((z_s / 0.9) ** 1.5)))
    growth = np.cumsum(peer.differential_comoving_volume(z).value * behind)
    drawn = draw_population(PopulationRecipe(n=4000), Cosmology(70, 0.3))["z_l"]
    assert stats.kstest(drawn, lambda x: np.interp(x, z, growth / growth[-1])).statistic < 0.03


def test_draws_do_not_depend_on_their_company():
    u, z_l = np.random.default_rng(0).random(50), np.linspace(0.05, 1, 50)
    together = draw_source_redshift(u, z_l)
    assert np.array_equal(together, np.concatenate([draw_source_redshift(u[i : i + 1], z_l[i : i + 1]) for i in range(50)]))
    assert (together > z_l).all()


def test_populations_differ_by_seed_only_when_asked():
    first, again, other = (draw_population(PopulationRecipe(n=300, seed=s)) for s in (1, 1, 2))
    assert np.array_equal(first["theta_E"], again["theta_E"]) and not np.array_equal(first["theta_E"], other["theta_E"])


@pytest.mark.parametrize(
    "call",
    [
        lambda: comoving_distance(-0.1),
        lambda: comoving_distance(np.array([0.1, np.nan])),
        lambda: einstein_radius(-1, 0.2, 0.5),
        lambda: observability(1.0, 0.0),
        lambda: observability(-1.0, 1.0),
        lambda: draw_source_redshift(np.array([0.5]), np.array([6.5])),
        lambda: Cosmology(omega_m=0),
        lambda: PopulationRecipe(n=0),
    ],
)
def test_bad_input_is_named(call):
    with pytest.raises(BadInput, match="expected|must be"):
        call()
