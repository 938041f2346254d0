"What is said of the packages and of a release: nothing that was not looked up reads as passed"

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SOUND = {"name": "numpy", "version": "2.4.6", "vulns": []}
WEAK = {"name": "pillow", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"], "aliases": [], "description": ""}]}
UNSEEN = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.13.0)"}


@pytest.mark.parametrize(
    "answer, code, says",
    [
        ([SOUND], 0, "audit: 1 packages looked up, none is known to be weak"),
        ([SOUND, UNSEEN], 2, "audit: NOT PASSED: 1 of 2 packages could not be looked up"),
        ([UNSEEN, UNSEEN], 2, "audit: NOT PASSED: 2 of 2"),
        ([SOUND, WEAK], 1, "pillow 1.0: PYSEC-1, mended in 1.1"),
        ([UNSEEN, WEAK], 1, "pillow 1.0: PYSEC-1"),
    ],
)
def test_an_audit_passes_only_what_was_looked_up(answer: list, code: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    "pip-audit itself says 'No known vulnerabilities found' of packages that it did not find"
    monkeypatch.setattr(sys, "path", [str(ROOT / ".ci"), *sys.path])
    from audit import verdict

    found, lines = verdict({"dependencies": answer}, ["package"] * len(answer))
    assert found == code and lines[0].startswith(says)
    assert verdict({"dependencies": []}, ["numpy==2.4.6"])[0] == 2  # a package of which nothing is said


def tool(folder: Path, code: str) -> str:
    "A program in the place of another's"
    path = folder / "tool"
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("code", ["raise OSError('Failed to resolve api.example')", "print('<html>')", ""])
def test_an_audit_without_an_answer_is_one_line_and_not_passed(code: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / ".ci" / "audit.py"), tool(tmp_path, code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("audit: NOT PASSED: no answer about") and done.stderr.count("\n") == 1


def test_an_audit_asks_about_every_pin_and_what_is_installed_beside() -> None:
    sys.path.insert(0, str(ROOT / ".ci"))
    try:
        from audit import packages
    finally:
        sys.path.remove(str(ROOT / ".ci"))
    names = {line.split("==")[0] for line in packages()}
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {name.replace("_", "-") for name in pins} <= names and {"certifi", "jinja2", "pip"} <= names and "dark-halo-scope" not in names


def test_the_bill_of_a_release_names_its_files_by_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / ".ci"), *sys.path])
    from release import bill, sha256

    ours = {"name": "dark_halo_scope", "version": "0", "type": "library"}
    others = [{"name": "numpy", "version": "2.4.6", "type": "library"}]
    listed = json.dumps({"metadata": {}, "components": [*others, ours]})
    Path(tool(tmp_path, f"print({listed!r})")).rename(tmp_path / "cyclonedx-py")
    made = [tmp_path / "a.tar.gz", tmp_path / "a.whl"]
    for path in made:
        path.write_bytes(path.name.encode())
    found = json.loads(bill(tmp_path, "0.2.0", made).read_text())
    assert found["components"] == others and found["metadata"]["component"]["version"] == "0.2.0"
    hashes = {r["url"]: r["hashes"][0]["content"] for r in found["metadata"]["component"]["externalReferences"]}
    assert hashes == {path.name: sha256(path) for path in made}
