"""What the papers' data have in common: names, confidences, and checked fields that do not change."""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field

Confidence = Literal["read-P", "read-S", "inferred", "recalled", "not found"]
CONFIRMED: frozenset[Confidence] = frozenset({"read-P", "read-S"})
"""Only figures of these confidences may be called the paper's and count as reproduced."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._+@-]*$")]
ColumnName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
CellKey = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._+@-]*/[a-z][a-z0-9_]*$")]
"""A cell of a table: ``row/column``."""


class Data(BaseModel):
    """Checked fields that do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, file: Path) -> Self:
        """The content of a YAML file, validated. Raises pydantic's ValidationError where it is inconsistent."""
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return cls.model_validate(yaml.load(file.read_text(encoding="utf-8"), Loader=loader))
