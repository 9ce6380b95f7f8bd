"""LPIPS as a training loss: the metric's network, with gradients that stay finite."""

from typing import Any

import torch
from torch import Tensor, nn

from mdrepro.metrics import reconstruction


class PerceptualLoss(nn.Module):
    """LPIPS 0.1 (arXiv 1801.03924, eq. 1), as `mdrepro.metrics.reconstruction.Lpips` measures it.

    The lpips package normalises features by a square root whose gradient is not finite where all are zero, as happens
    on even areas; here the gradient is 0 there, and values are the same.

    Args:
        net: backbone, "alex" or "vgg".

    Raises:
        NotAttempted: the backbone's weights are not on this machine; the message says how to get them.
    """

    def __init__(self, net: str = "vgg") -> None:
        super().__init__()
        measure = reconstruction.Lpips(net)
        self.protocol = measure.protocol
        self.lpips: Any = measure._model.requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of images (b, 3, h, w) in [-1, 1]: (b,), 0 for equal ones."""
        features = [self.lpips.net(self.lpips.scaling_layer(image.float())) for image in (x, y)]
        distance = torch.zeros(len(x), device=x.device)
        for linear, a, b in zip(self.lpips.lins, *features, strict=True):
            distance = distance + linear((_normalised(a) - _normalised(b)).square()).mean(dim=(1, 2, 3))
        return distance


def _normalised(features_bchw: Tensor) -> Tensor:
    square = features_bchw.square().sum(dim=1, keepdim=True)
    norm = torch.where(square > 0, square, torch.ones_like(square)).sqrt()
    return features_bchw / (norm + 1e-10)
