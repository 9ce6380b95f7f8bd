"""A small text encoder, trained with a small image encoder to tell which caption belongs to which image.

It stands in for CLIP (arXiv 2103.00020), on whose frozen text features both papers condition their UNet. CLIP's loss:
symmetric InfoNCE over the captions and images of a batch, with a learned temperature. The text feature is taken at the
end token; the UNet is later given the features of all tokens or of the registers (`mdrepro.models.text.encode`), for
which a read-out of single tokens may be trained too (`mdrepro.training.objectives.registers`). Another such pair, both
towers of which are kept, scores images (`mdrepro.models.scenes.clip`).

Negatives come from a process's own micro-batch, so that a batch in parts has another loss.
"""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from mdrepro.core.errors import BadInput
from mdrepro.data import shapes
from mdrepro.data.examples import Batch
from mdrepro.models import latents, text
from mdrepro.models.scenes.clip import SceneClip
from mdrepro.models.scenes.towers import ImageTower, TextTower
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Networks, Phase
from mdrepro.training.objectives.inputs import Inputs, Training
from mdrepro.training.objectives.kinds import Kind, register
from mdrepro.training.objectives.registers import ReadOut, answers, readout_loss

START, LARGEST = math.log(1 / 0.07), math.log(100)  # CLIP's logarithm of the inverse temperature


def info_nce(image_bd: Tensor, text_bd: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE (CLIP, figure 3) of features of length 1, (b, width), in nats; a scalar.

    Sample i of one side belongs to i of the other. ``scale`` is the inverse temperature.
    """
    logits_bb = scale * image_bd.float() @ text_bd.float().T
    own = torch.arange(len(logits_bb), device=logits_bb.device)
    return 0.5 * (F.cross_entropy(logits_bb, own) + F.cross_entropy(logits_bb.T, own))


class Temperature(nn.Module):
    """The learned inverse temperature, at most 100, as CLIP's."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(START))

    def forward(self) -> Tensor:
        return self.log_scale.clamp(max=LARGEST).exp()


@dataclass(eq=False)
class Contrastive(Networks):
    """Objective: `info_nce` of images and their captions; ``top1`` is the share of images whose caption came first.

    Batches need ``pixels`` and ``caption``.

    Args:
        features: length of the common feature.
        image_width: see `ImageTower`.
        weight: of `registers.readout_loss`, for which batches need ``scene`` too; 0 for CLIP's loss alone.
        noise: standard deviation of what is added to the features before they are read out. Theirs is about 1.
    """

    phases: ClassVar[tuple[Phase, ...]] = (Phase("towers", ("text", "image", "temperature")),)
    tokenizer: PreTrainedTokenizerBase
    encoder: CLIPTextModel
    _: KW_ONLY
    features: int = 128
    image_width: int = 32
    weight: float = 0.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        if self.weight < 0 or self.noise < 0:
            raise BadInput(f"weight {self.weight}, noise {self.noise}: they must be numbers from 0")
        self.tokens = text.length(self.tokenizer, self.encoder)
        texts = TextTower(self.encoder, self.features)
        if self.weight:
            texts.readout = ReadOut(self.encoder.config.hidden_size)
        self.keep({"text": texts, "image": ImageTower(self.features, self.image_width), "temperature": Temperature()})

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        x = latents.convert(batch["pixels"], "uint8", "-1..1")
        ids = text.tokenize(self.tokenizer, batch["caption"], self.tokens).to(x.device)
        noise = self.noise * draws.normal(self.tokens, self.encoder.config.hidden_size) if self.weight else None
        image_bd = self.networks["image"](x)
        text_bd, logits = self.networks["text"](ids, noise)
        scale = self.networks["temperature"]()
        first = (image_bd @ text_bd.T).argmax(dim=1) == torch.arange(len(x), device=x.device)
        contrast = info_nce(image_bd, text_bd, scale)
        terms = {"loss": contrast, "top1": first.float().mean(), "scale": scale.detach()}
        if not self.weight:
            return terms
        readout = readout_loss(logits, answers(batch["scene"]).to(x.device))
        return terms | {"loss": contrast + self.weight * readout, "contrast": contrast, "readout": readout}

    def finish(self, networks: Mapping[str, nn.Module]) -> CLIPTextModel:
        """The trained text encoder, in eval mode, its weights fixed, from what the loop returned."""
        tower = networks["text"]
        assert isinstance(tower, TextTower)
        self.encoder.load_state_dict(tower.encoder.state_dict())
        self.encoder.eval().requires_grad_(False)
        return self.encoder


def _build_text(inputs: Inputs) -> Training:
    tokenizer = text.word_tokenizer(shapes.VOCABULARY, shapes.TOKENS)
    objective = Contrastive(tokenizer, text.small_encoder(tokenizer, **inputs.recipe.network), **inputs.options)
    finish = objective.finish
    return Training(objective, inputs.examples(), lambda nets: {"text_encoder": finish(nets), "tokenizer": tokenizer})


def _build_clip(inputs: Inputs) -> Training:
    clip = SceneClip(**inputs.recipe.network)
    widths = {name: clip.config[name] for name in ("features", "image_width")}
    objective = Contrastive(clip.tokenizer, clip.text.encoder, **widths, **inputs.options)
    return Training(objective, inputs.examples(), lambda networks: {"clip": clip.with_towers(networks)})


register(Kind(name="text", build=_build_text, options=(Contrastive,), network=text.small_encoder, gives="text_encoder"))
register(Kind(name="clip", build=_build_clip, options=(Contrastive,), network=SceneClip, gives="clip"))
