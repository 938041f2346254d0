"""What each result page takes to make, as processor seconds of its kernel with everything it imports, into data_manifests/receipts/result_times.json

Processor time and not wall time, so that what else the machine does matters little. `python .ci/result_times.py [page ...]` measures all pages, or
those named, and keeps what was measured of the others.
"""

import datetime
import json
import platform
import resource
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
RECEIPT = ROOT / "data_manifests" / "receipts" / "result_times.json"


def seconds(notebook: Path) -> float:
    "Processor seconds of one run in a fresh kernel; nothing is stored"
    used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before = used()
    NotebookClient(nbformat.read(notebook, 4), timeout=1200, resources={"metadata": {"path": str(notebook.parent)}}).execute()
    return round(used() - before, 1)


if __name__ == "__main__":
    kept = json.loads(RECEIPT.read_text())["seconds"] if RECEIPT.exists() else {}
    pages = sorted((ROOT / "nbs" / "results").glob("*.ipynb"))
    for page in [p for p in pages if p.stem in sys.argv[1:] or not sys.argv[1:]]:
        kept[page.stem] = seconds(page)
        print(page.stem, kept[page.stem], flush=True)
        receipt = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, one core",
            "command": "python .ci/result_times.py",
            "seconds": dict(sorted((k, v) for k, v in kept.items() if k in {p.stem for p in pages})),
        }
        RECEIPT.write_text(json.dumps(receipt, indent=1) + "\n")
