"What each extra of settings.ini brings is enough for what it promises: every other package is hidden, and the code runs"

import configparser
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HIDE = """
from importlib.machinery import PathFinder

hidden, found = set({hidden!r}), PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, *rest: None if name.split(".")[0] in hidden else found(name, *rest))
"""
PAINT = """
import numpy as np
from dark_halo_scope.lensing.deflection import LensParams
from dark_halo_scope.lensing.psf import psf_from_psfsize
from dark_halo_scope.lensing.render import render_arcs
from dark_halo_scope.lensing.sources import SersicParams
from dark_halo_scope.stats.metrics import auroc

one = np.ones(2)
lens = LensParams(one, 0.8 * one, 0 * one, 0 * one, 0 * one, center_x=0 * one, center_y=0 * one)
source = SersicParams(0.1 * one, 0 * one, 0.2 * one, one, 0.9 * one, 0 * one, np.ones((2, 3)))
drawn = render_arcs(lens, source, psf_from_psfsize(np.full((2, 3), 1.3), 3.5))
print(drawn.shape, bool(drawn.sum() > 6), auroc([0.1, 0.9], [0, 1]).value)
"""
IMPORT = """
import importlib, pathlib
import dark_halo_scope

root, lost = pathlib.Path(dark_halo_scope.__file__).parent, {}
for file in sorted(root.rglob("*.py")):
    name = ".".join(("dark_halo_scope", *file.relative_to(root).with_suffix("").parts))
    if not file.stem.startswith("_"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            lost[name.split(".", 1)[1]] = error.name
print(lost)
"""


def packages(*extras: str) -> set[str]:
    "Import names of what an extra lists, by its distributions"
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    named = " ".join(config["DEFAULT"][f"{extra}_requirements" if extra else "requirements"] for extra in extras).split()
    spelt = {"pyyaml": "yaml", "scikit-learn": "sklearn", "scikit-image": "skimage", "pillow": "PIL"}
    names = {re.split(r"[<>=\[]", word)[0].lower() for word in named}
    return {spelt.get(name, name.replace("-", "_")) for name in names}


def run(hidden: set[str], code: str) -> subprocess.CompletedProcess:
    "A piece of code in a process where these packages are not installed"
    return subprocess.run([sys.executable, "-c", HIDE.format(hidden=sorted(hidden)) + code], cwd=ROOT, capture_output=True, text=True)


def test_a_bare_install_paints_and_counts() -> None:
    others = packages("search", "learn", "cloud", "notebook", "spark") - packages("")
    assert len(others) > 30 and {"torch", "yaml", "pyarrow", "matplotlib"} <= others
    done = run(others, PAINT)
    assert done.stdout.split("\n")[0] == "(2, 3, 64, 64) True 1.0", done.stderr[-2000:]


def test_a_bare_install_says_what_the_command_needs() -> None:
    done = run(packages("search"), "import runpy; runpy.run_module('dark_halo_scope', run_name='__main__')")
    assert done.returncode == 2 and done.stderr.startswith("dhs: ") and "pip install 'dark-halo-scope[search]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_room_loads_with_search_alone() -> None:
    "Looking through stamps in a notebook is what the extra notebook is for"
    done = run(packages("learn", "cloud", "notebook", "spark"), IMPORT)
    assert eval(done.stdout) == {"report.explore": "ipywidgets"}, done.stderr[-2000:]
