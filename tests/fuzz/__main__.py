"`python -m tests.fuzz [--n 1000] [--first 0] [KIND ...]`: damaged copies of every kind of input, counted by what became of them"

import argparse
import sys

from .kinds import KINDS
from .trial import fuzz, table

parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)}; all by default")
parser.add_argument("--n", type=int, default=100, help="damaged copies of each")
parser.add_argument("--first", type=int, default=0, help="number of the first, which is its seed")
given = parser.parse_args()
results = {name: fuzz(name, given.n, given.first) for name in given.kinds or KINDS}
print(table(results))
for found in results.values():
    print("\n".join(found.faults))
sys.exit(any(found.faults for found in results.values()))
