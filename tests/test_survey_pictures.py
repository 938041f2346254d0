"Pictures and fluxes, both ways, on stamps of known flux and on real pixels."

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.survey.pictures import (
    VIEWER,
    from_8bit_fluxes,
    lettering,
    lupton,
    padded,
    render_8bit,
    softened,
    to_fluxes,
    to_pictures,
)

SIGMA = np.array([0.0031, 0.0044, 0.0117])


def galaxies(n=6, seed=0, times=1.0):
    y, x = np.mgrid[-32:33, -32:33] * 0.262
    generator = np.random.default_rng(seed)
    light = times * np.array([0.02, 0.08, 0.16])[:, None, None] * np.exp(-np.hypot(x, y) / 1.1)
    return (light + SIGMA[:, None, None] * generator.normal(size=(n, 3, 65, 65))).astype(np.float32)


@pytest.mark.parametrize("colours", [VIEWER, lupton(("z", "r", "g"), 11, 40, 30)], ids=["viewer", "lupton"])
def test_a_picture_gives_its_fluxes_back(colours):
    "Within the noise stated for 8 bits, which is below a fifth of the survey's; a wrong offset, order of bands or orientation is far outside"
    stamps = galaxies()
    back = to_fluxes(to_pictures(stamps, colours), colours)
    use = ~(back.bad | back.black)
    off = ((back.flux - stamps) / back.sigma).transpose(1, 0, 2, 3)[:, use]
    assert (
        use.mean() > (0.15 if colours.keeps_hue else 0.6)
        and abs(off.mean()) < 0.05
        and off.std() == pytest.approx(1, abs=0.05)
        and np.abs(off).max() < 3
    )
    assert (np.median(back.sigma, (0, 2, 3)) < 0.2 * SIGMA).all()
    flipped = to_fluxes(to_pictures(stamps, colours)[:, ::-1], colours)
    assert np.abs(((flipped.flux - stamps) / back.sigma).transpose(1, 0, 2, 3)[:, use]).mean() > 5


def test_a_saturated_pixel_is_marked_and_never_fainter_than_its_byte():
    stamps = galaxies(2, seed=3, times=8.0)
    back = to_fluxes(to_pictures(stamps))
    assert back.bad[:, 30:35, 30:35].any() and not back.bad[:, :10].any()
    assert np.isfinite(back.flux).all() and (back.flux[back.bad.nonzero()[0], 2, *back.bad.nonzero()[1:]] > 0.3).all()


def test_text_and_frames_are_marked():
    picture = to_pictures(galaxies(1))
    picture[0, :, -2:] = 255
    mask = lettering(picture, rows=8)
    assert mask[0, :8].all() and mask[0, -8:].all() and mask[0, :, -2:].all() and not mask[0, 20:40, 20:40].any()


def test_bad_pictures_are_refused():
    with pytest.raises(BadInput, match="uint8"):
        to_fluxes(np.zeros((1, 4, 4, 3)))
    with pytest.raises(BadInput, match="finite"):
        to_pictures(np.full((1, 3, 4, 4), np.nan))
    with pytest.raises(BadInput, match="magnitudes"):
        from_8bit_fluxes(np.zeros((2, 101, 101, 3), np.uint8), np.array([20.0, np.nan]))


def test_the_scale_of_the_linear_chain_comes_back(real_data):
    "On the 30 galaxies of known flux: median ratio of the restored to the true scale, from pixels that are neither clipped nor faint"
    hosts = np.load(real_data / "lrg_des_grz.npz")["image"]
    truth, pictures = softened(padded(hosts)), render_8bit(hosts)
    back = from_8bit_fluxes(pictures, 22.5 - 2.5 * np.log10(padded(hosts)[:, 1].sum((1, 2))))
    use = (np.hypot(*np.mgrid[-50:51, -50:51]) < 8) & ~back.bad
    ratio = np.array([f[1, u].sum() / t[1, u].sum() for f, t, u in zip(back.flux, truth, use)])
    assert np.median(ratio) == pytest.approx(1, abs=0.12) and np.percentile(ratio, 16) > 0.7 and np.percentile(ratio, 84) < 1.4


@pytest.mark.parametrize("lens, other", [(22, 325), (42, 198), (45, 2791)])
def test_an_object_in_two_sets_is_one(real_data, lens, other):
    """Three lenses of the linear chain are among the DES pictures (Lupton's colours, g, r, i): no turned or mirrored picture fits as well,
    and flux and colour agree, one scale from a magnitude of the whole stamp and the other from the zero point"""
    names = ("real_lenses_dr10_8bit", "des_unlabelled_rgb45")
    lenses, shown = (np.load(real_data / f"{name}.npz", allow_pickle=True) for name in names)
    linear = from_8bit_fluxes(lenses["image_zrg_uint8"][lens : lens + 1], lenses["r_mag"][lens : lens + 1])
    public = to_fluxes(shown["rgb"][other : other + 1], lupton(("i", "r", "g"), 11, 40, 30))
    y, x = np.mgrid[-19:20, -19:20] * 0.263

    def at(stack, pixscale):
        middle = (stack.shape[-1] - 1) / 2
        return np.stack(
            [map_coordinates(gaussian_filter(b, 1.5), [y / pixscale + middle, x / pixscale + middle], order=1) for b in stack[0]]
        )

    one, two = at(linear.flux, 0.262), at(public.flux, 0.263)
    far = (np.hypot(y, x) > 1.5) & (np.hypot(y, x) < 5)

    def alike(a, b):
        return np.corrcoef(np.arcsinh(a[1] / 0.02)[far], np.arcsinh(b[1] / 0.02)[far])[0, 1]

    turned = [alike(one, np.rot90(b, k, axes=(-2, -1))) for b in (two, two[..., ::-1]) for k in range(4)]
    assert int(np.argmax(turned)) == 0 and turned[0] > 0.95
    level = [
        np.median(b[:2][:, (np.hypot(y, x) > 4.2) & far], axis=1)[:, None] for b in (one, two)
    ]  # the two sets took off different skies
    near = (np.hypot(y, x) > 0.8) & (np.hypot(y, x) < 2.5)
    ratio = (one[:2, near] - level[0]).sum(1) / (two[:2, near] - level[1]).sum(1)
    assert abs(np.log(ratio[0] / ratio[1])) < 0.2, "g - r agrees"
    assert 0.6 < ratio[1] < 1.7, "the scale from the magnitude agrees with the zero point's"
