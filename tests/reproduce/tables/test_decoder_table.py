"""Table of the half-width decoder: latents as `generate` makes them, sizes by the closed form, PSNR by scikit-image."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from mdrepro.core.errors import BadInput
from mdrepro.core.paths import root
from mdrepro.data.shapes import Shapes, render
from mdrepro.evaluation import networks
from mdrepro.evaluation import scenes as quality
from mdrepro.evaluation.scenes import SceneImages, Scenes
from mdrepro.metrics.cost import closed_form
from mdrepro.metrics.image.scenes import Judgement
from mdrepro.metrics.image.statistics import Statistics
from mdrepro.models.mobilediffusion import vae
from mdrepro.models.scenes.clip import SceneClip
from mdrepro.models.scenes.reader import SceneReader
from mdrepro.papers import ledger
from mdrepro.reproduce.tables import decoder as table
from mdrepro.reproduce.workflow.parameters import declared
from mdrepro.reproduce.workflow.record import complete
from mdrepro.sampling import generate
from mdrepro.training.objectives.synthetic import pruned
from mdrepro.training.recipes import registry
from mdrepro.training.runs import loaded
from tests.support import tiny_pipeline as tiny
from tests.support.experiments import TinyRun, experiment, scored, trained

NAME = "snapfusion-decoder"
N = 24


@pytest.fixture(scope="module")
def decoders() -> dict[str, Any]:
    torch.manual_seed(1)
    original = vae.build("ours", 16).eval()
    return {"original": original, "half-width": pruned(original, share=0.5).eval()}


def test_latents_are_those_that_images_are_made_of() -> None:
    pipe, scenes = tiny.pipeline(), Shapes("test", 5).scenes(range(5))
    made = {
        w: networks.latents(pipe, quality.prompts(scenes), steps=2, guidance=w, seed=7, batch=2) for w in (2.0, 4.0)
    }
    assert pipe.scheduler.config.timestep_spacing == "trailing"
    for w in made:
        wanted = generate.images(
            tiny.pipeline(), quality.prompts(scenes), steps=2, guidance=w, sampler="ddim", seed=7, batch=2
        )
        assert torch.equal(quality.decode(pipe.vae, made[w], batch=2), wanted)
    assert not torch.equal(made[2.0], made[4.0])


@pytest.mark.parametrize("sampler", ["euler", None])
def test_latents_are_of_the_named_sampler(sampler: str | None) -> None:
    short: dict[str, Any] = {"steps": 2, "guidance": 2.0, "sampler": sampler, "seed": 7}
    pipe = tiny.pipeline()
    made = networks.latents(pipe, tiny.PROMPTS[:2], **short)
    assert torch.equal(quality.decode(pipe.vae, made), generate.images(tiny.pipeline(), tiny.PROMPTS[:2], **short))


def test_rows_that_share_latents_have_one_sampler_and_differ_in_their_decoder_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    samplers = []

    def latents(*_: Any, sampler: str, **__: Any) -> Tensor:
        samplers.append(sampler)
        return torch.zeros(3, 8, 8, 8)

    monkeypatch.setattr(networks, "latents", latents)
    trained(monkeypatch, tmp_path)
    made = experiment(NAME, steps=9)
    monkeypatch.setattr(quality, "reference", lambda scorers, skip: Statistics())
    evaluation = made.evaluation("shapes", 3)
    made.setups = {row: replace(setup, sampler="euler") for row, setup in made.setups.items()}
    made.decoded(evaluation, seed=4, guidance=3.0)
    assert samplers == ["euler"] * made.seeds  # once for both rows
    for change in ({"sampler": "ddim"}, {"steps": 8}, {"removed": list(networks.REMOVALS)[1]}):
        last = made.setups["half-width"]
        made.setups["half-width"] = replace(last, **change)
        with pytest.raises(BadInput, match="original, half-width share latents: expected to differ in their"):
            made.decoded(evaluation, seed=4, guidance=3.0)
        made.setups["half-width"] = last


def test_half_of_the_width_is_the_recipe_and_a_quarter_of_the_parameters(decoders: dict[str, Any]) -> None:
    assert registry.get("shapes-decoder-half").network == {"share": 0.5}
    assert registry.get("shapes-vae").network == {"row": "ours", "width": 16}
    for row, width in (("original", 16), ("half-width", 8)):
        counted = closed_form.kl_decoder({"width": width, "resnets": 2, "latent_channels": 8})
        squeeze = 8 * 8 + 8  # the 1 x 1 convolution on the latent, which `decoder_parameters` leaves out
        assert vae.decoder_parameters(decoders[row]) == counted.params - squeeze


def test_both_decoders_get_the_same_latents(
    decoders: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scenes = Shapes("test", 3).scenes(range(3))
    latent = torch.randn(3, 8, 8, 8, generator=torch.Generator().manual_seed(2))
    given = {3.0: latent, 5.0: -latent}
    monkeypatch.setattr(networks, "latents", lambda *_, guidance, **__: given[guidance])
    trained(monkeypatch, tmp_path)
    made = experiment(NAME, steps=9)
    by_recipe = {made.setups[row].decoder: decoder for row, decoder in decoders.items()}
    monkeypatch.setattr(
        TinyRun,
        "load",
        lambda run, part: loaded.noted(by_recipe[run.recipe.name] if part == "vae" else scorer(part), run),
    )
    monkeypatch.setattr(quality, "reference", lambda scorers, skip: Statistics())
    measured = table.measure(made, made.evaluation("shapes", 3), [3.0, 5.0, 3.0], seed=4)
    assert list(measured) == [3.0, 5.0]
    assert list(measured[3.0]) == ["original", "half-width", "real", "autoencoder", "half-resolution"]
    with torch.no_grad():
        half = decoders["half-width"].decode(-latent / decoders["half-width"].config.scaling_factor).sample
    wanted = ((half.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(measured[5.0]["half-width"][0].images, wanted)
    assert torch.equal(measured[5.0]["real"][0].images, render(scenes))
    whole = measured[5.0]["original"][0].images.numpy().astype(float)
    small = whole.reshape(3, 3, 32, 2, 32, 2).mean(axis=(3, 5))
    assert np.abs(measured[5.0]["half-resolution"][0].images[:, :, 0, 0].numpy() - small[:, :, 0, 0]).max() <= 0.5
    inner = [0.75 * small[:, :, 0, i] + 0.25 * small[:, :, 0, i + 1] for i in range(31)]
    found = measured[5.0]["half-resolution"][0].images[:, :, 0, 1:-1:2].numpy()
    assert np.abs(found - np.stack(inner, axis=-1)).max() <= 0.5 + 1e-6
    assert (
        measured[5.0]["original"][0].description
        == "shapes-vae, latents of shapes-base, 9 steps of ddim, guidance 5, seed 4"
    )


def scorer(part: str) -> Any:
    torch.manual_seed(0)
    reader, clip = SceneReader(width=8, depth=1).eval(), SceneClip(features=8, image_width=8).eval()
    return {"reader": reader, "clip": clip}[part]


def scored_images(images: Tensor, shift: float) -> SceneImages:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, 4)) + shift
    right = Judgement(True, True, (True,), (True,), (True,), ())
    return SceneImages("a network", images, [right] * N, features, np.linspace(0.4, 0.6, N) - shift / 10, None)


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[SceneImages]]:
    pixels = render(Shapes("test", N).scenes(range(N)))
    near = (pixels.int() + torch.arange(N).reshape(-1, 1, 1, 1) % 3 + 1).clamp(max=255).to(torch.uint8)
    return {
        "original": (scored_images(pixels, 1.0),),
        "half-width": (scored_images(near, 1.1),),
        "real": (scored_images(pixels, 0.0),),
    }


def on(measured: dict[str, tuple[SceneImages]]) -> Scenes:
    """The evaluation whose reference and renders are the images of row ``real``."""
    (real,) = measured["real"]
    return scored(reference=Statistics.of(real.features), renders=real, scenes=Shapes("test", N).scenes(range(N)))


def test_rows_are_the_declared_ones(
    measured: dict[str, tuple[SceneImages]], decoders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "decoders", lambda _: decoders)
    rows = table.rows(
        experiment(NAME),
        measured,
        {"original": 4.0, "half-width": 1.0},
        on(measured),
    )
    of = {(cell.row, cell.column): cell for cell in complete(ledger.find(NAME), rows)}
    pairs = zip(measured["half-width"][0].images.numpy(), measured["original"][0].images.numpy(), strict=True)
    wanted = np.mean([peak_signal_noise_ratio(y, x, data_range=255) for x, y in pairs])
    assert of["half-width", "psnr_to_original"].value == pytest.approx(wanted)
    assert ("original", "psnr_to_original") not in of
    assert of["half-width", "distance_shapes_minus_original"].value == pytest.approx(4 * (1.21 - 1))
    assert of["half-width", "clip_shapes_minus_original"].value == pytest.approx(0.39 - 0.4)
    assert of["half-width", "latency_ms"].value == 1.0
    assert of["half-width", "params"].value / of["original", "params"].value < 0.28


def test_the_curve_is_sorted_by_guidance(measured: dict[str, tuple[SceneImages]]) -> None:
    swapped = {"original": measured["half-width"], "half-width": measured["original"]}
    curve = table.curves(
        {5.0: swapped, 2.0: measured},
        on(measured),
    )
    assert curve["original"] == [
        (2.0, pytest.approx(0.4), pytest.approx(4 * 1.0)),
        (5.0, pytest.approx(0.39), pytest.approx(4 * 1.21)),
    ]
    (axis,) = table.curve_figure(curve).axes
    assert [text.get_text() for text in axis.texts] == ["2", "5", "2", "5"]
    np.testing.assert_allclose(axis.lines[1].get_xydata(), [[0.39, 4.84], [0.4, 4.0]])


def test_latencies_are_medians_without_the_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Slow:
        def __init__(self, *seconds: float) -> None:
            self.left = list(seconds)

        def decode(self, _: Tensor) -> None:
            now[0] += self.left.pop(0)

    monkeypatch.setattr(table.time, "perf_counter", lambda: now[0])
    pair: Any = {"original": Slow(9, 1, 2, 7), "half-width": Slow(0, 0.25, 0.75, 0.5)}
    assert table.latencies(pair, torch.zeros(1), rounds=3) == {"original": 2000, "half-width": 500}


def test_the_scales_of_the_notebook_are_guidance_scales() -> None:
    parameters = declared(root() / "notebooks/snapfusion/decoder.ipynb")
    assert all(float(w) >= 1 for w in parameters["others"].default)
