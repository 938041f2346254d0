"From a list of positions to stamps and a stage-0 report, against the local cutout service"

import io
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from astropy.io import fits

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.jsonable import plain, read_json
from dark_halo_scope.base.receipts import read_receipt, read_table
from dark_halo_scope.base.schema import check_table
from dark_halo_scope.base.skylist import read_positions
from dark_halo_scope.learning.recipes import TrainRecipe
from dark_halo_scope.learning.scoring import Committee
from dark_halo_scope.lists import positions
from dark_halo_scope.lists.positions import fetch_places, stage0_on_sky
from dark_halo_scope.lists.scores import packaged_network
from dark_halo_scope.stamps.codec import decode
from dark_halo_scope.stamps.reader import Selection, StampSet, build_index
from dark_halo_scope.stats.calibration import Calibrator
from dark_halo_scope.survey.viewer import ViewerRecipe
from dark_halo_scope.survey.web import HttpClient, RequestPolicy
from dark_halo_scope.trust.anchors import known_impostors, name_agrees

from .conftest import dhs, dhs_here
from .cutout_service import Service

LIST = "name,ra,dec\none,150.1,2.2\ntwo,30.0,-5.0\nnowhere,10.0,-88.0\n"


def listed(folder: Path, text: str = LIST) -> str:
    (folder / "list.csv").write_text(text)
    return str(folder / "list.csv")


def quick(service: Service) -> tuple[ViewerRecipe, HttpClient]:
    "The local service, asked without pauses"
    return ViewerRecipe(service=service.address), HttpClient(RequestPolicy(pause=0.0))


def test_fetched_stamps_are_the_stamps_product(service, tmp_path):
    receipt = fetch_places(read_positions(listed(tmp_path)), str(tmp_path / "out"), *quick(service))
    stamps = check_table(read_table(tmp_path / "out" / "stamps.parquet"), "stamps")
    assert receipt.identity["rows"] == 3 and receipt.run["refused"] == 1
    assert stamps["task_id"].to_pylist() == ["one", "two", "nowhere"] and stamps["cutout_ok"].to_pylist() == [True, True, False]
    assert stamps["warnings"].to_pylist()[2][0].startswith("cutout: ")
    images = decode(stamps)
    assert images.shape == (3, 3, 64, 64) and abs(images[0].mean() - 0.01) < 0.001 and not images[2].any()
    index = build_index([StampSet((str(tmp_path / "out" / "stamps.parquet"),), label=1)], Selection(splits=()))
    assert len(index) == 2  # the reader takes the two with a cutout


def test_a_second_call_asks_nothing(service, tmp_path):
    recipe, client = quick(service)
    first = fetch_places(read_positions(listed(tmp_path)), str(tmp_path / "out"), recipe, client)
    asked = len(service.asked)
    assert fetch_places(read_positions(listed(tmp_path)), str(tmp_path / "out"), recipe, client) == first and len(service.asked) == asked
    longer = listed(tmp_path, LIST + "three,20.0,1.0\n")
    assert fetch_places(read_positions(longer), str(tmp_path / "out"), recipe, client).identity["rows"] == 4
    again = [path for path in service.asked[asked:] if "dec=-88" not in path]
    assert len(again) == 2  # the new place's cutout and PSF


def test_the_command(service, tmp_path):
    done = dhs("fetch", listed(tmp_path), "--out", "got", "--service", service.address, cwd=tmp_path)
    assert done.returncode == 0 and "3 stamps" in done.stdout and "1 without" in done.stdout, done.stderr
    assert read_receipt(tmp_path / "got" / "stamps.parquet").product == "stamps"
    wrong = dhs_here("fetch", listed(tmp_path, "name,alpha,delta\nx,1,2\n"), "--out", "not", "--service", service.address, cwd=tmp_path)
    assert wrong.returncode == 2 and "ra" in wrong.stderr and not (tmp_path / "not" / "stamps.parquet").exists()


def test_nothing_came_back(service, tmp_path):
    with pytest.raises(BadInput, match="no cutout came back"):
        fetch_places(read_positions(listed(tmp_path, "name,ra,dec\nnowhere,10.0,-88.0\n")), str(tmp_path / "out"), *quick(service))
    assert not (tmp_path / "out" / "stamps.parquet").exists()


class Galaxies(Service):
    "A service whose sky has a galaxy wherever it is asked, with a ring around those at positive declination"

    def answer(self, path, query):
        if "coadd-psf" in path:
            return super().answer(path, query)
        with fits.open(io.BytesIO(super().answer(path, query))) as hdus:
            size = hdus[0].data.shape[-1]
            y, x = np.mgrid[:size, :size] - (size - 1) / 2
            r = np.hypot(x, y)
            hdus[0].data = (hdus[0].data + 0.5 * np.exp(-r / 3) + 0.15 * (float(query["dec"]) > 0) * (np.abs(r - 8) < 1.5)).astype(
                np.float32
            )
            written = io.BytesIO()
            hdus.writeto(written)
        return written.getvalue()


class RingSeer(torch.nn.Module):
    "A network of one number: the light eight pixels out"

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(1, 1)
        y, x = np.mgrid[:64, :64] - 31.5
        self.ring = torch.from_numpy(np.abs(np.hypot(x, y) - 8) < 1.5)

    def forward(self, image, meta=None):
        light = image[..., self.ring].mean((1, 2))
        return light - 25, light[:, None]


LENSES = "name,ra,dec,theta_E\nseen,150.1,2.2,2.1\nnone,30.0,-5.0,1.0\nblank,10.0,-88.0,1.0\n"
IMPOSTORS = "name,class,ra,dec\nround,ring,40.0,3.0\nplain,spiral,50.0,-3.0\nlens,ring,150.1001,2.2,\n"


def test_stage0_on_a_sky_with_galaxies_is_a_page(tmp_path, monkeypatch):
    service = Galaxies()
    committee = Committee(((RingSeer(), TrainRecipe(), "ringseer"),), calibrator=Calibrator("platt", (-1.0, 1.0), (-1.0, 1.0), 0.5, 2, 2))
    monkeypatch.setattr(positions, "networks", lambda checkpoints: committee)
    (tmp_path / "not.csv").write_text(IMPOSTORS.replace("2.2,\n", "2.2\n"))
    n = 400
    columns = {
        "split": ["test"] * n,
        "label": np.zeros(n, np.int16),
        "release": np.full(n, 10000),
        "brickid": np.arange(n),
        "objid": np.arange(n),
        "model_id": ["ringseer"] * n,
    }
    columns["logit"] = np.random.default_rng(0).normal(-40, 5, n).astype(np.float32)
    pq.write_table(pa.table(columns), tmp_path / "scores.parquet")
    pq.write_table(pa.table(columns | {"model_id": ["another"] * n}), tmp_path / "others.parquet")
    asked = (str(tmp_path / "out"), listed(tmp_path, LENSES), None, *quick(service), str(tmp_path / "not.csv"))
    report = stage0_on_sky("net.pt", *asked, str(tmp_path / "scores.parquet"), tmp_path / "ledger.jsonl")
    assert [(s.found, s.n) for s in report.recall] == [(1, 2)] * 3 and report.refused == {
        "no usable cutout": 1,
        "impostor, known lenses": 1,
    }
    assert [(s.what, s.found, s.n) for s in report.contamination[3:]] == [("ring, p >= 0.5", 1, 1), ("spiral, p >= 0.5", 0, 1)]
    assert [r["n_neg"] for r in report.recall_at_fpr] == [n] * 3 and not report.passed
    entry = json.loads((tmp_path / "ledger.jsonl").read_text())
    assert (
        entry["network"] == "ringseer"
        and entry["result"]["spiral, p >= 0.5"] == "0 of 1"
        and entry["result"]["recall, p >= 0.5"] == "1 of 2"
    )
    assert read_json(str(tmp_path / "out" / "stage0.json")) == plain(asdict(report))
    page = (tmp_path / "out" / "stage0.html").read_text()
    assert (
        page.count("<img ") >= 5 and "Worst missed" in page and "round" in page and "http" not in page.split("</style>")[1].split("<img")[0]
    )
    with pytest.raises(BadInput, match="scored by network another, expected ringseer"):
        stage0_on_sky("net.pt", *asked, str(tmp_path / "others.parquet"))
    service.server.shutdown()
    service.server.server_close()


def test_impostors_need_a_class(tmp_path):
    package = known_impostors()
    assert Counter(package["class"].tolist()) == {"ring": 123, "merger": 48, "spiral": 47}
    assert all(name_agrees(*row) for row in zip(*(package[c] for c in ("name", "ra", "dec"))))
    with pytest.raises(BadInput, match="no class for every row"):
        known_impostors(listed(tmp_path))


def test_stage0_refuses_blank_sky(service, tmp_path):
    "The service sends noise without a galaxy: the centre guard refuses every place, and nothing is scored"
    names = "name,ra,dec\nSDSSJ0029-0055,7.28243,-0.93081\n"
    with pytest.raises(BadInput, match="none of 1 anchors passes the guards .no galaxy at the centre: 1"):
        stage0_on_sky(packaged_network(), str(tmp_path / "out"), listed(tmp_path, names), None, *quick(service))
    assert service.asked and not (tmp_path / "out" / "stage0.json").exists()


def test_stage0_asks_for_its_network_before_the_sky(service, tmp_path):
    with pytest.raises(BadInput, match="no-such-model.pt: no such file"):
        stage0_on_sky("no-such-model.pt", str(tmp_path / "out"), listed(tmp_path), None, *quick(service))
    assert not service.asked
