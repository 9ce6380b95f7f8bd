"""Weights files in the formats of the published ones, with random values, and folders of pictures."""

from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torchvision
from PIL import Image
from skimage import data

from mdrepro.metrics.image import backbones
from mdrepro.metrics.image.catalogue import BACKBONES

CLIP_TOKENS = 12
"""Of the small CLIP that tests share."""


def inception_weights(seed=0):
    """A state dict with the names, shapes and order of FID's Inception; features are as large as the real ones."""
    chance = torch.Generator().manual_seed(seed)
    model = torchvision.models.inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    weights = model.state_dict()
    for name, value in weights.items():
        if value.ndim == 4:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=chance)
        elif name.endswith(("running_var", "bn.weight")):
            value.uniform_(0.5, 1.5, generator=chance)
        elif name.endswith(("running_mean", "bn.bias")):
            value.normal_(0, 0.1, generator=chance)
        elif value.is_floating_point():
            value.normal_(0, 0.02, generator=chance)
    last = ("branch1x1", "branch3x3_2a", "branch3x3_2b", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool")
    for name in last:
        for part in ("weight", "bias"):
            weights[f"Mixed_7c.{name}.bn.{part}"] *= 0.1
    return weights


def inception_script(weights, path):
    """clean-fid's kind of file: a TorchScript program with a part ``layers``, from clean-fid's other Inception."""
    import cleanfid.inception_pytorch as theirs

    class Base(torch.nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            return self.layers(x)

    with torch.no_grad():
        network = legacy_inception(weights, theirs)
        base = Base(torch.nn.Sequential(*network.blocks)).eval()
        traced = torch.jit.trace(base, torch.zeros(1, 3, 299, 299), check_trace=False)
    traced.save(str(path))


def legacy_inception(weights, theirs):
    """clean-fid's Inception of mode legacy_pytorch, whose weights would come from the network."""
    before = theirs.load_state_dict_from_url
    theirs.load_state_dict_from_url = lambda *_, **__: weights
    try:
        return theirs.InceptionV3(output_blocks=[3], resize_input=False).eval()
    finally:
        theirs.load_state_dict_from_url = before


def clip(folder, most=77):
    """A small CLIP as transformers saves it: model, image processor and a tokenizer of single bytes, up to ``most``."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": len(words), "max_position_embeddings": most, "eos_token_id": len(words) - 1}
    vision = {"image_size": 32, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPConfig(text_config=sizes | text, vision_config=sizes | vision, projection_dim=16)
        model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def photos(root, n=6, size=80, seed=0, sizes=None):
    """Folders ``real`` and ``generated`` of n crops of photographs each, the latter darker and noisy."""
    rng = np.random.default_rng(seed)
    sources = [data.astronaut(), data.cat(), data.coffee(), data.rocket(), data.immunohistochemistry()]
    for name in ("real", "generated"):
        (Path(root) / name).mkdir(parents=True)
        for i in range(n):
            source = sources[rng.integers(len(sources))]
            side = int(rng.integers(size, 280))
            y, x = rng.integers(source.shape[0] - side), rng.integers(source.shape[1] - side)
            height, width = (size, size) if sizes is None else sizes[i % len(sizes)]
            picture = Image.fromarray(source[y : y + side, x : x + side]).resize((width, height))
            pixels = np.asarray(picture).astype(float)
            if name == "generated":
                pixels = pixels * rng.uniform(0.7, 1) + rng.normal(0, 12, pixels.shape)
            save(pixels, Path(root) / name / f"{i:04}.png")
    return Path(root) / "real", Path(root) / "generated"


def save(pixels, path):
    Image.fromarray(np.asarray(pixels).round().clip(0, 255).astype(np.uint8)).save(path)


class _Linear(torch.nn.Linear):
    def __init__(self, *_, **__):
        super().__init__(1, 1)


def small_classifiers():
    """Within, torchvision builds networks whose linear layers have one weight each: LPIPS drops 0.2 and 0.5 GB."""
    return mock.patch.object(torch.nn, "Linear", _Linear)


def backbone(folder, net):
    """torchvision's AlexNet (``alex``) or VGG-16 (``vgg``) of `small_classifiers`, under the published file's name."""
    name, file = BACKBONES[net].model, BACKBONES[net].file
    with torch.device("meta"), small_classifiers():
        empty = getattr(torchvision.models, name)(weights=None).state_dict()
    rng = torch.Generator().manual_seed(5)
    weights = {
        key: torch.randn(value.shape, generator=rng) * (2 / value[0].numel()) ** 0.5 * (value.ndim > 1)
        for key, value in empty.items()
    }
    torch.save(weights, folder / file)
    return folder / file


def no_package(monkeypatch, folder):
    """As on a machine without the package that ships LPIPS's backbones, and nothing of it in ``folder``."""
    monkeypatch.setattr(backbones, "folder", lambda: folder / "converted")
    monkeypatch.setattr(backbones, "package_files", lambda: iter(()))
