"""FID-CLIP curves: values at a common point against curves drawn by hand and a dense walk along them, and pairing."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdrepro.core import plotting
from mdrepro.core.errors import BadInput
from mdrepro.data.shapes import Shapes, render
from mdrepro.evaluation import curves
from mdrepro.evaluation import scenes as quality
from mdrepro.evaluation.curves import Curve, Levels, common_clip, common_fid, highest_clip, lowest_fid
from mdrepro.evaluation.experiment import guidance_scales
from mdrepro.evaluation.scenes import SceneImages
from mdrepro.metrics.image import frechet
from mdrepro.metrics.image.statistics import Statistics
from mdrepro.sampling import generate
from tests.support.experiments import experiment, scored, trained

N, WIDTH, GROUPS = 60, 4, 50
SCALES = (1.0, 2.0, 5.0)


def drawn(fid: list[float], clip: list[float], spread: float = 0.0) -> Levels:
    """A curve by hand; where a group is left out, its points are moved together: ``spread`` is the standard error."""
    moved = np.concatenate([[0.0], np.random.default_rng(0).normal(0, spread / 7, GROUPS)])[None, :, None]
    scales = tuple(float(w) for w in range(1, len(fid) + 1))
    return Levels("by hand", scales, GROUPS, np.array(fid) + moved, np.array(clip) + 0.01 * moved)


def test_the_highest_clip_at_a_fid_is_read_off_the_broken_line() -> None:
    fid, clip = np.array([[5.0, 3.0, 4.0]]), np.array([[0.2, 0.3, 0.4]])
    for bound, wanted in ((6, 0.4), (4, 0.4), (3.5, 0.35), (3.25, 0.325), (3, 0.3), (2.9, -np.inf)):
        assert highest_clip(fid, clip, np.array([bound])) == pytest.approx(wanted)
    falling = np.array([[0.2, 0.4, 0.3]])  # the highest is where the first segment comes under the bound, or a corner
    assert highest_clip(np.array([[5.0, 3.0, 4.0]]), falling, np.array([3.0])) == pytest.approx(0.4)
    assert highest_clip(np.array([[3.0, 5.0, 5.5]]), falling, np.array([4.0])) == pytest.approx(0.3)


def test_the_lowest_fid_at_a_clip_is_read_off_the_broken_line() -> None:
    fid, clip = np.array([[5.0, 3.0, 4.0]]), np.array([[0.2, 0.3, 0.4]])
    for bound, wanted in ((0.1, 3), (0.3, 3), (0.35, 3.5), (0.4, 4), (0.41, np.inf)):
        assert lowest_fid(fid, clip, np.array([bound])) == pytest.approx(wanted)


def test_both_agree_with_a_dense_walk_along_any_curve() -> None:
    rng = np.random.default_rng(0)
    fid, clip = 1 + rng.random((50, 6)), 0.2 + 0.1 * rng.random((50, 6))
    share = np.linspace(0, 1, 2001)[:, None]
    for name, bound in (("fid", 1.5), ("clip", 0.25)):
        compared = {"fid": highest_clip, "clip": lowest_fid}[name](fid, clip, np.full(50, bound))
        for row in range(50):
            walk_fid, walk_clip = (np.ravel((1 - share) * v[row, :-1] + share * v[row, 1:]) for v in (fid, clip))
            wanted = (
                walk_clip[walk_fid <= bound].max(initial=-np.inf)
                if name == "fid"
                else walk_fid[walk_clip >= bound].min(initial=np.inf)
            )
            assert compared[row] == pytest.approx(wanted, abs=1e-3)


def test_the_common_points_are_a_tenth_above_and_a_hundredth_below_the_worst_best() -> None:
    one, two = drawn([3, 2, 4], [0.1, 0.2, 0.3]), drawn([6, 5, 7], [0.2, 0.35, 0.4])
    assert common_fid([one, two])[0, 0] == pytest.approx(5.5)
    assert common_clip([one, two])[0, 0] == pytest.approx(0.297)
    assert common_clip([one, drawn([1, 1], [-0.2, -0.1])])[0, 0] == pytest.approx(-0.101)


def test_a_panel_is_compared_as_the_columns_say() -> None:
    better, worse = drawn([4, 2, 3], [0.2, 0.3, 0.4]), drawn([5, 3, 4], [0.2, 0.25, 0.35])
    compared = curves.compare({"better": better, "worse": worse})
    assert compared["better"]["best_fid_shapes"].value == 2
    assert compared["worse"]["best_clip_shapes"].value == pytest.approx(0.35)
    # common FID 3.3: all of the better curve's right side, three tenths of the worse one's last segment
    assert compared["better"]["clip_at_common_fid"].value == pytest.approx(0.4)
    assert compared["worse"]["clip_at_common_fid"].value == pytest.approx(0.25 + 0.3 * 0.1)
    # common CLIP score 0.3465
    assert compared["better"]["fid_at_common_clip"].value == pytest.approx(2.465)
    assert compared["worse"]["fid_at_common_clip"].value == pytest.approx(3 + 0.965)
    assert all(one.values.shape == (1, 1 + GROUPS) for row in compared.values() for one in row.values())


def test_a_common_point_moves_with_the_captions() -> None:
    """Chance that moves the FID of all curves together hardly moves what lies at their common FID."""
    moved = drawn([40, 20, 30], [0.2, 0.3, 0.4], spread=1.0)
    one = Levels("by hand", moved.scales, GROUPS, moved.fid, np.broadcast_to(moved.clip[:, :1], moved.clip.shape))
    compared = curves.compare({"one": one, "two": one})["one"]
    assert compared["clip_at_common_fid"].value == pytest.approx(0.32)
    # the lowest FID moves as all do; what lies at the common one by the tenth of that, over a slope of 100
    best, at_common = compared["best_fid_shapes"].spread(), compared["clip_at_common_fid"].spread()
    assert best == pytest.approx(2.01, rel=0.3)
    assert at_common == pytest.approx(0.1 * best / 100, rel=1e-6)


def test_seeds_have_common_points_of_their_own() -> None:
    first, second = drawn([4, 2, 3], [0.2, 0.3, 0.4]), drawn([8, 4, 6], [0.2, 0.3, 0.4])
    both = Levels(
        "by hand",
        first.scales,
        GROUPS,
        *(np.concatenate(pair) for pair in ((first.fid, second.fid), (first.clip, second.clip))),
    )
    found = curves.compare({"one": both, "two": both})["one"]
    assert found["best_fid_shapes"].mean().by_seed == (2, 4)
    assert found["clip_at_common_fid"].mean().by_seed == pytest.approx((0.32, 0.32))
    single = curves.compare({"one": both, "two": first})["one"]
    assert single["best_fid_shapes"].mean().by_seed == (2,), "as many seeds as all curves have"


def scored_images(shift: float, clip: float, seed: int = 0) -> SceneImages:
    rng = np.random.default_rng(seed)
    features, similarity = rng.normal(size=(N, WIDTH)) + shift, clip + 0.1 * rng.normal(size=N)
    return SceneImages(f"shift {shift:g}", torch.zeros(N, 3, 1, 1, dtype=torch.uint8), [], features, similarity, 2.0)


def curve(shifts: tuple[float, ...] = (1, 0, 2), clips: tuple[float, ...] = (0.2, 0.3, 0.4), seed: int = 0) -> Curve:
    points = tuple((scored_images(shift, clip, seed),) for shift, clip in zip(shifts, clips, strict=True))
    return Curve("a network", SCALES, points)


RENDERS = np.random.default_rng(9).normal(size=(N, WIDTH))
ON_RENDERS = scored(
    scenes=Shapes("test", N).scenes(range(N)),
    renders=SceneImages("", torch.zeros(0), [], RENDERS, RENDERS),
)


def test_levels_are_distances_and_means_as_measured_and_without_the_same_groups() -> None:
    made = curves.levels({"a": curve(), "b": curve()}, ON_RENDERS)
    assert made["a"].fid.shape == made["a"].clip.shape == (1, 1 + GROUPS, 3)
    for index, (point,) in enumerate(curve().points):
        biased = frechet.distance(Statistics.of(RENDERS), Statistics.of(point.features)).value
        assert made["a"].fid[0, 0, index] == pytest.approx(biased, abs=0.5)
        assert made["a"].fid[0, 0, index] < biased
        assert made["a"].clip[0, 0, index] == pytest.approx(point.similarity.mean())
    assert np.array_equal(made["a"].fid, made["b"].fid)
    # all points hold the same noise, so captions that are left out move all of them by the same
    np.testing.assert_allclose(made["a"].clip[..., 0] + 0.1, made["a"].clip[..., 1])
    few = Curve(
        "few",
        SCALES,
        tuple((SceneImages("", p.images, [], p.features[:50], p.similarity[:50], 1),) for (p,) in curve().points),
    )
    with pytest.raises(BadInput, match=r"curves of \[50, 60\] captions: expected 60"):
        curves.levels({"a": curve(), "b": few}, ON_RENDERS)


def test_rows_name_the_curves_that_share_a_common_point() -> None:
    made = curves.levels({"a": curve(), "b": curve((2, 1, 3), seed=1)}, ON_RENDERS)
    controls = {"a/best_fid_shapes_ratio": "b", "b/best_clip_shapes_ratio": "c"}
    rows = curves.rows(made, scored(), controls)
    wanted = [(row, column) for row in "ab" for column in curves.COLUMNS]
    assert [(row.row, row.column) for row in rows] == [wanted[0], ("a", "best_fid_shapes_ratio"), *wanted[1:]]
    cells = {(row.row, row.column): row for row in rows}
    assert all(row.ci_low <= row.value <= row.ci_high for row in rows)
    common = f"{common_fid(made.values())[0, 0]:.4g}, common to a, b"
    assert common in cells["a", "clip_at_common_fid"].protocol
    assert "guidance 1, 2, 5" in cells["b", "best_fid_shapes"].protocol
    assert cells["a", "best_fid_shapes"].value == pytest.approx(made["a"].fid[0, 0].min())
    share = cells["a", "best_fid_shapes_ratio"]
    assert share.value == pytest.approx(made["a"].fid[0, 0].min() / made["b"].fid[0, 0].min())
    assert "over that of row b" in share.protocol


def test_a_ratio_is_drawn_in_pairs() -> None:
    """What chance does to both curves alike is in neither's ratio: one is always three quarters of the other."""
    one = drawn([40, 20, 30], [0.2, 0.3, 0.4], spread=2.0)
    other = Levels("", one.scales, GROUPS, one.fid / 0.75, one.clip)
    cells = curves.rows({"one": one, "other": other}, scored(), {"one/best_fid_shapes_ratio": "other"})
    alone, share = (next(c for c in cells if c.column == name) for name in ("best_fid_shapes", "best_fid_shapes_ratio"))
    assert alone.ci_high - alone.ci_low > 5
    assert (share.ci_low, share.value, share.ci_high) == pytest.approx((0.75, 0.75, 0.75))


def test_a_curve_rises_and_knows_its_points() -> None:
    assert curve().point(2.0)[0].description == "shift 0"
    with pytest.raises(BadInput, match="guidance 3 is no point of this curve: expected one of 1, 2, 5"):
        curve().point(3.0)
    for scales in ((1.0, 5.0, 2.0), (1.0, 2.0, 2.0), (1.0, 2.0)):
        with pytest.raises(BadInput, match="each larger than the one before"):
            Curve("x", scales, curve().points)
    assert guidance_scales(["1.5", "2", "8"]) == (1.5, 2.0, 8.0)
    for words in (["1", "x"], ["0.5", "2"], ["nan", "1"], ["1", "inf"]):
        with pytest.raises(BadInput, match="must be numbers from 1"):
            guidance_scales(words)


def test_all_points_of_a_curve_begin_with_the_same_noise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []

    def images(pipeline: Any, prompts: Any, **options: Any) -> torch.Tensor:
        calls.append({"pipeline": pipeline, "prompts": list(prompts), **options})
        return render(scenes)

    scenes = Shapes("test", 2).scenes(range(2))
    monkeypatch.setattr(quality, "reference", lambda scorers, skip: Statistics.of(np.ones((9, 8))))
    monkeypatch.setattr(generate, "images", images)
    trained(monkeypatch, tmp_path)
    made = experiment("snapfusion-distillation-ablations", scales=["1", "3"])
    traced = made.curves(made.evaluation("shapes", 2), seed=7)
    curve = traced["fig6a-direct"]
    assert traced["fig6b-ours-8"] is curve, "rows of one network share its curve"
    assert len(calls) == 2 * len({setup.recipe for setup in made.setups.values()})
    assert (curve.scales, len(curve.points)) == ((1.0, 3.0), 2)
    assert curve.description == "shapes-4-direct, 4 steps of ddim, seed 7"
    assert [(one.pop("guidance"), one["seed"], one["steps"], one["sampler"]) for one in calls[:2]] == [
        (1.0, 7, 4, "ddim"),
        (3.0, 7, 4, "ddim"),
    ]
    assert calls[0] == calls[1]


def test_a_panel_names_its_distance_as_the_tables_do_and_marks_fewer_seeds() -> None:
    fids = {"fig6a-direct": [3.0, 2.0, 2.5], "fig6a-progressive": [3.05, 2.02, 2.55]}
    panel = {row: replace(drawn(fid, [0.2, 0.3, 0.4]), column="distance_shapes") for row, fid in fids.items()}
    three = panel["fig6a-direct"]
    panel["fig6a-direct"] = replace(three, fid=np.repeat(three.fid, 3, axis=0), clip=np.repeat(three.clip, 3, axis=0))
    names = {"fig6a-direct": "16 to 8 steps", "fig6a-progressive": "a chain"}
    with plotting.figure(size=(4, 3.5)) as (figure, (axis,)):
        curves.draw(axis, panel, "Fig. 6a", names=names)
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in axis.texts]
    assert axis.get_ylabel() == "Paired distance[shapes], lower is better"
    assert axis.get_xlabel() == "CLIP score[shapes], higher is better"
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["16 to 8 steps", "a chain (1 training seed)"]
    assert [line.get_linestyle() for line in axis.lines] == ["-", "--"]
    assert [text.get_text() for text in axis.texts] == ["1", "3", "1", "3"]
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    with plotting.figure(size=(4, 3.5)) as (_, (axis,)):
        curves.draw(axis, {"a": replace(three, column="fid"), "b": replace(three, column="fid")}, "Fig. 4", "")
    assert axis.get_ylabel() == "FID, lower is better"
