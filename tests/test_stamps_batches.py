"""Normalising, turning and pasting on batches."""

import numpy as np
import pytest
import torch

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.stamps.augment import AugmentRecipe, augment, dihedral, draw_augmentation, paste_neighbours
from dark_halo_scope.stamps.normalise import NORMALISATIONS, NormaliseRecipe, annulus, normalise, statistics

from .stamp_toys import toy_images

STAMPS, CONTROLS, _ = toy_images(12)
STAMPS, CONTROLS = torch.from_numpy(STAMPS), torch.from_numpy(CONTROLS)


@pytest.mark.parametrize("method", NORMALISATIONS)
def test_statistics_against_numpy(method):
    centre, scale = statistics(STAMPS, NormaliseRecipe(method))
    y, x = np.mgrid[:64, :64] - 31.5
    ring = (np.hypot(x, y) >= 20) & (np.hypot(x, y) <= 32)
    for n in range(3):
        for band in range(3):
            pixels = STAMPS[n, band].numpy()[ring if method in ("outer", "asinh") else slice(None)].ravel().astype(np.float64)
            if method == "full":
                want = pixels.mean(), pixels.std()
            else:
                middle = np.sort(pixels)[(len(pixels) - 1) // 2]  # torch takes the lower of two middle values
                away = np.abs(pixels - middle)
                want = middle, 1.4826 * np.sort(away)[(len(away) - 1) // 2]
            assert np.allclose([centre[n, band, 0, 0], scale[n, band, 0, 0]], want, rtol=1e-4, atol=1e-7)


def test_robust_is_clipped_and_a_flat_stamp_survives():
    out, _ = normalise(STAMPS, NormaliseRecipe("robust"))
    assert out.min() >= -5 and out.max() == 20
    for method in NORMALISATIONS:
        flat, _ = normalise(torch.zeros(2, 3, 64, 64), NormaliseRecipe(method))
        assert (flat == 0).all()


def test_a_batch_is_normalised_as_its_stamps_alone():
    for method in NORMALISATIONS:
        recipe = NormaliseRecipe(method)
        together, _ = normalise(STAMPS, recipe)
        assert all(torch.equal(together[i : i + 1], normalise(STAMPS[i : i + 1], recipe)[0]) for i in range(4))


def test_a_pair_shares_its_scale():
    for method in ("full", "outer"):
        a, b = normalise(STAMPS, NormaliseRecipe(method), CONTROLS)
        _, scale = statistics(STAMPS, NormaliseRecipe(method))
        assert torch.allclose((a - b) * scale, STAMPS - CONTROLS, atol=1e-5)


def test_annulus_and_recipes_refuse_nonsense():
    assert len(annulus(64, 20, 32)) == sum(20 <= np.hypot(x - 31.5, y - 31.5) <= 32 for x in range(64) for y in range(64))
    with pytest.raises(BadInput, match="no pixel"):
        statistics(torch.zeros(1, 3, 16, 16), NormaliseRecipe())
    with pytest.raises(BadInput, match="did you mean 'outer'"):
        NormaliseRecipe("outr")
    with pytest.raises(BadInput):
        AugmentRecipe(band_dropout=1.5)


def test_the_eight_elements_are_a_group():
    probe = torch.rand(1, 2, 6, 6)
    pictures = [dihedral(probe, k) for k in range(8)]
    for a in range(8):
        for b in range(8):
            assert sum(torch.equal(dihedral(pictures[a], b), p) for p in pictures) == 1


def test_turning_is_counter_clockwise_with_y_up():
    probe = torch.zeros(1, 1, 5, 5)
    probe[0, 0, 2, 4] = 1  # to the right
    assert dihedral(probe, 1)[0, 0, 4, 2] == 1  # up


def test_a_shift_moves_light_the_way_it_says():
    recipe = AugmentRecipe(dihedral=False, max_shift=4)
    draw = draw_augmentation(recipe, np.arange(12), 3, seed=1)
    moved = augment(STAMPS, draw, recipe)
    for n, (dx, dy) in enumerate(draw.shift):
        assert torch.equal(moved[n, :, 10 + dy : 50 + dy, 10 + dx : 50 + dx], STAMPS[n, :, 10:50, 10:50])


def test_dropouts_happen_as_often_as_asked():
    recipe = AugmentRecipe(dihedral=False, band_dropout=0.3, core_dropout=0.2)
    draw = draw_augmentation(recipe, np.arange(4000), 3)
    assert abs((draw.band >= 0).mean() - 0.3) < 0.03 and abs(draw.core.mean() - 0.2) < 0.03
    assert np.bincount(draw.band[draw.band >= 0], minlength=3).min() > 300
    out = augment(torch.ones(12, 3, 64, 64), draw_augmentation(recipe, np.arange(12), 3), recipe)
    assert {0.0, 1.0} == set(out.unique().tolist())


def test_pasting_adds_the_donors_light_and_nothing_else():
    donors = CONTROLS.clone()
    offset = np.array([[10, -6]] * 12)
    out = paste_neighbours(STAMPS, donors, offset, torch.ones(12, 3))
    added = (out - STAMPS)[:, 2]
    away = np.hypot(*(np.mgrid[:64, :64] - 31.5 - np.array([-6, 10])[:, None, None]))
    assert added[:, torch.from_numpy(away > 12.01)].abs().max() == 0
    peak = added[0].argmax().item()
    assert abs(peak // 64 - 25.5) < 2 and abs(peak % 64 - 41.5) < 2
    far = paste_neighbours(STAMPS, donors, np.array([[40, 0]] * 12), torch.ones(12, 3))
    assert torch.isfinite(far).all() and far.shape == STAMPS.shape
