"Damaged files: refused by name, unchanged, or read as they say, and nothing else"

import pytest

from .fuzz.kinds import KINDS
from .fuzz.trial import fuzz, table

SEEDS_KEPT = {"recipe": (20,), "bank": (4, 9, 10)}  # Damaged copies that once ended in a traceback, or in a line without the file


@pytest.mark.parametrize("name", KINDS)
def test_thirty_damaged_copies(name: str) -> None:
    found = fuzz(name, 30)
    assert not found.faults, "\n".join(found.faults)


@pytest.mark.parametrize("name", SEEDS_KEPT)
def test_damage_that_once_passed(name: str) -> None:
    for number in SEEDS_KEPT[name]:
        assert not fuzz(name, 1, number).faults


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", KINDS)
def test_a_thousand_damaged_copies(name: str) -> None:
    found = fuzz(name, 1000, 1000)
    print(table({name: found}))
    assert not found.faults, "\n".join(found.faults)
    assert found.counts["no sum"] <= 1000 * KINDS[name].blind
