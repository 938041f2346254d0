"""Small faults put into the library one by one, and the tests that should notice: `python .ci/mutants.py [--each 40] [--seed 1] [ROOM ...]`

cosmic-ray makes the faults: an operator, a comparison, a number, a decorator or an exception is another one. So many of each room are drawn. The tests that run
a fault's line, as coverage saw them once, are tried on it, the quickest first, in a copy of the tree. The share that a test notices is kept by room in
data_manifests/receipts/mutation.json, with the faults that no test noticed. It ends with 1 where a room is below its target.

What each file of tests runs is kept in runs/mutants, and what became of each fault: a run that was stopped goes on, and one after a change of tests tries
anew only what they may decide. A larger --each has the faults of a smaller one.
"""

import argparse
import ast
import datetime
import hashlib
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WORK = ROOT / "runs" / "mutants"
TREE = WORK / "tree"
RECEIPT = ROOT / "data_manifests" / "receipts" / "mutation.json"
ROOMS = ("base", "lensing", "stats", "injection", "trust")
TARGET = 0.85  # Of a room's mutants
BUDGET = 30.0  # Of the tests tried on one mutant, by the time they took without it [s]
# Not in the process that is mutated, or about the files of the checkout
WITHOUT = "bibliography docstrings explore_browser fuzz guards_deleted house install results_lessons run_* site_* tutorials".split()
sys.path += [
    str(folder) for folder in (ROOT / "runs" / "tools").glob("lib/python*/site-packages")
]  # cosmic-ray and coverage, behind our own


def copy_tree() -> None:
    "The tracked files in another folder; a comment ends each module, so that what compares the code with its hash is red before any mutant"
    shutil.rmtree(TREE, ignore_errors=True)
    for name in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (TREE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, TREE / name)
    for module in (TREE / "dark_halo_scope").rglob("*.py"):
        module.write_text(module.read_text() + "# a copy\n")


def in_child(work: Callable[[], int], seconds: float, log: Path, cache: Path) -> int | None:
    "The exit code of a function in a process of its own, inside the copy; None where it takes too long"
    if child := os.fork():
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None
    try:
        os.setsid()
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        os.chdir(TREE)
        sys.path[0] = str(TREE)
        os.environ |= {"PYTHONPATH": str(TREE), "NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        code = work()
    except BaseException as error:
        print(repr(error))
        code = 99
    sys.stdout.flush()
    os._exit(code)


def preload() -> None:
    "What every test needs and no mutant changes"
    import astropy.table  # noqa: F401
    import coverage  # noqa: F401
    import execnb.shell  # noqa: F401
    import hypothesis  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import numba  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch  # noqa: F401


# ---- which tests run which line


class Watch:
    "As a plugin of pytest: tells coverage which test runs, and keeps what each took"

    def __init__(self, cov: Any) -> None:
        import pytest

        self.cov, self.seconds, self.red = cov, {}, set()
        self.pytest_runtest_setup = pytest.hookimpl(tryfirst=True)(lambda item: cov.switch_context(f"setup|{item.nodeid.split('::')[0]}"))
        self.pytest_runtest_call = pytest.hookimpl(tryfirst=True)(lambda item: cov.switch_context(item.nodeid))
        self.pytest_runtest_teardown = pytest.hookimpl(tryfirst=True)(lambda item: cov.switch_context("teardown|"))

    def pytest_collection_modifyitems(self, items: list) -> None:
        "Not what needs a run made by other processes"
        items[:] = [item for item in items if "toy" not in item.fixturenames]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.outcome != "passed":
            self.red.add(report.nodeid)
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


def test_files(tests: list[str]) -> list[str]:
    "The files of tests in what was asked for, but for those left out"
    left_out = [pattern for name in WITHOUT for pattern in TREE.glob(f"tests/test_{name}.py")]
    found = [p for name in tests for p in (sorted((TREE / name).glob("test_*.py")) if (TREE / name).is_dir() else [TREE / name])]
    return [str(p.relative_to(TREE)) for p in found if p not in left_out]


def survey_of(test: str) -> Path:
    "Where the survey of a file of tests is kept: another place once the file changes, or the library, its pages or what tests share"
    shared = [
        *TREE.glob("dark_halo_scope/**/*.py"),
        *TREE.glob("nbs/**/*.ipynb"),
        *TREE.glob("tests/**/*.py"),
        *TREE.glob("data_manifests/**/*.y*ml"),
    ]
    kept = [p for p in shared if not p.name.startswith("test_")] + [TREE / test]
    digest = hashlib.blake2b(b"".join(p.read_bytes() for p in sorted(kept)), digest_size=8).hexdigest()
    return WORK / "surveys" / f"{Path(test).stem} {digest}"


def survey(test: str, kept: Path) -> int:
    "Runs a file of tests once; leaves what covers what"
    import coverage
    import pytest

    cov = coverage.Coverage(data_file=str(kept / "coverage"), source=[str(TREE / "dark_halo_scope")], config_file=False)
    cov.erase()
    watch = Watch(cov)
    cov.start()
    pytest.main(["-q", "-n", "0", "-m", "not slow and not gpu and not browser", test], plugins=[watch])
    cov.stop()
    cov.save()
    took = {name: round(s, 2) for name, s in watch.seconds.items() if name not in watch.red}
    (kept / "tests.json").write_text(json.dumps({"seconds": took, "red": sorted(watch.red)}, indent=1))
    return 0


def surveyed(tests: list[str], again: bool) -> list[Path]:
    "The surveys of files of tests, each made where it is not kept from before"
    places = []
    for test in test_files(tests):
        kept, started = survey_of(test), time.monotonic()
        if again or not (kept / "tests.json").exists():
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            code = in_child(lambda test=test, kept=kept: survey(test, kept), 1800, kept / "log", WORK / "kernels")
            if code != 0:
                sys.exit(f"mutants: {test} did not run without a mutant (exit {code}): see {kept}/log")
            found = json.loads((kept / "tests.json").read_text())
            print(f"{test}: {len(found['seconds'])} tests, {len(found['red'])} not used, {time.monotonic() - started:.0f} s", flush=True)
        places.append(kept)
    return places


def statement(tree: ast.Module, line: int) -> tuple[int, int]:
    "First and last line of the innermost statement around a line; of an `if`, `for` or `def` only its head"
    found = (line, line)
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and node.lineno - len(getattr(node, "decorator_list", ())) <= line <= (node.end_lineno or line):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno or line
            if line <= end and node.lineno >= found[0] - 40:
                found = (min(node.lineno, line), max(end, node.lineno))
    return found


class Chooser:
    "The tests of a line"

    def __init__(self, surveys: list[Path], budget: float = BUDGET) -> None:
        import coverage

        self.budget = budget
        self.seconds: dict[str, float] = {}
        self.files: dict[str, list[str]] = {}
        self.surveys: set[str] = {kept.name for kept in surveys}
        self.survey_of_file: dict[str, str] = {}
        self.data = coverage.CoverageData(no_disk=True)
        for kept in surveys:
            seconds = json.loads((kept / "tests.json").read_text())["seconds"]
            self.seconds |= seconds
            self.survey_of_file |= {name.split("::")[0]: kept.name for name in seconds}
            one = coverage.CoverageData(str(kept / "coverage"))
            one.read()
            self.data.update(one)
        for name in self.seconds:
            self.files.setdefault(name.split("::")[0], []).append(name)

    def tests(self, module: str, line: int) -> list[str]:
        "The quickest first, within the budget; of a line that only importing runs, or that is compiled, those of the whole module"
        lines = self.data.contexts_by_lineno(str(TREE / module))
        first, last = statement(ast.parse((TREE / module).read_text()), line)
        own = range(first, last + 1)
        near = self._of(lines, own)
        if not near or any("" in lines.get(number, ()) for number in own):  # importing runs it too, perhaps inside one test
            near |= self._of(lines, lines)
        chosen, spent = [], 0.0
        for name in sorted(near, key=lambda name: (self.seconds[name], name)):
            spent += self.seconds[name] + 0.02
            if chosen and spent > self.budget:
                break
            chosen.append(name)
        return chosen

    def _of(self, lines: dict[int, list[str]], numbers: Any) -> set[str]:
        names = {name for number in numbers for name in lines.get(number, ())}
        called = {name for name in names if name in self.seconds}
        return called | {one for name in names if name.startswith("setup|") for one in self.files.get(name[6:], ())}


# ---- the mutants


def annotated(tree: ast.Module) -> set[tuple[int, int]]:
    "Where annotations stand, by line and column: to change one changes nothing, or importing"
    spots: set[tuple[int, int]] = set()
    for node in ast.walk(tree):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            spots |= {(n.lineno, n.col_offset) for n in ast.walk(part) if hasattr(n, "lineno")} if isinstance(part, ast.AST) else set()
    return spots


def drawn(room: str, count: int, seed: int) -> list[dict[str, Any]]:
    "Mutants of a room: places at random, and at each one of the changes that fit it"
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    draw, places = random.Random(f"{room} {seed}"), {}
    operators = {name: get_operator(name)() for name in operator_names() if not get_operator(name).arguments()}
    for path in sorted((TREE / "dark_halo_scope" / room).glob("*.py")):
        source = path.read_text()
        nodes, spots = list(ast_nodes(get_ast(source))), annotated(ast.parse(source))
        for name, operator in operators.items():
            found = (spot for node in nodes for spot in operator.mutation_positions(node))
            for occurrence, (start, end) in enumerate(found):
                within = {(line, column) for line, column in spots if line == start[0] and start[1] - 4 <= column <= end[1] + 4}
                if not (within and "BinaryOperator_BitOr" in name):
                    places.setdefault((str(path.relative_to(TREE)), start), []).append((name, occurrence))
    mutants = []
    for module, start in draw.sample(sorted(places), len(places))[:count]:  # a larger count has those of a smaller one
        name, occurrence = random.Random(f"{module} {start} {seed}").choice(places[module, start])
        mutants.append({"room": room, "module": module, "line": start[0], "operator": name.split("/")[-1], "occurrence": occurrence})
    return mutants


def mutated(mutant: dict[str, Any], source: str) -> str:
    "The module with its fault"
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    if mutant["operator"] == "none":
        return source + "# unchanged\n"
    code = mutate_code(source, get_operator(f"core/{mutant['operator']}")(), mutant["occurrence"])
    assert code is not None and code != source, mutant
    return str(code)


def compiles(source: str) -> bool:
    "Whether kernels are compiled from what stands in a module, whose machine code on the disk would stand for the mutant's"
    return bool(re.search(r"import .*\b(compiled|kernel)\b|^def compiled", source, re.M))


def tried(mutant: dict[str, Any], chooser: Chooser) -> dict[str, Any]:
    "What its tests say of a mutant; what a test noticed before, it notices again, where neither it nor the module changed"
    import pytest

    module, started = TREE / mutant["module"], time.monotonic()
    tests, good = chooser.tests(mutant["module"], mutant["line"]), module.read_text()
    if not tests:
        return mutant | {"became": "no test runs it", "seconds": 0.0}
    digest = hashlib.blake2b(f"{mutant} {good}".encode(), digest_size=8).hexdigest()
    before, missed = WORK / "noticed" / digest, WORK / "survived" / digest
    if before.exists() and before.read_text() in chooser.surveys:
        return mutant | {"became": "noticed", "tests": len(tests), "seconds": 0.0}
    judges = "\n".join([*tests, *sorted({chooser.survey_of_file[name.split("::")[0]] for name in tests})])
    if missed.exists() and missed.read_text() == judges and mutant["operator"] != "none":
        return mutant | {"became": "survived", "tests": len(tests), "seconds": 0.0}
    cache = WORK / "kernels"
    if fresh := compiles(good):
        cache = WORK / "kernels of one"
        shutil.rmtree(cache, ignore_errors=True)
    module.write_text(mutated(mutant, good))
    try:
        busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # others are at work: all takes longer
        limit = busy * (60 + 60 * fresh + 3 * sum(chooser.seconds[name] for name in tests))
        run = lambda: int(pytest.main(["-x", "-q", "-n", "0", "--tb=line", "-p", "no:randomly", *tests]))
        code = in_child(run, limit, WORK / "last.log", cache)
    finally:
        module.write_text(good)
    became = {0: "survived", 1: "noticed", 2: "noticed", 4: "noticed", None: "took too long"}.get(code, f"exit {code}")
    if became.startswith("exit") and code is not None and code < 0:
        became = "noticed"  # the process died
    if by := re.search(r"^(?:FAILED|ERROR) ([^\s:]+)", (WORK / "last.log").read_text(errors="replace"), re.M) if code == 1 else None:
        before.parent.mkdir(exist_ok=True)
        before.write_text(chooser.survey_of_file.get(by.group(1), ""))
    if became == "survived":
        missed.parent.mkdir(exist_ok=True)
        missed.write_text(judges)
    return mutant | {"became": became, "tests": len(tests), "seconds": round(time.monotonic() - started, 1)}


def shares(results: list[dict[str, Any]]) -> dict[str, Any]:
    "By room: how many there were and were noticed, and which were not"
    rooms: dict[str, Any] = {}
    for room in dict.fromkeys(r["room"] for r in results):
        mine = [r for r in results if r["room"] == room]
        missed = [r for r in mine if r["became"] not in ("noticed", "took too long")]
        rooms[room] = {"mutants": len(mine), "noticed": len(mine) - len(missed), "share": round(1 - len(missed) / len(mine), 3)}
        rooms[room]["missed"] = [f"{Path(r['module']).name}:{r['line']} {r['operator']} {r['occurrence']} ({r['became']})" for r in missed]
    return rooms


def main() -> int:
    "The command"
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("rooms", nargs="*", default=ROOMS)
    asked.add_argument("--each", type=int, default=40, help="mutants of a room")
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--budget", type=float, default=BUDGET, help="seconds of tests tried on one mutant: fewer notice less")
    asked.add_argument("--receipt", type=Path, default=RECEIPT)
    asked.add_argument("--tests", nargs="+", default=["tests", ".ci/lessons.py"], help="files of tests, to try the tool with few")
    asked.add_argument("--again", action="store_true", help="look anew at which test runs which line")
    given = asked.parse_args()
    started = time.monotonic()
    WORK.mkdir(parents=True, exist_ok=True)
    copy_tree()
    preload()
    chooser, results = Chooser(surveyed(given.tests, given.again), given.budget), []
    for room in given.rooms:
        mutants = drawn(room, given.each, given.seed)
        unchanged = tried(mutants[0] | {"operator": "none"}, chooser)
        if unchanged["became"] != "survived":
            sys.exit(f"mutants: {unchanged['module']} unchanged {unchanged['became']}: see {WORK}/last.log")
        for mutant in mutants:
            results.append(tried(mutant, chooser))
            print(json.dumps(results[-1]), flush=True)
    rooms = shares(results)
    made = {"made_by": "python .ci/mutants.py", "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")}
    made |= {
        "machine": f"{platform.machine()}, one core",
        "seed": given.seed,
        "budget_s": given.budget,
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    made |= {"tests": given.tests}
    given.receipt.write_text(json.dumps(made | {"target": TARGET, "rooms": rooms}, indent=1) + "\n")
    for room, row in rooms.items():
        print(f"{room:10} {row['noticed']:4} of {row['mutants']:4} noticed")
    return int(any(row["share"] < TARGET for row in rooms.values()))


if __name__ == "__main__":
    sys.exit(main())
