"""Whole systems: the sum of their parts, each as often as it runs."""

import pytest

from mdrepro.core.errors import BadInput
from mdrepro.metrics.cost.measure import calculate
from mdrepro.metrics.cost.systems import measure_system
from mdrepro.models import presets, systems


@pytest.mark.parametrize(
    ("name", "plans"),
    [
        ("sd15", [(50, 2)]),
        ("snapfusion", [(8, 2)]),
        ("mobilediffusion", [(8, 2), (1, 1)]),
        ("mobilediffusion-lite", [(1, 1)]),
    ],
)
def test_the_published_schedules(name, plans):
    assert [(each.schedule.steps, each.schedule.branches) for each in measure_system(name)] == plans


def test_mobilediffusion_has_520_million_parameters_and_sums_by_hand():
    eight, one = measure_system("mobilediffusion")
    assert eight.params == one.params == pytest.approx(520e6, rel=0.01)
    assert one.params == 123_060_480 + 385_075_528 + 9_664_587
    encoder, unet, decoder = 6_649_251_840, 182_249_160_704, 256_079_298_560
    assert one.macs == encoder + unet + decoder
    assert eight.macs == 2 * encoder + 16 * unet + decoder
    given = eight.as_dict()
    assert given["flops"] == 2 * given["macs"]
    assert [part["runs"] for part in given["parts"]] == [2, 16, 1]
    without = [part["macs_without_attention"] for part in given["parts"]]
    assert given["macs_without_attention"] == 2 * without[0] + 16 * without[1] + without[2]


def test_every_system_is_made_of_presets_that_fit_together():
    for system in systems.whole().values():
        encoder, denoiser, decoder = (presets.get(part) for part in system.parts)
        assert (encoder.kind, denoiser.kind, decoder.kind) == ("text encoder", "denoiser", "decoder")
        assert denoiser.context_width == encoder.context_width
        assert denoiser.latent_channels == decoder.latent_channels
        assert all(plan.source and plan.branches in (1, 2) for plan in system.schedules)
        assert calculate(system.name).resolution == system.resolution


def test_an_unknown_system_names_all():
    with pytest.raises(BadInput, match="did you mean snapfusion"):
        measure_system("snap-fusion")
