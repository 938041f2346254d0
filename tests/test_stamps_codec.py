"""Stored pixels come back within the stated error, and a broken table is named."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.stamps import codec

SIGMA = np.array([0.0031, 0.0044, 0.0117], np.float32)


def stamps(n=8, peak=1.0, seed=0):
    rng = np.random.default_rng(seed)
    r = np.hypot(*(np.mgrid[:64, :64] - 31.5))
    return (rng.normal(size=(n, 3, 64, 64)) * SIGMA[:, None, None] + peak * np.exp(-r / 2)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@example(34.0, "int16", 0)
@given(st.floats(0.001, 60000), st.sampled_from(["float16", "int16"]), st.integers(0, 9))
def test_error_is_within_what_is_stated(peak, kind, seed):
    images = stamps(2, peak, seed)
    table = pa.table(codec.encode(images, kind))
    error = np.abs(codec.decode(table).astype(np.float64) - images)
    if kind == "float16":
        assert (error <= np.maximum(np.abs(images) * 2.0**-11, 2.0**-25)).all()
    else:
        step = np.stack([table[f"scale_{b}"].to_numpy() for b in "grz"], 1)[:, :, None, None].astype(np.float64)
        inside = np.abs(images) <= step.astype(np.float32) * np.float32(
            codec.STEPS_MAX
        )  # as stored: in float64 the peak itself can lie a hair beyond
        assert (error[inside] <= (np.broadcast_to(step, images.shape) * 0.5001 + np.abs(images) * 1e-6)[inside]).all()
        assert (step[:, :, 0, 0] <= codec.sky_sigma(images) / 2 * 1.001).all()
        saturated = np.stack([table[f"saturated_{b}"].to_numpy() for b in "grz"], 1)
        assert (saturated == (~inside).sum((2, 3))).all()


def test_saturation_is_counted_in_both_codecs():
    images = stamps(2)
    images[1, 2, 30:32, 30:32] = 1e5
    for kind in codec.CODECS:
        columns = codec.encode(images, kind)
        assert columns["saturated_z"].to_pylist()[0] == 0 and columns["saturated_z"].to_pylist()[1] >= 4
        assert np.isfinite(codec.decode(pa.table(columns))).all()


def test_faint_sky_keeps_its_noise_beside_a_bright_star():
    images = stamps(4, peak=0.0)
    images[:, :, 28:34, 28:34] += 300.0
    back = codec.decode(pa.table(codec.encode(images, "int16")))
    corner = (back - images)[:, :, :10, :10]
    assert (corner.std((0, 2, 3)) < 0.16 * SIGMA).all()  # half a sigma over sqrt(12)


def test_slices_chunks_and_files_decode_alike(tmp_path):
    images = stamps(40)
    for kind in codec.CODECS:
        table = pa.table(codec.encode(images, kind))
        whole = codec.decode(table)
        pieces = pa.concat_tables([table.slice(0, 11), table.slice(11, 3), table.slice(14)])
        assert np.array_equal(codec.decode(pieces), whole)
        assert np.array_equal(codec.decode(table.slice(5, 7)), whole[5:12])
        pq.write_table(table, tmp_path / "t.parquet", **codec.parquet_options(table, kind))
        assert np.array_equal(codec.decode(pq.read_table(tmp_path / "t.parquet")), whole)
        assert codec.decode(table.slice(0, 0)).shape == (0, 3, 64, 64)


def test_two_codecs_in_one_table():
    images = stamps(6)
    both = pa.concat_tables([pa.table(codec.encode(images[:3], "float16")), pa.table(codec.encode(images[3:], "int16"))])
    assert np.abs(codec.decode(both) - images).max() < 0.02


def test_bands_and_control_columns():
    images = stamps(3)
    table = pa.table(codec.encode(images[:, :2], bands=("r", "i")) | codec.encode(images[:, 1:], bands=("r", "i"), column="ctrl_stamp"))
    assert codec.stored_bands(table.column_names) == codec.stored_bands(table.column_names, "ctrl_stamp") == ("r", "i")
    assert np.array_equal(codec.decode(table, bands=("i", "r")), codec.decode(table)[:, ::-1])
    with pytest.raises(BadInput, match="unknown band 'z'"):
        codec.decode(table, bands=("z",))


def test_npz_columns_of_numpy_are_read_and_ours_by_numpy():
    images = stamps(3)
    values = []
    for image in images:
        for save in (np.savez, np.savez_compressed):
            buffer = io.BytesIO()
            save(buffer, image_z=image[2], image_g=image[0], image_r=image[1].astype(np.float64))
            values.append(buffer.getvalue())
    table = pa.table({"stamp_npz": pa.array(values, pa.binary())})
    assert np.array_equal(codec.decode(table), np.repeat(images, 2, axis=0))
    with np.load(io.BytesIO(codec.encode_npz(images)[1].as_py())) as archive:
        assert np.array_equal(np.stack([archive[f"image_{b}"] for b in "grz"]), images[1])


@pytest.mark.parametrize("value", [b"", b"not a zip", None])
def test_broken_npz_names_its_row(value):
    good = codec.encode_npz(stamps(1))[0].as_py()
    with pytest.raises(BadInput, match="row 1"):
        codec.decode_npz(pa.array([good, value], pa.binary()))
    with pytest.raises(BadInput, match="image_i"):
        codec.decode_npz(pa.array([good], pa.binary()), bands=("i",))


def test_bad_input_is_named():
    images = stamps(3)
    images[2, 1, 5, 5] = np.nan
    with pytest.raises(BadInput, match="stamp 2, band r"):
        codec.encode(images)
    with pytest.raises(BadInput, match="did you mean 'int16'"):
        codec.encode(stamps(1), "int-16")
    with pytest.raises(BadInput, match="shape"):
        codec.encode(stamps(1), bands=("g", "r"))
    table = pa.table(codec.encode(stamps(2)))
    with pytest.raises(BadInput, match="ctrl_stamp"):
        codec.decode(table, "ctrl_stamp")
    hole = table.set_column(0, "stamp", pa.array([None, table["stamp"][1].as_py()], table["stamp"].type))
    with pytest.raises(BadInput, match="1 of 2 stamps are null"):
        codec.decode(hole)
    zeros = table.set_column(0, "stamp", pa.array([b"\0" * table["stamp"].type.byte_width] * 2, table["stamp"].type))
    with pytest.raises(BadInput, match="expected one codec"):
        codec.decode(zeros)


def test_a_table_checks_against_the_schema():
    from dark_halo_scope.base.schema import STAMPS, columns_per_band

    known = {c.name for c in columns_per_band(STAMPS, ("g", "r", "z"))}
    columns = codec.encode(stamps(1)) | codec.encode(stamps(1), column="ctrl_stamp")
    assert set(columns) <= known and pa.types.is_fixed_size_binary(columns["stamp"].type)
