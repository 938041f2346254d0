"The built site in Chromium, every page at two widths: what the checks of the build cannot see"

import functools
import http.server
import importlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

SITE = Path(__file__).parents[1] / "_docs"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 420, "height": 900}
LOOK = """() => {
    const wide = document.documentElement.scrollWidth - window.innerWidth;
    const main = document.querySelector('main') || document.body, copy = main.cloneNode(true);
    copy.querySelectorAll('pre, code, math, script, style').forEach(e => e.remove());
    const raw = copy.textContent.match(/\\\\\\(|\\\\\\[|\\$\\$|\\\\(?:frac|theta|sqrt|mathrm|alpha|beta|sum|int|rm)\\b|\\{\\{<|(?:^|\\s)@(?:fig|tbl|eq|sec)-\\w/);
    const pictures = [...document.images];
    return {
        wide: wide > 1 ? wide : 0,
        widest: wide > 1 ? [...main.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > window.innerWidth + 1).slice(0, 1)
            .map(e => e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 40)) : [],
        raw: raw ? raw[0] : '',
        absent: pictures.filter(p => !(p.complete && p.naturalWidth)).map(p => p.src.slice(0, 80)),
        mute: pictures.filter(p => !p.alt.trim()).map(p => p.src.slice(0, 80)),
        broken: document.querySelectorAll('merror').length,
    };
}"""

pytestmark = pytest.mark.browser


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    "The site as built by `make docs`, served on this machine"
    if not (SITE / "index.html").exists():
        pytest.skip("no site in _docs: `make docs` builds it")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def tab(browser: Any) -> Any:
    "One tab"
    return browser.new_page(viewport=WIDE)


def faults_of(tab: Any, url: str) -> list[str]:
    "What is wrong with a page, wide and narrow"
    said: list[str] = []
    notes = {
        "console": lambda m: said.append(f"console: {m.text}") if m.type == "error" else None,
        "pageerror": lambda e: said.append(f"script: {e}"),
        # an icon that still comes when the tab goes on to the next page is aborted, not absent
        "requestfailed": lambda r: None if "ERR_ABORTED" in (r.failure or "") else said.append(f"not loaded: {r.url}"),
    }
    tab.goto("about:blank")  # what the page before still says is not said of this one
    for event, note in notes.items():
        tab.on(event, note)
    try:
        for size in (WIDE, NARROW):
            tab.set_viewport_size(size)
            if size is WIDE:
                tab.goto(url, wait_until="load")
            seen = tab.evaluate(LOOK)
            said += [f"at {size['width']}: {what} {seen[what]}" for what in ("wide", "raw", "absent", "mute", "broken") if seen[what]]
            said += [f"  by {e}" for e in seen["widest"]]
    finally:
        for event, note in notes.items():
            tab.remove_listener(event, note)
    return said


def check(tab: Any, address: str, pages: list[Path]) -> None:
    "No page has a fault"
    wrong = {str(p.relative_to(SITE)): faults for p in pages if (faults := faults_of(tab, address + str(p.relative_to(SITE))))}
    assert not wrong, "\n".join(f"{page}: {fault}" for page, faults in wrong.items() for fault in faults)


def test_the_first_page_the_methods_and_one_page_of_each_room(tab: Any, address: str) -> None:
    of_folder = {page.parent: page for page in sorted(SITE.rglob("*.html"))}
    check(tab, address, sorted({SITE / "index.html", SITE / "api.html", *(SITE / "methods").glob("*.html"), *of_folder.values()}))


@pytest.mark.slow
def test_every_page_at_two_widths(tab: Any, address: str) -> None:
    pages = sorted(SITE.rglob("*.html"))
    assert len(pages) > 100
    check(tab, address, pages)


def test_the_check_sees_what_it_should(tab: Any, address: str, tmp_path: Path) -> None:
    "A page with every fault at once, so that silence above means something"
    bad = SITE / "faulty-page-of-the-test.html"
    bad.write_text(
        "<main><p>\\(x\\) and @fig-none</p><img src='absent.png'><div style='width: 3000px'>wide</div><script>undefined.x</script></main>"
    )
    try:
        said = " ".join(faults_of(tab, address + bad.name))
    finally:
        bad.unlink()
    assert all(word in said for word in ("wide", "raw", "absent", "mute", "script", "console"))


def test_search_finds_a_page(tab: Any, address: str) -> None:
    tab.set_viewport_size(WIDE)
    tab.goto(address)
    tab.locator("#quarto-search input").first.fill("Einstein radius")
    found = tab.locator("#quarto-search a").first
    found.wait_for(timeout=10_000)
    assert ".html" in (found.get_attribute("href") or "")


@pytest.fixture(scope="module")
def from_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Two pages with the site's own head, as files: one of them in a folder"
    folder, root = tmp_path_factory.mktemp("site"), Path(__file__).parents[1]
    site = yaml.safe_load((root / "_quarto.yml").read_text())
    head = {"html": {"include-in-header": site["format"]["html"]["include-in-header"]}}
    sidebar = {"contents": ["index.qmd", "far/away.qmd"]}
    about = {
        "project": {"type": "website", "output-dir": "out"},
        "website": {"title": "Two", "search": True, "sidebar": sidebar},
        "format": head,
    }
    (folder / "far").mkdir()
    (folder / "_quarto.yml").write_text(yaml.safe_dump(about))
    (folder / "index.qmd").write_text("---\ntitle: One\n---\n\nNothing here.\n")
    (folder / "far" / "away.qmd").write_text("---\ntitle: Other\n---\n\nAn Einstein radius.\n")
    subprocess.run([Path(sys.executable).parent / "smalldocs", "render", str(folder)], check=True, capture_output=True)
    sys.path.insert(0, str(root / ".ci"))
    try:
        assert importlib.import_module("docs").search_from_disk(folder / "out") == []
        assert importlib.import_module("docs").search_from_disk(folder)
    finally:
        sys.path.pop(0)
    return folder / "out"


@pytest.mark.parametrize("page", ["index.html", "far/away.html"])
def test_search_from_disk_finds_a_page(tab: Any, from_disk: Path, page: str) -> None:
    "No server: the address begins with file:, where a browser fetches nothing"
    tab.set_viewport_size(WIDE)
    tab.goto((from_disk / page).as_uri())
    tab.locator("#quarto-search input").first.fill("Einstein radius")
    found = tab.locator("#quarto-search a").first
    found.wait_for(timeout=10_000)
    found.click()
    tab.wait_for_url("**/far/away.html*")


def test_formulae_are_drawn_without_a_network(tab: Any, address: str) -> None:
    "MathML has a size of its own; TeX in its place would be text, and a script would be asked for"
    tab.set_viewport_size(WIDE)
    tab.goto(address + "methods/02_lens.html")
    sizes = tab.evaluate("[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect().height)")
    fractions = tab.evaluate("[...document.querySelectorAll('mfrac')].map(m => m.getBoundingClientRect().height)")
    assert len(sizes) > 20 and min(sizes) > 5 and max(fractions) > 25
    assert tab.locator(".equation-number").count() > 5
