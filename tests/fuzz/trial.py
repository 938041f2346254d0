"What a reader does with a damaged file"

import datetime
import json
import os
import platform
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dark_halo_scope.base.errors import BadInput

from .damage import damaged
from .kinds import KINDS, Kind

LONGEST = 20  # A reader that takes longer hangs [s]
GOOD = ("refused", "same", "as it says", "no sum")
BAD = ("silent", "traceback", "unnamed", "hang")


class Hang(BaseException):
    "The reader took too long"


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    "Ends what takes longer"

    def end(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(kind: Kind, path: Path, wanted: Any) -> tuple[str, str]:  # One of GOOD or BAD, and what was said
    "What becomes of one damaged file"
    try:
        with limited(LONGEST):
            found = kind.read(path)
    except Hang:
        return "hang", ""
    except BadInput as error:
        line = str(error)
        one_line = "\n" not in line and any(part in line for part in (path.name, kind.named(path).name))
        return "refused" if one_line else "unnamed", line
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    if found == wanted:
        return "same", ""
    if kind.says and kind.says(path.read_bytes(), found):
        return "as it says", ""
    return "no sum" if kind.blind else "silent", ""


@dataclass
class Found:
    "What became of many damaged files of a kind"

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*GOOD, *BAD), 0))
    faults: list[str] = field(default_factory=list)  # Seed, damage and what was said
    seconds: float = 0.0


def fuzz(
    name: str,  # Of a kind
    n: int,  # Damaged copies
    first: int = 0,  # Number of the first
) -> Found:
    "Reads damaged copies of one good file"
    kind, found, started = KINDS[name], Found(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = kind.make(Path(folder))
        data, wanted = path.read_bytes(), kind.read(path)
        for number in range(first, first + n):
            seed = f"{name} {number}"
            way, spoilt = damaged(data, seed, kind.text)
            path.write_bytes(spoilt)
            what, said = outcome(kind, path, wanted)
            found.counts[what] += 1
            if what in BAD:
                found.faults.append(f"{seed!r}, {way}: {what} {said}"[:400])
        path.write_bytes(data)
        assert kind.read(path) == wanted, "the good file reads as before"
    found.seconds = time.monotonic() - started
    return found


def table(results: dict[str, Found]) -> str:
    "A table for people"
    lines = [f"{'':14}" + "".join(f"{word:>12}" for word in (*GOOD, *BAD)) + f"{'seconds':>10}"]
    for name, found in results.items():
        lines.append(f"{name:14}" + "".join(f"{found.counts[word]:>12}" for word in (*GOOD, *BAD)) + f"{found.seconds:>10.1f}")
    return "\n".join(lines)


def write_receipt(path: Path, results: dict[str, Found], n: int, first: int) -> None:
    "Keeps the counts of each kind, with when and where they were made"
    kept = json.loads(path.read_text())["kinds"] if path.exists() else {}
    made = {"date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    for name, found in results.items():
        kept[name] = made | {"copies": n, "first": first} | found.counts
    receipt = {"made_by": f"python -m tests.fuzz --n {n} --first {first} --receipt FILE"} | made | {"kinds": kept}
    path.write_text(json.dumps(receipt, indent=1) + "\n")
