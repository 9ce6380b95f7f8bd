"""The discriminator against the denoiser that it is made from."""

import pytest
import torch

from mdrepro.core.errors import BadInput
from mdrepro.models.mobilediffusion.discriminator import Discriminator
from mdrepro.models.snapfusion.evolvable import EvolvableUNet
from tests.support import tiny_pipeline as tiny

torch.set_num_threads(1)


def inputs(channels=8):
    draw = torch.Generator().manual_seed(3)
    sample = torch.randn(2, channels, 8, 8, generator=draw)
    return sample, torch.tensor([10, 700]), torch.randn(2, 5, tiny.CROSS, generator=draw)


def evolved_unet():
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 16), "cross_attention": (True, False), "norm_num_groups": 4}
    return EvolvableUNet(**sizes, sample_size=8, cross_attention_dim=tiny.CROSS, actions=["remove mid resnet 1"]).eval()


@pytest.mark.parametrize(("make", "channels"), [(tiny.unet, 8), (tiny.sd_unet, 4), (evolved_unet, 4)])
@torch.no_grad()
def test_features_are_the_denoisers_before_its_last_layer(make, channels):
    unet = make()
    seen = []
    unet.conv_out.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    unet(*inputs(channels))
    made = Discriminator.from_unet(unet)
    assert torch.equal(made.features(*inputs(channels)), seen[0])
    assert unet.conv_out.out_channels == channels  # the denoiser keeps its own


def test_it_starts_undecided_and_is_not_stuck():
    made = Discriminator.from_unet(tiny.unet())
    logits = made(*inputs())
    assert logits.shape == (2, 1, 8, 8)
    assert not logits.any()
    torch.nn.functional.softplus(-logits).mean().backward()
    assert made.head.weight.grad.any()


def test_one_logit_an_image_is_the_mean_of_the_map():
    unet = tiny.unet()
    maps, images = Discriminator.from_unet(unet), Discriminator.from_unet(unet, logits="image")
    for made in (maps, images):
        torch.manual_seed(7)
        torch.nn.init.normal_(made.head.weight)
    with torch.no_grad():
        torch.testing.assert_close(images(*inputs()), maps(*inputs()).mean(dim=(1, 2, 3)))


@torch.no_grad()
def test_noise_level_and_text_matter_and_weights_are_copies():
    unet = tiny.unet()
    made = Discriminator.from_unet(unet, logits="image")
    torch.nn.init.normal_(made.head.weight)
    sample, time, text = inputs()
    logits = made(sample, time, text)
    assert not torch.allclose(made(sample, time + 200, text), logits, atol=1e-4)
    assert not torch.allclose(made(sample, time, text.flip(0)), logits, atol=1e-4)
    before = unet(sample, time, text).sample
    for value in made.parameters():
        value.zero_()
    assert torch.equal(unet(sample, time, text).sample, before)


def test_type_and_mode_follow_the_denoiser():
    made = Discriminator.from_unet(tiny.unet().to(torch.bfloat16).train())
    assert made.dtype == torch.bfloat16
    assert made.training
    assert not Discriminator.from_unet(tiny.unet()).training
    made.enable_gradient_checkpointing()
    assert made.is_gradient_checkpointing


@torch.no_grad()
def test_saved_and_loaded_is_bit_identical(tmp_path):
    made = Discriminator.from_unet(tiny.unet(), logits="image")
    torch.nn.init.normal_(made.head.weight)
    made.save_pretrained(tmp_path)
    again = Discriminator.from_pretrained(tmp_path)
    assert again.config.logits == "image"
    assert torch.equal(again(*inputs()), made(*inputs()))


def test_other_classes_and_kinds_are_refused():
    with pytest.raises(BadInput, match="unknown unet_class 'Autoencoder'"):
        Discriminator.from_unet(tiny.autoencoder())
    with pytest.raises(BadInput, match="unknown kind of logits"):
        Discriminator.from_unet(tiny.unet(), logits="scalar")
