"""What the command line does with networks to export: plain functions behind ``mdrepro export``."""

import importlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdrepro.core.errors import BadInput, unknown
from mdrepro.core.files import swap
from mdrepro.core.provenance import state
from mdrepro.export import bundle, components, files, parity
from mdrepro.export.components import COMPONENTS, Component, Model
from mdrepro.export.stages import Stages

TARGETS: Mapping[str, str] = {"litert": "mdrepro.export.litert", "coreml": "mdrepro.export.coreml"}
"""Formats: the module that makes them."""
PACKAGES = ("torch", "litert-torch", "ai-edge-litert", "ai-edge-quantizer", "coremltools")


def export(
    name: str,
    out: Path,
    *,
    target: str = "litert",
    wanted: Sequence[str] = (),
    precisions: Sequence[str] = ("fp32",),
    resolution: int | None = None,
    branches: int | None = None,
    decoder: str | None = None,
    threads: int | None = None,
    plain: bool = False,
) -> dict[str, Any]:
    """Export components of a model, each held to torch before it is written.

    Args:
        name: as in `components.find`.
        out: a folder; files are called ``unet-fp16.tflite``, and ones of the same name are replaced.
        target: a key of `TARGETS`.
        wanted: components; none for all three. All three of a checkpoint to LiteRT make a bundle for the runner.
        precisions: of weights, those that the target has.
        resolution, decoder: as in `components.find`.
        branches: as in `Model.component`.
        threads: of the exported network while it is compared; None for all cores.
        plain: leave all layers to the converter; see `mdrepro.export.litert.export`.

    Returns:
        what was written, as JSON values: for each file its hash, size, parity, operations, seconds and peak memory.

    Raises:
        BadInput: an argument that is not allowed, no space, or a network that the format cannot hold.
        NotAttempted: a package is missing, or a recipe is not trained.
        parity.GateMissed: a network is too far from torch's; nothing of it was written.
    """
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    if strange := [one for one in wanted if one not in COMPONENTS]:
        raise unknown("component", strange[0], COMPONENTS)
    form = importlib.import_module(TARGETS[target])
    chosen = [one for one in COMPONENTS if one in wanted or not wanted]
    kinds = list(dict.fromkeys(precisions))
    if not kinds:
        raise BadInput(f"precision: needed is one or more of {', '.join(form.PRECISIONS)}")
    model = components.find(name, resolution, decoder)
    head = _head(model, target)
    done: dict[str, Any] = {"model": model.name, "target": target, "weights": model.weights, "files": []}
    whole = chosen == list(COMPONENTS) and target == "litert" and model.pipeline is not None
    files.room(out, 0)
    with files.aside(out) as place:
        ready = place / "ready"
        ready.mkdir()
        for one in chosen:
            done["files"] += _one(model.component(one, branches), form, kinds, place, ready, head, threads, plain)
        if whole:
            done["bundles"] = [_bundle(model, ready, kind, head, threads) for kind in kinds]
        for file in sorted(ready.iterdir()):
            swap(file, out / file.name)
    return done


def _head(model: Model, target: str) -> dict[str, Any]:
    """What every file says of itself."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    now = state()
    return {
        "model": model.name,
        "target": target,
        "weights": model.weights,
        "licence": model.licence,
        "resolution": model.resolution,
        "commit": now["commit"],
        "dirty": now["dirty"],
        "versions": versions,
    }


def _one(
    component: Component,
    form: Any,
    precisions: Sequence[str],
    place: Path,
    ready: Path,
    head: Mapping[str, Any],
    threads: int | None,
    plain: bool,
) -> list[dict[str, Any]]:
    """One component in every precision: a file of each in ``ready``, and what is to be said of it."""
    told = dict(head) | {"component": component.name, "config": dict(component.config)} | dict(component.facts)
    files.room(place, sum(form.check(component, kind) for kind in precisions))
    done = []
    with Stages(f"{head['model']} {component.name}", form.stages(precisions)) as stages:
        for kind, file in form.export(component, precisions, place, told, stages, plain=plain):
            with stages.stage(f"comparing {kind}"):
                found = form.measure(file, component, threads)
            if isinstance(found, parity.Parity):
                parity.gate(component.name, kind, found)
            final = ready / f"{component.name}-{kind}{form.SUFFIX}"
            swap(file, final)
            apart = found.told() if isinstance(found, parity.Parity) else found
            done.append(
                {"component": component.name, "precision": kind, "file": final.name, "parity": apart}
                | form.describe(final)
            )
    for entry in done:
        entry |= {"seconds": stages.seconds, "peak_memory_gb": round(stages.peak / 1e9, 2)}
    return done


def _bundle(model: Model, ready: Path, precision: str, head: Mapping[str, Any], threads: int | None) -> dict[str, Any]:
    """Write a bundle of a precision's three files, and compare an image of it with torch's."""
    made = {one: ready / f"{one}-{precision}.tflite" for one in COMPONENTS}
    file = bundle.write(model, made, ready, precision, head)
    found = bundle.compare_images(model, file, threads=threads)
    parity.gate_image(precision, found["image"]["psnr_db"])
    return {"precision": precision, "file": file.name, **found}
