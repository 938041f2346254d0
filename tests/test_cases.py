"Faults that other people reported of other programs, tried here: each test is red where ours has the fault"

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.table import MaskedColumn, Table
from scipy import integrate

from dark_halo_scope.base.config import read_yaml
from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.skylist import read_positions
from dark_halo_scope.base.sphere import near_any
from dark_halo_scope.base.storage import filesystem, s3_filesystem, write_bytes
from dark_halo_scope.learning.checkpoints import load_checkpoint
from dark_halo_scope.lensing.cosmos import band_fluxes, build_bank, read_catalogue
from dark_halo_scope.lensing.deflection import LensParams, sie_deflection
from dark_halo_scope.lensing.rays import fast_atanh
from dark_halo_scope.lensing.render import GaussianPSF, render_arcs
from dark_halo_scope.lensing.sources import SersicParams
from dark_halo_scope.search.catalogues import list_table, table_files
from dark_halo_scope.stats.metrics import auroc, roc
from dark_halo_scope.survey.maskbits import bad_pixels

from .test_lensing_cosmos import galaxy, write_sample


def lens_of(q: float, **given: float) -> LensParams:
    "A lens in the middle"
    return LensParams(**{"theta_E": 1.0, "q": q, "phi": 0.0, "gamma1": 0.0, "gamma2": 0.0, "center_x": 0.0, "center_y": 0.0, **given})


@pytest.mark.parametrize("q", [0.02, 0.05, 0.1, 0.15, 0.3, 0.9])
def test_the_arctangent_of_a_very_flat_lens_is_right(q: float) -> None:
    "A series that takes off powers of four up to 64 gives 3.572 for q = .05, right 3.688"
    f = float(np.sqrt(1 - q * q))
    assert np.isclose(fast_atanh(np.float32(f), np.float32(1), np.float32(q * q)), np.arctanh(f), rtol=3e-6)


@pytest.mark.parametrize("q", [1.0, 1 - 1e-9, 1 - 1e-5, 0.7, 0.175])
def test_a_round_lens_is_the_limit_of_a_flat_one(q: float) -> None:
    "Formulas with 1 / (1 - q) break at the circle: the deflection against its integral over confocal ellipses"
    x, y = 0.7, 0.4

    def shell(u: float, n: int) -> float:
        xi = np.sqrt(u * (x**2 + y**2 / (1 - (1 - q**2) * u)))
        return float(0.5 / np.sqrt(q) / xi / (1 - (1 - q**2) * u) ** (n + 0.5))

    wanted = [q * v * integrate.quad(shell, 0, 1, args=(n,), epsabs=1e-12)[0] for n, v in ((0, x), (1, y))]
    found = [float(np.ravel(v)[0]) for v in sie_deflection(x, y, 1.0, q)]
    assert np.allclose(found, wanted, rtol=2e-6)


def test_a_catalogue_of_another_filter_gives_the_same_galaxy(tmp_path: Path) -> None:
    "Magnitudes of F606W taken for F814W make every band .42 mag too faint"
    write_sample(tmp_path, [galaxy()], name="wide")
    write_sample(tmp_path, [galaxy()], name="v", BAND=["F606W"], MAG=[25.12])
    assert read_catalogue(tmp_path / "real_galaxy_catalog_v.fits")["band"].tolist() == ["f606w"]
    blank = {f"mag_{b}": np.full(2, np.nan) for b in "grz"} | {"zphot": np.full(2, 1.0), "mag_hst": np.full(2, 25.12)}
    flux, _ = band_fluxes(blank | {"band": np.array(["f606w", "f814w"])})
    assert np.all(flux[0] / flux[1] > 1.2)  # as bright in the bluer band, the galaxy is brighter in all
    write_sample(tmp_path, [galaxy()], name="h", BAND=["F160W"])
    with pytest.raises(BadInput, match="BAND f160w; expected one of f606w, f814w"):
        build_bank(tmp_path / "real_galaxy_catalog_h.fits", tmp_path / "bank.h5")


def web_page(data: bytes) -> bytes:
    return b"<!DOCTYPE html><html><body>Download limit exceeded</body></html>"


def nothing(data: bytes) -> bytes:
    return b""


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("change", [web_page, nothing, half])
@pytest.mark.parametrize("name", ["images_toy.fits", "psf_toy.fits", "real_galaxy_catalog_toy.fits"])
def test_a_broken_file_of_a_bank_is_named(name: str, change, tmp_path: Path) -> None:
    "Archives answer with web pages, and downloads end early"
    write_sample(tmp_path, [galaxy(seed=i) for i in range(3)])
    (tmp_path / name).write_bytes(change((tmp_path / name).read_bytes()))
    with pytest.raises(BadInput, match=f"{name}: ") as error:
        build_bank(tmp_path, tmp_path / "bank.h5")
    assert "\n" not in str(error.value) and not (tmp_path / "bank.h5").exists()


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0o022, 0o644), (0o002, 0o664), (0o000, 0o666)])
def test_the_umask_decides_who_may_read(mask: int, mode: int, tmp_path: Path) -> None:
    "An atomic write that sets 0644 shows private files, and locks colleagues out of shared ones"
    code = (
        "import os, sys; os.umask(int(sys.argv[1])); from dark_halo_scope.base.storage import write_bytes; write_bytes(b'x', sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, str(mask), str(tmp_path / "new.txt")], check=True)
    assert stat.S_IMODE((tmp_path / "new.txt").stat().st_mode) == mode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    "The file that it points to is written, and made where there is none yet"
    (tmp_path / "there").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "there" / "real.txt")
    for content in (b"old", b"new"):
        write_bytes(content, tmp_path / "link.txt")
        assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "there" / "real.txt").read_bytes() == content
    assert os.listdir(tmp_path / "there") == ["real.txt"]


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "localhost", "ftp://host", "http://", "//host:1"])
def test_an_endpoint_without_its_scheme_is_refused(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(BadInput, match="AWS_ENDPOINT_URL=.*expected http://HOST:PORT"):
        s3_filesystem()


@pytest.mark.parametrize("address", ["s3://bucket/run//stamps", "s3://bucket//stamps", "s3:///stamps", "s3://"])
def test_an_address_with_an_empty_name_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match="expected s3://bucket/key with single slashes"):
        filesystem(address)


def test_positions_match_across_the_end_of_right_ascension_and_at_the_pole() -> None:
    ra, dec = np.array([359.9999, 0.0001, 10.0, 200.0]), np.array([0.0, 0.0, 89.9999, 89.9999])
    assert near_any(ra, dec, np.array([360.0, 190.0]), np.array([0.0, 89.9999]), 1.0).tolist() == [True, True, True, True]


def test_ties_count_half_and_order_changes_nothing() -> None:
    "Areas under curves with ties depend on the order of rows in some libraries"
    logit, label = np.array([1, 1, 1, 1, 0, 2], np.float32), np.array([1, 0, 1, 0, 0, 1])
    assert auroc(logit, label).value == auroc(logit[::-1], label[::-1]).value == pytest.approx(7 / 9)
    curve = roc(logit, label)
    assert np.all(np.diff(curve.fpr) >= 0) and curve.tpr[-1] == curve.fpr[-1] == 1


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"PK\x03\x04 a zip", b"\x80\x04\x95K.", b"\x89HDF\r\n"])
def test_a_file_that_is_no_checkpoint_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(content)
    with pytest.raises(BadInput, match="net.pt") as error:
        load_checkpoint(str(tmp_path / "net.pt"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [">i4", "<i4", "<i8", ">i2"])
def test_mask_bits_mean_the_same_in_every_width_and_order(kind: str) -> None:
    bits = np.array([[[0, 1 << 5], [1 << 1, 1 << 11]]])
    wanted = bad_pixels(bits.astype(np.int32), ("g", "r", "z"))
    assert np.array_equal(bad_pixels(bits.astype(kind), ("g", "r", "z")), wanted) and wanted.any() and not wanted.all()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_recipe_saved_by_any_editor_is_read_or_refused(encoding: str, end: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_bytes(f"name: größe{end}train:{end}  epochs: 2{end}".encode(encoding))
    try:
        assert read_yaml(str(tmp_path / "own.yaml")) == {"name": "größe", "train": {"epochs": 2}}
    except BadInput as error:
        assert encoding == "latin-1" and "own.yaml" in str(error)


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("train:\n  epochs: 2\n  epochs: 3\n")
    with pytest.raises(BadInput, match="epochs"):
        read_yaml(str(tmp_path / "own.yaml"))


def test_masked_cells_come_back_masked_from_every_copy(tmp_path: Path) -> None:
    "An absent number is no zero, whatever its type"
    columns = {
        "name": ["a", "b"],
        "ra": [1.0, 2.0],
        "dec": [0.0, 1.0],
        "n": [3, None],
        "z": [None, 0.5],
        "ok": [None, True],
        "word": ["", None],
    }
    for address, data in table_files(list_table(columns), str(tmp_path / "t"), "t").items():
        Path(address).write_bytes(data)
    copies = [
        Table.read(tmp_path / "t.fits", hdu=1),
        Table.read(tmp_path / "t.vot", format="votable"),
        Table.read(tmp_path / "t.ecsv", format="ascii.ecsv"),
    ]
    for copy in copies:
        assert np.ma.getmaskarray(np.ma.asarray(copy["n"])).tolist() == [False, True] and copy["n"][0] == 3
        assert np.ma.getmaskarray(np.ma.masked_invalid(np.ma.asarray(copy["z"]))).tolist() == [True, False]
        assert np.ma.getmaskarray(np.ma.asarray(copy["ok"])).tolist() == [True, False] and copy["ok"][1] == 1


def test_a_masked_cell_of_a_list_is_no_position(tmp_path: Path) -> None:
    table = Table({"name": ["a", "b"], "ra": MaskedColumn([10.0, 20.0], mask=[False, True]), "dec": [1.0, 2.0]})
    for kind, name in (("fits", "l.fits"), ("votable", "l.vot"), ("ascii.ecsv", "l.ecsv")):
        table.write(tmp_path / name, format=kind, overwrite=True)
        with pytest.warns(UserWarning, match="no right ascension"):
            assert read_positions(str(tmp_path / name)).columns["name"].tolist() == ["a"]


def test_big_endian_numbers_paint_the_same_picture() -> None:
    "FITS is big-endian; numba and torch are not"
    given = {"x": 0.1, "y": 0.0, "R_sersic": 0.3, "n_sersic": 1.0, "q": 0.8, "phi": 0.0}
    pictures = [
        render_arcs(lens_of(0.8), SersicParams(flux=np.array([[1.0]], order), **given), GaussianPSF([[1.0]], True), n_pix=16)
        for order in ("<f8", ">f8")
    ]
    assert np.array_equal(*pictures)
