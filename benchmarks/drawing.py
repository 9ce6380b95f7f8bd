"""Drawing a scene against the training step of the reader that looks at it: training must not wait for its data."""

import time

import torch

from benchmarks.table import Ratio, in_turn
from mdrepro.data.shapes import Shapes
from mdrepro.models.scenes import reader
from mdrepro.models.scenes.reader import SceneReader

BATCH = 64


def run() -> list[Ratio]:
    """One row, CPU time of a batch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data, network = Shapes("train", 10**6), SceneReader()
    batch = data.batch(range(BATCH))
    drawn = iter(range(BATCH, 10**6, BATCH))

    def draw() -> None:
        first = next(drawn)
        data.batch(range(first, first + BATCH))

    def step() -> None:
        loss = reader.reading_loss(network(batch["pixels"]), reader.targets(batch["scene"]))["loss"]
        loss.backward()

    ours, theirs = in_turn(draw, step, 5, time.process_time)
    what = f"drawing {BATCH} scenes"
    return [Ratio(what, "gradients of the scene reader", ours, theirs, "CPU s", 0.5, "1 thread, median of 5")]
