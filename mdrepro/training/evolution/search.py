"""SnapFusion's architecture evolution (arXiv 2306.00980, section 3.2, Algorithm 1).

A round trains the network robustly, evaluates for each block what its removal would do, and acts:

    score = quality lost / latency saved

While the network is slower than the target, the blocks of lowest score are removed (little quality a millisecond);
otherwise those of highest score are duplicated. The quality lost is measured by leaving the block out of the forward
passes, the latency saved is looked up in a table (`mdrepro.metrics.cost.block_latency`).

What the paper leaves open, and what is done here:

- *How many blocks a round acts on*: ``group``; fewer where the target is crossed before.
- *When it ends*: with a network that meets the target, after ``rounds`` rounds, or as soon as it has as many
  blocks of each kind in each stage as an earlier one that met it had: the search has come full circle.
- *A removal that raises the quality* has a negative score and goes first, the sooner the less time it saves; that is
  the formula taken at its word.
- *A block whose removal saves no time* by the table has no score and stays; a ResNet that changes the number of
  channels is not duplicated (`mdrepro.models.snapfusion.blocks`). At equal scores, the block computed first goes first.
- *Training after the last action* is the caller's.
"""

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import gather_object  # type: ignore[import-untyped]

from mdrepro.core.errors import BadInput
from mdrepro.core.files import write_json, write_text
from mdrepro.core.reading import checked, read_json
from mdrepro.data import hashes
from mdrepro.metrics.cost.block_latency import LatencyTable
from mdrepro.models.snapfusion.blocks import Layout
from mdrepro.models.snapfusion.evolvable import EvolvableUNet
from mdrepro.training.engine import checkpoint, loop, processes
from mdrepro.training.evolution.action_log import LOG, Candidate, Round, rounds

Quality = Callable[[EvolvableUNet], float]
"""How good the images of a network are, more is better. The network is in eval mode, without gradients, some block
perhaps left out. It must change nothing, give the same again, and not wait for other processes with other blocks."""

TrainRound = Callable[[EvolvableUNet, int, Path, float | None], EvolvableUNet | None]
"""Trains a network: called with it, the number of the round from 1, a folder of the round's own, and the seconds left
(None: no end). Returns the network, or None where time ran out; called again for the same round after a kill, the same
weights. Its parameters may be others than in the round before: a new optimiser."""

EVALUATIONS = "evaluations.json"


@dataclass(frozen=True)
class Evolution:
    """The network after the last action, not trained since, its rounds, and its latency by the table.

    ``finished`` is False where time ran out; called again, `evolve` goes on.
    """

    unet: EvolvableUNet
    log: tuple[Round, ...]
    latency_ms: float
    finished: bool

    @property
    def actions(self) -> list[str]:
        """All that was done, for `EvolvableUNet.replay`."""
        return [action for entry in self.log for action in entry.actions]


def rank(layout: Layout, whole: float, without: Mapping[str, float], table: LatencyTable) -> tuple[Candidate, ...]:
    """Algorithm 1's evaluation of all actions: the blocks by score, lowest first, those without a score at the end.

    ``whole`` is the network's quality, ``without`` that without each block, by name.
    """
    candidates = []
    for block in layout.blocks():
        lost, saved = whole - without[block.name], table.saved(block)
        score = lost / saved if saved > 0 else None
        candidates.append(Candidate(block.name, without[block.name], lost, saved, score))
    return tuple(sorted(candidates, key=lambda c: math.inf if c.score is None else c.score))


def choose(
    layout: Layout, candidates: Sequence[Candidate], table: LatencyTable, target: float, group: int
) -> tuple[list[str], Layout]:
    """Algorithm 1's actions on a network, at most ``group``, and the layout after them: see the module's text.

    ``candidates`` are all of its blocks, from `rank`; ``target`` is the latency aimed at, in ms.
    """
    by_name = {block.name: block for block in layout.blocks()}
    scored = [(c.score, by_name[c.block]) for c in candidates if c.score is not None]
    slow, actions = table.total(layout) > target, list[str]()
    if not slow:
        scored = sorted((pair for pair in scored if not pair[1].changes_width), key=lambda pair: -pair[0])
    verb = "remove" if slow else "duplicate"
    for _, block in scored:
        if len(actions) == group or (table.total(layout) > target) != slow:
            break
        actions.append(f"{verb} {block.name}")
        layout, _, _ = layout.after(actions[-1])
    return actions, layout


def evolve(
    unet: EvolvableUNet,
    train_round: TrainRound,
    quality: Quality,
    table: LatencyTable,
    target: float,
    folder: Path,
    *,
    rounds: int,
    group: int = 1,
    max_seconds: float | None = None,
) -> Evolution:
    """Algorithm 1, on as many processes as were started. Killed and called again, it goes on to the same end.

    Args:
        unet: the network to begin with, always the same; it may be changed in place, so use what is returned.
        train_round: robust training; see `robust.robust_rounds`.
        quality: for example `robust.negative_loss`; the paper takes the CLIP score of 2K images.
        table: latencies of the blocks of ``unet``; ``target`` is the one aimed at, in ms by it.
        folder: which all processes must see: the action log ``evolution.jsonl``, a line a `Round`; ``checkpoints/``,
            the network after the last rounds; ``round-001/`` and so on for the training.
        rounds: none is begun after so many, once the target is met; of at most ``group`` actions.
        max_seconds: nothing is begun after that time.

    Raises BadInput for a target below what is left with every block removed, or below 1 round or action; a folder with
    another evolution, or a damaged one. Raises loop.Diverged where a quality is not finite.
    """
    for name, number in (("rounds", rounds), ("group", group)):
        if number < 1:
            raise BadInput(f"{name} is {number}: it must be 1 or more")
    now = table.total(unet.layout)
    least = now - sum(max(0.0, table.saved(block)) for block in unet.blocks())
    if not target > least:
        raise BadInput(
            f"target is {target} ms: it must be more than {least:.4g} ms, which is left with every block removed "
            f"(now {now:.4g} ms)"
        )
    begun = time.monotonic()
    run = _Run(unet, quality, table, target, group, folder)

    def left() -> float | None:
        return None if max_seconds is None else max(0.0, max_seconds - (time.monotonic() - begun))

    while not run.done(rounds):
        trained = train_round(run.unet, run.number, folder / f"round-{run.number:03}", left())
        if trained is None or not run.round(trained, left):
            return run.outcome(finished=False)
    return run.outcome(finished=True)


class _Run:
    """The state of an evolution."""

    def __init__(
        self, unet: EvolvableUNet, quality: Quality, table: LatencyTable, target: float, group: int, folder: Path
    ) -> None:
        self.unet, self.quality, self.table, self.target, self.group = unet, quality, table, target, group
        self.folder, self.root = folder, folder / loop.CHECKPOINTS
        self.accelerator: Accelerator = processes.start()
        self.settings = {
            "target": target,
            "group": group,
            "table": hashlib.sha256(table.model_dump_json().encode()).hexdigest(),
            "network": hashes.network(unet),
        }
        self.log: list[Round] = []
        self.idle = False
        self.start = [_counts(unet.layout)] if self.latency <= target else []
        if last := checkpoint.latest(self.root):
            self._resume(last)

    @property
    def number(self) -> int:
        """Of the round to come or at work, from 1."""
        return len(self.log) + 1

    @property
    def latency(self) -> float:
        return self.table.total(self.unet.layout)

    def done(self, rounds: int) -> bool:
        """The stop rule."""
        if self.latency > self.target:
            return False
        *before, now = [*self.start, *(entry.blocks for entry in self.log if entry.latency_after_ms <= self.target)]
        return self.idle or len(self.log) >= rounds or now in before

    @torch.no_grad()
    def round(self, unet: EvolvableUNet, left: Callable[[], float | None]) -> bool:
        """Evaluate and act, with a trained network; False if time ran out before."""
        self.unet = unet.eval()
        if (qualities := self._evaluate(left)) is None:
            return False
        whole, before = qualities.pop(""), self.latency
        candidates = rank(unet.layout, whole, qualities, self.table)
        actions, layout = choose(unet.layout, candidates, self.table, self.target, self.group)
        unet.replay(actions)
        self.idle = not actions
        self.log.append(
            Round(
                round=self.number,
                actions=tuple(actions),
                target_ms=self.target,
                latency_before_ms=before,
                latency_after_ms=self.table.total(layout),
                quality_before=whole,
                quality_after=self._quality(()),
                candidates=candidates,
                blocks=_counts(layout),
            )
        )
        self._save()
        return True

    def _evaluate(self, left: Callable[[], float | None]) -> dict[str, float] | None:
        """Quality of the network, under the name "", and without each block; None if time ran out before."""
        path, rank, many = self.folder / EVALUATIONS, self.accelerator.process_index, self.accelerator.num_processes
        known = dict[str, float]()
        with suppress(BadInput):  # a damaged one is measured again
            kept = read_json(path, dict[str, Any])
            if kept.get("round") == self.number:
                known = checked(kept.get("quality"), dict[str, float], path)
        todo = [name for name in ("", *(block.name for block in self.unet.blocks())) if name not in known]
        for start in range(0, len(todo), many):  # dealt to the processes; what is known is kept, for the case of a kill
            if processes.any_of(self.accelerator, left() == 0):
                return None
            mine = todo[start : start + many][rank : rank + 1]
            known |= dict(gather_object([(name, self._quality([name] if name else [])) for name in mine]))
            if self.accelerator.is_main_process:
                write_json(path, {"round": self.number, "quality": known})
        return known

    def _quality(self, without: Iterable[str]) -> float:
        names = list(without)
        with self.unet.skipping(names):
            value = float(self.quality(self.unet))
        if not math.isfinite(value):
            raise loop.Diverged(
                f"round {self.number}: the quality is {value} without {names or 'any action'}; rounds before are kept "
                f"in {self.folder}. Train with a lower learning_rate"
            )
        return value

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            state = {
                "settings": self.settings,
                "unet": {name: value for name, value in self.unet.config.items() if not name.startswith("_")},
                "log": [asdict(entry) for entry in self.log],
            }
            weights = {name: value.cpu() for name, value in self.unet.state_dict().items()}
            checkpoint.save(self.root, len(self.log), {"unet": weights}, state)
            self._write_log()
        self.accelerator.wait_for_everyone()

    def _write_log(self) -> None:
        write_text(self.folder / LOG, "".join(json.dumps(asdict(entry)) + "\n" for entry in self.log))

    def _resume(self, last: checkpoint.Checkpoint) -> None:
        for name, value in self.settings.items():
            if (before := last.state["settings"][name]) != value:
                raise BadInput(
                    f"{name} is {value}, and {self.folder} holds an evolution with {before}: set it back, or take "
                    "another folder"
                )
        self.log = rounds(last.state["log"], last.folder)
        self.idle = not self.log[-1].actions
        with torch.device("meta"):
            self.unet = EvolvableUNet.from_config(last.state["unet"])
        self.unet.load_state_dict(last.tensors("unet"), assign=True)
        if self.accelerator.is_main_process:
            checkpoint.sweep(self.root)
            self._write_log()

    def outcome(self, finished: bool) -> Evolution:
        return Evolution(self.unet.eval(), tuple(self.log), self.latency, finished)


def _counts(layout: Layout) -> dict[str, int]:
    return dict(Counter(f"{block.stage} {block.kind}" for block in layout.blocks()))
