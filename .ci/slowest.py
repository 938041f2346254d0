"""The slowest tests, as a table in CONTRIBUTING.md between its two marks

`make test` leaves the times of its tests in runs/tests.xml; `python .ci/slowest.py [XML ...]` writes the table from that file, or from those named.
A test's time is by the clock and counts what it sets up: the first to ask for a shared run pays for it.
"""

import datetime
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
MARKS = ("<!-- slowest tests: python .ci/slowest.py -->", "<!-- end of slowest tests -->")
ROWS = 30


def times(files: Iterable[Path]) -> dict[str, float]:
    "Seconds of every test by file and name; of several turns the last one's"
    found: dict[str, float] = {}
    for file in files:
        for case in ElementTree.parse(file).iter("testcase"):
            name = f"{case.get('classname', '').rsplit('.', 1)[-1]}::{case.get('name')}"
            found[name] = float(case.get("time", 0))
    return found


def table(seconds: dict[str, float], date: str) -> str:
    "The slowest tests in Markdown, with what all of them take"
    slowest = sorted(seconds.items(), key=lambda item: (-item[1], item[0]))[:ROWS]
    head = f"{len(seconds)} tests took {sum(seconds.values()):.0f} s of two processes on {date}; the slowest:"
    return "\n".join([head, "", "| test | s |", "|---|---:|", *(f"| `{name}` | {s:.1f} |" for name, s in slowest)])


def placed(text: str, made: str) -> str:
    "The page with the table between its marks; raises ValueError where it has none"
    before, mark, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        raise ValueError(f"expected the marks {MARKS[0]} and {MARKS[1]}")
    return f"{before}{MARKS[0]}\n{made}\n{MARKS[1]}{after}"


if __name__ == "__main__":
    page = ROOT / "CONTRIBUTING.md"
    files = [Path(name) for name in sys.argv[1:]] or [ROOT / "runs" / "tests.xml"]
    page.write_text(placed(page.read_text(), table(times(files), datetime.date.today().isoformat())))
