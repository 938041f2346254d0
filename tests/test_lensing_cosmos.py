"The HST bank: planted faults are refused, the same galaxy is the same entry, real files are read."

from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy import ndimage

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.lensing import cosmos
from dark_halo_scope.lensing.cosmos import (
    BankRecipe,
    bank_table,
    build_bank,
    clean_source,
    gaussian_psf,
    load_bank,
    segment,
    smoothed_noise,
)
from dark_halo_scope.lensing.sources import stamp_fault

PSF = gaussian_psf()
NOISE = 0.002


def galaxy(pedestal=0.0, neighbour=0.0, seed=0, n=72, r_half=5.0, flux=8.0, shift=0.0, at=(24, 22)):
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    disc = np.exp(-np.hypot(x / 1.2 - shift, y * 1.2) * 1.678347 / r_half)
    image = flux * disc / disc.sum() + neighbour * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 8)
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(0, 1, (n, n)), 0.58, mode="wrap")
    return ndimage.gaussian_filter(image, 1.7) + pedestal + NOISE * noise / noise.std()


def write_sample(folder: Path, images, psf=True, name="toy", **columns):
    fits.HDUList([fits.PrimaryHDU(images[0])] + [fits.ImageHDU(i) for i in images[1:]]).writeto(folder / f"images_{name}.fits")
    if psf:
        fits.HDUList([fits.PrimaryHDU(PSF)] + [fits.ImageHDU(PSF) for _ in images[1:]]).writeto(folder / f"psf_{name}.fits")
    n = np.arange(len(images))
    main = {"IDENT": n, "RA": 150 + n * 0.02, "DEC": 2 + n * 0.02, "MAG": np.full(len(n), 23.5), "BAND": ["F814W"] * len(n), "GAL_FILENAME": [f"images_{name}.fits"] * len(n),
            "GAL_HDU": n, "PSF_FILENAME": [f"psf_{name}.fits"] * len(n), "PSF_HDU": n, "PIXEL_SCALE": np.full(len(n), 0.03),
            "NOISE_VARIANCE": np.full(len(n), NOISE**2)}  # fmt: skip
    Table(main | columns).write(folder / f"real_galaxy_catalog_{name}.fits")


def test_a_pedestal_under_the_picture_changes_nothing():
    plain, raised = clean_source(galaxy(), PSF), clean_source(galaxy(pedestal=0.05), PSF)
    assert not plain.why and np.abs(plain.image - raised.image).max() < 1e-6 * plain.image.max()
    assert raised.background == pytest.approx(0.05, abs=NOISE / 5)


def test_a_sky_left_in_is_caught(monkeypatch):
    "With the subtraction taken out, a pedestal of one sky sigma is set aside"
    monkeypatch.setattr(cosmos, "clipped_level", lambda image, where: (0.0, NOISE))
    assert clean_source(galaxy(), PSF).why == ""
    assert clean_source(galaxy(pedestal=1.0 * NOISE), PSF).why
    assert clean_source(galaxy(pedestal=5.0 * NOISE), PSF).why


def test_a_square_edge_is_caught(monkeypatch, tmp_path):
    "With the taper taken out, no galaxy enters the bank"
    write_sample(tmp_path, [galaxy(seed=i, flux=2.0) for i in range(3)])
    assert build_bank(tmp_path, tmp_path / "bank.h5")["kept"] == 3
    monkeypatch.setattr(cosmos, "taper_weights", lambda mask, length: mask.astype(float))
    with pytest.raises(BadInput, match="none of 3 galaxies is usable"):
        build_bank(tmp_path, tmp_path / "bank.h5")


def test_a_pedestal_added_at_the_end_is_caught(monkeypatch, tmp_path):
    "A thousandth of the peak added to a finished picture keeps it out"
    write_sample(tmp_path, [galaxy()])
    finish = cosmos.taper_weights
    monkeypatch.setattr(cosmos, "taper_weights", lambda mask, length: finish(mask, length) + 1e-3)
    monkeypatch.setattr(cosmos, "wiener", lambda image, *rest: np.ones_like(image))
    with pytest.raises(BadInput, match="none of 1 galaxies"):
        build_bank(tmp_path, tmp_path / "bank.h5")
    assert stamp_fault(clean_source(galaxy(), PSF).image)


def test_neighbour_is_left_out_and_flux_and_size_come_back():
    alone, beside = clean_source(galaxy(seed=3), PSF), clean_source(galaxy(seed=3, neighbour=0.1), PSF)
    assert beside.image[50:, 52:].sum() < 1e-3 and abs(beside.flux / 8 - 1) < 0.06
    assert abs(beside.r_half / alone.r_half - 1) < 0.05 and abs(alone.r_half / 5 - 1) < 0.15


def test_a_touching_neighbour_is_cut_off():
    "Outskirts that touch: the neighbour's own light stays out, and none of it is smeared in by the deconvolution"
    alone, beside = clean_source(galaxy(seed=3), PSF), clean_source(galaxy(seed=3, neighbour=0.1, at=(21, 17)), PSF)
    y, x = np.mgrid[:72, :72] - 35.5
    near = np.hypot(x - 21, y - 17) < 3
    assert beside.image[near].sum() < 2e-3 and abs(beside.flux / alone.flux - 1) < 0.1
    lit = beside.mask & ~near
    assert np.abs(beside.image - alone.image)[lit].max() < 0.02 * alone.image.max()


@pytest.mark.parametrize(("saddle", "objects"), [(4.5, 2), (5.5, 1)])
def test_two_peaks_are_two_objects_where_the_light_between_them_falls_below_five_sigma(saddle, objects):
    y, x = np.mgrid[:64, :64] - 31.5
    pair = sum(np.exp(-((x - at) ** 2 + y**2) / 18) for at in (0, 11))
    smooth = ndimage.gaussian_filter(pair, BankRecipe().smooth)
    between = smooth[32, 31:43].min() / smoothed_noise(BankRecipe().smooth, BankRecipe().noise_length)
    central, neighbours = segment(pair * saddle / between, 1.0, BankRecipe())
    assert central[32, 32] and central[32, 42] == (objects == 1) and neighbours[32, 42] == neighbours.any() == (objects == 2)


def test_the_galaxy_stays_where_it_was():
    "Centroid of the cleaned picture against the true centre, for a galaxy off the middle by a fraction of a pixel"
    for shift in (0.0, 0.4, -1.3):
        image = clean_source(galaxy(shift=shift, flux=40.0), PSF).image
        y, x = np.mgrid[:72, :72] - 35.5
        assert (image * x).sum() == pytest.approx(1.2 * shift, abs=0.1) and (image * y).sum() == pytest.approx(0, abs=0.1)


def test_a_changed_byte_is_noticed(tmp_path):
    write_sample(tmp_path, [galaxy(seed=i) for i in range(2)])
    build_bank(tmp_path, tmp_path / "bank.h5")
    with h5py.File(tmp_path / "bank.h5", "r+") as file:
        file["images"][100] += 1e-3
    with pytest.raises(BadInput, match="not a source bank, or damaged"):
        load_bank(tmp_path / "bank.h5")


def test_deconvolution_moves_nothing():
    off = gaussian_psf()
    off = np.pad(off, ((0, 3), (2, 0)))  # the same PSF, not in the middle of its frame
    first, second = clean_source(galaxy(), PSF).image, clean_source(galaxy(), off).image
    assert np.abs(first - second).max() < 1e-6 * first.max()


def test_bank_round_trip(tmp_path):
    write_sample(tmp_path, [galaxy(seed=i, flux=8 - i / 4) for i in range(12)], ident_note=["x"] * 12)
    summary = build_bank(tmp_path, tmp_path / "bank.h5", BankRecipe(fractions=(0.5, 0.25, 0.25)))
    columns, attributes = bank_table(tmp_path / "bank.h5")
    assert summary["kept"] == 12 == sum(summary["split"].values()) and attributes["checksum"] == summary["checksum"]
    parts = [load_bank(tmp_path / "bank.h5", s) for s in cosmos.SPLITS if summary["split"][s]]
    assert sum(len(p.images) for p in parts) == 12 and all(abs(i.sum() - 1) < 1e-5 for p in parts for i in p.images)
    with h5py.File(tmp_path / "bank.h5") as file:
        shape = file["shape"][:]
        masks = np.unpackbits(file["masks"][:])[: shape.prod(1).sum()].astype(bool)
        assert (file["images"][:][~masks] == 0).all()


def test_a_galaxy_is_in_one_split_whatever_the_catalogue(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    images = [galaxy(seed=i) for i in range(8)]
    write_sample(tmp_path / "one", images)
    write_sample(
        tmp_path / "two", images[::-1], name="other", RA=(150 + np.arange(8) * 0.02)[::-1] + 2e-5, DEC=(2 + np.arange(8) * 0.02)[::-1]
    )
    assert build_bank([tmp_path / "one", tmp_path / "two"], tmp_path / "b.h5")["set_aside"] == {
        "the same galaxy in an earlier catalogue": 8
    }


def test_without_psf_file(tmp_path):
    write_sample(tmp_path, [galaxy(seed=i) for i in range(3)], psf=False)
    assert build_bank(tmp_path, tmp_path / "b.h5")["kept"] == 3 and set(bank_table(tmp_path / "b.h5")[0]["psf"]) == {"gaussian"}


def test_bad_input(tmp_path):
    with pytest.raises(BadInput, match="not found"):
        build_bank(tmp_path / "nowhere", tmp_path / "b.h5")
    with pytest.raises(BadInput, match="no real_galaxy_catalog"):
        build_bank(tmp_path, tmp_path / "b.h5")
    write_sample(tmp_path, [galaxy()])
    (tmp_path / "images_toy.fits").unlink()
    with pytest.raises(BadInput, match="images_toy.fits"):
        build_bank(tmp_path, tmp_path / "b.h5")
    Table({"IDENT": [1]}).write(tmp_path / "real_galaxy_catalog_short.fits")
    with pytest.raises(BadInput, match="GAL_FILENAME"):
        build_bank(tmp_path / "real_galaxy_catalog_short.fits", tmp_path / "b.h5")
    (tmp_path / "text.h5").write_text("no bank")
    with pytest.raises(BadInput, match="not a source bank"):
        load_bank(tmp_path / "text.h5")
    with pytest.raises(BadInput, match="16 x 16"):
        clean_source(np.full((20, 20), np.nan), PSF)
    with pytest.raises(BadInput, match="min_snr"):
        BankRecipe(min_snr=0)
    assert not (tmp_path / "b.h5").exists()


def test_template_agrees_with_measured_colours(real_data, tmp_path):
    "The template is as blue as lensed galaxies are: within .35 mag of the median measured colour of HST galaxies, on its blue side"
    build_bank(real_data / "hst_sources", tmp_path / "bank.h5")
    columns, _ = bank_table(tmp_path / "bank.h5")
    flux, measured = cosmos.band_fluxes(columns)
    blank = columns | {f"mag_{b}": np.full(len(measured), np.nan) for b in "griz"}
    template, _ = cosmos.band_fluxes(blank)
    difference = np.median(-2.5 * np.log10((flux[:, :-1] / flux[:, 1:]) / (template[:, :-1] / template[:, 1:]))[measured], 0)
    assert measured.sum() >= 70 and ((difference > -0.1) & (difference < 0.35)).all()


def test_real_files(real_data, tmp_path):
    summary = build_bank(real_data / "hst_sources", tmp_path / "bank.h5")
    columns, _ = bank_table(tmp_path / "bank.h5")
    assert summary["galaxies"] == 110 and summary["kept"] >= 80
    assert set(columns["psf"]) == {"catalogue", "gaussian"} and 0.1 < np.median(columns["r_half"]) < 0.3
    counts = 10 ** (-0.4 * (columns["mag_hst"] - 25.94))
    assert 0.85 < np.median(columns["flux"] / counts) < 1.05
