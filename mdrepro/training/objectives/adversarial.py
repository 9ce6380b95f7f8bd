"""A patch discriminator and its losses, as latent diffusion trains its autoencoders (arXiv 2112.10752, section 3.1).

MobileDiffusion's autoencoder has an adversarial term; which one is not known.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdrepro.core.errors import BadInput, check

KINDS = ("hinge", "bce")
LARGEST, SMALLEST = 1e4, 1e-4  # bounds of the adaptive weight and of the norm that it divides by


class PatchDiscriminator(nn.Sequential):
    """PatchGAN (pix2pix, arXiv 1611.07004): logits for overlapping patches, positive for real.

    Convolutions of 4 x 4 px: ``layers`` + 1 that double the ``width`` of the first (to at most 8 times), all but the
    last of them with stride 2, and one to a logit. 3 layers see patches of 70 px, 2 of 34 px, 1 of 16 px. GroupNorm
    stands in for BatchNorm, so that samples do not see each other, however a batch is split.

    Input: pixels in [-1, 1], (b, 3, h, w), h and w at least 2 ** (layers + 2). Output: (b, 1, about h / 2 ** layers,
    about w / 2 ** layers). Raises BadInput for a ``width`` that is no multiple of 8, or no layers.
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        if width < 8 or width % 8:
            raise BadInput(f"width {width} of the discriminator: a multiple of 8, from 8")
        if layers < 1:
            raise BadInput(f"layers {layers} of the discriminator: from 1")
        widths = [width * min(8, 2**layer) for layer in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for layer in range(1, layers + 1):
            inner, outer = widths[layer - 1], widths[layer]
            parts += [
                nn.Conv2d(inner, outer, 4, stride=2 if layer < layers else 1, padding=1, bias=False),
                nn.GroupNorm(outer // 8, outer),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*parts, nn.Conv2d(widths[-1], 1, 4, padding=1))
        for part in self:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=0.02)


def discriminator_loss(real: Tensor, fake: Tensor, kind: str) -> Tensor:
    """Half the sum of the mean errors of logits, any shapes, on real and on generated images; a scalar.

    ``hinge``: max(0, 1 - real), max(0, 1 + fake). ``bce``: -log sigmoid(real), -log(1 - sigmoid(fake)).
    """
    if check("adversarial kind", kind, KINDS) == "hinge":
        return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())
    return 0.5 * (F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean())


def generator_loss(fake: Tensor, kind: str) -> Tensor:
    """``hinge``: -fake. ``bce``: -log sigmoid(fake), which does not saturate. The mean, a scalar."""
    hinge = check("adversarial kind", kind, KINDS) == "hinge"
    return -fake.float().mean() if hinge else F.softplus(-fake.float()).mean()


def adaptive_weight(error: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """Latent diffusion's (and VQGAN's, arXiv 2012.09841, eq. 7) weight of the adversarial term: a scalar, no gradient.

    |d error / d last| / (|d adversarial / d last| + 1e-4), at most 1e4: both terms, scalars whose graph is kept, pull
    equally at ``last``, the weight of the decoder's last layer.
    """
    pulls = [torch.autograd.grad(term, last, retain_graph=True)[0].float().norm() for term in (error, adversarial)]
    return (pulls[0] / (pulls[1] + SMALLEST)).clamp(max=LARGEST)
