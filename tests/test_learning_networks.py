"""Networks of timm on stamps: built, moved by a step, kept and read again; started from other weights; learning by blocks."""

import pytest
import safetensors.torch
import torch

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.bench.training import no_rows
from dark_halo_scope.learning import models
from dark_halo_scope.learning.checkpoints import load_model, save_checkpoint
from dark_halo_scope.learning.models import ModelRecipe, build_model, first_layer, freeze_backbone, load_timm, stage_sides, timm_backbone
from dark_halo_scope.learning.recipes import NetworkInputs, OptimRecipe, TrainRecipe
from dark_halo_scope.learning.training import Process, build_learner, layers, train_step
from dark_halo_scope.stamps.reader import ReadRecipe

NETWORKS = {  # Sides of the stages at 64 pixels
    "resnet10t": [32, 16, 8, 4, 2],
    "convnext_atto": [32, 16, 8, 4],
    "convnextv2_atto": [32, 16, 8, 4],
    "efficientnet_b0": [32, 16, 8, 4, 2],
    "mobilenetv3_small_050": [32, 16, 8, 4, 2],
    "regnety_002": [32, 16, 8, 4, 2],
    "edgenext_xx_small": [16, 8, 4, 2],
    "vit_tiny_patch16_224": [4],
    "vit_small_patch14_dinov2": [8],
    "vit_small_patch16_dinov3": [4],
    "swin_tiny_patch4_window7_224": [16, 8, 4, 2],
    "maxvit_rmlp_pico_rw_256": [32, 16, 8, 4, 2],
}


def step(recipe: TrainRecipe, learner) -> None:
    torch.manual_seed(1)
    image = torch.randn(2, recipe.channels, recipe.n_pix, recipe.n_pix)
    train_step(learner, NetworkInputs(image, torch.tensor([0.0, 1.0]), torch.ones(2), None), recipe, Process(), recipe.optim.lr)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_built_moved_kept_and_read_again(name, tmp_path):
    bands = ("g", "r", "i", "z") if list(NETWORKS).index(name) % 2 else ("g", "r", "z")
    recipe = TrainRecipe(ModelRecipe(name), read=ReadRecipe(bands=bands))
    learner = build_learner(recipe, no_rows(), Process())
    before = {k: v.clone() for k, v in learner.model.state_dict().items()}
    step(recipe, learner)
    moved = [k for k, v in learner.model.state_dict().items() if not torch.equal(v, before[k])]
    assert f"backbone.{first_layer(learner.model.backbone)}.weight" in moved and "head.weight" in moved
    save_checkpoint({"recipe": recipe, "model": learner.model.state_dict(), "data": "", "epoch": 0, "step": 1}, str(tmp_path / "one.pt"))
    again, _, _ = load_model(str(tmp_path / "one.pt"))
    stamps = torch.randn(2, len(bands), 64, 64)
    with torch.no_grad():
        assert torch.equal(again(stamps)[0], learner.model.eval()(stamps)[0])
    assert list(dict.fromkeys(stage_sides(learner.model.backbone, len(bands)))) == NETWORKS[name]


def kept_as(net, folder) -> str:
    "Weights of a network as a file"
    path = str(folder / "weights.safetensors")
    safetensors.torch.save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224", "vit_small_patch14_dinov2"])
@pytest.mark.parametrize("channels", [3, 4, 6])
def test_pretrained_weights_fill_every_tensor(name, channels, tmp_path):
    "Stem, patches and positions of a network made for three colours and its own side, over four bands and beside a control"
    own = load_timm().create_model(name, num_classes=0)
    model = build_model(ModelRecipe(name, weights=kept_as(own, tmp_path)), channels)
    assert model.unfilled == ()
    first = f"{first_layer(own)}.weight"
    given, filled = own.state_dict()[first], model.backbone.state_dict()[first]
    if given.shape[2:] == filled.shape[2:]:
        assert torch.allclose(filled, given.repeat(1, 2, 1, 1)[:, :channels] * 3 / channels)


def test_four_bands_are_not_read_as_three(tmp_path):
    path = kept_as(timm_backbone(ModelRecipe("convnext_atto"), 4), tmp_path)
    assert build_model(ModelRecipe("convnext_atto", weights=path), 3).unfilled == ("stem.0.weight",)


def test_the_hub_is_asked_by_name_and_missed_in_one_line(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def fetched(repository: str, file: str) -> str:
        asked.append((repository, file))
        return kept_as(load_timm().create_model("vit_tiny_patch16_224", num_classes=0), tmp_path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetched)
    assert build_model(ModelRecipe("vit_tiny_patch16_224", weights="hub")).unfilled == ()
    assert asked == [("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "model.safetensors")]

    def missing(*_: str) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", missing)
    with pytest.raises(BadInput, match="cannot be fetched"):
        models.hub_file("vit_tiny_patch16_224")


def test_sides_that_a_network_cannot_take_are_refused():
    with pytest.raises(BadInput, match="do not fill a stamp of 101"):
        build_model(ModelRecipe("vit_tiny_patch16_224"), n_pix=101)
    assert build_model(ModelRecipe("swin_tiny_patch4_window7_224"), n_pix=96).backbone(torch.zeros(1, 3, 96, 96)).shape == (1, 768)


def test_blocks_learn_at_their_own_rate():
    recipe = TrainRecipe(ModelRecipe("convnext_atto"), optim=OptimRecipe(lr=1e-2, layer_decay=0.5))
    learner = build_learner(recipe, no_rows(), Process())
    scales = {round(group["lr_scale"], 6) for group in learner.optim.param_groups}
    assert max(scales) == 1 and min(scales) < 0.01 and len(scales) > 4
    step(recipe, learner)
    rates = [group["lr"] for group in learner.optim.param_groups]
    assert min(rates) == pytest.approx(1e-2 * min(scales), rel=1e-3) and max(rates) == pytest.approx(1e-2)
    with pytest.raises(BadInput, match="layer_decay"):
        layers(build_model(), OptimRecipe(layer_decay=0.9))


def test_frozen_blocks_stand_still():
    recipe = TrainRecipe(ModelRecipe("convnext_atto"), freeze=("stem", "stages.0"))
    learner = build_learner(recipe, no_rows(), Process())
    before = {k: v.clone() for k, v in learner.model.state_dict().items()}
    freeze_backbone(learner.model, False, recipe.freeze)
    step(recipe, learner)
    moved = {k for k, v in learner.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and not any(k.startswith(("backbone.stem", "backbone.stages.0")) for k in moved)
    with pytest.raises(BadInput, match="did you mean 'stem'"):
        freeze_backbone(learner.model, False, ("stam",))
