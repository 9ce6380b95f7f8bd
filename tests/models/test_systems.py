"""One registry: every list of published networks follows from its rows, and a new row is in all of them."""

import json
from typing import Any

import pytest
import torch

from mdrepro.core.errors import BadInput
from mdrepro.export import components
from mdrepro.metrics.cost.systems import measure_system
from mdrepro.models import autoencoders, presets, systems
from mdrepro.models.mobilediffusion import vae
from mdrepro.reproduce.tables import host_latency
from mdrepro.reproduce.tables.host_latency import Image
from mdrepro.reproduce.workflow.exported import Piece

torch.set_num_threads(1)

# What users type today, written out by hand.
WHOLE = ["sd15", "snapfusion", "mobilediffusion", "mobilediffusion-lite"]
EXPORTS = {
    "text-encoder": ("sd15", "text-encoder"),
    "mobilediffusion": ("mobilediffusion", "unet"),
    "mobilediffusion-lite": ("mobilediffusion-lite", "unet"),
    "snapfusion": ("snapfusion", "unet"),
    "sd15": ("sd15", "unet"),
    "mobilediffusion-decoder": ("mobilediffusion", "decoder"),
    "mobilediffusion-decoder-lite": ("mobilediffusion-lite", "decoder"),
    "snapfusion-decoder": ("snapfusion", "decoder"),
    "sd-decoder": ("sd15", "decoder"),
}


def test_the_names_that_users_type() -> None:
    assert list(systems.whole()) == WHOLE
    assert systems.exports() == EXPORTS
    assert sorted(systems.autoencoders()) == ["mobilediffusion", "mobilediffusion-lite", "sd", "snapfusion"]
    assert sorted(vae.FAMILY) == ["ours", "ours-lite", "sd"]


def test_every_export_is_a_preset_of_that_component() -> None:
    kinds = {"text-encoder": "text encoder", "unet": "denoiser", "decoder": "decoder"}
    for network, (model, component) in systems.exports().items():
        assert model in systems.whole()
        assert kinds[component] == presets.get(network).kind
    assert {component for _, component in systems.exports().values()} == set(components.COMPONENTS)


@pytest.mark.parametrize("name", ["sd", "snapfusion", "mobilediffusion", "mobilediffusion-lite"])
def test_a_decoder_alone_is_that_of_its_autoencoder(name: str) -> None:
    with torch.device("meta"):
        whole = autoencoders.build(name).state_dict()
        alone = presets.build(systems.autoencoders()[name].decoder).state_dict()
    inside = {key: value.shape for key, value in whole.items() if key.startswith(("decoder.", "post_quant_conv."))}
    assert {key: value.shape for key, value in alone.items()} == inside


def test_a_new_row_is_in_every_list(monkeypatch: pytest.MonkeyPatch, cli_run: Any) -> None:
    half = systems.Autoencoder(
        name="half", decoder="half-decoder", title="Half", source="a test", layout=systems.DecoderLayout(4, 2, 0.5)
    )
    row = systems.System(
        name="small",
        title="Small",
        source="a test",
        config={"layers_per_block": 1, "block_out_channels": (64, 64, 64, 64), "attention_head_dim": 8},
        autoencoder=half,
        schedules=(systems.Schedule(steps=4, branches=2, guidance=3.0, source="a test"),),
    )
    monkeypatch.setitem(systems.SYSTEMS, "small", row)
    assert "small" in presets.names("denoiser")
    assert "half-decoder" in presets.names("decoder")
    with torch.device("meta"):
        assert autoencoders.build("half").config.latent_channels == 4

    (cost,) = measure_system("small")
    assert [part.model for part in cost.parts] == ["text-encoder", "small", "half-decoder"]
    assert cost.runs == (2, 8, 1)
    code, out, _ = cli_run("cost", "--system", "small", "--json")
    assert code == 0
    assert json.loads(out)[0]["macs"] == cost.macs

    model = components.find("small", resolution=64)
    assert model.guidance == 3.0
    unet = model.component("unet")
    assert unet.draw(0)["sample"].shape == (2, 4, 8, 8)
    assert unet.reference(0).shape == (2, 4, 8, 8)
    assert unet.parameters == cost.parts[1].params

    assert host_latency.select(["small", "half-decoder"]) == ["small", "half-decoder"]
    assert (Piece("small", 2).component, Piece("half-decoder").model) == ("unet", "small")
    image = Image.of_system("small", 4)
    assert image.counts() == {"text-encoder": 2, "small": 8, "half-decoder": 1}
    assert image.title == "Small, 4 steps"


def test_what_is_not_published_is_refused() -> None:
    with pytest.raises(BadInput, match="mobilediffusion is not published at 4 steps: expected 8, 1"):
        Image.of_system("mobilediffusion", 4)
    with pytest.raises(BadInput, match="allowed: sd15"):
        systems.get("sdxl")  # its text encoders and autoencoder are not here
