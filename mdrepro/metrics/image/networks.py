"""Networks that features come from, loaded from checked files: FID's and torchvision's Inception, DINOv2, the scene
reader. Those of CLIP are in `mdrepro.metrics.image.clip`."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.metrics.image import inception, weights
from mdrepro.metrics.image.catalogue import INCEPTION_SCRIPT, EncoderRow
from mdrepro.metrics.image.weights import Checked
from mdrepro.models import bars
from mdrepro.models.safe import refuse_pickles


@dataclass(frozen=True)
class Texts:
    """Features of texts, (n, width), and how many of the texts were cut to the network's tokens."""

    features: Tensor
    cut: int
    tokens: int


@dataclass(frozen=True)
class Network:
    """Weights that are loaded.

    ``features``: from prepared images (b, 3, size, size) to (b, width). ``prepare``: its package's own preparation of a
    uint8 image (3, h, w), and its description.
    """

    what: str  # network and layer
    weights: Checked
    size: int  # height and width of its input, px
    width: int  # of its features
    features: Callable[[Tensor], Tensor]
    prepare: tuple[Callable[[Tensor], Tensor], str] | None = None
    texts: Callable[[Sequence[str]], Texts] | None = None  # for CLIP
    module: nn.Module = field(default_factory=nn.Identity)  # what ``to`` moves to a device


def _folder(source: str, download: bool) -> Path:
    """The folder of a transformers model: itself, or where the hub's cache has it."""
    from huggingface_hub import snapshot_download

    if Path(source).is_dir():
        if not (Path(source) / "config.json").is_file():
            raise BadInput(f"{source} holds no config.json: expected a folder that transformers saved")
        return Path(source)
    wanted = ["*.json", "*.txt", "model.safetensors", "model-*-of-*.safetensors"]
    try:
        return Path(snapshot_download(source, allow_patterns=wanted, local_files_only=not download))
    except Exception as error:  # the hub's client raises many kinds, for names, network and cache
        reason = str(error).strip().partition("\n")[0]
        raise NotAttempted(
            f"{source} is no folder here and not in the hub's cache ({reason}); get it with --download, or with "
            f"`hf download {source} --local-dir FOLDER` and --weights FOLDER"
        ) from error


def pretrained(kind: Any, source: str, sha256: str | None, download: bool, lacks: str) -> tuple[Path, Checked, Any]:
    """A transformers model of a class ``kind``, from a folder or a name on the hub: its folder, weights and itself.

    ``lacks``: what to say where weights are missing; {} stands for how many. Raises BadInput for no configuration or
    weights, pickles, others than ``sha256``, or not all that the class has, and NotAttempted where it is neither a
    folder nor in the cache, and was not to be, or could not be, downloaded.
    """
    path = _folder(source, download)
    refuse_pickles(path)
    checked = weights.network(path, sha256, source)
    with bars.hidden():
        model, info = kind.from_pretrained(path, use_safetensors=True, output_loading_info=True)
    if info["missing_keys"]:
        raise BadInput(f"{source} does not hold {lacks.format(len(info['missing_keys']))}")
    return path, checked, model


def inception_v3(which: EncoderRow, source: str | None, sha256: str | None, download: bool) -> Network:
    assert which.file is not None
    path = None if source is None else weights.file_of(source)
    tensorflow = which.family == "inception"
    if path is not None and path.is_file() and weights.is_script(path):
        if which.name != "clean":
            raise BadInput(f"{path} is a TorchScript program: expected that of clean-fid, for the encoder clean")
        return _script(path, sha256)
    checked = weights.find(which.file, path, sha256=sha256, download=download)
    model = inception.Inception(weights.state_dict(checked.path), tensorflow=tensorflow)
    what = "Inception 2015-12-05, pool3" if tensorflow else "Inception v3 of torchvision, IMAGENET1K_V1, pooled"
    return Network(what, checked, inception.SIZE, inception.WIDTH, model, module=model)


def _script(path: Path, sha256: str | None) -> Network:
    """clean-fid's file is a program, so it runs only if its hash is the published one, or one that the user names."""
    checked = weights.check(path, INCEPTION_SCRIPT.sha256, sha256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch gives TorchScript up; clean-fid's file stays what it is
        model = torch.jit.load(path, map_location="cpu")
    if not hasattr(model, "layers"):
        raise BadInput(f"{path} has no part called layers: expected clean-fid's {INCEPTION_SCRIPT.names[0]}")

    def features(x_bchw: Tensor) -> Tensor:
        return model.layers(x_bchw).flatten(1)

    width = int(features(torch.zeros(1, 3, inception.SIZE, inception.SIZE)).shape[1])
    return Network("Inception 2015-12-05, pool3, TorchScript", checked, inception.SIZE, width, features, module=model)


def dinov2(source: str, sha256: str | None, download: bool) -> Network:
    from transformers import Dinov2Model

    _, checked, model = pretrained(Dinov2Model, source, sha256, download, "DINOv2's weights: {} are missing")

    width = model.config.hidden_size
    what = f"DINOv2 of {model.config.num_hidden_layers} layers, width {width}, class token"
    return Network(what, checked, 224, width, lambda x_bchw: model(x_bchw).last_hidden_state[:, 0], module=model)


def scene_reader(source: str | None, sha256: str | None) -> Network:
    from mdrepro.models.scenes.reader import SIZE, SceneReader

    if source is None or not Path(source).is_dir():
        raise BadInput(f"--weights {source}: expected the folder of a scene reader, as `mdrepro train` makes it")
    checked = weights.network(Path(source), sha256, Path(source).name)
    model = SceneReader.from_pretrained(source)

    def prepare(x_3hw: Tensor) -> Tensor:
        if x_3hw.shape[1:] != (SIZE, SIZE):
            raise BadInput(f"an image is {tuple(x_3hw.shape[1:])} px: the scene reader takes {SIZE} x {SIZE} alone")
        return x_3hw

    what, own = "scene reader, mean features", (prepare, f"{SIZE} px as they are")
    return Network(what, checked, SIZE, model.config.width, model.features, own, module=model)
