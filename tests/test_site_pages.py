"The filter that writes pages out for Quarto and its stand-in, and the checks that must turn red: each with a page that breaks its rule"

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
GOOD = """---
title: One
description: A page.
---

By @Dey2019 and others [@Kormann1994, section 3; @Collett2015], a factor $\\theta_E/2$ costs $5 or $6.

$$
a_1 = \\frac{b}{c_2}
$$ {#eq-one}

@eq-one is in @sec-there, beside @fig-drawn; the code `@fig-nothing` and `$x$` stay. Measured: {{< receipt some.json list/name=b/value .1f >}}, default {{< code injection.quality:CORE_PIX >}}.

## A place {#sec-there}

::: {#fig-drawn}
{{< embed ../results/page.ipynb#drawn >}}

What is *drawn*, with $y$.
:::
"""


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    "The filter on a small tree of its own"
    monkeypatch.setattr(sys, "path", [str(ROOT / ".ci"), *sys.path])
    module = importlib.import_module("pages")
    for name, place in {"PROC": "_proc", "PAGES": "_pages", "RECEIPTS": "receipts", "ROOT": "."}.items():
        monkeypatch.setattr(module, name, tmp_path / place)
    (tmp_path / "receipts").mkdir()
    (tmp_path / "receipts" / "some.json").write_text(json.dumps({"list": [{"name": "a", "value": 1}, {"name": "b", "value": 2.34}]}))
    (tmp_path / "_quarto.yml").write_text("website: {sidebar: {contents: []}}\n")
    v4 = nbformat.v4
    figure = v4.new_output("display_data", data={"image/png": PICTURE})
    front = v4.new_raw_cell("---\ntitle: Results\ndescription: A promise.\n---")
    cells = [front, v4.new_markdown_cell("## Drawn\n\nA line rises. And more."), v4.new_code_cell("plot()", outputs=[figure])]
    for place, text in {"methods/01_one.qmd": GOOD, "results/page.ipynb": nbformat.writes(v4.new_notebook(cells=cells))}.items():
        (tmp_path / "_proc" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "_proc" / place).write_text(text)
    return module


def test_a_page_is_written_out(pages: ModuleType) -> None:
    assert pages.Book().write() == []
    text = (pages.PAGES / "methods/01_one.qmd").read_text()
    assert "[Dey et al. (2019)](#ref-Dey2019)" in text and "section 3; [Collett 2015](#ref-Collett2015)" in text
    assert text.count("<li id=") == 3 and "doi:10.3847/1538-3881/ab089d" in text
    assert "[Equation 1.1](#equation-one)" in text and "[*A place*](#section-there)" in text and "[Figure 1.1](#figure-drawn)" in text
    assert text.count("<math") == 3 and "<mfrac>" in text and "(1.1)</span>" in text and "costs $5 or $6" in text
    assert "`@fig-nothing`" in text and "`$x$`" in text
    assert "Measured: 2.3, default 5.0" in text
    assert (pages.PAGES / "methods/figures/page-drawn-1.png").exists() and 'alt="Figure: Drawn. A line rises"' in text
    assert "**Figure 1.1.** What is *drawn*" in text and "From [Results](../results/page.ipynb)" in text
    cell = nbformat.read(pages.PAGES / "results/page.ipynb", 4).cells[-1]
    assert cell.source.startswith('#| fig-alt: "Figure: Drawn. A line rises"')


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("@Dey2019", "@Nobody2019", "references.bib has no Nobody2019"),
        ("beside @fig-drawn", "beside @fig-lost", "no such label @fig-lost"),
        ("list/name=b/value", "list/name=c/value", "no name=c on the way"),
        ("quality:CORE_PIX", "quality:CORE_SIZE", "CORE_SIZE"),
        ("page.ipynb#drawn", "page.ipynb#undrawn", "holds 0 of that kind"),
        ("page.ipynb#drawn", "nothing.ipynb#drawn", "no notebook"),
        ("## A place {#sec-there}", "## A place {#sec-there}\n\n## Again {#sec-there}", "defined twice"),
    ],
)
def test_what_is_not_there_is_said(pages: ModuleType, before: str, after: str, said: str) -> None:
    page = pages.PROC / "methods/01_one.qmd"
    assert before in GOOD
    page.write_text(GOOD.replace(before, after))
    assert any(said in fault for fault in pages.Book().write())


def test_rooms_stand_as_the_contracts_list_them(pages: ModuleType) -> None:
    sections = "".join(f'          - section: "{room}: what it holds"\n' for room in pages.ROOMS)
    (pages.ROOT / "_quarto.yml").write_text(f"website:\n  sidebar:\n    contents:\n{sections}")
    (pages.PROC / "methods/01_one.qmd").write_text("{{< rooms >}}\n")
    assert pages.Book().write() == []
    rows = [line for line in (pages.PAGES / "methods/01_one.qmd").read_text().splitlines() if "**" in line]
    levels = [(int(row.split("|")[1]), row.split("**")[1]) for row in rows]
    assert [room for _, room in levels] == pages.ROOMS and len(pages.ROOMS) == 17
    assert (
        levels[0] == (1, "base")
        and levels[-1][1] == "command"
        and {level for level, room in levels if room in ("lists", "real", "bench")} == {14}
    )
    assert "torch" in next(row for row in rows if "**parent**" in row) and "pyspark" not in next(row for row in rows if "**run**" in row)


def test_a_formula_that_cannot_be_drawn_stops_the_build(pages: ModuleType) -> None:
    (pages.PROC / "methods/01_one.qmd").write_text(GOOD.replace("\\theta_E/2", "\\nonsense{x}"))
    with pytest.raises(ValueError, match="nonsense"):
        pages.Book().write()


def test_formulae_are_inert_text(pages: ModuleType) -> None:
    "Two Markdown readers get the same MathML, whatever stands in it"
    drawn = pages.mathml([("a*b_c |x| \\ln 2", False), ("{\\rm FWHM}", True)])
    assert (
        "&#42;" in drawn[0]
        and "*" not in drawn[0]
        and "&amp;#" not in "".join(drawn)
        and "annotation" not in "".join(drawn)
        and "normal" in drawn[1]
    )


def test_works_without_an_identifier_are_refused(pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pages.check_bibliography() == []
    bib = tmp_path / "references.bib"
    bib.write_text("@article{Some2020,\n author = {Some, A.},\n title = {On},\n journal = {X},\n year = {2020}\n}\n")
    monkeypatch.setattr(pages.bibliography, "__defaults__", (bib,))
    assert pages.check_bibliography() == ["references.bib: Some2020 has neither doi nor eprint"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('<a href="lost.html">x</a>', "leads nowhere"),
        ('<a href="#lost">x</a>', "no place #lost"),
        ('<img src="data:image/png;base64,AA">', "without words"),
        ('<script src="https://example.org/x.js"></script>', "needs the network"),
        ("<p>about \\(x\\) and more</p>", "not written out"),
        ("<p>{{&lt; embed x &gt;}}</p>", "not written out"),
        ("<p>" + "x" * 1_600_000 + "</p>", "is the limit"),
    ],
)
def test_a_built_page_is_checked(pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str) -> None:
    docs = importlib.import_module("docs")
    monkeypatch.setattr(docs, "SITE", tmp_path)
    sound, faulty = tmp_path / "sound.html", tmp_path / "faulty.html"
    sound.write_text(
        '<main id="top"><a href="#top">x</a><a href="sound.html">y</a><img src="data:," alt="a thing"><code>\\(x\\)</code></main>'
    )
    faulty.write_text(body)
    assert docs.check_page(sound) == []
    assert any(said in fault for fault in docs.check_page(faulty))
