"""Everything to measure networks on a machine that has a phone, as one folder: no Python, no mdrepro needed there.

    bundle/run.sh            pushes each network, runs benchmark_model on CPU and GPU, writes results/
    bundle/models/*.tflite   the networks
    bundle/checks/NETWORK/   its fixed inputs (.bin) and PyTorch's output, where the export wrote them
    bundle/manifest.json     names, sizes and SHA-256 of the networks, and what each says of itself
    bundle/README.txt

What comes back in results/ is read by `collect`: of each network on each accelerator what benchmark_model printed and
the outputs of the runs that it timed, the CPU's first, as a control.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mdrepro.core.errors import BadInput
from mdrepro.core.files import replacing_folder, sha256, write_json
from mdrepro.core.reading import checked, inside, read_bytes, read_json, read_text
from mdrepro.export import flatbuffer, reference
from mdrepro.latency import benchmark_model, file_metadata, imports
from mdrepro.latency.adb import PROPERTIES, REMOTE, described
from mdrepro.latency.file_metadata import FileMetadata
from mdrepro.latency.records import Check, Device, Record, record

MANIFEST, RESULTS, CHECKS = "manifest.json", "results", "checks"
REFERENCE = f"network{reference.SUFFIX}"
RUN = """#!/bin/sh
# Usage: sh run.sh BENCHMARK_MODEL [SERIAL]
# BENCHMARK_MODEL is LiteRT's tool for the phone, such as android_aarch64_benchmark_model.
set -eu
cd "$(dirname "$0")"
tool=${{1:?name the benchmark_model for the phone}}
[ -f "$tool" ] || {{ echo "error: $tool: no such file" >&2; exit 2; }}
phone() {{ if [ -n "${{serial:-}}" ]; then adb -s "$serial" "$@"; else adb "$@"; fi; }}
serial=${{2:-}}
phone get-state >/dev/null || {{ echo "error: no phone takes commands: adb devices" >&2; exit 2; }}
mkdir -p {results}
for name in {properties}; do echo "$name=$(phone shell getprop "$name" | tr -d '\\r')"; done > {results}/device.txt
phone shell mkdir -p {remote}
phone push "$tool" {remote}/benchmark_model
phone shell chmod 755 {remote}/benchmark_model
for model in models/*.tflite; do
  file=$(basename "$model")
  phone push "$model" {remote}/"$file"
  check=checks/${{file%.tflite}}
  inputs=
  if [ -d "$check" ]; then
    for input in "$check"/input-*.bin; do phone push "$input" {remote}/"${{input##*/}}"; done
    inputs="$(cat "$check"/options) --output_filepath={remote}/output.bin"
  fi
  for how in {accelerators}; do
    case $how in
{cases}
    esac
    out={results}/${{file%.tflite}}.$how.txt
    back=${{out%.txt}}.bin
    rm -f "$out" "$back"
    phone shell rm -f {remote}/output.bin
    echo "$file on $how"
    phone shell {remote}/benchmark_model --graph={remote}/"$file" {options} $options $inputs > "$out.part" 2>&1 \\
      || echo "failed: see $out" >&2
    mv "$out.part" "$out"
    if [ -n "$inputs" ]; then
      phone pull {remote}/output.bin "$back" >/dev/null || echo "no output came back" >&2
    fi
  done
  phone shell rm -f {remote}/"$file"
done
phone shell rm -rf {remote}
echo "done: carry this folder back, then: mdrepro latency --collect THIS_FOLDER"
"""
README = """Latency of {count} networks on an Android phone

1. A machine with adb, a phone with USB debugging, and LiteRT's benchmark_model for Android:
   https://ai.google.dev/edge/litert/models/measurement
2. sh run.sh android_aarch64_benchmark_model
3. Carry this folder back, then: mdrepro latency --collect THIS_FOLDER

Let the phone cool down, take it out of its case, set it to flight mode, and keep it above 50 % of charge.
"""
THREADS = 4


class _Packed(BaseModel):
    """A network in the manifest; bundles of older versions say nothing about it, or its check."""

    name: str
    sha256: str
    about: dict[str, Any] = {}
    inputs: list[str] = []  # of its check, in the interpreter's order; none where there is no check


def write(files: Sequence[Path], folder: Path, metadata: Callable[[Path], FileMetadata] = file_metadata.read) -> Path:
    """Write a bundle of ``.tflite`` files; those of ``mdrepro export`` are packed under their model's name too.

    Inputs and PyTorch's outputs that the export wrote beside a file are packed, too.

    Raises BadInput for no files, a file that is missing or no ``.tflite``, two of one name, an unknown component,
    inputs and outputs of another file, or a folder that is there.
    """
    if folder.exists():
        raise BadInput(f"{folder} exists already: name a new folder")
    if not files:
        raise BadInput("a bundle needs networks: name one .tflite or more")
    for file in files:
        if not file.is_file() or file.suffix != ".tflite":
            raise BadInput(f"{file}: expected an existing .tflite file")
    each = [metadata(file) for file in files]
    names = [_name(file, one) for file, one in zip(files, each, strict=True)]
    if len(set(names)) < len(files):
        raise BadInput("two networks have the same file name: rename one")
    with replacing_folder(folder) as new:
        (new / "models").mkdir()
        models = []
        for file, name, one in zip(files, names, each, strict=True):
            shutil.copyfile(file, new / "models" / name)
            packed = {"name": name, "bytes": file.stat().st_size, "sha256": sha256(file), "about": one.fields()}
            models.append(packed | {"inputs": _write_check(file, new / CHECKS / Path(name).stem)})
        write_json(new / MANIFEST, {"format": 1, "threads": THREADS, "models": models})
        (new / "run.sh").write_text(_script(), encoding="utf-8")
        (new / "README.txt").write_text(README.format(count=len(files)), encoding="utf-8")
        (new / "run.sh").chmod(0o755)
    return folder


def _write_check(file: Path, folder: Path) -> list[str]:
    """Inputs and output of a network's check, and benchmark_model's options for them; the inputs' names, or none."""
    known = reference.read(file)
    if known is None:
        return []
    names = flatbuffer.input_order(file)
    if set(names) != set(known.inputs):
        raise BadInput(f"{reference.path(file)} has inputs {', '.join(known.inputs)}: expected {', '.join(names)}")
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        (folder / f"input-{number}.bin").write_bytes(known.inputs[name].tobytes())
    shutil.copyfile(reference.path(file), folder / REFERENCE)
    options = benchmark_model.inputs([known.inputs[name].shape for name in names], REMOTE)
    (folder / "options").write_text(" ".join(options) + "\n")
    return names


def _name(file: Path, metadata: FileMetadata) -> str:
    """With model and batch, by which files of different systems differ; of characters that no shell takes apart."""
    batch = f"-batch{metadata.batch}" if metadata.batch > 1 else ""
    whole = file.stem if metadata.model == file.stem else f"{metadata.model}-{file.stem}{batch}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", whole).lstrip(".-") + file.suffix


def _script() -> str:
    return RUN.format(
        results=RESULTS,
        properties=" ".join(PROPERTIES),
        remote=REMOTE,
        accelerators=" ".join(benchmark_model.ACCELERATORS),
        cases="\n".join(
            f"      {name}) options='{option}' ;;" for name, option in benchmark_model.ACCELERATORS.items()
        ),
        options=" ".join(benchmark_model.options(THREADS)),
    )


def collect(folder: Path) -> tuple[list[Record], dict[str, str]]:
    """What a bundle whose ``run.sh`` ran brought back.

    Returns:
        records, marked as measured, as our own script ran on our own files, each with the check of its outputs where
        the bundle has one; and the runs without a result, with why.

    Raises BadInput for no bundle, no results, or a network that is missing or not the one that was packed.
    """
    source = folder / MANIFEST
    manifest = read_json(source, dict[str, Any])
    other = f"{folder}: no bundle of `mdrepro latency --bundle`"
    threads = checked(manifest.get("threads"), int, f"{other}: threads")
    models = checked(manifest.get("models"), list[_Packed], f"{other}: models", strict=None)
    if manifest.get("format") != 1 or not models or len({one.name for one in models}) < len(models):
        raise BadInput(other)
    device = _device(folder / RESULTS / "device.txt")
    collected, failed = [], {}
    for packed in models:
        path, digest = inside(folder / "models", packed.name, source), packed.sha256
        name = path.stem
        try:
            fields = FileMetadata(**{"model": name} | packed.about).fields()
        except TypeError as error:
            raise BadInput(f"{source}: {name}: {error}") from None
        if not path.is_file() or sha256(path) != digest:
            raise BadInput(f"{path} is {'not the file that was packed' if path.is_file() else 'missing'}")
        known_check, control = _packed_check(folder / CHECKS / name, packed, path), None
        for accelerator in benchmark_model.ACCELERATORS:
            file = folder / RESULTS / f"{name}.{accelerator}.txt"
            if not file.is_file():
                failed[f"{name} on {accelerator}"] = "it did not run"
                continue
            known = {**fields, "device": device, "threads": threads, "model_sha256": digest}
            try:
                found = imports.read("benchmark-model", file, known)
            except BadInput as error:
                failed[f"{name} on {accelerator}"] = str(error)
                continue
            one = found[0]
            if known_check:
                one = one.model_copy(
                    update={"check": _check(known_check, file, fields["precision"], accelerator, control)}
                )
                control = one.check.psnr_db if accelerator == "cpu" and one.check else control
            if len(found) > 1 or benchmark_model.refused(accelerator, one.accelerator):
                several = f"{file} holds {len(found)} runs: run.sh writes one"
                failed[f"{name} on {accelerator}"] = several if len(found) > 1 else benchmark_model.REFUSED
                continue
            collected.append(record({**one.model_dump(), "origin": "measured"}, str(file)))
    return collected, failed


def _packed_check(folder: Path, packed: _Packed, network: Path) -> reference.Reference | None:
    """A network's check. Raises BadInput where it was packed and is not there, or is of another network."""
    if not packed.inputs:
        return None
    known = reference.read_from(folder / REFERENCE, packed.sha256, network.name)
    if set(packed.inputs) != set(known.inputs):
        raise BadInput(f"{folder / REFERENCE} has other inputs than were packed")
    return known


def _check(known: reference.Reference, printed: Path, precision: str, accelerator: str, control: float | None) -> Check:
    """The outputs that came back beside what was printed."""
    least, file = reference.least(precision, accelerator), printed.with_suffix(".bin")
    if not file.is_file():
        return Check(least_db=least, reason="no output came back; an older benchmark_model writes none")
    try:
        return Check(psnr_db=known.psnr(read_bytes(file)), least_db=least, control_db=control)
    except BadInput as error:
        return Check(least_db=least, reason=str(error))


def _device(file: Path) -> Device:
    if not file.is_file():
        raise BadInput(f"{file} is missing: run.sh has not run in this bundle")
    values = dict(line.split("=", 1) for line in read_text(file).splitlines() if "=" in line)
    return described([values.get(name, "").strip() for name in PROPERTIES], "an Android phone")
