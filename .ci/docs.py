"Builds the site into _docs and refuses a missing citation, cross-reference, picture or link: quarto where it is installed, smalldocs elsewhere"

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pypandoc
from nbdev.doclinks import _build_modidx
from nbdev.quarto import proc_nbs, refresh_quarto_yml

ROOT = Path(__file__).parents[1]
PROC, SITE = ROOT / "_proc", ROOT / "_docs"


def process() -> None:
    "nbdev's own processing: API cells, links, and a copy of the tree in _proc"
    os.chdir(ROOT)
    refresh_quarto_yml()
    _build_modidx()
    proc_nbs(force=True)


def pages() -> list[Path]:
    "Processed pages with prose in them"
    return [p for p in sorted(PROC.rglob("*")) if p.suffix in (".qmd", ".md", ".ipynb") and ".ipynb_checkpoints" not in p.parts]


def prose(page: Path) -> str:
    "The Markdown of a page"
    if page.suffix != ".ipynb":
        return page.read_text()
    import nbformat

    return "\n\n".join(c.source for c in nbformat.read(page, 4).cells if c.cell_type == "markdown")


CITED = re.compile(r"(?<![\w`/.@])@([A-Za-z]\w*\d{4}\w*)")
REFERENCE = re.compile(r"(?<![\w`/.])@((?:fig|tbl|eq|sec)-[\w-]+)")
LABEL = re.compile(r"\{#((?:fig|tbl|eq|sec)-[\w-]+)|#\|\s*label:\s*((?:fig|tbl|eq|sec)-[\w-]+)")


def check_citations() -> list[str]:
    "Pages whose citations the bibliography does not hold, as pandoc's own citation processor says"
    wrong = []
    for page in pages():
        text = prose(page)
        if not CITED.search(text):
            continue
        arguments = ["--from=markdown", "--to=html", "--mathjax", "--citeproc", f"--bibliography={ROOT / 'nbs' / 'references.bib'}", "--fail-if-warnings"]
        kept = REFERENCE.sub("reference", text)
        done = subprocess.run([pypandoc.get_pandoc_path(), *arguments], input=kept, capture_output=True, text=True)
        if done.returncode:
            wrong.append(f"{page.relative_to(PROC)}: {' '.join(done.stderr.split())}")
    return wrong


def check_references() -> list[str]:
    "Cross-references to a label that no page defines"
    texts = {page: page.read_text() for page in pages()}
    defined = {a or b for text in texts.values() for a, b in LABEL.findall(text)}
    return [f"{page.relative_to(PROC)}: no such label @{name}" for page in texts for name in sorted(set(REFERENCE.findall(prose(page))) - defined)]


def build() -> None:
    "The site itself"
    shutil.rmtree(SITE, ignore_errors=True)
    if shutil.which("quarto"):
        subprocess.run(["quarto", "render", str(PROC), "--no-execute"], check=True)
    else:
        done = subprocess.run([Path(sys.executable).parent / "smalldocs", "render", str(PROC)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"docs: smalldocs failed\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    if not (SITE / "index.html").exists():
        sys.exit(f"docs: no index.html in {SITE}")


def check_links() -> list[str]:
    "Local links and pictures of the built pages that lead nowhere"
    wrong = []
    for page in SITE.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text(errors="replace")):
            if re.match(r"[a-z]+:|//|data:", link) or link.startswith("/"):
                continue
            if not (page.parent / link).exists():
                wrong.append(f"{page.relative_to(SITE)}: {link} leads nowhere")
    return wrong


if __name__ == "__main__":
    process()
    faults = check_citations() + check_references()
    build()
    faults += check_links()
    print(f"docs: {len(list(SITE.rglob('*.html')))} pages in {SITE.name}, {len(faults)} faults")
    for fault in faults:
        print("docs:", fault, file=sys.stderr)
    sys.exit(bool(faults))
