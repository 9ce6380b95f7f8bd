"""Scenes: what is drawn, said and split, against independent drawings and counts."""

import re
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mdrepro.core.errors import BadInput
from mdrepro.data import shapes
from mdrepro.data.shapes import Graph, Scene, Shapes, Thing, caption, render, scene
from mdrepro.models import text

MANY = 600


def plain(things: list[tuple[Thing, float, float, float]], background: str = "black", angle: float = 0.0) -> Scene:
    """A scene without nuisances; each object with centre and radius."""
    order = tuple(thing for thing, *_ in things)
    places = np.array([(x, y, radius, angle) for _, x, y, radius in things], np.float32)
    graph = Graph(tuple(sorted(order)), frozenset(), background)
    light = np.array([0, 0, 0, 0, 0.5, 0, 0, 0.5], np.float32)  # waves at a quarter: no texture
    return Scene(graph, order, places, np.zeros((len(order) + 1, 3), np.float32), light, 0)


def drawn_by_pillow(shape: str, x: float, y: float, radius: float, angle: float) -> np.ndarray:
    """Coverage by supersampling corners that are computed here, 0 to 1."""
    fine = 16
    canvas = Image.new("L", (shapes.SIZE * fine,) * 2)
    brush = ImageDraw.Draw(canvas)
    if shape == "circle":
        brush.ellipse([(c - radius) * fine for c in (x, y)] + [(c + radius) * fine for c in (x, y)], fill=255)
    else:
        inner = 0.86 * np.sqrt(2)
        tip, notch = 0.8933 / np.cos(0.9065), 0.8933 / np.cos(np.pi / 5 - 0.9065)
        corners = {
            "square": [(inner, k * np.pi / 2 + np.pi / 4) for k in range(4)],
            "triangle": [(1.44, np.pi / 2 + k * 2 * np.pi / 3) for k in range(3)],
            "star": [((tip, notch)[k % 2], np.pi / 2 + k * np.pi / 5) for k in range(10)],
        }[shape]
        points = [
            ((x + r * radius * np.cos(a + angle)) * fine, (y - r * radius * np.sin(a + angle)) * fine)
            for r, a in corners
        ]
        brush.polygon(points, fill=255)
    return np.asarray(canvas, np.float64).reshape(shapes.SIZE, fine, shapes.SIZE, fine).mean(axis=(1, 3)) / 255


@pytest.mark.parametrize("shape", shapes.SHAPES)
@pytest.mark.parametrize("angle", [0.0, 0.25])
def test_outlines_are_those_of_polygons_drawn_by_pillow(shape: str, angle: float) -> None:
    image = render([plain([(Thing("yellow", shape, "large"), 30.3, 35.8, 10.0)], angle=angle)])[0].double().numpy()
    colours = np.array(shapes.COLOURS["yellow"]), np.array(shapes.BACKGROUNDS["black"])
    cover = ((image - colours[1][:, None, None]) / (colours[0] - colours[1])[:, None, None]).mean(axis=0)
    wanted = drawn_by_pillow(shape, 30.3, 35.8, 10.0, angle)
    assert np.abs(cover - wanted).max() < 0.35  # one pixel at a corner
    assert np.abs(cover - wanted).mean() < 0.002
    assert cover.sum() == pytest.approx(wanted.sum(), rel=0.02)


def test_objects_are_whole_apart_and_related_as_said() -> None:
    for index in range(MANY):
        one = scene("train", index)
        reach = [shapes.SHAPES[t.shape][3] * place[2] for t, place in zip(one.order, one.poses, strict=True)]
        for (x, y, radius, _), far, thing in zip(one.poses, reach, one.order, strict=True):
            assert min(x, y) - far >= 0
            assert max(x, y) + far <= shapes.SIZE
            assert shapes.SIZES[thing.size][0] <= radius <= shapes.SIZES[thing.size][1]
        for i in range(len(reach)):
            for j in range(i):
                assert np.hypot(*(one.poses[i, :2] - one.poses[j, :2])) >= reach[i] + reach[j]
        for first, relation, second in one.graph.relations:
            (ax, ay), (bx, by) = (one.poses[one.order.index(t), :2] for t in (first, second))
            ahead, aside = (bx - ax, by - ay) if relation == "left of" else (by - ay, bx - ax)
            assert ahead > abs(aside)


def understood(words: str) -> tuple[Counter[Thing], frozenset[tuple[Thing, str, Thing]], str]:
    """The graph that a caption says, read by an independent grammar."""
    for kept, others in {"small": "little", "large": "big", "above": "over", "below": "under"}.items():
        words = words.replace(others, kept)
    words = words.replace("to the ", "")
    background = re.search(r"(?:on|against)(?: a)? (\w+)(?: background)?$|^a (\w+) background with", words)
    assert background, words
    size, colour, shape = "(small|large)", f"({'|'.join(shapes.COLOURS)})", f"({'|'.join(shapes.SHAPES)})s?"
    things: Counter[Thing] = Counter()
    for count, s, c, k in re.findall(rf"(a|two|three) {size} {colour} {shape}", words):
        things[Thing(c, k, s)] += {"a": 1, "two": 2, "three": 3}[count]
    relations = set()
    said = re.search(rf"{size} {colour} {shape} (left of|right of|above|below) a {size} {colour} {shape}", words)
    if said:
        s1, c1, k1, relation, s2, c2, k2 = said.groups()
        first, second = Thing(c1, k1, s1), Thing(c2, k2, s2)
        if relation in ("right of", "below"):
            first, second = second, first
        relations.add((first, {"right of": "left of", "below": "above"}.get(relation, relation), second))
    return things, frozenset(relations), background[1] or background[2]


def test_every_wording_says_the_whole_graph() -> None:
    wordings = set()
    for index in range(MANY):
        one = scene("validation", index)
        for wording in (None, 1, 2):
            words = caption(one, wording)
            wordings.add(words)
            things, relations, background = understood(words)
            assert things == Counter(one.graph.things), words
            assert relations == one.graph.relations, words
            assert background == one.graph.background, words
    assert len(wordings) > 2 * MANY


def test_captions_fit_the_vocabulary_and_the_length() -> None:
    tokenizer = text.word_tokenizer(shapes.VOCABULARY, shapes.TOKENS)
    captions = [caption(scene("train", index)) for index in range(2000)]
    ids = tokenizer(captions).input_ids
    assert max(map(len, ids)) <= shapes.TOKENS
    assert tokenizer.unk_token_id not in {token for row in ids for token in row}
    assert {token for row in ids for token in row} == set(range(len(tokenizer))) - {tokenizer.unk_token_id}


def test_splits_share_no_graph_of_several_objects() -> None:
    graphs = {split: {scene(split, i).graph for i in range(MANY)} for split in shapes.SPLITS}
    related = {split: {g for g in found if g.relations} for split, found in graphs.items()}
    assert min(map(len, related.values())) > MANY // 3
    assert not related["train"] & related["validation"]
    assert not related["train"] & related["test"]
    assert not related["validation"] & related["test"]


def test_kinds_occur_as_often_as_stated_in_every_split() -> None:
    for split in shapes.SPLITS:
        kinds = Counter((len(g.things), bool(g.relations)) for g in (scene(split, i).graph for i in range(MANY)))
        assert kinds[1, False] / MANY == pytest.approx(shapes.KINDS["one"], abs=0.06)
        assert kinds[2, True] / MANY == pytest.approx(shapes.KINDS["two"], abs=0.07)
        assert kinds[3, True] / MANY == pytest.approx(shapes.KINDS["three"], abs=0.07)


def test_scenes_are_functions_of_split_and_number() -> None:
    data = Shapes("test", 20, first=5)
    again = Shapes("test", 30, first=0)
    some, same = data.batch([3, 0]), again.batch([8, 5])
    assert torch.equal(some["pixels"], same["pixels"])
    assert some["caption"] == same["caption"]
    assert data.fingerprint != again.fingerprint
    assert not torch.equal(some["pixels"][0], some["pixels"][1])


def test_equal_graphs_look_different() -> None:
    seen: dict[Graph, list[Scene]] = {}
    for index in range(MANY):
        one = scene("train", index)
        seen.setdefault(one.graph, []).append(one)
    pairs = [found[:2] for found in seen.values() if len(found) > 1]
    assert len(pairs) > 20
    first, second = (render([pair[i] for pair in pairs]).double() for i in (0, 1))
    assert ((first - second) ** 2).mean(dim=(1, 2, 3)).min() > 4


def test_bad_input_is_named() -> None:
    with pytest.raises(BadInput, match="did you mean train"):
        scene("trian", 0)
    with pytest.raises(BadInput, match="from 0"):
        scene("train", -1)
    with pytest.raises(BadInput, match="at least 1"):
        Shapes("train", 0)
