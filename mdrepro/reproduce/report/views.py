"""What the report's pages show, as plain values: numbers already rounded, footnotes numbered, verdicts counted."""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Generic, NamedTuple, TypeVar

from mdrepro.core.console import MINUS
from mdrepro.core.files import sha256
from mdrepro.core.paths import published as published_in
from mdrepro.core.paths import root
from mdrepro.papers import ledger
from mdrepro.papers.base import CONFIRMED
from mdrepro.papers.claims import Claim
from mdrepro.papers.schema import Column, Table, Tier, Tolerance, Verdict
from mdrepro.reproduce.formatting import Inequality, decimals, doubts, inequality, number
from mdrepro.reproduce.report.legend import VERDICTS
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.folders import default_run

T = TypeVar("T", bound=Hashable)
FOLD = 6  # columns of a table that need not be folded
ALIKE = 0.6  # of the columns of two rows, the share that both have, from which they stand in one table
COMPARED = {Verdict.REPRODUCED, Verdict.BY_CONSTRUCTION, Verdict.WITHIN_NOISE, Verdict.DIFFERS, Verdict.UNCONFIRMED}


def tolerance(value: Tolerance, unit: str = "") -> str:
    """A tolerance in words, for example "±1 %" or "±0.5 dB"."""
    if not value.absolute and (value.relative or 0) < 1e-7:
        return "none, exact"
    return str(value) if value.absolute is None else f"{value} {unit}".strip()


def portable(text: str) -> str:
    """``text`` without this machine's paths: the checkout, the environment, the home and kernels' folders are named."""
    names = {str(root()): "$MDREPRO_ROOT", sys.prefix: "$VENV", str(Path.home()): "~"}
    for folder in sorted(names, key=len, reverse=True):
        if len(folder) > 1:
            text = re.sub(rf"{re.escape(folder)}(?![\w.-])", names[folder], text)
    return re.sub(r"/[\w./-]*/ipykernel_\d+/", "ipykernel/", text)


@dataclass
class Notes(Generic[T]):
    """Footnotes of a table: equal items share one mark: 1, 2, 3 …, or with ``letters`` a … z, aa, ab …"""

    prefix: str
    letters: bool = False
    marks: dict[T, str] = field(default_factory=dict)

    def mark(self, item: T) -> str:
        """The mark of ``item``, added when new."""
        return self.marks.setdefault(item, self._label(len(self.marks)))

    def _label(self, index: int) -> str:
        if not self.letters:
            return str(index + 1)
        return (self._label(index // 26 - 1) if index >= 26 else "") + ascii_lowercase[index % 26]


class PaperNote(NamedTuple):
    """Where one of the paper's figures comes from."""

    confidence: str
    source: str
    note: str


@dataclass
class CellView:
    """One cell of a table page. Texts are plain, "" where there is nothing to show; ``how`` has marks of notes."""

    verdict: str = ""
    value: str = ""
    interval: str = ""
    n: int | None = None
    seeds: int | None = None
    by_seed: str = ""
    protocol: str = ""
    how: tuple[str, ...] = ()
    reason: str = ""
    paper: str = ""
    confidence: str = ""
    source: str = ""
    delta: str = ""
    published: str = ""
    agrees: bool | None = None

    @property
    def images(self) -> str:
        """How many images the number rests on; "" where that is not counted."""
        return f"n = {self.n}" if self.n else ""

    @property
    def trainings(self) -> str:
        """How many training seeds the number rests on; "" where no network was trained for it."""
        return f"{self.seeds} training seed{'s' * (self.seeds > 1)}" if self.seeds else ""

    @property
    def doubtful(self) -> bool:
        """Whether the paper's figure may not be called the paper's."""
        return bool(self.confidence) and self.confidence not in CONFIRMED


class ClaimView(NamedTuple):
    """One claim, its verdict, what its conditions compare, and how doubtful a claim is that nobody could confirm."""

    claim: Claim
    verdict: str
    conditions: list[Inequality]
    doubt: str = ""


class Block(NamedTuple):
    """A part of a page's table: rows and columns that were measured together.

    ``counted``: how many images a column's numbers rest on, and how many training seeds a row's, where all rest on as
    many: by the name of column or row.
    """

    rows: list[str]
    columns: list[str]
    counted: dict[str, str]


@dataclass
class RunView:
    """One table at one tier: the local run where there is one, else the published result (``origin``).

    ``folder`` holds its files, ``slug`` is their folder inside the site and the prefix of its anchors, and
    ``where_reasons`` has the cells by mark of a reason and row.
    """

    table: Table
    tier: Tier
    origin: str
    folder: Path
    result: results.Result
    published: results.Result | None
    warnings: list[str]
    figures: list[str]
    counts: dict[str, int]
    claims: list[ClaimView]

    def __post_init__(self) -> None:
        self.slug = self.tier if self.origin == "local" else f"{self.tier}-published"
        self.provenance: dict[str, Any] = self.result["provenance"]
        self.cells: dict[str, dict[str, CellView]] = {}
        self.where_reasons: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self.protocols = Notes[str](f"{self.slug}-how", letters=True)
        self.reasons = Notes[str](f"{self.slug}-why")
        self.sources = Notes[PaperNote](f"{self.slug}-source")

    @property
    def short_commit(self) -> str:
        """Nine digits of the commit."""
        return (self.provenance.get("commit") or "no commit")[:9].strip()

    @property
    def agreement(self) -> dict[str, int]:
        """How many numbers agree and do not agree with the published ones."""
        flags = [cell.agrees for row in self.cells.values() for cell in row.values()]
        return {"agree": flags.count(True), "disagree": flags.count(False)}

    def reason_cells(self, mark: str) -> str:
        """How many cells a reason stands for, in words."""
        count = sum(map(len, self.where_reasons[mark].values()))
        return f"{count} cell" + ("s" if count != 1 else "")

    @cached_property
    def blocks(self) -> list[Block]:
        """What was measured: one table, or where it is wide one for each kind of row, and for what rows differ by."""
        known = {row: [name for name, cell in line.items() if cell.value] for row, line in self.cells.items()}
        groups: list[tuple[list[str], set[str]]] = []
        derived = {name for name, column in self.table.columns.items() if column.derived}
        wide = len(set().union(*known.values())) > FOLD
        for row, names in known.items():
            own = set(names) - derived or set(names)
            if own:
                alike = (group for group in groups if not wide or len(own & group[1]) >= ALIKE * len(own | group[1]))
                rows, every = next(alike, ([], set()))
                if not rows:
                    groups.append((rows, every))
                rows.append(row)
                every |= own
        blocks = []
        for rows, _ in groups:
            names = [name for name in self.table.columns if any(name in known[row] for row in rows)]
            apart = [name for name in names if name in derived] if len(names) > FOLD else []
            for part in ([name for name in names if name not in apart], apart):
                shown = [row for row in rows if set(part) & set(known[row])]
                if shown:
                    blocks.append(Block(shown, part, self._counted(shown, part)))
        return blocks

    def _counted(self, rows: list[str], columns: list[str]) -> dict[str, str]:
        counted = dict.fromkeys((*rows, *columns), "")
        for name in columns:
            images = {self.cells[row][name].images for row in rows if self.cells[row][name].value}
            counted[name] = images.pop() if len(images) == 1 else ""
        for row in rows:
            cells = (self.cells[row][name] for name in columns)
            trainings = {cell.trainings for cell in cells if cell.interval or cell.trainings}
            counted[row] = trainings.pop() if len(trainings) == 1 else ""
        return counted

    @cached_property
    def unmeasured(self) -> list[tuple[str, str, CellView]]:
        """Row, column and cell of what the paper gives or the notebook names and no block shows."""
        shown = {(row, name) for block in self.blocks for row in block.rows for name in block.columns}
        every = ((row, name, cell) for row, line in self.cells.items() for name, cell in line.items())
        return [each for each in every if each[:2] not in shown and (each[2].paper or each[2].verdict)]

    @property
    def is_published(self) -> bool:
        """Whether this very run is the published one."""
        own, other = (run and (run["provenance"].get("created"), run["rows"]) for run in (self.result, self.published))
        return own == other

    @property
    def comparable(self) -> list[Column]:
        """The columns whose protocol is the paper's at this tier."""
        return [column for column in self.table.columns.values() if self.tier in column.comparable_at]

    @property
    def stamp(self) -> str:
        """The sentence that keeps a small run from being read as the paper's."""
        same = self.comparable
        other = [column for column in self.table.columns.values() if column not in same]
        others, shared = (", ".join(column.title for column in columns) for columns in (other, same))
        if not same:
            tiers = self.table.tiers  # with equal parameters quick runs networks of the published size
            full = self.tier != "quick" or ("quick" in tiers and tiers["quick"] == tiers.get("paper"))
            small = "" if full else "small networks; "
            return f"{small}not the paper's protocol. Claims are tested, cells are not compared with the paper's."
        if not other:
            return "the paper's protocol in every column."
        if len(other) <= len(same):
            return f"the paper's protocol, except in {others}, which cannot be compared."
        return f"the paper's protocol in {shared} only; the other columns cannot be compared."


def _cell(
    view: RunView, row: str, name: str, measured: dict[str, Any] | None, how: dict[str, tuple[str, ...]]
) -> CellView:
    """One cell; its notes are added to those of ``view``."""
    spec, column, cell = view.table.cell(row, name), view.table.columns[name], CellView()
    if spec:
        cell.paper, cell.confidence = spec.text or "not found", spec.confidence
        if spec.value is not None:
            more = "".join(f" ({text})" for text in (spec.text, spec.conflict) if text)
            cell.paper = f"{spec.value:.10g}".replace("-", MINUS) + more
        notes = (spec.note, f"By construction: {spec.constructed}." if spec.constructed else "")
        note = " ".join(note for note in notes if note)
        cell.source = view.sources.mark(PaperNote(spec.confidence, spec.source, note))
    if measured is None:
        return cell
    cell.verdict = measured["verdict"]
    if measured["value"] is None:
        cell.reason = view.reasons.mark(measured["reason"])
        view.where_reasons[cell.reason][view.table.rows[row]].append(column.title)
        return cell
    cell.value, cell.n, cell.seeds = number(measured["value"], column.digits), measured["n"], measured.get("seeds")
    cell.by_seed = ", ".join(number(value, column.digits) for value in measured.get("by_seed") or ())
    cell.protocol = portable(measured["protocol"])
    cell.how = tuple(view.protocols.mark(note) for note in how.get(measured["protocol"], ()))
    if measured["ci_low"] is not None:
        digits = decimals(measured["value"], column.digits)
        cell.interval = f"[{measured['ci_low']:,.{digits}f}, {measured['ci_high']:,.{digits}f}]".replace("-", MINUS)
    if spec and spec.value and measured["verdict"] in COMPARED:
        off = (measured["value"] / spec.value - 1) * 100
        cell.delta = f"{off:+.2g} %".replace("-", MINUS) if off else "equal"
    return cell


def shared_clauses(protocols: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Each protocol as notes that other protocols may share.

    Protocols are split at semicolons; clauses that always stand together stay one note. So a table whose cells
    combine one clause a row with one a column needs rows + columns notes, not rows × columns.
    """
    clauses = {text: tuple(dict.fromkeys(text.split("; "))) for text in dict.fromkeys(protocols) if text}
    where = defaultdict[str, list[str]](list)
    for text, parts in clauses.items():
        for part in parts:
            where[part].append(text)
    notes = {}
    for text, parts in clauses.items():
        groups = defaultdict[tuple[str, ...], list[str]](list)
        for part in parts:
            groups[tuple(where[part])].append(part)
        notes[text] = tuple(map("; ".join, groups.values()))
    return notes


def _warnings(table: Table, result: results.Result, rows: list[dict[str, Any]], folder: Path) -> list[str]:
    """What is wrong with a result: edited by hand, judged by another ledger, files changed."""
    words = []
    for name, digest in result.get("files", {}).items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            words.append(f"{name} is gone or was changed after it was recorded. Run mdrepro verify.")
    recorded = {(row["row"], row["column"]): row["verdict"] for row in result["rows"]}
    if moved := sum(recorded[row["row"], row["column"]] != row["verdict"] for row in rows):
        changed = f"The papers' data or tolerances changed since this run: {moved} verdicts were recomputed."
        words.append(f"{changed} Run mdrepro reproduce {table.id}.")
    if lost := len(result["rows"]) - len(rows):
        words.append(f"{lost} recorded numbers belong to cells that the table no longer declares; they are left out.")
    return words


def _claim(table: Table, claim: Claim, verdict: str, numbers: str, rows: list[dict[str, Any]]) -> ClaimView:
    conditions = ledger.judge_conditions(claim, rows, table.on_pictures)
    return ClaimView(claim, verdict, [inequality(table, one) for one in conditions], doubts(verdict, numbers))


def run_view(table: Table, tier: Tier) -> RunView | None:
    """What is known about ``table`` at ``tier``, or None. Raises BadInput for an unreadable result file."""
    local, published = results.run_result(tier, table.id), results.published_result(tier, table.id)
    result = local or published
    if result is None:
        return None
    known = [row for row in result["rows"] if table.declares(row["row"], row["column"])]
    rows = [results.judged(table, tier, row) for row in known]
    counts = Counter(row["verdict"] for row in rows)
    prefix = "" if local else f"{table.id}-"
    figures = {Path(name).stem.removeprefix(prefix) for name in result.get("files", {}) if name.startswith("figures/")}
    origin, folder = ("local", default_run(tier, table.id)) if local else ("published", published_in(tier))
    warnings = _warnings(table, result, rows, folder)
    shown = {name: counts[name] for name in VERDICTS if counts[name]}
    seeded = results.with_seeds(table, rows)
    judged = zip(table.claims, results.judged_claims(table, rows), strict=True)
    claims = [_claim(table, claim, one["verdict"], one["numbers"], seeded) for claim, one in judged]
    view = RunView(table, tier, origin, folder, result, published, warnings, sorted(figures), shown, claims)
    by_key = {(row["row"], row["column"]): row for row in rows}
    how = shared_clauses(row["protocol"] for row in rows)
    for row in table.rows:
        view.cells[row] = {name: _cell(view, row, name, by_key.get((row, name)), how) for name in table.columns}
    agreement = results.agreement(table, rows, results.comparable(result, published) if local else None)
    for earlier in published["rows"] if published else ():
        key = row, name = earlier["row"], earlier["column"]
        if key in agreement and earlier["value"] is not None:
            cell = view.cells[row][name]
            cell.published, cell.agrees = number(earlier["value"], table.columns[name].digits), agreement[key]
    return view
