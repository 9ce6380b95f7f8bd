"""Export as ``mdrepro export`` does it."""

import contextlib
import errno
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mdrepro.core import faults
from mdrepro.core.errors import BadInput, check
from mdrepro.core.files import swap, unfinished
from mdrepro.core.provenance import installed, state
from mdrepro.export import bundle, components, half, parity, reference
from mdrepro.export.components import COMPONENTS, Component, Model
from mdrepro.export.coreml import CoreML
from mdrepro.export.executorch import ExecuTorch
from mdrepro.export.litert import LiteRT
from mdrepro.export.stages import Stages
from mdrepro.export.target import Joining, Target

TARGETS: dict[str, Target] = {target.name: target for target in (LiteRT(), CoreML(), ExecuTorch())}  # formats by name
PACKAGES = ("torch", "litert-torch", "ai-edge-litert", "ai-edge-quantizer", "coremltools", "executorch")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    """Export components of a model, each checked against PyTorch before it is written.

    Each file is the old or the new one, whole, whenever the process ends. A bundle beside networks that are not its own
    is refused by their hashes; the same command writes it anew.

    Args:
        name, resolution, decoder: as in `components.find`.
        out: a folder; files are called ``unet-fp16.tflite``, and ones of the same name are replaced. Beside those of
            LiteRT are inputs and PyTorch's outputs, ``unet-fp16.reference.safetensors``, for `mdrepro latency`. All
            three components to ExecuTorch are one file, ``model-fp32.pte``.
        target: a key of `TARGETS`.
        wanted: components; none for all three. All three of a checkpoint to LiteRT make a bundle for the runner.
        precisions: of weights, those that the target has.
        branches: as in `Model.component`.
        threads: of the exported network while it is compared; None for all cores.
        plain: leave all layers to the converter, to see what writing them again saves.

    Returns what was written, as JSON values: for each file its hash, size, parity, operations, seconds and peak memory.

    Raises:
        BadInput: an argument that is not allowed, no space, or a network that the format cannot hold.
        NotAttempted: a package is missing, or a recipe is not trained.
        parity.GateMissed: a network is too far from PyTorch's; nothing of it was written.
    """
    form = TARGETS[check("target", target, TARGETS)]
    for one in wanted:
        check("component", one, COMPONENTS)
    selected = [one for one in COMPONENTS if one in wanted or not wanted]
    kinds = list(dict.fromkeys(precisions))
    if not kinds:
        raise BadInput(f"precision: expected one or more of {', '.join(form.precisions)}")
    for kind in kinds:
        check("precision", kind, form.precisions)
    model = components.find(name, resolution, decoder)
    head = _head(model, target)
    report: dict[str, Any] = {"model": model.name, "target": target, "weights": model.weights, "files": []}
    _make_room(out, 0)
    with _aside(out) as aside:
        ready = aside / "ready"
        ready.mkdir()
        for one in selected:
            component = model.component(one, branches)
            _make_room(aside, sum(form.check(component, kind) for kind in kinds))
            report["files"] += _export(form, component, kinds, ready, head, threads, plain)
        if isinstance(form, Joining) and len(selected) == len(COMPONENTS):
            for kind in kinds:
                _join(form, model, [each for each in report["files"] if each["precision"] == kind], ready, threads)
        if form.bundles and len(selected) == len(COMPONENTS) and model.pipeline is not None:
            report["bundles"] = [_bundle(model, ready, kind, head, threads) for kind in kinds]
        for file in sorted(ready.iterdir(), key=lambda file: (file.suffix == ".json", file.name)):
            swap(file, out / file.name)  # a bundle comes after its networks, whose hashes it holds
    return report


def audit(name: str, *, wanted: Sequence[str] = (), resolution: int | None = None) -> list[dict[str, Any]]:
    """Layers of a model's components that half precision spoils, as `mdrepro.export.half.audit` finds them.

    Args:
        name, resolution: as in `components.find`.
        wanted: components; none for all three.

    Returns for each component, as JSON values: ``psnr_db`` in emulated half precision and, as ``mended_db``, with the
    group norm that is made for it; ``findings`` and those left with that norm, ``mended``. dB are None where an output
    is not finite. Raises as `components.find`.
    """
    for one in wanted:
        check("component", one, COMPONENTS)
    model, entries = components.find(name, resolution), []
    for one in [each for each in COMPONENTS if each in wanted or not wanted]:
        component, entry = model.component(one), dict[str, Any](component=one)
        for layers, psnr, found in (
            (half.LAYERS, "psnr_db", "findings"),
            (half.HALF_LAYERS, "mended_db", "mended"),
        ):
            measured = parity.measure(component, half.run(component, layers), draws=1).psnr_db
            entry[psnr] = None if measured == -parity.CAP else measured
            findings = half.audit(component, layers)
            entry[found] = [
                asdict(each) | {"lost_db": each.lost_db if math.isfinite(each.lost_db) else None} for each in findings
            ]
        entries.append(entry)
    return entries


def _make_room(folder: Path, needed: int) -> None:
    """Make a folder. Raises BadInput if it cannot be made or has no room for so many bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise BadInput(f"{folder} cannot be written ({error.strerror}): choose another folder") from error
    if free < needed:
        raise BadInput(
            f"{folder} has {free / 1e9:.2f} GB free, and {needed / 1e9:.2f} GB are needed meanwhile: free some, or "
            "choose another folder"
        )


@contextlib.contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A hidden folder inside ``folder``, gone afterwards. Raises BadInput where the disk filled up meanwhile."""
    try:
        with unfinished(folder / "export") as hidden:
            hidden.mkdir()
            yield hidden
    except OSError as error:
        if error.errno in FULL:
            raise BadInput(f"{folder}: {faults.REMEDIES[error.errno]}") from error
        raise


def _head(model: Model, target: str) -> dict[str, Any]:
    """Metadata of every file."""
    described = {name: getattr(model, name) for name in ("weights", "licence", "resolution")}
    commit = {name: value for name, value in state().items() if name in ("commit", "dirty")}
    return {"model": model.name, "target": target} | described | commit | {"versions": installed(PACKAGES)}


def _export(
    target: Target,
    component: Component,
    precisions: Sequence[str],
    ready: Path,
    head: Mapping[str, Any],
    threads: int | None,
    plain: bool,
) -> list[dict[str, Any]]:
    """One component in every precision: a file of each in ``ready``, and a report on each."""
    metadata = {**head, "component": component.name, "config": dict(component.config), **component.facts}
    entries = []
    with Stages(f"{head['model']} {component.name}", 1 + 2 * len(precisions)) as stages:
        for kind, file in target.export(component, precisions, ready.parent, metadata, stages, plain=plain):
            with stages.stage(f"comparing {kind}"):
                measured = target.measure(file, component, threads)
            parity.gate(component.name, kind, measured)
            final = ready / f"{component.name}-{kind}{target.suffix}"
            swap(file, final)
            if target.bundles:  # what phones are held to
                reference.write(component, final)
            entry = {"component": component.name, "precision": kind, "file": final.name, "parity": asdict(measured)}
            entries.append(entry | target.describe(final))
    return [entry | {"seconds": stages.seconds, "peak_memory_gb": round(stages.peak / 1e9, 2)} for entry in entries]


def _join(target: Any, model: Model, entries: Sequence[dict[str, Any]], ready: Path, threads: int | None) -> None:
    """One file for a precision's components, in place of theirs, each compared with PyTorch in it again."""
    kind = entries[0]["precision"]
    files = {entry["component"]: ready / entry["file"] for entry in entries}
    target.join(files, joined := ready / f"model-{kind}{target.suffix}")
    for entry in entries:
        files[entry["component"]].unlink()
        measured = target.measure(joined, model.component(entry["component"]), threads)
        parity.gate(entry["component"], kind, measured)
        entry |= {"file": joined.name, "parity": asdict(measured), **target.describe(joined)}


def _bundle(model: Model, ready: Path, precision: str, head: Mapping[str, Any], threads: int | None) -> dict[str, Any]:
    """Write a bundle of a precision's three files, and compare an image of it with PyTorch's."""
    exported = {one: ready / f"{one}-{precision}.tflite" for one in COMPONENTS}
    file = bundle.write(model, exported, ready, precision, head)
    compared = bundle.compare_images(model, file, threads=threads)
    parity.gate_image(precision, compared["image"]["psnr_db"])
    return {"precision": precision, "file": file.name, **compared}
