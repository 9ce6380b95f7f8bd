"""LPIPS as a training loss: the metric's network, with gradients."""

from torch import Tensor, nn

from mdrepro.metrics.image import reconstruction


class PerceptualLoss(nn.Module):
    """LPIPS 0.1 (arXiv 1801.03924, eq. 1), as `mdrepro.metrics.image.reconstruction.Lpips` measures it.

    Args:
        net: backbone, "alex" or "vgg".

    Raises:
        NotAttempted: the backbone's weights are not on this machine; the message says how to get them.
    """

    def __init__(self, net: str = "vgg") -> None:
        super().__init__()
        self.lpips = reconstruction.Lpips(net)._model.requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of images (b, 3, h, w) in [-1, 1]: (b,), 0 for equal ones."""
        distances: Tensor = self.lpips(x.float(), y.float())
        return distances.flatten()
