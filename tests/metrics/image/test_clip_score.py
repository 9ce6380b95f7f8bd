"""CLIP score under its three conventions, by hand."""

import numpy as np
import pytest
import torch

from mdrepro.core.errors import BadInput
from mdrepro.metrics.image.clip_score import SCALES, clip_score, cosines


def test_cosines_are_of_pairs_whatever_the_length():
    images = torch.tensor([[3.0, 4], [1, 0], [2, 0]])
    texts = torch.tensor([[4.0, 3], [0, 5], [-1, 0]])
    assert cosines(images, texts) == pytest.approx([24 / 25, 0, -1])
    assert cosines(10 * images, texts / 7) == pytest.approx([24 / 25, 0, -1])


def test_scales_and_clamps():
    values = np.array([0.3, -0.1, 0.1])
    assert clip_score(values).value == pytest.approx(0.1)
    assert clip_score(values, "hessel").value == pytest.approx(2.5 * 0.4 / 3)
    assert clip_score(values, "torchmetrics").value == pytest.approx(10)
    assert clip_score(-values).value == pytest.approx(-0.1)
    assert clip_score(-values, "hessel").value == pytest.approx(2.5 * 0.1 / 3)
    assert clip_score(-values, "torchmetrics").value == 0
    assert SCALES["hessel"].what == "scale 2.5, each image at 0 or more"


def test_the_interval_holds_the_mean():
    values = np.random.default_rng(0).normal(0.3, 0.05, 200)
    found = clip_score(values)
    assert found.low < found.value < found.high
    assert (found.high - found.low) == pytest.approx(2 * 1.96 * 0.05 / 200**0.5, rel=0.2)
    scaled = clip_score(values, "torchmetrics")
    assert (scaled.low, scaled.high) == pytest.approx((100 * found.low, 100 * found.high))


@pytest.mark.parametrize(
    ("images", "texts", "says"),
    [
        (np.ones((3, 2)), np.ones((2, 2)), r"\(3, 2\) and texts \(2, 2\) make no pairs"),
        (np.array([[1.0, 1], [0, 0]]), np.ones((2, 2)), "1 pairs are zero, first of pair 1"),
        (np.array([[1.0, np.nan]]), np.ones((1, 2)), "not finite"),
    ],
)
def test_what_has_no_cosine_is_refused(images, texts, says):
    with pytest.raises(BadInput, match=says):
        cosines(images, texts)


def test_unknown_scales_and_single_images_are_refused():
    with pytest.raises(BadInput, match="allowed: cosine, hessel, torchmetrics"):
        clip_score(np.ones(3), "percent")
    with pytest.raises(BadInput, match="at least 2 images, got 1"):
        clip_score(np.ones(1))
