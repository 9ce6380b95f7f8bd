"""The test bed as the tests of the objectives use it: one ring, one schedule, one trained denoiser, one loop."""

import copy
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from mdrepro.diffusion.noise import NoiseSchedule
from mdrepro.training.engine.loop import LoopConfig, train
from mdrepro.training.engine.objective import Objective
from mdrepro.training.objectives.diffusion import Diffusion
from tests.support import testbed, tiny_pipeline

RING = testbed.ring()
NULL = RING.null_text
TRAINED_STEPS = 1000


def scheduler(prediction_type: str = "v_prediction", **changes: Any) -> DDIMScheduler:
    return tiny_pipeline.scheduler(prediction_type=prediction_type, **changes)


def exact(prediction_type: str = "v_prediction") -> testbed.ExactDenoiser:
    return testbed.ExactDenoiser(RING, NoiseSchedule.from_scheduler(scheduler(prediction_type)))


@cache
def examples() -> testbed.MixtureExamples:
    return testbed.MixtureExamples(RING)


def fit(objective: Objective, steps: int, **changes: Any) -> dict[str, nn.Module]:
    """The networks (averages) after so many steps of 256 points on the one loop, on one thread."""
    config = {"learning_rate": 1e-3, "decay": "linear", "warmup": 20, "ema": 0.99, "weight_decay": 0.0, "threads": 1}
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(objective, examples(), LoopConfig(steps=steps, batch=256, **(config | changes)), Path(folder))
    assert outcome.finished
    return outcome.networks


@cache
def _trained() -> nn.Module:
    torch.manual_seed(0)
    net = testbed.ToyDenoiser(len(RING.chosen))
    return fit(Diffusion(net, scheduler(), NULL, drop=0.2), TRAINED_STEPS, learning_rate=2e-3)["unet"]


def trained() -> nn.Module:
    """A denoiser that the diffusion objective trained on the ring, v prediction; a copy of its own for each caller."""
    return copy.deepcopy(_trained()).requires_grad_(True)


def questions(count: int = 10_000, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, texts and true points for them, none of which was trained on."""
    generator = torch.Generator().manual_seed(seed)
    text = RING.text(torch.randint(len(RING.chosen), (count,), generator=generator))
    return torch.randn(count, 2, 1, 1, generator=generator), text, RING.sample(text, generator)


def right(x: Tensor, text: Tensor) -> float:
    """Share of the points within three standard deviations of a mode that their text chooses; 0.989 for true points."""
    near = torch.cdist(x[:, :, 0, 0], RING.means) < 3 * RING.std
    return float((near & (RING.weights(text) > 0)).any(1).float().mean())
