"A small list of candidates with planted cards, and `dhs grade` as a process of its own, for the tests of grading"

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from dark_halo_scope.base.receipts import write_table
from dark_halo_scope.stamps.codec import encode

NAMES = [f"DESI-{150 + i / 100:08.4f}+02.0000" for i in range(2000)]


def images(n, seed=0):
    "Galaxies with noise; every one is different"
    y, x = np.mgrid[:64, :64] - 31.5
    rng = np.random.default_rng(seed)
    light = rng.uniform(0.2, 1.0, (n, 1, 1)) * np.exp(-np.hypot(x, y / 0.8) / rng.uniform(3, 6, (n, 1, 1)))
    return (light[:, None] * np.array([0.3, 0.7, 1.0])[:, None, None] + rng.normal(0, 0.005, (n, 3, 64, 64))).astype(np.float32)


def write_list(folder, n=40, lenses=8, others=5):
    "candidates.parquet, stamps.parquet, lenses.parquet, others.parquet in a folder; the arguments that grade them: by default 6 lenses and 4 others are planted, 2 and 1 are examples"
    folder = Path(folder)
    identity = {
        "release": pa.array([10000] * n, pa.int16()),
        "brickid": pa.array([331] * n, pa.int32()),
        "objid": pa.array(range(n), pa.int32()),
    }
    write_table(pa.table({"name": NAMES[:n], **identity, "grade": pa.nulls(n, pa.string())}), folder / "candidates.parquet")
    back = pa.array(range(n - 1, -1, -1))
    stamps = pa.table({**identity, **encode(images(n), "float16"), "cutout_ok": [True] * n})
    write_table(stamps.take(back), folder / "stamps.parquet")
    write_table(
        pa.table({"task_id": [f"lens {i}" for i in range(lenses)], **encode(images(lenses, 1), "float16")}), folder / "lenses.parquet"
    )
    write_table(
        pa.table({"task_id": [f"other {i}" for i in range(others)], **encode(images(others, 2), "float16")}), folder / "others.parquet"
    )
    return [str(folder / "candidates.parquet"), "--lenses", str(folder / "lenses.parquet"), "--non-lenses", str(folder / "others.parquet")]


class Served:
    "`dhs grade` running; `addresses` of the graders, `kill` as a crash would"

    def __init__(self, arguments, graders, port=0, log=None):
        command = [sys.executable, "-m", "dark_halo_scope", "grade", *arguments, "--port", str(port)]
        command += [part for grader in graders for part in ("--grader", grader)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log or subprocess.DEVNULL)
        self.addresses, told, end = {}, "", time.monotonic() + 120
        while len(self.addresses) < len(graders):
            if time.monotonic() > end or self.process.poll() is not None:
                self.kill()
                raise RuntimeError(f"dhs grade printed no address, ended with {self.process.returncode}: {told}")
            told += self.printed()
            for name, address, port in re.findall(r"(\w+): (http://127\.0\.0\.1:(\d+)/[\w-]+/)\n", told):
                self.addresses[name], self.port = address, int(port)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.kill()

    def printed(self):
        "What it has printed since it was last asked"
        told = self.process.stdout.fileno()
        return os.read(told, 1_000_000).decode() if select.select([told], [], [], 0.2)[0] else ""

    def kill(self):
        "SIGKILL: no chance to tidy up"
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
