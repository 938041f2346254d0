"The earlier generations' own plans: counts per split and per cell as designed, and no galaxy that plays two roles"

from functools import lru_cache

import numpy as np
import pyarrow as pa
import pytest

from dark_halo_scope.injection.grid import GRIDS
from dark_halo_scope.injection.plan import PlanRecipe, make_plan, validate

WANTED = {"train": 60_000, "val": 40_000, "test": 40_000}


@lru_cache(1)
def sky(n: int = 9_000) -> pa.Table:
    "A parent sample in which v4 is a part of v3, some 40 galaxies a brick"
    draw = np.random.default_rng(4)
    mag, brick = draw.normal(19.5, 0.7, n), np.arange(n) // 40
    columns = {"release": np.full(n, 10_002), "brickid": 300_000 + brick, "objid": np.arange(n) % 40}
    columns |= {"brickname": [f"b{b:07d}" for b in columns["brickid"]], "ra": draw.uniform(0, 1, n), "dec": draw.uniform(0, 1, n)}
    columns |= {"split": np.array(["train", "val", "test"])[brick % 3], "ebv": np.full(n, 0.03)}
    columns |= {"is_v3": draw.random(n) < 0.9, "is_v4": draw.random(n) < 0.5}
    columns |= {f"mag_{b}": mag + d for b, d in zip("grz", (1.4, 0, -0.9))} | {f"mw_transmission_{b}": np.full(n, 0.93) for b in "grz"}
    columns |= {f"psfsize_{b}": draw.normal(1.35, 0.1, n) for b in "grz"} | {f"psfdepth_{b}": draw.normal(900, 90, n) for b in "grz"}
    return pa.table(columns)


@pytest.mark.parametrize(("selection", "grid"), [("is_v3", "grid_small"), ("is_v4", "grid_sota")])
def test_the_records_own_plans(selection: str, grid: str) -> None:
    plan = make_plan(sky(), PlanRecipe(f"{selection}-{grid}", grid, WANTED, 0.5, "unpaired", selection))
    frame = plan.select(["split", "is_control", "weight", "config_id", "brickid", "objid", "task_id"]).to_pandas()
    injected, controls = frame[~frame.is_control], frame[frame.is_control]
    for split, wanted in WANTED.items():
        assert (injected.split == split).sum() == wanted / 2
        assert controls[controls.split == split].weight.sum() == pytest.approx(wanted / 2)
        counts = injected[injected.split == split].config_id.value_counts()
        cells = len(GRIDS[grid].configurations())
        assert len(counts) == cells
        expected = wanted / 2 / cells
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected) + 3
    host, control = ({*zip(f.brickid, f.objid)} for f in (injected, controls))
    assert not host & control and len(control) == len(controls) and frame.task_id.is_unique
    allowed = sky().filter(sky()[selection])
    assert host | control <= {*zip(allowed["brickid"].to_pylist(), allowed["objid"].to_pylist())}
    assert all(claim["passed"] for claim in validate(plan)), validate(plan)
