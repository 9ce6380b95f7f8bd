"""Pickles are refused, and the conversion that the refusal gives works."""

import re
import shlex

import pytest
import torch
from diffusers import AutoencoderKL

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.models import text
from mdrepro.models.mobilediffusion import vae
from mdrepro.models.mobilediffusion.discriminator import Discriminator
from mdrepro.models.mobilediffusion.unet import MobileDiffusionUNet
from mdrepro.models.pipeline import MobileDiffusionPipeline
from tests.support import tiny_pipeline as tiny

torch.set_num_threads(1)


def to_pickle(folder):
    """The weights of a saved component as torch.save writes them, in place of the safetensors."""
    from safetensors.torch import load_file

    (safe,) = folder.glob("*.safetensors")
    name = {"model": "pytorch_model"}.get(safe.stem, safe.stem)
    torch.save(load_file(safe), folder / f"{name}.bin")
    safe.unlink()


def convert(refusal):
    """Run the command in the message, as its reader would."""
    python, option, code = shlex.split(str(refusal.value).split("Convert it once: ")[1])
    assert (python, option) == ("python", "-c")
    exec(code, {})


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (MobileDiffusionUNet, tiny.unet),
        (Discriminator, lambda: Discriminator.from_unet(tiny.unet())),
        (vae.Autoencoder, tiny.autoencoder),
    ],
)
def test_models_refuse_pickles_and_say_how_to_convert(kind, make, tmp_path):
    tmp_path = tmp_path / "it's odd"
    model = make()
    model.save_pretrained(tmp_path / "part")
    to_pickle(tmp_path / "part")
    with pytest.raises(BadInput, match="can run code when loaded") as refusal:
        kind.from_pretrained(tmp_path, subfolder="part")
    convert(refusal)
    again = kind.from_pretrained(tmp_path, subfolder="part")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pipelines_refuse_pickles_in_any_part(part, tmp_path):
    tiny.pipeline().save_pretrained(tmp_path)
    to_pickle(tmp_path / part)
    with pytest.raises(BadInput, match=re.escape(str(tmp_path / part))) as refusal:
        MobileDiffusionPipeline.from_pretrained(tmp_path)
    if part == "text_encoder":
        with pytest.raises(BadInput, match=r"pytorch_model\.bin holds pickled"):
            text.load(tmp_path)
    convert(refusal)
    MobileDiffusionPipeline.from_pretrained(tmp_path)


def test_nothing_is_opened_or_written_as_pickle_on_request(tmp_path):
    model = tiny.unet()
    with pytest.raises(BadInput, match="safetensors"):
        model.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(BadInput, match="safetensors"):
        tiny.pipeline().save_pretrained(tmp_path, safe_serialization=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(BadInput, match="safetensors alone is read"):
        MobileDiffusionUNet.from_pretrained(tmp_path, use_safetensors=False)


def test_a_pickle_beside_safetensors_does_no_harm(tmp_path):
    tiny.unet().save_pretrained(tmp_path)
    torch.save({}, tmp_path / "optimizer.bin")
    MobileDiffusionUNet.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("beside", "variant"),
    [("diffusion_pytorch_model.fp16", None), ("diffusion_pytorch_model", "fp16"), ("lora", None)],
)
def test_a_pickle_beside_safetensors_of_another_name_is_refused(tmp_path, beside, variant):
    model = tiny.unet()
    model.save_pretrained(tmp_path, variant=variant)
    (safe,) = tmp_path.glob("*.safetensors")
    other = safe.read_bytes()
    to_pickle(tmp_path)
    (tmp_path / f"{beside}.safetensors").write_bytes(other)
    with pytest.raises(BadInput, match="can run code when loaded") as refusal:
        MobileDiffusionUNet.from_pretrained(tmp_path, variant=variant)
    assert f"{safe.stem}.bin" in str(refusal.value)
    convert(refusal)
    again = MobileDiffusionUNet.from_pretrained(tmp_path, variant=variant)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_a_variant_in_safetensors_beside_a_pickle_is_loaded(tmp_path):
    model = tiny.unet()
    model.save_pretrained(tmp_path, variant="fp16", max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    for name in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin"):
        torch.save({}, tmp_path / name)
    MobileDiffusionUNet.from_pretrained(tmp_path, variant="fp16")


def test_a_pickle_of_any_name_alone_is_refused(tmp_path):
    tiny.unet().save_config(tmp_path)
    torch.save({}, tmp_path / "weights.pt")
    with pytest.raises(BadInput, match=r"weights\.pt holds pickled"):
        MobileDiffusionUNet.from_pretrained(tmp_path)


def test_a_checkpoint_file_and_a_name_that_is_nowhere(tmp_path):
    torch.save({}, tmp_path / "sd.ckpt")
    with pytest.raises(BadInput, match=r"sd\.ckpt holds pickled"):
        MobileDiffusionPipeline.from_pretrained(tmp_path / "sd.ckpt")
    with pytest.raises(NotAttempted, match="hf download nobody/nothing"):
        MobileDiffusionUNet.from_pretrained("nobody/nothing", local_files_only=True)
    with pytest.raises(NotAttempted, match="hf download nobody/nothing"):
        MobileDiffusionPipeline.from_pretrained("nobody/nothing", local_files_only=True)


def test_configs_and_weights_of_diffusers_are_read(tmp_path):
    plain = AutoencoderKL(norm_num_groups=8)
    plain.save_pretrained(tmp_path)
    ours = vae.Autoencoder.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
