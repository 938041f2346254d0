"What `.ci/docstrings.py` makes of docments, and that it changes neither what a notebook says nor the name of any product"

import ast
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dark_halo_scope.base.resources import _tokens

ROOT = Path(__file__).parents[1]
MODULES = sorted(p for p in (ROOT / "dark_halo_scope").rglob("*.py") if not p.name.startswith("_"))
BEFORE = '''
def _positive(value: float) -> float:
    "Private: no sections of its own"
    if value <= 0:
        raise BadInput(f"q is {value}; expected more than 0")
    return value


def bend(
    theta_E: np.ndarray,  # (n,) Einstein radius [arcsec]
    *,
    q: float = 1.0,  # Axis ratio
    backend: str = "numba",
) -> np.ndarray:  # (n, 2) [arcsec]
    """Deflection of \\\\theta

    `alpha = theta_E`
    """
    if backend not in DRAWN:
        raise unknown_name("backend", backend, DRAWN)
    try:
        raise BadInput("never seen outside")
    except ValueError:
        pass
    if q > LONG.chain_of_names.that_would_say(nothing_to_a_reader):
        raise BadInput(f"q is {q}, more than {LONG.chain_of_names.that_would_say(nothing_to_a_reader)}")
    return theta_E * _positive(q)


@dataclass(frozen=True)
class Psf:
    "One width per band"

    fwhm: np.ndarray  # (n, n_band) [arcsec]
    bands: tuple[str, ...] = ("g", "r")  # In the order of flux

    @property
    def n(self) -> int:
        "Number of systems"
        return len(self.fwhm)


@app.command("score")
def score(
    out: str,  # Folder
) -> None:
    "The help that `dhs score --help` prints"
'''
BEND = '''    """Deflection of \\\\theta

    `alpha = theta_E`

    Parameters
    ----------
    theta_E : np.ndarray
        (n,) Einstein radius [arcsec]
    q : float, default 1.0
        Axis ratio
    backend : str, default 'numba'

    Returns
    -------
    np.ndarray
        (n, 2) [arcsec]

    Raises
    ------
    BadInput
        unknown backend
        q is {q}, more than ...
        q is {value}; expected more than 0
    """
'''
PSF = '''    """One width per band

    Attributes
    ----------
    fwhm : np.ndarray
        (n, n_band) [arcsec]
    bands : tuple[str, ...], default ('g', 'r')
        In the order of flux
    """
'''


@pytest.fixture
def docstrings(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    "The step itself"
    monkeypatch.setattr(sys, "path", [str(ROOT / ".ci"), *sys.path])
    import docstrings

    return docstrings


def test_docments_become_sections(docstrings: ModuleType) -> None:
    after = docstrings.rewritten(BEFORE)
    assert BEND in after and PSF in after
    untouched = ('    "Private: no sections of its own"\n', '    "Number of systems"\n', '    "The help that `dhs score --help` prints"\n')
    assert all(text in after for text in untouched)
    long = '    """Deflection of \\\\theta\n\n    `alpha = theta_E`\n    """\n'
    changed = after.replace(BEND, long).replace(PSF, '    "One width per band"\n')
    assert changed == BEFORE  # and nothing else
    assert docstrings.rewritten(after, strip=True) == BEFORE


def test_a_changed_comment_replaces_what_was_made(docstrings: ModuleType) -> None:
    after = docstrings.rewritten(docstrings.rewritten(BEFORE).replace("# Axis ratio", "# Minor-to-major axis ratio"))
    assert after == docstrings.rewritten(BEFORE.replace("# Axis ratio", "# Minor-to-major axis ratio"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_the_library_is_carried_there_and_back(docstrings: ModuleType, path: Path) -> None:
    source = path.read_text()
    made, plain = docstrings.rewritten(source), docstrings.rewritten(source, strip=True)
    assert docstrings.rewritten(made) == made and docstrings.rewritten(made, strip=True) == plain
    assert _tokens(made) == _tokens(plain)  # what names a product is hashed from these


def test_notebooks_stay_short(docstrings: ModuleType) -> None:
    "Sections that `nbdev_update` carried into a notebook; `make update` takes them out first"
    carried = [p.name for p in (ROOT / "nbs").rglob("*.ipynb") if "-----\\n" in (t := p.read_text()) and "Parameters\\n" in t]
    assert not carried


def test_works_that_docstrings_cite_stand_in_the_bibliography() -> None:
    known = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "nbs" / "references.bib").read_text(), re.MULTILINE))
    cited: dict[str, str] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for inside in re.findall(r"\[([^\]\n]+)\]", ast.get_docstring(node) or ""):
                    cited |= {key: f"{path.stem}.{node.name}" for key in re.findall(r"\b[A-Z][A-Za-z]+(?:19|20)\d\d[a-z]?\b", inside)}
    assert len(cited) > 12 and not {key: at for key, at in cited.items() if key not in known}
