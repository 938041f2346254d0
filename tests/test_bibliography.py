"""The bibliography: every work can be looked up, every citation has its work, every listed lens and look-alike the paper that found it."""

import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIB = ROOT / "nbs" / "references.bib"
ENTRY = re.compile(r"^@\w+\{(\w+),\n(.*?)^\}", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"^ *(\w+) = \{(.*)\},?$", re.MULTILINE)
CITED = re.compile(r"(?<![\w`/.@{])@([A-Z][A-Za-z]*(?:19|20)\d{2}[a-z]?)\b")
ARXIV = re.compile(r"\d{4}\.\d{4,5}|astro-ph/\d{7}")


def works() -> dict[str, dict[str, str]]:
    "Fields of every entry, by its key"
    return {key: dict(FIELD.findall(body)) for key, body in ENTRY.findall(BIB.read_text())}


def listed(name: str) -> list[dict[str, str]]:
    "Rows of a packaged list"
    with open(ROOT / "data_manifests" / "anchors" / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_entry_is_read_and_no_key_stands_twice() -> None:
    keys = re.findall(r"^@\w+\{(\w+),", BIB.read_text(), re.MULTILINE)
    assert len(keys) == len(set(keys)) and set(keys) == set(works()) and len(keys) > 80


@pytest.mark.parametrize("key", sorted(works()))
def test_an_entry_says_who_what_when_and_where_to_find_it(key: str) -> None:
    work = works()[key]
    assert {"author", "title", "year"} <= work.keys() and work.keys() & {"doi", "eprint", "url"}
    assert all(work.values()) and re.fullmatch(r"(19|20)\d{2}", work["year"])
    assert not re.search(r"arXiv|\bet al\b", work["title"] + work["author"]), "a placeholder"
    assert "eprint" not in work or ARXIV.fullmatch(work["eprint"])
    assert "doi" not in work or work["doi"].startswith("10.")
    assert abs(int(work["year"]) - int(key.rstrip("abc")[-4:])) <= 1
    first = re.sub(r"\{\\.(\w|\{\w\})\}|[^A-Za-z]", lambda m: m[1] or "", work["author"].split(",")[0])
    assert first.startswith(re.match(r"[A-Za-z]+", key)[0]), f"{key} is by {work['author']}"


def test_every_citation_has_its_work_and_every_work_is_cited() -> None:
    cited: dict[str, str] = {}
    for page in sorted(p for p in (ROOT / "nbs").rglob("*") if p.suffix in (".ipynb", ".qmd") and "checkpoint" not in str(p)):
        cited |= {key: str(page.relative_to(ROOT)) for key in CITED.findall(page.read_text())}
    lost = {key: page for key, page in cited.items() if key not in works()}
    assert not lost, f"cited, and not in the bibliography: {lost}"
    found = {key for name in ("spectroscopic", "imaging", "candidates") for row in listed(name) for key in row["discovery"].split()}
    assert not works().keys() - cited.keys() - found, "in the bibliography, and cited nowhere"


@pytest.mark.parametrize("name", ["spectroscopic", "imaging", "candidates"])
def test_every_lens_and_candidate_names_the_paper_that_found_it(name: str) -> None:
    known = works()
    for row in listed(name):
        keys = row["discovery"].split()
        assert keys and all(key in known for key in keys), f"{name}, {row['name']}: {row['discovery']!r}"


def test_the_paper_of_a_candidate_is_the_one_that_its_reference_spells() -> None:
    known = works()
    for row in listed("candidates"):
        work, (who, year) = known[row["discovery"]], re.match(r"(\w+) et al\. (\d{4})", row["ref"]).groups()
        assert work["author"].startswith(who) and work["year"] == year, row["name"]


def test_every_look_alike_names_a_paper_of_the_bibliography() -> None:
    known = works()
    for row in listed("impostors"):
        who, year = re.search(r"\((\w+) et al\. (\d{4})\)", row["source"]).groups()
        assert f"{who}{year}" in known, row["name"]
