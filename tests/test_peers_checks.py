"Checks that other codes make of themselves, made here: desitarget's bits, the system of five lens codes, caustics' ellipsoid, lenstronomy's blurring"

import numpy as np
import pytest
from astropy.table import Table
from lenstronomy.Data.imaging_data import ImageData
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from lenstronomy.Util import param_util
from scipy.ndimage import gaussian_filter
from scipy.special import erf

from dark_halo_scope.lensing.deflection import LensParams, sie_deflection
from dark_halo_scope.lensing.render import GaussianPSF, SersicParams, render_arcs
from dark_halo_scope.lensing.sources import sersic_b
from dark_halo_scope.parent import selection

# desitarget ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def targets(real_data):
    "1,001 rows with the bits that desitarget gave them, from the file of its own tests (DR8)"
    file = real_data / "catalogues" / "desitarget_rows" / "targets.fits"
    if not file.exists():
        pytest.skip(f"no {file.name} of desitarget's tests in {file.parent}")
    table = Table.read(file)
    with np.errstate(invalid="ignore", divide="ignore"):
        flux = {b: np.asarray(table[f"FLUX_{b}"] / table[f"MW_TRANSMISSION_{b}"], float) for b in ("G", "R", "Z", "W1")}
        magnitudes = {b.lower(): 22.5 - 2.5 * np.log10(v) for b, v in flux.items()}
    return magnitudes, (np.asarray(table["DESI_TARGET"]) & 1) > 0


def test_desitargets_lrg_bits_on_its_targets(targets):
    """The bits follow from dereddened magnitudes and the lines of their day

    Those of desitarget.cuts.isLRG_colors for the south, dated there 12/07/2020, version 232 of the targeting wiki: read in its source of January 2021.
    Its last line, a fibre magnitude in z below 21.5, needs a column that the file lacks, and is not needed for any of the bits.
    """
    m, bit = targets
    g, r, z, w1 = (m[b] for b in ("g", "r", "z", "w1"))
    with np.errstate(invalid="ignore"):
        of_2020 = (z - w1 > 0.8 * (r - z) - 0.6) & (((g - w1 > 2.6) & (g - r > 1.4)) | (r - w1 > 1.8))
        of_2020 &= (r - z > (z - 16.83) * 0.45) & (r - z > (z - 13.80) * 0.19)
    assert bit.sum() == 182 and len(bit) == 1001 and np.array_equal(of_2020, bit)


def test_todays_cut_takes_a_part_of_the_older_one(targets):
    "Zhou et al. 2023 moved the sliding line: of the rows it takes (the fibre magnitude is not in the file) all but five were LRGs in 2020, and the line against stars is the same"
    m, bit = targets
    with np.errstate(invalid="ignore"):
        ours = selection.desi_lrg_colours(*(m[b] for b in ("g", "r", "z", "w1")), m["z"])
        not_star = m["z"] - m["w1"] > 0.8 * (m["r"] - m["z"]) - 0.6
    assert ((ours & bit).sum(), (ours & ~bit).sum()) == (121, 5) and not_star[bit].all()


# The system that five lens codes were compared on -----------------------------------------------------------------------------------

SIDE, PIXEL, SEEING = 100, 0.05, 0.1
E1, E2 = 0.1, 0.05


def a_lens(theta_E: float, q: float = 1.0, phi: float = 0.0) -> LensParams:
    "An ellipsoid in the middle, without shear"
    return LensParams(theta_E=theta_E, q=q, phi=phi, gamma1=0.0, gamma2=0.0, center_x=0.0, center_y=0.0)


def shape(e1: float, e2: float) -> tuple[float, float]:
    "Ellipticity as position angle and axis ratio"
    phi, q = param_util.ellipticity2phi_q(e1, e2)
    return float(phi), float(q)


def lenstronomys_radius(R: float, n: float) -> float:
    "The half-light radius that gives the same profile there: its b is 1.9992 n - 0.3271, 0.4 % off at n = 1 and 3 % at n = 1/2"
    return R * ((1.9992 * n - 0.3271) / float(sersic_b(n))) ** n


def lenstronomys(lens: list, source: dict, fwhm: float, side: int, pixel: float, factor: int) -> np.ndarray:
    "Flux per pixel by lenstronomy's own image model on a fine grid, blurred there by SciPy's Gaussian filter and summed into pixels"
    n, fine = side * factor, pixel / factor
    edge = -(n - 1) / 2 * fine
    data = ImageData(
        image_data=np.zeros((n, n)),
        ra_at_xy_0=edge,
        dec_at_xy_0=edge,
        transform_pix2angle=np.eye(2) * fine,
        background_rms=1.0,
        exposure_time=1.0,
    )
    models = LensModel([name for name, _ in lens]), LightModel(["SERSIC_ELLIPSE"])
    image = ImageModel(data, PSF(psf_type="NONE"), lens_model_class=models[0], source_model_class=models[1])
    seen = gaussian_filter(
        image.image([given for _, given in lens], [source]), fwhm / np.sqrt(8 * np.log(2)) / fine, truncate=8, mode="constant"
    )
    return seen.reshape(side, factor, side, factor).sum((1, 3))


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_the_system_of_five_codes(backend):
    "SIE theta_E 1, e1 .1, e2 .05; Sersic R .3, n 1, off by .05; 100 pixels of .05 arcsec, FWHM .1: lenstronomy's pixels to 1e-3 of the peak"
    phi, q = shape(E1, E2)
    lens = a_lens(1.0, q, phi)
    source = SersicParams(x=0.05, y=0.05, R_sersic=0.3, n_sersic=1.0, q=1.0, phi=0.0, flux=np.ones((1, 1)))
    ours = render_arcs(lens, source, GaussianPSF([[SEEING]]), n_pix=SIDE, pixscale=PIXEL, backend=backend)[0, 0]
    light = {
        "amp": 1.0,
        "R_sersic": lenstronomys_radius(0.3, 1.0),
        "n_sersic": 1.0,
        "e1": 0.0,
        "e2": 0.0,
        "center_x": 0.05,
        "center_y": 0.05,
    }
    unit = LightModel(["SERSIC_ELLIPSE"]).total_flux([light])[0]
    mass = [("SIE", {"theta_E": 1.0, "e1": E1, "e2": E2, "center_x": 0.0, "center_y": 0.0})]
    theirs = lenstronomys(mass, light, SEEING, SIDE, PIXEL, 9) / unit
    worst = float(np.abs(ours - theirs).max() / theirs.max())
    print(f"{backend}: {worst:.1e} of the peak, {abs(ours.sum() / theirs.sum() - 1):.1e} of the flux")
    assert worst < 1e-3 and abs(float(ours.sum(dtype=float)) / theirs.sum() - 1) < 1e-3


# caustics ---------------------------------------------------------------------------------------------------------------------------


def test_the_ellipsoid_against_caustics_and_the_formula():
    "Its own test's ellipsoid (q .7 at 60 degrees, 1.4 arcsec, off centre), on its own grid; and Kormann, Schneider and Bartelmann 1994 written out"
    q, phi, theta_E, x0, y0 = 0.7, np.pi / 3, 1.4, 0.912, 0.442
    x, y = np.meshgrid(np.linspace(-1, 1, 10), np.linspace(-1, 1, 10))
    ours = np.stack(sie_deflection(x - x0, y - y0, theta_E, q, phi))
    along = np.cos(phi) * (x - x0) + np.sin(phi) * (y - y0), np.cos(phi) * (y - y0) - np.sin(phi) * (x - x0)
    f, psi = np.sqrt(1 - q**2), np.hypot(q * along[0], along[1])
    a, b = theta_E * np.sqrt(q) / f * np.arctan(f * along[0] / psi), theta_E * np.sqrt(q) / f * np.arctanh(f * along[1] / psi)
    written_out = np.stack([np.cos(phi) * a - np.sin(phi) * b, np.sin(phi) * a + np.cos(phi) * b])
    np.testing.assert_allclose(ours, written_out, atol=1e-12)
    e1, e2 = param_util.phi_q2_ellipticity(phi, q)
    theirs = np.stack(LensModel(["SIE"]).alpha(x, y, [{"theta_E": theta_E, "e1": e1, "e2": e2, "center_x": x0, "center_y": y0}]))
    np.testing.assert_allclose(ours, theirs, atol=1e-6 * theta_E)  # lenstronomy softens the centre
    caustics = pytest.importorskip("caustics", reason="caustics is not installed (a development dependency): nothing to compare with")
    torch = pytest.importorskip("torch")
    lens = caustics.SIE(caustics.FlatLambdaCDM(), z_l=0.8, z_s=1.2, x0=x0, y0=y0, q=q, phi=phi, Rein=theta_E, s=0.0).to(dtype=torch.float64)
    of_caustics = np.stack([v.numpy() for v in lens.reduced_deflection_angle(torch.as_tensor(x), torch.as_tensor(y))])
    np.testing.assert_allclose(ours, of_caustics, atol=1e-5 * theta_E)


# lenstronomy's blurring -------------------------------------------------------------------------------------------------------------


def round_gaussian(x: float, y: float, sigma: float, side: int, pixel: float) -> np.ndarray:
    "A Gaussian of unit flux averaged over pixels, in closed form"
    edges = (np.arange(side + 1) - side / 2) * pixel
    share = [np.diff(erf((edges - at) / (np.sqrt(2) * sigma))) / 2 for at in (x, y)]
    return share[1][:, None] * share[0][None, :]


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("fwhm", [0.3, 0.8, 1.4])
def test_a_gaussian_blurred_by_a_gaussian_is_one(backend, fwhm):
    "Its test of the convolution: widths add in squares and no light is lost; a Sersic profile of n = 1/2 is a Gaussian"
    R, side, pixel = 0.5, 65, 0.262
    lens = a_lens(0.0)
    source = SersicParams(x=0.1, y=-0.2, R_sersic=R, n_sersic=0.5, q=1.0, phi=0.0, flux=np.ones((1, 1)))
    ours = render_arcs(lens, source, GaussianPSF([[fwhm]]), n_pix=side, pixscale=pixel, backend=backend)[0, 0]
    own, seeing = R / np.sqrt(2 * float(sersic_b(0.5))), fwhm / np.sqrt(8 * np.log(2))
    exact = round_gaussian(0.1, -0.2, float(np.hypot(own, seeing)), side, pixel)
    assert np.abs(ours - exact).max() < 1e-3 * exact.max() and abs(float(ours.sum(dtype=float)) - 1) < 1e-3
    light = {"amp": 1.0, "R_sersic": lenstronomys_radius(R, 0.5), "n_sersic": 0.5, "e1": 0.0, "e2": 0.0, "center_x": 0.1, "center_y": -0.2}
    theirs = lenstronomys([], light, fwhm, side, pixel, 5)
    assert np.abs(ours - theirs / theirs.sum()).max() < 2e-3 * exact.max()


@pytest.mark.parametrize("fwhm", [0.6, 1.2])
def test_the_kernel_of_a_star_has_its_width_and_no_light_is_lost(fwhm):
    "Its tests of PSF kernels: sum 1, full width at half maximum as asked for; a point painted by us is the Gaussian averaged over pixels"
    pixel, side = 0.1, 61
    kernel = PSF(psf_type="GAUSSIAN", fwhm=fwhm, pixel_size=pixel, truncation=6).kernel_point_source
    lens = a_lens(0.0)
    point = SersicParams(x=0.0, y=0.0, R_sersic=0.01, n_sersic=0.5, q=1.0, phi=0.0, flux=np.ones((1, 1)))
    ours = render_arcs(lens, point, GaussianPSF([[fwhm]]), n_pix=side, pixscale=pixel)[0, 0]
    row = ours[side // 2]
    width = 2 * np.interp(-row.max() / 2, -row[side // 2 :], np.arange(side // 2 + 1)) * pixel
    assert abs(float(kernel.sum()) - 1) < 1e-6 and abs(float(ours.sum(dtype=float)) - 1) < 1e-3
    assert abs(width - np.hypot(fwhm, 0.01)) < 0.02 * fwhm
    cut = (side - kernel.shape[0]) // 2
    ours = ours[cut : side - cut, cut : side - cut] if cut > 0 else ours
    kernel = kernel if cut >= 0 else kernel[-cut:cut, -cut:cut]
    assert np.abs(ours - kernel).max() < 0.02 * kernel.max()  # it takes the Gaussian at pixel centres, we average over pixels
