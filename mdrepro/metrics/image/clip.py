"""CLIP from transformers and from open_clip: features of images and of texts (`mdrepro.metrics.image.encoders`).

Texts of more tokens than the network takes are cut so that the end token stays, where CLIP reads its feature; `Texts`
counts them.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import functional as vision  # type: ignore[import-untyped]

from mdrepro.core.errors import BadInput, NotAttempted, check
from mdrepro.metrics.image import weights
from mdrepro.metrics.image.catalogue import DEFAULTS
from mdrepro.metrics.image.networks import Network, Texts, pretrained
from mdrepro.metrics.image.resizing import OPENAI

HPS_MODEL = "ViT-H-14"
BATCH = 64  # texts at once
VITS = {768: "B", 1024: "L", 1280: "H", 1408: "g", 1664: "bigG"}  # letters of vision transformers, by width


def transformers_clip(source: str, sha256: str | None, download: bool) -> Network:
    """A CLIP model that transformers saved, with its image processor and tokenizer; see `networks.pretrained`."""
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    path, checked, model = pretrained(CLIPModel, source, sha256, download, "a whole CLIP: {} weights are missing")
    processor, tokenizer = AutoImageProcessor.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    most = model.config.text_config.max_position_embeddings

    def tokens(texts: Sequence[str]) -> tuple[dict[str, Tensor], int]:
        lengths = [len(ids) for ids in tokenizer(list(texts), verbose=False).input_ids]
        ready = tokenizer(list(texts), padding=True, truncation=True, max_length=most, return_tensors="pt")
        inputs = {name: ready[name].to(model.device) for name in ("input_ids", "attention_mask")}
        return inputs, sum(length > most for length in lengths)

    def prepare(x_3hw: Tensor) -> Tensor:
        return processor(images=[x_3hw], return_tensors="pt")["pixel_values"][0]

    shape = model.config.vision_config
    size, width = shape.image_size, model.config.projection_dim
    what = f"CLIP ViT-{VITS.get(shape.hidden_size, shape.hidden_size)}/{shape.patch_size}, transformers"
    own = (prepare, f"{size} px, {type(processor).__name__} of transformers: {_steps(processor)}")
    texts = _in_batches(tokens, lambda inputs: model.get_text_features(**inputs).pooler_output, most)
    return Network(what, checked, size, width, lambda x: model.get_image_features(x).pooler_output, own, texts, model)


def _steps(processor: Any) -> str:
    steps = processor.to_dict()
    resample = getattr(steps.get("resample"), "name", steps.get("resample"))
    crop = f", crop {steps.get('crop_size')}" if steps.get("do_center_crop") else ""
    return f"resize {steps.get('size')}, resample {resample}{crop}, mean {steps.get('image_mean')}"


def open_clip(source: str, sha256: str | None, download: bool) -> Network:
    """A CLIP model of open_clip, with its transform and tokenizer.

    ``source``: ``MODEL/TAG``, both as `open_clip.list_pretrained` names them, or ``MODEL=FILE`` with a state dict.
    Raises BadInput for no such model, tag or file, and NotAttempted where open_clip is not installed, or the weights
    are not here.
    """
    package = _package("open-clip")
    name, _, file = source.partition("=")
    name, _, tag = (name, "", "") if file else source.rpartition("/")
    check("model of open_clip", name, package.list_models())
    path = weights.file_of(file) if file else _cached(package, name, tag, download)
    if not path.is_file():
        raise BadInput(f"{path} is no file of weights")
    checked = replace(weights.check(path, "", sha256), name=source)
    settings = package.pretrained.get_pretrained_cfg(name, tag) if tag else {}
    gelu = {"force_quick_gelu": bool(settings.get("quick_gelu"))} if settings else {}
    found, transform = _built(package, name, checked, gelu)
    steps = " ".join(str(step) for step in transform.transforms if not callable(getattr(step, "__code__", None)))
    own = (lambda x_3hw: transform(vision.to_pil_image(x_3hw)), f"{found.size} px, open_clip's transform: {steps}")
    return replace(found, prepare=own)


def hps(source: str, sha256: str | None, download: bool) -> Network:
    """Human Preference Score v2.1 (arXiv 2306.09341): open_clip's ViT-H/14 with hpsv2's weights and preparation.

    ``source``: a name on the hub as OWNER/NAME/FILE, a FILE, or ``MODEL=FILE`` for another model of open_clip. Raises
    BadInput for no such model or file, or weights of another, and NotAttempted where open_clip is not installed, or the
    weights are not here.
    """
    package = _package("hps")
    name, _, file = source.rpartition("=")
    check("model of open_clip", name := name or HPS_MODEL, package.list_models())
    path = _published(file, download) if file == DEFAULTS["hps"] else weights.file_of(file)
    if not path.is_file():
        raise BadInput(f"{path} is no file of weights")
    found, _ = _built(package, name, replace(weights.check(path, "", sha256), name=source), {})
    what = f"{found.size} px, longer side by bicubic on floats, antialiased, black borders, OpenAI's mean and deviation"
    own = (partial(_bordered, size=found.size), what)
    return replace(found, what=f"HPS v2.1, {found.what}", prepare=own)


def _bordered(x_3hw: Tensor, size: int) -> Tensor:
    """hpsv2's preparation of a uint8 image (3, h, w): float32 (3, size, size)."""
    lengths = x_3hw.shape[1:]
    inner = [round(length * size / max(lengths)) for length in lengths]
    x = vision.resize(x_3hw.float() / 255, inner, vision.InterpolationMode.BICUBIC, antialias=True)
    top, left = ((size - length) // 2 for length in inner)
    x = vision.pad(x, [left, top, size - inner[1] - left, size - inner[0] - top])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in OPENAI)
    return (x - mean) / std


def _package(encoder: str) -> Any:
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise NotAttempted(f"the encoder {encoder} needs the package open_clip: pip install open_clip_torch") from error


def _built(package: Any, name: str, checked: weights.Checked, options: Mapping[str, Any]) -> tuple[Network, Any]:
    """A model of open_clip with checked weights, without a preparation of images, and the package's transform."""
    model, _, transform = package.create_model_and_transforms(name, pretrained=None, **options)
    try:
        model.load_state_dict(weights.state_dict(checked.path), strict=True)
    except RuntimeError as error:
        raise BadInput(f"{checked.path} does not hold the weights of {name}: {str(error)[:200]}") from error
    tokenizer, most = package.get_tokenizer(name), model.context_length

    def tokens(texts: Sequence[str]) -> tuple[Tensor, int]:
        ids = tokenizer(list(texts))
        return ids.to(next(model.parameters()).device), sum(len(tokenizer.encode(text)) + 2 > most for text in texts)

    side = model.visual.image_size
    size = side[0] if isinstance(side, tuple) else side
    width = int(model.encode_text(tokenizer(["a"])).shape[1])
    texts = _in_batches(tokens, model.encode_text, most)
    what = f"CLIP {name}, open_clip"
    return Network(what, checked, size, width, model.encode_image, None, texts, model), transform


def _published(source: str, download: bool) -> Path:
    """A file on the hub, OWNER/NAME/FILE, from its cache."""
    from huggingface_hub import hf_hub_download

    repository, _, file = source.rpartition("/")
    try:
        return Path(hf_hub_download(repository, file, local_files_only=not download))
    except Exception as error:  # the hub's client raises many kinds
        reason = str(error).strip().partition("\n")[0]
        get = f"get it with --download, or `hf download {repository} {file} --local-dir FOLDER` and name the file"
        raise NotAttempted(f"the weights {source} are not in the hub's cache ({reason}); {get}") from error


def _cached(package: Any, name: str, tag: str, download: bool) -> Path:
    check(f"tag of {name}", tag, package.list_pretrained_tags_by_model(name))
    get = f"get it with --download, or name a file: --weights {name}=FILE"
    settings = package.pretrained.get_pretrained_cfg(name, tag)
    try:
        if download:
            return Path(package.download_pretrained(settings, prefer_hf_hub=True))
        if not settings.get("hf_hub"):
            raise FileNotFoundError("it was not to be downloaded")
        from huggingface_hub import try_to_load_from_cache

        hub = settings["hf_hub"].rstrip("/")
        kept = (try_to_load_from_cache(hub, end) for end in ("open_clip_model.safetensors", "model.safetensors"))
        path = next((path for path in kept if isinstance(path, str)), None)
        if path is None:
            raise FileNotFoundError(f"{hub} is not in the hub's cache")
        return Path(path)
    except Exception as error:  # the clients of hub and servers raise many kinds
        reason = str(error).strip().partition("\n")[0]
        raise NotAttempted(f"the weights {name}/{tag} of open_clip are not here ({reason}); {get}") from error


def _in_batches(
    tokens: Callable[[Sequence[str]], tuple[Any, int]], encode: Callable[[Any], Tensor], most: int
) -> Callable[[Sequence[str]], Texts]:
    @torch.inference_mode()
    def texts(lines: Sequence[str]) -> Texts:
        parts, cut = [], 0
        for start in range(0, len(lines), BATCH):
            inputs, too_long = tokens(lines[start : start + BATCH])
            parts.append(encode(inputs).float().cpu())
            cut += too_long
        return Texts(torch.cat(parts), cut, most)

    return texts
