"""Sets of COCO's captions from which images are generated for evaluation, in a fixed order.

A set is drawn by hashes of file names, so that it is the same on every machine and with every version of every package,
and its first n captions are a draw of n. COCO's validation sets are looked for in ``$COCO_ROOT``, or else in
``data/coco/``. Importing this module imports no torch.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdrepro.core import paths
from mdrepro.core.errors import BadInput, NotAttempted, check
from mdrepro.core.files import sha256

ROOT = "COCO_ROOT"
DRAWS = ("picture", "pair")
SEED = 0
DRAWN = "drawn"
"""In place of a file of prompts: the set's own captions."""


@dataclass(frozen=True)
class CocoSet:
    """``count`` captions of a validation set of COCO, or fewer where so asked; ``what`` says who evaluates on it.

    ``draw`` is ``picture``: at most one a picture, or ``pair``: of all pairs of a picture and a caption.
    """

    name: str
    year: int
    count: int
    draw: str
    what: str

    @property
    def annotations(self) -> Path:
        """The file of captions."""
        return folder() / "annotations" / f"captions_val{self.year}.json"

    @property
    def pictures(self) -> Path:
        """The folder of pictures."""
        return folder() / f"val{self.year}"


SETS: Mapping[str, CocoSet] = {
    row.name: row
    for row in (
        CocoSet("coco-2014-30k", 2014, 30_000, "picture", "MobileDiffusion, SnapFusion's Fig. 4, BK-SDM"),
        CocoSet("coco-2014-6k", 2014, 6_000, "pair", "SnapFusion's ablations and its decoder"),
        CocoSet("coco-2014-2k", 2014, 2_000, "picture", "an action of SnapFusion's evolution"),
        CocoSet("coco-2017-5k", 2017, 5_000, "picture", "SnapFusion's Table 2"),
    )
}


@dataclass(frozen=True)
class Chosen:
    """The captions of generated images, one each, and the pictures that they are compared with.

    ``description`` says which captions they are, ``files`` are their pictures (none where the captions are of a file),
    ``whole`` all pictures of the validation set.
    """

    row: CocoSet
    captions: tuple[str, ...]
    files: tuple[Path, ...]
    whole: tuple[Path, ...]
    description: str


def folder() -> Path:
    """COCO's folder: ``$COCO_ROOT``, or ``data/coco/``."""
    return Path(os.environ.get(ROOT) or paths.data() / "coco")


def lacks(row: CocoSet) -> str:
    """What of a set is not on this machine and how to get it; "" where all seems to be there."""
    gone = [path for path in (row.annotations, row.pictures) if not path.exists()]
    if not gone:
        return ""
    names = " and ".join(path.relative_to(folder()).as_posix() for path in gone)
    return (
        f"{names} of COCO {row.year} {'are' if len(gone) > 1 else 'is'} not in {paths.relative(folder())}. Unpack "
        f"there http://images.cocodataset.org/zips/val{row.year}.zip and http://images.cocodataset.org/annotations/"
        f"annotations_trainval{row.year}.zip, or set {ROOT} to the folder that holds annotations/ and val{row.year}/"
    )


def choose(name: str, count: int | None = None, prompts: Path | None = None) -> Chosen:
    """The first ``count`` captions, or all, of a set in `SETS`, or of ``prompts``, a file that stands for its own draw.

    Raises BadInput for an unknown set, annotations that cannot be read, or fewer captions than ``count``; NotAttempted
    where COCO is not on this machine, or not all of its pictures.
    """
    row = SETS[check("set of COCO", name, SETS)]
    if reason := lacks(row):
        raise NotAttempted(f"evaluation on {name}: {reason}")
    from mdrepro.data import captions

    listed = captions.listed(row.annotations)
    whole = tuple(row.pictures / file for file, _ in sorted(listed))
    if gone := [file for file in whole if not file.is_file()]:
        raise NotAttempted(
            f"evaluation on {name}: {len(gone)} of the {len(whole)} pictures that {row.annotations.name} names are not "
            f"in {paths.relative(row.pictures)}, first {gone[0].name}: unpack val{row.year}.zip again"
        )
    files: tuple[Path, ...] = ()
    wanted = row.count if count is None else count
    if prompts is not None:
        from mdrepro.data.prompts import read

        texts = read(prompts)
        description = f"captions of {prompts.name} (SHA-256 {sha256(prompts)[:12]}) for COCO {row.year} val"
    else:
        pairs = drawn(row.draw, listed)[: row.count]
        texts, files = [text for _, text in pairs], tuple(row.pictures / file for file, _ in pairs[:wanted])
        draw = "at most one a picture" if row.draw == "picture" else "random pairs"
        description = f"captions of COCO {row.year} val ({draw}, drawn by hash, seed {SEED})"
    if not 1 <= wanted <= len(texts):
        raise BadInput(f"{wanted} captions of {prompts or name}: must be 1 to {len(texts)}")
    return Chosen(row, tuple(texts[:wanted]), files, whole, description)


def drawn(draw: str, listed: Sequence[tuple[str, tuple[str, ...]]], seed: int = SEED) -> list[tuple[str, str]]:
    """All pairs of file name and caption that may be drawn, in the order in which they are.

    ``draw`` is as of `CocoSet`; ``listed`` are file names with their captions, in any order.
    """
    check("draw", draw, DRAWS)
    pairs = [(file, index, text) for file, texts in listed for index, text in enumerate(texts) if text.strip()]
    pairs.sort(key=lambda pair: _number(seed, pair[0], pair[1]))
    if draw == "pair":
        return [(file, text.strip()) for file, _, text in pairs]
    first: dict[str, str] = {}
    for file, _, text in pairs:
        first.setdefault(file, text.strip())
    return sorted(first.items(), key=lambda pair: _number(seed, pair[0], "picture"))


def _number(*parts: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
