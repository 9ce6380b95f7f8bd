"""The papers as typed data: every table cell and every claim, with protocol, source and confidence.

``mobilediffusion.yaml`` and ``snapfusion.yaml`` beside this file are validated against these classes at load.
"""

import enum
from collections.abc import Iterator, Sequence, Set
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mdrepro.core.replicas import replica
from mdrepro.papers.base import CellKey, ColumnName, Confidence, Data, Name
from mdrepro.papers.claims import Claim, Unmeasured

Tier = Literal["quick", "proxy", "paper"]
TIERS: tuple[Tier, ...] = ("quick", "proxy", "paper")
Parameter = bool | int | float | str | list[str]
Reference = Annotated[str, Field(pattern=r"^\$[a-z_]+$")]
"""The notebook's parameter of that name: ``$guidance``."""
PUBLISHED = "sd15"
"""In place of a recipe: Stable Diffusion 1.5 as published, which is not trained here."""


class Verdict(enum.StrEnum):
    """What a measured number says about the paper's cell; `mdrepro.reproduce.report.legend.VERDICTS` explains each."""

    REPRODUCED = "reproduced"
    BY_CONSTRUCTION = "by construction"
    WITHIN_NOISE = "within noise"
    DIFFERS = "differs"
    NOT_ATTEMPTED = "not attempted"
    UNCONFIRMED = "unconfirmed"
    NOT_COMPARABLE = "not comparable"
    NO_FIGURE = "no paper figure"


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


class Derived(Data):
    """A cell that compares two cells of another column: a difference, a ratio, or a change in per cent."""

    of: ColumnName | None = None
    """None: of what is no column here."""
    by: Literal["difference", "ratio", "change"]
    to: Name | None = None
    """The row compared with; None: the one that the table's ``controls`` name."""

    @property
    def equal(self) -> float:
        """The value where both rows are the same: 1 of ratios, 0 of differences and changes."""
        return 1.0 if self.by == "ratio" else 0.0

    def __call__(self, value: float, other: float) -> float:
        """The derived value of two cells."""
        if self.by == "difference":
            return value - other
        return value / other if self.by == "ratio" else 100 * (value / other - 1)


class Column(Data):
    """One column: what is measured, in which unit, and how near counts as the same.

    ``tolerance`` judges against the paper's cell, ``rerun`` against our own published number.
    ``comparable_at`` lists the tiers whose protocol is the paper's; at the others the cell is "not comparable".
    """

    title: str
    unit: str = ""
    better: Literal["higher", "lower", "neither"] = "neither"
    derived: Derived | None = None
    """How its cells follow from another column's; None: they are measured by themselves."""
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
    constructed: str = ""
    """Where this project put the figure in, or what it chose to fit it; "": it was measured independently of it."""
    conflict: str = ""
    """Where sources conflict: which other one has which figure; the note says where it was read."""
    note: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.confidence == "not found") != (self.value is None and not self.text):
            raise ValueError(f"{self.row}/{self.column}: a cell has a value or a text, or is 'not found'")
        if self.confidence != "not found" and not self.source:
            raise ValueError(f"{self.row}/{self.column}: no source")
        return self


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
    scales: Reference | tuple[str, ...] | None = None
    """Guidance scales of the row's curve, or of which a row of one image a caption takes that of the lowest FID."""
    decoder: Name | None = None
    """The recipe whose decoder stands for the checkpoint's own."""
    removed: str = ""
    """Blocks that are removed first: a key of `mdrepro.evaluation.networks.REMOVALS`."""
    seeds: int | None = Field(default=None, ge=1)
    """By how many training seeds it is measured, where they are fewer than the run's."""

    @property
    def recipes(self) -> tuple[str, ...]:
        """The recipes whose checkpoints make the images, of the recipes' own training seed."""
        return tuple(name for name in (self.recipe, self.decoder) if name and name != PUBLISHED)

    def denoisers(self, seeds: int) -> tuple[str, ...]:
        """The recipe by each training seed of a run over ``seeds``, its own first; one where it is not trained here."""
        count = 1 if self.recipe == PUBLISHED else min(seeds, self.seeds or seeds)
        return tuple(replica(self.recipe, seed) for seed in range(count))

    def replicas(self, seeds: int) -> tuple[str, ...]:
        """As `recipes`, of all training seeds of a run over ``seeds``; a decoder is the same for all."""
        return tuple(dict.fromkeys(name for name in (*self.denoisers(seeds), *self.recipes) if name != PUBLISHED))

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
    seeds: int = Field(default=1, ge=1)
    """By how many training seeds each row's denoiser is measured: the notebook's parameter ``seeds`` by default."""

    def recipes(self, seeds: int | None = None) -> tuple[str, ...]:
        """All recipes whose checkpoints a run over ``seeds`` training seeds (None: as declared) rests on, scorers
        first: NAME of the recipe's own seed, NAME-seed1 of the next."""
        rows = [row.replicas(self.seeds if seeds is None else seeds) for row in self.networks.values()]
        return tuple(dict.fromkeys([*self.scorers, *(name for row in rows for name in row)]))


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
    needs: dict[str, str] = {}
    """For rows and columns that are measured at no tier (``*`` stands for any rest of a row's name): what they need."""
    unmeasured: tuple[Unmeasured, ...] = ()
    """Statements of the paper about this table that none of the claims tests."""
    controls: dict[CellKey, Name] = {}
    """For cells of derived columns that name no row of their own: the row they are compared with."""
    differ: dict[Name, dict[Name, tuple[str, ...]]] = {}
    """For two rows that claims compare: all that is not the same of their networks' recipes and their sampling.
    ``start``: the networks they were fine-tuned from; ``updates``: how many they had in all."""
    curves: dict[Name, str] = {}
    """Rows of whole curves, and the rows of the paper's single points on them: what their names begin with."""
    on_pictures: dict[ColumnName, ColumnName | Literal[""]] = {}
    """Columns of drawn scenes, and what stands for them in claims where pictures of COCO were scored; "": nothing, and
    a condition on it is left out there. The audit takes the paper's figures of scenes' columns from them, too."""
    tiers: dict[Tier, TierRun] = {}
    """For each tier at which the notebook runs: its parameters, and the networks of its rows."""
    not_at: dict[Tier, str] = {}
    """For each tier at which it cannot run yet, what it needs."""
    on_request: str = ""
    """Why it runs only where it is named or all are asked for: what it costs. Empty: it runs by default."""
    threads: int = Field(default=1, ge=1)
    """Cores that one run asks the scheduler for."""
    memory_gb: float = Field(default=8, gt=0)
    """Memory that one run asks a cluster's scheduler for."""
    hours: float = Field(default=12, gt=0)
    """Time that one run asks a cluster's scheduler for."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        keys = [f"{cell.row}/{cell.column}" for cell in self.cells]
        wanted = {*keys, *self.controls, *(f"{row}/{key.partition('/')[2]}" for key, row in self.controls.items())}
        wanted |= {cell for claim in self.claims for cell in (*claim.cells(), *claim.world, *claim.untrue)}
        faults: dict[str, Set[str]] = {
            "cells given twice": repeated(keys),
            "cells outside the declared rows and columns": wanted
            - {f"{a}/{b}" for a in self.rows for b in self.columns},
            "on_pictures names unknown columns": {*self.on_pictures, *self.on_pictures.values(), ""}
            - {"", *self.columns},
            "networks of unknown rows": {row for run in self.tiers.values() for row in run.networks} - self.rows.keys(),
            "differences of unknown rows": {*self.differ, *(o for each in self.differ.values() for o in each)}
            - self.rows.keys(),
            "tier both available and not": self.tiers.keys() & self.not_at.keys(),
            "needs of unknown rows and columns": {
                n for n in self.needs if not self.needing(n) and n not in self.columns
            },
            "needs of rows that a tier measures": {row for name in self.needs for row in self.needing(name)}
            & {row for run in self.tiers.values() for row in run.networks},
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

    def recipes(self, tier: Tier, seeds: int | None = None) -> tuple[str, ...]:
        """Recipes of the checkpoints that a run at a tier rests on, as `TierRun.recipes` gives them."""
        return self.tiers[tier].recipes(seeds) if tier in self.tiers else ()

    def unmatched(self, claim: Claim) -> list[str]:
        """Pairs of rows that a claim compares and that were not trained for as many updates, in words."""
        known = (pair for pair in self.pairs(claim) if "updates" in self.differ.get(pair[0], {}).get(pair[1], ()))
        return [f"{row} and {other}" for row, other in dict.fromkeys(known)]

    def pairs(self, claim: Claim) -> Iterator[tuple[str, str]]:
        """Rows that a claim's conditions set beside each other, in one cell or in two."""
        for condition in (*claim.conditions, *claim.control):
            row, _, column = condition.left.partition("/")
            right = condition.right.partition("/")[0] if isinstance(condition.right, str) else ""
            if (other := self.compared(row, column) or right) and other != row:
                yield row, other

    def compared(self, row: str, column: str) -> str | None:
        """The row that a derived cell compares ``row`` with; None where the column is not derived or names none.

        On pictures it is that of the column of scenes.
        """
        derived = self.columns[column].derived if column in self.columns else None
        names = [column, *(name for name, other in self.on_pictures.items() if other == column)]
        named = next((self.controls[key] for name in names if (key := f"{row}/{name}") in self.controls), None)
        return None if derived is None else derived.to or named

    def needing(self, name: str) -> list[str]:
        """The rows that a name in ``needs`` stands for."""
        return [row for row in self.rows if fnmatchcase(row, name)]

    def needed(self, row: str, column: str) -> str:
        """What a cell needs that is measured at no tier; "" where ``needs`` names neither its row nor its column."""
        return next((text for name, text in self.needs.items() if name == column or row in self.needing(name)), "")

    def declares(self, row: str, column: str) -> bool:
        """Whether it has such a row and such a column."""
        return row in self.rows and column in self.columns

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
