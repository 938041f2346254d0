"A run's folders open in other programs: receipts and small files beside the tables are in nobody's way"

import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import dataset

from dark_halo_scope.base.receipts import product_of, read_receipt, receipt_path


@pytest.mark.parametrize("product", ["plan.parquet", "/run/stamps", "/run/stamps/", "s3://bucket/run/sky/149/1496p017.parquet"])
def test_a_receipt_stands_beside_its_product_and_names_it(product: str) -> None:
    folder, _, name = receipt_path(product).rpartition("/")
    assert folder == product.rstrip("/").rpartition("/")[0] and name.startswith("_")
    assert product_of(receipt_path(product)) == product.rstrip("/")


@pytest.mark.parametrize("name", ["stamps", "sky"])
def test_a_folder_of_tables_opens_as_one_table(name: str, toy: Path, tmp_path: Path) -> None:
    folder, rows = toy / name, read_receipt(toy / name).identity["rows"]
    assert rows > 0 and len(list(folder.rglob("*.receipt.json"))) == len(list(folder.rglob("*.parquet"))) > 1
    assert dataset.dataset(folder, format="parquet").count_rows() == len(pd.read_parquet(folder, columns=["ra"])) == rows
    assert pq.read_table(folder, columns=["ra"]).num_rows == rows
    copy = shutil.copytree(folder, tmp_path / name)
    receipt = next(copy.rglob("*.receipt.json"))
    receipt.rename(receipt.with_name(receipt.name.removeprefix("_")))
    with pytest.raises(pa.ArrowInvalid):  # without the underscore a receipt is taken for a table
        dataset.dataset(copy, format="parquet").count_rows()


def test_the_folder_of_candidates_has_one_table_among_the_files_for_people(toy: Path) -> None:
    "Catalogues in FITS, VOTable, ECSV and DS9 lie there as well; the product is `candidates/candidates.parquet`"
    folder = toy / "candidates"
    rows = read_receipt(folder / "candidates.parquet").identity["rows"]
    assert [p.name for p in folder.glob("[!_]*.parquet")] == ["candidates.parquet"] and (folder / "_stamps.parquet").exists()
    assert dataset.dataset(folder, format="parquet", exclude_invalid_files=True).count_rows() == rows
    assert len(pd.read_parquet(folder / "candidates.parquet")) == rows


@pytest.mark.slow
def test_spark_opens_a_folder_of_stamps(toy: Path) -> None:
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        read = spark.read.option("recursiveFileLookup", "true").parquet(str(toy / "stamps"))
        assert read.count() == read_receipt(toy / "stamps").identity["rows"]
    finally:
        spark.stop()
