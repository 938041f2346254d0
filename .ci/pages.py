"""What Quarto and its stand-in read differently, written out once for both: from nbdev's processed pages in _proc to plain pages in _pages

On any page:            $TeX$ and $$TeX$$ {#eq-name}   MathML, numbered where it has a name
                        [@Key2020; @Other2021], @Key2020   the work, linked to the list of references under the page
                        @eq-name, @fig-name, @tbl-name, @sec-name   linked by its number, or by the heading of the section
                        ::: {#fig-name} ... :::   a figure or table with its number; the last paragraph is the caption
                        {{< embed ../results/page.ipynb#heading 2 >}}   the second stored figure (or table) under that heading
                        {{< receipt file.json key/of/value .2f >}}   a value of data_manifests/receipts
                        {{< code module:Name.field >}}   a default or constant of the library
On one page each:       {{< results >}}, {{< api >}}, {{< receipts >}}, {{< appendix >}}   the result pages named after it, the library, the committed receipts, the methods on one page
                        {{< rooms >}}   the rooms from the ground up, as the import contracts list them

Why each part is here, and what smaller thing was not enough:

bibliography, cite, entry    Quarto cites by itself; the stand-in passes [@Key] through. pandoc's citeproc reads whole documents, a process per page, and
                             gives a list of references without the arXiv numbers; here pandoc is called once for all works.
maths, mathml                The stand-in writes TeX as text, and Quarto loads a script from the network to draw it. One call of pandoc draws every formula.
number, refer, float, block  Numbers across pages ("Equation 6.1" in chapter 9): Quarto numbers them in books only, a website's pages do not share them.
embed, outputs, described    Stored outputs by their heading, and words for those who cannot see them: Quarto embeds by a label that each cell would need.
receipt_value, code_value    A number that stands in a sentence is read from a receipt or from the library; a Quarto extension of this would be written in Lua.
results, order, api, rooms, receipts, appendix    Pages made from the tree, which neither tool lists by itself.
outside, CODE                Nothing of this may change code: each replacement is made around code blocks, inline code and comments.
"""

import ast
import dataclasses
import html
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pypandoc
import yaml

ROOT = Path(__file__).parents[1]
PROC, PAGES = ROOT / "_proc", ROOT / "_pages"
RECEIPTS = ROOT / "data_manifests" / "receipts"
BIB = ROOT / "nbs" / "references.bib"
SHORTCODE = re.compile(r"\{\{<\s*(embed|receipts?|code|results|api|appendix|rooms)\b\s*(.*?)\s*>\}\}", re.DOTALL)
KEY = r"[A-Z][A-Za-z]*\d{4}[a-z]?\b"
CITED = re.compile(rf"\[(@{KEY}[^\]\[]*)\]|(?<![\w`/.@])@({KEY})")
REFERENCE = re.compile(r"(?<![\w`/.])@((?:fig|tbl|eq|sec)-[\w-]+)")
CODE = re.compile(r"(^ {0,3}(`{3,}|~{3,})[\s\S]*?^ {0,3}\2[ \t]*$|(?<!`)`[^`\n]+`(?!`)|<!--[\s\S]*?-->)", re.MULTILINE)
BLOCK_MATHS = re.compile(r"^\$\$(.+?)\$\$[ \t]*(?:\{#(eq-[\w-]+)\})?[ \t]*$", re.MULTILINE | re.DOTALL)
INLINE_MATHS = re.compile(r"(?<![\\$\w])\$\$([^$]+)\$\$|(?<![\\$])\$(?=[^\s$])((?:[^$\\]|\\.)+?)(?<=[^\s\\])\$(?![\d$])")
FLOAT = re.compile(r"^::: *\{#((fig|tbl)-[\w-]+)\} *\n([\s\S]*?)^::: *$", re.MULTILINE)
SECTION = re.compile(r"^#+ +(.+?) *\{#(sec-[\w-]+)\} *$", re.MULTILINE)
NAMES = {"fig": "Figure", "tbl": "Table", "eq": "Equation"}
IDS = {"fig": "figure", "tbl": "table", "eq": "equation", "sec": "section"}


def rooms(contracts: Path) -> list[list[str]]:  # Levels from the ground up; rooms of one level never import each other
    "The rooms as the first import contract of pyproject.toml lists them"
    layers = tomllib.loads(contracts.read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    return [[name.strip().removeprefix("dark_halo_scope.") for name in layer.split("|")][::-1] for layer in reversed(layers)]


CONTRACTS = ROOT / "pyproject.toml"
ROOMS = [room for level in rooms(CONTRACTS) for room in level]


def slug(heading: str) -> str:
    "The anchor of a heading"
    return re.sub(r"[^a-z0-9-]", "", re.sub(r"[ _]+", "-", heading.strip().lower())).strip("-")


def anchor(label: str) -> str:
    "The id that stands in the page for a label: of another kind than Quarto's own, so that nothing is numbered twice"
    kind, _, name = label.partition("-")
    return f"{IDS[kind]}-{name}"


# ---- the bibliography


def bibliography(path: Path = BIB) -> dict[str, dict[str, Any]]:
    "Every cited work by its key, as pandoc reads it; the arXiv number, which that form has no place for, read beside it"
    done = subprocess.run([pypandoc.get_pandoc_path(), "-f", "biblatex", "-t", "csljson", path], capture_output=True, text=True, check=True)
    works = {work["id"]: work for work in json.loads(done.stdout)}
    for entry in re.split(r"^@", path.read_text(), flags=re.MULTILINE)[1:]:
        key = entry[entry.index("{") + 1 : entry.index(",")]
        for field in ("eprint", "url"):
            found = re.search(rf"^\s*{field}\s*=\s*\{{(.*?)\}}", entry, re.MULTILINE)
            works[key][field] = found and found[1]
    return works


def surnames(work: dict[str, Any]) -> str:
    "Whose work it is, as a sentence names it"
    names = [a.get("family") or a.get("literal") for a in work["author"]]
    if len(names) > 2 or "others" in names:
        return f"{names[0]} et al."
    return " & ".join(names)


def year(work: dict[str, Any]) -> str:
    "The year of a work"
    return str(work["issued"]["date-parts"][0][0])


def entry(key: str, work: dict[str, Any]) -> str:
    "One line of a list of references"
    people = [f"{a['family']} {a['given'][0]}." if a.get("given") else a.get("family") or a.get("literal") for a in work["author"]]
    people = ["et al." if name == "others" else name for name in people]
    where = ", ".join(str(work[k]) for k in ("container-title", "volume", "page") if work.get(k))
    links = [f'<a href="https://doi.org/{work["DOI"]}">doi:{work["DOI"]}</a>'] if work.get("DOI") else []
    links += [f'<a href="https://arxiv.org/abs/{work["eprint"]}">arXiv:{work["eprint"]}</a>'] if work.get("eprint") else []
    links += [f'<a href="{work["url"]}">ADS</a>'] if not links else []
    text = (
        f"{html.escape(', '.join(people))} ({year(work)}). {html.escape(work['title'])}. <em>{html.escape(where)}</em>. {' '.join(links)}"
    )
    return f'<li id="ref-{key}">{text}</li>'


def check_bibliography() -> list[str]:
    "Works that nobody could look up: no DOI, no arXiv number, and of a kind and time that has one (software records, proposals and ASP volumes have none)"
    return [
        f"references.bib: {key} has neither doi nor eprint"
        for key, work in bibliography().items()
        if not (
            work.get("DOI")
            or work.get("eprint")
            or (
                "adsabs" in (link := work.get("url") or "")
                and (int(year(work)) < 1997 or any(kind in link for kind in ("ascl", "prop", "ASPC")))
            )
        )
    ]


# ---- values


def spelt(value: object, form: str, where: str) -> str:
    "A value as it stands in a sentence"
    if value is None or isinstance(value, dict):
        raise ValueError(f"{where}: not one value")
    if isinstance(value, list | tuple):
        return ", ".join(spelt(v, form, where) for v in value)
    return format(value, form) if form else str(value)


def receipt_value(file: str, path: str, form: str = "") -> str:
    "A value of a receipt; lists are entered by number or by `name=value`"
    value = json.loads((RECEIPTS / file).read_text())
    for key in path.split("/"):
        where = f"receipt {file}: no {key} on the way to {path}"
        if isinstance(value, list) and "=" in key:
            name, wanted = key.split("=", 1)
            value = next((row for row in value if str(row.get(name)) == wanted), None)
        elif isinstance(value, list):
            value = value[int(key)] if int(key) < len(value) else None
        else:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            raise ValueError(where)
    return spelt(value, form, f"receipt {file} {path}")


def code_value(path: str, form: str = "") -> str:
    "A constant of the library, or the default of a recipe's field"
    module, _, name = path.partition(":")
    value: Any = importlib.import_module(f"dark_halo_scope.{module}")
    for part in re.split(r"[.]", name):
        if dataclasses.is_dataclass(value) and isinstance(value, type):
            field = next((f for f in dataclasses.fields(value) if f.name == part), None)
            if field is None:
                raise ValueError(f"{path}: no field {part}")
            made = field.default_factory is not dataclasses.MISSING
            value = field.default_factory() if made else field.default
            if value is dataclasses.MISSING:
                raise ValueError(f"{path}: {part} has no default")
        else:
            value = value[part] if isinstance(value, dict) else getattr(value, part)
    return spelt(value, form, path)


# ---- figures and tables of notebooks

PICTURES = ("image/png", "image/jpeg", "image/svg+xml")


def first_sentence(text: str) -> str:
    "The first sentence of prose, without its markup"
    kept = re.sub(r"^(#+ .*|>.*|[-|:].*)$", "", re.sub(r"```[\s\S]*?```", "", text), flags=re.MULTILINE)
    flat = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"[*`$\\{}]|\[@[^\]]*\]", "", kept))
    return re.split(r"(?<=[.:!?])\s", " ".join(flat.split()), maxsplit=1)[0]


def described(cells: list[Any], at: int) -> str:
    "What a reader who cannot see the figure of a cell is told: its own words, or the heading and the sentence that lead to it"
    own = re.search(r"^#\| *fig-(?:alt|cap): *[\"']?(.+?)[\"']?$", cells[at].source, re.MULTILINE)
    if own:
        return own[1]
    before = [c.source for c in cells[:at] if c.cell_type == "markdown"]
    headings = [h for text in before for h in re.findall(r"^#+ +(.+)$", text, re.MULTILINE)]
    sentences = [s for s in map(first_sentence, before) if s]
    words = ". ".join(part.rstrip(".:") for part in (headings[-1:] or []) + (sentences[-1:] or []))
    return f"Figure: {re.sub(r'[`*$]', '', words)}" if words else ""


def outputs(notebook: Path, heading: str, kind: str) -> list[tuple[str, Any, str]]:
    "Stored figures, or tables, of a notebook under a heading: (type, content, words for it)"
    if not notebook.exists():
        raise ValueError(f"embed: no notebook {notebook.relative_to(PROC)}")
    cells, found, here = nbformat.read(notebook, 4).cells, [], not heading
    for at, cell in enumerate(cells):
        for level, name in re.findall(r"^(#+) +(.+?)(?: *\{.*\})?$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []:
            here = slug(name) == heading if heading else len(level) < 2 or here
        if cell.cell_type != "code" or not here:
            continue
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            types = PICTURES if kind == "fig" else () if any(t in data for t in PICTURES) else ("text/html", "text/plain")
            found += [(t, data[t], described(cells, at)) for t in types if t in data][:1]
    return found


def with_descriptions(page: nbformat.NotebookNode) -> None:
    "Gives every figure of a notebook words for those who cannot see it"
    for at, cell in enumerate(page.cells):
        pictures = [o for o in cell.get("outputs", []) if any(t in o.get("data", {}) for t in PICTURES)]
        if pictures and "#| fig-alt:" not in cell.source:
            words = described(page.cells, at)
            cell.source = f"#| fig-alt: {json.dumps(words, ensure_ascii=False)}\n{cell.source}" if words else cell.source


# ---- one page at a time


class Book:
    "All pages at once: what is cited, numbered and defined anywhere is known everywhere"

    def __init__(self) -> None:
        self.works = bibliography()
        self.tex: dict[tuple[str, bool], int] = {}
        self.faults: list[str] = []
        self.labels: dict[str, tuple[str, str]] = {}
        self.sources = {p.relative_to(PROC): p for p in sorted(PROC.rglob("*")) if p.suffix in (".qmd", ".md", ".ipynb")}
        for page in self.sources:
            self.number(page, self.prose(page))

    def prose(self, page: Path) -> str:
        "The Markdown of a page, without code"
        text = self.sources[page].read_text()
        if page.suffix == ".ipynb":
            text = "\n\n".join(c.source for c in nbformat.reads(text, 4).cells if c.cell_type == "markdown")
        return CODE.sub("", text)

    def number(self, page: Path, text: str) -> None:
        "Labels of a page, each with what a reference to it says"
        chapter = re.match(r"(\d+)_", page.name)
        front = f"{int(chapter[1])}." if chapter else ""
        found = [(m.start(), m[2]) for m in BLOCK_MATHS.finditer(text) if m[2]] + [(m.start(), m[1]) for m in FLOAT.finditer(text)]
        counts = dict.fromkeys(NAMES, 0)
        for _, label in sorted(found):
            kind = label.split("-")[0]
            counts[kind] += 1
            self.define(label, page, f"{front}{counts[kind]}")
        for heading, label in SECTION.findall(text):
            self.define(label, page, heading)

    def define(self, label: str, page: Path, text: str) -> None:
        "Notes a label, once"
        if label in self.labels:
            self.faults.append(f"{page}: label {label} is defined twice")
        self.labels[label] = (str(page), text)

    # -- inline

    def maths(self, tex: str, block: bool) -> str:
        "A token that becomes MathML when every formula of the book is known"
        return f"\ue000{self.tex.setdefault((' '.join(tex.split()), block), len(self.tex))}\ue001"

    def cite(self, page: Path, cited: list[str], match: re.Match[str]) -> str:
        "A citation as a reader sees it"
        for key in re.findall(rf"@({KEY})", match[1] or f"@{match[2]}"):
            if key not in self.works:
                self.faults.append(f"{page}: references.bib has no {key}")
                return match[0]
            if key not in cited:
                cited.append(key)
        if match[2]:
            key = match[2]
            return f"[{surnames(self.works[key])} ({year(self.works[key])})](#ref-{key})"
        text = re.sub(rf"@({KEY})", lambda m: f"[{surnames(self.works[m[1]])} {year(self.works[m[1]])}](#ref-{m[1]})", match[1])
        return f"({text})"

    def refer(self, page: Path, match: re.Match[str]) -> str:
        "A cross-reference as a reader sees it"
        label = match[1]
        if label not in self.labels:
            self.faults.append(f"{page}: no such label @{label}")
            return match[0]
        home, text = self.labels[label]
        kind = label.split("-")[0]
        said = f"*{text}*" if kind == "sec" else f"{NAMES[kind]} {text}"
        together = page.stem == "print" and home.startswith("methods/")
        link = "" if str(page) == home or together else os.path.relpath(home, page.parent)
        return f"[{said}]({link}#{anchor(label)})"

    def shortcode(self, page: Path, kind: str, match: re.Match[str]) -> str:
        "What a shortcode stands for"
        name, words = match[1], shlex.split(match[2])
        try:
            if name == "receipt":
                return receipt_value(*words)
            if name == "code":
                return code_value(*words)
            if name == "embed":
                return self.embed(page, kind, *words)
            return {"results": self.results, "api": self.api, "receipts": self.receipts, "rooms": self.rooms}[name](page, words)
        except (ValueError, TypeError, AttributeError, KeyError, OSError, ImportError) as error:
            self.faults.append(f"{page}: {match[0]}: {error}")
            return match[0]

    def embed(self, page: Path, kind: str, target: str, which: str = "1") -> str:
        "A stored figure or table of a notebook"
        path, _, heading = target.partition("#")
        notebook = Path(os.path.normpath((PROC / page).parent / path))
        found = outputs(notebook, heading, kind)
        if len(found) < int(which):
            raise ValueError(f"{target} holds {len(found)} of that kind")
        mime, content, words = found[int(which) - 1]
        if mime in ("image/png", "image/jpeg"):
            import base64

            name = f"{notebook.stem}-{heading or 'top'}-{which}.{mime[-3:]}"
            place = PAGES / page.parent / "figures" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(base64.b64decode(content))
            content = f'<img src="figures/{name}" class="img-fluid" alt="{html.escape(words)}">'
        elif mime == "text/html":
            content = re.sub(r"<style[\s\S]*?</style>", "", content)
        elif mime == "text/plain":
            content = f"<pre><code>{html.escape(content)}</code></pre>"
        lines = "\n".join(line for line in content.strip().splitlines() if line.strip())
        return f'\n```{{=html}}\n<div class="embedded">\n{lines}\n</div>\n```\n\n[{self.title(notebook)}]({target.partition("#")[0]}){{.from}}\n'

    def float(self, page: Path, match: re.Match[str]) -> str:
        "A numbered figure or table: what it shows, then its caption"
        label, kind, inner = match[1], match[2], match[3]
        inner = SHORTCODE.sub(lambda m: self.shortcode(page, kind, m), inner).strip()
        body, _, caption = inner.rpartition("\n\n")
        sources = re.findall(r"\[[^\]]+\]\([^)]+\)\{\.from\}", body)
        body = re.sub(r"\[[^\]]+\]\([^)]+\)\{\.from\}\n?", "", body)
        come = f" From {', '.join(dict.fromkeys(s.removesuffix('{.from}') for s in sources))}." if sources else ""
        number = self.labels[label][1]
        return f"::: {{#{anchor(label)} .float}}\n{body}\n\n**{NAMES[kind]} {number}.** {' '.join(caption.split())}{come}\n:::"

    def block(self, match: re.Match[str]) -> str:
        "A displayed equation, with its number where it has a name"
        label = match[2]
        number = f'<span class="equation-number">({self.labels[label][1]})</span>' if label else ""
        where = f' id="{anchor(label)}"' if label else ""
        return f'\n```{{=html}}\n<div class="equation"{where}>{self.maths(match[1], True)}{number}</div>\n```\n'

    def text(self, page: Path, text: str, cited: list[str]) -> str:
        "Markdown with everything of the list above written out"
        text = self.outside(text, lambda t: FLOAT.sub(lambda m: self.float(page, m), t), whole=True)
        text = self.outside(text, lambda t: SHORTCODE.sub(lambda m: self.shortcode(page, "", m), t))
        text = self.outside(
            text, lambda t: SECTION.sub(lambda m: m[0].replace(m[2], anchor(m[2])), BLOCK_MATHS.sub(self.block, t)), whole=True
        )
        text = self.outside(text, lambda t: INLINE_MATHS.sub(lambda m: self.maths(m[1] or m[2], bool(m[1])), t))
        text = self.outside(text, lambda t: CITED.sub(lambda m: self.cite(page, cited, m), t))
        return self.outside(text, lambda t: REFERENCE.sub(lambda m: self.refer(page, m), t))

    @staticmethod
    def outside(text: str, change: Any, whole: bool = False) -> str:
        "A change made everywhere but in code; `whole` lets it span code that stands inside what it changes"
        kept: list[str] = []

        def hide(match: re.Match[str]) -> str:
            kept.append(match[0])
            return f"\ue002{len(kept) - 1}\ue003"

        shown = change(CODE.sub(hide, text))
        while "\ue002" in shown:
            shown = re.sub("\ue002(\\d+)\ue003", lambda m: kept[int(m[1])], shown)
        return shown

    def references(self, cited: list[str]) -> str:
        "The list of references of a page"
        lines = "\n".join(
            entry(key, self.works[key]) for key in sorted(cited, key=lambda k: (surnames(self.works[k]).lower(), year(self.works[k])))
        )
        return f'\n\n## References\n\n```{{=html}}\n<ul class="references">\n{lines}\n</ul>\n```\n' if cited else ""

    # -- generated pages

    def title(self, notebook: Path) -> str:
        "The title of a processed notebook"
        return self.front(notebook)[0]

    @staticmethod
    def front(page: Path) -> tuple[str, str]:
        "Title and promise of a processed page"
        if page.suffix == ".ipynb":
            cells = nbformat.read(page, 4).cells
            text = next((c.source for c in cells if c.source.startswith("---")), "")
        else:
            text = page.read_text()
        meta = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
        return str(meta.get("title", page.stem)), str(meta.get("description", meta.get("subtitle", "")))

    def results(self, page: Path, words: list[str]) -> str:
        "Result pages in the order given: the claim of each, and what it took to make"
        times = json.loads((RECEIPTS / "result_times.json").read_text())["seconds"] if (RECEIPTS / "result_times.json").exists() else {}
        lines = []
        for name in words:
            notebook = PROC / page.parent / f"{name}.ipynb"
            if not notebook.exists():
                raise ValueError(f"no result page {name}")
            title, promise = self.front(notebook)
            took = f" *Made in {times[name]:.0f} s.*" if name in times else ""
            lines.append(f"### [{title}]({name}.ipynb) {{#{slug(name)}}}\n\n{promise}{took}\n")
        return "\n".join(lines)

    def order(self) -> list[str | dict[str, Any]]:
        "The result pages for the sidebar, by the sections of their index"
        page = Path("results/index.qmd")
        listed: list[str | dict[str, Any]] = [str(page)]
        for part in re.split(r"^## ", self.sources[page].read_text(), flags=re.MULTILINE)[1:]:
            names = [
                n
                for m in SHORTCODE.finditer(part)
                if m[1] == "results"
                for n in re.findall(r"### \[.*?\]\((.*?)\)", self.shortcode(page, "", m))
            ]
            if names:
                listed.append({"section": part.splitlines()[0].strip(), "contents": [f"results/{n}" for n in names]})
        return listed

    def api(self, page: Path, words: list[str]) -> str:
        "Every public name of the library with its one line, by room and module"
        lines = []
        for room in ROOMS:
            lines.append(f"## {room} {{#{room}}}\n")
            for notebook in sorted((PROC / room).glob("*.ipynb")):
                source = ROOT / "dark_halo_scope" / room / f"{notebook.stem}.py"
                rows = list(names_of(source)) if source.exists() else []
                if rows:
                    link = os.path.relpath(notebook, (PROC / page).parent)
                    lines.append(
                        f'### [{room}.{notebook.stem}]({link}) {{#{room}-{notebook.stem}}}\n\n{self.front(notebook)[1]}\n\n```{{=html}}\n<dl class="api">'
                    )
                    place = link.removesuffix(".ipynb") + ".html"
                    lines += [f'<dt><a href="{place}#{name.lower()}"><code>{name}</code></a></dt><dd>{line}</dd>' for name, line in rows]
                    lines.append("</dl>\n```\n")
        return "\n".join(lines)

    def rooms(self, page: Path, words: list[str]) -> str:
        "Each room with what the sidebar says of it, its modules, and what the contracts forbid it to import"
        contracts = tomllib.loads(CONTRACTS.read_text())["tool"]["importlinter"]["contracts"][1:]
        holds = dict(re.findall(r'section: "(\w+): ([^"]+)"', (ROOT / "_quarto.yml").read_text()))
        top = os.path.relpath(PROC, (PROC / page).parent)
        lines = ["| | room | holds | modules | never imports |", "|--:|:--|:------|:---------|:----|"]
        for height, level in enumerate(rooms(CONTRACTS), 1):
            for room in level:
                names = [notebook.stem for notebook in sorted((PROC / room).glob("*.ipynb"))]
                never = [m for c in contracts if f"dark_halo_scope.{room}" in c["source_modules"] for m in c["forbidden_modules"]]
                cells = [f"[{name}]({top}/{room}/{name}.ipynb)" for name in names], [n.removeprefix("dark_halo_scope.") for n in never]
                lines.append(f"| {height} | **{room}** | {holds[room]} | {', '.join(cells[0])} | {', '.join(cells[1])} |")
        return "\n".join(lines)

    def receipts(self, page: Path, words: list[str]) -> str:
        "The committed receipts: when and by which command each was made, where it says so, and which pages read it"
        texts = {p: self.sources[p].read_text() for p in self.sources if p != page and p.parent.name in ("results", "methods")}
        lines = ["| receipt | date | made by | read by |", "|:---|:--|:-----|:----|"]
        for file in sorted(RECEIPTS.glob("*.json")) + sorted(p for p in RECEIPTS.iterdir() if p.is_dir()):
            kept = json.loads(file.read_text()) if file.is_file() else {}
            run = (kept if isinstance(kept, dict) else {}) | (kept.get("run", {}) if isinstance(kept, dict) else {})
            date = next((str(run[key])[:10] for key in ("date", "made", "finished") if key in run), "")
            made = next((f"`{run[key]}`" for key in ("command", "made_by") if key in run), "").replace("|", "\\|")
            stem = re.compile(rf"receipts\W+{file.name}\b" if file.is_dir() else rf"\b{re.escape(file.stem)}\b")
            readers = [
                f"[{self.title(PROC / p)}]({os.path.relpath(p, page.parent)})"
                for p in texts
                if stem.search(texts[p]) and p.suffix == ".ipynb"
            ]
            lines.append(f"| `{file.name}` | {date} | {made} | {', '.join(readers[:3])} |")
        return "\n".join(lines)

    def appendix(self, page: Path, words: list[str]) -> str:
        "The chapters of the methods one after the other"
        parts = []
        for source in sorted((PROC / page.parent).glob("[0-9]*_*.qmd")):
            body = source.read_text().split("---", 2)[2]
            parts.append(f"# {self.front(source)[0]}\n\n{self.front(source)[1]}\n{body}")
        return "\n\n".join(parts)

    # -- all of it

    def page(self, page: Path) -> str:
        "One page, written out; formulas are still tokens"
        cited: list[str] = []
        text = self.sources[page].read_text()
        if page.suffix != ".ipynb":
            if "{{< appendix >}}" in text:
                text = text.replace("{{< appendix >}}", self.appendix(page, []))
            return self.text(page, text, cited) + self.references(cited)
        notebook = nbformat.reads(text, 4)
        with_descriptions(notebook)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = self.text(page, cell.source, cited)
        if cited:
            notebook.cells.append(nbformat.v4.new_markdown_cell(self.references(cited)))
        return nbformat.writes(notebook)

    def write(self) -> list[str]:
        "All pages into _pages; what is wrong with them"
        shutil.rmtree(PAGES, ignore_errors=True)
        shutil.copytree(PROC, PAGES)
        texts = {page: self.page(page) for page in self.sources}
        drawn = mathml(list(self.tex))
        for page, text in texts.items():
            formula = (lambda m: json.dumps(drawn[int(m[1])])[1:-1]) if page.suffix == ".ipynb" else (lambda m: drawn[int(m[1])])
            done = re.sub("(?:\ue000|\\\\ue000)(\\d+)(?:\ue001|\\\\ue001)", formula, text)
            (PAGES / page).write_text(done)
        self.configuration()
        return self.faults + check_bibliography()

    def configuration(self) -> None:
        "The site's one description, with the names that nbdev keeps in settings.ini and the results in reading order"
        site = yaml.safe_load((ROOT / "_quarto.yml").read_text())
        for file in site.pop("metadata-files", []):
            site["website"] = site["website"] | yaml.safe_load((PROC / file).read_text())["website"]
        site.pop("bibliography", None)  # written out above
        for part in site["website"]["sidebar"]["contents"]:
            if isinstance(part, dict) and part.get("contents") == "results/*":
                part["contents"] = self.order()
        (PAGES / "nbdev.yml").unlink(missing_ok=True)
        (PAGES / "_quarto.yml").write_text(yaml.safe_dump(site, sort_keys=False, allow_unicode=True))


def names_of(module: Path) -> list[tuple[str, str]]:
    "Public functions and classes of a module with the first line of what each says of itself"
    tree = ast.parse(module.read_text())
    named = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    said = [html.escape(" ".join((ast.get_docstring(n) or "").split("\n\n")[0].split())) for n in named]
    return [(n.name, re.sub(r"`([^`]+)`", r"<code>\1</code>", line)) for n, line in zip(named, said)]


def mathml(formulas: list[tuple[str, bool]]) -> list[str]:
    "TeX to MathML, all in one call of pandoc: a browser needs nothing else to draw it"
    if not formulas:
        return []
    formulas = [(re.sub(r"\{\\(rm|tt)\s+([^{}]*)\}", r"{\\math\1{\2}}", tex), block) for tex, block in formulas]  # TeX's old spelling
    text = "\n\n".join(f"$${tex}$$" if block else f"${tex}$" for tex, block in formulas)
    done = subprocess.run(
        [pypandoc.get_pandoc_path(), "-f", "markdown", "-t", "html", "--mathml", "--wrap=none", "--fail-if-warnings"],
        input=text,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ValueError(f"formulas that cannot be drawn: {done.stderr}")
    drawn = re.findall(r"<math [\s\S]*?</math>", done.stdout)
    if len(drawn) != len(formulas):
        raise ValueError(f"{len(formulas)} formulas, {len(drawn)} drawn")
    bare = [re.sub(r"<annotation [\s\S]*?</annotation>|</?semantics>|\n", "", m) for m in drawn]
    return [re.sub(r"(?<=>)([^<]+)(?=<)", lambda m: inert(html.unescape(m[1])), m) for m in bare]


def inert(text: str) -> str:
    "Text that no Markdown reader takes for markup"
    return re.sub(r"[&<>*_^~'\"|\[\]\\$@#`-]", lambda c: f"&#{ord(c[0])};", text)
