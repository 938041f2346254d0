"""Guards, each with the test that must fail without it

As a plugin of pytest it deletes the guard that the environment names: GUARD=limit pytest -p tests.guards_deleted TEST"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from dark_halo_scope.base.receipts import read_receipt
from dark_halo_scope.parent import products as parent
from dark_halo_scope.run import products as run
from dark_halo_scope.trust import anchors


class Guard(NamedTuple):
    "What is replaced by what, and the test that notices"

    module: Any
    name: str  # Of the function in its module
    without: Callable  # Stands in its place
    test: str


def identity_without(key: str) -> Callable:
    "The identity of a product, one entry of which is always what the receipt says"
    whole = run.identity
    return lambda at, name: {**whole(at, name), key: read_receipt(at.address(name)).identity.get(key)}


ONE_WAY = "tests/test_run_products.py::test_"
GUARDS = {
    "known": Guard(parent, "near_any", lambda ra, *rest: np.zeros(len(ra), bool), f"{ONE_WAY}known_lenses_and_candidates_are_never_hosts"),
    "gate": Guard(run, "check_guards", lambda at, product: None, f"{ONE_WAY}a_failed_gate_stops_the_training"),
    "anchors": Guard(
        anchors,
        "gating_rule",
        lambda recall, contamination, recipe: (recall.value > recipe.recall, "passed"),
        "tests/test_trust_anchors.py::test_no_impostors_is_no_pass",
    ),
    "limit": Guard(run, "identity", identity_without("limit"), f"{ONE_WAY}the_limit_is_part_of_the_identity"),
    "code": Guard(run, "identity", identity_without("code"), f"{ONE_WAY}the_code_is_part_of_the_identity"),
}


def pytest_configure(config: pytest.Config) -> None:
    "Deletes the guard, before any test is imported"
    if guard := GUARDS.get(os.environ.get("GUARD", "")):
        setattr(guard.module, guard.name, guard.without)
