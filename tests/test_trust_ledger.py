"The ledger of looks at real lenses: which is the first of its kind, what is a repeat, and what is known against one"

from pathlib import Path

import pytest

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.trust.ledger import append_entry, entries, first_entry, mark_spoilt, why_spoilt


def test_the_first_look_is_of_its_evaluation_and_its_network(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    assert entries(path) == []
    looks = [("exam", "one", 0.7), ("lists", "two", 0.8), ("exam", "two", 0.9), ("exam", "one", 0.6)]
    assert all(append_entry(path, {"evaluation": e, "identity": i, "result": {"auc": auc}}) for e, i, auc in looks)
    ledger = entries(path)
    for evaluation, identity, auc in (
        ("exam", "one", 0.7),
        ("exam", "two", 0.9),
        ("lists", "two", 0.8),
        ("exam", "", 0.7),
        ("lists", "", 0.8),
    ):
        assert first_entry(ledger, evaluation, identity)["result"] == {"auc": auc}
    for evaluation, identity, asked in (("lists", "one", " for one"), ("peers", "", "")):
        with pytest.raises(BadInput, match=f"^ledger: no entry of evaluation '{evaluation}'{asked} among 4$"):
            first_entry(ledger, evaluation, identity)


def test_another_result_of_the_same_look_is_a_repeat_and_the_same_one_is_nothing_new(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    looks = [{"evaluation": "exam", "identity": "one", "result": {"auc": auc}} for auc in (0.7, 0.7, 0.6, 0.5, 0.6)]
    assert [append_entry(path, look) for look in looks] == [True, False, True, True, False]
    assert [(e["result"]["auc"], e.get("repeat", 0)) for e in entries(path)] == [(0.7, 0), (0.6, 1), (0.5, 2)]


def test_what_spoilt_a_look_is_known_of_the_first_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for identity, auc in (("one", 0.7), ("two", 0.8), ("one", 0.6)):
        append_entry(path, {"evaluation": "exam", "identity": identity, "result": {"auc": auc}})
    assert mark_spoilt(path, "exam", "one", "coarse pixels") and not mark_spoilt(path, "exam", "one", "coarse pixels")
    ledger = entries(path)
    assert [why_spoilt(ledger, entry) for entry in ledger[:3]] == ["coarse pixels", "", ""] and len(ledger) == 4
    with pytest.raises(BadInput, match="no entry of evaluation 'exam' for three"):
        mark_spoilt(path, "exam", "three", "none")
