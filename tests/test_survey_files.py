"Catalogues and compressed images against astropy and fitsio, and against files that are broken"

import gzip
import shutil
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.parent.density import count_bricks
from dark_halo_scope.parent.selection import SelectionRecipe, select_sweep, sweep_columns
from dark_halo_scope.survey import tiles
from dark_halo_scope.survey.bricks import brick_edges, brick_ids, brick_names
from dark_halo_scope.survey.cache import check_whole
from dark_halo_scope.survey.coadds import read_cutouts
from dark_halo_scope.survey.fitsfile import check_head_sum, find_hdu, open_random, row_dtype, word_sum
from dark_halo_scope.survey.release import Release
from dark_halo_scope.survey.sweeps import check_rows, read_fits_columns, table_chunks

# ---------------------------------------------------------------- catalogues


def sweep_table(n=500, seed=1):
    "A sweep's columns, in capitals, inside sweep-150p000-155p005"
    draw = np.random.default_rng(seed)
    table = {name.upper(): draw.uniform(0.5, 50, n).astype(np.float32) for name in sweep_columns()}
    table |= {"RELEASE": np.full(n, 10_000, np.int16), "BRICKID": np.full(n, 343_928, np.int32), "OBJID": np.arange(n, dtype=np.int32)}
    table |= {
        "BRICKNAME": np.full(n, "1501p022"),
        "TYPE": draw.choice(["PSF", "REX", "DEV", "SER"], n),
        "MASKBITS": draw.choice([0, 2, 65_536], n).astype(np.int32),
    }
    table |= {f"NOBS_{band}": draw.integers(0, 4, n).astype(np.int16) for band in "GRZ"}
    table |= {name: draw.uniform(0, 0.9, n).astype(np.float32) for name in ("EBV", "SHAPE_E1", "SHAPE_E2")}
    table |= {f"PSFSIZE_{band}": draw.uniform(1, 1.5, n).astype(np.float32) for band in "GRZ"}
    table |= {"GAIA_PHOT_G_MEAN_MAG": draw.choice([0, 18.5], n).astype(np.float32)}
    table |= {f"MW_TRANSMISSION_{band}": draw.uniform(0.8, 1, n).astype(np.float32) for band in ("G", "R", "Z", "W1")}
    return Table(
        table
        | {"RA": draw.uniform(150.01, 150.24, n), "DEC": draw.uniform(2.13, 2.37, n), "DCHISQ": draw.random((n, 5)).astype(np.float32)}
    )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    "A sweep on disk"
    path = tmp_path_factory.mktemp("sweep") / "sweep-150p000-155p005.fits"
    sweep_table().write(path)
    return path


@pytest.mark.parametrize("chunk_bytes", [1, 1000, 2**20])
def test_columns_are_those_that_astropy_reads(sweep, chunk_bytes):
    theirs = Table.read(sweep)
    columns = sweep_columns()
    pieces = list(table_chunks(str(sweep), columns, chunk_bytes=chunk_bytes))
    ours = pa.concat_tables(pieces)
    assert ours.column_names == columns and len(pieces) == {1: 500, 1000: 100, 2**20: 1}[chunk_bytes]
    for name in columns:
        assert (
            ours[name].to_pylist()
            == np.asarray(theirs[name.upper()].astype(str) if ours[name].type == pa.string() else theirs[name.upper()]).tolist()
        )


def test_real_files_agree_with_fitsio(real_data):
    fitsio = pytest.importorskip("fitsio")
    files = sorted((real_data / "catalogues" / "desitarget_rows").glob("*.fits"))
    assert len(files) == 7
    for path in files:
        theirs = fitsio.read(path)
        names = [
            name.lower()
            for name in theirs.dtype.names
            if theirs[name].ndim == 1 and theirs[name].dtype.kind not in "b" and not name.lower().endswith("params_solved")
        ]
        ours = read_fits_columns(str(path), names)
        for name in names:
            wanted = theirs[name.upper()]
            wanted = [str(value).rstrip() for value in wanted] if wanted.dtype.kind == "U" else wanted.tolist()
            assert ours[name].to_pylist() == wanted, (path.name, name)


def test_a_gzipped_table_reads_the_same_and_a_cut_one_is_refused(sweep, tmp_path):
    packed = tmp_path / "bricks.fits.gz"
    packed.write_bytes(gzip.compress(sweep.read_bytes()))
    assert read_fits_columns(str(packed), ["ra"]).equals(read_fits_columns(str(sweep), ["ra"]))
    packed.write_bytes(packed.read_bytes()[:5000])
    with pytest.raises(BadInput, match="gzip"):
        read_fits_columns(str(packed), ["ra"])


def test_an_empty_table_has_columns_and_no_rows(tmp_path):
    path = tmp_path / "empty.fits"
    sweep_table()[:0].write(path)
    assert read_fits_columns(str(path), ["ra", "type"]).schema == pa.schema([("ra", pa.float64()), ("type", pa.string())])


def broken(path, target, change):
    "A copy of a file with its bytes changed"
    data = path.read_bytes()
    changed = change(data)
    assert changed != data
    target.write_bytes(changed)
    return str(target)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda b: b[:-2880], "truncated"),
        (lambda b: b[:3000], "truncated"),
        (lambda b: b"", "no HDU 1"),
        (lambda b: b"<html><body>502 Bad Gateway</body></html>", "truncated"),
        (lambda b: (b"<html>" + b" " * 3000 + b"END" + b" " * 77 * 400)[: len(b)], "FITS"),
        (lambda b: b.replace(b"NAXIS2  =                  500", b"NAXIS2  =              5000000"), "truncated"),
        (lambda b: b.replace(b"NAXIS2  =                  500", b"NAXIS2  =                 -500"), "NAXIS2"),
        (lambda b: b.replace(b"NAXIS2  =                  500", b"NAXIS2  =                  5.5"), "NAXIS2"),
        (lambda b: b.replace(b"'BINTABLE'", b"'IMAGE   '"), "binary table"),
        (lambda b: b.replace(b"TFORM14 = 'E", b"TFORM14 = 'D"), "bytes a row"),
        (lambda b: b.replace(b"'FLUX_R  '", b"'FLUX_RR '"), "flux_r"),
        (lambda b: b[:2880], "no HDU 1"),
    ],
)
def test_broken_catalogues_are_refused_with_a_reason(sweep, tmp_path, change, says):
    path = broken(sweep, tmp_path / "sweep-150p000-155p005.fits", change)
    with pytest.raises(BadInput, match=says) as error:
        select_sweep(path, SelectionRecipe())
    assert "\n" not in str(error.value) and path in str(error.value)


def test_a_file_that_ends_early_is_refused_before_its_data_are_read(sweep):
    data = sweep.read_bytes()
    assert find_hdu(pa.BufferReader(data), 1, "whole").end == len(data)
    with pytest.raises(BadInput, match="header promises"):
        find_hdu(pa.BufferReader(data[:-5000]), 1, "cut")


def test_a_header_without_end_does_not_hang(tmp_path):
    path = tmp_path / "endless.fits"
    path.write_bytes(b"SIMPLE  =                    T".ljust(80) + b"COMMENT again and again".ljust(80) * 500_000)
    start = time.perf_counter()
    with pytest.raises(BadInput, match="no FITS header"):
        read_fits_columns(str(path), ["ra"])
    assert time.perf_counter() - start < 5


def test_the_wrong_byte_order_is_not_mistaken_for_a_catalogue(sweep, tmp_path):
    with open_random(str(sweep)) as file:
        hdu = find_hdu(file, 1, "sweep")
        layout = row_dtype(hdu, "sweep")

    def swap(data):
        rows = np.frombuffer(data[hdu.start : hdu.start + hdu.size], layout).copy()
        return data[: hdu.start] + rows.byteswap().tobytes() + data[hdu.start + hdu.size :]

    with pytest.raises(BadInput, match="outside 150 to 155"):
        select_sweep(broken(sweep, tmp_path / sweep.name, swap), SelectionRecipe())


def test_text_where_numbers_belong_is_refused(tmp_path):
    table = sweep_table()
    table["FLUX_R"] = table["FLUX_R"].astype(str)
    path = tmp_path / "sweep-150p000-155p005.fits"
    table.write(path)
    with pytest.raises(BadInput, match="'flux_r'.*expected numbers"):
        select_sweep(str(path), SelectionRecipe())


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 100_000), st.integers(1, 40), st.binary(min_size=1, max_size=80))
def test_no_noise_in_a_header_makes_the_reader_do_anything_but_read_or_refuse(sweep, start, repeat, noise):
    data = bytearray(sweep.read_bytes())
    start %= 12_000
    data[start : start + repeat * len(noise)] = noise * repeat
    try:
        hdu = find_hdu(pa.BufferReader(bytes(data)), 1, "noise")
        row_dtype(hdu, "noise", ("ra",))
    except BadInput as error:
        assert "\n" not in str(error)


# ---------------------------------------------------------------- compressed images

RICE = {"compression_type": "RICE_1", "quantize_method": 2, "quantize_level": -1e-4, "dither_seed": 42}


def picture(shape, seed=1):
    "Sky with bright stars (so that a tile's numbers span many bits), exact zeros, and a flat patch"
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = draw.normal(0, 0.004, shape)
    for _ in range(6):
        x0, y0, peak = draw.uniform(0, shape[1]), draw.uniform(0, shape[0]), 10 ** draw.uniform(-1, 4)
        image += peak * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 8)
    image[: shape[0] // 5, : shape[1] // 5] = 0
    image[-shape[0] // 6 :, -shape[1] // 6 :] = 0.25
    return image.astype(np.float32)


def compressed(path, values, **options):
    "A compressed image in HDU 1"
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(values, tile_shape=options.pop("tile_shape", (100, 100)), **options)]).writeto(
        path, overwrite=True
    )
    return str(path)


KINDS = {
    "image": lambda s: (picture(s), RICE),
    "image, other seed": lambda s: (picture(s, 5), RICE | {"dither_seed": 9_999}),
    "first method": lambda s: (picture(s), RICE | {"quantize_method": 1}),
    "invvar": lambda s: (np.abs(picture(s)) * 1e5, {"compression_type": "RICE_1", "quantize_level": 16, "quantize_method": -1}),
    "without loss": lambda s: (picture(s), {"compression_type": "GZIP_1", "quantize_level": 0}),
    "gzipped numbers": lambda s: (picture(s), RICE | {"compression_type": "GZIP_1"}),
    "mask": lambda s: ((picture(s) * 100).astype(np.int32) & 0x1FFFF, {"compression_type": "HCOMPRESS_1"}),
    "rice mask": lambda s: ((picture(s) * 1000).astype(np.int32), {"compression_type": "RICE_1"}),
    "short": lambda s: ((picture(s) * 3).astype(np.int16), {"compression_type": "RICE_1"}),
    "bytes": lambda s: (np.clip(picture(s) * 30, 0, 255).astype(np.uint8), {"compression_type": "RICE_1"}),
    "gzipped mask": lambda s: ((picture(s) * 100).astype(np.int32), {"compression_type": "GZIP_1"}),
    "noise of 32 bits": lambda s: (np.random.default_rng(2).integers(-(2**31), 2**31 - 1, s, np.int32), {"compression_type": "RICE_1"}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(330, 250), (300, 400)])
def test_stamps_are_bit_for_bit_cuts_of_the_whole_image(tmp_path, kind, shape):
    values, options = KINDS[kind](shape)
    path = compressed(tmp_path / "image.fits.fz", values, **options)
    with fits.open(path) as hdus:
        whole = np.asarray(hdus[1].data)
    draw = np.random.default_rng(4)
    x0, y0 = draw.integers(0, shape[1] - 64 + 1, 30), draw.integers(0, shape[0] - 64 + 1, 30)
    ours = tiles.read_stamps(tiles.open_tiled(path), x0, y0, 64)
    wanted = np.stack([whole[b : b + 64, a : a + 64] for a, b in zip(x0, y0, strict=True)]).astype(ours.dtype)
    assert ours.tobytes() == wanted.tobytes()


def test_fitsio_agrees_too(tmp_path):
    fitsio = pytest.importorskip("fitsio")
    path = str(tmp_path / "image.fits.fz")
    values = picture((330, 250))
    fitsio.write(path, values, compress="RICE", tile_dims=(100, 100), qlevel=-1e-4, qmethod="SUBTRACTIVE_DITHER_2", clobber=True)
    ours = tiles.read_stamps(tiles.open_tiled(path), [0, 186], [0, 266], 64)
    with fitsio.FITS(path) as file:
        assert ours.tobytes() == np.stack([file[1][0:64, 0:64], file[1][266:330, 186:250]]).tobytes()


def test_a_stamp_does_not_depend_on_its_company(tmp_path):
    path = compressed(tmp_path / "image.fits.fz", picture((500, 500)), **RICE)
    draw = np.random.default_rng(6)
    x0, y0 = draw.integers(0, 436, (2, 40))
    together = tiles.read_stamps(tiles.open_tiled(path), x0, y0, 64)
    alone = [tiles.read_stamps(tiles.open_tiled(path), [a], [b], 64)[0] for a, b in zip(x0, y0, strict=True)]
    assert together.tobytes() == np.stack(alone).tobytes()


@settings(max_examples=120, deadline=4000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["image", "mask", "without loss", "rice mask"]), st.data())
def test_no_noise_in_an_image_makes_the_reader_do_anything_but_read_or_refuse(tmp_path_factory, kind, data):
    values, options = KINDS[kind]((120, 120))
    path = tmp_path_factory.getbasetemp() / f"noise {kind}.fits.fz"
    if not path.exists():
        compressed(path, values, **options)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        whole[data.draw(st.integers(2880, len(whole) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(1, len(whole)))]
    try:
        stamps = tiles.read_stamps(tiles.open_tiled("noise", file=pa.BufferReader(bytes(whole))), [20], [20], 64)
        assert stamps.shape == (1, 64, 64)
    except BadInput as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("at, value", [(2, 1), (5, 101), (9, 0), (22, 255), (0, 0)])
def test_an_h_compressed_tile_that_claims_another_size_is_refused_before_decoding(tmp_path, at, value):
    "The decoder would write as many pixels as the code claims"
    values, options = KINDS["mask"]((100, 100))
    path = compressed(tmp_path / "mask.fits.fz", values, **options)
    image = tiles.open_tiled(path)
    data = bytearray((tmp_path / "mask.fits.fz").read_bytes())
    data[int(image.start[0]) + at] = value
    with pytest.raises(BadInput, match="H-compress header"):
        tiles.read_stamps(tiles.open_tiled(path, file=pa.BufferReader(bytes(data))), [0], [0], 64)


# ---------------------------------------------------------------- bricks

SIDE = 400
CARDS = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.125, "CRVAL2": 2.25, "CRPIX1": SIDE / 2 + 0.5, "CRPIX2": SIDE / 2 + 0.5}
CARDS |= {"CD1_1": -0.262 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.262 / 3600}


def write_brick(root, side=SIDE, seed=1, gap=None):
    "A brick's coadds in g, r, z as the survey writes them; `gap` is a region without r data"
    release, cards = Release(str(root)), CARDS | {"CRPIX1": side / 2 + 0.5, "CRPIX2": side / 2 + 0.5}
    (root / "south" / "coadd" / "150" / "1501p022").mkdir(parents=True, exist_ok=True)
    planes, (y, x) = {}, np.mgrid[:side, :side]
    for b, band in enumerate("grz"):
        image, covered = picture((side, side), seed + b), np.ones((side, side), bool)
        if gap and band == "r":
            covered[gap] = False
        for kind, values, options in (
            ("image", np.where(covered, image, 0), RICE),
            ("invvar", np.where(covered, 62_500, 0), {"compression_type": "RICE_1", "quantize_level": 16, "quantize_method": -1}),
            ("psfsize", np.where(covered, 1.2 + 0.1 * b + 1e-4 * x + 1e-3 * y, 0), {"compression_type": "GZIP_1", "quantize_level": 0}),
        ):
            path = compressed(release.coadd("1501p022", kind, band), values.astype(np.float32), header=fits.Header(cards), **options)
            planes[kind, band] = path
    mask = ((np.hypot(x - 300, y - 300) < 50) * 2 + (x < 40) * 1).astype(np.int32)
    compressed(release.coadd("1501p022", "maskbits"), mask, header=fits.Header(cards), compression_type="HCOMPRESS_1")
    return release


def sky(x, y, side=SIDE):
    "Positions of pixels, by astropy"
    from astropy.wcs import WCS

    return WCS(fits.Header(CARDS | {"CRPIX1": side / 2 + 0.5, "CRPIX2": side / 2 + 0.5})).all_pix2world(x, y, 0)


@pytest.fixture(scope="module")
def brick(tmp_path_factory):
    "A brick with a masked star, an overlap at its western edge, and a corner without r data"
    return write_brick(tmp_path_factory.mktemp("brick"), gap=np.s_[:100, 300:])


def test_cutouts_are_what_whole_image_cuts_give(brick):
    x, y = np.array([100.2, 250.7, 60.6]), np.array([120.4, 200.1, 331.4])
    cutouts = read_cutouts(brick, "1501p022", *sky(x, y), bands="g,r,z")
    for b, band in enumerate("grz"):
        with fits.open(brick.coadd("1501p022", "image", band)) as hdus:
            for k in range(3):
                x0, y0 = int(round(x[k] - 31.5)), int(round(y[k] - 31.5))
                assert (cutouts.image[k, b] == hdus[1].data[y0 : y0 + 64, x0 : x0 + 64]).all()
                np.testing.assert_allclose(
                    [cutouts.dx[k], cutouts.dy[k]], [(x[k] - x0 - 31.5) * 0.262, (y[k] - y0 - 31.5) * 0.262], atol=1e-6
                )
    at_the_galaxy = 1e-4 * np.rint(x) + 1e-3 * np.rint(y)
    np.testing.assert_allclose(cutouts.psfsize, at_the_galaxy[:, None] + [1.2, 1.3, 1.4], rtol=1e-6)
    assert cutouts.ok.all() and (cutouts.why == "").all() and (cutouts.invvar == 62_500).all()


def test_edges_gaps_and_stars_are_flagged_each_in_its_way(brick):
    x, y = np.array([30.9, 31.1, 367.9, 368.1, 350.0, 300.0, -500.0]), np.array([200.0, 200, 200, 200, 50, 300, 200])
    cutouts = read_cutouts(brick, "1501p022", *sky(x, y))
    edge, whole = "reaches over the edge of brick 1501p022", ""
    assert cutouts.why.tolist() == [edge, whole, whole, edge, "no r data in 100 % of the stamp", whole, edge]
    assert cutouts.ok.tolist() == [False, True, True, False, False, True, False]
    assert np.isnan(cutouts.image[[0, 3, 6]]).all() and (cutouts.invvar[[0, 3, 6]] == 0).all()
    assert cutouts.bad()[5].all() and not cutouts.bad()[1].any()  # the overlap with the next brick is not bad, a star is


def test_the_far_side_of_the_sky_is_not_in_the_brick(brick):
    assert not read_cutouts(brick, "1501p022", np.array([330.125]), np.array([-2.25])).ok.any()


def test_order_and_company_do_not_change_a_cutout(brick):
    draw = np.random.default_rng(3)
    ra, dec = sky(draw.uniform(40, 360, 25), draw.uniform(40, 360, 25))
    one, order = read_cutouts(brick, "1501p022", ra, dec), draw.permutation(25)
    two = read_cutouts(brick, "1501p022", ra[order], dec[order])
    assert one.image[order].tobytes() == two.image.tobytes() and one.maskbits[order].tobytes() == two.maskbits.tobytes()


def test_a_value_that_is_no_number_is_flagged(tmp_path):
    release = write_brick(tmp_path)
    values = picture((SIDE, SIDE))
    values[210, 205] = np.nan
    compressed(release.coadd("1501p022", "image", "z"), values, header=fits.Header(CARDS), compression_type="GZIP_1", quantize_level=0)
    cutouts = read_cutouts(release, "1501p022", *sky(np.array([200.0, 80.0]), np.array([200.0, 80.0])))
    assert cutouts.why.tolist() == ["not a number in z", ""]


def edited(header_change):
    "A change of one coadd's header"

    def change(path):
        with fits.open(path, disable_image_compression=True) as hdus:
            header_change(hdus[1].header)
            hdus.writeto(path, overwrite=True)

    return change


def rewritten(values, **options):
    "A coadd with other pixels"
    return lambda path: compressed(path, values, header=fits.Header(CARDS), **options)


@pytest.mark.parametrize(
    "kind, band, change, says",
    [
        ("image", "r", lambda p: p.unlink(), "cannot be opened"),
        ("maskbits", None, lambda p: p.unlink(), "cannot be opened"),
        ("image", "r", lambda p: p.write_bytes(p.read_bytes()[:20_000]), "truncated"),
        ("image", "r", lambda p: p.write_bytes(b""), "no HDU 1"),
        ("image", "r", lambda p: fits.PrimaryHDU().writeto(p, overwrite=True), "no HDU 1"),
        ("image", "r", rewritten(np.zeros((300, 400), np.float32), **RICE), "as the mask"),
        ("image", "r", rewritten(np.zeros((SIDE, SIDE), np.int32), compression_type="RICE_1"), "float32"),
        ("maskbits", None, rewritten(np.zeros((SIDE, SIDE), np.float32), **RICE), "whole numbers"),
        ("image", "g", edited(lambda h: h.set("CTYPE1", "RA---SIN")), "RA---TAN"),
        ("image", "g", edited(lambda h: h.remove("CD1_1")), "CD1_1"),
        ("image", "g", edited(lambda h: h.set("CD2_2", 0.0)), "inverted"),
        ("image", "r", edited(lambda h: h.set("ZCMPTYPE", "PLIO_1")), "RICE_1"),
        ("image", "r", edited(lambda h: h.set("ZTILE1", 0)), "ZTILE1"),
        ("maskbits", None, edited(lambda h: h.set("BZERO", 32768)), "not scaled"),
        ("image", "r", edited(lambda h: h.set("TTYPE2", "ZBLANK")), "ZBLANK"),
        ("image", "r", edited(lambda h: h.set("ZNAXIS1", 10**9)), "ZNAXIS1"),
        ("image", "r", edited(lambda h: h.set("ZTILE1", 50)), "tiles"),
        ("psfsize", "r", lambda p: p.write_bytes(p.read_bytes().replace(b"\x1f\x8b", b"\x00\x00")), "cannot be decoded"),
        ("image", "r", lambda p: fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((SIDE, SIDE), ">f4"))]).writeto(p, overwrite=True), "not an image compressed"),
    ],
)  # fmt: skip
def test_a_broken_coadd_is_an_error_that_names_the_file(brick, tmp_path, kind, band, change, says):
    shutil.copytree(brick.root, tmp_path / "copy")
    release = Release(str(tmp_path / "copy"))
    path = tmp_path / release.coadd("1501p022", kind, band)
    change(path)
    with pytest.raises(BadInput, match=says) as error:
        read_cutouts(release, "1501p022", *sky(np.array([200.0]), np.array([200.0])))
    assert path.name in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------- what is seen without a checksum


def refusal(data):
    "Why a tile of an image that has no checksums is refused; empty where it is read"
    try:
        image = tiles.open_tiled("image.fits.fz", file=pa.BufferReader(bytes(data)))
        for number, code in enumerate(tiles.read_codes(image, np.arange(len(image.size)))):
            tiles.decode_tile(image, number, code)
    except BadInput as error:
        return str(error)
    return ""


def test_most_changed_bits_of_a_rice_code_are_seen(tmp_path):
    "A changed bit shifts the pixels behind it or the end of the code; what shifts them upwards within the tile's range passes"
    path = Path(compressed(tmp_path / "image.fits.fz", picture((100, 100)), **RICE))
    whole, image = path.read_bytes(), tiles.open_tiled(str(path))
    draw, seen = np.random.default_rng(5), 0
    for at, bit in zip(draw.integers(image.start[0], image.start[0] + image.size[0], 200), draw.integers(0, 8, 200), strict=True):
        data = bytearray(whole)
        data[at] ^= 1 << bit
        seen += bool(refusal(data))
    assert refusal(whole) == "" and seen > 100


def test_tiles_that_share_bytes_are_refused(tmp_path):
    path = Path(compressed(tmp_path / "image.fits.fz", picture((200, 200)), **RICE))
    data = bytearray(path.read_bytes())
    hdu = find_hdu(pa.BufferReader(bytes(data)), 1, "image")
    width = hdu.header["NAXIS1"]
    data[hdu.start + width + 4 : hdu.start + width + 8] = data[hdu.start + 4 : hdu.start + 8]
    assert "share bytes" in refusal(data)


@pytest.mark.parametrize("extra", [1, 2879])
def test_a_file_that_is_no_whole_blocks_is_refused(tmp_path, extra):
    path = Path(compressed(tmp_path / "image.fits.fz", picture((100, 100)), **RICE))
    assert "multiple of 2880" in refusal(path.read_bytes() + bytes(extra))


@pytest.mark.parametrize("kind, band, key, value, says", [
    ("psfsize", "z", "CRVAL1", 150.126, "projection"),
    ("invvar", "g", "CRPIX2", 1.0, "projection"),
    ("maskbits", None, "CD1_1", -0.2621 / 3600, "projection"),
])  # fmt: skip
def test_a_coadd_of_another_projection_is_named(brick, tmp_path, kind, band, key, value, says):
    shutil.copytree(brick.root, tmp_path / "copy")
    release = Release(str(tmp_path / "copy"))
    edited(lambda head: head.set(key, value))(release.coadd("1501p022", kind, band))
    with pytest.raises(BadInput, match=says) as error:
        read_cutouts(release, "1501p022", *sky(np.array([200.0]), np.array([200.0])))
    assert Path(release.coadd("1501p022", kind, band)).name in str(error.value)


def test_a_brick_under_another_name_is_refused(brick, tmp_path):
    "A folder that was copied to the wrong place"
    release = Release(str(tmp_path))
    shutil.copytree(Path(brick.coadd_folder("1501p022")), release.coadd_folder("1504p022"))
    for path in Path(release.coadd_folder("1504p022")).iterdir():
        path.rename(path.with_name(path.name.replace("1501p022", "1504p022")))
    with pytest.raises(BadInput, match="centre of brick 1504p022"):
        read_cutouts(release, "1504p022", *sky(np.array([200.0]), np.array([200.0])))


@pytest.mark.parametrize("kind, band, values, says", [
    ("maskbits", None, np.full((SIDE, SIDE), 1 << 24, np.int32), "0x1000000"),
    ("invvar", "r", np.full((SIDE, SIDE), -5.0, np.float32), "below 0"),
    ("invvar", "r", np.where(np.arange(SIDE) == 205, 1e12, 1e3).astype(np.float32) * np.ones((SIDE, 1), np.float32), "above 10000"),
])  # fmt: skip
def test_values_that_no_sky_gives_are_refused(brick, tmp_path, kind, band, values, says):
    shutil.copytree(brick.root, tmp_path / "copy")
    release = Release(str(tmp_path / "copy"))
    options = {"compression_type": "GZIP_1", "quantize_level": 0} if values.dtype.kind == "f" else {"compression_type": "RICE_1"}
    rewritten(values, **options)(release.coadd("1501p022", kind, band))
    with pytest.raises(BadInput, match=says) as error:
        read_cutouts(release, "1501p022", *sky(np.array([200.0]), np.array([200.0])))
    assert Path(release.coadd("1501p022", kind, band)).name in str(error.value) and "\n" not in str(error.value)


def test_a_tile_that_unpacks_to_a_thousand_times_its_size_is_refused_before_it_does(tmp_path):
    "A gzip bomb in place of a tile of PSF sizes"
    path = compressed(tmp_path / "psfsize.fits.fz", np.ones((100, 100), np.float32), compression_type="GZIP_1", quantize_level=0)
    image, bomb = tiles.open_tiled(path), np.frombuffer(gzip.compress(bytes(200_000_000)), np.uint8)
    tracemalloc.start()
    with pytest.raises(BadInput, match="not of 40000 bytes"):
        tiles.decode_tile(image, 0, bomb)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


@pytest.fixture(scope="module")
def whole_brick(tmp_path_factory):
    "A mock brick of DR10's size, a corner of which one band never saw"
    from dark_halo_scope.mock.release import make_mock
    from dark_halo_scope.mock.sky import MockRecipe

    root = tmp_path_factory.mktemp("whole")
    make_mock(str(root), MockRecipe(rows=1, columns=1, n_pix=3600, uncovered=1.0, n_lenses=4, stars=600))
    return Release(str(root)), next(path.name for path in (root / "south" / "coadd").glob("*/*"))


def by_astropy(release, name, x, y, n_pix, section):
    "Stamps as astropy gives them: by sections of compressed images, or out of whole images"
    x0, y0 = (np.floor(np.asarray(position) - (n_pix - 1) / 2 + 0.5).astype(int) for position in (x, y))
    planes = {}
    for kind, band in [(kind, band) for kind in ("image", "invvar", "psfsize") for band in "grz"] + [("maskbits", None)]:
        with fits.open(release.coadd(name, kind, band)) as hdus:
            source = hdus[1].section if section else hdus[1].data
            corners = zip(np.rint(x).astype(int), np.rint(y).astype(int), strict=True) if kind == "psfsize" else zip(x0, y0, strict=True)
            side = 1 if kind == "psfsize" else n_pix
            planes[kind, band] = np.stack([source[b : b + side, a : a + side] for a, b in corners])
    return planes


@pytest.mark.slow
@pytest.mark.parametrize("n, over_whole, over_section", [(1, 5, 3), (20, 5, 3), (139, 2, 3)])
def test_a_brick_of_3600_pixels_is_read_as_astropy_reads_it_and_sooner(whole_brick, n, over_whole, over_section):
    from astropy.wcs import WCS

    release, name = whole_brick
    x, y = np.random.default_rng(n).uniform(40, 3560, (2, n))
    position = WCS(fits.getheader(release.coadd(name, "image", "r"), 1)).all_pix2world(x, y, 0)
    read_cutouts(release, name, *position)
    ways = {
        "ours": lambda: read_cutouts(release, name, *position),
        "section": lambda: by_astropy(release, name, x, y, 64, True),
        "whole": lambda: by_astropy(release, name, x, y, 64, False),
    }
    seconds, found = {key: np.inf for key in ways}, {}
    for _ in range(3):
        for key, way in ways.items():
            start = time.perf_counter()
            found[key] = way()
            seconds[key] = min(seconds[key], time.perf_counter() - start)
    ours = found["ours"]
    for key in ("section", "whole"):
        for b, band in enumerate("grz"):
            assert ours.image[:, b].tobytes() == found[key]["image", band].astype(np.float32).tobytes()
            assert ours.invvar[:, b].tobytes() == found[key]["invvar", band].astype(np.float32).tobytes()
            assert (ours.psfsize[:, b] == found[key]["psfsize", band][:, 0, 0]).all()
        assert (ours.maskbits == found[key]["maskbits", None]).all()
    assert seconds["whole"] > over_whole * seconds["ours"] and seconds["section"] > over_section * seconds["ours"], seconds


@pytest.mark.slow
def test_stamps_on_the_edge_in_stars_and_outside_coverage_of_a_whole_brick(whole_brick):
    "A grid of stamps over the brick, and a star's middle and what lies beside it, against the planes as astropy reads them"
    from astropy.wcs import WCS
    from scipy import ndimage

    release, name = whole_brick
    wcs = WCS(fits.getheader(release.coadd(name, "image", "r"), 1))
    whole = {band: fits.getdata(release.coadd(name, "invvar", band), 1) > 0 for band in "grz"}
    bright = fits.getdata(release.coadd(name, "maskbits", None), 1) & 1 << 1 > 0  # BRIGHT, as DR10 numbers it
    masks = ndimage.find_objects(ndimage.label(bright)[0])
    middles = np.array([((across.start + across.stop) // 2, (up.start + up.stop) // 2) for up, across in masks])
    beside = middles[:, None] + [[16, 0], [-16, 0], [0, 16], [0, -16]]  # still under the mask, where no exposure is saturated
    grid = np.stack(np.meshgrid(np.arange(10, 3600, 60), np.arange(10, 3600, 60)), -1)
    x, y = np.concatenate([grid.reshape(-1, 2), middles, beside.reshape(-1, 2)]).T
    position = wcs.all_pix2world(x + 0.25, y + 0.25, 0)  # as far as can be from where a stamp's corner is another pixel
    cutouts = read_cutouts(release, name, *position)
    edge = (np.minimum(x, y) < 31) | (np.maximum(x, y) > 3600 - 33)
    assert (np.char.find(cutouts.why, "edge") >= 0).tolist() == edge.tolist() and np.isnan(cutouts.image[edge]).all()

    def share(plane):
        "Of each stamp inside the brick"
        return np.array([plane[b - 31 : b + 33, a - 31 : a + 33].mean() for a, b in zip(x[~edge], y[~edge])])

    covered = np.min([share(whole[band]) for band in "grz"], axis=0)
    assert (np.char.find(cutouts.why[~edge][covered < 0.49], "data") >= 0).all() and (covered < 0.49).sum() > 5
    ok, stars, bad = cutouts.ok[~edge], share(bright), cutouts.bad()[~edge].mean(axis=(1, 2))
    assert (ok & (stars > 0.9)).any() and (bad[ok] >= stars[ok]).all()
    assert (bad[ok & (stars == 0) & (covered == 1)] < 0.1).all()  # a few pixels that no exposure saw well
    assert (np.char.find(cutouts.why[grid.size // 2 :][: len(middles)], "no g data at the galaxy") >= 0).all()  # saturated
    assert np.isfinite(cutouts.image[cutouts.ok]).all() and (cutouts.image[cutouts.ok].std(axis=(2, 3)) > 0).all()


# ---------------------------------------------------------------- the sums that a writer leaves in its headers


def test_word_sums_are_those_that_astropy_writes(tmp_path):
    "Header and data of every HDU, the data in parts of any size"
    path = tmp_path / "summed.fits"
    fits.BinTableHDU(sweep_table(300)).writeto(path, checksum=True)
    data = path.read_bytes()
    with open_random(str(path)) as file:
        hdu = find_hdu(file, 1, "summed")
    content = data[hdu.start : hdu.end]
    for size in (1, 3, 1001, 2**20):
        total, part = 0, content[: 3000 * size]
        for start in range(0, len(part), size):
            total = word_sum(part[start : start + size], start, total)
        assert total == word_sum(part)
    assert word_sum(content) == int(hdu.header["DATASUM"]) and word_sum(b"") == 0
    check_head_sum(hdu, "summed")


@pytest.mark.parametrize("fill", ["noise", "all ones", "one byte in four"])
def test_word_sums_of_much_data_are_the_arithmetic_of_whole_numbers(fill):
    "Compiled code sums it, whose lanes must not overflow; the data end within a group of words, and within a word"
    n = 2**22 + 1234 * 4 + 3
    data = {"noise": np.random.default_rng(3).bytes(n), "all ones": b"\xff" * n, "one byte in four": (b"\0\xfe\0\0" * n)[:n]}[fill]
    wanted = int(np.frombuffer(data.ljust(n + 1, b"\0"), ">u4").astype(object).sum())
    assert word_sum(data) % (2**32 - 1) == wanted % (2**32 - 1)
    assert word_sum(memoryview(data)[5:], 5, word_sum(data[:5])) % (2**32 - 1) == wanted % (2**32 - 1)


@pytest.mark.parametrize("reader", ["in blocks", "at once", "a selection", "a copy"])
def test_a_bit_that_differs_from_its_sum_is_one_line(tmp_path, reader):
    "In the header, in a number of a row, and in the padding behind the rows"
    path = tmp_path / "sweep-150p000-155p005.fits"
    fits.BinTableHDU(sweep_table(300)).writeto(path, checksum=True)
    whole, columns = path.read_bytes(), ["ra", "flux_r"]
    read = {
        "in blocks": lambda: list(table_chunks(str(path), columns, chunk_bytes=997)),
        "at once": lambda: read_fits_columns(str(path), columns),
        "a selection": lambda: select_sweep(str(path), SelectionRecipe()),
        "a copy": lambda: check_whole(path.read_bytes(), str(path)),
    }[reader]
    read()
    with open_random(str(path)) as file:
        hdu = find_hdu(file, 1, "whole")
    places = {whole.index(b"NAXIS2") - 1200: "HDU 1: header", whole.index(b"TTYPE9") + 30: "HDU 1: header", hdu.start + 5003: "HDU 1: data"}
    for place, says in (places | {len(whole) - 1: "HDU 1: data"}).items():
        spoilt = bytearray(whole)
        spoilt[place] ^= 1
        path.write_bytes(spoilt)
        with pytest.raises(BadInput, match=f"{path.name}: .*") as error:
            read()
        assert "\n" not in str(error.value) and (says in str(error.value) or place < hdu.start), str(error.value)


def test_a_coadd_whose_header_differs_from_its_sum_is_refused(tmp_path):
    "Its data are compared where it is copied: a stamp reads a few tiles of it"
    path = tmp_path / "image.fits.fz"
    compressed(tmp_path / "plain.fz", picture((300, 300)), **RICE)
    with fits.open(tmp_path / "plain.fz", disable_image_compression=True) as hdus:
        hdus.writeto(path, checksum=True)
    whole = path.read_bytes()
    assert tiles.read_stamps(tiles.open_tiled(str(path)), [10], [10], 64).shape == (1, 64, 64)
    check_whole(whole, str(path))
    path.write_bytes(whole.replace(b"ZDITHER0=                   42", b"ZDITHER0=                   43"))
    with pytest.raises(BadInput, match="image.fits.fz: HDU 1: header changed after it was written"):
        tiles.open_tiled(str(path))
    with pytest.raises(BadInput, match="image.fits.fz: HDU 1: data changed after they were written"):
        check_whole(whole[:-3000] + bytes([whole[-3000] ^ 1]) + whole[-2999:], str(path))


def test_a_sum_that_is_not_there_is_not_compared(tmp_path):
    "Zeros and blanks stand for a sum that nobody made; a file may have one of the two"
    path = tmp_path / "summed.fits"
    fits.BinTableHDU(sweep_table(30)).writeto(path, checksum=True)
    with fits.open(path) as hdus:
        said = {name: hdus[1].header[name] for name in ("CHECKSUM", "DATASUM")}
    whole = path.read_bytes()
    for name, other in (("CHECKSUM", "0" * 16), ("CHECKSUM", " " * 16), ("DATASUM", " " * len(said["DATASUM"]))):
        path.write_bytes(whole.replace(f"'{said[name]}".encode(), f"'{other}".encode()))
        assert read_fits_columns(str(path), ["ra"]).num_rows == 30


# ---------------------------------------------------------------- what no catalogue holds


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("TYPE", "DEW", "type 'DEW'; expected one of COMP, DEV"),
        ("FLUX_R", np.nan, "column 'flux_r' from nan"),
        ("FLUX_G", -3e30, "column 'flux_g' from -3e\\+30"),
        ("FLUX_IVAR_Z", -1.0, "column 'flux_ivar_z'"),
        ("PSFSIZE_R", 700.0, "column 'psfsize_r'"),
        ("EBV", np.inf, "column 'ebv'"),
        ("MW_TRANSMISSION_W1", 1.5, "column 'mw_transmission_w1'"),
        ("NOBS_G", -3, "column 'nobs_g'"),
        ("BRICKID", 343_929, "do not agree"),
        ("BRICKNAME", "1501m022", "do not agree"),
        ("RA", 150.9, "rows of brick 1501p022"),
        ("DEC", 2.9, "rows of brick 1501p022"),
    ],
)
@pytest.mark.parametrize("row", [0, 250, 499])
def test_what_no_catalogue_holds_is_refused_by_name(tmp_path, row, name, value, says):
    table, path = sweep_table(), tmp_path / "sweep-150p000-155p005.fits"
    table[name][row] = value
    table.write(path)
    for read in (lambda: select_sweep(str(path), SelectionRecipe()), lambda: count_bricks([str(path)], SelectionRecipe())):
        with pytest.raises(BadInput, match=f"sweep-150p000-155p005.fits: .*{says}"):
            read()


def test_bricks_at_the_meridian_and_the_poles_hold_their_rows():
    "Bricks that reach over 0 or 360 degrees, that lie at a pole, and rows of the overlap"
    for ra, dec in ((0.01, 0.0), (359.99, 0.0), (12.0, 89.95), (200.0, -89.95), (80.0, 66.6)):
        brick = int(brick_ids(np.array([ra]), np.array([dec]))[0])
        west, east, south, north = (float(edge) for edge in brick_edges(brick))
        rows = {"ra": [(east + 0.004 / np.cos(np.radians(dec))) % 360, west, ra], "dec": [min(north, 90), max(south - 0.005, -90), dec]}
        check_rows(pa.table(rows | {"brickid": [brick] * 3, "brickname": brick_names(np.array([brick] * 3)).tolist()}), "here")


def test_types_and_names_are_compared_however_they_lie_in_memory():
    "Types of three and of four letters, a table in pieces or cut out of another, and names whose letters are right but not their lengths"
    types = ["PSF", "COMP", "DEV", "SIMP", "DUP", "EXP", "REX", "SER"]
    rows = pa.table({"type": types, "brickid": [343_928] * 8, "brickname": ["1501p022"] * 8, "ra": [150.1] * 8, "dec": [2.2] * 8})
    three = rows.take([0, 2, 4, 5, 6, 7])
    for good in (rows, three, pa.concat_tables([three, rows, three]), rows.slice(3), three.slice(2, 3), rows.slice(8)):
        check_rows(good, "here")
    for place, wrong in ((0, "PSG"), (5, "QSF"), (3, "DEVX"), (2, ""), (1, None)):
        bad = [*three["type"].to_pylist()[:place], wrong, *three["type"].to_pylist()[place + 1 :]]
        for table in (three.set_column(0, "type", [bad]), pa.concat_tables([rows, three.set_column(0, "type", [bad])]).slice(2)):
            with pytest.raises(BadInput, match="here: type "):
                check_rows(table, "here")
    for names in (["1501p022", "1501p02", "21501p022"], ["1501p022", "1501p022", "1501p023"], ["1501p022", "1501p022", None]):
        with pytest.raises(BadInput, match="here: brickid and brickname do not agree"):
            check_rows(rows.slice(0, 3).set_column(2, "brickname", [names]), "here")
