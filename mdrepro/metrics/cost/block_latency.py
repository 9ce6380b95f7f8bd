"""SnapFusion's latency table (arXiv 2306.00980, section 3.2): what each block of an evolvable UNet costs in its place.

Protocol, of which the paper says nothing. Each block is run alone on random inputs of the shapes that it gets in the
network, in inference mode, the join with its skip connection included; what no action can touch (time embedding, first
and last convolution, samplers) is the fixed part, piece by piece. A ResNet that changes the width is also measured as
the 1x1 shortcut that stays when it is removed. A round runs every part once, in the order of computation, and then the
whole network: what slows the machine slows all parts, and a block finds the caches full of others' weights, as in the
network. A part's figure is its median over the rounds after `WARM_UP`.
"""

import functools
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from mdrepro.core import machine
from mdrepro.core.errors import BadInput
from mdrepro.core.files import write_text
from mdrepro.core.reading import checked, read_json
from mdrepro.models.snapfusion.blocks import SHORTCUT, Block, Layout
from mdrepro.models.snapfusion.evolvable import EvolvableUNet

WARM_UP = 1
"""Rounds before those that count."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Timing(_Data):
    """Milliseconds of one run: the median and the 10th and 90th percentile of ``runs``."""

    median_ms: PositiveFloat
    p10_ms: PositiveFloat
    p90_ms: PositiveFloat
    runs: PositiveInt

    @classmethod
    def from_seconds(cls, seconds: Sequence[float]) -> Self:
        """The timing of some runs."""
        low, middle, high = np.percentile(1000 * np.asarray(seconds), [10, 50, 90]).tolist()
        return cls(median_ms=middle, p10_ms=low, p90_ms=high, runs=len(seconds))


class Host(_Data):
    """Where and how it was measured."""

    machine: str
    cores: PositiveInt
    threads: PositiveInt
    device: str
    torch: str
    load_before: float | None


class BlockTiming(_Data):
    """One block's place and shape (as in `mdrepro.models.snapfusion.blocks.Block`), and its latency."""

    stage: str
    kind: str
    index: int
    level: int
    in_width: int
    skip_width: int
    out_width: int
    timing: Timing

    @property
    def block(self) -> Block:
        """Without its latency."""
        return Block(**self.model_dump(exclude={"timing"}))


class LatencyTable(_Data):
    """Latencies of an evolvable UNet's blocks in their network, and of the rest.

    Args:
        batch, height, width, tokens, dtype: of the inputs; height and width in latent pixels.
        blocks, fixed: the blocks and the shortcuts that some leave; what no action can touch, by name.
        whole, ratio: the network in the same rounds; the median of the sum of the parts over it.
        seconds: how long all of it took.
    """

    host: Host
    batch: PositiveInt
    height: PositiveInt
    width: PositiveInt
    tokens: PositiveInt
    dtype: str
    blocks: tuple[BlockTiming, ...]
    fixed: dict[str, Timing]
    whole: Timing
    ratio: PositiveFloat
    seconds: PositiveFloat

    def ms(self, block: Block) -> float:
        """Latency of a block or shortcut; a copy that was not measured costs as those of its stage and shape do.

        Raises BadInput where there are none.
        """
        same = self._by_shape.get(replace(block, index=0))
        if same is None:
            raise BadInput(
                f"the latency table is of another network: nothing in it has the place and shape of {block!r}"
            )
        return same.get(block.index, statistics.median(same.values()))

    @functools.cached_property
    def _by_shape(self) -> dict[Block, dict[int, float]]:
        """Milliseconds by all of a block but its index, then by that."""
        table: dict[Block, dict[int, float]] = {}
        for entry in self.blocks:
            table.setdefault(replace(entry.block, index=0), {})[entry.index] = entry.timing.median_ms
        return table

    def saved(self, block: Block) -> float:
        """The paper's delta latency: what removing the block saves, in ms; a shortcut that stays is not saved."""
        stays = self.ms(replace(block, kind=SHORTCUT)) if block.leaves_shortcut else 0.0
        return self.ms(block) - stays

    def total(self, layout: Layout) -> float:
        """Latency of a network of this layout, in ms: the fixed part and its blocks."""
        return sum(timing.median_ms for timing in self.fixed.values()) + sum(map(self.ms, layout.computed()))

    def save(self, path: Path) -> None:
        """Write it as JSON, beside ``path`` first, then renamed."""
        write_text(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises BadInput where there is no such file, or it is not a whole latency table."""
        table: Self = checked(read_json(path), cls, f"{path}, a latency table", strict=None)
        return table


def measure(
    unet: EvolvableUNet,
    *,
    batch: int = 2,
    size: int | None = None,
    tokens: int = 77,
    threads: int | None = None,
    rounds: int = 10,
    seconds: float = 5.0,
) -> LatencyTable:
    """Measure the latency table of ``unet`` on this host, in its own dtype, on its own device.

    Args:
        batch, tokens: 2 images for the branches of guidance, as the paper's 230 ms a step have it; length of the text.
        size: height and width of the latent; None for ``sample_size`` of the config.
        threads: CPU threads of torch meanwhile; None for as many as it has now.
        rounds, seconds: runs of each part, and time that passes, at least: short blocks on a busy machine need more.

    Raises BadInput for a number below 1, or a size that the network cannot take.
    """
    size = unet.config.sample_size if size is None else size
    threads = torch.get_num_threads() if threads is None else threads
    numbers = {"batch": batch, "size": size, "tokens": tokens, "threads": threads, "rounds": rounds}
    for name, number in numbers.items():
        if number < 1:
            raise BadInput(f"{name} is {number}: it must be 1 or more")
    if size % unet.resolution_multiple:
        raise BadInput(f"size is {size}: expected a multiple of {unet.resolution_multiple}")
    begun, load = time.perf_counter(), os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with _pinned(unet, threads):
        blocks, fixed, whole = _parts(unet, batch, size, tokens)
        runs = [*blocks.values(), *fixed.values(), whole]
        taken = _rounds(runs, rounds, seconds, unet.device)
    timings = [Timing.from_seconds(column) for column in zip(*taken, strict=True)]
    counted = [block in unet.layout.computed() for block in blocks] + [True] * len(fixed)
    ratios = [sum(s for s, c in zip(row, counted, strict=False) if c) / row[-1] for row in taken]
    return LatencyTable(
        host=Host(
            machine=f"{machine.processor()} ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})",
            cores=machine.cores(),
            threads=threads,
            device=torch.cuda.get_device_name(unet.device) if unet.device.type == "cuda" else unet.device.type,
            torch=torch.__version__,
            load_before=load,
        ),
        batch=batch,
        height=size,
        width=size,
        tokens=tokens,
        dtype=str(unet.dtype).removeprefix("torch."),
        blocks=tuple(BlockTiming(**vars(block), timing=timing) for block, timing in zip(blocks, timings, strict=False)),
        fixed=dict(zip(fixed, timings[len(blocks) :], strict=False)),
        whole=timings[-1],
        ratio=statistics.median(ratios),
        seconds=time.perf_counter() - begun,
    )


Run = Callable[[], object]


def _parts(unet: EvolvableUNet, batch: int, size: int, tokens: int) -> tuple[dict[Block, Run], dict[str, Run], Run]:
    """What is run for each block and shortcut, for each piece of the fixed part, and for the whole."""
    draw = torch.Generator().manual_seed(0)
    widths = unet.config.block_out_channels

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=draw).to(unet.device, unet.dtype)

    @functools.cache
    def picture(channels: int, level: int) -> Tensor:
        return normal(channels, size >> level, size >> level)

    text_bmc, time_bt, t_b = normal(tokens, unet.config.cross_attention_dim), normal(4 * widths[0]), normal()
    sample, last_bchw = picture(unet.config.in_channels, 0), picture(widths[0], 0)

    def of_block(block: Block, skipped: bool) -> Run:
        x_bchw = picture(block.in_width, block.level)
        skip_bchw = picture(block.skip_width, block.level) if block.skip_width else None
        return lambda: unet.run_block(block, x_bchw, skip_bchw, time_bt, text_bmc, skipped)

    def of_sampler(sampler: nn.Module, level: int) -> Run:
        x_bchw = picture(widths[level], level)
        return lambda: sampler(x_bchw)

    blocks: dict[Block, Run] = {}
    for block in unet.layout.computed():
        blocks[block] = of_block(block, skipped=False)
        if block.leaves_shortcut:
            blocks[replace(block, kind=SHORTCUT)] = of_block(block, skipped=True)
    fixed: dict[str, Run] = {
        "time_embedding": lambda: unet.time_embedding(unet.time_proj(t_b).to(unet.dtype)),
        "conv_in": lambda: unet.conv_in(sample),
        "conv_out": lambda: unet.conv_out(F.silu(unet.conv_norm_out(last_bchw))),
    }
    for level in range(len(widths) - 1):
        down: Any = unet.down_blocks[level]
        up: Any = unet.up_blocks[level]
        fixed[f"down-{level + 1} sampler"] = of_sampler(down.downsamplers[0], level)
        fixed[f"up-{level} sampler"] = of_sampler(up.upsamplers[0], len(widths) - 1 - level)
    return blocks, fixed, lambda: unet(sample, t_b, text_bmc, return_dict=False)


def _rounds(runs: list[Run], rounds: int, seconds: float, device: torch.device) -> list[list[float]]:
    """Seconds of each run, one row a round."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    taken: list[list[float]] = []
    begun = time.perf_counter()
    while len(taken) < WARM_UP + rounds or time.perf_counter() - begun < seconds:
        row = []
        for run in runs:
            wait()
            start = time.perf_counter()
            run()
            wait()
            row.append(time.perf_counter() - start)
        taken.append(row)
    return taken[WARM_UP:]


@contextmanager
def _pinned(unet: EvolvableUNet, threads: int) -> Iterator[None]:
    """That many threads, eval and inference mode; afterwards all is as before."""
    before, training = torch.get_num_threads(), unet.training
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            unet.eval()
            yield
    finally:
        unet.train(training)
        torch.set_num_threads(before)
