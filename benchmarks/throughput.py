"""Images per second of this project's training beside diffusers' text-to-image training, in the same run.

Both train the same denoiser (the quick tier's, random weights) with AdamW in the same precision on the same scenes at
the same batch. The other side is the training step of diffusers' ``train_text_to_image.py`` as its script has it, on
one accelerate process: both encoders run in every step, and its optimiser, clipping and schedule are those of its
defaults. Images come decoded from memory on both sides, so that neither is charged for reading files.

Rounds of the three ways take turns, and medians of rounds are compared: a machine that is busy for a while then slows
all alike. ``--clock cpu`` counts the CPU time of the process in place of the clock's, which other work on the machine
hardly changes; batches that a thread has ready are then charged in full. ``python -m benchmarks.throughput``
prints the table.
"""

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.state import AcceleratorState  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional as F

from benchmarks.table import Ratio
from mdrepro.data import shapes
from mdrepro.models import latents, text
from mdrepro.models.mobilediffusion import vae
from mdrepro.models.mobilediffusion.unet import MobileDiffusionUNet
from mdrepro.training.engine import latent_cache
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.engine.loop import train
from mdrepro.training.engine.objective import Objective
from mdrepro.training.objectives.diffusion import Diffusion
from mdrepro.training.objectives.inputs import Encoders, Encoding
from mdrepro.training.recipes import registry

WAYS = ("cached", "uncached", "diffusers")
CLOCKS: Mapping[str, Callable[[], float]] = MappingProxyType({"wall": time.perf_counter, "cpu": time.process_time})


class Memory:
    """Decoded scenes in memory: ``pixels`` and ``caption``."""

    def __init__(self, count: int) -> None:
        data = shapes.Shapes("train", count)
        self.fingerprint, whole = data.fingerprint, data.batch(range(count))
        self.pixels, self.captions = whole["pixels"], whole["caption"]

    def __len__(self) -> int:
        return len(self.captions)

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """As `shapes.Shapes.batch`, without scenes."""
        return {"pixels": self.pixels[list(indices)], "caption": [self.captions[i] for i in indices]}


class Timed:
    """Examples that start the clock when the first batch is asked for."""

    def __init__(self, examples: Any, clock: Callable[[], float]) -> None:
        self.fingerprint, self.began = examples.fingerprint, 0.0
        self._examples, self._clock = examples, clock

    def __len__(self) -> int:
        return len(self._examples)

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """As the examples themselves."""
        self.began = self.began or self._clock()
        batch: dict[str, Any] = self._examples.batch(indices)
        return batch


class Bench:
    """The networks and data that all ways share.

    Args:
        batch: images of a step.
        steps: of a round.
        threads: CPU threads of torch.
        precision: ``fp32`` or ``bf16``.
        device: ``cpu`` or ``cuda``.
        clock: one of `CLOCKS`.
    """

    def __init__(self, batch: int, steps: int, threads: int, precision: str, device: str, clock: str = "wall") -> None:
        self.batch, self.steps, self.precision, self.device = batch, steps, precision, torch.device(device)
        self.clock = CLOCKS[clock]
        if threads:
            torch.set_num_threads(threads)
        torch.manual_seed(0)
        row = registry.get("shapes-base")
        self.scheduler = _scheduler(row.noise)
        self.vae = vae.build("ours", 16).eval().requires_grad_(False).to(self.device)
        self.tokenizer = text.word_tokenizer(shapes.VOCABULARY, shapes.TOKENS)
        encoder: Any = text.small_encoder(self.tokenizer, layers=3)  # `to` of transformers is typed too narrowly
        self.encoder = cast(Any, encoder).requires_grad_(False).to(self.device)
        self.network = {name: value for name, value in row.network.items() if name != "class"}
        self.examples = Memory(max(256, batch * 4))

    def unet(self) -> MobileDiffusionUNet:
        """The denoiser, the same random weights every time."""
        torch.manual_seed(1)
        return MobileDiffusionUNet(**self.network)

    def rounds(self, count: int, folder: Path) -> dict[str, list[float]]:
        """Images per second of the clock of each way, ``count`` rounds in turn after one that warms up."""
        cached = latent_cache.build(self.examples, self.vae, self.tokenizer, self.encoder, folder / "cache")
        ways: dict[str, Callable[[], float]] = {
            "cached": lambda: self._ours(Diffusion(self.unet(), self.scheduler, cached.null_text), cached, folder),
            "uncached": lambda: self._ours(self._encoding(cached.null_text), self.examples, folder),
            "diffusers": self._diffusers,
        }
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(count + 1):
            for way, run in ways.items():
                AcceleratorState._reset_state()  # it holds one precision, and the two sides ask for different ones
                speed = self.steps * self.batch / run()
                if number:
                    found[way].append(speed)
        AcceleratorState._reset_state()  # what this process trains next may ask for another precision
        return found

    def _encoding(self, null_text: Tensor) -> Objective:
        encoders = Encoders(self.vae, self.tokenizer, self.encoder)
        return Encoding(Diffusion(self.unet(), self.scheduler, null_text), encoders)

    def _ours(self, objective: Objective, examples: Any, folder: Path) -> float:
        config = LoopConfig(
            steps=self.steps, batch=self.batch, learning_rate=1e-4, weight_decay=1e-2, precision=self.precision,
            checkpoint_every=10**9, log_every=self.steps,
        )  # fmt: skip
        timed = Timed(examples, self.clock)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            train(objective, timed, config, Path(place), resume=False)
            return self.clock() - timed.began

    def _diffusers(self) -> float:
        """Seconds of the script's loop over ``train_dataloader``; encoders have training's precision, as there."""
        from diffusers.optimization import get_scheduler

        accelerator = Accelerator(
            mixed_precision="bf16" if self.precision == "bf16" else "no", cpu=self.device.type == "cpu"
        )
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        vae, text_encoder = (copy.deepcopy(network).to(dtype=dtype) for network in (self.vae, self.encoder))
        unet = self.unet().train()
        optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
        warmup = get_scheduler("constant", optimizer=optimizer, num_warmup_steps=0, num_training_steps=self.steps)
        unet, optimizer, warmup = accelerator.prepare(unet, optimizer, warmup)
        began = self.clock()
        for _ in range(self.steps):
            indices = torch.randint(0, len(self.examples), (self.batch,)).tolist()
            part = self.examples.batch(indices)
            pixels = latents.convert(part["pixels"], "uint8", "-1..1").to(accelerator.device, dtype)
            ids = text.tokenize(self.tokenizer, part["caption"], shapes.TOKENS).to(accelerator.device)
            with accelerator.accumulate(unet):
                x0 = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
                noise = torch.randn_like(x0)
                t_b = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(x0),), device=x0.device)
                noisy = self.scheduler.add_noise(x0, noise, t_b)
                hidden = text_encoder(ids, return_dict=False)[0]
                target = self.scheduler.get_velocity(x0, noise, t_b)
                loss = F.mse_loss(unet(noisy, t_b, hidden, return_dict=False)[0].float(), target.float())
                accelerator.gather(loss.repeat(self.batch)).mean().item()
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(unet.parameters(), 1.0)
                optimizer.step()
                warmup.step()
                optimizer.zero_grad()
        return self.clock() - began


def _scheduler(noise: Any) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(**noise)


def measure(
    *,
    batch: int = 64,
    steps: int = 12,
    rounds: int = 3,
    threads: int = 0,
    precision: str = "fp32",
    device: str = "cpu",
    clock: str = "wall",
) -> dict[str, Any]:
    """Median images per second of each way, and the ratios to diffusers'.

    Args:
        batch, steps, threads, precision, device, clock: see `Bench`.
        rounds: that are counted.
    """
    bench = Bench(batch, steps, threads, precision, device, clock)
    with tempfile.TemporaryDirectory() as folder:
        found = bench.rounds(rounds, Path(folder))
    speed = {way: statistics.median(values) for way, values in found.items()}
    return {
        "images_per_second": {way: round(value, 2) for way, value in speed.items()},
        "rounds": {way: [round(value, 2) for value in values] for way, values in found.items()},
        "cached_over_diffusers": round(speed["cached"] / speed["diffusers"], 3),
        "uncached_over_diffusers": round(speed["uncached"] / speed["diffusers"], 3),
        "protocol": f"{batch} images a step, {steps} steps a round, {rounds} rounds in turn, {clock} time, "
        f"{precision}, {device}, {torch.get_num_threads()} threads; denoiser of shapes-base, 64 px",
        "cores": os.cpu_count(),
    }


def run() -> list[Ratio]:
    """The ratios of short rounds by CPU time, which does not show a loop that idles; `main` by the clock does."""
    found = measure(batch=32, steps=4, rounds=5, threads=1, clock="cpu")
    speed = {way: max(rounds) for way, rounds in found["rounds"].items()}  # other work on the machine only ever slows
    bars = {"cached": 1.6, "uncached": 0.8}
    return [
        Ratio(f"training, {way}", "diffusers' script", speed[way], speed["diffusers"], "images/CPU s", bar, "best of 5")
        for way, bar in bars.items()
    ]


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    for name, default in (("batch", 64), ("steps", 12), ("rounds", 3), ("threads", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    print(json.dumps(measure(**vars(parser.parse_args())), indent=1))


if __name__ == "__main__":
    main()
