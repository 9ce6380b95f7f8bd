"""The API reference: one page per package folder, written from source text and docstrings without importing them.

Docstrings are in Google's style, with reStructuredText's ``code`` and `references`.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from mdrepro.core.errors import BadInput
from mdrepro.core.files import digest, replacing_folder, sha256, write_json
from mdrepro.core.paths import runs
from mdrepro.core.reading import read_json
from mdrepro.reproduce.report.render import SITE, sphinx

PACKAGE = Path(__file__).resolve().parents[2]
STAMP = "api.json"
MARKUP = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)
Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def code_hash() -> str:
    """SHA-256 over the names and contents of the package's modules and of what renders them."""
    return digest({str(file): sha256(file) for file in (*sorted(PACKAGE.rglob("*.py")), SITE / "conf.py")})


def build(strict: bool = False) -> Path:
    """The folder of the reference, rendered where the package's code has changed since the last time.

    With ``strict`` a warning of Sphinx ends the build. Raises RuntimeError where Sphinx fails.
    """
    final, now = runs() / ".api", code_hash()
    if _stamp(final / STAMP) != now:
        with replacing_folder(final) as folder:
            sphinx(pages(), folder, strict=strict, tags=("api",))
            write_json(folder / STAMP, now)
    return final


def _stamp(file: Path) -> object:
    """What a stamp holds; None where there is none that can be read."""
    try:
        return read_json(file)
    except BadInput:
        return None


def pages() -> dict[str, str]:
    """reStructuredText of each folder of modules but ``cli``, which ``--help`` describes, and an index, by file."""
    folders = defaultdict[str, list[str]](list)
    for place in sorted({file.parent for file in PACKAGE.rglob("__init__.py")} - {PACKAGE / "cli"}):
        folder = ".".join((PACKAGE.name, *place.relative_to(PACKAGE).parts))
        modules = [file for file in sorted(place.glob("*.py")) if not file.stem.startswith("_")]
        for file in (place / "__init__.py", *modules):
            name = folder if file.stem == "__init__" else f"{folder}.{file.stem}"
            folders[folder].append(_Module(name, file.read_text(encoding="utf-8"), name == folder).text())
    toc = [".. toctree::", "   :maxdepth: 1", "", *(f"   {folder}" for folder in folders), ""]
    index = "\n".join([*_heading("API reference", "="), *toc])
    return {f"{folder}.rst": "\n".join(parts) for folder, parts in folders.items()} | {"index.rst": index}


def _string(node: ast.stmt | None) -> str | None:
    text = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else None
    return text if isinstance(text, str) else None


def _heading(text: str, rule: str) -> list[str]:
    return [text, rule * len(text), ""]


class _Module(ast.NodeTransformer):
    """One module: its docstring, documented constants, public classes and functions; types by their full names."""

    def __init__(self, name: str, source: str, folder: bool) -> None:
        self.name, self.folder, self.tree = name, folder, ast.parse(source)
        self.full: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == name.split(".")[0]:
                self.full |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
        for node in self.tree.body:
            own = [node.name] if isinstance(node, ast.ClassDef) else getattr(node, "targets", [])
            self.full |= {each: f"{name}.{each}" for each in (getattr(one, "id", one) for one in own)}

    def text(self) -> str:
        """The module's reStructuredText."""
        title = _heading(self.name, "=" if self.folder else "-")
        lines = [*title, f".. py:module:: {self.name}", "", *self._rst(ast.get_docstring(self.tree)), ""]
        return "\n".join([*lines, *self._members(self.tree.body)])

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """As its full name, where it is imported or defined here."""
        return ast.parse(self.full.get(node.id, node.id), mode="eval").body

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        """A type that is written as a string, as an expression."""
        try:
            return self.visit(ast.parse(node.value, mode="eval").body) if isinstance(node.value, str) else node
        except SyntaxError:
            return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        """As it stands where it is a ``Literal``: what that lists are values, not types."""
        if ast.unparse(node.value).rpartition(".")[2] != "Literal":
            self.generic_visit(node)
        return node

    def _type(self, node: ast.expr) -> str:
        return ast.unparse(self.visit(ast.parse(ast.unparse(node), mode="eval").body))

    def _members(self, body: list[ast.stmt], indent: str = "", inside: bool = False) -> Iterator[str]:
        """Directives of public, documented members; a class's annotated fields need no docstring."""
        seen = set[str]()
        for node, after in zip_longest(body, body[1:]):
            lines: list[str] = []
            if isinstance(node, Documented) and not node.name.startswith("_") and ast.get_docstring(node):
                name = node.name
                lines = list(self._class(node) if isinstance(node, ast.ClassDef) else self._function(node, inside))
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                name = target.id if isinstance(target, ast.Name) else "_"
                lines = list(self._value(name, node, _string(after), inside))
            if lines and name not in seen:
                seen.add(name)
                yield from (indent + line if line else "" for line in lines)

    def _class(self, node: ast.ClassDef) -> Iterator[str]:
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        yield f".. py:class:: {node.name}" + (f"({bases})" if bases else "")
        yield from self._body(ast.get_docstring(node))
        yield from self._members(node.body, "   ", inside=True)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, inside: bool) -> Iterator[str]:
        decorators = {ast.unparse(each) for each in node.decorator_list}
        returns = self._type(node.returns) if node.returns else ""
        if decorators & {"property", "functools.cached_property", "cached_property"}:
            yield from (f".. py:property:: {node.name}", *([f"   :type: {returns}"] if returns else []))
        else:
            for each in ast.walk(node.args):
                if isinstance(each, ast.arg) and each.annotation:
                    each.annotation = ast.parse(self._type(each.annotation), mode="eval").body
            arguments = ast.unparse(node.args)
            if inside and "staticmethod" not in decorators:
                arguments = re.sub(r"^(self|cls)(, )?", "", arguments)
            kind = "method" if inside else "function"
            yield f".. py:{kind}:: {node.name}({arguments})" + (f" -> {returns}" if returns else "")
            yield from (f"   :{name}:" for name in ("staticmethod", "classmethod") if name in decorators)
        yield from self._body(ast.get_docstring(node))

    def _value(self, name: str, node: ast.Assign | ast.AnnAssign, text: str | None, inside: bool) -> Iterator[str]:
        """A constant or field: those with a string below them, and annotated fields of classes."""
        annotated = isinstance(node, ast.AnnAssign)
        if name.startswith("_") or (text is None and not (inside and annotated)):
            return
        yield f".. py:{'attribute' if inside else 'data'}:: {name}"
        yield from [f"   :type: {self._type(node.annotation)}"] if isinstance(node, ast.AnnAssign) else []
        yield from self._body(text)

    def _body(self, text: str | None) -> Iterator[str]:
        yield from ("", *(f"   {line}" for line in self._rst(text)), "")

    def _rst(self, text: str | None) -> list[str]:
        """Lines of reStructuredText from a Google-style docstring; characters outside of code are no markup."""
        from sphinx.ext.napoleon import Config
        from sphinx.ext.napoleon.docstring import GoogleDocstring

        parts = MARKUP.split(text or "")
        parts[::2] = [re.sub(r"([*|])|(?<=\w)(_)(?=\W|$)", r"\\\1\2", part) for part in parts[::2]]
        parts[1::2] = [re.sub(r"^`(\w+)", self._reference, part) for part in parts[1::2]]
        return str(GoogleDocstring("".join(parts), Config(napoleon_use_ivar=True))).split("\n")  # type: ignore[arg-type]

    def _reference(self, name: re.Match[str]) -> str:
        return f"`~{self.full[name[1]]}" if name[1] in self.full else name[0]
