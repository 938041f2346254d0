"What `dhs score` writes: every copy opens, says the same, and hides nothing"

import csv
import io
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.io.votable import validate
from astropy.table import Table
from astropy.wcs import WCS
from PIL import Image
from regions import Regions

from dark_halo_scope.learning.checkpoints import load_checkpoint, save_checkpoint
from dark_halo_scope.learning.scoring import load_committee
from dark_halo_scope.lists.pictures import score_pictures
from dark_halo_scope.lists.scores import UNCALIBRATED, cutout_files, packaged_network, score_positions
from dark_halo_scope.stamps.codec import encode, load_stamps
from dark_halo_scope.survey.pictures import to_pictures
from dark_halo_scope.survey.viewer import ViewerRecipe
from dark_halo_scope.survey.web import HttpClient, RequestPolicy


def test_every_copy_of_the_scores_opens_and_says_the_same(service, tmp_path):
    "Names that formats choke on, a known lens, a bad row, a repeated place, and a column of the list's own"
    rows = ["a$b^$c,150.1,2.2,0.5", "SDSSJ0151+0049,27.780708,0.819167,.4", "J0100\u22121200,15.0,-12.0,.3", "=cmd|x,16,1,0.2"]
    rows += ["again,15.0,-12.0,.3", "bad,10,95,1", "{x},17,1,", "no data here,10,-88,1"]
    (tmp_path / "list.csv").write_text("\ufeffName,RAJ2000,DEJ2000,z\n" + "\n".join(rows) + "\n")
    with pytest.warns(UserWarning, match="line 7: declination 95"):
        score_positions(
            str(tmp_path / "list.csv"),
            str(tmp_path / "out"),
            viewer=ViewerRecipe(service=service.address),
            client=HttpClient(RequestPolicy(pause=0)),
        )
    out = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copies = {k: Table.read(out / f"scores.{k}", format=f) for k, f in (("ecsv", "ascii.ecsv"), ("vot", "votable"))}
        copies["fits"] = Table.read(out / "scores.fits", hdu=1)
        regions = Regions.read(out / "scores.reg", format="ds9")
    assert not [m for m in votable_messages(out / "scores.vot")]
    with (out / "scores.csv").open(newline="") as file:
        text = list(csv.DictReader(file, strict=True))
    assert [r["rank"] for r in text] == ["1", "2", "3", "4", "5", "6", ""] and text[-1]["why"] and len(regions) == 7
    order = [r["name"] for r in text]
    assert "'=cmd|x" in order and "J0100\u22121200" in order
    for kind, copy in copies.items():
        assert np.allclose(copy["ra"], [float(r["ra"]) for r in text], atol=1e-6) and len(copy) == 7
        assert ("J0100-1200" in list(copy["name"])) == (kind == "fits")
    ours = {r["name"]: r for r in text}
    assert ours["SDSSJ0151+0049"]["known_as"] == "SDSSJ0151+0049" and ours["again"]["repeats"] == "J0100\u22121200"
    assert ours["a$b^$c"]["z"] == "0.5" and all(r["viewer_dr11"].startswith("https://") for r in text)
    page = (out / "scores.html").read_text()
    assert "row 7 of the list: declination 95" in page and "It sees hosts and fields as well as arcs" in page
    images, table = load_stamps(str(out / "stamps.parquet"))
    index = list(csv.DictReader((out / "cutouts" / "index.csv").open(newline="")))
    assert len(index) == 6 and len(images) == 7
    for row in index:
        with fits.open(out / "cutouts" / row["file"]) as hdus:
            x, y = WCS(hdus[0].header, naxis=2).world_to_pixel(SkyCoord(float(row["ra"]), float(row["dec"]), unit="deg"))
            assert abs(x - 31.5) < 1e-3 and abs(y - 31.5) < 1e-3 and hdus[0].data.shape == (3, 64, 64)


def test_a_network_without_a_calibration_gives_no_probability_and_says_so(service, tmp_path):
    "Of positions and of pictures: the logistic function of a logit is no probability"
    state = load_checkpoint(packaged_network()) | {"calibration": None}
    save_checkpoint(state, str(tmp_path / "raw.pt"))
    (tmp_path / "list.csv").write_text("name,ra,dec\na,150.1,2.2\n")
    viewer, client = ViewerRecipe(service=service.address), HttpClient(RequestPolicy(pause=0))
    score_positions(str(tmp_path / "list.csv"), str(tmp_path / "sky"), str(tmp_path / "raw.pt"), viewer=viewer, client=client)
    (tmp_path / "pictures").mkdir()
    light = np.random.default_rng(1).normal(0.02, 0.01, (1, 3, 81, 81))
    Image.fromarray(to_pictures(light)[0]).save(tmp_path / "pictures" / "a.png")
    score_pictures(tmp_path / "pictures", str(tmp_path / "seen"), str(tmp_path / "raw.pt"))
    for out in ("sky", "seen"):
        table = Table.read(tmp_path / out / "scores.ecsv", format="ascii.ecsv")
        assert np.isfinite(table["logit"][0]) and np.ma.getmaskarray(np.ma.asarray(table["p_lens"])).all()
        assert table.meta["no probabilities"] == UNCALIBRATED and "no calibration" in (tmp_path / out / "scores.html").read_text()
    calibrated = score_pictures(tmp_path / "pictures", str(tmp_path / "own"), packaged_network())["a"]
    table = Table.read(tmp_path / "own" / "scores.ecsv", format="ascii.ecsv")
    assert table["p_lens"][0] == pytest.approx(float(load_committee(packaged_network()).calibrator(np.array([calibrated]))[0]), rel=1e-6)


def votable_messages(path: Path) -> list[str]:
    "What astropy's validator says of a VOTable"
    out = io.StringIO()
    return [] if validate(str(path), out) else [out.getvalue()]


def test_names_that_differ_in_case_get_files_of_their_own_and_none_costs_a_million_names():
    "Disks that do not tell A from a keep every cutout; what a name needs in memory does not grow with the names that could be free"
    images = np.random.default_rng(1).normal(size=(6, 3, 64, 64)).astype(np.float32)
    names = ["a", "A", "a_2", "b/c", "b c", "B_C"]
    stamps = pa.table({"task_id": names, "ra": np.arange(6.0), "dec": np.zeros(6), "cutout_ok": [True] * 6} | encode(images))
    tracemalloc.start()
    files = cutout_files(stamps)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sorted(files) == sorted(["a.fits", "A_2.fits", "a_2_2.fits", "b_c.fits", "b_c_2.fits", "B_C_3.fits", "index.csv"])
    assert peak < 5e6, peak
