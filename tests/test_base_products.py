"What the makers of products are handed"

from dataclasses import FrozenInstanceError

import pytest

from dark_halo_scope.base.products import Place


def test_a_place_is_fixed_and_shows_nothing_by_itself(capsys: pytest.CaptureFixture) -> None:
    place = Place("run/parent.parquet", "run")
    with pytest.raises(FrozenInstanceError):
        place.limit = 3  # type: ignore[misc]
    with place.counting("galaxies", 10) as count:
        assert count(4) is None
    assert (place.limit, place.workers, place.device, place.resume) == (0, 0, "cpu", False) and capsys.readouterr() == ("", "")
