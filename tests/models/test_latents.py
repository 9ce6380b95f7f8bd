"""Pixel ranges and latent scaling: formulas by hand, round trips, and every mix-up refused."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from mdrepro.core.errors import BadInput
from mdrepro.models import latents
from mdrepro.models.mobilediffusion import vae
from tests.support import tiny_pipeline as tiny

torch.set_num_threads(1)

LEVELS = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
SD = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 4,
}


def photo(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("target", latents.PIXEL_RANGES)
def test_every_level_survives_the_way_there_and_back(target):
    there = latents.convert(LEVELS, "uint8", target)
    assert torch.equal(latents.convert(there, target, "uint8"), LEVELS)


def test_ranges_by_hand():
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(latents.convert(levels, "uint8", "0..1"), torch.tensor([0, 0.2, 1]))
    torch.testing.assert_close(latents.convert(levels, "uint8", "-1..1"), torch.tensor([-1, -0.6, 1]))
    torch.testing.assert_close(latents.convert(torch.tensor([-1, 0.0, 1]), "-1..1", "0..1"), torch.tensor([0, 0.5, 1]))
    assert latents.convert(torch.tensor([0.999, 0.5, -0.004]), "0..1", "uint8").tolist() == [255, 128, 0]


@pytest.mark.parametrize(
    ("pixels", "claimed", "message"),
    [
        (LEVELS, "0..1", "uint8"),
        (LEVELS, "-1..1", "uint8"),
        (LEVELS.float(), "uint8", "float32"),
        (LEVELS.float(), "0..1", "from 0 to 255"),
        (torch.tensor([-1.0, 1]), "0..1", "from -1 to 1"),
        (torch.tensor([0.0, 2]), "-1..1", "from 0 to 2"),
        (torch.tensor([0.0, float("nan")]), "-1..1", "nan"),
        (LEVELS.int(), "0..1", "int32"),
        (LEVELS, "0..255", "did you mean|allowed"),
    ],
)
def test_a_claimed_range_that_is_not_so_is_refused(pixels, claimed, message):
    with pytest.raises(BadInput, match=message):
        latents.convert(pixels, claimed, "-1..1")


@torch.no_grad()
def test_to_latent_is_the_scaled_mean_of_the_posterior_in_any_range():
    model, pixels = tiny.autoencoder(scaling_factor=0.5), photo(2, 3, 16, 24)
    signed = pixels.float() / 127.5 - 1
    expected = 0.5 * model.encode(signed).latent_dist.mean
    for given, name in ((pixels, "uint8"), (pixels.float() / 255, "0..1"), (signed, "-1..1")):
        torch.testing.assert_close(latents.to_latent(model, given, name), expected)


@torch.no_grad()
def test_to_image_undoes_the_scale_and_clamps():
    model = tiny.autoencoder(scaling_factor=0.5)
    model.decoder.conv_out.weight.mul_(30)
    z = torch.randn(1, 8, 3, 2, generator=torch.Generator().manual_seed(0))
    raw = model.decode(z).sample
    assert raw.abs().max() > 1.1
    signed = raw.clamp(-1, 1)
    torch.testing.assert_close(latents.to_image(model, z * 0.5, "-1..1"), signed)
    torch.testing.assert_close(latents.to_image(model, z * 0.5, "0..1"), signed / 2 + 0.5)
    assert torch.equal(latents.to_image(model, z * 0.5, "uint8"), ((signed / 2 + 0.5) * 255).round().byte())


def test_scale_and_shift_by_hand_and_inverse():
    z = torch.tensor([3.0, -1, 5, 7]).reshape(1, 4, 1, 1)
    shifted = AutoencoderKL(**SD, scaling_factor=0.25, shift_factor=1.0)
    assert latents.scale(shifted, z).flatten().tolist() == [0.5, -0.5, 1, 1.5]
    each = AutoencoderKL(**SD, scaling_factor=2.0, latents_mean=(1.0, 1, 2, 3), latents_std=(1.0, 2, 3, 4))
    assert latents.scale(each, z).flatten().tolist() == [4, -2, 2, 2]
    for model in (shifted, each):
        torch.testing.assert_close(latents.unscale(model, latents.scale(model, z)), z)
    with pytest.raises(BadInput, match="mean and std together"):
        latents.scale(AutoencoderKL(**SD, latents_mean=(1.0, 1, 2, 3)), z)


@pytest.mark.parametrize("kind", [AutoencoderKL, vae.Autoencoder])
def test_an_sd_autoencoder_keeps_its_scale_even_where_its_config_says_nothing(kind, tmp_path):
    AutoencoderKL(**SD).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    lines = [line for line in config.read_text().splitlines(True) if "scaling_factor" not in line]
    config.write_text("".join(lines))  # as in stable-diffusion-v1-5
    model = kind.from_pretrained(tmp_path)
    z = torch.ones(1, 4, 1, 1)
    assert latents.scale(model, z).flatten().tolist() == pytest.approx([0.18215] * 4)
    assert latents.factor(model) == 8


@torch.no_grad()
def test_posterior_samples_are_drawn_per_image():
    model, pixels = tiny.autoencoder(), photo(2, 3, 16, 16)
    both = latents.to_latent(model, pixels, "uint8", tiny.generators(5, 6))
    alone = latents.to_latent(model, pixels[1:], "uint8", tiny.generators(6))
    torch.testing.assert_close(both[1:], alone)
    posterior = model.encode(latents.convert(pixels, "uint8", "-1..1")).latent_dist
    noise = torch.randn(1, 8, 2, 2, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(both[1:], 0.5 * (posterior.mean + posterior.std * noise)[1:])


@torch.no_grad()
def test_an_autoencoder_without_posterior_works():
    model = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    ).eval()
    pixels = photo(1, 3, 16, 16)
    latent = latents.to_latent(model, pixels, "uint8")
    torch.testing.assert_close(latent, model.encode(pixels.float() / 127.5 - 1).latents)
    assert latents.to_image(model, latent, "uint8").shape == pixels.shape


def test_bad_shapes_and_overflow_are_refused():
    model = tiny.autoencoder()
    for shape in ((1, 3, 12, 16), (1, 1, 16, 16), (3, 16, 16)):
        with pytest.raises(BadInput, match="multiples of 8"):
            latents.to_latent(model, photo(*shape), "uint8")
    with pytest.raises(BadInput, match="not finite"), torch.no_grad():
        latents.to_image(model, torch.full((1, 8, 2, 2), float("inf")), "uint8")
