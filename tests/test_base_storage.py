"Folders listed and emptied, catalogues that replace only their own kind, and limits in words"

from pathlib import Path

import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs

from dark_halo_scope.base import storage
from dark_halo_scope.base.config import check_ranges
from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.hats import read_hats, write_hats
from dark_halo_scope.base.storage import clear_folder, list_files, size_of, sizes_below
from dark_halo_scope.stamps.normalise import NormaliseRecipe


def test_files_are_listed_with_their_sizes_however_deep(tmp_path: Path) -> None:
    assert list_files(tmp_path / "absent") == [] and sizes_below(tmp_path / "absent") == {}
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"1")
    (tmp_path / "a" / "b" / "three").write_bytes(b"123")
    assert sizes_below(tmp_path) == {f"{tmp_path}/a/one": 1, f"{tmp_path}/a/b/three": 3}
    assert list_files(tmp_path, "three") == [f"{tmp_path}/a/b/three"]


class Sizeless(MemoryFileSystem):
    "Like a web server that sends files in chunks: it says what is there, not how long it is"

    def info(self, path: str, **options: object) -> dict:
        return super().info(path, **options) | {"size": None}


def test_the_size_of_a_file_is_told_or_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "three").write_bytes(b"123")
    assert size_of(tmp_path / "three") == 3 and size_of(tmp_path) is None and size_of(tmp_path / "absent") is None
    monkeypatch.setattr(storage, "read_bytes", None)
    assert size_of(tmp_path / "three") == 3, "without reading it"
    monkeypatch.undo()
    web = Sizeless()
    web.pipe_file("/four", b"1234")
    monkeypatch.setattr(storage, "filesystem", lambda uri: (fs.PyFileSystem(fs.FSSpecHandler(web)), "/four"))
    assert size_of("https://host/four") == 4


def test_a_folder_is_emptied_and_stays_and_one_that_is_absent_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "full" / "deep").mkdir(parents=True)
    (tmp_path / "full" / "deep" / "file").write_text("x")
    for name in ("full", "absent"):
        clear_folder(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["full"] and not list((tmp_path / "full").iterdir())


def test_a_catalogue_replaces_a_catalogue_and_nothing_else(tmp_path: Path) -> None:
    one, two = (pa.table({"ra": [10.0 + n, 11.0], "dec": [1.0, 2.0], "n": [n, n]}) for n in (1, 2))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letters.txt").write_text("keep")
    with pytest.raises(BadInput, match="holds other files; expected an empty place"):
        write_hats(one, str(tmp_path / "mine"), "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["letters.txt"]
    for table in (one, two):
        write_hats(table, str(tmp_path / "catalogue"), "mine")
    assert set(read_hats(str(tmp_path / "catalogue"))["n"].to_pylist()) == {2}


@pytest.mark.parametrize(
    ("interval", "value", "words"),
    [
        ("[0, 1000)", 1000.0, "expected 0 or more and below 1000"),
        ("(0, 1]", 0.0, "expected above 0 and at most 1"),
        ("(-inf, inf)", float("nan"), "expected a finite number"),
        ("[2, inf)", 1.0, "expected 2 or more"),
    ],
)
def test_limits_are_said_in_words(interval: str, value: float, words: str) -> None:
    recipe = NormaliseRecipe()
    object.__setattr__(recipe, "r_in", value)
    with pytest.raises(BadInput, match=words + "$"):
        check_ranges(recipe, "normalisation", r_in=interval)
