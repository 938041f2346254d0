"""Attribution adds up to the logit and finds a planted ring; the realism gate and the probe on a network's features call what is there and nothing else."""

import numpy as np
import pytest
import torch
from torch import nn

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.learning import attribution as a
from dark_halo_scope.learning.checkpoints import save_checkpoint
from dark_halo_scope.learning.models import ModelRecipe, build_model
from dark_halo_scope.learning.recipes import TrainRecipe
from dark_halo_scope.stamps.normalise import NormaliseRecipe
from dark_halo_scope.trust import realism as r

RECIPE = TrainRecipe(model=ModelRecipe(norm="none"), n_pix=32, normalise=NormaliseRecipe(method="robust"))


def frames(n, seed, arc=1.0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32] - 15.5
    light = rng.uniform(0.5, 1, (n, 1, 1)) * np.exp(-np.hypot(x, y) / 3)
    return light[:, None] * np.ones((1, 3, 1, 1)) + rng.normal(0, 0.01, (n, 3, 32, 32)) + 0.2 * arc * (np.abs(np.hypot(x, y) - 9) < 1)


class Weighted(nn.Module):
    "A network whose logit is a weighted sum of pixels: the attribution is known"

    def __init__(self, weight):
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.from_numpy(weight).float()), nn.Linear(1, 1)

    def forward(self, image, meta=None):
        return (image.mean(1) * self.weight).sum((1, 2)), image.mean((2, 3))


def test_a_linear_network_is_taken_apart_exactly():
    images, weight = frames(5, 0), np.random.default_rng(1).normal(size=(32, 32))
    maps, rise = a.integrated_gradients(Weighted(weight), RECIPE, images, steps=3)
    x = a.network_inputs(RECIPE, images)[0].numpy()
    assert np.allclose(maps, x.mean(1) * weight, atol=1e-4) and np.allclose(maps.sum((1, 2)), rise, atol=1e-3)


def test_a_network_of_many_layers_is_taken_apart_completely():
    torch.manual_seed(0)
    maps, rise = a.integrated_gradients(build_model(RECIPE.model), RECIPE, frames(4, 2), steps=64)
    assert np.allclose(maps.sum((1, 2)), rise, atol=0.02 * np.abs(rise).max())


def test_attention_knows_the_ring_from_chance():
    rng = np.random.default_rng(3)
    theta = rng.uniform(0.8, 3, 30)
    noise = rng.normal(size=(30, 32, 32))
    for seed in range(3):
        assert a.attention_on(rng.normal(size=(30, 32, 32)), a.ring_mask(theta, 32), seed=seed)["p"] > 0.01
    ring = a.attention_on(noise + 10 * a.ring_mask(theta, 32), a.ring_mask(theta, 32))
    swapped = a.attention_on((noise + 10 * a.ring_mask(theta, 32))[::-1], a.ring_mask(theta, 32))
    assert ring["p"] < 0.01 and ring["share"] > 1.4 * swapped["share"] and swapped["p"] > 0.01
    with pytest.raises(BadInput, match="30 maps, 29 masks"):
        a.attention_on(noise, a.ring_mask(theta[1:], 32))


def test_the_arcs_pixels_are_where_light_was_added():
    before = frames(3, 6, 0.0)
    after = before.copy()
    after[:, :, 5:9, 20:24] += 0.3
    mask = a.arc_mask(after, before, 0.99)
    assert mask[:, 5:9, 20:24].mean() > 0.9 and mask.sum() < 3 * 17


def test_networks_that_compare_are_refused():
    with pytest.raises(BadInput, match="needs a control"):
        a.network_inputs(TrainRecipe(pairs="input"), np.zeros((1, 3, 64, 64)))


def test_features_before_the_last_layer_tell_real_from_painted(tmp_path):
    torch.manual_seed(1)
    state = {"recipe": RECIPE, "data": "", "epoch": 0, "step": 0, "model": build_model(RECIPE.model).state_dict()}
    save_checkpoint(state, str(tmp_path / "net.pt"))
    label, host = np.repeat([1, 0], 40), np.tile(np.arange(40), 2)
    told = r.embedding_probe(str(tmp_path / "net.pt"), np.concatenate([frames(40, 4), frames(40, 5, 0.3)]), label, host, n_permutations=199)
    alike = r.embedding_probe(str(tmp_path / "net.pt"), np.concatenate([frames(40, 4), frames(40, 5)]), label, host, n_permutations=199)
    assert told.auc > 0.9 and told.p_value <= 0.01 and alike.p_value > 0.02
    assert told.hosts == (40, 40)


def test_the_realism_gate_needs_a_telling_difference():
    "No false alarm in 40 sound draws of paired frames, and a real difference is called"
    label, host, names = np.repeat([1, 0], 30), np.tile(np.arange(30), 2), [f"f{i}" for i in range(6)]
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng((9, seed))
        shared = rng.normal(0, 2, (30, 6))
        features = np.concatenate([shared, shared]) + rng.normal(size=(60, 6))
        alarms += not r.realism_gate(r.realism_probe(features, label, host, names, n_permutations=99), alpha=0.01).passed
    assert alarms <= 2
    features[:30, 2] += 3
    called = r.realism_gate(r.realism_probe(features, label, host, names, n_permutations=999))
    assert called.passed is False and called.curve["features"][0][0] == "f2"
