"""The underspecification register as typed data: what the papers leave out, our choice, and what else it could be.

The entries stand in ``docs/underspecified.yaml``; the report shows them as a page.
"""

import functools
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mdrepro.core.paths import shipped
from mdrepro.papers.base import Confidence, Data, Name
from mdrepro.papers.schema import repeated

FILE = shipped("docs/underspecified.yaml")
Topic = Literal["UNet", "autoencoder", "text encoder", "training", "sampling", "evolution", "evaluation"]


class Alternative(Data):
    """Another choice with the size and cost that MobileDiffusion's UNet would have.

    ``config`` is what differs from the defaults of `mdrepro.models.mobilediffusion.unet.MobileDiffusionUNet`.
    """

    change: str
    config: dict[str, Any]
    params: float
    """Parameters, millions."""
    macs: float
    """GMAC of one evaluation at 512 px, attention products included."""


class Entry(Data):
    """One value that a paper leaves out, or gives twice and differently."""

    id: Name
    paper: Literal["mobilediffusion", "snapfusion"]
    topic: Topic
    missing: str = Field(min_length=1)
    choice: str = Field(min_length=1)
    where: str = ""
    """File that makes the choice, relative to the root; "" where nothing rests on it yet."""
    confidence: Confidence
    """How sure the evidence is, by the tags of the papers' data."""
    evidence: str = Field(min_length=1)
    otherwise: str = Field(min_length=1)
    """What changes if it is chosen otherwise."""
    alternatives: tuple[Alternative, ...] = ()


class Register(Data):
    """All entries, in the order of the page."""

    entries: tuple[Entry, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if twice := repeated([entry.id for entry in self.entries]):
            raise ValueError(f"entries given twice: {', '.join(sorted(twice))}")
        return self


@functools.cache
def register() -> Register:
    """The register, validated. Raises pydantic's ValidationError where it is inconsistent."""
    return Register.read(FILE)
