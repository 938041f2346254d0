"What the package knows of its own files"

from pathlib import Path

import pytest

import dark_halo_scope
from dark_halo_scope.base.resources import code_hash


def test_the_hash_is_of_the_files_as_they_were_when_first_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Kernels compiled before an edit and after it do not share a folder in one process"
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "code.py").write_text("a = 1\n")
    monkeypatch.setattr(dark_halo_scope, "__file__", str(tmp_path / "__init__.py"))
    code_hash.cache_clear()
    try:
        first = code_hash()
        (tmp_path / "deep" / "code.py").write_text("a = 2\n")
        assert code_hash() == first
        code_hash.cache_clear()
        assert code_hash() != first
    finally:
        code_hash.cache_clear()
