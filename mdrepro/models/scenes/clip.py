"""The pair of small towers that gives CLIP score[shapes], the cosine between a scene's image and a caption.

Trained on real renders and their captions, apart from the pair whose text features condition the denoisers, as the
papers score with another CLIP than they condition on. Comparable with itself alone.
"""

from collections.abc import Mapping, Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from mdrepro.data.shapes import TOKENS, VOCABULARY
from mdrepro.models import latents, text
from mdrepro.models.safe import SafeModelMixin
from mdrepro.models.scenes.reader import check_images
from mdrepro.models.scenes.towers import ImageTower, TextTower


class SceneClip(SafeModelMixin, ConfigMixin):
    """An image tower (see `ImageTower`) and a text tower (see `text.small_encoder`) with a common feature."""

    @register_to_config
    def __init__(
        self, features: int = 64, image_width: int = 16, width: int = 64, layers: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        self.tokenizer = text.word_tokenizer(VOCABULARY, TOKENS)
        encoder = text.small_encoder(self.tokenizer, width=width, layers=layers, heads=heads)
        self.text, self.image = TextTower(encoder, features), ImageTower(features, image_width)

    def with_towers(self, towers: Mapping[str, nn.Module]) -> "SceneClip":
        """Itself, with the weights of the trained towers ``text`` and ``image``, in eval mode."""
        self.text.load_state_dict(towers["text"].state_dict())
        self.image.load_state_dict(towers["image"].state_dict())
        return self.eval()

    @torch.inference_mode()
    def image_features(self, pixels: Tensor, batch: int = 250) -> Tensor:
        """Features of length 1, (n, features), of uint8 images (n, 3, 64, 64). Raises BadInput for other images."""
        check_images(pixels)
        return torch.cat([self.image(latents.convert(part, "uint8", "-1..1")) for part in pixels.split(batch)])

    @torch.inference_mode()
    def text_features(self, captions: Sequence[str], batch: int = 250) -> Tensor:
        """Features of length 1, (n, features)."""
        ids = text.tokenize(self.tokenizer, captions, TOKENS)
        return torch.cat([self.text(part)[0] for part in ids.split(batch)])
