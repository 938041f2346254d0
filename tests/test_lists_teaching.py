"""A network taught further: nobody is examined on what was taught, the examination's lenses stay out, and the commands say what they did."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.receipts import read_table, write_table
from dark_halo_scope.learning.models import build_model
from dark_halo_scope.learning.network import LensNetwork, network_file
from dark_halo_scope.lists import teaching
from dark_halo_scope.lists.teaching import TeachRecipe, dealt, gained, labelled_stamps, places_of, teach
from dark_halo_scope.trust.anchors import known_lenses

from .conftest import dhs_here
from .stamp_toys import toy_table


def listed(path, n, arc, seed, ra=None):
    "Stamps as a fetched list's: `n` places, with arcs or without"
    table = toy_table(4 * n, seed=seed, arc=arc)
    table = table.filter(pa.array(np.arange(4 * n) % 2 == (1 if arc else 0))).slice(0, n)
    ra = np.arange(n) * 0.02 + 100 + 10 * seed if ra is None else ra
    values = {"ra": ra, "dec": np.full(n, 5.0), "task_id": [f"{seed}-{i}" for i in range(n)], "split": ["none"] * n}
    for name, column in values.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(column))
    write_table(table.drop_columns(["theta_E"]), path)
    return str(path)


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    return [listed(folder / "lenses.parquet", 18, 0.05, 1)], [listed(folder / "others.parquet", 24, 0.0, 2)]


@pytest.fixture(scope="module")
def lesson(lists, tmp_path_factory):
    "One lesson, and what was seen of it: the stamps taught to each network, the network it began as, and how many stamps each was asked about"
    seen = SimpleNamespace(taught=[], begun=[], asked=[], out=tmp_path_factory.mktemp("lesson"))

    def noted(sets, recipe, out, **more):
        table = read_table(sets[0])
        seen.taught.append(set(table.filter(pa.array(np.isin(table["split"].to_pylist(), ["train", "val"])))["task_id"].to_pylist()))
        seen.begun.append(build_model(recipe.model).eval())
        return train(sets, recipe, out, **more)

    def scored(self, images, meta=None, turns=False):
        seen.asked.append(len(images))
        return logits(self, images, meta, turns)

    train, logits = teaching.train, LensNetwork.logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teaching, "train", noted)
        patch.setattr(LensNetwork, "logits", scored)
        seen.report = teach(*lists, str(seen.out), recipe=TeachRecipe(folds=3, epochs=1, head_epochs=0), device="cpu")
    return seen


def test_no_stamp_is_scored_by_a_network_that_saw_its_galaxy(lists, lesson):
    "What each network was taught, against what it was asked: no place in common; the report holds every stamp once"
    stamps, _ = labelled_stamps(*lists)
    fold, names = dealt(stamps, 3), np.array(stamps["task_id"].to_pylist())
    for k in range(3):
        assert lesson.taught[k] == set(names[fold != k]) and lesson.asked[k] == (fold == k).sum()
    scores = read_table(str(lesson.out / "scores.parquet"))
    assert scores["name"].to_pylist() == names.tolist() and lesson.report["lenses"] == 18 and lesson.report["others"] == 24
    assert (
        gained(scores["logit"].to_numpy(), scores["label"].to_numpy(), places_of(*(scores[c].to_numpy() for c in ("ra", "dec"))))
        == lesson.report["after"]
    )


def test_a_lesson_begins_with_all_that_the_network_knows(lesson):
    "Its last layer too: with a new one, twenty lenses taught nothing"
    stamps = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        before = LensNetwork.load().model.eval()(stamps)[0]
        assert len(lesson.begun) == 4 and all(torch.equal(model(stamps)[0], before) for model in lesson.begun)


def test_lenses_of_the_examination_are_kept_out(lists, tmp_path):
    anchor = known_lenses()
    ra = np.r_[anchor["ra"][:3], 200 + np.arange(15) * 0.02]
    lenses = listed(tmp_path / "mine.parquet", 18, 0.05, 3, ra)
    table = read_table(lenses)
    dec = np.r_[anchor["dec"][:3], np.zeros(15)]
    write_table(table.set_column(table.column_names.index("dec"), "dec", pa.array(dec)), lenses)
    stamps, left = labelled_stamps([lenses], lists[1])
    assert left["anchors kept for the examination"] == 3 and len(stamps) == 15 + 24
    assert len(labelled_stamps([lenses], lists[1], with_anchors=True)[0]) == 18 + 24


def test_one_galaxy_is_in_one_fold_and_has_one_answer(lists, tmp_path):
    stamps, _ = labelled_stamps([*lists[0], *lists[0]], lists[1])  # a list given twice
    fold, names = dealt(stamps, 5), np.array(stamps["task_id"].to_pylist())
    assert all(len(set(fold[names == name])) == 1 for name in set(names))
    assert np.bincount(fold[stamps["label"].to_numpy() == 1]).min() > 0
    with pytest.raises(BadInput, match="1-0: stands among the lenses and among the others"):
        labelled_stamps(lists[0], [*lists[1], *lists[0]])
    with pytest.raises(BadInput, match="cannot be dealt into 30 folds"):
        dealt(stamps, 30)


def test_commands_teach_and_find_alike(lists, tmp_path):
    done = dhs_here(
        "train", "--on", lists[0][0], "--against", lists[1][0], "--folds", "3", "--epochs", "1", "--out", "taught", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "after: AUROC" in done.stdout and "fold 3/3" in done.stderr
    near = dhs_here("similar", "1-3", "--stamps", lists[0][0], "--network", "taught/network.pt", "--n", "3", "--out", "near", cwd=tmp_path)
    assert near.returncode == 0, near.stderr[-2000:]
    assert "1.000  1-3" in near.stdout and (tmp_path / "near" / "similar.vot").exists()
    wrong = dhs_here("similar", "1-99", "--stamps", lists[0][0], "--out", "near", cwd=tmp_path)
    assert wrong.returncode == 2 and "unknown stamp '1-99'" in wrong.stderr and "Traceback" not in wrong.stderr


def test_networks_are_named_or_refused():
    assert network_file("small").endswith("small.safetensors")
    with pytest.raises(BadInput, match="did you mean 'small'"):
        network_file("smal")
