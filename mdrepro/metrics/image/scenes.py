"""Whether an image shows what its caption says, from what `SceneReader` read in it, and CLIP score[shapes].

`judge` compares a reading with a caption's graph, without order: objects are matched so that most attributes agree.
Attributes are the background, the count, colour, shape and size of each object that the caption names, and each
relation. Attribute accuracy is the share of attributes that are right, scene accuracy the share of scenes with all of
them right.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mdrepro.data.shapes import Graph, Thing
from mdrepro.metrics.image.clip_score import cosines
from mdrepro.models.scenes.clip import SceneClip
from mdrepro.models.scenes.reader import Reading


def clip_cosines(clip: SceneClip, pixels: Tensor, captions: Sequence[str]) -> NDArray[np.float64]:
    """CLIP score[shapes]: cos(image i, caption i), float64 (n,), of uint8 images (n, 3, 64, 64).

    Raises BadInput for other images, or another number of them than of captions.
    """
    return cosines(clip.image_features(pixels), clip.text_features(captions))


@dataclass(frozen=True)
class Judgement:
    """Attributes of one caption, right or wrong."""

    background: bool
    count: bool
    colour: tuple[bool, ...]
    shape: tuple[bool, ...]
    size: tuple[bool, ...]
    relation: tuple[bool, ...]

    def attributes(self) -> tuple[bool, ...]:
        return (self.background, self.count, *self.colour, *self.shape, *self.size, *self.relation)


def judge(graph: Graph, reading: Reading) -> Judgement:
    """Which attributes of a caption's graph are right in what was read of an image.

    A relation is right when both objects were found and the first lies there: "left of" when it is to the left by at
    least as much as it is higher or lower, "above" likewise.
    """
    count = len(graph.things)
    seen: list[tuple[Thing, float, float] | None] = [*reading.things, *[None] * (count - len(reading.things))]
    judgements = (_matched(graph, reading, chosen) for chosen in itertools.permutations(seen, count))
    return max(judgements, key=lambda one: sum(one.attributes()))


def _matched(graph: Graph, reading: Reading, chosen: Sequence[tuple[Thing, float, float] | None]) -> Judgement:
    pairs = list(zip(graph.things, chosen, strict=True))
    positions = {thing: found[1:] for thing, found in pairs if found is not None}

    def right(attribute: str) -> tuple[bool, ...]:
        return tuple(
            seen is not None and getattr(seen[0], attribute) == getattr(thing, attribute) for thing, seen in pairs
        )

    relations = (
        first in positions and second in positions and _holds(positions[first], relation, positions[second])
        for first, relation, second in sorted(graph.relations)
    )
    background, count = reading.background == graph.background, len(reading.things) == len(graph.things)
    return Judgement(background, count, right("colour"), right("shape"), right("size"), tuple(relations))


def _holds(first: tuple[float, float], relation: str, second: tuple[float, float]) -> bool:
    across, down = second[0] - first[0], second[1] - first[1]
    return across > 0 and across >= abs(down) if relation == "left of" else down > 0 and down >= abs(across)
