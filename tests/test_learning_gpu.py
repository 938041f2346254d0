"""On a CUDA device: how fast the networks train and score, how busy the device is, and what the torch painter paints there."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dark_halo_scope.bench.loader import write_layouts
from dark_halo_scope.bench.render import random_systems
from dark_halo_scope.bench.training import busy_share, device_name, network_speed, on_device, speed_recipe
from dark_halo_scope.injection.paint import PaintRecipe
from dark_halo_scope.injection.plan import PlanRecipe
from dark_halo_scope.learning.online import OnlineRecipe, paint_batch
from dark_halo_scope.learning.training import Process, train
from dark_halo_scope.lensing.render import render_arcs
from dark_halo_scope.stamps.reader import Batch, Columns, Selection, StampIndex

from .stamp_toys import write_bricks

CUDA = torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not CUDA, reason="no CUDA device here")]
TRAIN, SCORE = {"resnet18": 4000, "convnext_tiny": 2500}, {"resnet18": 12_000, "convnext_tiny": 8000}  # images/s, a third of the estimates


@pytest.fixture(scope="module")
def place():
    return Process(device=torch.device("cuda:0"))


def report(record_property, place, **figures):
    "The figures with the device's name, in the test report and on the screen"
    figures = {"device": device_name(place), **figures}
    record_property("figures", json.dumps(figures))
    print(json.dumps(figures))


@pytest.mark.parametrize("name", sorted(TRAIN))
def test_images_per_second(name, place, record_property):
    row = network_speed(speed_recipe(name, "bf16", compile=True, batch_size=512), place, times=10)
    report(record_property, place, **row)
    assert row["train_per_s"] > TRAIN[name] and row["score_per_s"] > SCORE[name]


def test_the_reader_keeps_the_device_busy(place, record_property, tmp_path):
    paths = write_layouts(str(tmp_path), 16384, 0)
    found = busy_share([paths["float16"]], speed_recipe("resnet18", "bf16", batch_size=512), place, max_steps=30)
    report(record_property, place, **found)
    assert found["busy_share"] > 0.8


def test_training_on_the_device_agrees_with_the_processor(place, tmp_path):
    "The same run on both: losses of the first epoch to a per cent, and the checkpoint scores on either"
    paths = write_bricks(tmp_path / "stamps", bricks=2, n=64, row_group=16, splits=("train", "train", "val", "test"))
    recipe = replace(speed_recipe("small_cnn", batch_size=16), epochs=1)
    for device in ("cpu", "cuda"):
        train(paths, recipe, str(tmp_path / device), progress=False, device=device)
    loss = [json.loads((tmp_path / d / "history.json").read_text())[0]["loss"] for d in ("cpu", "cuda")]
    assert loss[0] == pytest.approx(loss[1], rel=0.01)
    fp16 = train(paths, replace(recipe, precision="fp16"), str(tmp_path / "fp16"), progress=False, device="cuda")
    assert np.isfinite(fp16["reported_on"]["loss"]) and Path(fp16["checkpoint"]).exists()


def test_the_torch_painter_paints_there_what_numba_paints_here(place, record_property):
    groups = random_systems(512, 3)
    for lens, source, psf in groups:
        there, here = (render_arcs(lens, source, psf, backend=backend) for backend in ("torch", "numba"))
        peak = here.max(axis=(1, 2, 3), keepdims=True)
        assert np.quantile((np.abs(there - here) / peak).max(axis=(1, 2, 3)), 0.95) < 1e-3
    many = random_systems(8192, 4)
    seconds = on_device(lambda: [render_arcs(*group, backend="torch") for group in many], place, 3).wall_s
    rate = 8192 / seconds
    report(record_property, place, stamps_per_s=round(rate, 1))
    assert rate > 5000


def test_painting_while_training_on_the_device(place, record_property):
    "Online painting with the torch painter: the same arcs as numba's"
    cutout = torch.from_numpy((np.random.default_rng(0).normal(size=(64, 3, 64, 64)) * 0.005).astype(np.float32))
    identity = {"release": np.full(64, 10000), "brickid": np.full(64, 7), "objid": np.arange(64)}
    identity |= {f"mag_{b}": np.full(64, 19.5) for b in "grz"} | {f"psfsize_{b}": np.full(64, 1.3) for b in "grz"}
    identity |= {f"mw_transmission_{b}": np.full(64, 0.95) for b in "grz"}
    one = np.ones(64, np.float32)
    index = StampIndex([], (), np.zeros(64, int), np.arange(64), one, one, one, np.zeros((64, 0)), Columns(identity), [])
    batch = Batch(cutout, torch.ones(64), torch.ones(64), torch.empty(64, 0), np.arange(64), cutout)
    recipe = OnlineRecipe(True, PlanRecipe(experiment_id="online", prior="wide"), PaintRecipe(backend="torch", shot_noise=False))
    made = [
        paint_batch(batch, index, replace(recipe, paint=replace(recipe.paint, backend=b)), Selection(), ("g", "r", "z"), 0).image
        for b in ("torch", "numba")
    ]
    peak = (made[1] - cutout).amax(dim=(1, 2, 3))
    assert ((made[0] - made[1]).abs().amax(dim=(1, 2, 3)) / peak).quantile(0.95) < 1e-3
    seconds = on_device(lambda: paint_batch(batch, index, recipe, Selection(), ("g", "r", "z"), 1), place, 5).wall_s
    report(record_property, place, arcs_per_s=round(64 / seconds, 1))
