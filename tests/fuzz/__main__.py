"`python -m tests.fuzz [--n 1000] [--first 0] [--receipt FILE] [KIND ...]`: damaged copies of every kind of input, counted by what became of them"

import argparse
import sys
from pathlib import Path

from .kinds import KINDS
from .trial import fuzz, table, write_receipt

parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)}; all by default")
parser.add_argument("--n", type=int, default=100, help="damaged copies of each")
parser.add_argument("--first", type=int, default=0, help="number of the first, which is its seed")
parser.add_argument("--receipt", type=Path, help="file to keep the counts in, beside those of other kinds")
given = parser.parse_args()
results = {name: fuzz(name, given.n, given.first) for name in given.kinds or KINDS}
print(table(results))
for found in results.values():
    print("\n".join(found.faults))
if given.receipt:
    write_receipt(given.receipt, results, given.n, given.first)
sys.exit(any(found.faults for found in results.values()))
