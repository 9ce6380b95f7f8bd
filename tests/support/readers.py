"""The readers of the package, each with valid files, and what its hash or form rules out."""

import csv
import dataclasses
import hashlib
import io
import json
import math
import pickle
import tarfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from pydantic import BaseModel
from safetensors.torch import save_file
from torch import Tensor, nn

from mdrepro.core import reading
from mdrepro.data import captions, image_captions, pixels, prompts, webshards
from mdrepro.export import flatbuffer, reference, runner
from mdrepro.latency import benchmark_model, bundle, imports, records
from mdrepro.metrics.cost.block_latency import LatencyTable
from mdrepro.metrics.image import backbones, images, weights
from mdrepro.metrics.image.statistics import Convention, Statistics
from mdrepro.models import safe, text
from mdrepro.models.pipeline import MobileDiffusionPipeline
from mdrepro.reproduce.workflow import parameters, results
from mdrepro.sampling import manifest
from mdrepro.training.engine import checkpoint, curve, latent_cache
from mdrepro.training.evolution import action_log
from mdrepro.training.recipes import registry
from mdrepro.training.runs import model_folders, publish, session, settings, store
from tests.support import dialogue, tiny_evolution
from tests.support import tiny_pipeline as tiny
from tests.support.checkout import PARAMETERS, notebook
from tests.support.reports import ABOUT, AI_HUB, MLPERF, PLAIN
from tests.support.tflite_files import component, exported

EVERY = ("flip", "block", "cut", "longer", "other", "json", "lines", "header")
FORM = ("cut", "longer")
"""Damage that changes the length of a file whose form says where it ends."""
RECIPE = "shapes-base"
Make, Read = Callable[[Path], Any], Callable[[Path], Any]


@dataclass(frozen=True)
class Reader:
    """``make`` writes valid files into an empty folder; ``read`` reads them as one value.

    Damaged are those that match ``files``. After damage that is ``ruled_out`` the value, if any, must be as before.
    ``share`` of the cases: one that loads networks takes ten times as long as others, and has fewer.
    """

    make: Make
    read: Read
    ruled_out: Collection[str] = ()
    files: str = "*"
    share: float = 1.0


def plain(value: Any) -> Any:
    """A value that can be compared, in which every number is finite; of tensors, arrays and networks their hashes."""
    if isinstance(value, nn.Module):
        return plain(dict(value.state_dict()))
    if isinstance(value, Tensor):
        value = value.detach().float().numpy() if value.dtype == torch.bfloat16 else value.detach().numpy()
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest())
    if isinstance(value, Image.Image):
        return (value.size, hashlib.sha256(value.tobytes()).hexdigest())
    if isinstance(value, BaseModel):
        value = value.model_dump()
    elif dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        assert math.isfinite(value), f"{value} is not finite"
    return value


def file_of(name: str, content: str | bytes | Callable[[], bytes]) -> Make:
    """Writes one file."""

    def make(folder: Path) -> None:
        given = content() if callable(content) else content
        (folder / name).write_bytes(given.encode() if isinstance(given, str) else given)

    return make


def one(folder: Path) -> Path:
    """The only file of a folder."""
    (file,) = (file for file in folder.iterdir() if file.is_file())
    return file


def of_file(read: Callable[[Path], Any]) -> Read:
    """Reads the only file."""
    return lambda folder: read(one(folder))


def picture(kind: str, **options: Any) -> Callable[[], bytes]:
    def encoded() -> bytes:
        values = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
        file, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(values).save(file, kind, exif=exif, **options)
        return file.getvalue()

    return encoded


def lines(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


HOW = captions.Preparation(4, broken=0.5)
COCO = {
    "images": [{"id": 3, "file_name": "a.png"}, {"id": "b", "file_name": "in/b.png"}],
    "annotations": [{"image_id": 3, "caption": "a cat"}, {"image_id": "b", "caption": "a dog"}],
}
ROUND = action_log.Round(
    1,
    ("remove down-1 resnet 0",),
    5.0,
    7.0,
    6.0,
    0.5,
    0.4,
    (action_log.Candidate("mid", 0.4, 0.1, 1.0, 0.1),),
    {"a": 1},
)


def captioned(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(picture("PNG")())
    (folder / captions.METADATA).write_text(lines(*({"file_name": f"{x}.png", "text": f"a {x}"} for x in "ab")))


def shard(folder: Path) -> None:
    members = {"a.png": picture("PNG")(), "a.txt": b"a cat", "b.jpg": picture("JPEG")(), "b.json": b'{"text": "a dog"}'}
    with tarfile.open(folder / "0.tar", "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def table(**options: str) -> Callable[[], bytes]:
    def encoded() -> bytes:
        text = io.StringIO()
        csv.writer(text, **options).writerows([["image", "prompt"], ["a.png", "a cat, red"], ["b.png", 'a "dog"']])  # type: ignore[arg-type]
        return text.getvalue().encode()

    return encoded


def batch(examples: captions.CaptionedPictures) -> Any:
    return examples.fingerprint, examples.batch(range(len(examples)))


def statistics(folder: Path) -> None:
    features = np.random.default_rng(0).normal(size=(9, 4))
    Statistics.of(features, Convention("scenes", "0" * 64, "64 px")).save(folder / "s.safetensors")


def archive(folder: Path) -> None:
    features = np.random.default_rng(0).normal(size=(9, 4))
    Statistics.of(features, Convention("scenes", "0" * 64, "64 px")).save(folder / "s.npz")


def foreign_archive(folder: Path) -> None:
    features = np.random.default_rng(0).normal(size=(9, 4))
    np.savez_compressed(folder / "s.npz", mu=features.mean(axis=0), sigma=np.cov(features, rowvar=False))


def statistics_read(folder: Path) -> Any:
    known = Statistics.load(one(folder))
    return known.n, known.counted, known.mean, known.covariance, known.convention


def latency_table(folder: Path) -> None:
    every = {block.name: 1.0 for block in tiny_evolution.UNTOUCHED}
    tiny_evolution.table(every, every, 4.0).save(folder / "latency.json")


def pickled(folder: Path) -> None:
    torch.save({"a.weight": torch.ones(3, 4), "a.bias": torch.zeros(3)}, folder / "w.pth")


def arrays(folder: Path) -> None:
    tree = {"a": {"kernel": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32)}}
    (folder / "w.pickle").write_bytes(pickle.dumps(tree, protocol=4))


def tensors(folder: Path) -> None:
    save_file({"a": torch.ones(3, 4), "b": torch.arange(3)}, folder / "w.safetensors", metadata={"format": "pt"})


def checkpoints(folder: Path) -> None:
    checkpoint.save(folder, 7, {"unet": {"a": torch.ones(4)}, "unet.ema": {"a": torch.zeros(4)}}, {"seconds": 1.5})


def last_checkpoint(folder: Path) -> Any:
    found = checkpoint.latest(folder)
    assert found is not None
    return found.step, found.state, found.tensors("unet"), found.tensors("unet.ema")


class Pictures:
    """Two samples of noise."""

    fingerprint = "data"

    def __len__(self) -> int:
        return 2

    def batch(self, indices: Any) -> dict[str, Any]:
        noise = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        return {"pixels": noise[list(indices)], "caption": [["a red star", "a star"][i] for i in indices]}


def cache(folder: Path) -> None:
    parts = tiny.pipeline()
    latent_cache.build(Pictures(), parts.vae, parts.tokenizer, parts.text_encoder, folder, dtype="float32")
    (folder / ".lock").unlink()


def cached(folder: Path) -> Any:
    known = latent_cache.load(folder)
    return known.fingerprint, known.null_text, known.batch([0, 1])


def run(folder: Path) -> None:
    tensors(folder)
    session.write_record(folder, {"key": "0" * 12, "dirty": False, "commit": "0" * 40, "changed_files": []})
    record = json.loads((folder / session.RECORD).read_text())
    record[store.SHARED] = {"unet": {"recipe": "shapes-8", "sha256": "0" * 64}}
    (folder / session.RECORD).write_text(json.dumps(record))


def record_of_run(folder: Path) -> Any:
    found = store.read(registry.get(RECIPE), folder)
    assert found is not None
    return found.record


def saved_unet(folder: Path) -> None:
    tiny.unet().save_pretrained(folder)


def saved_vae(folder: Path) -> None:
    AutoencoderKL(norm_num_groups=8, block_out_channels=(8,)).save_pretrained(folder)


def saved_text(folder: Path) -> None:
    parts = tiny.pipeline()
    parts.text_encoder.save_pretrained(folder)
    parts.tokenizer.save_pretrained(folder)


def tokenized(tokenizer: Any) -> Any:
    return tokenizer(["a red star", "blue"], padding="max_length", max_length=10)["input_ids"]


def encoder(folder: Path) -> Any:
    tokenizer, network = text.load(folder)
    return network, tokenized(tokenizer)


def whole_pipeline(folder: Path) -> Any:
    made = MobileDiffusionPipeline.from_pretrained(folder)
    return made.unet, made.vae, made.text_encoder, tokenized(made.tokenizer), dict(made.scheduler.config)


SETTINGS = {"pipeline": "p", "steps": 4, "images": 2}


def image_set(folder: Path) -> None:
    manifest.begin(folder, SETTINGS)
    for number in range(2):
        (folder / manifest.name(number)).write_bytes(picture("PNG")())
    manifest.end(folder, SETTINGS, ["a", "b"], [0, 1])


def image_set_read(folder: Path) -> Any:
    manifest.begin(folder, SETTINGS)
    known = manifest.Manifest.read(folder)
    known.check()
    return known, manifest.end(folder, SETTINGS, ["a", "b"], [0, 1])


def unfinished_set(folder: Path) -> None:
    image_set(folder)
    (folder / manifest.MANIFEST).unlink()


def bundled(folder: Path) -> None:
    file = exported(folder / "in", model="m", component="unet", precision="fp16", branches=1, resolution=64)
    bundle.write([file], folder / "out")
    file.unlink()
    results_folder = folder / "out" / bundle.RESULTS
    results_folder.mkdir()
    name = next((folder / "out" / "models").iterdir()).stem
    (results_folder / f"{name}.cpu.txt").write_text(dialogue.CPU)
    (results_folder / f"{name}.gpu.txt").write_text(dialogue.GPU)
    (results_folder / "device.txt").write_text("ro.product.model=Pixel 8\nro.build.version.release=14\n")


def tflite(folder: Path) -> None:
    exported(folder, model="m", component="unet", precision="fp16", branches=1, resolution=64)


def referenced(folder: Path) -> None:
    file = exported(folder, model="m", component="unet", precision="fp16", branches=1, resolution=64)
    reference.write(component(), file)


def exported_bundle(folder: Path) -> None:
    names = {name: f"{name}.tflite" for name in ("decoder", "text-encoder", "unet")}
    for file in names.values():
        (folder / file).write_bytes(file.encode())
    hashes = {name: hashlib.sha256(file.encode()).hexdigest() for name, file in names.items()}
    schedule = {"sampler": "ddim", "prediction": "epsilon", "levels": [0.99, 0.5, 0.01], "offset": 1, "clip": None}
    words = {"file": "tokenizer.json", "length": 10, "padding": 1, "unknown": 2}
    content = {"format": runner.FORMAT, "files": names, "sha256": hashes, "tokenizer": words, "schedule": schedule}
    content |= {"steps": 8, "guidance": 7.5}
    (folder / runner.bundle_name("fp32")).write_text(json.dumps(content))


def result(folder: Path) -> None:
    (folder / "a.csv").write_text("row\n")
    results.write(
        folder / "result.json", {"format": results.FORMAT, "table": "t", "rows": [{"value": 1.5}]}, folder, ["a.csv"]
    )


def setting(folder: Path) -> Any:
    texts = (folder / "text").read_text(errors="replace")
    return [
        settings.changed(registry.get(RECIPE), [f"{name}={texts}"]).plain()
        for name in ("loop.learning_rate", "loop.steps")
    ]


def read_imports(kind: str, about: dict[str, Any]) -> Read:
    return lambda folder: [{**found.model_dump(), "source": ""} for found in imports.read(kind, one(folder), about)]


XCODE = "model: unet\ncomponent: unet\ndevice: iPhone 15 Pro\nprediction_ms: 142.5\nload_ms: 900\nneural_engine: 310\n"
YAML = "a: [1, 2.5, true]\nb: {c: text, d: 2026-01-01}\n"
NOTEBOOK = json.dumps(notebook(PARAMETERS, "print(tier, factor, steps, models, photos, fail)"))

READERS: dict[str, Reader] = {
    "json": Reader(file_of("a.json", json.dumps(COCO)), of_file(reading.read_json), FORM),
    "json, typed": Reader(
        file_of("a.json", '{"a": 1.5, "b": 2.0}'), of_file(lambda f: reading.read_json(f, dict[str, float])), FORM
    ),
    "json lines": Reader(file_of("a.jsonl", lines(COCO, 1, "a")), of_file(reading.read_json_lines)),
    "yaml": Reader(file_of("a.yaml", YAML), of_file(lambda f: str(reading.read_yaml(f)))),
    "header": Reader(tensors, of_file(reading.read_header), FORM),
    "coco": Reader(file_of("c.json", json.dumps(COCO)), of_file(captions.listed), FORM),
    "captioned folder": Reader(captioned, lambda folder: batch(captions.folder(folder, HOW))),
    "shard": Reader(shard, lambda folder: batch(webshards.shards(str(folder / "0.tar"), HOW)), FORM),
    "prompts, text": Reader(file_of("p.txt", "a cat\n\na dog\n"), of_file(prompts.read)),
    "prompts, csv": Reader(file_of("p.csv", table()), of_file(prompts.read)),
    "prompts, jsonl": Reader(file_of("p.jsonl", lines({"prompt": "a cat"}, {"prompt": ""})), of_file(prompts.read)),
    "captions by name": Reader(
        file_of("c.jsonl", lines({"file_name": "a.png", "text": "a"}, {"file_name": "b.png", "text": "b"})),
        of_file(lambda f: image_captions.read(f, [f.with_name("a.png"), f.with_name("b.png")])),
    ),
    **{
        f"{name}, {kind.lower()}": Reader(file_of(f"a.{kind.lower()}", picture(kind)), of_file(read), held)
        for name, read in (("pixels", lambda f: pixels.rgb(f, str(f))), ("image", images.read))
        for kind, held in (("PNG", (*EVERY,)), ("JPEG", ()), ("WEBP", ()))
    },
    "statistics": Reader(statistics, statistics_read, FORM),
    "statistics, npz": Reader(archive, statistics_read, FORM),
    "statistics, foreign npz": Reader(foreign_archive, statistics_read, EVERY),
    "weights, safetensors": Reader(tensors, of_file(weights.state_dict), FORM),
    "weights, pth": Reader(pickled, of_file(weights.state_dict), ("cut",)),
    "arrays": Reader(arrays, of_file(backbones.read), ("cut",)),
    "latency table": Reader(latency_table, of_file(LatencyTable.load), FORM),
    "checkpoint": Reader(checkpoints, last_checkpoint, EVERY, "*/*"),
    "latent cache": Reader(cache, cached, EVERY),
    "curve": Reader(
        file_of("l.jsonl", lines({"step": 1, "a/loss": 0.5}, {"step": 2, "a/loss": 0.25})), of_file(curve.read)
    ),
    "record of a run": Reader(run, record_of_run, FORM, session.RECORD),
    "shared weights": Reader(
        run, lambda folder: publish._check_shared({"shapes-x": folder}, ["none"]), (), session.RECORD
    ),
    "action log": Reader(file_of(action_log.LOG, lines(dataclasses.asdict(ROUND))), action_log.read_log),
    "seconds spent": Reader(
        file_of(session.SPENT, '{"seconds": 1.5, "cpu_seconds": 3}'), of_file(lambda f: session._Spent(f, True).before)
    ),
    "setting": Reader(file_of("text", "1"), setting),
    "unet": Reader(saved_unet, lambda folder: model_folders.load(folder, "unet"), FORM, share=0.25),
    "vae": Reader(saved_vae, lambda folder: model_folders.load(folder, "vae"), FORM, share=0.5),
    "text encoder": Reader(saved_text, encoder, (), "*config.json", 0.5),
    "tokenizer": Reader(
        saved_text, lambda folder: tokenized(model_folders.load(folder, "tokenizer")), (), "tokenizer*.json"
    ),
    "scheduler": Reader(
        lambda folder: tiny.scheduler().save_pretrained(folder),
        lambda folder: dict(model_folders.load(folder, "scheduler").config),
    ),
    "pipeline": Reader(lambda folder: tiny.pipeline().save_pretrained(folder), whole_pipeline, (), "*.json", 0.25),
    "config": Reader(saved_unet, lambda folder: safe.check_config(folder / "config.json"), FORM, "config.json"),
    "image set": Reader(image_set, image_set_read, EVERY, "*.json"),
    "images of a set": Reader(image_set, image_set_read, EVERY, "*.png"),
    "unfinished set": Reader(
        unfinished_set, lambda folder: manifest.end(folder, SETTINGS, ["a", "b"], [0, 1]).complete, (), "*.png"
    ),
    "latency records": Reader(
        lambda folder: records.save(folder / "r.json", [records.record(PLAIN, "x")]), of_file(records.load), FORM
    ),
    "ai hub": Reader(file_of("r.json", json.dumps(AI_HUB)), read_imports("ai-hub", ABOUT), FORM),
    "mlperf mobile": Reader(file_of("r.json", json.dumps(MLPERF)), read_imports("mlperf-mobile", ABOUT), FORM),
    "xcode": Reader(file_of("r.yaml", XCODE), read_imports("xcode", {})),
    "benchmark model": Reader(
        file_of("r.txt", dialogue.GPU), of_file(lambda f: benchmark_model.reports(f.read_text(errors="replace")))
    ),
    "bundle": Reader(bundled, lambda folder: bundle.collect(folder / "out"), (), "out/*"),
    "tflite": Reader(tflite, of_file(lambda f: dataclasses.replace(flatbuffer.read(f), size=0)), ("cut",)),
    "reference": Reader(referenced, lambda folder: reference.read(folder / "unet-fp16.tflite"), FORM, "*.safetensors"),
    "exported bundle": Reader(exported_bundle, lambda folder: runner._read(folder / runner.bundle_name("fp32")), FORM),
    "result": Reader(result, lambda folder: results.read(folder / "result.json"), EVERY, "result.json"),
    "parameters": Reader(file_of("n.ipynb", NOTEBOOK), of_file(parameters.declared), FORM),
}
"""By name."""
