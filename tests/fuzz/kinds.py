"The kinds of input: a small good file of each, made by the library, and how a phase reads it"

import hashlib
import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml
from astropy.io import fits

from dark_halo_scope.base import receipts
from dark_halo_scope.base.config import recipe_to_dict
from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.receipts import content_hash, file_faults, read_receipt, read_table, receipt_path, write_product
from dark_halo_scope.base.schema import table_from
from dark_halo_scope.base.skylist import read_positions
from dark_halo_scope.base.sums import write_summed
from dark_halo_scope.injection.products import plan_bricks, plan_rows
from dark_halo_scope.learning.checkpoints import content_digest, load_checkpoint, released_bytes, save_checkpoint
from dark_halo_scope.learning.models import build_model
from dark_halo_scope.learning.recipes import TrainRecipe
from dark_halo_scope.lensing.cosmos import build_bank, load_bank
from dark_halo_scope.mock.files import fits_table_bytes, gzipped
from dark_halo_scope.parent.selection import check_sky, sweep_columns
from dark_halo_scope.run.phases import load_recipe
from dark_halo_scope.stamps.codec import parquet_options
from dark_halo_scope.stamps.reader import Reader, Reading, StampSet, build_index
from dark_halo_scope.survey.cache import copy_bricks
from dark_halo_scope.survey.coadds import read_cutouts
from dark_halo_scope.survey.release import Release
from dark_halo_scope.survey.sweeps import check_rows
from dark_halo_scope.survey.sweeps import read_fits_columns as read_sweep

from ..stamp_toys import toy_table
from ..test_lensing_cosmos import galaxy, write_sample
from ..test_survey_files import sky, sweep_table, write_brick


@dataclass(frozen=True)
class Kind:
    "A kind of input"

    make: Callable[[Path], Path]  # A folder to the good file in it
    read: Callable[[Path], Any]  # The file, as a phase takes it, to what came out of it
    text: bool = False  # Whether people write it
    says: Callable[[bytes, Any], bool] | None = None  # For what carries no digest: whether this came out because the damaged text says so
    named: Callable[[Path], Path] = lambda path: path  # What a refusal names
    blind: float = 0.0  # Share of copies at most in which nothing tells of a change: a release without the survey's lists of checksums


def hashed(*arrays: Any) -> str:
    "A digest of arrays"
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        values = np.ascontiguousarray(array)
        digest.update(f"{values.dtype} {values.shape}".encode() + values.tobytes())
    return digest.hexdigest()


def taken(path: Path) -> None:
    "What a phase does before it reads a product"
    if faults := file_faults(path, read_receipt(path)):
        raise BadInput(faults[0])


def as_large(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    "The same without reading the whole file first, as of a product of many gigabytes"

    def reading(path: Path) -> Any:
        limit, receipts.CHEAP = receipts.CHEAP, 0
        try:
            return read(path)
        finally:
            receipts.CHEAP = limit

    return reading


# Survey files.


def list_folder(folder: Path, release: Release) -> Path:
    "The list of checksums that the survey puts into a folder"
    files = sorted(path for path in folder.iterdir() if path.is_file())
    written = Path(release.checksums(str(files[0])))
    written.write_text("".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()} *{path.name}\n" for path in files))
    return written


def coadd(kind: str, band: str | None, sums: str = "own") -> Callable[[Path], Path]:
    "A brick whose coadds were copied with checksums of their own, or stand in a folder with the survey's list, or with neither (sums is empty)"

    def make(folder: Path) -> Path:
        release = write_brick(folder, side=300)
        path = Path(release.coadd("1501p022", kind, band))
        for file in sorted(folder.rglob("*.fz")) if sums == "own" else ():
            write_summed(file.read_bytes(), str(file))
        if sums == "list":
            list_folder(path.parent, release)
        return path

    return make


def coadd_list(folder: Path) -> Path:
    return Path(Release(str(folder)).checksums(str(coadd("image", "r", "list")(folder))))


def read_coadd(path: Path) -> str:
    cut = read_cutouts(Release(str(path.parents[4])), "1501p022", *sky(np.array([90.2, 200.7]), np.array([120.4, 201.1]), 300))
    return hashed(cut.image, cut.invvar, cut.maskbits, cut.psfsize, cut.ok, cut.dx, cut.dy)


def read_fetched(path: Path) -> str:
    "The brick as phase 4b copies it and phase 4c reads it"
    with tempfile.TemporaryDirectory() as folder:
        copy_bricks(Release(str(path.parents[4])), Release(folder), ["1501p022"])
        return read_coadd(Path(folder, *path.parts[-5:]))


def bare_sweep(folder: Path) -> Path:
    path = folder / "sweep-150p000-155p005.fits"
    sweep_table(60).write(path)
    return path


def served_sweep(folder: Path) -> Path:
    path = bare_sweep(folder)
    list_folder(folder, Release(str(folder)))
    return path


def bricks_table(folder: Path) -> Path:
    "The table of a release's bricks as the survey serves it, packed"
    release = Release(str(folder))
    path = Path(release.bricks())
    path.parent.mkdir()
    path.write_bytes(gzipped(fits_table_bytes({"ra": np.arange(40) / 7, "dec": np.arange(40) / 9, "nexp_r": np.arange(40) % 5})))
    list_folder(path.parent, release)
    return path


def make_sweep(folder: Path) -> Path:
    path = bare_sweep(folder)
    write_summed(path.read_bytes(), str(path))
    return path


def rows_of_sweep(path: Path) -> str:
    rows = read_sweep(str(path), sweep_columns())
    check_sky(rows, str(path))
    check_rows(rows, str(path))
    return content_hash(rows)


def summed_sweep(folder: Path) -> Path:
    path = folder / "sweep-150p000-155p005.fits"
    fits.BinTableHDU(sweep_table(60)).writeto(path, checksum=True)
    return path


# Products.


def make_plan(folder: Path) -> Path:
    n = 240
    draw = np.random.default_rng(3)
    columns = {"task_id": [f"t{i}" for i in range(n)], "brickname": [f"{1000 + i // 40}p000" for i in range(n)], "objid": np.arange(n)}
    columns |= {"theta_E": draw.uniform(0.5, 2, n).astype("f4"), "is_control": draw.random(n) < 0.5, "seed": draw.integers(0, 2**62, n)}
    write_product(pa.table(columns), folder / "plan.parquet", "injection_plan", {"code": "a"}, row_group_size=60)
    return folder / "plan.parquet"


def read_plan(path: Path) -> str:
    taken(path)
    plan_cache_clear()
    bricks = plan_bricks(str(path), "a")
    return hashed(repr(bricks)) + "".join(content_hash(plan_rows(file, "a", first, n)) for _, file, first, n in bricks)


def plan_cache_clear() -> None:
    "A new process has opened nothing yet"
    from dark_halo_scope.injection import products

    products.open_plan.cache_clear()
    products._plan_group.cache_clear()


def make_stamps(folder: Path) -> Path:
    table = toy_table(24, codec="int16", size=24)
    write_product(table, folder / "0001p000.parquet", "stamps", {"code": "a"}, **parquet_options(table, "int16") | {"row_group_size": 8})
    return folder / "0001p000.parquet"


def read_stamps(path: Path) -> str:
    recipe = Reading(batch_size=8, workers=0, window=16, meta_columns=("psfsize_r",))
    index = build_index([StampSet((str(path),))], recipe=recipe)
    batches = list(Reader(index, recipe).batches())
    identity = [index.identity[name].astype(str) for name in sorted(index.identity)]
    return hashed(*(a for b in batches for a in (b.image.numpy(), b.label.numpy(), b.meta.numpy(), b.row)), *identity)


def scores(n: int = 80) -> dict[str, Any]:
    "Columns of scores"
    draw = np.random.default_rng(4)
    columns: dict[str, Any] = {"task_id": [f"t{i}" for i in range(n)], "brickname": ["0001p000"] * n, "split": ["test"] * n}
    columns |= {"release": np.full(n, 10_000), "brickid": np.full(n, 1), "objid": np.arange(n), "ra": 150 + draw.random(n)}
    columns |= {"dec": draw.random(n), "label": draw.integers(0, 2, n), "logit": draw.normal(size=n), "p_lens": draw.random(n)}
    return columns | {"model_id": ["network"] * n}


def make_scores(folder: Path) -> Path:
    write_product(table_from(scores(), "scores"), folder / "scores.parquet", "scores", {"code": "a"})
    return folder / "scores.parquet"


def make_candidates(folder: Path) -> Path:
    columns = scores(30)
    kept = {k: v for k, v in columns.items() if k not in ("task_id", "label")} | {"name": [f"DESI-{i:03d}" for i in range(30)]}
    kept |= {"rank": np.arange(30), "known_as": [None] * 29 + ["J0001"], "viewer": ["https://example.org"] * 30}
    write_product(pa.table(kept), folder / "candidates.parquet", "candidates", {"code": "a"})
    return folder / "candidates.parquet"


def read_product(path: Path) -> str:
    taken(path)
    return content_hash(read_table(path)) + content_hash(read_table(path, ["logit", "ra"]))


def make_receipt(folder: Path) -> Path:
    return Path(receipt_path(make_scores(folder)))


def product_beside(receipt: Path) -> Path:
    "The product whose receipt this is"
    return Path(receipts.product_of(str(receipt)))


def read_receipt_of(path: Path) -> tuple:
    receipt = read_receipt(product_beside(path))
    return receipt.product, receipt.name, repr(sorted(receipt.run.items()))


# Checkpoints and the bank.


def make_checkpoint(folder: Path) -> Path:
    recipe = TrainRecipe()
    torch.manual_seed(0)
    state = {"recipe": recipe, "model": build_model(recipe.model).state_dict(), "data": "toy", "epoch": 1, "step": 2}
    save_checkpoint(state, str(folder / "best.pt"))
    return folder / "best.pt"


def make_released(folder: Path) -> Path:
    state = load_checkpoint(str(make_checkpoint(folder)))
    (folder / "net.safetensors").write_bytes(released_bytes(state))
    return folder / "net.safetensors"


def read_checkpoint(path: Path) -> str:
    state = load_checkpoint(str(path))
    return content_digest({name: value for name, value in state.items() if name not in ("recipe", "digest")})


def make_bank(folder: Path) -> Path:
    write_sample(folder, [galaxy(seed=i) for i in range(4)])
    build_bank(folder, folder / "bank.h5")
    return folder / "bank.h5"


def read_bank(path: Path) -> str:
    bank = load_bank(str(path))
    return hashed(*(getattr(bank, name) if name != "images" else np.concatenate([i.ravel() for i in bank.images]) for name in ("images",)))


# What people write.


def make_recipe(folder: Path) -> Path:
    from dark_halo_scope.base.resources import manifest

    (folder / "mine.yaml").write_bytes(manifest("generations", "gen3.yaml").read_bytes())
    return folder / "mine.yaml"


def read_recipe(path: Path) -> str:
    return yaml.safe_dump(recipe_to_dict(load_recipe(str(path))))


def recipe_says(data: bytes, came_out: str) -> bool:
    "Whether another reader of YAML finds every value of the recipe in the text"

    def within(written: Any, read: Any) -> bool:
        if isinstance(written, dict):
            return isinstance(read, dict) and all(str(k) in read and within(v, read[str(k)]) for k, v in written.items())
        if isinstance(written, list):
            return isinstance(read, list) and len(written) == len(read) and all(map(within, written, read))
        if written is None and isinstance(read, dict):
            return True  # a section without a value keeps its defaults
        return bool(written == read or str(written) == str(read) or isinstance(read, float) and float(written) == read)

    return within(yaml.safe_load(data), yaml.safe_load(came_out))


def make_list(folder: Path) -> Path:
    rows = [f"J{i:03d},{150 + i * 1.23456:.5f},{2 - i * 0.37:.4f},{18 + i / 10:.2f}" for i in range(25)]
    (folder / "list.csv").write_text("\n".join(["name,ra,dec,mag_r", *rows]) + "\n")
    return folder / "list.csv"


def read_list(path: Path) -> tuple:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = read_positions(str(path))
    return tuple(found.columns["ra"].tolist()), tuple(found.columns["dec"].tolist())


def list_says(data: bytes, came_out: tuple) -> bool:
    "Whether every position stands as two numbers in one row of the text, a degree's sign behind them or not"
    rows = [re.split(r"[,;\t|\s]+", row) for row in data.decode("latin-1").splitlines()]
    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
    pairs = set()
    for row in rows:
        words = [word.strip('"°º') for word in row]
        values = [float(word) for word in words if number.match(word)]
        pairs |= {(a % 360, b) for a in values for b in values}
    return all((ra, dec) in pairs for ra, dec in zip(came_out[0], came_out[1]))


KINDS = {
    "coadd image": Kind(coadd("image", "r"), read_coadd),
    "mask": Kind(coadd("maskbits", None), read_coadd),
    "sweep": Kind(make_sweep, rows_of_sweep),
    "served image": Kind(coadd("image", "r", "list"), read_coadd),
    "served invvar": Kind(coadd("invvar", "r", "list"), read_coadd),
    "served psfsize": Kind(coadd("psfsize", "r", "list"), read_coadd),
    "served mask": Kind(coadd("maskbits", None, "list"), read_coadd),
    "served list": Kind(coadd_list, lambda path: read_coadd(path.with_name("legacysurvey-1501p022-image-r.fits.fz")), text=True),
    "served sweep": Kind(served_sweep, rows_of_sweep),
    "served bricks": Kind(bricks_table, lambda path: content_hash(read_sweep(str(path), ["ra", "dec", "nexp_r"]))),
    "fetched image": Kind(coadd("image", "r", "list"), read_fetched),
    "bare image": Kind(coadd("image", "r", ""), read_coadd, blind=0.06),
    "bare invvar": Kind(coadd("invvar", "r", ""), read_coadd, blind=0.06),
    "bare psfsize": Kind(coadd("psfsize", "r", ""), read_coadd),
    "bare mask": Kind(coadd("maskbits", None, ""), read_coadd, blind=0.02),
    "sweep, summed": Kind(summed_sweep, rows_of_sweep),
    "bare sweep": Kind(bare_sweep, rows_of_sweep, blind=0.16),
    "plan": Kind(make_plan, read_plan),
    "plan, large": Kind(make_plan, as_large(read_plan)),
    "stamps": Kind(make_stamps, read_stamps),
    "scores": Kind(make_scores, read_product),
    "scores, large": Kind(make_scores, as_large(read_product)),
    "candidates": Kind(make_candidates, read_product),
    "receipt": Kind(make_receipt, read_receipt_of, text=True, named=product_beside),
    "recipe": Kind(make_recipe, read_recipe, text=True, says=recipe_says),
    ".pt": Kind(make_checkpoint, read_checkpoint),
    ".safetensors": Kind(make_released, read_checkpoint),
    "list": Kind(make_list, read_list, text=True, says=list_says),
    "bank": Kind(make_bank, read_bank),
}
