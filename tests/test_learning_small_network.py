"""The packaged small network on the mock sky of its recipe: areas on the split that chose it and on the one that reports it, alike before and after the cuts of training."""

import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dark_halo_scope.base.galaxy import galaxy_key
from dark_halo_scope.base.resources import code_of, manifest
from dark_halo_scope.learning.recipes import reading, training_sets
from dark_halo_scope.learning.scoring import score_stamps
from dark_halo_scope.run.phases import open_run
from dark_halo_scope.run.products import ensure, opened
from dark_halo_scope.stamps.reader import Selection, build_index
from dark_halo_scope.stats.metrics import auroc

NETWORK = str(manifest("models", "small.safetensors"))
FEW = "plan.n_total_per_split={train: 400, val: 2400, test: 4000}"  # nothing is trained
SKY = ["mock.rows=1", "mock.columns=4", "mock.n_pix=500", "mock.lrgs=40", "mock.n_lenses=4", "splits.nside=512"]


def areas(folder: Path, overrides: list[str]) -> list[dict[str, Any]]:
    "AUROC with its 95 % interval by galaxy: two splits, all stamps and those that pass the cuts of training"
    run, rows = open_run("small", str(folder), overrides, workers=1), []
    ensure(run, "stamps")
    recipe = run.recipe.train
    files = training_sets(opened(run, "stamps").files(), recipe.pairs)
    scores = score_stamps(files, NETWORK, ("val", "test")).to_pandas().set_index("task_id")
    for split in ("val", "test"):
        for stamps, select in (("every injection", Selection()), ("after the cuts of training", recipe.select)):
            index = build_index(files, replace(select, splits=(split,)), reading(recipe))
            part = scores.loc[np.char.decode(index.identity["task_id"], "utf-8")]
            lens = index.label.astype(bool)
            area = auroc(part["logit"].to_numpy(np.float32), lens, galaxy_key(index.identity))
            counts = {"injections": int(lens.sum()), "negatives": int((~lens).sum())}
            rows.append({"split": split, "stamps": stamps, "auroc": area.value, "low": area.lo, "high": area.hi} | counts)
    return rows


@pytest.mark.slow
def test_areas_are_of_the_same_stamps_in_both_splits(tmp_path: Path) -> None:
    "On a sky of four small bricks: cuts remove injections and no negative, in either split"
    every, cut = (
        {
            r["split"]: r
            for r in areas(tmp_path, [*SKY, FEW.replace("400,", "10,", 1).replace("2400", "60").replace("4000", "60")])
            if r["stamps"].startswith(kind)
        }
        for kind in ("every", "after")
    )
    for split in ("val", "test"):
        assert every[split]["negatives"] == cut[split]["negatives"] > 0 and every[split]["injections"] > cut[split]["injections"] > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_areas_of_the_packaged_network_anew(tmp_path: Path) -> None:
    "On the sky of its recipe; DHS_RECEIPT names the file whose part `alike` is replaced"
    rows = areas(tmp_path, [FEW])
    area = {(r["split"], r["stamps"].split()[0]): r for r in rows}
    where = os.environ.get("DHS_RECEIPT")
    if where:
        made = {"date": time.strftime("%Y-%m-%d"), "machine": platform.machine(), "code": code_of("learning.scoring", "injection.paint")}
        command = "DHS_RECEIPT=... pytest -m slow tests/test_learning_small_network.py"
        facts = json.loads(Path(where).read_text()) | {"alike": made | {"command": command, "areas": rows}}
        Path(where).write_text(json.dumps(facts, indent=1) + "\n")
    for split in ("val", "test"):
        assert area[split, "after"]["auroc"] > area[split, "every"]["auroc"]
