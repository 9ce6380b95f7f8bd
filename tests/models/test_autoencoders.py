"""The full-size autoencoders: published sizes, conventions, a light decoder under its teacher's encoder."""

import pytest
import torch

from mdrepro.core.errors import BadInput
from mdrepro.models import autoencoders
from mdrepro.models.mobilediffusion import vae

torch.set_num_threads(1)


def on_meta(name):
    with torch.device("meta"):
        return autoencoders.build(name)


@pytest.mark.parametrize(
    ("name", "millions", "tolerance"),
    [
        ("sd", 49.49, 1e-4),
        ("snapfusion", 13, 0.05),
        ("mobilediffusion", 39.3, 0.02),
        ("mobilediffusion-lite", 9.8, 0.02),
    ],
)
def test_decoders_have_the_published_size(name, millions, tolerance):
    assert vae.decoder_parameters(on_meta(name)) / 1e6 == pytest.approx(millions, rel=tolerance)


@pytest.mark.parametrize(("name", "channels"), [("sd", 4), ("snapfusion", 4), ("mobilediffusion", 8)])
def test_latents_are_an_eighth_and_sd_keeps_its_scale(name, channels):
    model = on_meta(name)
    with torch.no_grad():
        mean = model.encode(torch.zeros(1, 3, 512, 512, device="meta")).latent_dist.mode()
        assert mean.shape == (1, channels, 64, 64)
        assert model.decode(mean).sample.shape == (1, 3, 512, 512)
    assert model.config.scaling_factor == (0.18215 if channels == 4 else 1)


def test_snapfusions_decoder_is_sds_at_half_width():
    widths = {name: value.shape for name, value in on_meta("sd").decoder.state_dict().items()}
    halved = {name: value.shape for name, value in on_meta("snapfusion").decoder.state_dict().items()}
    assert halved.keys() == widths.keys()
    changed = {(a, b) for name in widths for a, b in zip(widths[name][:2], halved[name][:2], strict=True)}
    assert all(b == a // 2 or (a == b and a in (3, 4)) for a, b in changed)


def small(row, **changes):
    model = vae.build(row, 8)
    model.register_to_config(**changes)
    return model


def test_take_encoder_copies_fixes_and_brings_the_scale():
    teacher, student = small("ours", scaling_factor=0.7, shift_factor=0.1), small("ours-lite")
    autoencoders.take_encoder(student, teacher)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        assert torch.equal(student.encode(x).latent_dist.parameters, teacher.encode(x).latent_dist.parameters)
    assert (student.config.scaling_factor, student.config.shift_factor) == (0.7, 0.1)
    trained = {name.split(".")[0] for name, value in student.named_parameters() if value.requires_grad}
    assert trained == {"decoder", "post_quant_conv"}
    with pytest.raises(BadInput, match="differ in shape"):
        autoencoders.take_encoder(small("sd"), teacher)
    assert all(value.requires_grad for value in teacher.parameters())


def test_an_unknown_name_is_refused():
    with pytest.raises(BadInput, match="did you mean snapfusion"):
        autoencoders.build("snapfuson")
