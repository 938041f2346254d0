"""Known weaknesses of the packages in this environment and in constraints.txt, as pip-audit finds them: `python .ci/audit.py`

It ends with 0 where every package was looked up and none is known to be weak, with 1 where one is, and with 2 where a package could not be looked up. pip-audit
itself ends with 0 when it found none of the packages.
"""

import json
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OURS = "dark_halo_scope"


def packages() -> list[str]:
    "NAME==VERSION of what is installed, and of what the constraints name"
    canonical = lambda name: re.sub(r"[-_.]+", "-", name).lower()
    pinned = re.findall(r"(?m)^([\w.-]+)==([\w.+-]+)", (ROOT / "constraints.txt").read_text())
    installed = [(d.metadata["Name"], d.version) for d in metadata.distributions() if d.metadata["Name"] and d.metadata["Name"] != OURS]
    return sorted({f"{canonical(name)}=={version.split('+')[0]}" for name, version in [*pinned, *installed]})


def asked(tool: str, wanted: list[str]) -> dict[str, Any]:
    "What pip-audit says of packages; raises OSError with its last line where it says nothing that can be read"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "packages.txt").write_text("\n".join(wanted) + "\n")
        command = [
            tool,
            "--requirement",
            f"{folder}/packages.txt",
            "--no-deps",
            "--disable-pip",
            "--format",
            "json",
            "--progress-spinner",
            "off",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        raise OSError((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]) from None


def verdict(
    answer: dict[str, Any],  # Of pip-audit
    wanted: list[str],  # What it was asked about
) -> tuple[int, list[str]]:  # Exit code and lines
    "Passed only where every package was looked up"
    seen = [d for d in answer.get("dependencies", ()) if "skip_reason" not in d]
    weak = [f"{d['name']} {d['version']}: {v['id']}, mended in {', '.join(v['fix_versions']) or 'none'}" for d in seen for v in d["vulns"]]
    if unseen := len(wanted) - len(seen):
        weak.append(f"audit: NOT PASSED: {unseen} of {len(wanted)} packages could not be looked up; is the advisory service within reach?")
        return (1 if len(weak) > 1 else 2), weak
    return (1, weak) if weak else (0, [f"audit: {len(seen)} packages looked up, none is known to be weak"])


if __name__ == "__main__":
    wanted = packages()
    try:
        code, lines = verdict(asked(sys.argv[1] if len(sys.argv) > 1 else "pip-audit", wanted), wanted)
    except (OSError, subprocess.TimeoutExpired) as error:
        code, lines = 2, [f"audit: NOT PASSED: no answer about {len(wanted)} packages ({error})"]
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    sys.exit(code)
