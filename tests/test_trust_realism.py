"The 8-bit rendering, arc removal and the probe: symmetries, planted arcs, planted leaks."

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from dark_halo_scope.base.draws import rng
from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.lensing.sources import sersic_profile
from dark_halo_scope.stats.metrics import auroc
from dark_halo_scope.survey.pictures import from_8bit, hann_matrix, padded, render_8bit, rendering_facts
from dark_halo_scope.trust.real_sets import read_set, rendered
from dark_halo_scope.trust.realism import (
    arc_patch,
    arc_shape,
    fold_of,
    host_model,
    opposite,
    painted_out,
    realism_probe,
    ridge_scores,
)

Y, X = np.mgrid[-50:51, -50:51] * 0.262
NOISE = np.array([0.0031, 0.0044, 0.0117])[:, None, None]


def frame(seed, radius=0.0, angle=0.0, flux=2.0, q=0.8):
    generator = np.random.default_rng(seed)
    host = np.array([4, 20, 45])[:, None, None] * sersic_profile(X, Y, 1.2, 4.0, q, 0.3) * 0.262**2
    turned = np.angle(np.exp(1j * (np.arctan2(Y, X) - angle)))
    arc = np.exp(-(((np.hypot(X, Y) - radius) / 0.45) ** 2) / 2 - (turned / 0.45) ** 2 / 2) * (radius > 0)
    light = np.array([0.6, 1.0, 1.3])[:, None, None] * arc * flux / max(arc.sum(), 1e-9)
    return host + light + NOISE * generator.normal(size=host.shape), light


def test_rendering_forgets_the_scale_and_nothing_else():
    image = np.array([frame(1, 2.5)[0]])
    assert np.abs(render_8bit(image).astype(int) - render_8bit(7.0 * image)).max() <= 1
    assert (render_8bit(image)[0] != render_8bit(np.array([frame(1, 3.5)[0]]))[0]).any()


def test_rendering_turns_with_the_sky():
    "Mirrored left to right in, mirrored out; up and down stay up and down (the files are stored upside down)"
    image = np.array([frame(2, 3.0, 1.0)[0]])
    out, mirrored = from_8bit(render_8bit(image)), from_8bit(render_8bit(image[..., ::-1]))
    assert np.abs(out - mirrored[..., ::-1]).max() < 0.02
    up = np.array([frame(2, 4.0, np.pi / 2, flux=30.0)[0]])
    assert from_8bit(render_8bit(up))[0, 0, 60:].sum() > 2 * from_8bit(render_8bit(up))[0, 0, :41].sum()


def test_order_of_bands_is_caught_by_the_facts():
    image = np.array([frame(i)[0] for i in range(4)])
    right, wrong = rendering_facts(render_8bit(image)), rendering_facts(render_8bit(image[:, ::-1]))
    assert right["zeros_g"] > right["zeros_z"] and wrong["zeros_g"] < wrong["zeros_z"]


def test_leaving_out_the_lanczos_step_is_caught(monkeypatch):
    "Nearest-neighbour in place of Lanczos moves pixels by more than the rounding"
    image = np.array([frame(5, 3.0)[0]])
    good = render_8bit(image)
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *a, **k: resize(self, size, Image.Resampling.NEAREST))
    assert np.abs(render_8bit(image).astype(int) - good).max() > 20


def test_hann_rows_sum_to_one_and_keep_a_constant():
    matrix = hann_matrix(101, 154)
    assert np.allclose(matrix.sum(1), 1) and np.allclose(matrix @ np.ones(101), 1) and (np.count_nonzero(matrix, axis=1) <= 2).all()


def test_padding_keeps_the_galaxy_in_the_middle():
    stack = np.zeros((1, 3, 91, 91))
    stack[..., 45, 45] = 1
    assert padded(stack)[0, 0, 50, 50] == 1 and padded(stack, 51)[0, 0, 25, 25] == 1
    with pytest.raises(BadInput, match="odd"):
        padded(np.zeros((1, 3, 64, 64)))
    with pytest.raises(BadInput, match="finite"):
        render_8bit(np.full((1, 3, 91, 91), np.nan))


def test_planted_arcs_are_found_and_removed():
    share, left = [], []
    for i in range(24):
        radius, angle = 1.6 + 0.12 * i, 2.4 * i
        image, light = frame(i, radius, angle)
        patch = arc_patch(image)
        share.append((light[0] * patch).sum() / light[0].sum())
        bare = painted_out(image, patch, rng("test", i))
        left.append(((bare - (image - light))[0] * patch).sum() / (light[0] * patch).sum())
        assert np.array_equal(bare[:, ~patch], image[:, ~patch]), "nothing outside the patch changes"
        assert not (patch & opposite(patch)).any()
    assert np.median(share) > 0.75 and np.mean(np.array(share) > 0.4) > 0.9
    assert np.median(np.abs(left)) < 0.2


def test_painting_out_the_opposite_side_leaves_the_arc():
    image, light = frame(3, 3.0, 0.7)
    patch = arc_patch(image)
    other = painted_out(image, opposite(patch), rng("test", 0))
    assert ((other - image)[0] * patch).sum() == 0
    assert np.abs((other - image)[:, opposite(patch)]).max() < 12 * NOISE.max()


def test_removal_is_keyed():
    image, _ = frame(3, 3.0, 0.7)
    patch = arc_patch(image)
    first, again, other = (painted_out(image, patch, rng("test", k)) for k in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_host_model_follows_an_ellipse():
    image, _ = frame(1, q=0.6)
    model, _ = host_model(image)
    inside = (np.hypot(X, Y) > 0.6) & (np.hypot(X, Y) < 3)
    assert np.abs((image - model)[1, inside]).mean() < 3 * NOISE[1]


def test_shape_of_an_arc():
    image, light = frame(1, 3.0, 0.5, flux=4.0)
    shape = arc_shape(image, arc_patch(image))
    assert shape["radius"] == pytest.approx(3.0, abs=0.3) and shape["tangential"] > shape["radial"]
    assert shape["g_over_r"] == pytest.approx(0.6, abs=0.15)


def test_a_leak_through_the_host_does_not_count():
    "Two stamps a host, features that name the host: folds by row see a perfect rule, folds by host see none"
    generator = np.random.default_rng(0)
    host = np.repeat(np.arange(60), 2)
    label = np.repeat(generator.integers(0, 2, 60), 2)
    features = np.repeat(generator.normal(size=(60, 80)), 2, axis=0) + 0.01 * generator.normal(size=(120, 80))
    by_row = ridge_scores(features, label[:, None].astype(float), np.arange(120) % 5, penalty=1.0)[:, 0]
    assert auroc(by_row, label.astype(int)).value > 0.9
    found = realism_probe(features, label, host, [f"f{i}" for i in range(80)], n_permutations=60)
    assert abs(found.auc - 0.5) < 0.25 and found.p_value > 0.02 and found.hosts[0] + found.hosts[1] == 60


def test_false_alarms_of_the_probe():
    "Nothing to find, hosts with both labels: p below .1 in about a tenth of 60 draws"
    generator, alarms = np.random.default_rng(1), 0
    for _ in range(60):
        features = generator.normal(size=(48, 6)) + np.repeat(generator.normal(size=(24, 6)), 2, axis=0)
        alarms += realism_probe(features, np.tile([0, 1], 24), np.repeat(np.arange(24), 2), list("abcdef"), 4, 49).p_value < 0.1
    assert alarms <= 13


def test_probe_refuses_what_it_cannot_do():
    with pytest.raises(BadInput, match="both 0 and 1"):
        realism_probe(np.zeros((4, 2)), np.ones(4), np.arange(4), ["a", "b"])
    with pytest.raises(BadInput, match="2 hosts for 5 folds"):
        fold_of(np.array([1, 1, 2]), 5)


def test_the_finder_of_arcs_finds_one_on_every_galaxy_without(real_data):
    "What lesson 22 says: a patch on 30 of 30 bare galaxies, at radii that cannot be told from those on 47 lenses"
    radii = [
        np.array([arc_shape(image, arc_patch(image))["radius"] for image in frames])
        for frames in (rendered(read_set(real_data, "des_lrgs")).flux, read_set(real_data, "real_lenses_dr10_8bit").flux)
    ]
    assert [len(r) for r in radii] == [30, 47]
    assert np.allclose(np.percentile(radii[0], [25, 50, 75]), (3.18, 4.94, 6.08), atol=0.005)
    assert np.allclose(np.percentile(radii[1], [25, 50, 75]), (2.89, 4.08, 5.79), atol=0.005)
    assert round(float(stats.ks_2samp(*radii).pvalue), 2) == 0.58
