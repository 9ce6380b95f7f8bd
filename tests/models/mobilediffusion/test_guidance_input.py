"""Networks that take the guidance scale as an input, against diffusers' features of it and a loop written out."""

from typing import Any

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline

from mdrepro.core.errors import BadInput
from mdrepro.diffusion.guidance import WIDTH, at_guidance, guidance_embedding, guidance_width
from mdrepro.models.mobilediffusion.unet import MobileDiffusionUNet, with_guidance_input
from tests.support import tiny_pipeline as tiny

PROMPTS = ["a red star", "a blue circle"]


def trained(scale: float = 0.3) -> Any:
    """A conditioned network whose projection is not zero."""
    net = with_guidance_input(tiny.unet())
    torch.manual_seed(1)
    net.time_embedding.cond_proj.weight.data.normal_(0, scale)
    return net


def inputs(count: int = 2) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(0)
    return (
        torch.randn(count, 8, 4, 4, generator=rng),
        torch.tensor([999, 10])[:count],
        torch.randn(count, 5, tiny.CROSS, generator=rng),
    )


@pytest.mark.parametrize("width", [8, 256])
def test_the_guidance_is_embedded_as_in_diffusers_pipelines(width: int) -> None:
    w = torch.tensor([1.0, 1.5, 3.0, 14.0])
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, w - 1, width)
    torch.testing.assert_close(guidance_embedding(w, width), theirs, rtol=0, atol=2e-3)  # sines of thousands
    assert (guidance_embedding(w[1:2], width) - theirs[2]).abs().max() > 0.1


@torch.no_grad()
def test_a_network_begins_as_the_one_it_is_made_of_and_then_tells_scales_apart() -> None:
    base = tiny.unet()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    net, (x, t, text) = with_guidance_input(base), inputs()
    assert (guidance_width(base), guidance_width(net)) == (None, WIDTH)
    assert not net.training
    expected = base(x, t, text).sample
    for w in (1.0, 7.0):
        torch.testing.assert_close(at_guidance(net, torch.full((2,), w), WIDTH)(x, t, text).sample, expected)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    outputs = [at_guidance(trained(), torch.tensor([w, 3.0]), WIDTH)(x, t, text).sample for w in (3.0, 3.5)]
    assert (outputs[0][0] - outputs[1][0]).abs().max() > 1e-3
    torch.testing.assert_close(outputs[0][1], outputs[1][1])  # each sample has its own


def test_the_input_is_wanted_where_there_is_one_and_nowhere_else() -> None:
    x, t, text = inputs()
    with pytest.raises(BadInput, match=r"timestep_cond is missing: expected an embedded guidance \(2, 256\)"):
        trained()(x, t, text)
    with pytest.raises(BadInput, match=r"timestep_cond is \(1, 256\)"):
        trained()(x, t, text, timestep_cond=torch.zeros(1, 256))
    with pytest.raises(BadInput, match="expected none"):
        tiny.unet()(x, t, text, timestep_cond=torch.zeros(2, 256))
    for other in (tiny.sd_unet(), trained()):
        with pytest.raises(BadInput, match="expected a MobileDiffusionUNet without that input"):
            with_guidance_input(other)


def test_it_is_saved_and_loaded_as_what_it_is(tmp_path: Any) -> None:
    net = trained()
    net.save_pretrained(tmp_path)
    again = MobileDiffusionUNet.from_pretrained(tmp_path)
    assert guidance_width(again) == WIDTH
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("w", [1.0, 4.0])
def test_the_pipeline_gives_it_the_scale_and_calls_one_branch(w: float) -> None:
    pipe, batches = tiny.pipeline(unet=trained()), []
    pipe.set_progress_bar_config(disable=True)
    hook = pipe.unet.register_forward_pre_hook(lambda _, given: batches.append(len(given[0])))
    noise = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(2))
    made = pipe(PROMPTS, latents=noise, num_inference_steps=3, guidance_scale=w, output_type="latent").images
    hook.remove()
    assert batches == [2, 2, 2]
    text, x = pipe.encode_prompt(PROMPTS), noise
    features = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.full((2,), w - 1), WIDTH)
    pipe.scheduler.set_timesteps(3)
    for t in pipe.scheduler.timesteps:
        said = pipe.unet(x, t, text, timestep_cond=features).sample
        x = pipe.scheduler.step(said, t, x).prev_sample
    torch.testing.assert_close(made, x, rtol=1e-3, atol=1e-3)


def test_it_has_no_negative_prompts() -> None:
    pipe = tiny.pipeline(unet=trained())
    with pytest.raises(BadInput, match="there can be no negative prompt"):
        pipe(PROMPTS[0], negative_prompt="a blue star")
