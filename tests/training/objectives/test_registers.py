"""The read-out of single tokens: what is right, by the captions themselves; and that registers learn to tell it."""

import math
import re

import pytest
import torch

from mdrepro.data import shapes
from mdrepro.models import text
from mdrepro.training.objectives.registers import KINDS, ReadOut, answers, readout_loss

COLOURS, SHAPES = "|".join(shapes.COLOURS), "|".join(shapes.SHAPES)
OBJECT = re.compile(rf"(small|little|large|big) ({COLOURS}) ({SHAPES})(s?)")


def test_answers_are_what_the_caption_says_whatever_its_wording():
    scenes = shapes.Shapes("validation", 200).scenes(range(200))
    for scene, row in zip(scenes, answers(scenes).tolist(), strict=True):
        for wording in range(3):
            said = shapes.caption(scene, wording)
            found = OBJECT.findall(said)
            background = next(word for word in re.findall(r"\w+", said) if word in shapes.BACKGROUNDS)
            assert list(shapes.BACKGROUNDS)[row[0]] == background
            count = {"two": 2, "three": 3}.get(said.split(found[0][0])[0].split()[-1], len(found))
            assert row[1] == count - 1
            told = [tuple(row[at : at + 3]) for at in (3, 6, 9)]
            named = [
                (
                    list(shapes.COLOURS).index(colour),
                    list(shapes.SHAPES).index(shape),
                    ["small", "large"].index({"little": "small", "big": "large"}.get(size, size)),
                )
                for size, colour, shape, _ in found
            ]
            if len(found) == 1:
                assert told == named * count + [(6, 4, 2)] * (3 - count)
                assert row[2] == 0
                continue
            turned = bool({"right", "below", "under"} & set(said.split()))
            assert told[:2] == (named[1::-1] if turned else named[:2])
            assert told[2] == (named[2] if len(named) > 2 else (6, 4, 2))
            assert row[2] == (1 if {"left", "right"} & set(said.split()) else 2)


def test_the_read_out_sees_its_own_register_alone():
    torch.manual_seed(0)
    readout = ReadOut(8)
    features = torch.randn(2, 10, 8)
    plain = readout(features)
    assert [one.shape[1] for one in plain] == [choices for kind in KINDS for choices in kind]
    changed = features.clone()
    changed[:, -3] += 1  # the first object's
    moved = [not torch.equal(one, other) for one, other in zip(plain, readout(changed), strict=True)]
    assert moved == [False] * 3 + [True] * 3 + [False] * 6


def test_the_loss_is_the_mean_over_all_questions():
    right = torch.tensor([[0] * 12, [1] * 12])
    sure = [torch.full((2, max(choices, 2)), -50.0) for kind in KINDS for choices in kind]
    for one in sure:
        one[0, 0] = one[1, 1] = 50.0
    assert readout_loss(sure, right) < 1e-6
    sure[4] = torch.zeros(2, 5)
    assert readout_loss(sure, right).item() == pytest.approx(math.log(5) / 12, rel=1e-5)


def test_captions_leave_room_for_the_registers():
    tokenizer = text.word_tokenizer(shapes.VOCABULARY, shapes.TOKENS)
    scenes = shapes.Shapes("train", 2000).scenes(range(2000))
    ids = text.tokenize(tokenizer, [shapes.caption(scene) for scene in scenes], shapes.TOKENS)
    assert (ids[:, -shapes.REGISTERS :] == tokenizer.eos_token_id).all()
    assert (ids[:, -shapes.REGISTERS - 1] == tokenizer.eos_token_id).all()  # the end token itself comes before them
