"""The pipeline: one trajectory by hand, one generator an image, any scheduler, saving, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)

from mdrepro.core.errors import BadInput
from mdrepro.diffusion.renoise import RenoisingScheduler
from mdrepro.models import latents
from mdrepro.models.pipeline import MobileDiffusionPipeline
from tests.support import tiny_pipeline as tiny

torch.set_num_threads(1)

PROMPTS = ["a red star", "a blue circle left of a star", "a star"]


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline()


@pytest.fixture(autouse=True)
def usual_scheduler(request):
    if "pipe" in request.fixturenames:
        request.getfixturevalue("pipe").scheduler = tiny.scheduler()


def run(pipe, prompts=PROMPTS[0], seeds=(0,), **options):
    return pipe(prompts, generator=tiny.generators(*seeds), **({"output_type": "latent"} | options)).images


def features(pipe, prompt):
    """CLIP's features, from the tokens by hand and transformers' own model."""
    words = [3 + tiny.WORDS.index(word) for word in prompt.split()]
    ids = [0, *words, 1]
    return pipe.text_encoder(torch.tensor([ids + [1] * (10 - len(ids))])).last_hidden_state


def curve():
    """alpha-bar of SD's noise schedule in float64."""
    return np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def ddim_by_hand(pipe, prompt, negative, seed, steps, guidance, prediction):
    """DDIM with eta 0 (Song et al., eq. 12), written for a network that predicts e, v or x0."""
    kept = curve()
    x = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(seed)).double()
    texts = [features(pipe, one) for one in (prompt, negative)]
    for step in range(steps):
        now = 1000 - step * (1000 // steps) - 1
        then = now - 1000 // steps
        a, s = kept[now] ** 0.5, (1 - kept[now]) ** 0.5
        outs = [pipe.unet(x.float(), now, one).sample.double() for one in texts]
        out = guidance * outs[0] - (guidance - 1) * outs[1]  # SnapFusion's guidance
        if prediction == "epsilon":
            x0, e = (x - s * out) / a, out
        elif prediction == "v_prediction":
            x0, e = a * x - s * out, s * x + a * out
        else:
            x0, e = out, (x - a * out) / s
        x = x0 if then < 0 else kept[then] ** 0.5 * x0 + (1 - kept[then]) ** 0.5 * e
    return x.float()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("guidance", "negative"), [(1, ""), (4, ""), (2.5, "a circle")])
@torch.no_grad()
def test_a_ddim_trajectory_equals_the_formula(pipe, prediction, guidance, negative):
    pipe.scheduler = tiny.scheduler(prediction_type=prediction)
    got = run(pipe, seeds=[3], num_inference_steps=4, guidance_scale=guidance, negative_prompt=negative)
    expected = ddim_by_hand(pipe, PROMPTS[0], negative, 3, 4, guidance, prediction)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@torch.no_grad()
def test_one_step_is_the_clean_latent_out_of_pure_noise(pipe):
    noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(9))
    out = pipe.unet(noise, 999, features(pipe, PROMPTS[0])).sample
    kept = curve()[999]
    expected = (noise - (1 - kept) ** 0.5 * out) / kept**0.5
    for scheduler in (
        RenoisingScheduler(),
        tiny.scheduler(),
        DPMSolverMultistepScheduler.from_config(pipe.scheduler.config),
    ):
        pipe.scheduler = scheduler
        got = run(pipe, seeds=[9], num_inference_steps=1, guidance_scale=1)
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@torch.no_grad()
def test_euler_in_its_own_units_takes_ddims_trajectory(pipe):
    """Its latents are x / a with noise of variance sigma^2; it starts at sigma and not sqrt(sigma^2 + 1): 0.2 %."""
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    got = run(pipe, seeds=[3], num_inference_steps=4, guidance_scale=2)
    expected = ddim_by_hand(pipe, PROMPTS[0], "", 3, 4, 2, "epsilon")
    assert (got - expected).norm() < 0.02 * expected.norm()


def test_without_guidance_the_network_sees_one_branch(pipe, monkeypatch):
    batches = []
    forward = type(pipe.unet).forward
    monkeypatch.setattr(
        type(pipe.unet), "forward", lambda self, x, *a, **k: batches.append(len(x)) or forward(self, x, *a, **k)
    )
    run(pipe, num_inference_steps=2, guidance_scale=1)
    run(pipe, num_inference_steps=2, guidance_scale=1.5)
    run(pipe)  # the checkpoint's own: 4 steps, guidance 3
    assert batches == [1, 1, 2, 2, 2, 2, 2, 2]


SCHEDULERS = {
    "ddim": lambda config: DDIMScheduler.from_config(config),
    "dpm++": lambda config: DPMSolverMultistepScheduler.from_config(config),
    "dpm++ sde": lambda config: DPMSolverMultistepScheduler.from_config(config, algorithm_type="sde-dpmsolver++"),
    "euler": lambda config: EulerDiscreteScheduler.from_config(config),
    "euler a": lambda config: EulerAncestralDiscreteScheduler.from_config(config),
    "renoise": lambda config: RenoisingScheduler.from_config(config),
}


PREDICTIONS = ("epsilon", "v_prediction", "sample")
PAIRS = [(name, kind) for name in SCHEDULERS for kind in PREDICTIONS if (name, kind) != ("euler a", "sample")]


@pytest.mark.parametrize(("name", "prediction"), PAIRS)  # diffusers' euler a cannot do the one left out
def test_an_image_is_the_same_in_any_batch_with_any_scheduler(pipe, name, prediction):
    pipe.scheduler = SCHEDULERS[name](tiny.scheduler(prediction_type=prediction).config)
    together = run(pipe, PROMPTS, (5, 6, 7), num_inference_steps=3)
    assert together.isfinite().all()
    again = run(pipe, PROMPTS, (5, 6, 7), num_inference_steps=3)
    assert torch.equal(again, together)
    tolerance = {"rtol": 1e-3, "atol": 1e-4 * float(together.abs().max())}
    for i, seed in enumerate((5, 6, 7)):
        torch.testing.assert_close(run(pipe, PROMPTS[i], [seed], num_inference_steps=3)[0], together[i], **tolerance)
    assert not torch.allclose(run(pipe, seeds=[8], num_inference_steps=3)[0], together[0], **tolerance)


def test_noise_is_the_same_bit_for_bit_in_any_batch_and_type(pipe):
    def start(prompts, seeds):
        seen = []

        def stop(pipeline, *_):
            pipeline.interrupt = True

        pipe.scheduler = RenoisingScheduler(prediction_type="sample")
        hook = pipe.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        run(pipe, prompts, seeds, guidance_scale=1, callback_on_step_end=stop)
        hook.remove()
        (first,) = seen
        return first

    together = start(PROMPTS, (5, 6, 7))
    for i, seed in enumerate((5, 6, 7)):
        assert torch.equal(start(PROMPTS[i], [seed])[0], together[i])


def test_one_generator_serves_one_image_and_several_need_several(pipe):
    one = torch.Generator().manual_seed(4)
    assert torch.equal(pipe(PROMPTS[0], generator=one, output_type="latent").images, run(pipe, seeds=[4]))
    with pytest.raises(BadInput, match=r"1 generator\(s\) for 3 images: give one each"):
        pipe(PROMPTS, generator=torch.Generator())
    with pytest.raises(BadInput, match=r"2 generator\(s\) for 4 images"):
        run(pipe, PROMPTS[:2], (1, 2), num_images_per_prompt=2)


def test_images_per_prompt_and_negative_prompts_are_paired_rightly(pipe):
    got = run(pipe, PROMPTS[:2], (1, 2, 3, 4), num_images_per_prompt=2, negative_prompt=["a circle", "of"])
    assert len(got) == 4
    for i, seed in enumerate((1, 2, 3, 4)):
        alone = run(pipe, PROMPTS[i // 2], [seed], negative_prompt=["a circle", "of"][i // 2])
        torch.testing.assert_close(alone[0], got[i], rtol=1e-3, atol=1e-3)
    with pytest.raises(BadInput, match="2 negative prompts for 3"):
        run(pipe, PROMPTS, (1, 2, 3), negative_prompt=["a", "of"])


def test_output_types_are_one_image_in_four_forms(pipe):
    latent, unit = run(pipe), run(pipe, output_type="pt")
    assert unit.shape == (1, 3, 64, 64)
    assert 0 <= unit.min() < unit.max() <= 1
    with torch.no_grad():
        decoded = pipe.vae.decode(latent / 0.5).sample
    torch.testing.assert_close(unit, (decoded / 2 + 0.5).clamp(0, 1))
    assert np.array_equal(run(pipe, output_type="np"), unit.permute(0, 2, 3, 1).numpy())
    (image,) = run(pipe, output_type="pil")
    assert image.size == (64, 64)
    assert np.array_equal(np.asarray(image), (unit[0].permute(1, 2, 0) * 255).round().byte().numpy())
    (listed,) = pipe(PROMPTS[0], generator=tiny.generators(0), output_type="latent", return_dict=False)
    assert torch.equal(listed, latent)


def test_embeddings_latents_and_sizes_may_be_given(pipe):
    expected = run(pipe)
    given = {"prompt_embeds": pipe.encode_prompt([PROMPTS[0]]), "negative_prompt_embeds": pipe.encode_prompt([""])}
    noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    got = pipe(**given, latents=noise, output_type="latent").images
    assert torch.equal(got, expected)
    assert run(pipe, height=32, width=96, output_type="pt").shape == (1, 3, 32, 96)


def test_callback_sees_and_changes_latents_and_can_stop(pipe):
    undisturbed = run(pipe)
    seen = []

    def callback(pipeline, step, timestep, tensors):
        assert tensors.keys() == {"latents", "prompt_embeds"}
        seen.append((step, int(timestep)))
        pipeline.interrupt = step == 1
        return {"latents": torch.zeros_like(tensors["latents"])}

    names = ["latents", "prompt_embeds"]
    got = run(pipe, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
    assert seen == [(0, 999), (1, 749)]
    assert not got.any()
    assert torch.equal(run(pipe), undisturbed)  # the interruption does not stick


@pytest.mark.parametrize(
    "part", [RenoisingScheduler(), EulerDiscreteScheduler(timestep_spacing="trailing"), tiny.scheduler()]
)
def test_saved_and_loaded_is_bit_identical(tmp_path, part):
    made = tiny.pipeline(scheduler=part, default_steps=2, default_guidance=1.0)
    made.save_pretrained(tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.suffix in {".bin", ".pt"}]
    again = MobileDiffusionPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is type(part)
    assert (again.config.default_steps, again.config.default_guidance) == (2, 1.0)
    assert not any(module.training for module in (again.unet, again.vae, again.text_encoder))
    ours, theirs = (run(one, PROMPTS, (1, 2, 3), output_type="np") for one in (made, again))
    assert np.array_equal(ours, theirs)
    swapped = MobileDiffusionPipeline.from_pretrained(tmp_path, scheduler=tiny.scheduler(), default_steps=3)
    assert isinstance(swapped.scheduler, DDIMScheduler)
    assert swapped.config.default_steps == 3


def test_variant_and_type_are_as_in_diffusers(tmp_path):
    made = tiny.pipeline()
    made.to(torch.bfloat16).save_pretrained(tmp_path, variant="bf16")
    assert (tmp_path / "unet" / "diffusion_pytorch_model.bf16.safetensors").is_file()
    again = MobileDiffusionPipeline.from_pretrained(tmp_path, variant="bf16", dtype=torch.bfloat16)
    assert {again.unet.dtype, again.vae.dtype, again.text_encoder.dtype} == {torch.bfloat16}
    assert np.array_equal(run(made, output_type="np"), run(again, output_type="np"))
    assert np.abs(run(again, output_type="np") - run(tiny.pipeline(), output_type="np")).mean() < 0.05


def test_networks_of_diffusers_serve_as_parts(tmp_path):
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    made = tiny.pipeline(
        unet=tiny.sd_unet(), vae=AutoencoderKL(**blocks, block_out_channels=(8,) * 4, norm_num_groups=4).eval()
    )
    assert made.size_multiple == 16
    before = run(made, output_type="np")
    made.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert np.array_equal(run(MobileDiffusionPipeline.from_pretrained(tmp_path), output_type="np"), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": None}, "give prompt or prompt_embeds"),
        ({"prompt": []}, "not empty"),
        ({"prompt": [1]}, "expected a text"),
        ({"output_type": "jpg"}, "unknown output_type"),
        ({"guidance_scale": 0.0}, "guidance 1"),
        ({"num_inference_steps": 0}, "1 step or more"),
        ({"height": 40}, "multiples of 32"),
        ({"width": -32}, "multiples of 32"),
        ({"latents": torch.zeros(1, 4, 8, 8)}, "expected"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "unknown callback tensor"),
        ({"negative_prompt": "a", "negative_prompt_embeds": torch.zeros(1, 10, 32)}, "not both"),
    ],
)
def test_bad_arguments_are_refused(pipe, options, message):
    with pytest.raises(BadInput, match=message):
        pipe(**({"prompt": "a star"} | options))


def test_one_step_that_would_start_without_noise_is_refused(pipe):
    pipe.scheduler = tiny.scheduler(timestep_spacing="leading", steps_offset=1)
    with pytest.raises(BadInput, match=r'starts 1 step\(s\) at timestep 1 of 1000.*timestep_spacing="trailing"'):
        run(pipe, num_inference_steps=1, guidance_scale=1)
    run(pipe, num_inference_steps=4)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"unet": tiny.unet(in_channels=4)}, "latent channels of unet and vae differ: 4 and 8"),
        ({"unet": tiny.unet(cross_attention_dim=24)}, "text width of unet and text_encoder differ: 24 and 32"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(BadInput, match=message):
        tiny.pipeline(**parts)


def test_decoded_pixels_go_by_the_autoencoders_range(pipe):
    zero_to_one = tiny.autoencoder()
    zero_to_one.register_to_config(pixel_range=(0.0, 1.0))
    other = tiny.pipeline(vae=zero_to_one)
    with torch.no_grad():
        raw = other.vae.decode(run(other) / 0.5).sample
    torch.testing.assert_close(run(other, output_type="pt"), raw.clamp(0, 1))
    assert latents.model_range(other.vae) == "0..1"


@torch.no_grad()
@pytest.mark.slow
def test_a_pipeline_saved_before_the_modules_moved_is_loaded_in_a_new_process(tmp_path):
    """``model_index.json`` as version 97ab915 wrote it: classes in flat modules of `mdrepro.models`."""
    pipe = tiny.pipeline(scheduler=RenoisingScheduler())
    pipe.save_pretrained(tmp_path)
    file = tmp_path / "model_index.json"
    index = json.loads(file.read_text())
    index["unet"] = ["mdrepro.models.unet", "MobileDiffusionUNet"]
    index["vae"] = ["mdrepro.models.vae", "Autoencoder"]
    index["scheduler"] = ["mdrepro.models.renoise", "RenoisingScheduler"]
    file.write_text(json.dumps(index))
    code = (
        "import sys, torch; from mdrepro.models.pipeline import MobileDiffusionPipeline; "
        "pipe = MobileDiffusionPipeline.from_pretrained(sys.argv[1]); "
        "call = {'generator': [torch.Generator().manual_seed(0)], 'num_inference_steps': 2, 'output_type': 'latent'}; "
        "torch.save(pipe('a red star', **call).images, sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(tmp_path / "latent.pt")], check=True)
    again = torch.load(tmp_path / "latent.pt", weights_only=True)
    call = {"generator": tiny.generators(0), "num_inference_steps": 2, "output_type": "latent"}
    torch.testing.assert_close(again, pipe("a red star", **call).images)
