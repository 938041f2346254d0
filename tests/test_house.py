"The house keeps its own rules: what importing costs, what notebooks hold, what a wheel carries"

import ast
import functools
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(
    p
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if not any(part.startswith((".", "_")) or part == "runs" for part in p.relative_to(ROOT).parts)
)


@functools.cache
def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, 4)


def exported(cell: nbformat.NotebookNode) -> bool:
    return cell.cell_type == "code" and cell.source.lstrip().startswith("#| export")


@pytest.mark.parametrize("module", ["injection.paint", "lists.positions"], ids=["painting", "fetching"])
def test_what_needs_no_network_loads_neither_torch_nor_lenstronomy(module: str) -> None:
    heavy = "('torch', 'lenstronomy', 'matplotlib', 'pyspark')"
    code = f"import sys, dark_halo_scope.{module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_needs_no_writable_place(tmp_path: Path) -> None:
    "numba compiles when it is first asked to paint, into a scratch folder; importing leaves no file behind"
    code = "import dark_halo_scope.injection.paint, dark_halo_scope.run.products"
    subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=tmp_path,
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        check=True,
    )
    assert not [p for p in tmp_path.rglob("*.nb[ic]")]


def test_sources_are_read_word_by_word_once(tmp_path: Path) -> None:
    "By the first process; the second takes what it found, a third without the file or with half of it finds the same again"
    first = "from dark_halo_scope.base import resources as r; "
    lame = "r._tokens = r._imports = None; "
    last = "print(r.code_of('run.products', 'learning.training'))"

    def said(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True)
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

    assert "not callable" in said(first + lame + last)
    found = said(first + last)
    assert len(found) == 12 and said(first + lame + last) == found
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text(kept.read_text()[:-9])
    assert said(first + last) == found
    changed = first + "print(r._found().facts('a', 'import os') != r._found().facts('a', 'import io'))"
    assert said(changed) == "True"


def module_imports() -> dict[str, set[str]]:
    "What each module of the package imports from the package, inside functions too"
    files = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in (ROOT / "dark_halo_scope").rglob("*.py")
    }
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        used: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                start = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
                module = ".".join(part for part in (start, node.module) if part)
                used |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        graph[name] = {u for u in used if u in files and u != name and u != "dark_halo_scope"}
    return graph


def cycle_of(graph: dict[str, set[str]]) -> list[str]:
    "A ring of imports, such as a, b, a; empty where there is none"
    done: set[str] = set()

    def follow(name: str, path: tuple[str, ...]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if ring := follow(other, (*path, name)):
                return ring
        done.add(name)
        return []

    return next((ring for name in sorted(graph) if (ring := follow(name, ()))), [])


def test_no_module_imports_itself_through_others() -> None:
    "Layers forbid a cycle between rooms; this forbids it inside a room as well"
    assert cycle_of({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"] and not cycle_of({"a": {"b"}, "b": set()})
    graph = module_imports()
    assert len(graph) > 100 and "dark_halo_scope.base.errors" in graph["dark_halo_scope.base.receipts"]
    assert not (ring := cycle_of(graph)), "import cycle: " + " -> ".join(ring)


def test_pages_name_the_rooms_that_the_contracts_list() -> None:
    "From the ground up on the front pages; in the sidebar each has a title"
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    rooms = [name.strip().split(".")[1] for layer in reversed(layers) for name in reversed(layer.split("|"))]
    assert sorted(rooms) == sorted(p.name for p in (ROOT / "dark_halo_scope").iterdir() if (p / "__init__.py").exists())
    readme = (ROOT / "README.md").read_text().split("## The house")[1].split("A search imports")[0]
    assert re.findall(r"\*\*(\w+)\*\*", readme) == rooms
    assert f"in the order {', '.join(rooms)}." in (ROOT / "nbs" / "index.ipynb").read_text()
    titled = re.findall(r'section: "(\w+): [^"]+"\n +contents: (\w+)/\*', (ROOT / "_quarto.yml").read_text())
    assert sorted(room for room, folder in titled if room == folder) == sorted(rooms)


def homes_of_names(sources: dict[str, str]) -> dict[str, list[str]]:
    "The modules that define each public name"
    homes: dict[str, list[str]] = {}
    for module, source in sources.items():
        for node in ast.parse(source).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
            for name in {getattr(t, "id", getattr(t, "name", "_")) for t in targets}:
                if not name.startswith("_"):
                    homes.setdefault(name, []).append(module)
    return homes


def test_a_public_name_has_one_home() -> None:
    "A name of one module means nothing else in another; PRODUCTS lists in each room what that room makes"
    assert homes_of_names({"a": "X = 1\ndef f(): ...", "b": "X: int = 2\n_Y = 1\nimport os"}) == {"X": ["a", "b"], "f": ["a"]}
    sources = {str(p.relative_to(ROOT)): p.read_text() for p in (ROOT / "dark_halo_scope").rglob("*.py") if not p.name.startswith("_")}
    homes = homes_of_names(sources)
    assert len(homes) > 2000
    assert not (twice := {name: files for name, files in homes.items() if len(set(files)) > 1 and name != "PRODUCTS"}), twice


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_a_notebook_is_a_page(path: Path) -> None:
    cells = read(path).cells
    lines = [line for line in cells[0].source.splitlines() if line.strip()]
    assert cells[0].cell_type == "markdown" and lines[0].startswith("# ") and all(line.startswith("> ") for line in lines[1:]), (
        "a title and a promise, alone in the first cell"
    )
    assert len(lines) > 1, "a one-line promise under the title"
    for cell in cells:
        if exported(cell):
            code = [line for line in cell.source.splitlines() if line.strip() and not line.startswith("#|")]
            assert len(code) <= 80, f"an exported cell of {len(code)} lines: {code[0]}"
            assert "import *" not in cell.source
        assert not any(output.get("output_type") == "error" for output in cell.get("outputs", [])), "an error in the stored outputs"


LIBRARY = [path for path in NOTEBOOKS if any(exported(cell) for cell in read(path).cells)]
MEASURED_BY_HAND = {"bench.endurance"}  # Spark sessions take too long to start: the page shows the receipt's row, `make full` the bench


def code_lines(cell: nbformat.NotebookNode) -> int:
    return len([line for line in cell.source.splitlines() if line.strip() and not line.startswith("#|")])


def name_of(node: ast.AST) -> str:
    "The last part of a dotted name; empty for anything else"
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def called(tree: ast.AST) -> set[str]:
    """What a piece of code calls: a name before brackets, one handed to a call, an entry of a table, a decorator, a property, a maker's address

    A function that stands in an annotation or an import is mentioned, not called. A class or a constant, which begin with a capital, is at
    work wherever it is named: a table of numbers is not called.
    """
    nodes = list(ast.walk(tree))
    used = [v for n in nodes if isinstance(n, ast.Call) for v in (n.func, *n.args, *(k.value for k in n.keywords))]
    used += [v for n in nodes if isinstance(n, ast.Tuple | ast.List | ast.Set) for v in n.elts]
    used += [v for n in nodes if isinstance(n, ast.Dict) for v in n.values]
    used += [v for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef) for v in n.decorator_list]
    used += [n.value for n in nodes if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Attribute)]
    used += [n for n in nodes if isinstance(n, ast.Attribute) or (isinstance(n, ast.Name) and n.id[:1].isupper())]
    texts = [str(n.value) for n in nodes if isinstance(n, ast.Constant)]
    return {name_of(n) for n in used} - {""} | {text.split(":")[1] for text in texts if re.fullmatch(r"[a-z_.]+:[a-z_]+", text)}


def test_a_mention_is_not_a_call() -> None:
    code = "from x import a\n@b\ndef f(v: c) -> d:\n    return [e(v), map(g, v)]\nT = {'h': h}\nk = l"
    assert called(ast.parse(code)) == {"b", "e", "v", "map", "g", "h", "T"}


def not_at_work(path: Path) -> set[str]:
    "Public functions and classes that no lesson of their page calls, itself or through what it calls; phases are the lessons of `run`"
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    lessons = [cell for cell in cells if not exported(cell)]
    if path.parent.name in ("run", "report", "command"):  # the page of the summary makes every product
        lessons += [cell for cell in read(ROOT / "nbs" / "run" / "summary.ipynb").cells if cell.cell_type == "code" and not exported(cell)]
        lessons += [cell for p in (ROOT / "nbs" / "phases").glob("*.ipynb") for cell in read(p).cells if cell.cell_type == "code"]
    uses: dict[str, set[str]] = {}
    public: set[str] = set()
    on_the_line: set[str] = set()
    for statement in (s for cell in cells if exported(cell) for s in ast.parse(cell.source).body):
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            uses[statement.name] = called(statement)
            registered = any(
                {"command", "callback"} & called(d) for d in statement.decorator_list
            )  # reached through `app`, on the command line
            on_the_line |= uses[statement.name] if registered else set()
            public |= set() if statement.name.startswith("_") or registered else {statement.name}
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            uses |= {target.id: called(statement)} if isinstance(target, ast.Name) else {}
    reached: set[str] = set()
    waiting = on_the_line.union(*(called(ast.parse(cell.source)) for cell in lessons)) & set(uses)
    while waiting:
        reached |= (name := {waiting.pop()})
        waiting |= (set().union(*(uses[n] for n in name)) & set(uses)) - reached
    return public - reached


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_what_a_page_exports_is_at_work_on_it(path: Path) -> None:
    if f"{path.parent.name}.{path.stem}" in MEASURED_BY_HAND:
        pytest.skip("takes too long for a page: `dhs bench endurance`")
    assert not not_at_work(path)


FORMULAS = {
    "stats.metrics",
    "stats.calibration",
    *(f"lensing.{name}" for name in ("cosmology", "deflection", "psf", "sources", "visibility")),
}


def called_nowhere(path: Path) -> tuple[list[str], int]:  # Public functions that no lesson of the page calls itself; how many there are
    "A stricter count than what is at work: the reader sees the call"
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    lessons = set().union(*(called(ast.parse(cell.source)) for cell in cells if not exported(cell)))
    defined = [s for cell in cells if exported(cell) for s in ast.parse(cell.source).body if isinstance(s, ast.FunctionDef)]
    public = [s.name for s in defined if not s.name.startswith("_") and not any("command" in called(d) for d in s.decorator_list)]
    return [name for name in public if name not in lessons], len(public)


def test_formulas_are_evaluated_where_they_stand() -> None:
    "Each public function of statistics and of the lens's physics is called by a lesson of its own page; of all others at least two in three"
    counted = {f"{path.parent.name}.{path.stem}": called_nowhere(path) for path in LIBRARY}
    assert FORMULAS <= set(counted)
    assert not {name: missing for name, (missing, _) in counted.items() if missing and name in FORMULAS}
    rest = [counts for name, counts in counted.items() if name not in FORMULAS]
    assert sum(len(missing) for missing, _ in rest) <= sum(n for _, n in rest) / 3


@pytest.mark.parametrize("path", sorted((ROOT / "nbs" / "phases").glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_phase_defines_nothing(path: Path) -> None:
    cells = read(path).cells
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    for statement in ast.parse(tagged[0].source).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)
    for cell in cells:
        assert not exported(cell) and not cell.get("outputs")
        if cell.cell_type == "code":
            assert not any(isinstance(s, ast.FunctionDef | ast.ClassDef) for s in ast.parse(cell.source).body)


def test_results_and_libraries_show_what_they_claim() -> None:
    "The site shows stored outputs, so a results page without any would be empty"
    for path in sorted((ROOT / "nbs" / "results").glob("*.ipynb")):
        assert any(c.get("outputs") for c in read(path).cells), path.name


def test_every_result_stands_once_in_the_index_with_what_it_took() -> None:
    named = " ".join(re.findall(r"{{< results (.*?) >}}", (ROOT / "nbs" / "results" / "index.qmd").read_text())).split()
    pages = sorted(path.stem for path in (ROOT / "nbs" / "results").glob("*.ipynb"))
    assert sorted(named) == pages
    assert sorted(json.loads((ROOT / "data_manifests" / "receipts" / "result_times.json").read_text())["seconds"]) == pages, (
        "python .ci/result_times.py PAGE"
    )


@pytest.mark.parametrize("path", sorted((ROOT / "data_manifests" / "receipts").glob("*.json")), ids=lambda p: p.stem)
def test_a_committed_receipt_says_when_where_and_how_it_was_made(path: Path) -> None:
    receipt = json.loads(path.read_text())
    said = receipt | receipt.get("run", {})
    assert said.keys() & {"date", "made", "finished"} and said.keys() & {"command", "made_by"} and "machine" in said


def test_a_release_wants_the_changelog_of_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "A section Unreleased may stand above it in a rehearsal only"
    monkeypatch.setattr(sys, "path", [str(ROOT / ".ci"), *sys.path])
    from release import version_of

    (tmp_path / "dark_halo_scope").mkdir()
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nversion = 0.2.0\n")
    (tmp_path / "dark_halo_scope" / "__init__.py").write_text('__version__ = "0.2.0"\n')
    (tmp_path / "CITATION.cff").write_text("version: 0.2.0\n")
    changelog = tmp_path / "CHANGELOG.md"
    for text, rehearse, said in (
        ("## 0.2.0\n\n## 0.1.0\n", False, ""),
        ("## Unreleased\n\n## 0.2.0\n", True, ""),
        ("## Unreleased\n\n## 0.2.0\n", False, "CHANGELOG.md says Unreleased"),
        ("## Unreleased\n\n## 0.1.0\n", True, "CHANGELOG.md says 0.1.0"),
        ("## Unreleased\n", True, "CHANGELOG.md says no version"),
    ):
        changelog.write_text(text)
        if said:
            with pytest.raises(SystemExit, match=said):
                version_of(tmp_path, rehearse)
        else:
            assert version_of(tmp_path, rehearse) == "0.2.0"


@pytest.mark.slow
def test_the_wheel_alone_runs_the_demo(tmp_path: Path) -> None:
    "A release rehearsed: built from its sdist, installed without the checkout, and asked for the whole toy search"
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "release.py"), "--rehearse", "--dist", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0 and "the wheel alone ran the demo" in done.stdout, done.stderr[-3000:]
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as sdist, zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed, inside = "\n".join(sdist.getnames()), "\n".join(wheel.namelist())
    assert all(name in inside for name in ("phase3_parent.ipynb", "recipes/demo.yaml", "generations/gen1.yaml", "search/grading.html"))
    assert "data_manifests/models/small.safetensors" in packed and "settings.ini" in packed
