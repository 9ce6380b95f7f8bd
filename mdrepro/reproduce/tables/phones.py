"""Latency records that a user brings: those measured on a phone fill its row, imported ones stand in a table apart.

Only records that say ``measured`` count as our measurement. What others report is shown with where it comes from, and
never judged.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mdrepro.core.errors import BadInput
from mdrepro.core.paths import relative, root
from mdrepro.evaluation.rows import Row
from mdrepro.latency import records
from mdrepro.latency.records import Record
from mdrepro.models import systems
from mdrepro.reproduce.tables.host_latency import Image, around

NONE = "none"
RESOLUTION = 512
"""Of both papers' images, px."""


@dataclass(frozen=True)
class Place:
    """A row of a phone: its names, in small letters and digits alone; how it makes an image, with a note on that.

    ``batch``: of the denoiser's records, guidance branches in one evaluation.
    """

    devices: tuple[str, ...]
    image: Image
    note: str
    batch: int = 1


def load(source: str) -> list[Record]:
    """Records of a file, or of all ``.json`` of a folder; none for ``none``. Raises BadInput."""
    there = _listed(source)
    if not there and source != NONE:
        raise BadInput(f"{source}: expected a file of latency records, or a folder that holds some (.json)")
    return [one for file in there for one in records.load(file)]


def files(source: str) -> list[tuple[str, Path]]:
    """What `load` reads, as inputs of a result: only files below the root, which have a name of no machine's own."""
    return [(relative(file), file) for file in _listed(source) if file.resolve().is_relative_to(root())]


def _listed(source: str) -> list[Path]:
    path = Path(source)
    return [] if source == NONE else sorted(path.glob("*.json")) if path.is_dir() else [path]


def latest(brought: Iterable[Record], network: str, batch: int = 1) -> Record | None:
    """The last record of a network; a denoiser's at that batch.

    The text encoder is one and the same in all systems. A record that says a resolution is of `RESOLUTION`.
    """
    known = systems.exports()
    model, component = known[network]
    there = [one for one in brought if one.component == component]
    if component == "text-encoder":
        there = [one for one in there if one.model in {name for name, _ in known.values()}]
    else:
        there = [one for one in there if one.model == model and one.resolution in (None, RESOLUTION)]
    if component == "unet":
        there = [one for one in there if one.batch == batch]
    return there[-1] if there else None


def parts(brought: Sequence[Record], place: Place) -> list[Record | None]:
    """Text encoder, denoiser and decoder as measured on a phone, all by one accelerator in one precision.

    Of several such pairs it is the one in which most of the three were measured, and of those the last.
    """
    measured = records.split(brought)["measured"]
    here = [one for one in measured if re.sub(r"[^a-z0-9]", "", one.device.name.lower()) in place.devices]
    best: list[Record | None] = [None, None, None]
    for pair in dict.fromkeys((one.accelerator, one.precision) for one in reversed(here)):
        those = [one for one in here if (one.accelerator, one.precision) == pair]
        there = [latest(those, name, place.batch) for name in place.image.counts()]
        if there.count(None) < best.count(None):
            best = there
    return best


def protocol(one: Record) -> str:
    """How a record was made, in a sentence."""
    precision = f", {one.precision} weights" if one.precision else ""
    pixels = f", {one.resolution} px" if one.resolution else ""
    residency = f" ({one.residency})" if one.residency else ""
    outputs = f", outputs at {one.check.psnr_db:.1f} dB from PyTorch's" if one.check and one.check.psnr_db else ""
    return (
        f"measured on {one.device.name} {one.device.system}: {one.runtime}, {one.accelerator}{residency}{precision}"
        f"{pixels}, batch {one.batch}, {one.times.runs} runs{outputs}; {one.source}"
    )


def value(row: str, column: str, one: Record) -> Row:
    """A row of one record."""
    low, high, ms, runs = one.times.low_ms, one.times.high_ms, one.times.ms, one.times.runs
    if low is None or high is None:
        return Row(row, column, ms, protocol(one), n=runs)
    return Row.measured(row, column, around(ms, low, high, runs), protocol(one))


def rows(brought: Sequence[Record], places: Mapping[str, Place], columns: Sequence[str], whole: str) -> list[Row]:
    """What measured records say of phones' rows: each part that there is, and the whole where all are.

    A part whose outputs were not PyTorch's is absent, with the reason, and so is the whole.

    ``columns``: of text encoder, denoiser and decoder. ``whole``: of the image; in ms, or in s where it ends so.
    """
    cells = []
    for row, place in places.items():
        there = parts(brought, place)
        faults = {column: one.fault for column, one in zip(columns, there, strict=True) if one and one.fault}
        for column, one in zip(columns, there, strict=True):
            if one and one.fault:
                cells.append(Row.absent(row, column, f"timed on {one.accelerator}, but {one.fault}"))
            elif one:
                cells.append(value(row, column, one))
        if faults:
            cells.append(Row.absent(row, whole, f"{', '.join(faults)}: {next(iter(faults.values()))}"))
        elif all(there):
            counts = place.image.counts()
            counts[place.image.unet] //= place.batch
            total = sum(count * one.times.ms for count, one in zip(counts.values(), there, strict=True) if one)
            text = f"sum of measured parts, {place.note}; {'; '.join(protocol(one) for one in there if one)}"
            cells.append(Row(row, whole, total / 1000 if whole.endswith("_s") else total, text))
    return cells


def table(brought: Sequence[Record], origin: records.Origin) -> pd.DataFrame:
    """Records of one origin, for people; one line that says so where there are none."""
    lines = [
        {
            "device": one.device.name,
            "system": one.device.system,
            "model": one.model,
            "component": one.component,
            "batch": one.batch,
            "ms": one.times.ms,
            "runs": one.times.runs,
            "runtime": one.runtime,
            "computed by": one.accelerator,
            "on it": one.residency,
            "outputs (dB)": one.check.psnr_db if one.check else None,
            "precision": one.precision,
            "origin": one.origin,
            "source": one.source,
            "date": one.date,
        }
        for one in records.split(brought)[origin]
    ]
    return pd.DataFrame(lines or [{"records": f"none that were {origin}"}])
