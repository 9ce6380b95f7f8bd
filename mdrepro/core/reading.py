"""The one reader of JSON, YAML, headers of safetensors and numpy's .npz, and of names in them: bounded, and strict.

Every function raises BadInput, which names the file, whatever a cut, damaged or hostile one holds: other bytes than
UTF-8, a Git LFS pointer, more than `LARGEST` bytes, nesting below `DEEPEST` levels, NaN, infinite or overflowing
numbers, half a surrogate pair, other types or fields than expected.
"""

import functools
import io
import itertools
import json
import math
import os
import re
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from mdrepro.core.errors import BadInput

LARGEST = 1 << 30
"""Bytes of the largest text that is read; the COCO captions of 2014 have 66 million."""
DEEPEST = 100
LONGEST_INTEGER = 300
"""Digits of the longest integer that is read: all of them can become floats."""
LFS = b"version https://git-lfs.github.com/spec/"
LARGEST_HEADER = 100 << 20  # safetensors' own
BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64}  # whose name does not end in its bits
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_text(path: Path, largest: int = LARGEST) -> str:
    """The text of a file in UTF-8, without its byte-order mark. Raises BadInput where it cannot be read."""
    return _decoded(_content(path, largest), path)


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """The bytes of a file. Raises BadInput where it cannot be read, or holds more than ``largest``."""
    return _content(path, largest)


def read_json(path: Path, kind: Any = Any, *, largest: int = LARGEST, infinite: bool = False) -> Any:
    """The JSON of a file as a ``kind``, such as ``dict[str, Any]`` or ``list[str]``; see `parse_json`."""
    return parse_json(_content(path, largest), path, kind, infinite=infinite)


def parse_json(text: str | bytes, source: object, kind: Any = Any, *, infinite: bool = False) -> Any:
    """JSON as a ``kind`` that pydantic knows, checked strictly: nothing is converted.

    ``source`` is what the message calls it. ``infinite``: take -Infinity, which diffusers writes for an open bound of
    some schedulers. Raises BadInput for other text.
    """
    decoded = text if isinstance(text, str) else _decoded(text, source)
    try:
        constant = _lowest if infinite else _refuse_constant
        value = json.loads(decoded, parse_constant=constant, parse_float=_finite, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise _unreadable(source, "JSON", error) from None
    _check_depth(value, source)
    if SURROGATE.search(decoded.encode(errors="replace")):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise _unreadable(source, "JSON", error) from None
    return checked(value, kind, source)


def read_json_lines(path: Path, kind: Any = Any, *, cut: bool = False) -> list[Any]:
    """The JSON values of a file, one a line; blank lines are left out. See `parse_json`.

    ``cut``: a last line without its end, which a kill leaves behind, is left out too.
    """
    lines = read_text(path).split("\n")
    numbered = enumerate(lines[:-1] if cut else lines, start=1)
    return [parse_json(line, f"{path}, line {number}", kind) for number, line in numbered if line.strip()]


def read_yaml(path: Path, kind: Any = Any, *, largest: int = LARGEST) -> Any:
    """The YAML of a file; see `parse_yaml`."""
    return parse_yaml(read_text(path, largest), path, kind)


def parse_yaml(text: str, source: object, kind: Any = Any) -> Any:
    """YAML of plain values as a ``kind``, as `parse_json`; aliases are refused, which can multiply without bound."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise BadInput(f"{source} has the alias *{event.anchor}: expected plain values")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise BadInput(f"{source} is nested too deep: expected at most {DEEPEST} levels")
        value = yaml.load(text, Loader=loader)
    except BadInput:
        raise
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(source, "YAML", error) from None
    for number in (item for item in _leaves(value) if isinstance(item, float)):
        if not math.isfinite(number):
            raise BadInput(f"{source} holds {number}: expected finite numbers")
    return checked(value, kind, source)


def read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a safetensors file's tensors by name, its header checked against the file's size.

    No tensor is read. Raises BadInput for any other file, and one that was cut or went on.
    """
    kind = dict[str, Any]
    try:
        with open(path, "rb") as file:
            start = file.read(len(LFS))
            if start == LFS:
                raise _lfs(path)
            length, size = int.from_bytes(start[:8], "little"), os.fstat(file.fileno()).st_size
            if len(start) < 8 or length > min(LARGEST_HEADER, size - 8):
                raise BadInput(f"{path} is no whole safetensors file: {size} bytes; get or write it again")
            file.seek(8)
            header = parse_json(file.read(length), f"the header of {path}", kind)
    except OSError as error:
        raise _unreadable(path, "safetensors", error) from None
    header.pop("__metadata__", None)
    shapes, ends = dict[str, tuple[int, ...]](), [(0, 0)]
    for name, entry in header.items():
        try:
            shape, (begin, end), dtype = tuple(entry["shape"]), entry["data_offsets"], entry["dtype"]
            bits = BITS.get(dtype) or int(re.findall(r"\d+", dtype)[0])
            whole = all(type(number) is int and 0 <= number < 1 << 48 for number in (*shape, begin, end))
            if not whole or 8 * (end - begin) != bits * math.prod(shape):
                raise ValueError("its shape and its bytes differ")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BadInput(f"{path} is no safetensors file: tensor {name!r} ({error})") from None
        shapes[name] = shape
        ends.append((begin, end))
    ends.sort()
    gaps = any(before[1] != after[0] for before, after in itertools.pairwise(ends))
    if gaps or ends[-1][1] != size - 8 - length:
        raise BadInput(
            f"{path} is no whole safetensors file: {size} bytes, and its header describes "
            f"{ends[-1][1] + 8 + length}; get or write it again"
        )
    return shapes


def read_npz(path: Path, names: Collection[str], largest: int = LARGEST) -> dict[str, Any]:
    """The arrays of these names in numpy's archive, as far as it holds them; no pickle is read.

    Raises BadInput for another or damaged file, more than ``largest`` bytes, packed or not, or an array of objects.
    """
    import numpy as np

    arrays = dict[str, Any]()
    try:
        with zipfile.ZipFile(io.BytesIO(_content(path, largest))) as archive:
            wanted = {name: archive.getinfo(f"{name}.npy") for name in names if f"{name}.npy" in archive.NameToInfo}
            if (size := sum(entry.file_size for entry in wanted.values())) > largest:
                raise ValueError(f"its arrays have {size} bytes: expected at most {largest}")
            for name, entry in wanted.items():
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"{name} is compressed otherwise than numpy does")
                member = io.BytesIO(archive.read(entry))
                newer = np.lib.format.read_magic(member) > (1, 0)
                header = np.lib.format.read_array_header_2_0 if newer else np.lib.format.read_array_header_1_0
                shape, by_columns, kind = header(member)
                content = member.read()
                if kind.hasobject or math.prod(shape) * kind.itemsize != len(content):
                    raise ValueError(f"{name} is of pickled objects, or its shape and its bytes differ")
                arrays[name] = np.frombuffer(content, kind).reshape(shape, order="F" if by_columns else "C")
    except BadInput:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many kinds for damaged files
        raise _unreadable(path, "numpy's arrays (.npz)", error) from None
    return arrays


def inside(folder: Path, name: object, source: object) -> Path:
    """The path of what a file calls ``name``, relative to ``folder``; links in the folder are followed.

    Raises BadInput, which names the ``source``, for a name that is absolute, leads out by ``..`` or is none.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    strange = not parts or ".." in parts or "\0" in str(name) or "\\" in str(name) or PureWindowsPath(str(name)).drive
    if strange or PurePosixPath(str(name)).is_absolute():
        raise BadInput(f"{source} names the file {name!r}: expected one inside {folder}")
    return folder.joinpath(*parts)


def _content(path: Path, largest: int) -> bytes:
    try:
        if not path.is_file():  # a pipe or a device would be read for ever
            raise BadInput(f"{path} is {'a folder: expected a file' if path.is_dir() else 'no file here'}")
        with open(path, "rb") as file:
            content = file.read(largest + 1)
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(content) > largest:
        raise BadInput(f"{path} is too large: expected at most {largest} bytes")
    if content.startswith(LFS):
        raise _lfs(path)
    return content


def _decoded(content: bytes, source: object) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{source}, line {line}, is no text in UTF-8 ({error.reason}); save it as UTF-8") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name}: expected a finite number")


def _lowest(name: str) -> Any:
    return -math.inf if name == "-Infinity" else _refuse_constant(name)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:40]}: expected a finite number")
    return value


def _integer(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(text)} digits: expected at most {LONGEST_INTEGER}")
    return int(text)


def _children(values: Iterable[Any]) -> list[Any]:
    held = (value.values() if isinstance(value, dict) else value for value in values)
    return [item for items in held for item in items if isinstance(item, (dict, list))]


def _check_depth(value: Any, source: object) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(DEEPEST):
        if not level:
            return
        level = _children(level)
    if level:
        raise BadInput(f"{source} is nested too deep: expected at most {DEEPEST} levels")


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, (dict, list, set)):
        for item in itertools.chain(value, value.values()) if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


def checked(value: Any, kind: Any, source: object, *, strict: bool | None = True) -> Any:
    """``value`` if it is a ``kind``, strictly. Raises BadInput, which names the ``source`` and the first field.

    ``strict``: None for models of pydantic that say themselves what they convert, such as lists to tuples.
    """
    if kind is Any:
        return value
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(value, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "its content"
        raise BadInput(f"{source}: {where}: {first['msg']}") from None


@functools.cache  # files of many lines have the same kind in each
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _unreadable(source: object, kind: str, error: Exception) -> BadInput:
    reason = "nested too deep" if isinstance(error, RecursionError) else str(error).partition("\n")[0][:200]
    return BadInput(f"{source} cannot be read as {kind} ({reason}); restore it, or write it again")


def _lfs(path: Path) -> BadInput:
    return BadInput(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder")
