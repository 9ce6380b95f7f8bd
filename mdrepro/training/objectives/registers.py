"""What the last tokens of a caption's features must encode: the scene, one token for each thing that it names.

Contrast alone (CLIP's loss) asks nothing of single tokens, which the UNet reads. So the last six positions of every
prompt, which are padding behind the end token and see the whole caption, become registers (as in arXiv 2309.16588):
background, count, relation, and the objects in a fixed order. A linear read-out of each, with noise added to the
features so that what it needs must be large in them, is trained beside the contrast. This loss is ours, and for
captions of `mdrepro.data.shapes` only.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdrepro.data.shapes import BACKGROUNDS, COLOURS, OPPOSITE, REGISTERS, SHAPES, SIZES, Scene

OBJECTS = 3
KINDS = (
    (len(BACKGROUNDS),),
    (OBJECTS,),
    (1 + len(OPPOSITE),),
    *[(len(COLOURS) + 1, len(SHAPES) + 1, len(SIZES) + 1)] * OBJECTS,
)
"""Choices of each question to each register; the last choice of those about an object is that there is none."""
assert len(KINDS) == REGISTERS


def answers(scenes: Sequence[Scene]) -> Tensor:
    """The right answers, (scenes, 12) in the order of `KINDS`, the same for all wordings of a scene.

    The relation is 0 for none, and otherwise of the first object to the second, "left of" or "above".
    """
    backgrounds, relations = list(BACKGROUNDS), list(OPPOSITE)
    names = (list(COLOURS), list(SHAPES), list(SIZES))
    rows = []
    for scene in scenes:
        related = [relations.index(name) + 1 for _, name, _ in scene.graph.relations]
        row = [backgrounds.index(scene.graph.background), len(scene.order) - 1, *(related or [0])]
        for thing in scene.order:
            attributes = (thing.colour, thing.shape, thing.size)
            row += [choices.index(name) for choices, name in zip(names, attributes, strict=True)]
        row += [len(choices) for choices in names] * (OBJECTS - len(scene.order))
        rows.append(row)
    return torch.tensor(rows)


class ReadOut(nn.Module):
    """A linear map for each register: features (b, tokens, width) to logits (b, choices), a list of 12."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(width, sum(choices)) for choices in KINDS)

    def forward(self, features: Tensor) -> list[Tensor]:
        parts = zip(self.maps, features[:, -REGISTERS:].unbind(dim=1), KINDS, strict=True)
        return [logits for one, feature, choices in parts for logits in one(feature).split(choices, dim=1)]


def readout_loss(logits: Sequence[Tensor], right: Tensor) -> Tensor:
    """Cross entropy of `ReadOut`'s logits with the right `answers`, averaged over samples and questions, in nats."""
    pairs = zip(logits, right.unbind(dim=1), strict=True)
    return torch.stack([F.cross_entropy(one.float(), answer) for one, answer in pairs]).mean()
