"""The common style of figures: labels that do not meet, closed figures, SVGs with the same bytes, grids of images."""

import itertools
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.text import Text

from mdrepro.core import plotting

matplotlib.use("Agg")


def scattered() -> tuple[Axes, list[tuple[float, float]]]:
    points = [(1.0, 1.0), (1.02, 1.0), (1.0, 1.02), (1.04, 1.03), (3.0, 2.0)]
    with plotting.figure(size=(6, 4)) as (_, (axis,)):
        axis.plot(*zip(*points, strict=True), "o", label="points")
        axis.margins(0.3)
        axis.legend(loc="upper left")
        plotting.label_points(axis, [(f"network {i}", point, "black") for i, point in enumerate(points)])
    return axis, points


def test_labels_meet_neither_each_other_nor_points_nor_the_legend():
    axis, points = scattered()
    axis.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert len(boxes) == len(points)
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert not [at for at in axis.transData.transform(points) for box in boxes if box.contains(*at)]
    assert not [box for box in boxes if box.overlaps(axis.get_legend().get_window_extent())]


def test_names_in_a_crowd_meet_nothing_and_stay_inside():
    points = [(1 + 0.004 * i, 1 + 0.003 * (i % 3)) for i in range(10)]
    with plotting.figure(size=(6, 4)) as (drawn, (axis,)):
        axis.plot(*zip(*points, (0, 0), (2, 2), strict=True), "o")
        labels = [(f"network {i}", point, "black") for i, point in enumerate(points)]
        plotting.label_points(axis, labels, avoid=[(0, 0), (2, 2)], fontsize=7)
        drawn.canvas.draw()
        boxes = [Text.get_window_extent(text) for text in axis.texts]
        assert [text.get_text() for text in axis.texts] == [name for name, *_ in labels]
        assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
        assert all(axis.bbox.contains(box.x0, box.y0) and axis.bbox.contains(box.x1, box.y1) for box in boxes)
        far = [text for text in axis.texts if np.hypot(*text.get_position()) >= plotting.FAR]
        assert far
        assert all((text.arrow_patch is not None) == (text in far) for text in axis.texts)


def test_figures_are_closed_also_after_an_error():
    before = plt.get_fignums()
    scattered()
    with pytest.raises(KeyError), plotting.figure(size=(2, 2)):
        raise KeyError
    assert plt.get_fignums() == before


def test_the_same_figure_is_the_same_svg(tmp_path: Path):
    files = [plotting.save(scattered()[0].figure, tmp_path / name) for name in ("one", "two.0")]
    assert [path.name for path in files[1]] == ["two.0.png", "two.0.svg"]
    assert files[0][1].read_bytes() == files[1][1].read_bytes()


def test_an_estimate_has_the_ends_that_it_was_given():
    with plotting.figure(size=(2, 2)) as (_, (axis,)):
        plotting.estimate(axis, 3.0, (2.0, 1.5, 4.0), colour="black", along="x")
        plotting.estimate(axis, 4.0, (2.0, None, None), colour="black")
        plotting.estimate(axis, 5.0, (None, None, None), colour="black")
    (bar,) = axis.collections
    np.testing.assert_allclose(bar.get_segments(), [[[1.5, 3.0], [4.0, 3.0]]])
    assert len(axis.containers) == 2


def test_a_hollow_estimate_has_a_white_face():
    with plotting.figure(size=(2, 2)) as (_, (axis,)):
        for place, hollow in enumerate((False, True)):
            plotting.estimate(axis, place, (2.0, 1.5, 4.0), colour="black", hollow=hollow)
    faces = [container[0].get_markerfacecolor() for container in axis.containers]
    assert faces == ["black", "white"]


def test_a_grid_shows_each_image_at_its_row_and_caption():
    images = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 4, 3)
    rows = {"a": images[0], "b": images[1]}
    drawn = plotting.image_grid(rows, ["x", "costs $5", "z"], {"a": [True, False, False], "b": [False] * 3})
    for place, axis in enumerate(drawn.axes):
        np.testing.assert_array_equal(axis.images[0].get_array(), images[place // 3, place % 3])
    assert [axis.get_title() for axis in drawn.axes] == ["x", "costs \\$5", "z", "", "", ""]
    assert [axis.spines["left"].get_visible() for axis in drawn.axes] == [True] + 5 * [False]
    assert drawn.axes[3].get_ylabel() == "b"
