"""Latents and text features computed at every step by frozen encoders, for data that is not worth a cache."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from mdrepro.data.examples import Batch
from mdrepro.models import latents, text
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Networks, Objective


class Encoding(Networks):
    """Objective: another one on latents and text features, given ``pixels`` and ``caption``.

    What the encoders give is the same as in `mdrepro.training.engine.latent_cache` (the mode of the latent's
    distribution), but for the rounding there.

    Args:
        objective: needs ``latent`` and ``text``.
        vae, tokenizer, text_encoder: as in `mdrepro.models.pipeline`.
    """

    def __init__(
        self, objective: Objective, vae: AutoencoderKL, tokenizer: PreTrainedTokenizerBase, text_encoder: CLIPTextModel
    ) -> None:
        self.objective, self.vae = objective, vae
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.phases = objective.phases
        self.keep(objective.networks, {**objective.frozen, "vae": vae, "text_encoder": text_encoder})
        self.ema = objective.ema

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        with torch.no_grad():
            latent = latents.to_latent(self.vae, batch["pixels"], "uint8")
            features = text.encode(self.tokenizer, self.text_encoder, batch["caption"])
        return self.objective.losses(phase, {**batch, "latent": latent.float(), "text": features.float()}, draws)
