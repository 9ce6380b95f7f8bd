"""What each tier needs, whether this machine has it, and how to get it."""

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mdrepro.core.machine import hardware
from mdrepro.core.paths import relative, root
from mdrepro.data import coco, folders
from mdrepro.metrics.image.backbones import BACKBONES
from mdrepro.metrics.image.catalogue import INCEPTION, VIT_G
from mdrepro.papers.schema import Tier

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")


@dataclass(frozen=True)
class Finding:
    """One thing that a tier needs (``required``) or can use."""

    tier: Tier
    name: str
    found: bool
    required: bool
    detail: str
    remedy: str = ""


def browser() -> str | None:
    """The first headless-capable browser on the PATH."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def hub_checkpoints() -> Path:
    """The folder in which torchvision keeps downloaded weights (without importing torch)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser() / "hub" / "checkpoints"


def _hub_model(repository: str) -> bool:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    return (cache / f"models--{repository.replace('/', '--')}").is_dir()


def _quick() -> Iterator[Finding]:
    machine = hardware()
    version = platform.python_version()
    yield Finding("quick", "python", sys.version_info >= (3, 11), True, version, "install Python 3.11 or newer")
    cores = f"{machine['cores']} of {machine['cpu']}"
    yield Finding("quick", "cores", machine["cores"] >= 2, False, cores, "with one core the quick tier takes longer")
    memory = f"{machine['memory_gib']} GiB"
    yield Finding("quick", "memory", machine["memory_gib"] >= 6, True, memory, "6 GiB are needed")
    disk = shutil.disk_usage(root()).free / 2**30
    yield Finding("quick", "disk", disk >= 2, True, f"{disk:.0f} GiB free", "free 2 GiB")
    git = shutil.which("git") is not None
    yield Finding("quick", "git", git, False, "for provenance and publishing", "install git")
    yield Finding("quick", "browser", browser() is not None, False, "to test the report", "install chromium")
    for net, (model, name) in BACKBONES.items():
        fetch = f"python -c \"import torchvision; torchvision.models.{model}(weights='IMAGENET1K_V1')\""
        there = (hub_checkpoints() / name).is_file()
        yield Finding("quick", f"lpips-{net}", there, False, f"LPIPS backbone weights {name}", fetch)


def _larger() -> Iterator[Finding]:
    gpus = hardware()["gpus"]
    for tier, number in (("proxy", 1), ("paper", 8)):
        names = ", ".join(gpus) or "none"
        yield Finding(tier, "gpu", len(gpus) >= number, True, names, f"{number} CUDA GPU or more")  # type: ignore[arg-type]
    pictures = relative(folders.pictures())
    bring = f"link or put COCO's folder, pictures with metadata.jsonl, or WebDataset shards there, as {pictures}/*.tar"
    there = folders.pictures().is_dir() and any(folders.pictures().iterdir())
    yield Finding("proxy", "data", there, True, f"pictures with captions in {pictures}", bring)
    for name, source in (("clip-weights", folders.CLIP), ("sd15-weights", folders.SD15)):
        place = folders.weights(source)
        fetch = f"hf download {source} --local-dir {relative(place)}, or link a folder there"
        yield Finding("proxy", name, place.is_dir() or _hub_model(source), True, source, fetch)
    yield from _coco()
    adb = shutil.which("adb")
    yield Finding("paper", "android", adb is not None, False, adb or "adb not found", "install adb, connect a phone")
    apple = sys.platform == "darwin"
    yield Finding("paper", "apple", apple, False, "Core ML runs on macOS only", "run the latency bundle on a Mac")
    for module in ("litert_torch", "coremltools"):
        there = importlib.util.find_spec(module) is not None
        yield Finding("paper", module, there, False, "for export", "install mdrepro[export]")


def _coco() -> Iterator[Finding]:
    """Requirements of scoring on COCO: pictures and captions, and weights of both metrics."""
    for row in {row.year: row for row in coco.SETS.values()}.values():
        of = f"captions and pictures of COCO {row.year} val in {relative(coco.place())}"
        lacking = coco.lacks(row)
        yield Finding("proxy", f"coco-{row.year}", not lacking, True, of, lacking)
    weights = root() / "data" / "weights"
    there = any((folder / name).is_file() for folder in (weights, hub_checkpoints()) for name in INCEPTION.names)
    bring = f"it is downloaded when it is needed, or put {INCEPTION.url} into {relative(weights)}"
    yield Finding("proxy", "fid-weights", there, False, f"Inception of FID, {INCEPTION.names[0]}", bring)
    place = folders.weights(VIT_G[0])
    there = any((place / name).is_file() for name in VIT_G[1]) or _hub_model(VIT_G[0])
    fetch = f"hf download {VIT_G[0]} {VIT_G[1][0]} --local-dir {relative(place)}"
    bring = f"they are downloaded when they are needed, or {fetch}"
    yield Finding("proxy", "clip-score-weights", there, False, f"CLIP ViT-g/14, {VIT_G[0]}", bring)
    package = importlib.util.find_spec("open_clip") is not None
    yield Finding("proxy", "open_clip", package, True, "for the CLIP score", "pip install open_clip_torch")


def findings() -> list[Finding]:
    """All findings, tier by tier."""
    return [*_quick(), *_larger()]


def report() -> dict[str, Any]:
    """``{"tiers": {tier: {"ready", "findings": [...]}}}``; ``ready`` where nothing required is missing.

    The proxy tier needs what quick needs, and the paper tier what both need.
    """
    found = findings()
    tiers: dict[str, Any] = {}
    ready = True
    for tier in ("quick", "proxy", "paper"):
        own = [finding for finding in found if finding.tier == tier]
        ready = ready and all(finding.found or not finding.required for finding in own)
        tiers[tier] = {"ready": ready, "findings": [asdict(finding) for finding in own]}
    return {"tiers": tiers}
