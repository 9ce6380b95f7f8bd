"""A notebook's typed parameters, read without running it, and settings checked against them.

Each line of the cell tagged ``parameters`` reads ``name: type = default  # in <allowed>: help``, which
``papermill --help-notebook`` shows too. The type is int, float, bool, str or list[str]; ``<allowed>``, if given, is a
closed interval ``[1, 4096]`` for numbers, a set ``{quick, proxy}`` for strings (each element of a list; ``networks``
stands for the name of every preset), or ``path or {packages}`` for a file or folder.
"""

import ast
import io
import itertools
import json
import math
import re
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdrepro.core.errors import BadInput, unknown
from mdrepro.core.paths import root
from mdrepro.core.reading import read_yaml
from mdrepro.models import presets
from mdrepro.papers.schema import Table, Tier
from mdrepro.reproduce.workflow import cells

TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str, "list[str]": list}
BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
MOST = 1000
"""Runs in one batch."""
_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})")
_COMMENT = re.compile(r"^in (?P<path>path(?: or )?)?(?P<allowed>\[[^\]]*\]|\{[^}]*\})?:\s*(?P<help>.*)$")


@dataclass(frozen=True)
class Parameter:
    """One declared parameter: its type, default and what is allowed."""

    name: str
    type: str
    default: Any
    help: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    path: bool = False

    @property
    def expected(self) -> str:
        """What is allowed, in words."""
        if self.path:
            return "an existing file or folder" + (f", or {' or '.join(self.choices)}" if self.choices else "")
        words = {"list[str]": "names separated by commas", "bool": "true or false"}.get(self.type, self.type)
        words += f" in [{self.low:g}, {self.high:g}]" if self.low is not None else ""
        return words + (f" among {', '.join(self.choices)}" if self.choices else "")

    def check(self, value: Any) -> Any:
        """``value`` in the declared type. Raises BadInput that names what is expected."""
        kind = TYPES[self.type]
        if kind is float and type(value) is int:
            value = float(value)
        right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if right and self.low is not None and self.high is not None:
            right = self.low <= value <= self.high
        if right and kind is list:
            right = all(isinstance(item, str) for item in value) and len(value) > 0
        if right and self.path and value not in self.choices:
            right = value != "" and Path(value).exists()
            value = str(Path(value).resolve())
        elif right and self.choices:
            right = set(value if kind is list else [value]) <= set(self.choices)
        if not right:
            raise BadInput(f"parameter {self.name} = {value!r}: expected {self.expected}")
        return value

    def values(self, given: Any) -> list[Any]:
        """The values that are asked for, checked: one, or several for as many runs.

        Several are ``0..4`` (integers, both ends counted) or values between commas in a text, and a list from a file;
        of a parameter that is a list itself a list of lists. Raises BadInput.
        """
        if isinstance(given, list) and (self.type != "list[str]" or any(isinstance(item, list) for item in given)):
            return [value for item in given for value in self.values(item)] or [self.check(given)]
        if not isinstance(given, str):
            return [self.check(given)]
        if self.type == "int" and (ends := _RANGE.fullmatch(given.strip())):
            first, last = self.check(int(ends[1])), self.check(int(ends[2]))
            if not 0 <= last - first < MOST:
                raise BadInput(f"parameter {self.name} = {given}: expected a range of 1 to {MOST} values, rising")
            return list(range(first, last + 1))
        if "," in given and self.type != "list[str]":
            if self.type == "str":
                with suppress(BadInput):
                    return [self.parse(given)]
            if items := _items(given):
                return [value for item in items for value in self.values(item)]
        return [self.parse(given)]

    def parse(self, text: str) -> Any:
        """The value written as ``text`` on the command line. Raises BadInput."""
        read = {"bool": lambda text: BOOLEANS[text.lower()], "list[str]": _items}.get(self.type, TYPES[self.type])
        try:
            value = read(text)
        except (KeyError, ValueError):
            raise BadInput(f"parameter {self.name} = {text!r}: expected {self.expected}") from None
        return self.check(value)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _parameter(statement: ast.stmt, comment: str) -> Parameter:
    if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name) or not statement.value:
        raise ValueError(f"line {statement.lineno} is not `name: type = default`")
    kind = ast.unparse(statement.annotation)
    if kind not in TYPES:
        raise ValueError(f"{statement.target.id}: type {kind} is not one of {', '.join(TYPES)}")
    fields: dict[str, Any] = {"help": comment}
    if match := _COMMENT.match(comment):
        allowed = match["allowed"] or ""
        items, fields = _items(allowed[1:-1]), {"help": match["help"], "path": bool(match["path"])}
        if allowed.startswith("["):
            fields |= {"low": float(items[0]), "high": float(items[1])}
        else:
            fields["choices"] = tuple(x for item in items for x in (presets.names() if item == "networks" else [item]))
    parameter = Parameter(statement.target.id, kind, ast.literal_eval(statement.value), **fields)
    parameter.check(parameter.default)
    return parameter


def _unread(names: Iterable[str], sources: Iterable[str]) -> list[str]:
    """Parameters that no cell reads, or that a cell gives another value: setting them would change nothing.

    ``tier`` is read by `record` from the running notebook.
    """
    found = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
    read = {"tier", *(node.id for node in found if isinstance(node.ctx, ast.Load))}
    given = {node.id for node in found if not isinstance(node.ctx, ast.Load)}
    return [name for name in names if name not in read or name in given]


def declared(notebook: Path) -> dict[str, Parameter]:
    """The typed parameters of a notebook, in order.

    Raises BadInput: it cannot be read, has not exactly one cell tagged ``parameters``, that is not of this form, or a
    parameter is not read by the other cells.
    """
    every = cells.read(notebook)
    tagged = [cell for cell in every if "parameters" in cell.metadata.tags]
    if len(tagged) != 1:
        raise BadInput(f"{notebook}: {len(tagged)} cells are tagged 'parameters'; expected one")
    source = tagged[0].text
    try:
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
        parameters = [_parameter(node, comments.get(node.end_lineno or 0, "")) for node in ast.parse(source).body]
    except (SyntaxError, ValueError, TypeError, LookupError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise BadInput(f"{notebook}: parameters cell: {error}") from None
    others = [cell.text for cell in every if cell.cell_type == "code" and cell is not tagged[0]]
    unread = _unread([parameter.name for parameter in parameters], [cells.python(text, notebook) for text in others])
    if unread:
        raise BadInput(f"{notebook}: parameters that its cells do not read, or give another value: {', '.join(unread)}")
    return {parameter.name: parameter for parameter in parameters}


def setting_text(values: Mapping[str, Any]) -> str:
    """Parameters as they are set on the command line: ``steps=4, models=sd15,sd21``."""
    return ", ".join(f"{name}={value_text(value)}" for name, value in values.items())


def value_text(value: Any) -> str:
    """A parameter's value as it is given on the command line."""
    return ",".join(value) if isinstance(value, list) else str(value)


def batch(
    table: Table, tier: Tier, settings: Sequence[str] = (), given: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Every parameter of a table's notebook at ``tier``, for each run that is asked for, each once.

    ``given``: parameters from files, of one run or several (none: the tier's defaults). ``settings``: ``name=value``,
    which override those. A parameter that is given several values (`Parameter.values`) stands for a run with each, and
    several such for all combinations.

    Raises BadInput: the table does not run at this tier, a parameter has an unknown name, a wrong type or value, or
    more than `MOST` runs are asked for.
    """
    if not table.notebook or tier not in table.tiers:
        needs = table.not_at.get(tier) or "its notebook is not built yet"
        where = f"; it runs at {', '.join(table.tiers)}" if table.tiers else ""
        raise BadInput(f"{table.id} does not run at tier {tier}{where}. It needs: {needs}")
    known = declared(root() / table.notebook)
    run = table.tiers[tier]
    usual: dict[str, Any] = {"tier": tier, **run.parameters}
    if "seeds" in known or run.seeds > 1:
        usual["seeds"] = run.seeds
    if strange := set(usual) - set(known):
        raise BadInput(f"{table.id}: tier {tier} sets unknown parameters: {', '.join(sorted(strange))}")
    usual = {name: known[name].check(usual.get(name, parameter.default)) for name, parameter in known.items()}
    set_here = {}
    for setting in settings:
        name, sign, text = setting.partition("=")
        if not sign or not name:
            raise BadInput(f"--set {setting}: expected name=value")
        set_here[name] = text
    found: dict[str, dict[str, Any]] = {}
    for each in given or ({},):
        asked = {name: _known(known, name, table, tier).values(value) for name, value in {**each, **set_here}.items()}
        if len(found) + math.prod(map(len, asked.values())) > MOST:
            raise BadInput(f"{table.id}: more than {MOST} runs are asked for; expected at most {MOST} in one batch")
        for values in itertools.product(*asked.values()):
            one = usual | dict(zip(asked, values, strict=True))
            found.setdefault(json.dumps(one), one)
    return list(found.values())


def _known(known: Mapping[str, Parameter], name: str, table: Table, tier: Tier) -> Parameter:
    """The parameter called ``name``. Raises BadInput where it cannot be set."""
    if name == "tier":
        raise BadInput("--set tier=...: use --tier")
    if name in known:
        return known[name]
    if name == "recipes" and table.networks(tier):
        rows = "; ".join(f"{row}: {declared.network}" for row, declared in table.networks(tier).items())
        raise BadInput(
            f"--set recipes=...: {table.id} measures the networks that mdrepro/papers/*.yaml declares for its "
            f"rows at tier {tier}: expected {rows}; scored by "
            f"{' and '.join(table.tiers[tier].scorers) or 'published weights'}"
        )
    raise unknown(f"parameter of {table.id}", name, (item for item in known if item != "tier"))


def resolve(table: Table, tier: Tier, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Every parameter of one run: `batch`, with its errors, where no setting gives several values."""
    values, *more = batch(table, tier, settings)
    if more:
        raise BadInput(f"{', '.join(settings)}: expected one value of each parameter")
    return values


def from_file(file: Path, *, several: bool) -> list[dict[str, Any]]:
    """The parameters in a YAML file: a mapping, or with ``several`` a list of some, one for each run.

    Raises BadInput: it cannot be read, or holds something else.
    """
    content = read_yaml(file)
    runs = content if several and isinstance(content, list) else [content]
    if not runs or not all(isinstance(run, dict) and run and {*map(type, run)} == {str} for run in runs):
        expected = "a list of mappings from parameters to values, one for each run" if several else "a mapping"
        raise BadInput(f"{file}: expected {expected}, such as seed: 1")
    return runs
