"""Latents and text features made at every step by frozen encoders: for data too large, or seen too seldom, to cache."""

from typing import Any

import torch
from torch import Tensor, nn

from mdrepro.data.examples import Batch
from mdrepro.models import latents, text
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Objective


class Encoding:
    """Objective: another one on latents and text features, given ``pixels`` and ``caption``.

    What the encoders give is the same as in `mdrepro.training.engine.latent_cache` (the mode of the latent's
    distribution), but for the rounding there.

    Args:
        objective: needs ``latent`` and ``text``.
        vae, tokenizer, text_encoder: as in `mdrepro.models.pipeline`.
    """

    def __init__(self, objective: Objective, vae: nn.Module, tokenizer: Any, text_encoder: Any) -> None:
        self.objective, self.tokenizer = objective, tokenizer
        self.networks, self.ema, self.phases = objective.networks, objective.ema, objective.phases
        self.frozen = {**objective.frozen, "vae": vae, "text_encoder": text_encoder}

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        with torch.no_grad():
            latent = latents.to_latent(self.frozen["vae"], batch["pixels"], "uint8")
            features = text.encode(self.tokenizer, self.frozen["text_encoder"], batch["caption"])
        return self.objective.losses(phase, {**batch, "latent": latent.float(), "text": features.float()}, draws)
