"""Where a recipe's captioned pictures come from: ``source`` and its settings, as in ``Recipe.data``."""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mdrepro.core import paths
from mdrepro.core.errors import BadInput, NotAttempted, unknown
from mdrepro.data import folders
from mdrepro.data.examples import Examples

_PREPARATION = {"size": 256, "fit": "center-crop", "captions": "all", "broken": 0.01}
SOURCES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "shapes": {"split": "train", "count": 40_000, "first": 0},
        "coco": {
            "path": "",
            "annotations": "annotations/captions_train2014.json",
            "images": "train2014",
            **_PREPARATION,
        },
        "folder": {"path": "", **_PREPARATION},
        "captions": {"path": "", **_PREPARATION},
        "shards": {"path": "", "downloads": "", **_PREPARATION},
    }
)
"""Settings of each source with their defaults. ``path``: COCO's folder, with ``annotations`` and ``images`` inside; a
folder with metadata.jsonl; shards in webdataset's notation, such as ``data/{000..127}.tar``; of ``captions``, a folder
that is one of these three (shards: all its .tar files), by default `places.pictures`."""
COMMON: Mapping[str, Any] = MappingProxyType({"cache": True})
"""Of all sources. ``cache``: latents and text features are made once, not at every step."""
PLACES = ("path", "downloads")
"""Settings that say where data lies: they do not count in a recipe's hash, what lies there does."""


def settings(data: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a source: the defaults, and what ``data`` says. Those of other sources are left out.

    Raises:
        BadInput: an unknown source.
    """
    source = data.get("source", "")
    if source not in SOURCES:
        raise unknown("data.source", source, SOURCES)
    known = {**SOURCES[source], **COMMON}
    return {"source": source, **{name: data.get(name, value) for name, value in known.items()}}


def examples(data: Mapping[str, Any]) -> Examples:
    """The pictures and captions: batches of ``pixels`` and ``caption``, for shapes also ``scene``.

    Raises:
        BadInput: an unknown source, or data that cannot be read.
        NotAttempted: the path is not set, or no pictures lie in `places.pictures`.
    """
    chosen = {name: value for name, value in settings(data).items() if name not in COMMON}
    if chosen["source"] == "captions":
        chosen["path"] = chosen["path"] or os.fspath(folders.pictures())
    return _examples(json.dumps(chosen, sort_keys=True))


@functools.lru_cache(maxsize=4)  # COCO's annotations take seconds to read
def _examples(text: str) -> Examples:
    chosen = json.loads(text)
    if chosen["source"] == "shapes":
        from mdrepro.data.shapes import Shapes

        return Shapes(chosen["split"], chosen["count"], chosen["first"])
    from mdrepro.data import captions, webshards

    if not chosen["path"]:
        raise NotAttempted(
            "this run needs captioned pictures, which are not downloaded for you. Give --set data.path=PATH and "
            "--set data.source=coco (COCO's folder, from cocodataset.org), folder (pictures and metadata.jsonl) or "
            "shards (WebDataset, for example 'data/{000..127}.tar')"
        )
    how = captions.Preparation(**{name: chosen[name] for name in _PREPARATION})
    if chosen["source"] == "shards":
        return webshards.shards(chosen["path"], how, Path(chosen["downloads"]) if chosen["downloads"] else None)
    path = Path(chosen["path"])
    if chosen["source"] == "captions":
        return _captions(path, how)
    if not path.is_dir():
        raise BadInput(f"data.path={path}: allowed is an existing folder")
    if chosen["source"] == "folder":
        return captions.folder(path, how)
    return captions.coco(path / chosen["annotations"], path / chosen["images"], how)


def _captions(path: Path, how: Any) -> Examples:
    """Whatever kind of captioned pictures a folder holds."""
    from mdrepro.data import captions, webshards

    if (path / captions.METADATA).is_file():
        return captions.folder(path, how)
    if tars := sorted(path.glob("*.tar")):
        return webshards.shards([os.fspath(tar) for tar in tars], how)
    for annotations in sorted(path.glob("annotations/captions_train*.json")):
        return captions.coco(annotations, path / annotations.stem.removeprefix("captions_"), how)
    raise NotAttempted(
        f"this run needs captioned pictures, which are not downloaded for you, and {paths.relative(path)} holds none. "
        "Put or link there one of: COCO's folder (annotations/captions_train2017.json and train2017/, from "
        "cocodataset.org), a folder of pictures with metadata.jsonl, WebDataset shards (*.tar); or give --set "
        "data.path=FOLDER"
    )
