"""A release, rehearsed: versions that agree, an sdist, a wheel made from that sdist, and the demo run by the wheel alone, outside the checkout

Uploads nothing. Beside the two files stand the bill of materials, made where `--tools` names the folder of cyclonedx-py, and the SHA-256 of each. `--dist` names
the folder of the files, `--recipe` what the demo runs; one that fails names its step. `--rehearse` lets a
section *Unreleased* stand above the version in the changelog, as it does between two releases.
"""

import argparse
import configparser
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def version_of(
    root: Path,  # Of the checkout
    rehearse: bool,  # The changelog may have a section Unreleased above the version
) -> str:
    "The version of settings.ini; ends the run where another file names another one"
    config = configparser.ConfigParser(delimiters=["="])
    config.read(root / "settings.ini", encoding="utf-8")
    version = config["DEFAULT"]["version"]
    places = {
        "dark_halo_scope/__init__.py": r'__version__ = "([^"]+)"',
        "CITATION.cff": r"(?m)^version: (.+)$",
        "CHANGELOG.md": r"(?m)^## (\S+)$",  # the newest stands first
    }
    for name, pattern in places.items():
        said = re.findall(pattern, (root / name).read_text())
        if rehearse and name == "CHANGELOG.md" and said[:1] == ["Unreleased"]:
            del said[0]
        if said[:1] != [version]:
            sys.exit(f"release: {name} says {said[0] if said else 'no version'}, settings.ini {version}")
    return version


def build(dist: Path) -> tuple[Path, Path]:  # sdist, wheel
    "The sdist of the checkout, and the wheel of what the sdist holds: what is missing from it is missing from both"
    dist.mkdir(parents=True, exist_ok=True)
    make = "import sys; from setuptools import build_meta; print(build_meta.build_{}(sys.argv[1]), file=sys.stderr)"
    subprocess.run([sys.executable, "-c", make.format("sdist"), str(dist)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    sdist = max(dist.glob("*.tar.gz"), key=lambda p: p.stat().st_mtime)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as packed:
            packed.extractall(folder, filter="data")
        (inside,) = Path(folder).iterdir()
        subprocess.run([sys.executable, "-c", make.format("wheel"), str(dist)], cwd=inside, stdout=subprocess.DEVNULL, check=True)
    return sdist, max(dist.glob("*.whl"), key=lambda p: p.stat().st_mtime)


def demo_alone(wheel: Path, recipe: str, folder: Path) -> Path:  # The report
    "`dhs demo` in a new environment that holds the wheel, and what it needs from the environment at hand, but not the checkout"
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    site = next((folder / "env" / "lib").glob("python*/site-packages"))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True
    )
    (site / "outer.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")) + "\n")
    where = [str(python), "-c", "import dark_halo_scope; print(dark_halo_scope.__file__)"]
    found = subprocess.run(where, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    if not found.startswith(str(site)):
        sys.exit(f"release: the environment imports {found}, not the wheel")
    dhs = str(folder / "env" / "bin" / "dhs")
    subprocess.run([dhs, "--help"], cwd=folder, stdout=subprocess.DEVNULL, check=True)
    subprocess.run([dhs, "demo", "--recipe", recipe, "--out", "run"], cwd=folder, check=True)
    return folder / "run" / "report.html"


def bill(
    tools: Path,  # Folder with cyclonedx-py
    version: str,
    made: list[Path],  # The files of the release
) -> Path:
    "The bill of materials: every package of the environment that built and tried the release, and what was made, with its SHA-256"
    command = [str(tools / "cyclonedx-py"), "environment", sys.executable, "--of", "JSON", "--output-reproducible"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    ours = next(c for c in found["components"] if c["name"].replace("-", "_") == "dark_halo_scope")
    found["components"].remove(ours)
    digests = [{"type": "distribution", "url": p.name, "hashes": [{"alg": "SHA-256", "content": sha256(p)}]} for p in made]
    found["metadata"]["component"] = {**ours, "version": version, "externalReferences": digests}
    path = made[0].parent / f"dark_halo_scope-{version}.cdx.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path


def sha256(path: Path) -> str:
    "Of a file's bytes"
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--dist", type=Path, default=ROOT / "dist")
    asked.add_argument("--recipe", default="toy")
    asked.add_argument("--tools", type=Path, help="folder of cyclonedx-py, for the bill of materials")
    asked.add_argument("--rehearse", action="store_true", help="go on with a section Unreleased above the version")
    given = asked.parse_args()
    version = version_of(ROOT, given.rehearse)
    sdist, wheel = build(given.dist)
    with tempfile.TemporaryDirectory() as folder:
        report = demo_alone(wheel, given.recipe, Path(folder).resolve())
        if not report.exists():
            sys.exit("release: the demo wrote no report")
    made = [sdist, wheel]
    if given.tools:
        made.append(bill(given.tools, version, made))
    (given.dist / "SHA256SUMS").write_text("".join(f"{sha256(path)}  {path.name}\n" for path in made))
    print(f"release {version}: {', '.join(path.name for path in made)}, SHA256SUMS; the wheel alone ran the demo. Nothing was uploaded.")
