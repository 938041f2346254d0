"""A run ends with the same weights however it was interrupted or shared out."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dark_halo_scope.base.config import recipe_to_dict
from dark_halo_scope.learning.checkpoints import load_checkpoint
from dark_halo_scope.learning.models import ModelRecipe
from dark_halo_scope.learning.recipes import OptimRecipe, TrainRecipe
from dark_halo_scope.learning.training import train
from dark_halo_scope.stamps.augment import AugmentRecipe
from dark_halo_scope.stamps.reader import ReadRecipe

from .stamp_toys import write_bricks

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bricks(tmp_path_factory):
    return write_bricks(tmp_path_factory.mktemp("stamps"), bricks=2, n=64, row_group=16, splits=("train", "train", "val", "test"))


def recipe(**more):
    return replace(TrainRecipe(read=ReadRecipe(batch_size=16, window=32), epochs=2, optim=OptimRecipe(lr=1e-3)), **more)


RUN = """
import json, sys, torch
torch.set_num_threads(1)
from dark_halo_scope.base.config import recipe_from
from dark_halo_scope.learning.recipes import TrainRecipe
from dark_halo_scope.learning.training import train
plan = json.load(open(sys.argv[1]))
train(plan["paths"], recipe_from(TrainRecipe, plan["recipe"]), plan["out"], progress=False, device="cpu")
"""


def start(tmp_path, name, paths, chosen, processes=1):
    "The same run in a process of its own"
    plan, script = tmp_path / f"{name}.json", tmp_path / "run.py"
    plan.write_text(json.dumps({"paths": paths, "recipe": recipe_to_dict(chosen), "out": str(tmp_path / name)}))
    script.write_text(RUN)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *launcher, str(script), str(plan)], env=env, stderr=subprocess.PIPE, text=True)


def weights(folder, name="last.pt"):
    return load_checkpoint(str(Path(folder) / name))["model"]


def test_killed_and_resumed_is_bit_identical(tmp_path, bricks):
    "SIGKILL in the middle of an epoch, dropout, augmentation, running average and all"
    chosen = recipe(
        model=ModelRecipe(dropout=0.2),
        optim=OptimRecipe(lr=1e-3, ema=0.9, warmup_steps=2),
        augment=AugmentRecipe(max_shift=1, band_dropout=0.2),
        epochs=2,
        checkpoint_steps=1,
    )
    torch.set_num_threads(1)
    train(bricks, chosen, str(tmp_path / "whole"), progress=False, device="cpu")
    last = tmp_path / "torn" / "last.pt"
    process = start(tmp_path, "torn", bricks, chosen)
    deadline, stopped = time.time() + 60, {}
    while time.time() < deadline and process.poll() is None:
        if last.exists() and (stopped := json.loads(load_checkpoint(str(last))["run"]))["steps"] in (2, 3, 5, 6):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped = json.loads(load_checkpoint(str(last))["run"])
    assert 0 < stopped["steps"] < 8 and not stopped["finished"]
    train(bricks, chosen, str(tmp_path / "torn"), progress=False, device="cpu")
    for name in ("last.pt", "best.pt"):
        one, other = weights(tmp_path / "whole", name), weights(tmp_path / "torn", name)
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    histories = [json.loads((tmp_path / d / "history.json").read_text()) for d in ("whole", "torn")]
    for rows in histories:
        for row in rows:
            row.pop("stamps_per_s")
    assert histories[0] == histories[1]


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path, bricks):
    "20 float64 steps of a network without batch statistics or dropout: weights agree to 1e-10"
    chosen = recipe(
        model=ModelRecipe(norm="none"),
        precision="fp64",
        read=ReadRecipe(batch_size=8, lanes=2, window=32),
        epochs=3,
        optim=OptimRecipe(lr=1e-3),
        keep_every=1,
    )
    process = start(tmp_path, "two", bricks, chosen, processes=2)
    torch.set_num_threads(1)
    train(bricks, chosen, str(tmp_path / "one"), progress=False, device="cpu")
    assert process.wait(120) == 0, process.stderr.read()[-2000:]
    steps = json.loads(load_checkpoint(str(tmp_path / "one" / "last.pt"))["run"])["steps"]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    moved = one["head.weight"] - weights(tmp_path / "one", "epoch_001.pt")["head.weight"]
    assert steps >= 20 and moved.abs().max() > 1e-3
    assert max((one[k] - two[k]).abs().max().item() for k in one if one[k].numel()) < 1e-10
    rows = [json.loads((tmp_path / d / "history.json").read_text()) for d in ("one", "two")]
    assert [r["unique_stamps"] for r in rows[0]] == [r["unique_stamps"] for r in rows[1]] == [64] * 3
    assert all(abs(a["loss"] - b["loss"]) < 1e-10 for a, b in zip(*rows))
