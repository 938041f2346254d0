"""A release, rehearsed: versions that agree, an sdist, a wheel made from that sdist, and the demo run by the wheel alone, outside the checkout

Uploads nothing. `--dist` names the folder of the two files, `--recipe` what the demo runs; one that fails names its step. `--rehearse` lets a
section *Unreleased* stand above the version in the changelog, as it does between two releases.
"""

import argparse
import configparser
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


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--dist", type=Path, default=ROOT / "dist")
    asked.add_argument("--recipe", default="toy")
    asked.add_argument("--rehearse", action="store_true", help="go on with a section Unreleased above the version")
    given = asked.parse_args()
    version = version_of(ROOT, given.rehearse)
    sdist, wheel = build(given.dist)
    with tempfile.TemporaryDirectory() as folder:
        report = demo_alone(wheel, given.recipe, Path(folder).resolve())
        if not report.exists():
            sys.exit("release: the demo wrote no report")
    print(f"release {version}: {sdist.name}, {wheel.name}; the wheel alone ran the demo. Nothing was uploaded.")
