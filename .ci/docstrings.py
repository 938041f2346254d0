"""Docments become sections: after `nbdev_export`, each public docstring of the library gains Parameters, Attributes, Returns and Raises

A notebook says a parameter's unit and meaning once, in the comment beside it. `help(render_arcs)`, an editor that shows a docstring on
hover, and whoever reads the exported file want it in the docstring; this step copies it there, in numpydoc's form. The notebooks stay as
they are. Nothing runs when the library is imported, and a product's name, which holds a hash of the code without docstrings, stays.

    python .ci/docstrings.py            # the library in place; a second call changes nothing
    python .ci/docstrings.py --strip    # takes the sections out again, for `nbdev_update`, which carries the files back to the notebooks
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

LIBRARY = Path(__file__).parents[1] / "dark_halo_scope"
MADE = re.compile(r"\n\s*\n *(Parameters|Attributes|Returns|Yields|Raises)\n *-{4,}\n[\s\S]*")
LITERAL = re.compile(r'([rR]?)("""|\'\'\'|"|\')([\s\S]*)\2')
SHORT = 40  # Characters of a default or of an expression in a message that are written out
Function = ast.FunctionDef | ast.AsyncFunctionDef


def comments(source: str) -> dict[int, str]:
    "The comment at the end of each line that has one"
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("#").strip() for t in tokens if t.type == tokenize.COMMENT and t.line[: t.start[1]].strip()}


def entry(head: str, text: str) -> list[str]:
    "One entry of a section: its head, and below it what is said of it"
    return [head, f"    {text}"] if text else [head]


def type_of(annotation: ast.expr) -> str:
    "A type as a reader sees it: one that is imported later stands in quotes in the code"
    return str(annotation.value) if isinstance(annotation, ast.Constant) else ast.unparse(annotation)


def typed(name: str, annotation: ast.expr | None, default: ast.expr | None) -> str:
    "`name : type, default value`, as far as they are stated"
    value = ast.unparse(default) if default else ""
    plain = value and len(value) <= SHORT and not value.startswith("field(")
    parts = [type_of(annotation)] if annotation else []
    parts += [f"default {value}" if plain else "optional"] if default else []
    return f"{name} : {', '.join(parts)}" if parts else name


def parameters(node: Function, said: dict[int, str]) -> Iterator[tuple[str, str]]:  # Head, comment
    "Each parameter of a function, but self and cls, with the comment on the line where it ends"
    of = node.args
    plain = of.posonlyargs + of.args
    listed = [(a.arg, a, d) for a, d in zip(plain, [None] * (len(plain) - len(of.defaults)) + of.defaults)]
    listed += [(f"*{of.vararg.arg}", of.vararg, None)] if of.vararg else []
    listed += [(a.arg, a, d) for a, d in zip(of.kwonlyargs, of.kw_defaults)]
    listed += [(f"**{of.kwarg.arg}", of.kwarg, None)] if of.kwarg else []
    listed = [(name, a, d) for name, a, d in listed if name not in ("self", "cls")]
    ends = [(d or a).end_lineno or 0 for _, a, d in listed]
    last = node.returns.end_lineno if node.returns else 0  # a comment there is of what comes back
    for (name, a, d), line, following in zip(listed, ends, [*ends[1:], last]):
        yield typed(name, a.annotation, d), said.get(line, "") if line != following else ""


def attributes(node: ast.ClassDef, said: dict[int, str]) -> Iterator[tuple[str, str]]:  # Head, comment
    "Each public field of a dataclass with the comment beside it"
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and not field.target.id.startswith("_"):
            yield typed(field.target.id, field.annotation, field.value), said.get(field.end_lineno or 0, "")


def message(error: ast.expr) -> tuple[str, str]:  # Class, text; the class is empty where it is not stated
    "What a raise statement raises and says; the parts that are known later stand in braces"
    if not isinstance(error, ast.Call):
        return (error.id, "") if isinstance(error, ast.Name) and error.id[:1].isupper() else ("", "")
    name, first = ast.unparse(error.func), error.args[0] if error.args else None
    if name == "unknown_name" and isinstance(first, ast.Constant):
        return "BadInput", f"unknown {first.value}"
    if not (name.split(".")[-1][:1].isupper()):
        return "", ""
    if isinstance(first, ast.JoinedStr):
        parts = [ast.unparse(p.value) if isinstance(p, ast.FormattedValue) else "" for p in first.values]
        spelt = [f"{{{part}}}" if len(part) <= SHORT else "..." for part in parts]
        return name, "".join(str(p.value) if isinstance(p, ast.Constant) else text for p, text in zip(first.values, spelt))
    return name, str(first.value) if isinstance(first, ast.Constant) else ""


def catches(handler: ast.ExceptHandler, name: str) -> bool:
    "Whether a handler may take an exception that is raised under it"
    named = {n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)} if handler.type else {"Exception"}
    return bool(named & {name, "Exception", "BaseException"} or (name == "BadInput" and "ValueError" in named))


def raised(node: ast.AST, helpers: dict[str, Function], seen: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:  # Class, text
    "What a piece of code raises itself or through private functions of its module, in the order of the text"
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Try | ast.TryStar):
            inner = [found for part in child.body for found in raised(ast.Module([part], []), helpers, seen)]
            yield from (found for found in inner if not any(catches(h, found[0]) for h in child.handlers))
            for part in [*child.handlers, *child.orelse, *child.finalbody]:
                yield from raised(ast.Module([part], []), helpers, seen)  # type: ignore[list-item]
            continue
        if isinstance(child, ast.Raise) and child.exc is not None and (found := message(child.exc))[0]:
            yield found
        called = child.func.id if isinstance(child, ast.Call) and isinstance(child.func, ast.Name) else ""
        if called.startswith("_") and called in helpers and called not in seen:
            yield from raised(ast.Module(helpers[called].body, []), helpers, seen | {called})
        yield from raised(child, helpers, seen)


def section(title: str, entries: list[list[str]]) -> list[str]:
    "A section's lines, an empty one first"
    return ["", title, "-" * len(title), *(line for lines in entries for line in lines)] if entries else []


def sections(node: Function | ast.ClassDef, said: dict[int, str], helpers: dict[str, Function]) -> list[str]:
    "The lines that follow what the notebook says; none where neither a comment nor a raise adds to the signature"
    if isinstance(node, ast.ClassDef):
        made = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
        listed = list(parameters(made, said) if made else attributes(node, said))
        title, returns = "Parameters" if made else "Attributes", []
        errors = list(raised(ast.Module(made.body, []), helpers)) if made else []
    else:
        title, listed, errors = "Parameters", list(parameters(node, said)), list(raised(ast.Module(node.body, []), helpers))
        text = said.get(node.returns.end_lineno or 0, "") if node.returns else ""
        named = bool(text or any(t for _, t in listed)) and node.returns and ast.unparse(node.returns) != "None"
        returns = [entry(type_of(node.returns), text)] if named and node.returns else []
    lines = section(title, [entry(*one) for one in listed] if any(text for _, text in listed) else []) + section("Returns", returns)
    kinds = dict.fromkeys(kind for kind, _ in errors)
    texts = {kind: dict.fromkeys(" ".join(t.split()) for k, t in errors if k == kind and t.strip()) for kind in kinds}
    return lines + section("Raises", [[kind, *(f"    {text}" for text in texts[kind])] for kind in kinds])


def public(tree: ast.Module) -> Iterator[Function | ast.ClassDef]:
    "Public functions and classes, and the public methods of these; not what the command line shows as its help"
    for node in tree.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not any(isinstance(n, ast.Attribute) and n.attr in ("command", "callback") for d in node.decorator_list for n in ast.walk(d)):
            yield node
        if isinstance(node, ast.ClassDef):
            yield from (m for m in node.body if isinstance(m, Function) and (m.name == "__call__" or not m.name.startswith("_")))


def literal(written: str, lines: list[str], indent: str) -> str:
    "A docstring as it stands in the file, with the lines in place of those made before"
    raw, _, text = LITERAL.fullmatch(written).groups()  # type: ignore[union-attr]
    if not lines and not MADE.search(text):
        return written
    kept = MADE.sub("", text).rstrip()
    if not lines:
        return f'{raw}"""{kept}\n{indent}"""' if "\n" in kept else f'{raw}"{kept}"'
    added = [line.replace('"""', "'''").replace("\\", "\\" if raw else "\\\\") for line in lines]
    return f'{raw}"""{kept}\n' + "\n".join(f"{indent}{line}".rstrip() for line in added) + f'\n{indent}"""'


def rewritten(source: str, strip: bool = False) -> str:
    "A module with the sections in its docstrings, or without them"
    tree, said = ast.parse(source), comments(source)
    helpers = {n.name: n for n in tree.body if isinstance(n, Function)}
    lines = source.encode().split(b"\n")
    for node in sorted(public(tree), key=lambda n: -n.body[0].lineno):  # from below, so that line numbers above stay
        first = node.body[0]
        if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)):
            continue
        place, end = slice(first.lineno - 1, first.end_lineno), first.end_col_offset
        before, after = lines[place][0][: first.col_offset], lines[place][-1][end:]
        if before.strip() or first.end_lineno is None:  # stands behind its `def`
            continue
        written = b"\n".join(lines[place])[len(before) :]
        written = written[: len(written) - len(after)]
        new = literal(written.decode(), [] if strip else sections(node, said, helpers), before.decode())
        lines[place] = (before + new.encode() + after).split(b"\n")
    return b"\n".join(lines).decode()


def main(strip: bool = False) -> int:  # Files that changed
    "Rewrites the library in place"
    changed = 0
    for path in sorted(LIBRARY.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if not path.name.startswith("_") and (new := rewritten(source, strip)) != source:
            path.write_text(new, encoding="utf-8")
            changed += 1
    return changed


if __name__ == "__main__":
    print(f"docstrings: {main('--strip' in sys.argv[1:])} files changed")
