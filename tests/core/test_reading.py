"""The one reader of JSON, YAML, headers of safetensors and names: what it refuses, and that it reads as others do."""

import io
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mdrepro.core import reading
from mdrepro.core.errors import BadInput

VALUE = {"a": [1, 2.5, None, True, "ü \U0001f600", {"b": {}}], "big": 10**30, "small": -1e-300}


def test_what_other_readers_read_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "value.json"
    for text in (json.dumps(VALUE), "\ufeff" + json.dumps(VALUE), json.dumps(VALUE, ensure_ascii=False, indent=3)):
        file.write_bytes(text.encode())
        assert reading.read_json(file) == VALUE
    assert reading.read_yaml(file) == yaml.safe_load(json.dumps(VALUE, ensure_ascii=False))
    file.write_text("\n".join(map(json.dumps, [1, VALUE, []])) + '\n\n{"cut": ')
    assert reading.read_json_lines(file, cut=True) == [1, VALUE, []]
    with pytest.raises(BadInput, match="line 5"):
        reading.read_json_lines(file)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"a": NaN}',
        b"[-Infinity]",
        b"[1e999]",
        b"[" + b"9" * 5000 + b"]",
        b"[" + b"9" * 400 + b"]",
        b"\xff\xfe[]",
        b"[" * 100_000,
        b"[" * 200 + b"]" * 200,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b'["\\ud800"]',
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    ],
)
def test_text_that_is_no_bounded_json_is_bad_input(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "value.json"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=r"value\.json"):
        reading.read_json(file)


def test_files_that_cannot_be_read_are_bad_input(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for ever
    (tmp_path / "large").write_bytes(b'"' + b"a" * 100 + b'"')
    for name in ("gone", "", "pipe", "gone/below", "large/below", "large"):
        with pytest.raises(BadInput, match=str(tmp_path)):
            reading.read_json(tmp_path / name, largest=50)
    with pytest.raises(BadInput):
        reading.read_json(Path("a\0b"))


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (dict[str, Any], [], "dictionary"),
        (dict[str, float], {"a": "1"}, r"a: .*number"),
        (dict[str, int], {"a": 1.0}, r"a: .*integer"),
        (list[str], ["a", 1], r"1: .*string"),
    ],
)
def test_kinds_are_strict(kind: Any, value: Any, says: str) -> None:
    with pytest.raises(BadInput, match=f"it: .*{says}"):
        reading.parse_json(json.dumps(value), "it", kind)


@pytest.mark.parametrize(
    "text",
    [
        "a: &x 1\nb: *x",
        "a: &x [1, 2]\nb: [*x, *x]",
        "a: .nan",
        "- -.inf",
        "a: [",
        "a: !!python/object/apply:os.system [true]",
        "[" * 5000,
        "[" * 101 + "]" * 101,
        "? {a: 1}\n: 1",
        "a: 2026-99-99",
        "a\0b",
        "<<: 3\na: 1",
    ],
)
def test_yaml_of_more_than_plain_finite_values_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput, match="it"):
        reading.parse_yaml(text, "it")


def tensors(header: dict[str, Any] | bytes, content: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + content


def one(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]} | changes}


def test_shapes_are_those_of_safetensors(tmp_path: Path) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    file = tmp_path / "weights.safetensors"
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn)
    sizes: list[tuple[int, ...]] = [(2, 3), (), (0, 4), (5,), (1, 1, 7), (3,), (2,)]
    save_file({f"w{i}": torch.zeros(s, dtype=k) for i, (k, s) in enumerate(zip(kinds, sizes, strict=True))}, file)
    with safe_open(file, "pt") as theirs:
        expected = {name: tuple(theirs.get_slice(name).get_shape()) for name in theirs.keys()}  # noqa: SIM118
    assert reading.read_header(file) == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 1 << 60),
        struct.pack("<Q", 100) + b"{}",
        tensors(one(), b"0" * 11),
        tensors(one(), b"0" * 13),
        tensors(one(data_offsets=[0, 11]), b"0" * 11),
        tensors(one(data_offsets=[4, 16]), b"0" * 16),
        tensors(one(data_offsets=[12, 0]), b"0" * 12),
        tensors(one(shape=[-2, -3]), b"0" * 12),
        tensors(one(shape=[2.0, 3]), b"0" * 12),
        tensors(one(shape="23"), b"0" * 12),
        tensors(one(dtype="X"), b"0" * 12),
        tensors(one(dtype=3), b"0" * 12),
        tensors({"a": []}),
        tensors(b"[" * 50_000),
        tensors(b"[]"),
        tensors(one() | {"b": one()["a"]}, b"0" * 12),
    ],
)
def test_a_header_that_does_not_describe_its_file_is_bad_input(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=r"weights\.safetensors"):
        reading.read_header(file)


@pytest.mark.parametrize("name", ["a.json", "unet/config.json", "./a", "a..b", "..a/b"])
def test_names_inside_a_folder_are_paths_there(tmp_path: Path, name: str) -> None:
    assert reading.inside(tmp_path, name, "it") == tmp_path / name


@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "a/..", "/etc/passwd", "", ".", "C:\\a", "..\\a", "a\0", None, 3]
)
def test_names_that_lead_out_are_bad_input(tmp_path: Path, name: Any) -> None:
    with pytest.raises(BadInput, match="it names the file"):
        reading.inside(tmp_path, name, "it")


def test_arrays_are_those_of_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(size=(3, 4)), "b": np.asfortranarray(rng.normal(size=(2, 5)).astype("f4")), "c": "text"}
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "a.npz", **arrays, other=np.array([object()]))
        found = reading.read_npz(tmp_path / "a.npz", ["a", "b", "c", "d"])
        assert list(found) == ["a", "b", "c"]
        for name, value in arrays.items():
            np.testing.assert_array_equal(found[name], value, strict=name != "c")
    with pytest.raises(BadInput, match=r"a\.npz cannot be read as numpy's arrays .*pickled objects"):
        reading.read_npz(tmp_path / "a.npz", ["other"])


def test_arrays_larger_than_said_are_bad_input(tmp_path: Path) -> None:
    """A header that claims terabytes, and zeros that a thousandth of their bytes stands for."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", file.getvalue() + b"\0" * 80)
    with pytest.raises(BadInput, match="its shape and its bytes differ"):
        reading.read_npz(tmp_path / "a.npz", ["a"])
    np.savez_compressed(tmp_path / "b.npz", a=np.zeros(100_000))
    assert (tmp_path / "b.npz").stat().st_size < 10_000
    with pytest.raises(BadInput, match="800128 bytes: expected at most 10000"):
        reading.read_npz(tmp_path / "b.npz", ["a"], largest=10_000)
    with zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", b"")
    with pytest.raises(BadInput, match="compressed otherwise"):
        reading.read_npz(tmp_path / "c.npz", ["a"])
