"""The action log of SnapFusion's Algorithm 1: what each round measured and did, as a run stores it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdrepro.core.reading import checked, read_json_lines

LOG = "evolution.jsonl"
LATENCY = "latency.json"
"""Files of a run: the log, a line a round, and the latency table that it rests on."""


@dataclass(frozen=True)
class Candidate:
    """What removing one block would do.

    ``quality`` is of the network without it, ``quality_lost`` of the whole network less that, and ``score`` is
    quality_lost / saved_ms; None where it saves nothing.
    """

    block: str
    quality: float
    quality_lost: float
    saved_ms: float
    score: float | None


@dataclass(frozen=True)
class Round:
    """A line of the action log.

    Args:
        round: its number, from 1.
        actions: what was done, for `EvolvableUNet.replay`.
        latency_before_ms, latency_after_ms: of the network by the table, before and after the actions.
        quality_before, quality_after: likewise; both after this round's training.
        candidates: all blocks before the actions, lowest score first.
        blocks: how many there are afterwards, by stage and kind, as in the paper's Table 3.
    """

    round: int
    actions: tuple[str, ...]
    target_ms: float
    latency_before_ms: float
    latency_after_ms: float
    quality_before: float
    quality_after: float
    candidates: tuple[Candidate, ...]
    blocks: dict[str, int]


def rounds(lines: Iterable[Any], source: object) -> list[Round]:
    """The rounds of an action log from their JSON. Raises BadInput, which names the ``source``, for anything else."""
    return [checked(line, Round, f"{source}, round {n}", strict=None) for n, line in enumerate(lines, 1)]


def read_log(folder: Path) -> list[Round]:
    """The action log of a run's folder. Raises BadInput where there is none, or it is damaged."""
    return rounds(read_json_lines(folder / LOG), folder / LOG)
