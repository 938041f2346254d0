"""Every generation is a recipe that loads, cites where each field comes from, and differs from its neighbours as the record says."""

import re
from pathlib import Path

import pytest

from dark_halo_scope.base.config import read_yaml, recipe_from
from dark_halo_scope.base.resources import manifest
from dark_halo_scope.injection.paint import PaintRecipe
from dark_halo_scope.injection.plan import PlanRecipe
from dark_halo_scope.learning.recipes import TrainRecipe
from dark_halo_scope.learning.training import rehearse

from .stamp_toys import write_bricks

FILES = sorted(Path(manifest("generations")).glob("*.yaml"))
NAMES = {"gen1", "gen2_final", "gen2_debug", "gen3", "gen4", "gen5", "gen5_prime_6ch", "gen5_prime", "gen5_prime_residual", "gen6"}


def load(name):
    return read_yaml(str(next(f for f in FILES if f.stem == name)))


def test_all_are_there():
    assert {f.stem for f in FILES} == NAMES


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_field_is_known_and_cited(path):
    values = read_yaml(str(path))
    assert values["name"] == path.stem
    recipe_from(PlanRecipe, values["plan"], path.name)
    recipe_from(PaintRecipe, values["paint"], path.name)
    recipe_from(TrainRecipe, values["train"], path.name)
    text = re.sub(r"^overrides:\n(  .*\n)+", "", path.read_text(), flags=re.MULTILINE)  # each of these is its own reason
    for line in text.splitlines():
        if re.match(r"\s*(#|$|name:|splits:$|plan:$|paint:$|train:$)", line) or re.fullmatch(r"\s+\w+:", line):
            continue
        source = r"# (lesson \d+|chosen: \w)" if path.stem == "gen6" else r"# .*(\[00[0-4]\]|not stated)"
        assert re.search(source, line), f"{path.name}: no source for '{line.strip()}'"


def test_the_generations_differ_as_the_record_says():
    final, debug = load("gen2_final"), load("gen2_debug")
    assert final["train"]["loss"]["kind"] == "bce" and debug["train"]["loss"] == {"kind": "focal", "alpha": 0.25, "gamma": 2.0}
    assert (final["train"]["read"]["batch_size"], debug["train"]["read"]["batch_size"]) == (512, 256)
    assert (final["plan"]["controls"], debug["plan"]["controls"]) == ("unpaired", "paired")
    assert final["train"]["patience"] == 5 and debug["train"]["patience"] == 0 and debug["train"]["model"]["dropout"] == 0.1
    assert load("gen4")["plan"] == load("gen3")["plan"] and load("gen4")["train"]["read"]["hard_negative_weight"] == 5
    prime = [recipe_from(TrainRecipe, load(n)["train"]) for n in ("gen5_prime_6ch", "gen5_prime", "gen5_prime_residual")]
    assert [p.channels for p in prime] == [6, 3, 3] and [p.pairs for p in prime] == ["input", "same_batch", "residual"]
    assert all(p.select.exclude_bricks == ("0460m800", "3252p267") for p in prime)


@pytest.fixture(scope="module")
def bricks(tmp_path_factory):
    return write_bricks(tmp_path_factory.mktemp("stamps"), bricks=1, n=32, splits=("train", "val"), control=True, hosts=True)


QUICK = {"gen1"}  # The rest differ in what other tests look at, and in the network, which `test_learning_networks` takes


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in sorted(NAMES)])
def test_the_named_network_takes_steps_and_goes_on_from_a_checkpoint(name, bricks, tmp_path):
    recipe = recipe_from(TrainRecipe, load(name)["train"])
    out = rehearse(bricks, recipe, str(tmp_path), steps=1, batch_size=4)
    assert out["network"] == recipe.model.name and len(out["losses"]) == 2 and out["resumed_loss"] == out["losses"][-1]
