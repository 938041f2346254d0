"What `dhs score` writes: every copy opens, says the same, and hides nothing"

import csv
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.io.votable import validate
from astropy.table import Table
from astropy.wcs import WCS
from regions import Regions

from dark_halo_scope.lists.scores import score_positions
from dark_halo_scope.stamps.codec import load_stamps
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
    assert "row 7 of the list: declination 95" in page and "Do not use it to find lenses" in page
    images, table = load_stamps(str(out / "stamps.parquet"))
    index = list(csv.DictReader((out / "cutouts" / "index.csv").open(newline="")))
    assert len(index) == 6 and len(images) == 7
    for row in index:
        with fits.open(out / "cutouts" / row["file"]) as hdus:
            x, y = WCS(hdus[0].header, naxis=2).world_to_pixel(SkyCoord(float(row["ra"]), float(row["dec"]), unit="deg"))
            assert abs(x - 31.5) < 1e-3 and abs(y - 31.5) < 1e-3 and hdus[0].data.shape == (3, 64, 64)


def votable_messages(path: Path) -> list[str]:
    "What astropy's validator says of a VOTable"
    out = io.StringIO()
    return [] if validate(str(path), out) else [out.getvalue()]
