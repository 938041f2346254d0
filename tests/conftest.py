"What tests share: where real pixels lie, and a quiet, single-threaded process"

import os
from pathlib import Path

import pytest

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    "The folder of real pixels and catalogues; a test that wants it skips where it is absent"
    folder = Path(os.environ.get("DHS_REAL_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
    if not (folder / "lrg_des_grz.npz").exists():
        pytest.skip(f"no real data at {folder}: set DHS_REAL_DATA")
    return folder
