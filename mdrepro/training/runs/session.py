"""One training session of a recipe: alone, on one process or many, its time counted, its outcome written whole."""

import datetime
import platform
import resource
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdrepro.core import distributed, paths
from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.files import file_hashes, replacing_folder, write_json
from mdrepro.core.locks import hold
from mdrepro.core.provenance import hardware, state
from mdrepro.core.reading import read_json
from mdrepro.data import sources
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import model_folders

if TYPE_CHECKING:
    from mdrepro.training.objectives.inputs import Parts, Trained

RECORD = "training.json"
FORMAT = 1
WORK, SPENT = "work", "spent.json"
ROWS_KEPT = 200
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "numpy")


class Unfinished(RuntimeError):
    """Time ran out; the message says how to go on."""


def run(
    recipe: Recipe,
    parents: Mapping[str, "Parts"],
    place: Path,
    latents: Path,
    identity: Mapping[str, Any],
    *,
    resume: bool = True,
    max_seconds: float | None = None,
) -> None:
    """Train a recipe in ``place/work``, then put its parts and its record in the folder ``place``.

    ``identity``, of recipe and parents, goes into the record; the other arguments are as of `build.run`. Raises
    `Unfinished` where time ran out.
    """
    from mdrepro.training.engine.determinism import surroundings
    from mdrepro.training.runs import build

    if max_seconds is not None and max_seconds <= 0:
        raise Unfinished(f"{recipe.name}: time ran out before it began; the same command goes on")
    if first():
        print(f"{recipe.name}: {recipe.loop.steps} steps of {recipe.loop.batch}, {paths.relative(place)}", flush=True)
    origin, untouched = state(), not place.exists()
    try:
        with _Spent(place / WORK / SPENT, resume) as spent, surroundings(recipe.loop.threads):
            trained = build.run(recipe, parents, place / WORK, latents, resume=resume, max_seconds=max_seconds)
    except (BadInput, NotAttempted):  # known before the first step: nothing is left behind
        if untouched and first() and not [file for file in place.rglob("*") if file.is_file() and file.name != SPENT]:
            shutil.rmtree(place, ignore_errors=True)
        raise
    except FloatingPointError as error:
        raise FloatingPointError(f"{recipe.name}: {error}") from error
    if not trained.outcome.finished:
        steps = f"{trained.outcome.steps} of {recipe.loop.steps}"
        raise Unfinished(f"{recipe.name}: stopped after step {steps}; the same command goes on")
    if first():
        with replacing_folder(place) as new:
            model_folders.save(trained.parts, new)
            for name, text in trained.files.items():
                (new / name).write_text(text, encoding="utf-8")
            write_record(new, _record(recipe, trained) | dict(identity) | origin | spent.total())
    agreed(True)


def write_record(place: Path, record: dict[str, Any]) -> None:
    """Write the record of the files in a folder beside them."""
    names = [file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()]
    hashes = file_hashes(place, (name for name in names if name != RECORD))
    size = sum((place / name).stat().st_size for name in hashes)
    write_json(place / RECORD, record | {"bytes": size, "files": hashes})


def _record(recipe: Recipe, trained: "Trained") -> dict[str, Any]:
    row = recipe.plain()
    row["data"] = {name: value for name, value in row["data"].items() if name not in sources.PLACES}
    row["pretrained"] = {role: Path(source).name for role, source in recipe.pretrained.items()}
    outcome = trained.outcome
    thin = outcome.losses[:: max(1, -(-len(outcome.losses) // ROWS_KEPT))]
    return {
        "format": FORMAT,
        "recipe": recipe.name,
        "row": row,
        "data": sources.examples(recipe.data).fingerprint,
        "seed": recipe.loop.seed,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "parameters": trained.parameters,
        "steps": outcome.steps,
        "loop_seconds": round(outcome.seconds, 3),
        "images_per_second": round(outcome.images_per_second, 3),
        "curve": thin if not thin or thin[-1] is outcome.losses[-1] else [*thin[:-1], outcome.losses[-1]],
        "hardware": hardware(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "results": {},
    }


def first() -> bool:
    """Whether this is the first, or the only, of the processes that train together."""
    return distributed.position()[0] == 0


def agreed(value: bool) -> bool:
    """The first process's value, for which all wait."""
    if distributed.position()[1] == 1:
        return value
    from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]

    from mdrepro.training.engine import processes

    processes.start()
    answer: list[bool] = broadcast_object_list([value])
    return answer[0]


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Holds the lock of a run in the first process, after any other that holds it; it goes with the process."""

    def busy() -> None:
        print(f"{place.name}: waiting for another process that trains it", file=sys.stderr, flush=True)

    with hold(place.parent / f".{place.name}.lock", busy=busy) if first() else nullcontext():
        yield


class _Spent:
    """Wall and CPU seconds of a run, all its sessions together; kept in a file, so that a kill loses a few seconds."""

    EVERY = 5.0

    def __init__(self, file: Path, resume: bool) -> None:
        self.file = file
        self.before = {"seconds": 0.0, "cpu_seconds": 0.0}
        if resume and file.is_file():
            try:
                self.before |= read_json(file, dict[str, float])
            except BadInput as error:
                print(f"{error}: the time of earlier sessions is not counted", file=sys.stderr)
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
        if first():
            write_json(self.file, self.total())


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
