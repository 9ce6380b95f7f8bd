"""The playground's widgets: what they draw, and what they say where they cannot."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mdrepro.core.errors import BadInput
from mdrepro.data.shapes import Shapes
from mdrepro.reproduce import playground


@pytest.fixture(scope="module")
def board() -> playground.Playground:
    made = playground.Playground(["shapes-base"], caption="a large red star on a white background")
    made.steps.value, made.count.value = 4, 3
    return made


def test_a_picture_shows_the_images_at_twice_their_size(board: playground.Playground) -> None:
    picture = np.asarray(Image.open(io.BytesIO(board.picture.value)))
    assert picture.shape == (128, 3 * 2 * 66, 3)
    images = board.images()
    for i in range(3):
        shown = picture[::2, 2 * 66 * i : 2 * (66 * i + 64) : 2]
        assert np.array_equal(shown, images[i].permute(1, 2, 0).numpy())


def test_an_image_hangs_on_its_seed_and_place_not_on_how_many_there_are(board: playground.Playground) -> None:
    three = board.images()
    board.count.value = 1
    assert (board.images()[0].int() - three[0].int()).abs().max() <= 1
    board.count.value, board.seed.value = 3, 5
    assert (board.images()[0].int() - three[0].int()).abs().max() > 20
    board.seed.value = 0


def test_each_change_draws_once(board: playground.Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(playground.Playground, "draw", lambda self: drawn.append(self.steps.value))
    board.guidance.value = 5.0
    board._begin()  # as a new model does: steps and guidance change, and there is one picture
    assert drawn == [4, 50]
    assert board.guidance.value == 3.0
    monkeypatch.undo()
    board.steps.value = 4


def test_what_is_read_is_told_beneath(board: playground.Playground) -> None:
    assert board.message.value.count("as the reader sees it") == 3
    assert "ms per image" in board.message.value


def test_a_refused_caption_leaves_no_picture_of_the_one_before(board: playground.Playground) -> None:
    before = board.caption.value
    board.caption.value = "a <mauve> star, please"
    assert "never learned: mauve, please" in board.message.value
    assert "a &lt;<mark>mauve</mark>&gt; star, <mark>please</mark>" in board.message.value
    assert "<mauve>" not in board.message.value
    assert (board.picture.value, board.picture.layout.display) == (b"", "none")
    board.caption.value = " , "
    assert "the caption has no words" in board.message.value
    board.caption.value = before
    assert Image.open(io.BytesIO(board.picture.value)).height == 128
    assert board.picture.layout.display is None


def test_words_of_real_captions_are_known() -> None:
    captions = Shapes("validation", 50).batch(range(50))["caption"]
    assert not [word for text in captions for word in playground.unknown_words(text)]
    assert playground.unknown_words("A Red, red teapot") == ["teapot"]


def test_no_recipe_is_refused() -> None:
    with pytest.raises(BadInput, match="no recipe"):
        playground.Playground([])


def test_images_are_parted_by_white() -> None:
    board = np.asarray(Image.open(io.BytesIO(playground.png(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)))))
    assert (board[:, 128:132] == 255).all()
    assert (board[:, :128] == 0).all()
