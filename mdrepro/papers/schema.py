"""The papers as typed data: every table cell and every claim, with protocol, source and confidence.

``mobilediffusion.yaml`` and ``snapfusion.yaml`` beside this file are validated against these classes at load.
"""

import enum
import operator
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

Tier = Literal["quick", "proxy", "paper"]
TIERS: tuple[Tier, ...] = ("quick", "proxy", "paper")
Confidence = Literal["read-P", "read-S", "inferred", "recalled", "not found"]
CONFIRMED: frozenset[Confidence] = frozenset({"read-P", "read-S"})
"""Only figures of these confidences may be called the paper's and count as reproduced."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._+@-]*$")]
ColumnName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Parameter = bool | int | float | str | list[str]
Reference = Annotated[str, Field(pattern=r"^\$[a-z_]+$")]
"""The notebook's parameter of that name: ``$guidance``."""
PUBLISHED = "sd15"
"""In place of a recipe: Stable Diffusion 1.5 as published, which is not trained here."""


class Verdict(enum.StrEnum):
    """What a measured number says about the paper's cell."""

    REPRODUCED = "reproduced"
    """Within the tolerance declared for the cell."""
    WITHIN_NOISE = "within noise"
    """Outside the tolerance, but the measured 95 % interval holds the paper's figure."""
    DIFFERS = "differs"
    NOT_ATTEMPTED = "not attempted"
    UNCONFIRMED = "unconfirmed"
    """The paper's figure is only recalled or inferred: it is shown, and nothing is claimed about it."""
    NOT_COMPARABLE = "not comparable"
    """This tier measures smaller networks or other data than the paper did: claims are tested, cells are not."""
    NO_FIGURE = "no paper figure"
    """Neither paper gives a figure for this cell."""


class ClaimVerdict(enum.StrEnum):
    """What the measured numbers say about one of the paper's claims."""

    HOLDS = "holds"
    WITHIN_NOISE = "within noise"
    """The intervals do not decide."""
    FAILS = "does not hold"
    UNCONFIRMED = "unconfirmed"
    """The claim itself is only recalled or inferred: its numbers are shown, and nothing is claimed about it."""
    NOT_ATTEMPTED = "not attempted"


class Data(BaseModel):
    """Checked fields that do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, file: Path) -> Self:
        """The content of a YAML file, validated. Raises pydantic's ValidationError where it is inconsistent."""
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return cls.model_validate(yaml.load(file.read_text(encoding="utf-8"), Loader=loader))


def repeated(names: Sequence[str]) -> set[str]:
    """The names that stand there more than once."""
    return {name for name in names if names.count(name) > 1}


class Tolerance(Data):
    """How far a number may lie from its reference: relative (a fraction) or absolute (in the column's unit)."""

    relative: float | None = Field(default=None, ge=0)
    absolute: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.relative is None) == (self.absolute is None):
            raise ValueError("a tolerance is either relative or absolute")
        return self

    def allows(self, value: float, reference: float) -> bool:
        """Whether ``value`` lies within the tolerance of ``reference`` (both ends included)."""
        bound = abs(reference) * self.relative if self.relative is not None else self.absolute
        assert bound is not None
        return abs(value - reference) <= bound * (1 + 1e-12)

    def __str__(self) -> str:
        return f"±{self.relative * 100:g} %" if self.relative is not None else f"±{self.absolute:g}"


class Source(Data):
    """Where a figure was read."""

    what: str
    url: str = ""


class Column(Data):
    """One column: what is measured, in which unit, and how near counts as the same.

    ``tolerance`` judges against the paper's cell, ``rerun`` against our own published number.
    ``comparable_at`` lists the tiers whose protocol is the paper's; at the others the cell is "not comparable".
    """

    title: str
    unit: str = ""
    better: Literal["higher", "lower", "neither"] = "neither"
    digits: int = Field(default=4, ge=1, le=10)
    """How many significant digits are shown."""
    tolerance: Tolerance
    rerun: Tolerance
    comparable_at: tuple[Tier, ...] = ()
    protocol: str = ""


class Cell(Data):
    """One published figure. ``value`` is None where the paper says it in words (``text``) or it was not found."""

    row: Name
    column: ColumnName
    value: float | None = None
    text: str = ""
    confidence: Confidence
    source: str = ""
    """Key into the paper's ``sources``, optionally followed by a place: ``SF-P: Table 1``."""
    tolerance: Tolerance | None = None
    """Overrides the column's, for example where the paper rounds coarsely."""
    note: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.confidence == "not found") != (self.value is None and not self.text):
            raise ValueError(f"{self.row}/{self.column}: a cell has a value or a text, or is 'not found'")
        if self.confidence != "not found" and not self.source:
            raise ValueError(f"{self.row}/{self.column}: no source")
        return self


_OPERATORS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
CellKey = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._+@-]*/[a-z][a-z0-9_]*$")]


class Condition(Data):
    """``left op right * factor + margin``; a side is ``row/column`` of the claim's table, or a number on the right."""

    left: CellKey
    op: Literal[">=", ">", "<=", "<"]
    right: float | CellKey
    factor: float = 1.0
    margin: float = 0.0

    def cells(self) -> list[str]:
        """The cells that must have been measured for this condition."""
        return [self.left, *([self.right] if isinstance(self.right, str) else [])]

    def judge(self, left: tuple[float, float, float], right: tuple[float, float, float]) -> ClaimVerdict:
        """Compare two (low, value, high) triples; an exact number has low = value = high.

        The claim holds when the inequality is true at the unfavourable ends of both intervals, fails when it is
        false at the favourable ends, and is within noise between.
        """
        low, _, high = sorted(side * self.factor + self.margin for side in right)
        test = _OPERATORS[self.op]
        upward = self.op in (">=", ">")
        worst = test(left[0], high) if upward else test(left[2], low)
        best = test(left[2], low) if upward else test(left[0], high)
        return ClaimVerdict.HOLDS if worst else ClaimVerdict.WITHIN_NOISE if best else ClaimVerdict.FAILS

    def renamed(self, columns: Mapping[str, str]) -> "Condition | None":
        """The same on other columns; None where one of its own has no counterpart ("")."""

        def side(key: str) -> str:
            row, _, column = key.partition("/")
            other = columns.get(column, column)
            return f"{row}/{other}" if other else ""

        left, right = side(self.left), side(self.right) if isinstance(self.right, str) else self.right
        return None if "" in (left, right) else self.model_copy(update={"left": left, "right": right})

    def __str__(self) -> str:
        right = f"{self.right:g}" if isinstance(self.right, float) else self.right
        right += f" × {self.factor:g}" if self.factor != 1 else ""
        right += f" {'+' if self.margin > 0 else '−'} {abs(self.margin):g}" if self.margin else ""
        return f"{self.left} {self.op} {right}"


class Claim(Data):
    """A sentence of the paper that a measurement can contradict: all ``conditions`` must hold."""

    id: Name
    statement: str
    source: str
    confidence: Confidence
    conditions: tuple[Condition, ...] = Field(min_length=1)
    note: str = ""
    """Why the factor or the margin is what it is, declared before measuring."""


def network_name(recipe: str, decoder: str | None, removed: str) -> str:
    """What makes a row's images, as one name: the recipe, another's decoder, and the blocks that are removed."""
    return (f"{decoder}, latents of {recipe}" if decoder else recipe) + (f", removed: {removed}" if removed else "")


class DeclaredSetup(Data):
    """How a row's images are made at a tier: the only place that says so."""

    recipe: Name
    """Of the denoiser's checkpoint, or `PUBLISHED`."""
    steps: Annotated[int, Field(ge=1)] | Reference
    sampler: str
    """A name in `mdrepro.diffusion.samplers.SAMPLERS`, or ``own``: the checkpoint's own."""
    guidance: Annotated[float, Field(ge=1)] | Reference
    """w; 1 is none."""
    scales: Reference | None = None
    """Guidance scales of the row's curve."""
    decoder: Name | None = None
    """The recipe whose decoder stands for the checkpoint's own."""
    removed: str = ""
    """Blocks that are removed first: a key of `mdrepro.evaluation.networks.REMOVALS`."""

    @property
    def recipes(self) -> tuple[str, ...]:
        """The recipes whose checkpoints make the images."""
        return tuple(name for name in (self.recipe, self.decoder) if name and name != PUBLISHED)

    @property
    def network(self) -> str:
        """As `network_name` says it."""
        return network_name(self.recipe, self.decoder, self.removed)


class TierRun(Data):
    """What a table's notebook runs with at a tier."""

    parameters: dict[str, Parameter] = {}
    """Those that differ from the notebook's defaults, the tier excepted."""
    networks: dict[Name, DeclaredSetup] = {}
    """By row, for tables of quality: how its images are made."""
    scorers: tuple[Name, ...] = ()
    """Recipes of the networks that score the images."""

    @property
    def recipes(self) -> tuple[str, ...]:
        """All recipes whose checkpoints the run rests on, scorers first."""
        return tuple(dict.fromkeys([*self.scorers, *(name for row in self.networks.values() for name in row.recipes)]))


class Table(Data):
    """One published table or figure and the notebook that reproduces it (None: not built yet)."""

    id: Name
    title: str
    published_as: str
    """For example "Table 3", "Figs. 6 and 7"; says so where the paper's own layout was not found."""
    notebook: str | None = None
    protocol: str
    rows: dict[Name, str]
    columns: dict[ColumnName, Column]
    cells: tuple[Cell, ...] = ()
    claims: tuple[Claim, ...] = ()
    on_pictures: dict[ColumnName, ColumnName | Literal[""]] = {}
    """Columns of drawn scenes, and what stands for them in claims where pictures of COCO were scored; "": nothing, and
    a condition on it is left out there."""
    tiers: dict[Tier, TierRun] = {}
    """For each tier at which the notebook runs: its parameters, and the networks of its rows."""
    not_at: dict[Tier, str] = {}
    """For each tier at which it cannot run yet, what it needs."""
    on_request: str = ""
    """Why it runs only where it is named or all are asked for: what it costs. Empty: it runs by default."""
    threads: int = Field(default=1, ge=1)
    """Cores that one run asks the scheduler for."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        keys = [f"{cell.row}/{cell.column}" for cell in self.cells]
        wanted = {*keys, *(cell for claim in self.claims for one in claim.conditions for cell in one.cells())}
        faults: dict[str, Set[str]] = {
            "cells given twice": repeated(keys),
            "cells outside the declared rows and columns": wanted
            - {f"{a}/{b}" for a in self.rows for b in self.columns},
            "on_pictures names unknown columns": {*self.on_pictures, *self.on_pictures.values(), ""}
            - {"", *self.columns},
            "networks of unknown rows": {row for run in self.tiers.values() for row in run.networks} - self.rows.keys(),
            "tier both available and not": self.tiers.keys() & self.not_at.keys(),
        }
        for fault, names in faults.items():
            if names:
                raise ValueError(f"{self.id}: {fault}: {', '.join(sorted(names))}")
        if bool(self.notebook) != bool(self.tiers):
            raise ValueError(f"{self.id}: a notebook and its tiers are given together")
        return self

    def by_name_only(self, tier: Tier) -> str:
        """Why it runs at a tier only where it is named or all are asked for; "": it runs by default."""
        if tier != "quick" and self.recipes(tier):
            return "rests on networks that take days of GPUs to train; see docs/training.md and mdrepro doctor"
        return self.on_request

    def networks(self, tier: Tier) -> dict[str, DeclaredSetup]:
        """How each row's images are made at a tier; none where the table measures no images or does not run there."""
        return self.tiers[tier].networks if tier in self.tiers else {}

    def recipes(self, tier: Tier) -> tuple[str, ...]:
        """Recipes of the checkpoints that a run at a tier rests on, scorers first."""
        return self.tiers[tier].recipes if tier in self.tiers else ()

    def cell(self, row: str, column: str) -> Cell | None:
        """The published cell, or None where the paper has no such cell."""
        return next((cell for cell in self.cells if (cell.row, cell.column) == (row, column)), None)


class Paper(Data):
    """One paper: its sources, its tables and its claims."""

    id: Name
    title: str
    arxiv: str
    version: str
    authors: str
    sources: dict[str, Source]
    tables: tuple[Table, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for table in self.tables:
            if not table.id.startswith(f"{self.id}-"):
                raise ValueError(f"{table.id}: a table is named after its paper and notebook: {self.id}-...")
            notebook = f"notebooks/{self.id}/{table.id.removeprefix(self.id + '-').replace('-', '_')}.ipynb"
            if table.notebook not in (None, notebook):
                raise ValueError(f"{table.id}: its notebook is {notebook}, not {table.notebook}")
            cited = [cell.source for cell in table.cells if cell.source] + [claim.source for claim in table.claims]
            for key in {source.split(":")[0] for source in cited}:
                if key not in self.sources:
                    raise ValueError(f"{table.id}: unknown source {key!r}; known are {', '.join(self.sources)}")
        if twice := repeated([claim.id for table in self.tables for claim in table.claims]):
            raise ValueError(f"{self.id}: claims given twice: {', '.join(sorted(twice))}")
        return self
