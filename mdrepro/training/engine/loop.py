"""The one training loop.

A run is a function of its configuration, objective and examples: draws are addressed by step and sample, the order of
the data by the step, and the generators of torch, numpy and Python are seeded anew for each micro-batch. So a resumed
run gives the bits of an uninterrupted one, and up to rounding a step is the same however it is split.
"""

import copy
import json
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import nn

from mdrepro.core.console import Progress
from mdrepro.core.errors import BadInput, check
from mdrepro.data.examples import Batch, Examples
from mdrepro.training.engine import checkpoint, optimisers, processes
from mdrepro.training.engine.checkpoint import Checkpoint
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.engine.curve import Clock, Curve, Row, clear, losses
from mdrepro.training.engine.determinism import placed, seed_generators, surroundings
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.feed import Order, feed
from mdrepro.training.engine.meter import Meter
from mdrepro.training.engine.objective import Objective, Phase
from mdrepro.training.engine.state import State, not_finite

LASTING = ("examples", "batch", "seed", "optimiser", "averages")  # a checkpoint is of no use with others
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to.

    Args:
        networks: by name, unwrapped, in eval mode; the averages where they are on.
        losses: the curve, a row for each logged step: ``step`` (steps done), ``seconds`` and ``images_per_second`` so
            far, and of each phase ``<phase>/rate``, and as means over all processes since the row before
            ``<phase>/<loss>`` and, where gradients are clipped, ``<phase>/norm`` (before that).
        seconds, images_per_second: of the whole training, all its runs together.
        steps: done.
        finished: False where time ran out before the last step.
    """

    networks: dict[str, nn.Module]
    losses: list[dict[str, float]]
    seconds: float
    images_per_second: float
    steps: int
    finished: bool


class Diverged(FloatingPointError):
    """Numbers are no longer finite; the message names step, phase and the last good checkpoint, which stays."""


def train(
    objective: Objective,
    examples: Examples,
    config: LoopConfig,
    folder: Path,
    *,
    resume: bool = True,
    max_seconds: float | None = None,
) -> Outcome:
    """Train the objective's networks, on as many processes as ``accelerate launch`` or ``torchrun`` started.

    The folder, which all processes must see, holds ``checkpoints/``, ``losses.jsonl`` and ``tensorboard/``. Afterwards
    ``objective.networks`` are the trained networks, unwrapped.

    Args:
        objective, examples, config: what determines the run.
        folder: where it is kept.
        resume: go on from the newest checkpoint in the folder; False begins anew and removes what is there.
        max_seconds: stop, with a checkpoint, after the first step that ends later than this; several processes look at
            the clock only at logged steps.

    Raises BadInput for settings that do not fit together or to the checkpoint, or a damaged checkpoint, and Diverged
    where a loss, or a weight or another number that is kept, is not finite.
    """
    given = dict(objective.networks)
    trainable = [p for network in given.values() for p in network.parameters() if p.requires_grad]
    with surroundings(config.threads):
        try:
            return _Run(objective, examples, config, folder, resume).train(max_seconds)
        finally:
            objective.networks.update(given)
            for parameter in trainable:
                parameter.requires_grad_(True)


class _Run:
    def __init__(
        self, objective: Objective, examples: Examples, config: LoopConfig, folder: Path, resume: bool
    ) -> None:
        self.objective, self.examples, self.config = objective, examples, config
        self.folder, self.root = folder, folder / CHECKPOINTS
        self.accelerator = processes.start(partial=any(phase.partial for phase in objective.phases))
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        _check(objective, examples, config, self.accelerator)
        size = config.batch // self.accelerator.num_processes // config.accumulation
        first = self.accelerator.process_index * size * config.accumulation
        self.micro = [range(first + k * size, first + (k + 1) * size) for k in range(config.accumulation)]
        self._prepare()
        if self.main:
            folder.mkdir(parents=True, exist_ok=True)
            if not resume:
                checkpoint.clear(self.root)
                clear(folder)
            checkpoint.sweep(self.root)
        self.accelerator.wait_for_everyone()
        self.step = 0
        self.good: Path | None = None
        self.changes: list[dict[str, Any]] = []
        saved: dict[str, Any] = {}
        if last := checkpoint.latest(self.root):
            self.changes = last.state["changes"] + _changes(config, examples, last)
            self.state.restore(last)
            self.step, self.good, saved = last.step, last.folder, last.state
        self.meter = Meter(self.accelerator, saved.get("meter"))
        self.clock = Clock(saved.get("seconds", 0.0))

    def train(self, max_seconds: float | None) -> Outcome:
        config = self.config
        total, done = config.steps * config.batch, self.step * config.batch
        order, steps = Order(config.seed, len(self.examples)), range(self.step, config.steps)
        with (
            closing(Curve(self.folder, self.step, write=self.main)) as curve,
            Progress("training", total, "images", done=done, show=self.main) as progress,
            closing(feed(self.examples, order, steps, config.batch, self.micro)) as batches_of_steps,
        ):
            for step, batches in batches_of_steps:
                for phase in self.objective.phases:
                    if step % phase.every == 0:
                        self._optimise(step, phase, batches)
                self.averages.update(step, config.ema)
                self.step = step + 1
                logged = self.step % config.log_every == 0 or self.step == config.steps
                if logged:
                    curve.add(row := self._row())
                    progress.note(losses(row))
                progress.advance(config.batch)
                stop = self.step == config.steps or self._out_of_time(max_seconds, logged)
                if stop or self.step % config.checkpoint_every == 0:
                    self._save()
                if stop:
                    break
            return self._outcome(curve.rows)

    def _optimise(self, step: int, phase: Phase, batches: list[Batch]) -> None:
        """One step of a phase's optimisers: the gradient over all micro-batches, clipped."""
        config, networks = self.config, self.objective.networks
        self._require_gradients(phase)
        for rows, batch in zip(self.micro, batches, strict=True):
            seed_generators(f"{config.seed} {step} {phase.name} {rows.start}", self.device)
            samples = len(next(iter(batch.values())))  # several for each index, where crops are small: data.examples
            first = rows.start * (samples // len(rows))
            draws = Draws(config.seed, step, first, samples, self.device, stream=phase.name)
            with ExitStack() as unsynchronised:
                for name, network in networks.items():
                    if name not in phase.trains or rows is not self.micro[-1]:
                        unsynchronised.enter_context(self.accelerator.no_sync(network))
                with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    losses = self.objective.losses(phase.name, placed(batch, self.device), draws)
                self.accelerator.backward(losses["loss"] / len(batches))
            self.meter.add(phase.name, losses)
            self.meter.watch(phase.name, step, losses["loss"])
        if config.clip:
            trained = [p for name in phase.trains for p in self.trainable[name]]
            self.meter.add(phase.name, {"norm": optimisers.clip(trained, config.clip)})
        for optimiser in self.optimisers[phase.name].values():
            for group in optimiser.param_groups:
                group["lr"] = config.rate(phase.name, step)
            optimiser.step()
            optimiser.zero_grad()
        processes.reshard(self.accelerator, [*networks.values(), *self.objective.ema.values()])

    def _prepare(self) -> None:
        """Networks, averages and optimisers, on the device and wrapped for these processes."""
        objective, config, accelerator = self.objective, self.config, self.accelerator
        self.given = dict(objective.networks)
        for network in objective.frozen.values():
            processes.align(network.to(self.device).eval().requires_grad_(False))
        objective.ema.clear()
        for name, network in self.given.items():  # FSDP takes networks apart for good: it gets copies
            moved = (copy.deepcopy(network) if accelerator.is_fsdp2 else network).to(self.device).train()
            processes.align(moved)
            if config.ema:
                average = copy.deepcopy(moved).eval().requires_grad_(False)
                objective.ema[name] = processes.wrap(accelerator, average) if accelerator.is_fsdp2 else average
            objective.networks[name] = processes.wrap(accelerator, moved)
        unwrapped = {name: processes.unwrap(accelerator, network) for name, network in objective.networks.items()}
        self.averages = optimisers.Averages(objective.ema, unwrapped)
        self.trainable = {name: [p for p in net.parameters() if p.requires_grad] for name, net in unwrapped.items()}
        self.optimisers = {
            phase.name: {name: optimisers.build(config, phase.name, self.trainable[name]) for name in phase.trains}
            for phase in objective.phases
        }
        self.state = State(unwrapped, objective.ema, self.optimisers)

    def _require_gradients(self, phase: Phase) -> None:
        """Gradients for the networks of this phase alone; through the others they go only to their input."""
        if set(phase.trains) != set(self.trainable):
            for name, parameters in self.trainable.items():
                for parameter in parameters:
                    parameter.requires_grad_(name in phase.trains)

    def _row(self) -> Row:
        self._stop_if_not_finite()
        rates = {f"{phase.name}/rate": self.config.rate(phase.name, self.step - 1) for phase in self.objective.phases}
        seconds = self.clock.total
        progress = {"step": self.step, "seconds": seconds, "images_per_second": self._speed(seconds)}
        return progress | self.meter.row() | rates

    def _speed(self, seconds: float) -> float:
        return round(self.step * self.config.batch / max(seconds, 1e-3), 3)

    def _out_of_time(self, max_seconds: float | None, logged: bool) -> bool:
        if max_seconds is None or not (logged or self.accelerator.num_processes == 1):
            return False
        return processes.any_of(self.accelerator, self.clock.now >= max_seconds)

    def _stop_if_not_finite(self) -> None:
        if bad := self.meter.first_bad():
            raise self._diverged(f"the loss of phase {bad[1]} is not finite at step {bad[0] + 1}", bad[1])

    def _diverged(self, what: str, phase: str = "") -> Diverged:
        config = self.config
        rate = config.learning_rates.get(phase, config.learning_rate)
        kept = f"the last good checkpoint, {self.good}, is kept" if self.good else "no checkpoint was written before"
        return Diverged(
            f"{what}; {kept}. Go on with a lower learning_rate ({rate} here), a lower clip ({config.clip}; 0 is none)"
            + (" or precision fp32" if config.precision != "fp32" else "")
        )

    def _save(self) -> None:
        """Write a checkpoint, unless something in it is not finite."""
        self._stop_if_not_finite()
        files = self.state.gathered(keep=self.main)
        bad = not_finite(files)
        if processes.any_of(self.accelerator, bad is not None):
            raise self._diverged(f"{bad or 'a weight'} is not finite after step {self.step}")
        state = {
            "config": asdict(self.config),
            "examples": self.examples.fingerprint,
            "changes": self.changes,
            "seconds": self.clock.total,
            "meter": self.meter.saved(),
        }
        if self.main:
            checkpoint.save(self.root, self.step, files, state)
        self.good = checkpoint.place(self.root, self.step)
        self.accelerator.wait_for_everyone()

    def _outcome(self, losses: list[Row]) -> Outcome:
        seconds = self.clock.total
        networks = dict(self.objective.ema or self.state.networks)
        if self.accelerator.is_fsdp2:
            for name, network in self.given.items():
                processes.load(network, processes.whole_state(self.state.networks[name]))
                average = copy.deepcopy(network)
                processes.load(average, processes.whole_state(networks[name]))
                networks[name] = average
        return Outcome(
            networks={name: network.eval() for name, network in networks.items()},
            losses=losses,
            seconds=seconds,
            images_per_second=self._speed(seconds),
            steps=self.step,
            finished=self.step == self.config.steps,
        )


def _check(objective: Objective, examples: Examples, config: LoopConfig, accelerator: Accelerator) -> None:
    names = [phase.name for phase in objective.phases]
    for name in (*config.learning_rates, *config.phase_betas):
        check("phase", name, names)
    shares = config.accumulation * accelerator.num_processes
    if config.batch % shares:
        raise BadInput(
            f"batch {config.batch} in {config.accumulation} micro-batches on {accelerator.num_processes} process(es): "
            f"it must be a multiple of {shares}"
        )
    if len(examples) == 0:
        raise BadInput("there are no examples: a data set must have one or more")
    if config.optimiser == "muon" and accelerator.is_fsdp2:
        raise BadInput("optimiser muon under FSDP, which takes matrices apart: it must be adamw")


def _changes(config: LoopConfig, examples: Examples, last: Checkpoint) -> list[dict[str, Any]]:
    """What was set otherwise until this checkpoint, as an entry for the record. Raises BadInput where it must stay."""
    before = last.state["config"] | {"examples": last.state["examples"]}
    now = json.loads(json.dumps(asdict(config))) | {"examples": examples.fingerprint}
    before["averages"], now["averages"] = before["ema"] > 0, now["ema"] > 0
    for name in LASTING:
        if before[name] != now[name]:
            raise BadInput(
                f"{name} is {now[name]}, and {last.folder} was trained with {before[name]}: set it back, or take "
                "another folder, or begin anew (resume=False)"
            )
    if last.step > config.steps:
        raise BadInput(f"steps {config.steps}: {last.folder} is further; it must be a number from {last.step}")
    changed = {name: [before.get(name), now[name]] for name in now if before.get(name) != now[name]}
    return [{"step": last.step, **changed}] if changed else []
