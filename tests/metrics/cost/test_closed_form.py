"""Closed forms: their layers by hand, their defaults against the classes', and no torch on the way."""

import inspect
import subprocess
import sys

import pytest

from mdrepro.core.errors import BadInput
from mdrepro.metrics.cost import closed_form
from mdrepro.metrics.cost.closed_form import Tally
from mdrepro.models import presets


def counts(tally: Tally) -> tuple[int, int, int]:
    return tally.params, tally.weights, tally.attention


def test_layers_by_hand():
    tally = Tally()
    tally.linear(3, 5, 7)
    assert counts(tally) == (3 * 5 + 5, 3 * 5 * 7, 0)
    tally = Tally()
    tally.conv(4, 6, 10)
    assert counts(tally) == (4 * 6 * 9 + 6, 4 * 6 * 9 * 10, 0)
    tally = Tally()
    tally.conv(4, 6, 10, separable=True)
    assert counts(tally) == (4 * 9 + 4 * 6 + 6, (4 * 9 + 4 * 6) * 10, 0)
    tally = Tally()
    tally.attend(8, 3, 20, 5)
    assert counts(tally) == (8 * 8 + 2 * 3 * 8 + 8 * 8 + 8, 2 * 8 * 8 * 20 + 2 * 3 * 8 * 5, 2 * 20 * 5 * 8)
    shared = Tally()
    shared.attend(8, 3, 20, 5, shared=True)
    assert (tally.params - shared.params, tally.weights - shared.weights) == (3 * 8, 3 * 8 * 5)
    assert shared.macs == shared.weights + shared.attention


def test_resnet_by_hand():
    tally = Tally()
    tally.resnet(4, 6, 9, time=5)
    weights = 9 * 4 * 6 + 9 * 6 * 6 + 4 * 6
    assert tally.params == weights + 5 * 6 + 4 * 6 + 2 * 4 + 2 * 6
    assert tally.weights == weights * 9 + 5 * 6
    same = Tally()
    same.resnet(6, 6, 9, time=0)
    assert counts(same) == (2 * 9 * 36 + 2 * 6 + 4 * 6, 2 * 9 * 36 * 9, 0)


def defaults(function) -> dict:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def test_defaults_are_the_classes_own():
    from diffusers import UNet2DConditionModel

    from mdrepro.models.mobilediffusion.unet import MobileDiffusionUNet

    for form, network in (
        (closed_form.MOBILEDIFFUSION, MobileDiffusionUNet),
        (closed_form.DIFFUSERS_UNET, UNet2DConditionModel),
    ):
        known = defaults(network.__init__)
        assert {name: known[name] for name in form} == dict(form)
    free = {
        "attention",
        "relu_scaling",
        "ffn_activation",
        "sample_size",
        "attention_head_dim",
        "norm_num_groups",
        "time_cond_proj_dim",  # None in every preset
        "self",
    }
    assert set(defaults(MobileDiffusionUNet.__init__)) == free | {"norm_num_groups", *closed_form.MOBILEDIFFUSION}


def test_every_preset_has_a_form_and_resolutions_are_checked():
    for name in presets.names():
        preset = presets.get(name)
        assert closed_form.tally(preset) == closed_form.tally(preset, preset.resolution)
    with pytest.raises(BadInput, match="a multiple of 32"):
        closed_form.tally(presets.get("mobilediffusion"), 500)


def test_counting_imports_no_torch():
    code = (
        "import sys; from mdrepro.metrics.cost.measure import calculate; from mdrepro.models import presets; "
        "import tools.layouts; "
        "from mdrepro.metrics.cost.systems import measure_system; "
        "[calculate(name) for name in presets.names()]; measure_system('sd15'); "
        "assert not {'torch', 'diffusers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
