"""A recipe of kind ``evolution``: SnapFusion's Algorithm 1 as a run like any other."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mdrepro.core.errors import BadInput
from mdrepro.data.examples import Batch, Examples
from mdrepro.metrics.cost import block_latency
from mdrepro.models.snapfusion.evolvable import EvolvableUNet
from mdrepro.training.engine import curve, loop, processes
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.engine.objective import Objective
from mdrepro.training.evolution import search
from mdrepro.training.evolution.action_log import LATENCY, LOG
from mdrepro.training.objectives.diffusion import Diffusion
from mdrepro.training.objectives.inputs import Inputs, Trained
from mdrepro.training.objectives.kinds import DENOISER, Kind, register
from mdrepro.training.objectives.robust import RobustDiffusion, evolvable, negative_loss, robust_rounds


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of an evolution; its recipe's loop is one round of robust training.

    Args:
        share: the target, as a share of the latency that the network begins with.
        rounds, group: as in `mdrepro.training.evolution.search.evolve`.
        skip_probability, drop: as in `RobustDiffusion`.
        validation: samples on which the quality is measured (the negative loss, texts not dropped): of shapes, those of
            the validation split, else the last ones of the data.
        seconds: for which latencies are measured, at least.
    """

    share: float = 0.7
    rounds: int = 8
    group: int = 1
    skip_probability: float = 0.1
    drop: float = 0.1
    validation: int = 512
    seconds: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.validation < 1:
            raise BadInput(
                f"share {self.share}, validation {self.validation}: they must be above 0 and up to 1, and from 1"
            )


@dataclass(frozen=True)
class _Evolving:
    """A run of Algorithm 1. Latencies are measured on this machine, once, and stored with network and action log."""

    inputs: Inputs
    options: Options

    def run(self, config: LoopConfig, folder: Path, *, resume: bool, max_seconds: float | None) -> Trained:
        """As `Training.run`; ``config`` is of one round."""
        inputs, options = self.inputs, self.options
        accelerator = processes.start()
        if accelerator.is_main_process and not resume:
            _clear(folder)
        unet = evolvable(inputs)
        scheduler, null_text = inputs.scheduler, inputs.null_text
        examples, held_out = _data(inputs, options.validation)

        def robust(net: EvolvableUNet) -> Objective:
            skipping = {"skip_probability": options.skip_probability, "drop": options.drop}
            return inputs.on_batches(RobustDiffusion(net, scheduler, null_text, **skipping))

        def whole(net: EvolvableUNet) -> Objective:
            return inputs.on_batches(Diffusion(net, scheduler, null_text, drop=0.0))

        if accelerator.is_main_process and not (folder / LATENCY).is_file():
            tokens, threads = len(null_text), config.threads or None
            measured = block_latency.measure(unet, tokens=tokens, threads=threads, seconds=options.seconds)
            measured.save(folder / LATENCY)
        accelerator.wait_for_everyone()
        table = block_latency.LatencyTable.load(folder / LATENCY)
        evolved = search.evolve(
            unet,
            robust_rounds(robust, examples, config),
            negative_loss(whole, held_out, seed=config.seed),
            table,
            options.share * table.total(unet.layout),
            folder,
            rounds=options.rounds,
            group=options.group,
            max_seconds=max_seconds,
        )
        losses = _losses(folder, config.steps)
        seconds = sum(row["seconds"] for row in losses if row["step"] % config.steps == 0)
        steps = len(evolved.log) * config.steps
        outcome = loop.Outcome(
            networks={"unet": evolved.unet},
            losses=losses,
            steps=steps,
            seconds=seconds,
            images_per_second=steps * config.batch / max(seconds, 1e-9),
            finished=evolved.finished,
        )
        parts = {"unet": evolved.unet, "scheduler": scheduler} if evolved.finished else {}
        files = {name: (folder / name).read_text() for name in (LATENCY, LOG) if (folder / name).is_file()}
        return Trained(outcome, parts, files)


def _clear(folder: Path) -> None:
    for path in folder.glob("round-*"):
        shutil.rmtree(path)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for name in (LATENCY, LOG, search.EVALUATIONS):
        (folder / name).unlink(missing_ok=True)


def _losses(folder: Path, steps: int) -> list[dict[str, float]]:
    """The curves of all rounds, one behind the other."""
    files = sorted(folder.glob(f"round-*/{curve.FILE}"))
    return [row | {"step": row["step"] + n * steps} for n, file in enumerate(files) for row in curve.read(file)]


def _data(inputs: Inputs, count: int) -> tuple[Examples, Examples]:
    """For training, and ``count`` samples for the quality."""
    data, folder, examples = inputs.recipe.data, inputs.cache, inputs.latents
    if data["source"] == "shapes":
        held_out = {**data, "split": "validation", "count": count, "first": 0}
        return examples, inputs.encoded(held_out, folder.with_name(f"{folder.name}-validation-{count}"))
    if len(examples) <= count:
        raise BadInput(f"validation {count}: it must be less than the {len(examples)} samples there are")
    middle = len(examples) - count
    return _Some(examples, 0, middle), _Some(examples, middle, count)


class _Some:
    """``count`` successive examples."""

    def __init__(self, examples: Examples, first: int, count: int) -> None:
        self.examples, self.first, self.count = examples, first, count
        self.fingerprint = f"{examples.fingerprint} {first} {count}"

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> Batch:
        return self.examples.batch([self.first + index for index in indices])


def _build(inputs: Inputs) -> _Evolving:
    return _Evolving(inputs, Options(**inputs.options))


register(Kind(name="evolution", build=_build, needs=DENOISER, options=(Options,)))
