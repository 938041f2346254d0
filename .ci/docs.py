"""Builds the site into _docs: nbdev's processing, one filter (.ci/pages.py), then Quarto where it is installed and smalldocs elsewhere

Refuses a citation, cross-reference, value or result that is not there, a link or picture that leads nowhere, a picture without words, TeX that nobody
draws, a page that needs the network, and a page over 1.5 MB. With `--changed` only notebooks that changed since the last build are processed again.
"""

import gc
import html
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from pages import PAGES, PROC, ROOT, Book

SITE = ROOT / "_docs"
HEAVIEST = 1_500_000  # bytes of one page with its pictures


def process(force: bool) -> None:
    "nbdev's own processing: API cells, links, and a copy of the tree in _proc"
    from nbdev.quarto import proc_nbs, refresh_quarto_yml

    os.chdir(ROOT)
    warnings.filterwarnings("ignore", message="Found cells containing imports")
    refresh_quarto_yml()
    gc.disable()  # what a page leaves is small, what all are made with is large and no garbage
    proc_nbs(force=force, n_workers=0)  # one process imports the library once; workers would each import it
    gc.freeze()  # at the end each page's shell collects garbage: half a second among all this
    gc.enable()
    for page in sorted(PROC.rglob("*.*")):  # what was deleted or renamed in the tree
        if page.is_file() and not (ROOT / "nbs" / page.relative_to(PROC)).exists():
            page.unlink()


def build() -> None:
    "The site itself"
    shutil.rmtree(SITE, ignore_errors=True)
    if shutil.which("quarto"):
        subprocess.run(["quarto", "render", str(PAGES), "--no-execute"], check=True)
    else:
        done = subprocess.run([Path(sys.executable).parent / "smalldocs", "render", str(PAGES)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"docs: smalldocs failed\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    if not (SITE / "index.html").exists():
        sys.exit(f"docs: no index.html in {SITE}")


def search_from_disk(site: Path) -> list[str]:
    "The search's index as a script too, which a browser loads where it fetches nothing: from disk; what is missing for that"
    index = site / "search.json"
    if not index.exists():
        return [f"{index.name}: not written, so the search finds nothing"]
    index.with_suffix(".js").write_text(f"window.searchIndex = {index.read_text()};\n")
    return []


def prose(page: str) -> str:
    "What a reader sees of a built page, code aside"
    return html.unescape(re.sub(r"<(script|style|pre|code|math)\b[\s\S]*?</\1>|<[^>]+>", " ", page))


def check_page(page: Path) -> list[str]:
    "What is wrong with one built page"
    text, name = page.read_text(errors="replace"), page.relative_to(SITE)
    wrong, weight = [], page.stat().st_size
    for link in re.findall(r'(?:href|src)="([^"#?]+)', text):
        if re.match(r"[a-z]+:|//|data:", link) or link.startswith("/"):
            continue
        target = page.parent / link
        if not target.exists():
            wrong.append(f"{name}: {link} leads nowhere")
        elif target.suffix in (".png", ".jpg", ".svg"):
            weight += target.stat().st_size
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    wrong += [f"{name}: no place #{there} on the page" for there in sorted(set(re.findall(r'href="#([^"]+)"', text)) - ids)]
    for picture in re.findall(r"<img\b[^>]*>", text):
        if not re.search(r'alt="[^"]{3,}"', picture):
            wrong.append(f"{name}: a picture without words: {picture[:60]}")
    wrong += [
        f"{name}: needs the network: {link}"
        for link in re.findall(r'<(?:script|link rel="stylesheet"|img)[^>]+(?:src|href)="(https?://[^"]+)"', text)
    ]
    raw = re.search(r"\\\(|\\\[|\$\$|\\(?:frac|theta|sqrt|mathrm|alpha|beta|sum|int)\b|\{\{<|(?<![\w.@])@(?:fig|tbl|eq|sec)-", prose(text))
    if raw:
        wrong.append(f"{name}: not written out: ...{prose(text)[max(0, raw.start() - 30) : raw.end() + 30]}...")
    if weight > HEAVIEST:
        wrong.append(f"{name}: {weight / 1e6:.1f} MB, and {HEAVIEST / 1e6} is the limit")
    return wrong


if __name__ == "__main__":
    process(force="--changed" not in sys.argv)
    faults = Book().write()
    build()
    faults += search_from_disk(SITE)
    built = sorted(SITE.rglob("*.html"))
    faults += [fault for page in built for fault in check_page(page)]
    print(f"docs: {len(built)} pages in {SITE.name}, {len(faults)} faults")
    for fault in faults:
        print("docs:", fault, file=sys.stderr)
    sys.exit(bool(faults))
