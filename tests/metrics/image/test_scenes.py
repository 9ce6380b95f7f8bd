"""Judging what was read against a caption: cases worked out by hand, and a reader that really reads."""

from collections import Counter

import pytest
import torch

from mdrepro.core.errors import BadInput
from mdrepro.data import shapes
from mdrepro.data.shapes import Graph, Shapes, Thing
from mdrepro.metrics.image.scenes import Judgement, judge
from mdrepro.models.scenes import reader as networks
from mdrepro.models.scenes.reader import Reading, SceneReader

RED, BLUE, GREEN = (Thing("red", "star", "small"), Thing("blue", "circle", "large"), Thing("green", "square", "small"))
GRAPH = Graph(tuple(sorted((RED, BLUE, GREEN))), frozenset({(RED, "left of", BLUE)}), "pink")


def reading(*things: tuple[Thing, float, float], background: str = "pink") -> Reading:
    return Reading(background, things)


def wrong(judgement: Judgement) -> Counter[str]:
    """How often each attribute is wrong."""
    values = {name: value if isinstance(value, tuple) else (value,) for name, value in vars(judgement).items()}
    return Counter({name: value.count(False) for name, value in values.items() if False in value})


RIGHT = ((GREEN, 10.0, 50.0), (BLUE, 50.0, 20.0), (RED, 20.0, 25.0))


def test_a_right_image_is_right_in_any_order() -> None:
    for turn in range(3):
        judgement = judge(GRAPH, reading(*RIGHT[turn:], *RIGHT[:turn]))
        assert not wrong(judgement)
        assert len(judgement.attributes()) == 1 + 1 + 3 * 3 + 1


CASES = {
    "background": (reading(*RIGHT, background="gray"), {"background": 1}),
    "one too many": (reading(*RIGHT, (RED, 55.0, 55.0)), {"count": 1}),
    "one too few": (reading(*RIGHT[1:]), {"count": 1, "colour": 1, "shape": 1, "size": 1}),
    "the related one is missing": (
        reading(*RIGHT[:2]),
        {"count": 1, "colour": 1, "shape": 1, "size": 1, "relation": 1},
    ),
    "another colour": (reading(*RIGHT[:2], (Thing("orange", "star", "small"), 20.0, 25.0)), {"colour": 1}),
    "another size": (reading(*RIGHT[:2], (Thing("red", "star", "large"), 20.0, 25.0)), {"size": 1}),
    "the other side": (reading(RIGHT[0], (BLUE, 12.0, 20.0), RIGHT[2]), {"relation": 1}),
    "rather above than left": (reading(RIGHT[0], (BLUE, 30.0, 50.0), RIGHT[2]), {"relation": 1}),
    "nothing": (reading(), {"count": 1, "colour": 3, "shape": 3, "size": 3, "relation": 1}),
    "attributes bound wrongly": (
        reading(
            (GREEN, 10.0, 50.0),
            (Thing("red", "circle", "large"), 50.0, 20.0),
            (Thing("blue", "star", "small"), 20.0, 25.0),
        ),
        {"colour": 2},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fault_costs_what_it_should(case: str) -> None:
    seen, expected = CASES[case]
    assert wrong(judge(GRAPH, seen)) == expected


def test_equal_things_are_counted() -> None:
    three = Graph((RED,) * 3, frozenset(), "white")
    seen = reading((RED, 10, 10), (RED, 30, 30), (RED, 50, 50), background="white")
    assert not wrong(judge(three, seen))
    assert wrong(judge(three, reading(*seen.things[:2], background="white"))) == {
        "count": 1, "colour": 1, "shape": 1, "size": 1
    }  # fmt: skip


def test_above_is_smaller_y() -> None:
    over = Graph(tuple(sorted((RED, BLUE))), frozenset({(RED, "above", BLUE)}), "pink")
    assert not wrong(judge(over, reading((RED, 30, 10), (BLUE, 32, 40))))
    assert wrong(judge(over, reading((RED, 30, 40), (BLUE, 32, 10)))) == {"relation": 1}


@pytest.fixture(scope="module")
def reader() -> SceneReader:
    """Trained for a few seconds: enough to see what its loss teaches."""
    torch.manual_seed(0)
    made = SceneReader(width=16, depth=3)
    optimiser = torch.optim.AdamW(made.parameters(), lr=8e-3)
    data = Shapes("train", 10**6)
    for step in range(250):
        for group in optimiser.param_groups:
            group["lr"] = 8e-3 * (1 - step / 250)
        batch = data.batch(range(step * 24, step * 24 + 24))
        loss = networks.reading_loss(made(batch["pixels"]), networks.targets(batch["scene"]))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return made.eval()


def test_the_loss_teaches_to_read(reader: SceneReader) -> None:
    batch = Shapes("validation", 200).batch(range(200))
    readings = reader.read(batch["pixels"])
    right = [judge(one.graph, seen).attributes() for one, seen in zip(batch["scene"], readings, strict=True)]
    flat = [value for attributes in right for value in attributes]
    assert sum(flat) / len(flat) > 0.9
    exact = [
        abs(x - place[0]) + abs(y - place[1])
        for one, seen in zip(batch["scene"], readings, strict=True)
        if len(seen.things) == len(one.order)
        for _, x, y in seen.things
        for place in [min(one.poses, key=lambda p: abs(p[0] - x) + abs(p[1] - y))]
    ]
    assert sorted(exact)[len(exact) // 2] < 1.5  # px


def test_a_perfect_output_is_read_back(reader: SceneReader) -> None:
    """Decoding is the inverse of the targets."""
    batch = Shapes("test", 100).batch(range(100))
    wanted = networks.targets(batch["scene"])
    image, row, column = wanted["centre"].unbind(dim=1)
    out = {"there": (wanted["heat"].clamp(1e-4, 1 - 1e-4)).logit(), "offset": torch.zeros(100, 2, 16, 16)}
    out["offset"][image, :, row, column] = wanted["offset"]
    for name, choices in (("colour", shapes.COLOURS), ("shape", shapes.SHAPES), ("size", shapes.SIZES)):
        out[name] = torch.zeros(100, len(choices), 16, 16)
        out[name][image, wanted[name], row, column] = 1
    out["background"] = torch.nn.functional.one_hot(wanted["background"], len(shapes.BACKGROUNDS)).float()
    reader_of_truth = type("Truth", (), {"__call__": lambda self, pixels: out})()
    for one, seen in zip(batch["scene"], SceneReader._readings(reader_of_truth, batch["pixels"]), strict=True):
        assert all(judge(one.graph, seen).attributes())
        found = sorted((x, y) for _, x, y in seen.things)
        places = sorted((float(x), float(y)) for x, y, *_ in one.poses)
        assert [v for place in found for v in place] == pytest.approx([v for place in places for v in place], abs=1e-3)
    assert networks.reading_loss(out, wanted)["offset"] == 0


def test_saved_and_loaded_it_reads_the_same(reader: SceneReader, tmp_path: object) -> None:
    reader.save_pretrained(str(tmp_path))
    again = SceneReader.from_pretrained(str(tmp_path)).eval()
    pixels = Shapes("test", 20).batch(range(20))["pixels"]
    assert again.read(pixels) == reader.read(pixels)
    assert torch.equal(again.features(pixels), reader.features(pixels))
    assert reader.features(pixels).shape == (20, 16)


def test_bad_images_are_named(reader: SceneReader) -> None:
    with pytest.raises(BadInput, match="uint8"):
        reader.read(torch.zeros(1, 3, 64, 64))
    with pytest.raises(BadInput, match="64"):
        reader.read(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
