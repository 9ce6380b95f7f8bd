"""Two small networks whose features of an image and of its caption lie close, as CLIP's (arXiv 2103.00020)."""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel


class ImageTower(nn.Module):
    """A small CNN: pixels in [-1, 1], (b, 3, h, w), to features of length 1, (b, features).

    Four convolutions of stride 2, the first with ``width`` channels, a multiple of 8; their means over a grid of 4 x 4
    are kept apart, so that it can tell left from right.
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
    """CLIP's text model with a projection of its feature at the end token, and maybe a head on its tokens' features."""

    def __init__(self, encoder: CLIPTextModel, features: int = 128) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = nn.Linear(encoder.config.hidden_size, features, bias=False)
        self.readout: nn.Module | None = None

    def forward(self, ids: Tensor, noise: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Token numbers (b, tokens) to features of length 1, (b, features), and what ``readout`` gives, if it is there.

        ``noise`` (b, tokens, width) is added to the features that are read out.
        """
        out = self.encoder(ids)
        feature_bd = F.normalize(self.projection(out.pooler_output).float(), dim=1)
        if self.readout is None:
            return feature_bd, []
        read = out.last_hidden_state if noise is None else out.last_hidden_state + noise
        return feature_bd, self.readout(read)
