"""trust.hard_negatives: merged on the sphere, never a known lens, the earlier look-up file both ways."""

import numpy as np
import pyarrow as pa
import pytest

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.trust import hard_negatives as h

NONE = (np.zeros(0), np.zeros(0))


def scores(ra, p, label=None):
    n = len(ra)
    return {
        "ra": np.asarray(ra, float),
        "dec": np.full(n, 60.0),
        "brickname": np.full(n, "b", object),
        "label": np.zeros(n, int) if label is None else np.asarray(label),
        "p_lens": np.asarray(p, float),
    }


def test_one_row_a_galaxy_whatever_the_rounding_and_the_pole():
    step = 0.4 / 3600 / np.cos(np.radians(60))  # 0.4 arcsec on the sky at declination 60
    table, report = h.mine(
        {"a": scores([10, 20, 0.0], [0.95, 0.99, 0.92]), "b": scores([10 + step, 30, 360 - step], [0.97, 0.5, 0.91])}, NONE
    )
    assert table["source_model"].to_pylist() == ["a+b", "a+b", "a"]
    assert np.allclose(table["p_lens"].to_numpy(), [0.92, 0.97, 0.99]) and report[-1] == {"model": "merged", "kept": 3, "duplicates": 2}


def test_known_lenses_and_positives_never_enter():
    s = scores([10, 20, 30], [0.99, 0.99, 0.99], [0, 0, 1])
    table, report = h.mine({"a": s}, (np.array([10.0]), np.array([60.0 + 10.5 / 3600])))
    assert table["ra"].to_pylist() == [20.0] and report[0] == {
        "model": "a",
        "cut": "p > 0.9",
        "negatives": 2,
        "above": 2,
        "known lenses": 1,
        "kept": 1,
    }
    assert h.mine({"a": s}, NONE)[0].num_rows == 2


def test_a_model_without_calibration_is_cut_on_its_logit_by_name():
    "The same rows as at the probability that the logistic function gives, and no probability in what comes out"
    p = np.array([0.85, 0.899, 0.901, 0.99])
    calibrated = scores([1, 2, 3, 4], p)
    plain = {c: v for c, v in calibrated.items() if c != "p_lens"} | {"logit": np.log(p / (1 - p))}
    table, report = h.mine({"a": plain}, NONE)
    assert table["ra"].to_pylist() == h.mine({"a": calibrated}, NONE)[0]["ra"].to_pylist() == [3.0, 4.0]
    assert report[0]["cut"] == "logit > 2.197" and table["p_lens"].to_pylist() == [None, None]
    both, rows = h.mine({"a": plain, "b": scores([4], [0.95])}, NONE)
    assert [r.get("cut") for r in rows] == ["logit > 2.197", "p > 0.9", None]
    assert both["source_model"].to_pylist() == ["a", "a+b"] and both["p_lens"].to_pylist()[0] is None


def test_order_of_models_and_rows_changes_nothing():
    r = np.random.default_rng(0)
    a, b = scores(r.uniform(0, 0.1, 300), r.uniform(0.8, 1, 300)), scores(r.uniform(0, 0.1, 300), r.uniform(0.8, 1, 300))
    p = r.permutation(300)
    one = h.mine({"a": a, "b": b}, NONE)[0]
    two = h.mine({"b": b, "a": {k: v[p] for k, v in a.items()}}, NONE)[0]
    assert one.equals(two)


def test_seeds_lookup_is_read_and_weighs_by_distance():
    seeds = pa.table({"ra_key": [10.0, 20.0], "dec_key": [60.0, 60.0], "brickname": ["x", "y"], "source_model": ["gen2", "gen3"]})
    w = h.training_weights(np.array([10.0000009, 20.01]), np.array([60.0, 60.0]), seeds)
    assert w.tolist() == [5.0, 1.0]
    with pytest.raises(BadInput, match="expected ra, dec or ra_key"):
        h.training_weights(np.zeros(1), np.zeros(1), pa.table({"x": [1]}))


def test_top_of_each_model_and_bad_scores():
    table, _ = h.mine({"a": scores([1, 2, 3], [0.91, 0.99, 0.95])}, NONE, h.MineRecipe(per_model=2))
    assert table["ra"].to_pylist() == [2.0, 3.0]
    with pytest.raises(BadInput, match="model a: no column p_lens or logit"):
        h.mine({"a": {k: v for k, v in scores([1], [1]).items() if k != "p_lens"}}, NONE)
    with pytest.raises(BadInput, match="out of range"):
        h.MineRecipe(threshold=1.5)
