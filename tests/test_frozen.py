"""The content of every product of the toy run, column by column: a change of structure leaves it as it is, a change of science says what it changes

What is painted is held to five digits, and what a trained network decides to two in a hundred: processors end in other digits.
"""

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
TABLES = ("density", "regions", "known_hosts", "attrition", "scores", "completeness")
FOLDERS = ("parent", "plan", "stamps", "sky")  # One file per sweep, part or brick: the rows of all of them are hashed
LATER = ("model_id",)  # a name made of hashes, not a measurement
LEARNED = ("logit", "p_lens")
PAINTED = ("stamp", "magnification", "arc_", "core_flux")
WITHIN = {"learned": 0.02, "painted": 1e-5}


def columns_of(table: pa.Table) -> dict[str, object]:
    "Hash of each column's values; of learned and painted ones the spread"
    return {name: held(name, table[name]) for name in table.column_names if name not in LATER}


def held(name: str, values: pa.ChunkedArray) -> object:
    "What is frozen of a column"
    if name in LEARNED:
        return {"learned": spread(values.to_numpy())}
    if name.startswith(PAINTED):
        binary = pa.types.is_fixed_size_binary(values.type)
        return {"painted": spread(np.frombuffer(b"".join(values.to_pylist()), np.int16) if binary else values.to_numpy())}
    return content_hash(pa.table({name: values}))[:16]


def candidates_of(table: pa.Table) -> dict[str, object]:
    "Columns of the candidates, and how well they score: which galaxies they are is learned"
    return {f.name: str(f.type) for f in table.schema} | {name: held(name, table[name]) for name in LEARNED}


def folder_table(folder: Path) -> pa.Table:
    "Every Parquet file of a product in the order of their names"
    files = sorted(p for p in folder.rglob("*.parquet") if not any(part.startswith("_") for part in p.relative_to(folder).parts))
    table = pa.concat_tables([pq.ParquetFile(p).read() for p in files])
    if folder.name == "parent":  # a brick may lie in two sweeps: its rows are hashed together
        table = table.sort_by([("brickid", "ascending"), ("objid", "ascending")])
    return table.combine_chunks()


def spread(values: np.ndarray) -> list[float]:
    "Mean, scatter and quantiles"
    known = values[np.isfinite(values)].astype(float)
    return [float(known.mean()), float(known.std()), *(float(q) for q in np.quantile(known, [0.05, 0.16, 0.5, 0.84, 0.95]))]


def weights_spread(checkpoint: Path) -> dict[str, object]:
    "Length of each tensor of a network"
    tensors = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    return {name: {"learned": [float(tensor.double().norm())]} for name, tensor in sorted(tensors.items())}


def contents(run: Path) -> dict[str, object]:
    "What a finished run holds"
    found: dict[str, object] = {name: columns_of(pq.ParquetFile(run / f"{name}.parquet").read()) for name in TABLES}
    found |= {name: columns_of(folder_table(run / name)) for name in FOLDERS}
    found["candidates"] = candidates_of(pq.ParquetFile(run / "candidates" / "candidates.parquet").read())
    found["model"] = weights_spread(run / "model" / "best.pt")
    found["gates"] = {gate["name"]: {"learned": numbers(gate)} for gate in json.loads((run / "gates.json").read_text())}
    stage0 = json.loads((run / "stage0.json").read_text())
    return found | {
        "stage0": {"learned": numbers({name: part for name, part in stage0.items() if name != "confused"})}  # that is sorted by p_lens
    }


def numbers(values: object) -> list[float]:
    "Every number of a JSON file in its order; nothing for what is missing"
    if isinstance(values, dict):
        return [n for name in sorted(values) for n in numbers(values[name])]
    if isinstance(values, list):
        return [n for value in values for n in numbers(value)]
    return [float(values)] if isinstance(values, (bool, int, float)) and math.isfinite(values) else []


def alike(found: object, frozen: object, within: float = 0) -> bool:
    "Equal, and numbers of what was painted or learned within what is allowed them"
    if isinstance(frozen, dict) and isinstance(found, dict):
        return found.keys() == frozen.keys() and all(alike(found[name], frozen[name], WITHIN.get(name, 0)) for name in frozen)
    if isinstance(frozen, list):
        return np.shape(found) == np.shape(frozen) and np.allclose(found, frozen, rtol=within, atol=within)
    return found == frozen


def test_toy_holds_what_it_held(toy: Path) -> None:
    found, frozen = contents(toy), json.loads(FROZEN.read_text())
    changed = {
        name: [part for part in {**frozen[name], **found[name]} if not alike(*({part: it[name].get(part)} for it in (found, frozen)))]
        for name in frozen
    }
    assert found.keys() == frozen.keys() and not any(changed.values()), (
        f"other content than before: {changed}; a change of science freezes it anew: python -m tests.test_frozen RUN"
    )


def test_what_differs_is_told_and_last_digits_are_not() -> None:
    "A column of other bytes, a column less, a logit off by a tenth, an arc off in its fourth digit; the last digits are another processor's"
    frozen = {"scores": {"ra": "a1", "logit": {"learned": [0.0, 1.0]}, "arc_snr": {"painted": [1.0, 20.0]}}}
    assert alike({"scores": {**frozen["scores"], "logit": {"learned": [0.001, 1.0]}, "arc_snr": {"painted": [1.0, 20.0001]}}}, frozen)
    for other in ({"ra": "a2"}, {"logit": {"learned": [0.1, 1.0]}}, {"logit": {"learned": [0.0]}}, {"arc_snr": {"painted": [1.0, 20.01]}}):
        assert not alike({"scores": {**frozen["scores"], **other}}, frozen)
    assert not alike({"scores": {"ra": "a1"}}, frozen)


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(contents(Path(sys.argv[1])), indent=1, sort_keys=True) + "\n")
