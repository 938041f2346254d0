"""Processes that share compiled kernels."""

import multiprocessing

import numpy as np
import pytest

from dark_halo_scope.base import kernels


def steps(x):
    total = 0.0
    for i in range(x.size):
        total += x[i] if x[i] > 0 else -x[i]
    return total


def compile_at(begin, misses):
    begin.wait()
    made = kernels.compiled(steps)
    assert made(np.array([1.0, -2.0])) == 3
    misses.put(sum(made.stats.cache_misses.values()))


@pytest.mark.parametrize("exists", [True, False], ids=["folder", "folder to be made"])
def test_of_processes_that_begin_at_once_one_compiles(tmp_path, monkeypatch, exists):
    monkeypatch.setattr(kernels.config, "CACHE_DIR", str(tmp_path if exists else tmp_path / "new"))
    fork = multiprocessing.get_context("fork")
    begin, misses = fork.Barrier(3), fork.Queue()
    several = [fork.Process(target=compile_at, args=(begin, misses)) for _ in range(3)]
    for one in several:
        one.start()
    for one in several:
        one.join(60)
    assert sorted(misses.get(timeout=1) for _ in several) == [0, 0, 1]


def test_where_no_folder_can_be_had_none_is_littered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kernels, "cache_folder", lambda: "")
    monkeypatch.setattr(kernels.config, "CACHE_DIR", "")
    assert kernels.compiled.__wrapped__(steps)(np.array([1.0, -2.0])) == 3
    assert not list(tmp_path.iterdir())
