"""Damage to valid files, drawn by hypothesis: bytes, blocks, whole contents, and values inside JSON and headers."""

import json
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"
FOREIGN = (
    *(
        b"",
        b"\0",
        b"\n",
        b"{}",
        b"[]",
        b"null",
        b"NaN",
        b'""',
        b"0",
        b"\xff\xfe[\0]\0",
        LFS,
        b"a: &a [*a]",
        b"<html></html>",
    ),
    *(
        b"[" * 100_000,
        b'{"a":' * 3000,
        b"[" * 150 + b"]" * 150,
        b"9" * 10_000,
        b"\x80\x04K\x01.",
        b"PK\x03\x04" + b"\0" * 40,
    ),
)
"""What lies where a file is expected."""
RAW = (
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 400,
    "[" * 200 + "]" * 200,
    '"\\ud800"',
    '"../../x"',
    '"/etc/passwd"',
    '"\\u0000"',
)
"""JSON that `json.dumps` would not write, or that is no value of its place."""
VALUES = (
    None,
    True,
    False,
    0,
    -1,
    2**31,
    10**30,
    -0.5,
    1e308,
    5e-324,
    "",
    "a",
    "1",
    "x" * 5000,
    [],
    {},
    [[]],
    {"a": 1},
    [0] * 50,
)
HOLE = "\ue000hole\ue000"


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    found = list[tuple[Any, Any]]()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        found += [(one, key) for key in keys]
        waiting += [one[key] for key in keys]
    return found


def _changed(draw: Callable[[Any], Any], text: str) -> str:
    """JSON with one value, key or item changed."""
    whole = [json.loads(text)]
    places = _places(whole)
    container, key = places[draw(st.integers(0, len(places) - 1))]
    change, raw = draw(st.sampled_from(["value", "raw", "gone", "renamed", "twice", "text", "wrapped"])), "0"
    if change == "raw":
        container[key], raw = HOLE, draw(st.sampled_from(RAW))
    elif change == "gone" and len(places) > 1:
        del container[key]
    elif change == "renamed" and isinstance(container, dict):
        container[draw(st.sampled_from(["", "x", "../x", f"{key} ", "__class__"]))] = container.pop(key)
    elif change == "twice" and isinstance(container, list):
        container.insert(key, container[key])
    elif change == "text":
        container[key] = str(container[key])
    elif change == "wrapped":
        container[key] = [container[key]]
    else:
        container[key] = draw(st.sampled_from(VALUES))
    return json.dumps(whole[0] if whole else None).replace(json.dumps(HOLE), raw)


def _in_json(draw: Callable[[Any], Any], content: bytes) -> bytes:
    return _changed(draw, content.decode()).encode()


def _in_line(draw: Callable[[Any], Any], content: bytes) -> bytes:
    lines = content.decode().strip().split("\n")
    number = draw(st.integers(0, len(lines) - 1))
    lines[number] = _changed(draw, lines[number])
    return "\n".join(lines).encode()


def _in_header(draw: Callable[[Any], Any], content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = _changed(draw, content[8 : 8 + length].decode()).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _flip(draw: Callable[[Any], Any], content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        changed[draw(st.integers(0, len(content) - 1))] ^= draw(st.integers(1, 255))
    return bytes(changed)


def _block(draw: Callable[[Any], Any], content: bytes) -> bytes:
    """A part that is lost, zeroed, repeated, or foreign."""
    start = draw(st.integers(0, len(content) - 1))
    end = min(len(content), start + draw(st.sampled_from([1, 4, 64, 512, 4096])))
    part = content[start:end]
    by = draw(st.sampled_from([b"", bytes(len(part)), part * 2, b"\xff" * len(part), b"\n", b"9" * len(part)]))
    return content[:start] + by + content[end:]


def _cut(draw: Callable[[Any], Any], content: bytes) -> bytes:
    return content[: draw(st.integers(0, len(content) - 1))]


def _longer(draw: Callable[[Any], Any], content: bytes) -> bytes:
    return content + draw(st.sampled_from([content, b"\0", b"\0" * 512, b"garbage"]))


def _other(draw: Callable[[Any], Any], content: bytes) -> bytes:
    return draw(st.one_of(st.sampled_from(FOREIGN), st.binary(max_size=200)))


ANY = {"flip": _flip, "block": _block, "cut": _cut, "longer": _longer, "other": _other}
INSIDE = {"json": _in_json, "lines": _in_line, "header": _in_header}
"""Damage that keeps a file's form; each is as likely as all others together."""


def _fits(content: bytes) -> list[str]:
    try:
        if len(content) > 8 and (length := int.from_bytes(content[:8], "little")) < len(content):
            json.loads(content[8 : 8 + length])
            return ["header"]
    except ValueError:
        pass
    for name, text in (("json", content), ("lines", content.strip().partition(b"\n")[0])):
        try:
            json.loads(text)
        except ValueError:
            continue
        return [name]
    return []


@st.composite
def damaged(draw: Callable[[Any], Any], content: bytes) -> tuple[str, bytes]:
    """The kind of damage, and the damaged content, which differs from the valid one."""
    inside = _fits(content)
    kind = draw(st.sampled_from([*ANY, *inside * len(ANY)]))
    changed = (ANY | INSIDE)[kind](draw, content)
    if changed == content:
        changed = content[:-1]
        kind = "cut"
    return kind, changed
