"""trust.generations: recorded and measured numbers side by side, never mixed."""

import json

import pytest

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
    rows = g.compare([run])
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
        g.compare([*g.recorded_generations(), *g.recorded_generations()])
    make_run(tmp_path / "y")
    (tmp_path / "y" / "gates.json").write_text("{")
    with pytest.raises(BadInput, match="gates.json: not readable as JSON"):
        g.from_run(str(tmp_path / "y"))
