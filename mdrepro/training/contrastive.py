"""A small text encoder, trained with a small image encoder to tell which caption belongs to which image.

It stands in for CLIP (arXiv 2103.00020), on whose frozen text features both papers condition their UNet. CLIP's loss:
symmetric InfoNCE over the captions and images of a batch, with a learned temperature. The text feature is taken at the
end token; the UNet is later given the features of all tokens (`mdrepro.models.text.encode`).

Contrast alone leaves those badly off at this size: it asks nothing of any token but the last, and of that only what
tells a batch apart, so that shapes are all but lost (a linear attention read-out finds 6 of 10; from a network that was
not trained at all, more than 9). CLIP's 400 million pairs make up for it; here a second loss does (`context_loss`,
ours): the features of each token must still tell, linearly, the words up to a few places before it.

Negatives come from a process's own micro-batch, so that a batch in parts has another loss. Gathering those of other
processes would matter for CLIP's batches of 32,768; scenes of a few hundred words are told apart in one micro-batch.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel

from mdrepro.errors import BadInput
from mdrepro.models import latents, text
from mdrepro.training.draws import Draws
from mdrepro.training.objective import Batch, Phase

START, LARGEST = math.log(1 / 0.07), math.log(100)  # CLIP's logarithm of the inverse temperature


def info_nce(image_bd: Tensor, text_bd: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE (CLIP, figure 3): sample i of one side belongs to i of the other; a scalar, in nats.

    Args:
        image_bd, text_bd: features of length 1, (b, width).
        scale: inverse temperature.
    """
    logits_bb = scale * image_bd.float() @ text_bd.float().T
    own = torch.arange(len(logits_bb), device=logits_bb.device)
    return 0.5 * (F.cross_entropy(logits_bb, own) + F.cross_entropy(logits_bb.T, own))


def context_loss(logits_btcw: Tensor, ids_bt: Tensor, end: int) -> Tensor:
    """Cross entropy of the words 0, 1, ... places before each token, up to the end token; a scalar, in nats.

    Args:
        logits_btcw: of the word c places before token t, (b, tokens, places, words).
        ids_bt: token numbers, (b, tokens).
        end: number of the end token, with which prompts are padded.
    """
    before = (ids_bt == end).cumsum(dim=1) - (ids_bt == end).long() == 0  # the first end token and all before it
    terms = []
    for places in range(logits_btcw.shape[2]):
        kept = before[:, places:]
        told = logits_btcw[:, places:, places].float()[kept]
        terms.append(F.cross_entropy(told, ids_bt[:, : ids_bt.shape[1] - places][kept]))
    return torch.stack(terms).mean()


class ImageTower(nn.Module):
    """A small CNN: pixels in [-1, 1], (b, 3, h, w), to features of length 1, (b, features).

    Four convolutions of stride 2; their means over a grid of 4 x 4 are kept apart, so that it can tell left from right.

    Args:
        features: length of the feature.
        width: channels of the first convolution, a multiple of 8.
    """

    def __init__(self, features: int = 128, width: int = 32) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        channels = 3
        for level in (1, 2, 4, 8):
            conv = nn.Conv2d(channels, level * width, 3, stride=2, padding=1)
            parts += [conv, nn.GroupNorm(8, level * width), nn.SiLU()]
            channels = level * width
        self.body = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.projection = nn.Linear(16 * channels, features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.projection(self.body(x)).float(), dim=1)


class TextTower(nn.Module):
    """CLIP's text model with a projection of its feature at the end token, and a linear read-out at every token.

    Args:
        encoder: CLIP's text model.
        features: length of the projected feature.
        context: how many words the read-out tells: a token's own and those before it; 0 for none.
    """

    def __init__(self, encoder: CLIPTextModel, features: int = 128, context: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        width, self.words, self.context = encoder.config.hidden_size, encoder.config.vocab_size, context
        self.projection = nn.Linear(width, features, bias=False)
        self.readout = nn.Linear(width, context * self.words) if context else None

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Token numbers (b, tokens) to features of length 1, (b, features), and logits (b, tokens, context, words)."""
        out = self.encoder(ids)
        feature_bd = F.normalize(self.projection(out.pooler_output).float(), dim=1)
        if self.readout is None:
            return feature_bd, None
        return feature_bd, self.readout(out.last_hidden_state).unflatten(2, (self.context, self.words))


class Temperature(nn.Module):
    """The learned inverse temperature, at most 100, as CLIP's."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(START))

    def forward(self) -> Tensor:
        return self.log_scale.clamp(max=LARGEST).exp()


class Contrastive:
    """Objective: `info_nce` of images and their captions; ``top1`` is the share of images whose caption came first.

    Batches need ``pixels`` and ``caption``.

    Args:
        tokenizer, encoder: of `mdrepro.models.text.word_tokenizer` and ``small_encoder``, or CLIP's.
        features: length of the common feature.
        image_width: see `ImageTower`.
        context: words that each token must tell (`context_loss`); 0 for CLIP's loss alone.
        weight: of `context_loss`.

    Raises:
        BadInput: a negative ``context`` or ``weight``.
    """

    phases: tuple[Phase, ...] = (Phase("towers", ("text", "image", "temperature")),)

    def __init__(
        self,
        tokenizer: Any,
        encoder: CLIPTextModel,
        features: int = 128,
        image_width: int = 32,
        context: int = 0,
        weight: float = 1.0,
    ) -> None:
        if context < 0 or weight < 0:
            raise BadInput(f"context {context}, weight {weight}: allowed are numbers from 0")
        self.tokenizer, self.encoder, self.weight = tokenizer, encoder, weight
        self.tokens = text.length(tokenizer, encoder)
        self.networks: dict[str, nn.Module] = {
            "text": TextTower(encoder, features, context),
            "image": ImageTower(features, image_width),
            "temperature": Temperature(),
        }
        self.frozen: dict[str, nn.Module] = {}
        self.ema: dict[str, nn.Module] = {}

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        x = latents.convert(batch["pixels"], "uint8", "-1..1")
        ids = text.tokenize(self.tokenizer, batch["caption"], self.tokens).to(x.device)
        image_bd = self.networks["image"](x)
        text_bd, logits_btcw = self.networks["text"](ids)
        scale = self.networks["temperature"]()
        first = (image_bd @ text_bd.T).argmax(dim=1) == torch.arange(len(x), device=x.device)
        contrast = info_nce(image_bd, text_bd, scale)
        told = {"loss": contrast, "top1": first.float().mean(), "scale": scale.detach()}
        if logits_btcw is None:
            return told
        context = context_loss(logits_btcw, ids, self.tokenizer.eos_token_id)
        return told | {"loss": contrast + self.weight * context, "contrast": contrast, "context": context}

    def finish(self, networks: Mapping[str, nn.Module]) -> CLIPTextModel:
        """The trained text encoder, in eval mode, its weights fixed.

        Args:
            networks: what the loop returned.
        """
        trained: Any = networks["text"]
        self.encoder.load_state_dict(trained.encoder.state_dict())
        self.encoder.eval().requires_grad_(False)
        return self.encoder
