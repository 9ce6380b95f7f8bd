"""The layout search: its sums against whole networks, and that it leads to the preset."""

import functools
import json
import random

import pytest

from mdrepro.metrics.cost.closed_form import MOBILEDIFFUSION, mobilediffusion_unet
from mdrepro.models import presets
from tools import layouts
from tools.layouts import TARGETS, conclusion, rank

search = functools.cache(lambda name: layouts.search(TARGETS[name]))


@pytest.mark.parametrize("name", TARGETS)
def test_sums_of_parts_are_the_whole_network(name):
    buildable = [layout for layout in search(name) if layout.config]
    for layout in random.Random(0).sample(buildable, 200):
        whole = mobilediffusion_unet(layout.config | {"block_out_channels": TARGETS[name].widths})
        assert (layout.params, layout.macs) == (whole.params, whole.macs)
        assert (layout.full, layout.cross_attention) == (whole.self_attention, whole.cross_attention)
        assert whole.resnets == 11


def test_the_best_candidate_is_the_preset():
    best = rank(search("mobilediffusion"), TARGETS["mobilediffusion"])[0]
    assert {name: MOBILEDIFFUSION[name] for name in best.config if name in MOBILEDIFFUSION} == best.config
    assert (round(best.params / 1e6, 2), round(best.macs / 1e9, 2)) == (385.08, 182.25)
    assert (best.full, best.cross_attention) == (15, 21)
    assert best.keeps_t2
    assert best.keeps_c1
    assert not best.literal_c1


def test_lite_s_preset_is_the_nearest_that_reads_c1_to_the_letter_and_keeps_t2():
    target, preset = TARGETS["mobilediffusion-lite"], presets.get("mobilediffusion-lite")
    good = rank(search("mobilediffusion-lite"), target)
    kept = [layout for layout in good if layout.keeps_t2 and layout.literal_c1 and layout.config]
    best = min(kept, key=lambda layout: layout.error)
    wanted = {**MOBILEDIFFUSION, **preset.config}
    assert {name: wanted[name] for name in best.config} == best.config
    assert round(best.params / 1e6, 2) == 277.23


def test_no_layout_with_the_recalled_layers_keeps_c1_and_meets_the_figures():
    target = TARGETS["mobilediffusion"]
    recalled = [layout for layout in search("mobilediffusion") if layout.has_layers(target)]
    assert recalled
    assert min(layout.error for layout in recalled if layout.keeps_c1) > 3
    meeting = [layout for layout in recalled if layout.error <= 1]
    assert meeting
    assert not any(layout.keeps_c1 for layout in meeting)
    words = conclusion(search("mobilediffusion"), target)
    assert "90 of 26208 layouts meet 386M and 182 GMAC" in words
    assert "None of them has the recalled 15 + 18 layers and keeps T2 and C1" in words


def test_a_candidate_that_meets_everything_would_be_proposed():
    target = TARGETS["mobilediffusion"]
    ours = rank(search("mobilediffusion"), target)[0]
    easier = layouts.Target(**(vars(target) | {"cross_attention": 21}))
    words = conclusion(search("mobilediffusion"), easier)
    assert f"rules T2 and C1 kept: {layouts.describe(ours)}" in words


def test_error_is_in_tolerances():
    for layout in search("mobilediffusion")[:3] + search("mobilediffusion")[-3:]:
        off = max(abs(layout.params / 386e6 - 1) / 0.01, abs(layout.macs / 182e9 - 1) / 0.02)
        assert layout.error == pytest.approx(off)


def test_printing(capsys):
    layouts.main(["--top", "2"])
    shown = capsys.readouterr().out
    assert shown.splitlines()[1].split()[:3] == ["385.08", "182.25", "0.24"]
    layouts.main(["--lite", "--top", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found["candidates"]) == 1
    assert found["candidates"][0]["error"] <= 1
