"""Table of robust training and evolution: which blocks go, what remains, latencies by hand, the log as a picture."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mdrepro.evaluation import networks
from mdrepro.evaluation.experiment import Experiment
from mdrepro.evaluation.rows import Row
from mdrepro.metrics.cost.block_latency import BlockTiming, Host, LatencyTable
from mdrepro.models import text
from mdrepro.models.snapfusion.evolvable import EvolvableUNet
from mdrepro.papers import ledger
from mdrepro.reproduce.tables import evolution as table
from mdrepro.reproduce.workflow.record import complete
from mdrepro.training.evolution.action_log import LATENCY, Candidate, Round
from mdrepro.training.recipes import registry
from tests.support.experiments import experiment, scored, trained
from tests.support.tiny_evolution import timing

NAME = "snapfusion-evolution"
DOWN = [f"down-{stage} cross-attention {index}" for stage in (1, 2) for index in (0, 1)]
LAST = [("down-1", 1), ("down-2", 1), ("up-1", 2), ("up-2", 2)]


def small() -> EvolvableUNet:
    """As shapes-sd, narrower."""
    torch.manual_seed(0)
    network = {k: v for k, v in registry.get("shapes-sd").network.items() if k != "class"}
    return EvolvableUNet(**{**network, "block_out_channels": (8, 16, 16), "cross_attention_dim": 32}).eval()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Experiment:
    """The rows at the quick tier, by networks as shapes-sd."""
    tokenizer = text.word_tokenizer(["a"], 5)
    encoder = text.small_encoder(tokenizer, width=32, layers=1, heads=2)
    trained(monkeypatch, tmp_path, lambda _: SimpleNamespace(unet=small(), tokenizer=tokenizer, text_encoder=encoder))
    return experiment(NAME)


def test_the_blocks_that_go_are_the_ones_named() -> None:
    removals = [remove(small().layout) for remove in networks.REMOVALS.values()]
    last = [[f"{stage} {kind} {index}" for stage, index in LAST] for kind in ("cross-attention", "resnet")]
    assert removals == [[], DOWN, *last]


@torch.no_grad()
def test_removed_is_what_skipped_computes_and_rows_begin_with_their_own_network(made: Experiment) -> None:
    rng = torch.Generator().manual_seed(1)
    x, words = torch.randn(2, 8, 8, 8, generator=rng), torch.randn(2, 5, 32, generator=rng)
    whole = small()
    for row, names in (
        ("standard", []),
        ("standard-without-down-cross-attention", DOWN),
        ("robust-without-down-cross-attention", DOWN),
        ("robust-without-cross-attention", [f"{stage} cross-attention {index}" for stage, index in LAST]),
        ("robust-without-resnets", [f"{stage} resnet {index}" for stage, index in LAST]),
    ):
        with whole.skipping(names):
            wanted = whole(x, 500, words).sample
        assert torch.equal(made.pipeline(row).unet(x, 500, words).sample, wanted), row
    recipe_of = {row: setup.recipe for row, setup in made.setups.items()}
    assert recipe_of["standard-without-down-cross-attention"] == recipe_of["standard"] == "shapes-sd"
    assert {recipe_of[row] for row in recipe_of if row.startswith("robust")} == {"shapes-robust"}
    assert (recipe_of["evolved"], recipe_of["evolved-without-robust"]) == ("shapes-snap", "shapes-snap-standard")


def test_without_robust_training_as_many_steps_and_nothing_left_out() -> None:
    robust, evolved, plain, snap, snap_plain = (
        registry.get(name)
        for name in (
            "shapes-robust",
            "shapes-evolved",
            "shapes-evolved-standard",
            "shapes-snap",
            "shapes-snap-standard",
        )
    )
    rounds = evolved.options["rounds"]
    assert plain.options == {**evolved.options, "skip_probability": 0.0}
    assert rounds * plain.loop.steps == pytest.approx(robust.loop.steps + rounds * evolved.loop.steps, rel=0.03)
    assert plain.parents == {**evolved.parents, "unet": "shapes-sd"}
    assert (snap.loop, snap.options, snap.data) == (snap_plain.loop, snap_plain.options, snap_plain.data)
    assert snap_plain.parents["unet"] == plain.name


def latency_table(ms: dict[str, float]) -> LatencyTable:
    """Of `small`: a millisecond a block but for ``ms``, a tenth a shortcut, 3 for the rest."""
    entries = []
    for block in small().layout.blocks():
        entries.append(BlockTiming(**vars(block), timing=timing(ms.get(block.name, 1.0))))
        if block.leaves_shortcut:
            entries.append(BlockTiming(**vars(replace(block, kind="shortcut")), timing=timing(0.1)))
    host = Host(machine="none", cores=1, threads=1, device="cpu", torch="2", load_before=None)
    of_inputs: dict[str, Any] = {"batch": 2, "height": 8, "width": 8, "tokens": 5, "dtype": "float32"}
    parts = {"conv_in": timing(3)}
    return LatencyTable(host=host, **of_inputs, blocks=tuple(entries), fixed=parts, whole=timing(1), ratio=1, seconds=1)


def test_rows_are_the_declared_ones(made: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    latency_table({DOWN[0]: 20.0, "up-2 resnet 2": 7.0}).save(table.run_of(made, table.EVOLVED).folder / LATENCY)
    quality = [
        Row(row, column, 0.5, "")
        for row in [*made.setups, "real"]
        for column in ("fid_shapes", "clip_shapes", "attribute_accuracy", "scene_accuracy")
    ]
    asked = []
    monkeypatch.setattr(table.estimators, "rows", lambda spec, *_: asked.append(spec.id) or quality)
    cells = complete(ledger.find(NAME), table.rows(made, dict.fromkeys(made.setups, None), scored()))  # type: ignore[arg-type]
    of = {(cell.row, cell.column): cell.value for cell in cells}
    blocks = len(small().layout.blocks())
    assert of["standard", "latency_ms"] == pytest.approx(3 + (blocks - 2) + 27)
    assert of["standard-without-down-cross-attention", "latency_ms"] == pytest.approx(3 + (blocks - 5) + 7)
    shortcuts = 2 * 0.1  # of the ResNets on the way up
    assert of["robust-without-resnets", "latency_ms"] == pytest.approx(3 + (blocks - 5) + 20 + shortcuts)
    assert of["robust", "macs"] == of["standard", "macs"] > of["robust-without-cross-attention", "macs"]
    assert of["standard-without-down-cross-attention", "macs"] == of["robust-without-down-cross-attention", "macs"]
    assert of["robust-recipe", "skip_probability"] == registry.get("shapes-robust").options["skip_probability"] > 0
    assert of["robust-recipe", "iterations"] == registry.get("shapes-robust").loop.steps
    assert of["action", "captions"] == 256
    assert asked == [NAME]
    pairs = {key.partition("/")[0]: other for key, other in ledger.find(NAME).controls.items()}
    assert pairs["evolved"] == "evolved-without-robust"
    assert all(made.setups[one].removed == made.setups[other].removed for one, other in pairs.items())


def entry(number: int, scores: dict[str, float | None], actions: tuple[str, ...]) -> Round:
    candidates = tuple(
        Candidate(name, -1.0, 0.1, 0.0 if score is None else 1.0, score) for name, score in scores.items()
    )
    return Round(number, actions, 20.0, 30.0, 25.0, -0.5, -0.6, candidates, {"down-1 resnet": len(scores)})


A, B, C = "up-1 resnet 0", "down-2 cross-attention 10", "down-2 cross-attention 2"
LOGS = {
    "one": [
        entry(1, {A: 2.0, B: -1.0, C: None}, (f"remove {B}", f"duplicate {A}")),
        entry(2, {A: 1.0, "up-1 resnet 1": 3.0, C: 0.5}, ()),
    ],
    "two": [entry(1, {A: 0.25, B: 0.1, C: 0.2}, (f"remove {A}",))],
}


def test_the_log_is_drawn_block_by_round() -> None:
    figure = table.log_figure(LOGS)
    one, two = figure.axes[:2]
    names = [label.get_text() for label in one.get_yticklabels()]
    assert names == [C, B, A, "up-1 resnet 1"]  # by number, not by letter
    grid = np.asarray(one.images[0].get_array().filled(np.nan))
    wanted = [[math.nan, 0.5], [-1.0, math.nan], [2.0, 1.0], [math.nan, 3.0]]
    np.testing.assert_allclose(grid, wanted)
    marks = {(mark.get_text(), *mark.get_position()) for mark in one.texts}
    assert marks == {("−", 0, 1), ("+", 0, 2)}
    assert {(mark.get_text(), *mark.get_position()) for mark in two.texts} == {("−", 0, 2)}
    assert one.images[0].norm.vmax == two.images[0].norm.vmax == 3.0


@pytest.mark.parametrize("scale", [1.0, 1e-3, 3e4])
def test_ticks_of_the_colour_bar_do_not_meet(scale: float) -> None:
    scores = {A: 2e-4 * scale, B: -2.0 * scale, C: 1e-4 * scale, "up-1 resnet 1": 1e-5 * scale}
    figure = table.log_figure({"one": [entry(1, scores, ())]})
    figure.canvas.draw()
    bar = figure.axes[-1]
    boxes = [label.get_window_extent() for label in bar.get_yticklabels()]
    assert len(boxes) >= 3
    assert not [pair for pair in itertools.pairwise(boxes) if pair[0].overlaps(pair[1])]
    assert not bar.yaxis.get_minorticklocs().size


def test_the_log_is_told_round_by_round() -> None:
    told = table.log_table(LOGS["one"])
    assert list(told.index) == [1, 2]
    assert told.loc[1, "actions"] == f"remove {B}; duplicate {A}"
    assert told.loc[2, "actions"] == "none"
    assert told.loc[1, "loss"] == "0.5000 → 0.6000"
    assert told.loc[1, "latency (ms)"] == "30.0 → 25.0"


def test_every_row_is_measured_or_read_from_a_recipe(made: Experiment) -> None:
    assert {*made.setups, "action", "robust-recipe", "block-latencies", "real", "autoencoder"} == set(
        ledger.find(NAME).rows
    )
