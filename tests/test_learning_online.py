"""Arcs painted while training: new ones every epoch, the same for one seed, on hosts only."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.injection.plan import PlanRecipe
from dark_halo_scope.learning.online import OnlineRecipe, painted
from dark_halo_scope.learning.recipes import OptimRecipe, TrainRecipe, reading
from dark_halo_scope.learning.training import run_data, train
from dark_halo_scope.stamps.reader import Reader, ReadRecipe, Selection

from .stamp_toys import toy_table

BANDS = ("g", "r", "z")


@pytest.fixture(scope="module")
def bricks(tmp_path_factory):
    folder, paths = tmp_path_factory.mktemp("stamps"), []
    for i in range(2):
        table = toy_table(64, f"{i:04d}p000", i, seed=i, splits=("train", "train", "val", "test"), control=True, hosts=True)
        paths.append(str(folder / f"brick={i}.parquet"))
        pq.write_table(table, paths[-1], row_group_size=16)
    return paths


def recipe(**more):
    online = OnlineRecipe(True, PlanRecipe(experiment_id="online", prior="wide"))
    return replace(TrainRecipe(read=ReadRecipe(batch_size=16, window=32), epochs=2, optim=OptimRecipe(lr=1e-3), online=online), **more)


def shown(paths, chosen, epoch, cuts=None):
    "Row -> picture of an epoch"
    index = run_data(paths, chosen).train
    stream = painted(Reader(index, reading(chosen)).batches(epoch), index, chosen.online, cuts or chosen.select, BANDS, epoch, chosen.seed)
    return {int(row): (image.numpy(), float(w), float(y)) for b in stream for row, image, w, y in zip(b.row, b.image, b.weight, b.label)}


def test_no_two_epochs_show_the_same_arc_and_controls_stay(bricks):
    first, again, second = shown(bricks, recipe(), 0), shown(bricks, recipe(), 0), shown(bricks, recipe(), 1)
    assert first.keys() == second.keys() and len(first) == 64
    for row, (image, _, label) in first.items():
        assert np.array_equal(image, again[row][0])
        assert np.array_equal(image, second[row][0]) == (label == 0)
    assert not np.array_equal(first[1][0], shown(bricks, recipe(seed=1), 0)[1][0])


def test_the_stored_arc_is_never_seen(bricks, tmp_path):
    "Stamps whose stored arcs are nonsense give the same batches"
    spoiled = []
    for path in bricks:
        table = pq.read_table(path, partitioning=None)
        spoiled.append(str(tmp_path / path.split("/")[-1]))
        pq.write_table(table.set_column(table.column_names.index("stamp"), "stamp", table["ctrl_stamp"]), spoiled[-1], row_group_size=16)
    one, other = shown(bricks, recipe(), 0), shown(spoiled, recipe(), 0)
    assert all(np.array_equal(one[row][0], other[row][0]) for row in one)


def test_cuts_act_on_the_new_arc_and_not_on_the_stored_one(bricks):
    strict = shown(bricks, recipe(select=Selection(min_theta_over_psf=2.0, min_arc_snr=30.0)), 0)
    kept = [w for _, w, y in strict.values() if y]
    assert len(strict) == 64 and 0 < sum(kept) < len(kept) and all(w == 1 for _, w, y in strict.values() if not y)


def test_a_new_arc_that_leaves_its_stamp_is_cut_as_a_stored_one_is(bricks):
    everything, whole = (
        np.array([w for _, w, y in shown(bricks, recipe(), 0, Selection(min_arc_inside=share)).values() if y]) for share in (0.0, 0.9)
    )
    assert everything.all() and 0 < whole.sum() < len(whole)


def test_a_run_trains_online_and_is_deterministic(bricks, tmp_path):
    runs = [train(bricks, recipe(), str(tmp_path / name), progress=False, device="cpu") for name in "ab"]
    rows = json.loads((tmp_path / "a" / "history.json").read_text())
    assert runs[0]["model_id"] == runs[1]["model_id"] and runs[0]["reported_on"] == runs[1]["reported_on"]
    assert all(row["unique_stamps"] == row["stamps"] == 64 for row in rows)


def test_what_is_missing_is_named(bricks, tmp_path):
    lean = str(tmp_path / "lean.parquet")
    table = pq.read_table(bricks[0], partitioning=None)
    pq.write_table(table.drop_columns(["mw_transmission_z"]), lean)
    with pytest.raises(BadInput, match="mw_transmission_z"):
        run_data([lean], recipe())
    pq.write_table(table.drop_columns([c for c in table.column_names if c.startswith("ctrl_")]), lean)
    with pytest.raises(BadInput, match="ctrl_stamp"):
        run_data([lean], recipe())
    with pytest.raises(BadInput, match="residual"):
        recipe(pairs="residual")
    with pytest.raises(BadInput, match="hst"):
        OnlineRecipe(True, PlanRecipe(src_kind="hst"))
