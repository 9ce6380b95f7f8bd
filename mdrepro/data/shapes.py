"""Captioned scenes that the program draws itself: 64 px, one to three objects, every attribute known.

A scene is a graph (`Graph`) without order: "a red star left of a blue circle" and "a blue circle right of a red star"
are the same one. An image adds what no caption says: exact places, radii, angles and tints, a lighting gradient and a
slow texture of the background, so that pixels cannot be memorised. A caption is one of many wordings of the graph.

Scene *i* of a split is a pure function of (split, i). Every graph of two or more objects belongs to one split only, so
that none of validation or test has been seen in training; the few graphs of one object or of equal ones are in all.

Drawing is by signed distance, antialiased over one pixel: about 0.2 ms a scene on one core.
"""

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdrepro.core.errors import BadInput, check

SIZE = 64  # px, height and width
VERSION = 2  # of scenes, drawing and wording together; another number is other data

COLOURS = {
    "red": (214, 40, 40),
    "green": (44, 160, 60),
    "blue": (45, 80, 215),
    "yellow": (240, 212, 50),
    "purple": (140, 50, 180),
    "orange": (245, 130, 30),
}
BACKGROUNDS = {"white": (238, 238, 238), "gray": (128, 128, 128), "black": (24, 24, 24), "pink": (246, 180, 200)}
SIZES = {"small": (6.2, 7.4), "large": (10.0, 11.6)}  # radius, px
# sectors, angle of the edge's normal in a half sector, distance of the edge, farthest point; both in radii
SHAPES = {
    "circle": (64, 0.0, 1.0, 1.0),
    "square": (4, 0.0, 0.86, 1.216),
    "triangle": (3, 0.0, 0.72, 1.44),
    "star": (5, 0.9065, 0.8933, 1.45),
}
SPLITS = {"train": (0, 90), "validation": (90, 95), "test": (95, 100)}  # of 100 buckets of graphs
KINDS = {"one": 0.25, "two": 0.4, "three": 0.15, "equal": 0.2}
GAP = 2.0  # px between objects, and to the edge
ANGLE = 0.3  # greatest turn, radians
TINT, LIGHT, TEXTURE = 12.0, 16.0, 5.0  # grey levels

COUNTS = {1: "a", 2: "two", 3: "three"}
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "star": "stars"}
SYNONYMS = {
    "small": ("small", "little"),
    "large": ("large", "big"),
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
OPPOSITE = {"left of": "right of", "above": "below"}
ON = ("{} on a {} background", "{} on {}", "{} against a {} background", "a {1} background with {0}")
VOCABULARY = tuple(
    sorted(
        {*COLOURS, *BACKGROUNDS, *SHAPES, *PLURALS.values(), *COUNTS.values(), ",", "and", "also"}
        | {word for group in SYNONYMS.values() for phrase in group for word in phrase.split()}
        | {word for form in ON for word in form.split() if "{" not in word}
    )
)
REGISTERS = 6  # end tokens behind every caption, which may tell it once more (`mdrepro.training.objectives.registers`)
TOKENS = 28 + REGISTERS  # of the longest caption, start and end included, and its registers


@dataclass(frozen=True, order=True)
class Thing:
    """What a caption says of one object."""

    colour: str
    shape: str
    size: str


@dataclass(frozen=True)
class Graph:
    """What a caption says of a scene, without order.

    ``things`` are sorted, and equal ones occur several times; of ``relations``, (object, "left of" or "above", object),
    the first object is there as seen from the second.
    """

    things: tuple[Thing, ...]
    relations: frozenset[tuple[Thing, str, Thing]]
    background: str

    def bucket(self) -> int:
        """0 to 99, even over graphs; decides the split."""
        sentence = repr((self.things, sorted(self.relations), self.background))
        return int.from_bytes(hashlib.blake2b(sentence.encode(), digest_size=8).digest(), "big") % 100


@dataclass(frozen=True)
class Scene:
    """A graph and the numbers that a caption does not say.

    Args:
        order: the objects in the order in which they were drawn and placed; the relation is of the first two.
        poses: (objects, 4): centre x and y in px from the left and top edge, radius in px, angle in radians.
        tints: (objects + 1, 3): added to the colours, grey levels; the last is the background's.
        light: (8,): lighting gradient x, y (levels from centre to edge), two waves of the background: x, y, phase.
        wording: a number that chooses the caption's words.
    """

    graph: Graph
    order: tuple[Thing, ...]
    poses: NDArray[np.float32]
    tints: NDArray[np.float32]
    light: NDArray[np.float32]
    wording: int


def scene(split: str, index: int) -> Scene:
    """Scene ``index`` of a split, any number from 0. Raises BadInput for an unknown split or a negative index."""
    check("split", split, SPLITS)
    if index < 0:
        raise BadInput(f"scene {index}: must be from 0")
    rng = np.random.default_rng([VERSION, list(SPLITS).index(split), index])
    low, high = SPLITS[split]
    kind = list(KINDS)[int(np.searchsorted(np.cumsum(list(KINDS.values())), rng.random(), side="right"))]
    while True:
        order, related = _things(kind, rng)
        relations = [(order[0], related, order[1])] if related else []
        graph = Graph(tuple(sorted(order)), frozenset(relations), _pick(BACKGROUNDS, rng))
        if related and not low <= graph.bucket() < high:
            continue
        if (poses := _poses(order, related, rng)) is not None:
            break
    tints = rng.uniform(-TINT, TINT, (len(order) + 1, 3)).astype(np.float32)
    return Scene(graph, order, poses, tints, rng.uniform(-1, 1, 8).astype(np.float32), int(rng.integers(2**31)))


def caption(scene: Scene, wording: int | None = None) -> str:
    """A caption of the scene, one of its many, chosen by ``wording``; None for the scene's own."""
    rng = np.random.default_rng(scene.wording if wording is None else wording)

    def say(word: str) -> str:
        choices = SYNONYMS.get(word, (word,))
        return choices[rng.integers(len(choices))]

    def name(thing: Thing) -> str:
        return f"a {say(thing.size)} {thing.colour} {thing.shape}"

    things = scene.order
    if not scene.graph.relations:
        sentence = name(things[0])
        if len(things) > 1:
            sentence = f"{COUNTS[len(things)]} {sentence[2:].rsplit(' ', 1)[0]} {PLURALS[things[0].shape]}"
    else:
        ((first, relation, second),) = scene.graph.relations
        if rng.random() < 0.5:
            first, relation, second = second, OPPOSITE[relation], first
        sentence = f"{name(first)} {say(relation)} {name(second)}"
        if len(things) > 2:
            sentence += f" , and {'also ' if rng.random() < 0.5 else ''}{name(things[2])} ,"
    form = ON[rng.integers(len(ON))]
    if form.startswith("a {1}"):
        sentence = sentence.removesuffix(" ,")
    return form.format(sentence, scene.graph.background).replace(" ,", ",")


def render(scenes: Sequence[Scene]) -> Tensor:
    """Images of scenes, uint8 (n, 3, 64, 64)."""
    centre = np.arange(SIZE, dtype=np.float32) + 0.5
    across = (centre - SIZE / 2) / (SIZE / 2)
    out = np.empty((len(scenes), 3, SIZE, SIZE), np.float32)
    for canvas, one in zip(out, scenes, strict=True):
        gradient = LIGHT * (one.light[0] * across[None, :] + one.light[1] * across[:, None])
        waves = [
            np.cos(np.pi * (2 * a * across[None, :] + 2 * b * across[:, None] + phase))
            for a, b, phase in one.light[2:].reshape(2, 3)
        ]
        canvas[:] = gradient + TEXTURE * (waves[0] + waves[1])
        canvas += (np.array(BACKGROUNDS[one.graph.background], np.float32) + one.tints[-1])[:, None, None]
        for thing, pose, tint in zip(one.order, one.poses, one.tints[:-1], strict=True):
            columns, rows = (_window(at, pose[2] * SHAPES[thing.shape][3]) for at in pose[:2])
            cover = np.clip(0.5 - _distance(thing.shape, pose, centre[columns], centre[rows]), 0, 1)
            paint = (np.array(COLOURS[thing.colour], np.float32) + tint)[:, None, None] + 0.5 * gradient[rows, columns]
            patch = canvas[:, rows, columns]
            patch += cover * (paint - patch)
    return torch.from_numpy(np.rint(np.clip(out, 0, 255)).astype(np.uint8))


class Shapes:
    """Scenes ``first`` to ``first + count - 1`` of a split: ``pixels`` uint8 (b, 3, 64, 64), ``caption``, ``scene``."""

    def __init__(self, split: str, count: int, first: int = 0) -> None:
        check("split", split, SPLITS)
        if count < 1 or first < 0:
            raise BadInput(f"{count} scenes from {first}: must be at least 1, from 0 on")
        self.split, self.count, self.first = split, count, first
        self.fingerprint = hashlib.sha256(f"shapes {(VERSION, split, count, first)}".encode()).hexdigest()

    def __len__(self) -> int:
        return self.count

    def scenes(self, indices: Sequence[int]) -> list[Scene]:
        """The scenes of these indices, which count from 0."""
        return [scene(self.split, self.first + int(i)) for i in indices]

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        scenes = self.scenes(indices)
        return {"pixels": render(scenes), "caption": [caption(one) for one in scenes], "scene": scenes}


def _pick(names: Iterable[str], rng: np.random.Generator) -> str:
    choices = tuple(names)
    return choices[rng.integers(len(choices))]


def _things(kind: str, rng: np.random.Generator) -> tuple[tuple[Thing, ...], str | None]:
    """Objects in order, and the relation of the first two, if any."""

    def thing() -> Thing:
        return Thing(*(_pick(names, rng) for names in (COLOURS, SHAPES, SIZES)))

    if kind == "one":
        return (thing(),), None
    if kind == "equal":
        return (thing(),) * int(rng.integers(2, 4)), None
    while True:
        things = tuple(thing() for _ in range(2 if kind == "two" else 3))
        if len({(t.colour, t.shape) for t in things}) == len(things):
            return things, _pick(OPPOSITE, rng)


def _poses(order: Sequence[Thing], related: str | None, rng: np.random.Generator) -> NDArray[np.float32] | None:
    """Where objects are, without overlap and as the relation says; None where 40 tries found no room."""
    radii = np.array([rng.uniform(*SIZES[thing.size]) for thing in order])
    reach = radii * [SHAPES[thing.shape][3] for thing in order]
    for _ in range(40):
        free = SIZE / 2 - reach - 1
        at = SIZE / 2 + rng.uniform(-1, 1, (len(order), 2)) * free[:, None]
        if related is not None:
            along, aside = (at[1] - at[0])[:: 1 if related == "left of" else -1]
            if along < 0:
                at[[0, 1], :] = SIZE - at[[0, 1], :]  # mirrored, they stay inside and are related as asked
                along = -along
            if abs(aside) > 0.7 * along:
                continue
        pairs = itertools.combinations(range(len(order)), 2)
        if all(np.hypot(*(at[i] - at[j])) >= reach[i] + reach[j] + GAP for i, j in pairs):
            return np.column_stack([at, radii, rng.uniform(-ANGLE, ANGLE, len(order))]).astype(np.float32)
    return None


def _window(at: float, reach: float) -> slice:
    """The pixels that an object at ``at`` may touch."""
    return slice(max(0, int(at - reach - 1)), min(SIZE, int(at + reach + 2)))


def _distance(
    shape: str, pose: NDArray[np.float32], columns: NDArray[np.float32], rows: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Signed distance to the outline in px, negative inside, (rows, columns), at these x and y."""
    sectors, normal, edge, _ = SHAPES[shape]
    x, y, radius, angle = pose
    right, up = (columns - x)[None, :], (y - rows)[:, None]
    length = np.hypot(right, up)
    turn = np.arctan2(up, right) - angle - np.pi / 2 * (1 if shape != "triangle" else -1)
    sector = np.pi / sectors
    folded = np.abs(np.mod(turn + sector, 2 * sector) - sector)
    return (length * np.cos(folded - normal) - edge * radius).astype(np.float32)
