"""One schema for every latency: measured on this host or on an attached phone, or imported from elsewhere.

Measured and imported ones never stand in one row or one mean: `split` is the only way to read a mixed list.
"""

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError
from pydantic import model_validator as validator

from mdrepro.core.errors import BadInput
from mdrepro.core.files import write_json
from mdrepro.core.reading import read_json

FORMAT = 1
Origin = Literal["measured", "imported"]
Component = Literal["text-encoder", "unet", "decoder", "image", "other"]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Times(_Data):
    """Milliseconds of one run after warm-up; None where the tool reports no such number.

    Args:
        runs: how many; a mean or a median over them there must be.
        low_ms, high_ms: 95 % interval of the median.
        first_ms: the first run, before or as part of the warm-up.
        load_ms: making it ready: reading, compiling, allocating.
    """

    runs: PositiveInt
    mean_ms: PositiveFloat | None = None
    median_ms: PositiveFloat | None = None
    p10_ms: PositiveFloat | None = None
    p90_ms: PositiveFloat | None = None
    min_ms: PositiveFloat | None = None
    max_ms: PositiveFloat | None = None
    std_ms: NonNegativeFloat | None = None
    low_ms: PositiveFloat | None = None
    high_ms: PositiveFloat | None = None
    first_ms: PositiveFloat | None = None
    load_ms: NonNegativeFloat | None = None

    @validator(mode="after")
    def _ordered(self) -> Self:
        if self.mean_ms is None and self.median_ms is None:
            raise ValueError("neither a mean nor a median")
        middle = [value for value in (self.median_ms, self.mean_ms) if value is not None]
        if self.min_ms is not None and min(middle) < self.min_ms * 0.999:
            raise ValueError("a mean or median below the minimum")
        if self.max_ms is not None and max(middle) > self.max_ms * 1.001:
            raise ValueError("a mean or median above the maximum")
        return self

    @property
    def ms(self) -> float:
        """The median, or the mean where a tool gives no median."""
        value = self.median_ms if self.median_ms is not None else self.mean_ms
        assert value is not None
        return value


class Device(_Data):
    """Where it ran.

    Args:
        name: as sold, such as "Pixel 8", or a CPU's model.
        system, chip: operating system with its version; system on a chip, or CPU. "" where it is not known.
    """

    name: str = Field(min_length=1)
    system: str = ""
    chip: str = ""


class Check(_Data):
    """Outputs of the timed runs against PyTorch's for the same inputs.

    Args:
        psnr_db: as of `mdrepro.export.parity`; None where no whole output came back.
        least_db: what it must be.
        control_db: of the CPU on the same phone, where this is an accelerator and the CPU ran.
        reason: why there is no ``psnr_db``.
    """

    psnr_db: float | None = None
    least_db: float
    control_db: float | None = None
    reason: str = ""

    @property
    def fault(self) -> str:
        """What speaks against the time; "" where nothing does."""
        if self.psnr_db is None:
            return f"its outputs could not be compared with PyTorch's ({self.reason or 'none came back'})"
        if self.psnr_db >= self.least_db:
            return ""
        control = "" if self.control_db is None else f"; the CPU's are at {self.control_db:.1f} dB"
        return f"its outputs are at {self.psnr_db:.1f} dB from PyTorch's, and {self.least_db:g} dB are needed{control}"


class Record(_Data):
    """One network's latency in one place.

    Args:
        origin: ``measured`` by this program, or ``imported`` from another's report.
        model: preset, recipe, or the name in the report.
        component: which network of a text-to-image system; ``image`` for a whole image.
        runtime: with its version, such as "LiteRT 2.3.0".
        accelerator: what computed, such as "CPU, XNNPACK", "GPU delegate", "CPU and Neural Engine".
        precision: of the weights, as exported, such as "fp16".
        batch: guidance branches in one evaluation.
        resolution: of the image, px.
        threads: on the CPU; None elsewhere.
        memory_mb: peak or footprint while running, as the tool defines it.
        delegated: (nodes that ran on the accelerator, nodes), where the tool reports them.
        macs: multiply-accumulates of one run.
        model_sha256: of the file that ran.
        source: tool, command or file, and what else is needed to trace it.
        date: "" where a report has none.
        notes: what limits the number.
        check: of the outputs; None where they were not asked for.
    """

    origin: Origin
    model: str = Field(min_length=1)
    component: Component
    device: Device
    runtime: str = Field(min_length=1)
    accelerator: str = Field(min_length=1)
    precision: str = ""
    batch: PositiveInt = 1
    resolution: PositiveInt | None = None
    threads: PositiveInt | None = None
    times: Times
    memory_mb: PositiveFloat | None = None
    delegated: tuple[int, int] | None = None
    macs: PositiveInt | None = None
    model_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    source: str = Field(min_length=1)
    date: str = Field(default="", pattern=r"^(\d{4}-\d{2}-\d{2})?$")
    notes: tuple[str, ...] = ()
    check: Check | None = None

    @property
    def fault(self) -> str:
        """Why the time counts nowhere; "" where it does."""
        return self.check.fault if self.check else ""

    @property
    def residency(self) -> str:
        """Nodes on the accelerator of all, for people; "" where the tool reports none."""
        return f"{self.delegated[0]} of {self.delegated[1]} nodes" if self.delegated else ""

    @validator(mode="after")
    def _plausible(self) -> Self:
        if self.delegated and not 0 <= self.delegated[0] <= self.delegated[1]:
            raise ValueError(f"delegated {self.delegated}: more nodes than there are")
        if self.date and self.date > today():
            raise ValueError(f"date {self.date} is in the future")
        return self


def today() -> str:
    """The date, in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def save(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSON; the file appears whole."""
    rows = [record.model_dump(mode="json", exclude_defaults=True) for record in records]
    write_json(path, {"format": FORMAT, "records": rows})


def load(path: Path) -> list[Record]:
    """Read records. Raises BadInput that names an unreadable file, another format or an invalid record."""
    try:
        content = read_json(path)
    except BadInput as error:
        raise BadInput(f"{path}: no readable file of latency records ({error})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("records"), list):
        raise BadInput(f"{path}: expected a file of latency records, format {FORMAT}")
    return [record(fields, f"{path}: record {number}") for number, fields in enumerate(content["records"], start=1)]


def record(fields: Any, where: str) -> Record:
    """A record of plain fields. Raises BadInput that names ``where``, the field and what is wrong with it."""
    try:
        return Record.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "as a whole"
        raise BadInput(f"{where}: {name}: {first['msg'].removeprefix('Value error, ')}") from error


def split(records: Iterable[Record]) -> dict[Origin, list[Record]]:
    """Measured and imported records apart, in their order; both keys are always there."""
    apart: dict[Origin, list[Record]] = {"measured": [], "imported": []}
    for one in records:
        apart[one.origin].append(one)
    return apart
