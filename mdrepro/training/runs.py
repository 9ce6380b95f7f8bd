"""Trained runs: found by their recipe's hash, trained where they are missing, published, assembled to pipelines.

A run lies in ``papermill_runs/<tier>/checkpoints/<recipe>-<hash>/``: while it is trained, in ``work/`` inside; then as
diffusers folders beside ``training.json``, its record. A published one lies in ``results/<tier>/checkpoints/<recipe>/``
with weights in float16.
"""

import datetime
import fcntl
import hashlib
import json
import os
import platform
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mdrepro import paths
from mdrepro.errors import BadInput, unknown
from mdrepro.reproduce.provenance import hardware, state
from mdrepro.reproduce.results import aside, write_json
from mdrepro.training import parts, recipes, sources
from mdrepro.training.parts import Parts, Pretrained
from mdrepro.training.recipe import Recipe

RECORD = "training.json"
FORMAT = 1
WORK = "work"
FROM_SCRATCH = "MDREPRO_FROM_SCRATCH"
"""Environment variable that, when set, makes published checkpoints be ignored."""
ROWS_KEPT = 200
UNCOUNTED = ("checkpoint_every", "log_every")
"""Settings of the loop that leave the weights as they are."""
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "numpy")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        recipe: its recipe.
        folder: where it lies.
        record: its ``training.json``.
    """

    recipe: Recipe
    folder: Path
    record: dict[str, Any]

    @property
    def file(self) -> Path:
        """Its record, which holds the hashes of all its other files: name it where a result rests on this run."""
        return self.folder / RECORD

    def load(self, part: str) -> Any:
        """``unet``, ``vae``, ``text_encoder``, ``reader``: a network in eval mode, float32, on the CPU; ``tokenizer``;
        ``scheduler``. Raises BadInput where the run has no such part."""
        if not (self.folder / part).is_dir():
            have = [folder.name for folder in sorted(self.folder.iterdir()) if folder.is_dir()]
            raise unknown(f"part of {self.recipe.name}", part, have)
        return parts.load(self.folder / part, part)


class Unfinished(RuntimeError):
    """Time ran out; the message says how to go on."""


def key(recipe: Recipe) -> str:
    """12 hexadecimal digits that identify a recipe: its fields, its parents' keys, and its data.

    Not counted are where data and pretrained weights lie, how the checkpoint is sampled, and how often is logged and
    checkpointed.

    Raises:
        BadInput: data that cannot be read.
        NotAttempted: the data's path is not set.
    """
    told = recipe.plain()
    for name in ("tier", "sampling"):
        del told[name]
    for name in UNCOUNTED:
        del told["loop"][name]
    told["parents"] = {role: key(recipes.get(name)) for role, name in recipe.parents.items()}
    told["pretrained"] = {role: Pretrained(source).digest() for role, source in recipe.pretrained.items()}
    told["data"] = sources.examples(recipe.data).fingerprint
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def stamp(name: str) -> dict[str, Any]:
    """What a table that rests on this recipe depends on: its key, and how it is sampled."""
    recipe = recipes.get(name)
    return {"key": key(recipe), "sampling": recipe.plain()["sampling"]}


def folder(recipe: Recipe) -> Path:
    """Where the run of a recipe lies on this machine."""
    return paths.runs() / recipe.tier / "checkpoints" / f"{recipe.name}-{key(recipe)}"


def published_folder(recipe: Recipe) -> Path:
    """Where its published run lies."""
    return paths.published(recipe.tier) / "checkpoints" / recipe.name


def from_scratch() -> bool:
    """Whether published checkpoints are to be ignored."""
    return bool(os.environ.get(FROM_SCRATCH))


def find(recipe: Recipe | str) -> Run | None:
    """The finished run of a recipe: this machine's, or else the published one if it is of the recipe as it stands.

    Args:
        recipe: a row, or its name.

    Raises:
        BadInput: an unknown name, or a published run that was changed.
        NotAttempted: its data is not here, so its key is not known.
    """
    row = recipes.get(recipe) if isinstance(recipe, str) else recipe
    here = _read(row, folder(row))
    if here is not None and not (bad := _changed(here)):
        return here
    if here is not None:
        print(f"{row.name}: not taken: {paths.relative(here.folder / bad[0])} is not what was written", file=sys.stderr)
    told = None if from_scratch() else _read(row, published_folder(row))
    if told is None or told.record["key"] != key(row):
        return None
    if bad := _changed(told):
        raise BadInput(
            f"{paths.relative(told.folder / bad[0])} was changed or is gone since it was published; restore it"
        )
    return told


def _read(recipe: Recipe, place: Path) -> Run | None:
    try:
        record = json.loads((place / RECORD).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadInput(f"{paths.relative(place / RECORD)} cannot be read ({error}); remove that folder") from error
    return Run(recipe, place, record)


def _changed(run: Run) -> list[str]:
    """Files that are gone or not what the record says."""
    return [
        name
        for name, written in run.record["files"].items()
        if not (run.folder / name).is_file() or paths.sha256(run.folder / name) != written
    ]


def load_or_train(recipe: Recipe | str, *, resume: bool = True, max_seconds: float | None = None) -> Run:
    """The finished run of a recipe, trained now if there is none, and with it those that its pipeline needs.

    What is missing among its parents is trained first. A run that another process is training is waited for.

    Args:
        recipe: a row, or its name.
        resume: go on with a run that was stopped.
        max_seconds: stop after so long, with a checkpoint.

    Raises:
        Unfinished: time ran out.
        BadInput: an unknown name, or settings that do not go together.
        NotAttempted: data or pretrained weights are not here.
    """
    row = recipes.get(recipe) if isinstance(recipe, str) else recipe
    until = None if max_seconds is None else time.monotonic() + max_seconds
    run = find(row) or train(row, resume=resume, max_seconds=max_seconds)
    for role in ("vae", "text"):
        if role in row.parents:
            load_or_train(row.parents[role], max_seconds=None if until is None else until - time.monotonic())
    return run


def train(recipe: Recipe, *, resume: bool = True, max_seconds: float | None = None) -> Run:
    """Train a recipe on this machine, whether or not it is published; its parents first, where they are missing.

    A finished run of this machine is returned as it is if ``resume``, and replaced otherwise.

    Arguments and errors are those of `load_or_train`.
    """
    until = None if max_seconds is None else time.monotonic() + max_seconds

    def left() -> float | None:
        return None if until is None else max(0.0, until - time.monotonic())

    sources.examples(recipe.data)  # missing data is an error now, not after the parents' training
    parents: dict[str, Parts] = {role: Pretrained(source) for role, source in recipe.pretrained.items()}
    for role, name in recipe.parents.items():
        parents[role] = load_or_train(name, max_seconds=left())
    place = folder(recipe)
    with _alone(place):
        here = _read(recipe, place)
        whole = here is not None and resume and not _changed(here)
        if not _agreed(whole):
            _train(recipe, parents, place, resume, left())
            here = _read(recipe, place)
    assert here is not None
    return here


def _train(recipe: Recipe, parents: dict[str, Parts], place: Path, resume: bool, max_seconds: float | None) -> None:
    from mdrepro.training import build
    from mdrepro.training.surroundings import surroundings

    if max_seconds == 0:
        raise Unfinished(f"{recipe.name}: time ran out before it began; the same command goes on")
    if _first():
        print(f"{recipe.name}: {recipe.loop.steps} steps of {recipe.loop.batch}, {paths.relative(place)}", flush=True)
    origin = state()
    with _Spent(place / WORK / "spent.json", resume) as spent, surroundings(recipe.loop.threads):
        made = build.run(recipe, parents, place / WORK, resume=resume, max_seconds=max_seconds)
    if not made.finished:
        raise Unfinished(
            f"{recipe.name}: stopped after step {made.steps} of {recipe.loop.steps}; the same command goes on"
        )
    if _first():
        record = _record(recipe, parents, made) | origin | spent.total()
        with aside(place) as new:
            parts.save(made.parts, new)
            for name, text in made.files.items():
                (new / name).write_text(text, encoding="utf-8")
            store(new, record)
    _agreed(True)


def store(place: Path, record: dict[str, Any]) -> None:
    """Write the record of the files in a folder beside them."""
    names = sorted(file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file())
    hashes = {name: paths.sha256(place / name) for name in names if name != RECORD}
    size = sum((place / name).stat().st_size for name in hashes)
    write_json(place / RECORD, record | {"bytes": size, "files": hashes})


def _record(recipe: Recipe, parents: dict[str, Parts], made: Any) -> dict[str, Any]:
    row = recipe.plain()
    row["data"] = {name: value for name, value in row["data"].items() if name not in sources.PLACES}
    row["pretrained"] = {role: Path(source).name for role, source in recipe.pretrained.items()}
    thin = made.losses[:: max(1, -(-len(made.losses) // ROWS_KEPT))]
    return {
        "format": FORMAT,
        "recipe": recipe.name,
        "key": key(recipe),
        "row": row,
        "parents": {role: run.record["key"] for role, run in parents.items() if isinstance(run, Run)},
        "data": sources.examples(recipe.data).fingerprint,
        "seed": recipe.loop.seed,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "parameters": made.parameters,
        "steps": made.steps,
        "loop_seconds": round(made.seconds, 3),
        "images_per_second": round(made.images_per_second, 3),
        "curve": thin if not thin or thin[-1] is made.losses[-1] else [*thin[:-1], made.losses[-1]],
        "hardware": hardware(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "results": {},
    }


def _first() -> bool:
    """Whether this is the first, or the only, of the processes that train together."""
    return os.environ.get("RANK", "0") == "0"


def _agreed(value: bool) -> bool:
    """What the first process says; all wait for it."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return value
    from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]

    from mdrepro.training import processes

    processes.start()
    said: list[bool] = broadcast_object_list([value])
    return said[0]


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Holds the lock of a run, after any other process that holds it; it goes with the process."""
    if not _first():
        yield
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.parent / f".{place.name}.lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{place.name}: waiting for another process that trains it", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Spent:
    """Wall and CPU seconds of a run, all its sessions together; kept in a file, so that a kill loses a few seconds.

    Args:
        file: where they are kept.
        go_on: add to what is there.
    """

    EVERY = 5.0

    def __init__(self, file: Path, go_on: bool) -> None:
        self.file = file
        self.before = json.loads(file.read_text()) if go_on and file.is_file() else {"seconds": 0.0, "cpu_seconds": 0.0}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="spent")

    def __enter__(self) -> "_Spent":
        self._wall, self._cpu = time.monotonic(), _cpu_seconds()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._write()

    def total(self) -> dict[str, float]:
        """``seconds`` and ``cpu_seconds`` so far, of all threads and children."""
        now = {"seconds": time.monotonic() - self._wall, "cpu_seconds": _cpu_seconds() - self._cpu}
        return {name: round(self.before[name] + value, 3) for name, value in now.items()}

    def _keep(self) -> None:
        while not self._stop.wait(self.EVERY):
            self._write()

    def _write(self) -> None:
        if _first():
            write_json(self.file, self.total())


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
