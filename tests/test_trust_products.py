"Products of trust: which impostors nothing was chosen on, and the numbers of the diagnostics by hand"

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from dark_halo_scope.parent.splits import SplitRecipe, split_of_bricks
from dark_halo_scope.survey.bricks import brick_ids
from dark_halo_scope.trust.products import diagnostics, held_out


def test_impostors_are_held_out_where_nothing_trained_and_nothing_chose() -> None:
    draw = np.random.default_rng(1)
    sky = {"ra": draw.uniform(0, 360, 400), "dec": draw.uniform(-30, 30, 400)}
    split = split_of_bricks(brick_ids(sky["ra"], sky["dec"]), SplitRecipe())
    for trained, chose, free in ((("train",), "val", {"test"}), (("train", "val"), "test", set()), (("test",), "test", {"train", "val"})):
        train = SimpleNamespace(choose_on=chose, select=SimpleNamespace(splits=trained))
        kept = held_out(sky, SimpleNamespace(splits=SplitRecipe(), train=train))
        assert set(split[kept].tolist()) == free and kept.sum() == np.isin(split, list(free)).sum()


def test_precision_and_recall_of_the_diagnostics_are_counted_as_a_hand_would() -> None:
    "Of the reported split alone, and of what has a label"
    draw, n = np.random.default_rng(2), 900
    label = np.where(np.arange(n) % 9 == 0, -1, np.arange(n) % 2)
    logit = draw.normal(np.where(label == 1, 2.5, 0), 1).astype(np.float32)
    scores = {"split": np.where(np.arange(n) < 700, "test", "val"), "label": label, "logit": logit}
    scores |= {"release": np.full(n, 10_000), "brickid": np.arange(n), "objid": np.zeros(n, int)}
    inputs = {"scores": SimpleNamespace(read=lambda: pa.table(scores))}
    made = diagnostics(inputs, SimpleNamespace(train=SimpleNamespace(report_on="test", pairs="input")), None)  # type: ignore[arg-type]
    told = json.loads(made.files[""])
    rows = (np.arange(n) < 700) & (label >= 0)
    s, y = logit[rows].astype(float), label[rows] == 1
    cuts = [((s[y] >= t).mean(), y[s >= t].mean()) for t in np.sort(s)[::-1]]
    precision, recall = told["measured"]
    assert told["stamps"] == told["hosts"] == made.rows == rows.sum() and told["split"] == "test"
    assert precision["value"] == pytest.approx(next(p for r, p in cuts if r >= 0.95), abs=1e-6)
    assert recall["value"] == pytest.approx(max(r for r, p in cuts if p >= 0.95), abs=1e-6)
    assert precision["name"].startswith("precision at recall 0.95,") and recall["name"].startswith("recall at precision 0.95,")
