"""Where a recipe's pictures come from: ``source`` and its settings, as in ``Recipe.data``."""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdrepro.core import paths
from mdrepro.core.errors import BadInput, NotAttempted, check
from mdrepro.data import folders
from mdrepro.data.examples import Examples

if TYPE_CHECKING:
    from mdrepro.data.captions import Preparation
    from mdrepro.data.photos import Split

_PREPARATION = {"size": 256, "fit": "center-crop", "captions": "all", "broken": 0.01}
_COCO = {"annotations": "annotations/captions_train2014.json", "images": "train2014"}
SOURCES: Mapping[str, Mapping[str, Any]] = {
    "shapes": {"split": "train", "count": 40_000, "first": 0},
    "photos": {"path": "packages", "sizes": (64,), "sides": (), "count": 1_000_000, "seed": 0},
    "coco": {"path": "", **_COCO, **_PREPARATION},
    "folder": {"path": "", **_PREPARATION},
    "captions": {"path": "", **_PREPARATION},
    "shards": {"path": "", "downloads": "", **_PREPARATION},
}
"""Settings of each source with their defaults. ``path``: COCO's folder, with ``annotations`` and ``images`` inside; a
folder with metadata.jsonl; shards in webdataset's notation; of ``captions``, a folder that is one of these three
(shards: all its .tar files), by default `folders.pictures`; of ``photos``, which are random crops without captions of
the training part of a split (`mdrepro.data.photos.Crops` has ``sizes``, ``sides``, ``count``), ``packages`` or a
folder."""
CAPTIONLESS = ("photos",)
COMMON: Mapping[str, Any] = {"cache": True}
"""Of all sources. ``cache``: latents and text features are made once, not at every step."""
PLACES = ("path", "downloads")
"""Settings that say where data are: they do not count in a recipe's hash, their content does."""


def settings(data: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a source: its defaults, and over them those in ``data``. Those of other sources are left out.

    Raises BadInput for an unknown source.
    """
    source = data.get("source", "")
    check("data.source", source, SOURCES)
    known = {**SOURCES[source], **COMMON}
    return {"source": source, **{name: data.get(name, value) for name, value in known.items()}}


def examples(data: Mapping[str, Any]) -> Examples:
    """The pictures: batches of ``pixels``, ``caption`` (not for photos), and for shapes ``scene``.

    Raises BadInput for an unknown source or data that cannot be read, NotAttempted where the path is not set, or there
    are no pictures in `folders.pictures`.
    """
    values = {name: value for name, value in settings(data).items() if name not in COMMON}
    if values["source"] == "captions":
        values["path"] = values["path"] or os.fspath(folders.pictures())
    return _examples(json.dumps(values, sort_keys=True))


@functools.lru_cache(maxsize=8)  # COCO's annotations take seconds to read
def _examples(text: str) -> Examples:
    values = json.loads(text)
    source = values["source"]
    if source == "shapes":
        from mdrepro.data.shapes import Shapes

        return Shapes(values["split"], values["count"], values["first"])
    if source == "photos":
        from mdrepro.data.photos import Crops

        train = _split(values["path"]).train
        return Crops(train, values["sizes"], values["count"], values["seed"], values["sides"])
    from mdrepro.data import captions, webshards

    if not values["path"]:
        raise NotAttempted(
            "this run needs captioned pictures, which are not downloaded for you. Give --set data.path=PATH and "
            "--set data.source=coco (COCO's folder, from cocodataset.org), folder (pictures and metadata.jsonl) or "
            "shards (WebDataset, for example 'data/{000..127}.tar')"
        )
    preparation = captions.Preparation(**{name: values[name] for name in _PREPARATION})
    if source == "shards":
        downloads = Path(values["downloads"]) if values["downloads"] else None
        return webshards.shards(values["path"], preparation, downloads)
    path = Path(values["path"])
    if source == "captions":
        return _captions(path, preparation)
    if not path.is_dir():
        raise BadInput(f"data.path={path}: must be an existing folder")
    if source == "folder":
        return captions.folder(path, preparation)
    return captions.coco(path / values["annotations"], path / values["images"], preparation)


@functools.lru_cache(maxsize=2)  # crops of several sizes come from one split
def _split(path: str) -> "Split":
    from mdrepro.data import photos

    return photos.split(path)


def _captions(path: Path, preparation: "Preparation") -> Examples:
    """Whatever kind of captioned pictures a folder holds."""
    from mdrepro.data import captions, webshards

    if (path / captions.METADATA).is_file():
        return captions.folder(path, preparation)
    if tars := sorted(path.glob("*.tar")):
        return webshards.shards([os.fspath(tar) for tar in tars], preparation)
    for annotations in sorted(path.glob("annotations/captions_train*.json")):
        return captions.coco(annotations, path / annotations.stem.removeprefix("captions_"), preparation)
    raise NotAttempted(
        f"this run needs captioned pictures, which are not downloaded for you, and {paths.relative(path)} holds none. "
        "Put or link there one of: COCO's folder (annotations/captions_train2017.json and train2017/, from "
        "cocodataset.org), a folder of pictures with metadata.jsonl, WebDataset shards (*.tar); or give --set "
        "data.path=FOLDER"
    )
