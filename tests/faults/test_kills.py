"""Every writer, ended at each of its file operations: the old or the new is there, whole, and the next start cleans up.

``make faults`` tries every operation, with and without a system's call that exchanges two names; ``make test`` some.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mdrepro.core import files
from mdrepro.core.errors import BadInput
from mdrepro.core.files import ASIDE, replacing_folder, sweep, write_json
from mdrepro.core.reading import read_json
from mdrepro.data import webshards
from mdrepro.latency import bundle, records
from mdrepro.metrics.cost.block_latency import LatencyTable
from mdrepro.metrics.image import backbones
from mdrepro.metrics.image.statistics import Statistics
from mdrepro.sampling import generate, manifest
from mdrepro.training.engine import checkpoint, curve, latent_cache
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import model_folders, publish, session, store
from tests.support import readers, tiny_evolution
from tests.support import tiny_pipeline as tiny
from tests.support.kills import WHOLE, killed_at, report
from tests.support.readers import plain
from tests.support.recipe_rows import put
from tests.support.recipe_rows import tiny as tiny_rows
from tests.support.reports import PLAIN

torch.set_num_threads(1)
SOME = 11
"""Every how many operations of a writer end it in ``make test``."""


@dataclass(frozen=True)
class Writer:
    """``write`` puts the new in place of the old, from the start on; ``read`` gives None where nothing whole is there.

    ``lost``: the old may be gone without the new (a cache, which is computed again). ``between``: further values
    that are whole: what an earlier step of ``write`` left.
    """

    old: Callable[[Path], Any]
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    lost: bool = False
    between: Callable[[Path], Any] | None = None


def nothing(_: Path) -> None:
    pass


def tensors_of(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"unet": {"a": torch.full((300,), value)}, "unet.ema": {"a": torch.full((300,), -value)}}


def save_checkpoint(step: int) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        checkpoint.sweep(folder)
        checkpoint.save(folder, step, tensors_of(step), {"seconds": float(step)})

    return save


def two_checkpoints(folder: Path) -> None:
    for step in (1, 2):
        save_checkpoint(step)(folder)


def last_checkpoint(folder: Path) -> Any:
    found = checkpoint.latest(folder)
    return found and (found.step, found.state, found.tensors("unet"), found.tensors("unet.ema"))


class Board:
    """In place of tensorboard, whose files are its own."""

    def add_scalar(self, *_: Any) -> None:
        pass


def add_rows(*steps: int) -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        rows = curve.Curve(folder, steps[0] - 1, write=True)
        for step in steps:
            rows.add({"step": step, "denoiser/loss": 1 / step})

    return add


def spend(seconds: float) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        write_json(folder / session.SPENT, {"seconds": seconds, "cpu_seconds": seconds})

    return write


def train(value: float) -> Callable[[Path], None]:
    """As `session.run` ends, in the same steps."""

    def write(folder: Path) -> None:
        sweep(folder, "run")
        with replacing_folder(folder / "run") as new:
            model_folders.save({"scheduler": tiny.scheduler(beta_end=value)}, new)
            (new / "log.txt").write_text(str(value))
            session.write_record(new, {"key": "0" * 12, "value": value})

    return write


def trained(folder: Path) -> Any:
    record = store.record(folder / "run")
    if record is None:
        return None
    run = store.Run(readers.registry.get(readers.RECIPE), folder / "run", record)
    assert not store.altered(run)
    return record, dict(model_folders.load(folder / "run" / "scheduler", "scheduler").config)


class OtherPictures(readers.Pictures):
    fingerprint = "other data"


def build_cache(examples: Any) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        parts = PARTS.setdefault("parts", tiny.pipeline())
        latent_cache.build(examples, parts.vae, parts.tokenizer, parts.text_encoder, folder, dtype="float32", shard=1)

    return build


PARTS: dict[str, Any] = {}


def statistics(value: float) -> Callable[[Path], None]:
    return lambda folder: Statistics.of(torch.eye(5) * value).save(folder / "s.safetensors")


def latencies(value: float) -> Callable[[Path], None]:
    every = {block.name: value for block in tiny_evolution.UNTOUCHED}
    return lambda folder: tiny_evolution.table(every, every, 4.0).save(folder / "latency.json")


def phones(value: float) -> Callable[[Path], None]:
    one = records.record(PLAIN | {"times": {"runs": 3, "median_ms": value}}, "x")
    return lambda folder: records.save(folder / "r.json", [one])


def image_set(folder: Path) -> None:
    """As `generate.generate` does, which goes on with the images that are there."""
    manifest.begin(folder, readers.SETTINGS)
    for number in range(2):
        if not manifest.whole(folder / manifest.name(number)):
            generate._store(folder / manifest.name(number), torch.full((3, 8, 8), 9 * number, dtype=torch.uint8))
    manifest.end(folder, readers.SETTINGS, ["a", "b"], [0, 1])


def image_set_read(folder: Path) -> Any:
    if not (folder / manifest.MANIFEST).is_file():
        return None
    known = manifest.Manifest.read(folder)
    known.check()
    return known.text()


def fetch(folder: Path) -> None:
    (folder / "there").mkdir(exist_ok=True)
    readers.shard(folder / "there")
    webshards._fetch(str(folder / "there" / "0.tar"), folder / "here.tar")


def pack(folder: Path) -> None:
    if not (folder / "packed").exists():  # an existing one is refused
        file = folder / "a.tflite"
        file.write_bytes(b"12345678")
        bundle.write([file], folder / "packed")


def packed(folder: Path) -> Any:
    out = folder / "packed"
    if not out.exists():
        return None
    (entry,) = read_json(out / bundle.MANIFEST)["models"]
    assert files.sha256(out / "models" / entry["name"]) == entry["sha256"]
    return sorted(path.name for path in out.rglob("*"))


def if_there(name: str, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: read(folder / name) if (folder / name).exists() else None


WRITERS: dict[str, Writer] = {
    "json": Writer(
        lambda folder: write_json(folder / "a.json", {"a": 1}),
        lambda folder: write_json(folder / "a.json", {"a": 2}),
        if_there("a.json", read_json),
    ),
    "first json": Writer(
        nothing, lambda folder: write_json(folder / "in" / "a.json", {"a": 2}), if_there("in/a.json", read_json)
    ),
    "checkpoint": Writer(two_checkpoints, save_checkpoint(3), last_checkpoint),
    "first checkpoint": Writer(nothing, save_checkpoint(3), last_checkpoint),
    "curve": Writer(add_rows(1, 2), add_rows(3), lambda folder: curve.read(folder / curve.FILE)),
    "seconds": Writer(spend(1.0), spend(2.0), if_there(session.SPENT, read_json)),
    "trained run": Writer(train(0.01), train(0.02), trained),
    "first trained run": Writer(nothing, train(0.02), trained),
    "latent cache": Writer(
        build_cache(readers.Pictures()), build_cache(OtherPictures()), lambda folder: readers.cached(folder), lost=True
    ),
    "statistics": Writer(
        statistics(1), statistics(2), if_there("s.safetensors", lambda f: plain(readers.statistics_read(f.parent)))
    ),
    "latency table": Writer(latencies(1), latencies(2), if_there("latency.json", LatencyTable.load)),
    "latency records": Writer(phones(1), phones(2), if_there("r.json", records.load)),
    "image set": Writer(nothing, image_set, image_set_read),
    "fetched shard": Writer(nothing, fetch, if_there("here.tar", lambda f: list(webshards._index(f, 0)))),
    "bundle": Writer(nothing, pack, packed),
}


def value_of(writer: Writer, folder: Path) -> Any:
    try:
        return plain(writer.read(folder))
    except BadInput:
        assert writer.lost
        return None


def litter(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if ASIDE.fullmatch(path.name) or path.suffix in (".part", ".tmp")]


def end_everywhere(writer: Writer, tmp_path: Path, steps: int) -> tuple[int, set[str]]:
    """Ends the writer at every operation, or some; how many there were, and what was seen afterwards."""
    folder = tmp_path / "place"

    def begin() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        files._SWEPT.clear()  # as in a new process
        writer.old(folder)
        files._SWEPT.clear()

    begin()
    old = value_of(writer, folder)
    writer.write(folder)
    new = value_of(writer, folder)
    assert new is not None
    assert new != old
    number, seen = 0, set[str]()
    while True:
        begin()
        if not killed_at(number, writer.write, folder):
            break
        if files._exchanging() is None:
            for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
                sweep(path)  # as the next start does, for the moment between two renames
        found = value_of(writer, folder)
        assert found in (old, new) or (writer.lost and found is None), f"operation {number}: {found}"
        seen.add("new" if found == new else "old" if found == old else "nothing")
        writer.write(folder)
        assert value_of(writer, folder) == new, f"operation {number}: the next start"
        assert not litter(folder), f"operation {number}"
        number += steps
    return number // steps, seen


@pytest.mark.parametrize("exchange", [True, False] if WHOLE else [True], ids=lambda each: "one step" if each else "two")
@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_ended_anywhere_leaves_what_is_whole(
    name: str, exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webshards, "_open", lambda url: open(url, "rb"))  # noqa: SIM115
    monkeypatch.setattr(curve, "_board", lambda *_: Board())
    if not exchange:
        monkeypatch.setattr(files, "_exchanging", lambda: None)
    count, seen = end_everywhere(WRITERS[name], tmp_path, 1 if WHOLE else SOME)
    assert count >= (4 if WHOLE else 1)
    assert not WHOLE or {"old", "new"} <= seen
    report(f"kills: {name}{'' if exchange else ', by two renames'}", count)


@pytest.mark.skipif(not WHOLE, reason="make faults")
def test_published_checkpoints_are_the_old_or_the_new(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: dict[str, Recipe] = put(tiny_rows(), monkeypatch)
    run = store.load_or_train("t-reader")
    place = store.published_folder(run.recipe)
    (place / "reader").mkdir(parents=True)
    (place / "reader" / "a").write_text("an older one")
    session.write_record(place, {"key": "0" * 12})

    def whole() -> dict[str, Any]:
        found = store.read(rows["t-reader"], place)
        assert found is not None
        assert not store.altered(found)
        return found.record

    old, number, seen = whole(), 0, list[str]()
    kept = shutil.copytree(place, tmp_path / "kept")
    while killed_at(number, lambda _: publish.publish(["t-reader"]), place):
        seen.append("old" if whole() == old else "new")
        files._SWEPT.clear()
        publish.publish(["t-reader"])
        assert whole()["key"] == store.key(run.recipe)
        assert [path.name for path in place.parent.iterdir()] == ["t-reader"]
        shutil.rmtree(place)
        shutil.copytree(kept, place)
        number += 1
    assert set(seen) == {"old", "new"}
    report("kills: published checkpoint", number)


def test_converted_weights_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has the name of converted weights has the hash that `backbones.locate` asks for, or is not there."""
    monkeypatch.setattr(backbones, "folder", lambda: tmp_path / "converted")
    if backbones.locate("alex", tmp_path) is None:
        pytest.skip("the package with the weights is not installed")
    number, steps = 0, 1 if WHOLE else SOME
    while killed_at(number, lambda folder: backbones.find("alex", folder), tmp_path):
        kept = tmp_path / "converted" / "alexnet.safetensors"
        assert not kept.exists() or files.sha256(kept) == backbones.BACKBONES["alex"].kept_sha256
        files._SWEPT.clear()
        assert backbones.find("alex", tmp_path).path == kept
        assert [path.name for path in kept.parent.iterdir()] == [kept.name]
        shutil.rmtree(kept.parent)
        number += steps
    report("kills: converted weights", number)


def test_the_layer_ends_a_process_half_way_through_a_write(tmp_path: Path) -> None:
    """Seeded fault: a writer that is not atomic is seen to lose the old and to leave half of the new."""
    writer = Writer(
        lambda folder: (folder / "a.json").write_text(json.dumps({"a": 1})),
        lambda folder: (folder / "a.json").write_text(json.dumps({"a": 2})),
        lambda folder: json.loads((folder / "a.json").read_text() or "null"),
    )
    with pytest.raises((AssertionError, ValueError)):
        end_everywhere(writer, tmp_path, 1)
