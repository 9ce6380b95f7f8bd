"""The small autoencoders: the published proportions, diffusers' own class as truth, saving and loading."""

import pytest
import torch
from diffusers import AutoencoderKL

from mdrepro.models.mobilediffusion import vae

SD = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


@pytest.mark.parametrize(("row", "millions"), [("sd", 49.490), ("ours", 38.588), ("ours-lite", 9.665)])
def test_width_128_has_the_size_of_the_layouts_that_fit_the_paper(row, millions):
    with torch.device("meta"):
        model = vae.build(row, 128)
    assert vae.decoder_parameters(model) / 1e6 == pytest.approx(millions, abs=5e-4)


def test_the_sd_row_at_width_128_is_stable_diffusions_autoencoder():
    with torch.device("meta"):
        ours, theirs = vae.build("sd", 128).state_dict(), AutoencoderKL(**SD).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_lite_has_a_quarter_of_the_decoder_and_the_same_encoder():
    ours, lite = vae.build("ours", 16), vae.build("ours-lite", 16)
    assert vae.decoder_parameters(lite) / vae.decoder_parameters(ours) == pytest.approx(0.25, abs=0.01)
    for mine, theirs in zip(vae.encoder_parts(lite), vae.encoder_parts(ours), strict=True):
        mine.load_state_dict(theirs.state_dict())
    assert len(ours.decoder.up_blocks[0].resnets) == 2
    assert len(vae.build("sd", 16).decoder.up_blocks[0].resnets) == 3


@pytest.mark.parametrize(("row", "channels"), [("sd", 4), ("ours", 8), ("ours-lite", 8)])
def test_shapes_and_range(row, channels):
    model = vae.build(row, 8).eval()
    x = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.inference_mode():
        assert model.encode(x).latent_dist.mode().shape == (2, channels, 4, 6)
        y = vae.reconstruct(model, x)
    assert y.shape == x.shape
    assert y.abs().max() <= 1


def test_without_decoder_arguments_it_is_diffusers_class():
    torch.manual_seed(0)
    small = SD | {"block_out_channels": (8, 16, 16, 16), "norm_num_groups": 2}
    theirs, ours = AutoencoderKL(**small), vae.Autoencoder(**small)
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(ours(x).sample, theirs(x).sample)


def test_saves_and_loads_as_safetensors_without_a_word(tmp_path, caplog):
    model = vae.build("ours-lite", 8).eval()
    model.register_to_config(scaling_factor=0.5)
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    again = vae.Autoencoder.from_pretrained(tmp_path)
    assert again.config.scaling_factor == 0.5
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not caplog.records


@pytest.mark.parametrize("width", [0, 4, 12])
def test_refuses_odd_widths(width):
    with pytest.raises(ValueError, match="multiple of 8"):
        vae.build("sd", width)
