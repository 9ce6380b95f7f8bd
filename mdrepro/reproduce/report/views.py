"""What the report's pages show, as plain values: numbers already rounded, footnotes numbered, verdicts counted."""

import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdrepro.core.files import sha256
from mdrepro.core.paths import published as published_in
from mdrepro.core.paths import root, run_dir
from mdrepro.papers import ledger
from mdrepro.papers.schema import CONFIRMED, TIERS, Cell, Claim, Column, Table, Tier, Tolerance, Verdict
from mdrepro.reproduce.formatting import decimals, number
from mdrepro.reproduce.workflow import results

COMPARED = {Verdict.REPRODUCED, Verdict.WITHIN_NOISE, Verdict.DIFFERS, Verdict.UNCONFIRMED}
VERDICTS = {
    "reproduced": "Our number lies within the tolerance that was declared for the cell before anything was measured.",
    "within noise": "Outside the tolerance, but our 95 % interval holds the paper's figure.",
    "differs": "Outside the tolerance, and our 95 % interval does not hold the paper's figure.",
    "unconfirmed": "The paper's figure is only recalled or inferred: it is shown, and nothing is claimed about it.",
    "not comparable": (
        "This tier measures smaller networks or other data than the paper did: claims are tested, cells are not."
    ),
    "not attempted": "Not measured here; the page says why and how to get what is missing.",
    "no paper figure": "Neither paper gives a figure for this cell.",
}
CLAIM_VERDICTS = {
    "holds": "Every inequality is true even at the unfavourable ends of the 95 % intervals.",
    "within noise": "The 95 % intervals do not decide.",
    "does not hold": "At least one inequality is false even at the favourable ends of the 95 % intervals.",
    "unconfirmed": "The claim itself is only recalled or inferred: its numbers are shown, and nothing is claimed.",
    "not attempted": "A number that the claim needs was not measured.",
}
TAGS = {
    "read-P": "Seen in the paper's own text, the authors' repository or an authors' figure.",
    "read-S": "Seen in a secondary source that was opened (a reading note, a digest, another paper's table).",
    "inferred": "Worked out by us (arithmetic, parameter count, plot digitising). Never counts as reproduced.",
    "recalled": "Remembered and seen in no source. Never counts as reproduced.",
    "not found": "Looked for and not seen.",
}
GLYPHS = {
    "reproduced": "✓",
    "holds": "✓",
    "within noise": "≈",
    "differs": "≠",
    "does not hold": "✗",
    "unconfirmed": "?",
    "not comparable": "∥",
    "not attempted": "○",
    "no paper figure": "–",
}


def tolerance(value: Tolerance, unit: str = "") -> str:
    """A tolerance in words, for example "±1 %" or "±0.5 dB"."""
    if not value.absolute and (value.relative or 0) < 1e-7:
        return "none, exact"
    return f"±{value.relative * 100:.6g} %" if value.relative is not None else f"±{value.absolute:g} {unit}".strip()


def portable(text: str) -> str:
    """``text`` without this machine's paths: the checkout, the environment, the home and kernels' folders are named."""
    places = {str(root()): "$MDREPRO_ROOT", sys.prefix: "$VENV", str(Path.home()): "~"}
    for place in sorted(places, key=len, reverse=True):
        if len(place) > 1:
            text = re.sub(re.escape(place) + r"(?![\w.-])", lambda _, place=place: places[place], text)  # type: ignore[misc]
    return re.sub(r"/[\w./-]*/ipykernel_\d+/", "ipykernel/", text)


@dataclass
class Notes:
    """Footnotes of a table: equal texts share one mark."""

    prefix: str
    letters: bool = False
    items: list[Any] = field(default_factory=list)

    def mark(self, item: Any) -> str:
        """The mark of ``item``, added when new."""
        if item not in self.items:
            self.items.append(item)
        return self.label(self.items.index(item))

    def label(self, index: int) -> str:
        """1, 2, 3 …, or a … z, aa, ab …"""
        if not self.letters:
            return str(index + 1)
        letter = chr(ord("a") + index % 26)
        return letter if index < 26 else self.label(index // 26 - 1) + letter

    def listed(self) -> list[tuple[str, Any]]:
        """Every mark with its item, in order."""
        return [(self.label(index), item) for index, item in enumerate(self.items)]


@dataclass(frozen=True)
class PaperNote:
    """Where one of the paper's figures comes from."""

    confidence: str
    source: str
    note: str


@dataclass(frozen=True)
class CellView:
    """One cell of a table page. Texts are plain, "" where there is nothing to show."""

    verdict: str = ""
    value: str = ""
    interval: str = ""
    n: int | None = None
    protocol: str = ""
    how: tuple[str, ...] = ()
    """Marks of the notes that together are the protocol."""
    reason: str = ""
    paper: str = ""
    confidence: str = ""
    source: str = ""
    delta: str = ""
    published: str = ""
    agrees: bool | None = None

    @property
    def doubtful(self) -> bool:
        """Whether the paper's figure is none that may be called the paper's."""
        return bool(self.confidence) and self.confidence not in CONFIRMED


@dataclass(frozen=True)
class ClaimView:
    """One claim with what a run says about it."""

    claim: Claim
    verdict: str
    numbers: list[str]


@dataclass
class RunView:
    """One table at one tier: the local run where there is one, else the published result."""

    table: Table
    tier: Tier
    origin: str
    """"local" or "published"."""
    result: results.Result
    published: results.Result | None
    cells: dict[str, dict[str, CellView]]
    claims: list[ClaimView]
    counts: dict[str, int]
    protocols: Notes
    reasons: Notes
    sources: Notes
    where_reasons: dict[str, dict[str, list[str]]]
    warnings: list[str]
    figures: list[str]

    @property
    def slug(self) -> str:
        """Folder of this run's files inside the site, and prefix of its anchors."""
        return self.tier if self.origin == "local" else f"{self.tier}-published"

    @property
    def provenance(self) -> dict[str, Any]:
        """The run's provenance as recorded."""
        return self.result["provenance"]

    @property
    def short_commit(self) -> str:
        """Seven digits of the commit."""
        return (self.provenance.get("commit") or "no commit")[:9].strip()

    @property
    def agreement(self) -> dict[str, int]:
        """How many numbers agree and do not agree with the published ones."""
        flags = [cell.agrees for row in self.cells.values() for cell in row.values() if cell.agrees is not None]
        return {"agree": flags.count(True), "disagree": flags.count(False)}

    def reason_cells(self, mark: str) -> str:
        """How many cells a reason stands for, in words."""
        number = sum(map(len, self.where_reasons[mark].values()))
        return f"{number} cell" + ("s" if number != 1 else "")

    @property
    def is_published(self) -> bool:
        """Whether this very run is the published one."""
        mine, earlier = self.result, self.published
        made = [result and (result["provenance"].get("created"), result["rows"]) for result in (mine, earlier)]
        return made[0] == made[1]

    @property
    def comparable(self) -> list[Column]:
        """The columns whose protocol is the paper's at this tier."""
        return [column for column in self.table.columns.values() if self.tier in column.comparable_at]

    @property
    def stamp(self) -> str:
        """The sentence that keeps a small run from being read as the paper's."""
        same = self.comparable
        other = [column for column in self.table.columns.values() if column not in same]
        if not same:
            small = "small networks; " if self.tier == "quick" and not _alike(self.table) else ""
            return f"{small}not the paper's protocol. Claims are tested, cells are not compared with the paper's."
        if not other:
            return "the paper's protocol in every column."
        if len(other) <= len(same):
            return f"the paper's protocol, except in {_names(other)}, which cannot be compared."
        return f"the paper's protocol in {_names(same)} only; the other columns cannot be compared."


def _alike(table: Table) -> bool:
    """Whether the quick tier runs with the paper tier's own parameters, on networks of the published size."""
    if "quick" not in table.tiers or "paper" not in table.tiers:
        return False
    return table.tiers["quick"] == table.tiers["paper"]


def _names(columns: list[Column]) -> str:
    return ", ".join(column.title for column in columns)


def paper_text(cell: Cell | None) -> str:
    """The paper's figure as published; "" where the paper has no such cell."""
    if cell is None:
        return ""
    if cell.value is not None:
        return f"{cell.value:.10g}".replace("-", "−") + (f" ({cell.text})" if cell.text else "")
    return cell.text or "not found"


def _cell(
    table: Table, row: dict[str, Any] | None, key: tuple[str, str], run: "_Marks", earlier: dict[tuple[str, str], Any]
) -> CellView:
    spec, column = table.cell(*key), table.columns[key[1]]
    shown: dict[str, Any] = {"paper": paper_text(spec), "confidence": spec.confidence if spec else ""}
    if spec:
        shown["source"] = run.sources.mark(PaperNote(spec.confidence, spec.source, spec.note))
    if row is None:
        return CellView(**shown)
    shown["verdict"] = row["verdict"]
    if row["value"] is None:
        shown["reason"] = run.reasons.mark(row["reason"])
        where = run.where_reasons.setdefault(shown["reason"], {})
        where.setdefault(table.rows[key[0]], []).append(column.title)
    else:
        shown |= {"value": number(row["value"], column.digits), "n": row["n"]}
        if row["ci_low"] is not None:
            places = decimals(row["value"], column.digits)
            ends = [f"{row[end]:,.{places}f}".replace("-", "−") for end in ("ci_low", "ci_high")]
            shown["interval"] = f"[{ends[0]}, {ends[1]}]"
        shown["protocol"] = portable(row["protocol"])
        shown["how"] = tuple(run.protocols.mark(note) for note in run.how.get(row["protocol"], ()))
        if spec and spec.value and row["verdict"] in COMPARED:
            off = (row["value"] / spec.value - 1) * 100
            shown["delta"] = f"{off:+.2g} %".replace("-", "−") if off else "equal"
    if (before := earlier.get(key)) is not None:
        shown["published"] = number(before, column.digits)
        shown["agrees"] = ledger.agrees(column, row["value"], before)
    return CellView(**shown)


def shared_clauses(protocols: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Each protocol as notes that other protocols may share.

    Protocols are split at semicolons; clauses that always stand together stay one note. So a table whose cells
    combine one clause a row with one a column needs rows + columns notes, not rows × columns.
    """
    clauses = {text: tuple(dict.fromkeys(text.split("; "))) for text in dict.fromkeys(protocols) if text}
    where: dict[str, list[str]] = {}
    for text, parts in clauses.items():
        for part in parts:
            where.setdefault(part, []).append(text)
    notes = {}
    for text, parts in clauses.items():
        groups: dict[tuple[str, ...], list[str]] = {}
        for part in parts:
            groups.setdefault(tuple(where[part]), []).append(part)
        notes[text] = tuple("; ".join(group) for group in groups.values())
    return notes


@dataclass
class _Marks:
    how: dict[str, tuple[str, ...]]
    protocols: Notes
    reasons: Notes
    sources: Notes
    where_reasons: dict[str, dict[str, list[str]]] = field(default_factory=dict)


def _warnings(table: Table, result: results.Result, rows: list[dict[str, Any]], folder: Path) -> list[str]:
    """What is wrong with a result: edited by hand, judged by another ledger, files changed."""
    words = []
    for name, digest in result.get("files", {}).items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            words.append(f"{name} is gone or was changed after it was recorded. Run mdrepro verify.")
    recorded = {(row["row"], row["column"]): row["verdict"] for row in result["rows"]}
    moved = [row for row in rows if recorded[(row["row"], row["column"])] != row["verdict"]]
    if moved:
        words.append(
            f"The papers' data or tolerances changed since this run: {len(moved)} verdicts were recomputed. "
            f"Run mdrepro reproduce {table.id}."
        )
    if lost := len(result["rows"]) - len(rows):
        words.append(f"{lost} recorded numbers belong to cells that the table no longer declares; they are left out.")
    return words


def run_view(table: Table, tier: Tier) -> RunView | None:
    """What is known about ``table`` at ``tier``, or None. Raises BadInput for an unreadable result file."""
    local, published = results.run_result(tier, table.id), results.published_result(tier, table.id)
    result = local or published
    if result is None:
        return None
    rows = [
        results.judged(table, tier, row)
        for row in result["rows"]
        if row["row"] in table.rows and row["column"] in table.columns
    ]
    by_key = {(row["row"], row["column"]): row for row in rows}
    earlier = {(row["row"], row["column"]): row["value"] for row in published["rows"]} if local and published else {}
    slug = tier if local else f"{tier}-published"
    how = shared_clauses(row["protocol"] for row in rows)
    marks = _Marks(how, Notes(f"{slug}-how", letters=True), Notes(f"{slug}-why"), Notes(f"{slug}-source"))
    cells = {
        row: {name: _cell(table, by_key.get((row, name)), (row, name), marks, earlier) for name in table.columns}
        for row in table.rows
    }
    statements = {claim["id"]: claim for claim in results.judged_claims(table, rows)}
    claims = [
        ClaimView(claim, statements[claim.id]["verdict"], statements[claim.id]["numbers"].split("; "))
        for claim in table.claims
    ]
    counted = Counter(row["verdict"] for row in rows)
    return RunView(
        table=table,
        tier=tier,
        origin="local" if local else "published",
        result=result,
        published=published,
        cells=cells,
        claims=claims,
        counts={name: counted[name] for name in VERDICTS if counted[name]},
        protocols=marks.protocols,
        reasons=marks.reasons,
        sources=marks.sources,
        where_reasons=marks.where_reasons,
        warnings=_warnings(table, result, rows, run_dir(tier, table.id) if local else published_in(tier)),
        figures=sorted(
            {
                Path(name).stem.removeprefix("" if local else f"{table.id}-")
                for name in result.get("files", {})
                if name.startswith("figures/")
            }
        ),
    )


def run_views(table: Table, tiers: Iterable[Tier] = TIERS) -> list[RunView]:
    """Every run or published result of ``table``."""
    return [view for tier in tiers if (view := run_view(table, tier))]
