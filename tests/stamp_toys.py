"""Small stamps products for the tests of reading and learning."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dark_halo_scope.stamps.codec import encode, parquet_options


def toy_images(n, seed=0, arc=0.05, size=64):
    "Galaxies with noise; every odd one with an arc. Returns painted, unpainted, theta_E"
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    r, angle = np.hypot(x, y) * 0.262, np.arctan2(y, x)
    theta, start = rng.uniform(1.0, 2.2, (n, 1, 1)), rng.uniform(-np.pi, np.pi, (n, 1, 1))
    light = arc * np.exp(-(((r - theta) / 0.45) ** 2)) * (np.cos(angle - start) > 0.2) * (np.arange(n) % 2)[:, None, None]
    host = rng.uniform(0.2, 0.8, (n, 1, 1)) * np.exp(-3.67 * (r / 1.0) ** 0.5)
    control = host[:, None] * np.array([0.3, 0.7, 1.0])[:, None, None] + rng.normal(size=(n, 3, size, size)) * 0.005
    return (control + light[:, None]).astype(np.float32), control.astype(np.float32), theta[:, 0, 0]


def toy_table(n, brick="0001p000", number=1, seed=0, codec="float16", arc=0.05, splits=("train",), control=False, size=64, hosts=False):
    "One brick; where asked for (`hosts`), with what painting online needs of a host and cuts on an arc"
    painted, unpainted, theta = toy_images(n, seed, arc, size)
    ids, lens = np.arange(n), np.arange(n) % 2 == 1
    rng = np.random.default_rng([seed, 9])
    columns = {
        "task_id": [f"{brick}-{i}" for i in ids],
        "release": np.full(n, 10000, np.int16),
        "brickid": np.full(n, number, np.int32),
        "objid": ids.astype(np.int32),
        "brickname": [brick] * n,
        "ra": 150 + number + ids * 1e-3,
        "dec": ids * 1e-3,
        "split": [splits[i // 2 % len(splits)] for i in ids],
        "is_control": ~lens,
        "weight": np.ones(n, np.float32),
        "theta_E": np.where(lens, theta, 0).astype(np.float32),
        "cutout_ok": np.ones(n, bool),
        "metrics_ok": np.ones(n, bool),
        "arc_snr": np.where(lens, rng.uniform(0, 40, n), 0).astype(np.float32),
        "theta_over_psf": np.where(lens, theta / 1.05, 0).astype(np.float32),
        "magnification": np.where(lens, rng.uniform(1, 20, n), 0).astype(np.float32),
        "psfsize_r": rng.normal(1.3, 0.1, n).astype(np.float32),
        "psfdepth_r": rng.normal(1200, 100, n).astype(np.float32),
    }
    if hosts:
        for band, mag, seeing in (("g", 20.5, 1.5), ("r", 19.0, 1.3), ("z", 18.3, 1.2)):
            known = {f"mag_{band}": mag, f"psfsize_{band}": seeing, f"mw_transmission_{band}": 0.9}
            columns = {name: np.full(n, value, np.float32) for name, value in known.items()} | columns
            columns[f"arc_snr_{band}"] = columns["arc_snr"]
        columns |= {f"shape_e{i}": np.zeros(n, np.float32) for i in (1, 2)}
    columns |= encode(painted, codec)
    if control:
        columns |= encode(unpainted, codec, column="ctrl_stamp")
    return pa.table(columns)


def write_bricks(folder, bricks=3, n=40, row_group=16, codec="float16", **more):
    "One file a brick; the paths"
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(bricks):
        table = toy_table(n, f"{i + 1:04d}p000", i + 1, seed=i, codec=codec, **more)
        paths.append(str(Path(folder) / f"brick={i + 1:04d}p000.parquet"))
        pq.write_table(table, paths[-1], **parquet_options(table, codec) | {"row_group_size": row_group})
    return paths
