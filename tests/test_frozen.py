"The content of every product of the toy run, column by column: a change of structure leaves it as it is, a change of science says what it changes"

import hashlib
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dark_halo_scope.base.receipts import content_hash

FROZEN = Path(__file__).parent / "toy_contents.json"
TABLES = ("density", "regions", "known_hosts", "attrition", "scores", "completeness", "candidates/candidates")
FOLDERS = ("parent", "plan", "stamps", "sky")  # One file per sweep, part or brick: the rows of all of them are hashed
LATER = ("model_id",)  # a name made of hashes, not a measurement


def columns_of(table: pa.Table) -> dict[str, str]:
    "Hash of each column's values"
    return {name: content_hash(table.select([name]))[:16] for name in table.column_names if name not in LATER}


def folder_table(folder: Path) -> pa.Table:
    "Every Parquet file of a product in the order of their names"
    files = sorted(p for p in folder.rglob("*.parquet") if not any(part.startswith("_") for part in p.relative_to(folder).parts))
    table = pa.concat_tables([pq.ParquetFile(p).read() for p in files])
    if folder.name == "parent":  # a brick may lie in two sweeps: its rows are hashed together
        table = table.sort_by([("brickid", "ascending"), ("objid", "ascending")])
    return table.combine_chunks()


def weights_hash(checkpoint: Path) -> str:
    "Hash of a network's weights"
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(torch.load(checkpoint, map_location="cpu", weights_only=True)["model"].items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


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
    found["model"] = weights_hash(run / "model" / "best.pt")
    return found | {name: json_hash(run / f"{name}.json") for name in ("gates", "stage0")}


def test_toy_holds_what_it_held(toy: Path) -> None:
    found, frozen = contents(toy), json.loads(FROZEN.read_text())
    changed = [name for name in frozen if found.get(name) != frozen[name]]
    columns = {n: [c for c in frozen[n] if found[n].get(c) != frozen[n][c]] for n in changed if isinstance(frozen[n], dict)}
    assert not changed, (
        f"other content than before: {changed} {columns}; a change of science freezes it anew: python -m tests.test_frozen RUN"
    )


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(contents(Path(sys.argv[1])), indent=1, sort_keys=True) + "\n")
