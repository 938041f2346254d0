"""The lesson cells of the library's notebooks as tests of the exported modules: `pytest .ci/lessons.py -k stats`

`make test` runs the notebooks themselves, whose exported cells define what the lessons use. Here the lessons use the files that are imported, so that a
change of a file is seen.
"""

import re
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from execnb.nbio import read_nb
from execnb.shell import CaptureShell

ROOT = Path(__file__).parents[1]
ROOMS = ("base", "lensing", "stats", "injection", "trust")
PAGES = [page for room in ROOMS for page in sorted((ROOT / "nbs" / room).glob("*.ipynb"))]
SKIPPED = re.compile(r"(?m)^#\|\s*(eval:\s*false|slow|notest)|nbdev_export\(")
IMPORTED = "import {name} as _page\nglobals().update({{k: v for k, v in vars(_page).items() if not k.startswith('__')}})"


def cells(page: Path) -> Iterator[str]:
    "The code of a page, its exported cells imported"
    name = ""
    for cell in read_nb(page).cells:
        if found := re.match(r"#\|\s*default_exp\s+(\S+)", cell.source):
            name = f"dark_halo_scope.{found.group(1)}"
        if cell.cell_type == "code" and name and not SKIPPED.search(cell.source):
            yield IMPORTED.format(name=name) if re.search(r"(?m)^#\|\s*exporti?\b", cell.source) else cell.source


@pytest.mark.parametrize("page", PAGES, ids=[f"{page.parent.name}/{page.stem}" for page in PAGES])
def test_lesson(page: Path) -> None:
    shell = CaptureShell(page.parent)
    with chdir(page.parent):
        for source in cells(page):
            shell.run(source)
            if shell.exc:
                raise AssertionError(f"{source}\n{shell.exc!r}")
