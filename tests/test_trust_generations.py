"""trust.generations: recorded and measured numbers side by side, never mixed."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.trust import generations as g


def make_run(folder, reported=None, gates=None):
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "summary.json").write_text(
        json.dumps({"reported_on": reported or {}, "chosen_on": {"auroc": 0.999}, "recipe": {"a": {"b": 1}}})
    )
    (folder / "gates.json").write_text(json.dumps(gates or []))
    return str(folder)


def test_recorded_numbers_are_the_documents():
    by = {x.name: x for x in g.recorded_generations()}
    assert by["gen1"].results["auroc"] == 0.9963 and by["gen1"].results["tpr@fpr0.0001"] == 0.004
    assert by["gen2_final"].results["tpr@fpr0.0001"] == 0.751 and by["gen3"].results["tpr@fpr0.0001"] == 0.668
    best = max(by["gen4"].history, key=lambda e: e["tpr@fpr0.0001"])
    assert (best["epoch"], best["tpr@fpr0.0001"]) == (7, 0.745) and len(by["gen4"].history) == 13
    assert by["gen2_final"].anchors["recall@0.5"] == [2, 68] and "blank sky" in by["gen2_final"].anchors["caution"]


def test_a_run_reports_the_split_that_did_not_choose(tmp_path):
    run = g.from_run(make_run(tmp_path / "x", {"auroc": 0.9, "intervals": {"auroc": [0.8, 0.95]}}, [{"name": "core", "passed": None}]))
    assert run.name == "x" and run.results == {"auroc": 0.9} and run.configuration == {"a.b": 1}
    rows = g.compare_generations([run])
    assert rows["results"] == [{"": "auroc", "x": "0.9 [0.8, 0.95]"}] and rows["gates"] == [{"": "core", "x": "not checked"}]


def test_document_keeps_the_two_kinds_apart(tmp_path):
    text = g.document([*g.recorded_generations(), g.from_run(make_run(tmp_path / "mine", {"auroc": 0.9}))], "auroc")
    first, second = text.split("## Measured by this package")
    assert "gen4" in first and "mine" not in first and "mine" in second and "gen4" not in second
    assert "##########" in second and "90.0 %" in second


def test_bad_runs_are_named(tmp_path):
    with pytest.raises(BadInput, match="expected the folder of a run"):
        g.from_run(str(tmp_path))
    with pytest.raises(BadInput, match="each name once"):
        g.compare_generations([*g.recorded_generations(), *g.recorded_generations()])
    make_run(tmp_path / "y")
    (tmp_path / "y" / "gates.json").write_text("{")
    with pytest.raises(BadInput, match="gates.json: not readable as JSON"):
        g.from_run(str(tmp_path / "y"))


def test_criteria_are_judged_by_their_limits_and_say_what_is_missing():
    good = {c.key: 0.5 * (max(c.least, -1) + min(c.most, 30)) for c in g.CRITERIA}
    assert {r["met"] for r in g.against_criteria(good)} == {"yes", "shown"}
    for c in g.CRITERIA:
        wrong = c.least - 0.1 if c.least > -math.inf else c.most + 0.1 if c.most < math.inf else None
        if wrong is not None:
            assert [r["met"] for r in g.against_criteria(good | {c.key: wrong}) if r["what"] == c.what] == ["NO"]
        assert [r["met"] for r in g.against_criteria(good | {c.key: math.nan}) if r["what"] == c.what] == ["not measured"]
    with pytest.raises(BadInput, match="criteria: auroq unknown"):
        g.against_criteria({"auroq": 1.0})


def test_values_from_scores_are_counted_as_a_hand_would():
    p = np.array([0.9, 0.8, 0.2, 0.7, 0.1, 0.3])
    label = np.array([1, 1, 1, 0, 0, 0])
    odds = np.log(p / (1 - p)).astype(np.float32)
    v = g.score_values(odds, p, label, {})
    assert (v["tp"], v["fp"], v["fn"], v["tn"]) == (2, 1, 1, 2) and v["accuracy"] == 4 / 6
    assert abs(v["auroc"] - roc_auc_score(label, p)) < 1e-12 and abs(v["precision_90"] - 3 / 5) < 1e-12
    assert math.isnan(v["tpr_1e3"]) and "brick_spread" not in v


def test_values_from_a_history():
    epoch = {"loss": 0.2, "gradient_max": 3.0, "warnings": [], "choose": {"loss": 0.25, "auroc": 0.8}}
    late = epoch | {
        "epoch": 1,
        "gradient_max": 12.0,
        "warnings": ["learning rate: 1, the schedule says 2"],
        "choose": {"loss": 0.5, "auroc": 0.95},
    }
    v = g.history_values([epoch | {"epoch": 0}, late])
    assert abs(v["gap"] - 0.3) < 1e-12 and (v["gradient"], v["off_schedule"], v["epoch_09"]) == (12.0, 1.0, 1.0)
    assert math.isnan(g.history_values([epoch | {"epoch": 0}])["epoch_09"])


def test_attention_is_no_merit_of_a_network_that_calls_everything_by_one_name():
    def met(**values):
        return {row["what"]: row for row in g.against_criteria(values)}["p of the attention on the arc against other lenses' maps"]

    assert met(attention=0.005)["met"] == met(attention=0.005, accuracy_lens=0.9, accuracy_other=0.6)["met"] == "yes"
    assert met(attention=0.2, accuracy_other=0.6)["met"] == "NO"
    for accuracy in ({"accuracy_other": 0.0}, {"accuracy_lens": 0.0}):
        row = met(attention=0.005, **accuracy)
        assert row["met"] == "not measured" and row["value"] is None
