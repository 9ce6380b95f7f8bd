"""WebDataset shards as `CaptionedPictures`: plain tar files, read in place by an index of their members."""

import hashlib
import http.client
import itertools
import logging
import shutil
import tarfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from webdataset.gopen import gopen, gopen_schemes  # type: ignore[import-untyped]
from webdataset.shardlists import expand_urls  # type: ignore[import-untyped]
from webdataset.tariterators import base_plus_ext  # type: ignore[import-untyped]

from mdrepro.core.console import track
from mdrepro.core.errors import BadInput, NotAttempted, check
from mdrepro.core.files import replacing
from mdrepro.core.reading import parse_json
from mdrepro.data import pixels
from mdrepro.data.captions import CaptionedPictures, Picture, Preparation

CAPTION_FIELDS = ("caption", "text")  # of a .json member
TIMEOUT = 30.0  # s without an answer from a server
_PICTURES = tuple(suffix[1:] for suffix in pixels.FORMATS)

logger = logging.getLogger(__name__)


def shards(urls: str | Sequence[str], preparation: Preparation, downloads: Path | None = None) -> CaptionedPictures:
    """Captioned pictures in WebDataset shards.

    Members whose names agree up to the first dot are one sample: a picture (.jpg, .jpeg, .png or .webp; the first
    counts) and its caption, from .txt, or from ``caption`` or ``text`` of .json. All shards are indexed here, which
    reads the headers and captions of every one. A sample without picture or caption counts as broken.

    ``urls`` are paths or addresses in webdataset's notation, such as ``data/{000..127}.tar``. Shards with an address
    are fetched to ``downloads``, each once.

    Raises BadInput for no plain tar file, or a cut, damaged or joined one; a shard or a sample's name twice; an address
    that cannot be handled; see `CaptionedPictures`. Raises NotAttempted where a shard cannot be fetched.
    """
    listed = _expand([urls] if isinstance(urls, str) else urls)
    files = [_local(url, downloads) for url in track(listed, "fetching", "shards")]
    source = listed[0] if len(listed) == 1 else f"{listed[0]} and {len(listed) - 1} more"
    numbered = enumerate(track(files, "indexing", "shards"))
    return CaptionedPictures((one for number, file in numbered for one in _index(file, number)), preparation, source)


def _expand(urls: Sequence[str]) -> list[str]:
    try:
        listed = [url for one in urls for url in expand_urls(one)]
    except (ValueError, AssertionError) as error:
        raise BadInput(f"cannot expand the shards {', '.join(urls)} ({error}): expected a{{000..127}}.tar") from error
    if not all(listed) or len(set(listed)) < max(1, len(listed)):
        raise BadInput(f"{', '.join(urls)} names a shard twice, or none: name each shard once")
    return listed


def _index(shard: Path, number: int) -> Iterator[Picture]:
    """The samples of a shard, in order."""
    seen: set[str] = set()
    try:
        with tarfile.open(shard, "r:") as tar:
            files = ((*base_plus_ext(member.name), member) for member in tar if member.isreg())
            for key, sample in itertools.groupby((one for one in files if one[0]), key=lambda one: one[0]):
                if key in seen:
                    raise BadInput(f"{shard}: the sample {key} occurs twice, or its members are not together")
                seen.add(key)
                members: dict[str, tarfile.TarInfo] = {}
                for _, suffix, member in sample:
                    if suffix.lower() in members:
                        raise BadInput(f"{shard}: the member {member.name} occurs twice")
                    members[suffix.lower()] = member
                yield _picture(tar, shard, f"{number:05d}/{key}", members)
            _check_end(shard, tar.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        needed = "a whole tar file, not compressed, is needed"
        raise BadInput(f"cannot read the shard {shard} ({error}): {needed}") from error


def _check_end(shard: Path, end: int) -> None:
    """Raises TarError where other things than the end of an archive, two blocks of zeros or more, follow its members.

    tarfile takes a header that it cannot read for the end.
    """
    with open(shard, "rb") as file:
        file.seek(end)
        zeros = 0
        while block := file.read(2**20):
            if block.count(0) < len(block):
                raise tarfile.ReadError(f"no member's header at byte {end}, and more behind it")
            zeros += len(block)
    if zeros < 2 * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"it breaks off at byte {end + zeros}, without the mark of its end")


def _picture(tar: tarfile.TarFile, shard: Path, name: str, members: dict[str, tarfile.TarInfo]) -> Picture:
    image = next((member for suffix, member in members.items() if suffix in _PICTURES), None)
    if image is None:
        return Picture(name, shard, (), fault=f"no picture among {', '.join(members)}")
    caption = _caption(tar, shard, members)
    fault = "" if caption else "no caption in .txt or .json"
    return Picture(name, shard, (caption,), offset=image.offset_data, size=image.size, fault=fault)


def _caption(tar: tarfile.TarFile, shard: Path, members: dict[str, tarfile.TarInfo]) -> str:
    """ "" where there is none, or it cannot be read."""

    def content(suffix: str) -> bytes:
        file = tar.extractfile(members[suffix]) if suffix in members else None
        return file.read() if file else b""

    try:
        if (text := content("txt").decode().strip()) and "\0" not in text:
            return text
        fields = parse_json(content("json") or "{}", shard)
    except ValueError:
        return ""
    texts = [fields.get(name) for name in CAPTION_FIELDS] if isinstance(fields, dict) else []
    return next((text for text in texts if isinstance(text, str) and text.strip()), "")


def _local(url: str, downloads: Path | None) -> Path:
    """The shard as a file here, fetched if it has an address."""
    address = urlsplit(url)
    if address.scheme in ("", "file"):
        return Path(urllib.request.url2pathname(address.path) if address.scheme else url)
    allowed = ["file", *sorted(set(gopen_schemes) - {"__default__", "pipe"})]
    check(f"scheme of the shard {url}:", address.scheme, allowed)
    if downloads is None:
        raise BadInput(f"{url} is not on this machine: name the folder (downloads) that it is to be fetched to")
    name = address.path.rsplit("/", 1)[-1]
    file = downloads / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    if not file.is_file():
        _fetch(url, file)
    return file


def _fetch(url: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(file) as aside:
            with _open(url) as stream, open(aside, "wb") as target:
                shutil.copyfileobj(stream, target, 2**20)
                expected = getattr(stream, "length", None)  # of an HTTP answer: what is left to come
            if expected:
                raise OSError(f"it broke off with {expected} bytes to come")
            if not tarfile.is_tarfile(aside):
                raise OSError("what came is no tar file")
    except (OSError, ImportError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise NotAttempted(
            f"cannot fetch the shard {url} ({reason}): check address and network, or put the shard on this machine "
            "and give its path"
        ) from error
    logger.info("fetched %s to %s", url, file)


def _open(url: str) -> AbstractContextManager[Any]:
    """HTTP by Python, which tells why it fails; the rest by webdataset, which calls curl, gsutil and the like."""
    if urlsplit(url).scheme in ("http", "https"):
        return urllib.request.urlopen(url, timeout=TIMEOUT)
    stream: AbstractContextManager[Any] = gopen(url)
    return stream
