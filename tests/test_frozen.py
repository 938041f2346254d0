"The content of every product of the toy run, column by column: a change of structure leaves it as it is, a change of science says what it changes. What a trained network decides differs from processor to processor and is held within a tolerance"

import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dark_halo_scope.base.receipts import content_hash

FROZEN = Path(__file__).parent / "toy_contents.json"
TABLES = ("density", "regions", "known_hosts", "attrition", "scores", "completeness", "candidates/candidates")
FOLDERS = ("parent", "plan", "stamps", "sky")  # One file per sweep, part or brick: the rows of all of them are hashed
LATER = ("model_id",)  # a name made of hashes, not a measurement
LEARNED = ("logit", "p_lens")  # what weights decide, which differ in their last digits from processor to processor


def columns_of(table: pa.Table) -> dict[str, object]:
    "Hash of each column's values; of learned ones the spread"
    return {
        name: spread(table[name]) if name in LEARNED else content_hash(table.select([name]))[:16]
        for name in table.column_names
        if name not in LATER
    }


def folder_table(folder: Path) -> pa.Table:
    "Every Parquet file of a product in the order of their names"
    files = sorted(p for p in folder.rglob("*.parquet") if not any(part.startswith("_") for part in p.relative_to(folder).parts))
    table = pa.concat_tables([pq.ParquetFile(p).read() for p in files])
    if folder.name == "parent":  # a brick may lie in two sweeps: its rows are hashed together
        table = table.sort_by([("brickid", "ascending"), ("objid", "ascending")])
    return table.combine_chunks()


def spread(values: pa.ChunkedArray) -> list[float]:
    "Quantiles of a column"
    return [float(q) for q in np.nanquantile(values.to_numpy(zero_copy_only=False).astype(float), [0, 0.16, 0.5, 0.84, 1])]


def weights_spread(checkpoint: Path) -> dict[str, float]:
    "Length of each tensor of a network"
    tensors = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    return {name: float(tensor.double().norm()) for name, tensor in sorted(tensors.items())}


def rounded(values: object) -> object:
    "Numbers to nine digits: the last ones belong to the linear algebra library"
    if isinstance(values, dict):
        return {k: rounded(v) for k, v in values.items()}
    if isinstance(values, list):
        return [rounded(v) for v in values]
    return float(f"{values:.9g}") if isinstance(values, float) else values


def json_hash(file: Path) -> str:
    "Hash of a JSON file's values"
    return hashlib.blake2b(json.dumps(rounded(json.loads(file.read_text())), sort_keys=True).encode(), digest_size=8).hexdigest()


def contents(run: Path) -> dict[str, object]:
    "What a finished run holds"
    found: dict[str, object] = {name: columns_of(pq.ParquetFile(run / f"{name}.parquet").read()) for name in TABLES}
    found |= {name: columns_of(folder_table(run / name)) for name in FOLDERS}
    found["model"] = weights_spread(run / "model" / "best.pt")
    found["gates"] = json_hash(run / "gates.json")
    stage0 = json.loads((run / "stage0.json").read_text())
    return found | {"stage0": numbers({name: part for name, part in stage0.items() if name != "confused"})}  # that is sorted by p_lens


def numbers(values: object) -> list[float]:
    "Every number of a JSON file in its order; nothing for what is missing"
    if isinstance(values, dict):
        return [n for name in sorted(values) for n in numbers(values[name])]
    if isinstance(values, list):
        return [n for value in values for n in numbers(value)]
    return [float(values)] if isinstance(values, (bool, int, float)) and math.isfinite(values) else []


def alike(found: object, frozen: object) -> bool:
    "Equal, and numbers of what was learned within a hundredth"
    if isinstance(frozen, dict) and isinstance(found, dict):
        return found.keys() == frozen.keys() and all(alike(found[name], frozen[name]) for name in frozen)
    if isinstance(frozen, (list, float)):
        return np.shape(found) == np.shape(frozen) and np.allclose(found, frozen, rtol=0.01, atol=0.01)
    return found == frozen


def test_toy_holds_what_it_held(toy: Path) -> None:
    found, frozen = contents(toy), json.loads(FROZEN.read_text())
    changed = [name for name in {**frozen, **found} if not alike(found.get(name), frozen.get(name))]
    columns = {n: [c for c in frozen[n] if not alike(found[n].get(c), frozen[n][c])] for n in changed if isinstance(frozen.get(n), dict)}
    assert not changed, (
        f"other content than before: {changed} {columns}; a change of science freezes it anew: python -m tests.test_frozen RUN"
    )


def test_what_differs_is_told_and_last_digits_are_not() -> None:
    "A column of other bytes, a column less, a logit off by a tenth; a logit off by a thousandth is another processor's"
    frozen = {"scores": {"ra": "a1", "logit": [0.0, 1.0]}, "stage0": [1.0, 2.0]}
    assert alike({"scores": {"ra": "a1", "logit": [0.001, 1.0]}, "stage0": [1.0, 2.001]}, frozen)
    for other in ({"ra": "a2", "logit": [0.0, 1.0]}, {"logit": [0.0, 1.0]}, {"ra": "a1", "logit": [0.1, 1.0]}):
        assert not alike({**frozen, "scores": other}, frozen)
    assert not alike({**frozen, "stage0": [1.0]}, frozen)


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(contents(Path(sys.argv[1])), indent=1, sort_keys=True) + "\n")
