"""Batches of runs of one table, as the report shows them: values by run, and means over seeds."""

import csv
import io
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mdrepro.core.errors import BadInput
from mdrepro.core.paths import relative, runs_of
from mdrepro.core.reading import read_json, read_text
from mdrepro.papers.schema import Table, Tier
from mdrepro.reproduce.formatting import number
from mdrepro.reproduce.workflow.folders import NOTEBOOK, PARAMETERS
from mdrepro.reproduce.workflow.parameters import value_text

SUMMARY = "summary.csv"
SEED = "seed"
FIXED = ("run", "row", "column", "unit", "value")


class Cell(NamedTuple):
    """A cell over the runs that differ in the seed alone: titles, unit, number of runs, mean, standard deviation."""

    settings: str
    row: str
    column: str
    unit: str
    runs: int
    mean: str
    deviation: str


class Sweep(NamedTuple):
    """One batch: its folder, the swept parameters' names, its runs by key, and what each measured."""

    table: Table
    tier: Tier
    folder: Path
    names: list[str]
    runs: dict[str, dict[str, Any]]
    lines: list[dict[str, str]]

    @property
    def slug(self) -> str:
        """The name of its page and of its folder of files."""
        return f"{self.tier}-{self.table.id}-{self.folder.name}"

    @property
    def title(self) -> str:
        """How many runs, by which parameters."""
        return f"{len(self.runs)} runs by {', '.join(self.names)}"

    @property
    def missing(self) -> int:
        """How many of the runs measured nothing."""
        return len(self.runs.keys() - {line["run"] for line in self.lines})

    @property
    def figure(self) -> dict[str, Path]:
        """The figure's files that there are, by ending."""
        files = {ending: self.folder / f"figure.{ending}" for ending in ("png", "svg")}
        return {ending: path for ending, path in files.items() if path.is_file()}

    @property
    def notebooks(self) -> dict[str, Path]:
        """The executed notebooks that there are, by the keys of their runs."""
        files = {run: runs_of(self.tier, self.table.id) / run / NOTEBOOK for run in self.runs}
        return {run: path for run, path in files.items() if path.is_file()}

    def values(self) -> list[dict[str, Any]]:
        """Each measured cell: ``run``, ``settings`` (texts, as ``names``), ``row``, ``column``, ``value``, ``unit``."""
        return [
            {"run": line["run"], "settings": [line[name] for name in self.names], "unit": line["unit"]}
            | {"row": self._row(line), "column": self._column(line), "value": self._number(line, float(line["value"]))}
            for line in self.lines
        ]

    def means(self) -> list[Cell]:
        """Each cell's mean and standard deviation (n - 1) over seeds; empty where no seed was swept."""
        if SEED not in self.names:
            return []
        others = [name for name in self.names if name != SEED]
        groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
        for line in self.lines:
            place = (*(line[name] for name in others), line["row"], line["column"])
            groups.setdefault(place, []).append(line)
        cells = []
        for place, group in groups.items():
            found = [float(line["value"]) for line in group]
            spread = self._number(group[0], statistics.stdev(found)) if len(found) > 1 else ""
            settings = ", ".join(f"{name}={value}" for name, value in zip(others, place, strict=False))
            mean = self._number(group[0], statistics.mean(found))
            titles = self._row(group[0]), self._column(group[0])
            cells.append(Cell(settings, *titles, group[0]["unit"], len(found), mean, spread))
        return cells

    def _row(self, line: dict[str, str]) -> str:
        return self.table.rows.get(line["row"], line["row"])

    def _column(self, line: dict[str, str]) -> str:
        spec = self.table.columns.get(line["column"])
        return spec.title if spec else line["column"]

    def _number(self, line: dict[str, str], value: float) -> str:
        spec = self.table.columns.get(line["column"])
        return number(value, spec.digits if spec else 6)


def files(tier: Tier, table: str) -> Iterator[Path]:
    """All that a table's sweeps show: summaries, figures, and the notebooks of runs that some sweep has."""
    home = runs_of(tier, table)
    for file in sorted(home.glob("sweeps/*/*")):
        yield file
        if file.name == PARAMETERS:
            yield from (home / run / NOTEBOOK for run in read_json(file, dict[str, dict[str, Any]]))


def read(table: Table, tier: Tier) -> list[Sweep]:
    """The sweeps of a table at a tier, by their folders' names. Raises BadInput for a file that cannot be read."""
    folders = sorted(runs_of(tier, table.id).glob(f"sweeps/*/{SUMMARY}"))
    return [_read(table, tier, summary.parent) for summary in folders]


def _read(table: Table, tier: Tier, folder: Path) -> Sweep:
    runs = read_json(folder / PARAMETERS, dict[str, dict[str, Any]])
    every = list(runs.values())
    names = [name for name in (every[0] if every else ()) if len({value_text(one.get(name)) for one in every}) > 1]
    reader = csv.DictReader(io.StringIO(read_text(folder / SUMMARY)))
    lines, source = list(reader), relative(folder / SUMMARY)
    if missing := [name for name in (*FIXED, *names) if name not in (reader.fieldnames or ())]:
        raise BadInput(f"{source}: no column {', '.join(missing)}")
    for index, line in enumerate(lines, start=2):
        try:
            float(line["value"])
        except (TypeError, ValueError):
            raise BadInput(f"{source}, line {index}: value must be a number, not {line['value']!r}") from None
        if line["run"] not in runs:
            raise BadInput(f"{source}, line {index}: run {line['run']!r} is not in {PARAMETERS}")
    return Sweep(table, tier, folder, names, runs, lines)
