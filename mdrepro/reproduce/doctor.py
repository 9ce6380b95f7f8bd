"""What each tier needs, whether this machine has it, and how to get it."""

import itertools
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mdrepro.core.machine import hardware
from mdrepro.core.paths import data, published, relative, root, runs
from mdrepro.data import coco, folders
from mdrepro.metrics.image import backbones
from mdrepro.metrics.image.catalogue import BACKBONES, INCEPTION, VIT_G
from mdrepro.papers import ledger
from mdrepro.papers.schema import TIERS, Tier

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")


@dataclass(frozen=True)
class Finding:
    """One thing that a tier needs (``required``) or can use."""

    tier: Tier
    name: str
    found: bool
    required: bool
    detail: str
    remedy: str


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


def _quick() -> Iterator[tuple[str, bool, bool, str, str]]:
    machine, free = hardware(), shutil.disk_usage(root()).free / 2**30
    cores, memory = machine["cores"], machine["memory_gib"]
    supported = (3, 11) <= sys.version_info < (3, 14)
    yield "python", supported, True, platform.python_version(), "install Python 3.11, 3.12 or 3.13"
    yield "cores", cores >= 2, False, f"{cores} of {machine['cpu']}", "with one core the quick tier takes longer"
    yield "memory", memory >= 6, True, f"{memory} GiB", "6 GiB are needed"
    yield "disk", free >= 2, True, f"{free:.0f} GiB free", "free 2 GiB"
    yield "git", bool(shutil.which("git")), False, "for provenance and publishing", "install git"
    yield "browser", bool(browser()), False, "to test the report", "install chromium"
    yield _checkpoints("quick")
    for net in BACKBONES:
        found = backbones.locate(net, hub_checkpoints())
        detail = f"LPIPS backbone weights: {found.origin if found else BACKBONES[net].file}"
        yield f"lpips-{net}", bool(found), False, detail, backbones.remedy(net)


def _checkpoints(tier: Tier) -> tuple[str, bool, bool, str, str]:
    """Whether checkpoints of the default tables are here, by the names of their folders."""
    wanted = ledger.default_recipes(tier)
    ours, here = published(tier) / "checkpoints", runs() / tier / "checkpoints"
    lacking = [n for n in wanted if not ((ours / n).is_dir() or any(here.glob(f"{n}-{'[0-9a-f]' * 12}")))]
    count = f"{len(wanted) - len(lacking)} of {len(wanted)} denoisers and scorers of the default tables, of all seeds"
    return "checkpoints", not lacking, False, count, f"mdrepro reproduce trains what is missing: {', '.join(lacking)}"


def _proxy() -> Iterator[tuple[str, bool, bool, str, str]]:
    gpus = hardware()["gpus"]
    yield "gpu", len(gpus) >= 1, True, ", ".join(gpus) or "none", "1 CUDA GPU or more"
    path, pictures = folders.pictures(), relative(folders.pictures())
    bring = f"link or put COCO's folder, pictures with metadata.jsonl, or WebDataset shards there, as {pictures}/*.tar"
    yield "data", path.is_dir() and any(path.iterdir()), True, f"pictures with captions in {pictures}", bring
    for name, source in (("clip-weights", folders.CLIP), ("sd15-weights", folders.SD15)):
        path = folders.weights(source)
        fetch = f"hf download {source} --local-dir {relative(path)}, or link a folder there"
        yield name, path.is_dir() or _hub_model(source), True, source, fetch
    for row in {row.year: row for row in coco.SETS.values()}.values():
        lacking = coco.lacks(row)
        what = f"captions and pictures of COCO {row.year} val in {relative(coco.folder())}"
        yield f"coco-{row.year}", not lacking, True, what, lacking
    weights = data() / "weights"
    there = any((folder / name).is_file() for folder in (weights, hub_checkpoints()) for name in INCEPTION.names)
    bring = f"it is downloaded when it is needed, or put {INCEPTION.url} into {relative(weights)}"
    yield "fid-weights", there, False, f"Inception of FID, {INCEPTION.names[0]}", bring
    model, names = VIT_G
    path = folders.weights(model)
    there = any((path / name).is_file() for name in names) or _hub_model(model)
    bring = f"they are downloaded when they are needed, or hf download {model} {names[0]} --local-dir {relative(path)}"
    yield "clip-score-weights", there, False, f"CLIP ViT-g/14, {model}", bring
    yield "open_clip", bool(find_spec("open_clip")), True, "for the CLIP score", "pip install open_clip_torch"


def _paper() -> Iterator[tuple[str, bool, bool, str, str]]:
    gpus, adb = hardware()["gpus"], shutil.which("adb")
    yield "gpu", len(gpus) >= 8, True, ", ".join(gpus) or "none", "8 CUDA GPU or more"
    yield "android", bool(adb), False, adb or "adb not found", "install adb, connect a phone"
    yield "apple", sys.platform == "darwin", False, "Core ML runs on macOS only", "run the latency bundle on a Mac"
    for module in ("litert_torch", "coremltools", "executorch"):
        yield module, bool(find_spec(module)), False, "for export", "install mdrepro[export]"


def findings() -> list[Finding]:
    """All findings, tier by tier."""
    tiers = zip(TIERS, (_quick(), _proxy(), _paper()), strict=True)
    return [Finding(tier, *row) for tier, rows in tiers for row in rows]


def report() -> dict[str, Any]:
    """``{"tiers": {tier: {"ready", "findings": [...]}}}``; ready: it and smaller tiers lack nothing required."""
    tiers: dict[str, Any] = {}
    ready = True
    for tier, own in itertools.groupby(findings(), lambda finding: finding.tier):
        found = list(own)
        ready = ready and all(finding.found or not finding.required for finding in found)
        tiers[tier] = {"ready": ready, "findings": [asdict(finding) for finding in found]}
    return {"tiers": tiers}
