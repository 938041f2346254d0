"From a list of positions to stamps and a stage-0 report, against the local cutout service"

from pathlib import Path

import numpy as np
import pytest

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.receipts import read_receipt, read_table
from dark_halo_scope.base.schema import check_table
from dark_halo_scope.run.positions import fetch_positions, stage0_on_sky
from dark_halo_scope.stamps.codec import decode
from dark_halo_scope.stamps.reader import Selection, StampSet, build_index
from dark_halo_scope.survey.viewer import ViewerRecipe
from dark_halo_scope.survey.web import Asker, Manners

from .conftest import dhs
from .cutout_service import Service

LIST = "name,ra,dec\none,150.1,2.2\ntwo,30.0,-5.0\nnowhere,10.0,-88.0\n"


def listed(folder: Path, text: str = LIST) -> str:
    (folder / "list.csv").write_text(text)
    return str(folder / "list.csv")


def quick(service: Service) -> tuple[ViewerRecipe, Asker]:
    "The local service, asked without pauses"
    return ViewerRecipe(service=service.address), Asker(Manners(pause=0.0))


def test_fetched_stamps_are_the_stamps_product(service, tmp_path):
    receipt = fetch_positions(listed(tmp_path), str(tmp_path / "out"), *quick(service))
    stamps = check_table(read_table(tmp_path / "out" / "stamps.parquet"), "stamps")
    assert receipt.identity["rows"] == 3 and receipt.run["refused"] == 1
    assert stamps["task_id"].to_pylist() == ["one", "two", "nowhere"] and stamps["cutout_ok"].to_pylist() == [True, True, False]
    assert stamps["warnings"].to_pylist()[2][0].startswith("cutout: ")
    images = decode(stamps)
    assert images.shape == (3, 3, 64, 64) and abs(images[0].mean() - 0.01) < 0.001 and not images[2].any()
    index = build_index([StampSet((str(tmp_path / "out" / "stamps.parquet"),), label=1)], Selection(splits=()))
    assert len(index) == 2  # the reader takes the two with a cutout


def test_a_second_call_asks_nothing(service, tmp_path):
    recipe, asker = quick(service)
    first = fetch_positions(listed(tmp_path), str(tmp_path / "out"), recipe, asker)
    asked = len(service.asked)
    assert fetch_positions(listed(tmp_path), str(tmp_path / "out"), recipe, asker) == first and len(service.asked) == asked
    longer = listed(tmp_path, LIST + "three,20.0,1.0\n")
    assert fetch_positions(longer, str(tmp_path / "out"), recipe, asker).identity["rows"] == 4
    again = [path for path in service.asked[asked:] if "dec=-88" not in path]
    assert len(again) == 2  # the new place's cutout and PSF


def test_the_command(service, tmp_path):
    done = dhs("fetch", listed(tmp_path), "--out", "got", "--service", service.address, cwd=tmp_path)
    assert done.returncode == 0 and "3 stamps" in done.stdout and "1 without" in done.stdout, done.stderr
    assert read_receipt(tmp_path / "got" / "stamps.parquet").product == "stamps"
    wrong = dhs("fetch", listed(tmp_path, "name,alpha,delta\nx,1,2\n"), "--out", "not", "--service", service.address, cwd=tmp_path)
    assert wrong.returncode == 2 and "ra" in wrong.stderr and not (tmp_path / "not" / "stamps.parquet").exists()


def test_nothing_came_back(service, tmp_path):
    with pytest.raises(BadInput, match="no cutout came back"):
        fetch_positions(listed(tmp_path, "name,ra,dec\nnowhere,10.0,-88.0\n"), str(tmp_path / "out"), *quick(service))
    assert not (tmp_path / "out" / "stamps.parquet").exists()


def test_stage0_refuses_blank_sky(service, tmp_path):
    "The service sends noise without a galaxy: the centre guard refuses every place, and nothing is scored"
    names = "name,ra,dec\nSDSSJ0029-0055,7.28243,-0.93081\n"
    with pytest.raises(BadInput, match="no anchor"):
        stage0_on_sky("no-such-model.pt", str(tmp_path / "out"), listed(tmp_path, names), None, *quick(service))
    assert np.array(read_table(tmp_path / "out" / "stamps.parquet")["cutout_ok"].to_pylist()).all()
