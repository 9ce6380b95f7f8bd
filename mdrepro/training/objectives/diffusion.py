"""Diffusion pretraining: the network learns e, v or x0 of a noisy latent at a random time (arXiv 2006.11239, eq. 14).

The text of a share of the samples is dropped, so that the network can be guided (arXiv 2207.12598, algorithm 1). It is
SnapFusion's L_ori (eq. 6), and, run on after ``unet.set_attention("relu")``, MobileDiffusion's ReLU fine-tuning
(rule T5).
"""

from dataclasses import KW_ONLY, InitVar, dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mdrepro.core.errors import BadInput
from mdrepro.data.examples import Batch
from mdrepro.diffusion.noise import NoiseSchedule, per_sample, predict
from mdrepro.diffusion.protocols import Scheduler
from mdrepro.models.mobilediffusion.unet import MobileDiffusionUNet
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Networks, Phase
from mdrepro.training.objectives.inputs import Inputs, Training
from mdrepro.training.objectives.kinds import DENOISER, LATENTS, Kind, register


def check_drop(drop: float) -> None:
    """Raise BadInput for a share of samples without text that is not from 0 to 1."""
    if not 0 <= drop <= 1:
        raise BadInput(f"drop {drop}: it must be a share from 0 to 1")


def drop_text(text_btc: Tensor, null_tc: Tensor, dropped_b: Tensor) -> Tensor:
    """The text features, with the empty text's (tokens, width) where ``dropped_b`` is true."""
    return torch.where(dropped_b[:, None, None], null_tc.to(text_btc), text_btc)


def min_snr_weight(schedule: NoiseSchedule, t_b: Tensor, gamma: float) -> Tensor:
    """Min-SNR weight of the loss in the network's own prediction (arXiv 2303.09556, section 3.4), (b,).

    min(SNR, gamma) for x0; the same over SNR for e, and over SNR + 1 for v.
    """
    snr = schedule.snr(t_b)
    scale = {"sample": torch.ones_like(snr), "epsilon": snr, "v_prediction": snr + 1}[schedule.prediction_type]
    return snr.clamp(max=gamma) / scale


def diffusion_loss(
    net: nn.Module,
    schedule: NoiseSchedule,
    x0: Tensor,
    noise: Tensor,
    t_b: Tensor,
    text_btc: Tensor,
    min_snr: float | None = None,
) -> Tensor:
    """Mean squared error of the prediction, weighted by `min_snr_weight` if a gamma is given; a scalar."""
    prediction = predict(net, schedule.add_noise(x0, noise, t_b), t_b, text_btc)
    error_b = per_sample((prediction - schedule.target(x0, noise, t_b)).square())
    return torch.mean(error_b if min_snr is None else min_snr_weight(schedule, t_b, min_snr) * error_b)


@dataclass(eq=False)
class Diffusion(Networks):
    """Objective: `diffusion_loss` with t uniform over all times. Batches need ``latent`` and ``text``.

    Args:
        unet: the denoiser.
        scheduler: a diffusers scheduler, for its noise levels and prediction type.
        null_text: features of the empty text, (tokens, width).
        drop: share of samples that are given the empty text, from 0 to 1; BadInput for others.
        min_snr: gamma of the min-SNR weight, positive (5 in its paper); None weighs all times equally.
    """

    phases: ClassVar[tuple[Phase, ...]] = (Phase("unet", ("unet",)),)
    unet: InitVar[nn.Module]
    scheduler: InitVar[Scheduler]
    null_text: Tensor
    _: KW_ONLY
    drop: float = 0.1
    min_snr: float | None = None

    def __post_init__(self, unet: nn.Module, scheduler: Scheduler) -> None:
        check_drop(self.drop)
        if self.min_snr is not None and self.min_snr <= 0:
            raise BadInput(f"min_snr {self.min_snr}: it must be a positive number, or none")
        self.keep({"unet": unet})
        self.schedule = NoiseSchedule.from_scheduler(scheduler)

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        x0 = batch["latent"]
        t_b, noise = draws.integers(0, self.schedule.total), draws.normal(*x0.shape[1:])
        text_btc = drop_text(batch["text"], self.null_text, draws.uniform() < self.drop)
        return {"loss": diffusion_loss(self.networks["unet"], self.schedule, x0, noise, t_b, text_btc, self.min_snr)}


def _build(inputs: Inputs) -> Training:
    return inputs.on_latents(Diffusion(inputs.denoiser(), inputs.scheduler, inputs.null_text, **inputs.options))


def _switch(unet: MobileDiffusionUNet, *, relu_scaling: str | None = None) -> None:
    unet.set_attention("relu", relu_scaling)


def _build_relu(inputs: Inputs) -> Training:
    unet = inputs.denoiser()
    _switch(unet, **inputs.options_of(_switch))
    return inputs.on_latents(Diffusion(unet, inputs.scheduler, inputs.null_text, **inputs.options_of(Diffusion)))


register(Kind(name="diffusion", build=_build, needs=LATENTS, options=(Diffusion,)))
register(Kind(name="relu", build=_build_relu, needs=DENOISER, options=(Diffusion, _switch)))
