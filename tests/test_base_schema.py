"Products as other programs hand them back: what may be missing, and the one line that says what does not fit"

import pyarrow as pa
import pytest

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.schema import SCHEMAS, TYPES, check_table, conform, product_columns

PLANNED = {"shape_e1", "shape_e2", "z_l", "z_s"}
MAY_LACK = {
    "injection_plan": PLANNED,
    "stamps": PLANNED | {"ctrl_stamp", *(f"ctrl_{name}_{band}" for name in ("scale", "saturated") for band in "grz")},
    "candidates": {"theta_E", "theta_E_lo", "theta_E_hi", "delta_log_evidence", "verdict"},
}


def empty(product: str) -> pa.Table:
    "Every column of a product, and no row"
    columns = {c.name: pa.array([], pa.binary(3) if c.dtype == "stamp" else TYPES[c.dtype]) for c in product_columns(product)}
    return pa.table(columns)


@pytest.mark.parametrize("product", SCHEMAS)
def test_only_what_may_be_missing_may_be_missing(product: str) -> None:
    whole = empty(product)
    for name in whole.column_names:
        lacking = whole.drop_columns([name])
        if name in MAY_LACK.get(product, ()):
            assert check_table(lacking, product).column_names == lacking.column_names
        else:
            with pytest.raises(BadInput, match=f"^product '{product}' lacks column\\(s\\) {name}$"):
                check_table(lacking, product)


def test_a_column_that_does_not_fit_is_named_with_its_file_and_why() -> None:
    table = pa.table({"objid": [7, 2**40]})
    said = "product 'parent': column 'objid' has type int64, expected int32 (Integer value 1099511627776 not in range: -2147483648 to 2147483647)"
    for where, head in (("", ""), ("mine.parquet", "mine.parquet: ")):
        with pytest.raises(BadInput) as told:
            conform(table, "parent", where=where)
        assert str(told.value) == head + said
    with pytest.raises(BadInput) as told:
        conform(pa.table({"objid": ["a word of many letters " * 9]}), "parent")
    assert len(str(told.value).partition(" (")[2]) == 80 + len(")"), "of a long reason the beginning"


def test_widened_types_come_back_to_the_schemas() -> None:
    wide = pa.table({c.name: pa.array([], pa.float64() if c.dtype == "float32" else TYPES[c.dtype]) for c in product_columns("parent")})
    assert conform(wide, "parent").schema.equals(empty("parent").schema)
