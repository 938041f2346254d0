"What people, services and other programs hand in: whole kinds of it, refused in one line or made harmless"

import copy
import csv
import io
import math
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dark_halo_scope.base import storage
from dark_halo_scope.base.config import parse_yaml, recipe_from, recipe_to_dict
from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.receipts import read_receipt
from dark_halo_scope.report.figures import axes_grid, png_bytes, show_stamp
from dark_halo_scope.run import products
from dark_halo_scope.run.phases import Recipe, load_recipe, open_run
from dark_halo_scope.search.catalogues import csv_bytes, list_table
from dark_halo_scope.search.grading import mark_from
from dark_halo_scope.stamps.reader import StampSet, build_index

from .grading_desk import Served, write_list


def refused(function: Any, *arguments: Any) -> str:
    "The line of a refusal"
    with pytest.raises(BadInput) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Recipes.


def numbers(value: Any, path: tuple = ()) -> Iterator[tuple]:
    "Where a recipe holds numbers"
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


WHOLE = {k: v for k, v in recipe_to_dict(load_recipe("toy", out="run")).items() if k != "mock"}  # The room mock checks its section itself
ANY_SIGN = {"train.normalise.clip_low", "train.normalise.clip_high", "train.seed", "candidates.lens.max_arc_mag_r"}


def with_value(path: tuple, value: Any) -> dict:
    "The recipe with one number replaced"
    values = copy.deepcopy(WHOLE)
    section = values
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return values


@pytest.mark.parametrize("path", list(numbers(WHOLE)), ids=".".join)
def test_no_number_of_a_recipe_may_be_senseless(path: tuple) -> None:
    for value in (math.nan, math.inf, -math.inf, *(() if ".".join(path) in ANY_SIGN else (-3, -3.5, -1e30))):
        assert "mine.yaml" in refused(recipe_from, Recipe, with_value(path, value), "mine.yaml")


@pytest.mark.parametrize("depth", range(1, 30, 7))
def test_an_alias_bomb_does_not_go_off(depth: int) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, depth + 1))
    assert "anchors and aliases" in refused(parse_yaml, bomb, "mine.yaml")


@given(st.text("abcdefgh_ ", min_size=1, max_size=8))
@settings(deadline=None, max_examples=30)
def test_a_key_stands_once(key: str) -> None:
    for where in ("", "  "):
        text = f'outer:\n{where}"{key}": 1\n{where}"{key}": 2\n' if where else f'"{key}": 1\n"{key}": 2\n'
        assert "given twice" in refused(parse_yaml, text, "mine.yaml")


# Texts that a spreadsheet, a plot or a file takes for something else.


@given(st.sampled_from("=+-@\t\r"), st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=20))
@settings(deadline=None, max_examples=60)
def test_no_cell_of_a_table_is_a_formula(head: str, text: str) -> None:
    written = csv_bytes(list_table({"name": [head + text], "theta_E": [-1.5]})).decode()
    rows = list(csv.reader(io.StringIO(written, newline="")))
    assert rows[1][0][:1] == "'" and rows[1][1] == "-1.5"


@given(st.text(st.sampled_from("a$b^_{}\\frac%&#~<>|"), max_size=12))
@settings(deadline=None, max_examples=25)
def test_a_name_is_drawn_as_it_is_written(name: str) -> None:
    figure, axes = axes_grid(1, 1, (1, 1))
    show_stamp(axes[0, 0], np.zeros((3, 8, 8)), ("g", "r", "z"), name)
    assert png_bytes(figure).startswith(b"\x89PNG")


@given(st.text(max_size=10), st.integers(0xD800, 0xDFFF), st.sampled_from(["comment", "id", "card"]))
def test_half_a_letter_is_refused_where_it_comes_in(text: str, half: int, place: str) -> None:
    "No book of grades can hold it, and a grade that cannot be kept would block all that follow"
    sent = {"id": "12345678", "card": "k", "grade": "A", "comment": "", "seconds": 1.0, "undo": False}
    assert mark_from(sent, {"k": "name"}).grade == "A"
    assert "mark" in refused(mark_from, sent | {place: "12345678" + text + chr(half)}, {"k": "name"})


# Folders and files that go or change while a run is at work.


@pytest.fixture
def spoilt(toy: Path, tmp_path: Path) -> Path:
    "A finished toy run, to be spoilt"
    shutil.copytree(toy, tmp_path / "run")
    return tmp_path / "run"


def test_a_folder_removed_in_mid_run_is_noticed(spoilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run("toy", str(spoilt), [], workers=1)
    at_work = products.run_tasks

    def removing(*arguments: Any) -> Any:
        outcomes = at_work(*arguments)
        shutil.rmtree(next(p for p in (spoilt / "stamps").iterdir() if p.is_dir()))
        return outcomes

    Path(storage.join(str(spoilt), "_stamps.receipt.json")).unlink()
    monkeypatch.setattr(products, "run_tasks", removing)
    assert "went while others were made" in refused(products.make, run, "stamps")
    assert not (spoilt / "_stamps.receipt.json").exists()


def test_a_brick_that_is_gone_or_cut_is_noticed_when_the_product_is_taken(spoilt: Path) -> None:
    run = open_run("toy", str(spoilt), [], workers=1)
    assert not products.why_not(run, "stamps") and len(products.opened(run, "stamps").files()) > 1
    brick = sorted((spoilt / "stamps").rglob("[!_]*.parquet"))[0]
    data = brick.read_bytes()
    brick.write_bytes(data[:-1])
    assert brick.name in refused(products.opened, run, "stamps")
    brick.unlink()
    assert "missing" in refused(products.opened, run, "stamps")


def test_a_changed_byte_of_a_brick_is_noticed_when_it_is_read(spoilt: Path) -> None:
    brick = sorted((spoilt / "stamps").rglob("[!_]*.parquet"))[0]
    data, rows = brick.read_bytes(), read_receipt(brick).identity["rows"]
    sets = [StampSet((str(brick),))]
    assert len(build_index(sets)) <= rows
    brick.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    assert brick.name in refused(build_index, sets)


# The desk.


@pytest.mark.parametrize("ignored", [False, True], ids=["from a terminal", "from a job in the background"])
def test_the_desk_says_that_grades_are_kept(ignored: bool, tmp_path: Path) -> None:
    "A job in the background is started with Ctrl-C ignored; the server heeds it, and Python does not"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        served = Served(write_list(tmp_path, 6, 1, 1), ["Ana"])
    finally:
        signal.signal(signal.SIGINT, before)
    urllib.request.urlopen(served.addresses["Ana"] + "state").read()  # it listens for Ctrl-C once it answers
    served.process.send_signal(signal.SIGINT)
    try:
        said = served.process.communicate(timeout=30)[0].decode()
    finally:
        served.kill()
    assert "all grades are kept" in said


# Few open files.


@pytest.mark.slow
def test_a_run_with_64_open_files(toy: Path, tmp_path: Path) -> None:
    "It works, or says in one line what it lacks"
    shutil.copytree(toy, tmp_path / "run")
    brick = next(p for p in sorted((tmp_path / "run" / "stamps").iterdir()) if p.is_dir())
    shutil.rmtree(brick)
    Path(storage.join(str(tmp_path / "run"), "_stamps.receipt.json")).unlink()
    command = f"ulimit -n 64; exec {sys.executable} -m dark_halo_scope run phase4c_inject --recipe toy --out {tmp_path / 'run'} --workers 2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 or (done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1), done.stderr[-2000:]
    assert done.returncode or brick.is_dir()
