"""WebDataset shards: read as webdataset itself reads them, fetched once, and errors that name the shard."""

import functools
import gzip
import http.server
import io
import json
import logging
import tarfile
import threading

import numpy as np
import pytest
import webdataset
from PIL import Image

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.data.captions import Preparation
from mdrepro.data.webshards import shards

HOW = Preparation(8)


def encoded(colour, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (11, 9), (colour, 0, 0)).save(file, kind)
    return file.getvalue()


def write(path, samples):
    """A shard by webdataset's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def some(first, count=3):
    return [{"__key__": f"k{i}", "png": encoded(10 * i), "txt": f"picture {i}\n"} for i in range(first, first + count)]


def members(path, *files):
    """A shard member by member."""
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def colours(batch):
    return batch["pixels"][:, 0, 0, 0].tolist()


@pytest.fixture
def two(tmp_path):
    for number in range(2):
        write(tmp_path / f"{number:03d}.tar", some(3 * number))
    return tmp_path


@pytest.fixture
def server(two):
    """Serves the folder of two shards; gone.tar is missing, cut.tar breaks off."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if not self.path.startswith("/cut"):
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", "99999")
            self.end_headers()
            self.wfile.write((two / "000.tar").read_bytes())

        def log_message(self, *values):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=two)) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def test_shards_read_as_webdataset_reads_them(two):
    data = shards(f"{two}/{{000..001}}.tar", HOW)
    whole = webdataset.WebDataset(f"{two}/{{000..001}}.tar", shardshuffle=False).decode("pil")
    truth = [(np.array(sample["png"])[0, 0, 0], sample["txt"].strip()) for sample in whole]
    assert len(data) == 6
    batch = data.batch([5, 0, 3])
    assert list(zip(colours(batch), batch["caption"], strict=True)) == [truth[5], truth[0], truth[3]]


def test_captions_in_json_other_suffixes_and_folders(tmp_path):
    shard = members(
        tmp_path / "a.tar",
        ("__meta__", b"{}"),
        ("./in/1.JPG", encoded(100, "JPEG")),
        ("./in/1.json", json.dumps({"caption": "from json", "url": "x"}).encode()),
        ("./in/2.json", json.dumps({"caption": " ", "text": "from text"}).encode()),
        ("./in/2.webp", encoded(0, "WEBP")),
        ("./in/2.cls", b"7"),
        ("./in/3.json", b'{"caption": "not this"}'),
        ("./in/3.txt", "ü ".encode()),
        ("./in/3.jpeg", encoded(200, "JPEG")),
    )
    data = shards(str(shard), HOW)
    assert data.batch(range(3))["caption"] == ["from json", "from text", "ü"]
    assert [round(value, -2) for value in colours(data.batch(range(3)))] == [100, 0, 200]


def test_lists_and_fingerprints(two, tmp_path):
    listed = shards([f"{two}/000.tar", f"file://{two}/001.tar"], HOW)
    assert listed.fingerprint == shards(f"{two}/{{000..001}}.tar", HOW).fingerprint
    (two / "moved").mkdir()
    for name in ("000.tar", "001.tar"):
        (two / name).rename(two / "moved" / name)
    assert listed.fingerprint == shards(f"{two}/moved/{{000..001}}.tar", HOW).fingerprint
    assert listed.fingerprint != shards(f"{two}/moved/{{001..000}}.tar", HOW).fingerprint


def test_the_same_names_in_two_shards_are_two_samples(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.tar", some(0))
    assert len(shards(f"{tmp_path}/{{a,b}}.tar", HOW)) == 6


def test_samples_without_picture_or_caption_count_as_broken(tmp_path, caplog):
    shard = members(
        tmp_path / "a.tar",
        ("1.png", encoded(0)),
        ("2.txt", b"no picture"),
        ("3.png", encoded(30)),
        ("3.txt", b"three"),
        ("4.png", encoded(40)),
        ("4.json", b"{not json"),
        ("5.png", encoded(50)),
        ("5.txt", b"\xff\xff"),
        ("6.png", b"no png"),
        ("6.txt", b"six"),
    )
    with caplog.at_level(logging.WARNING):
        data = shards(str(shard), Preparation(8, broken=0.9))
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "left out 00000/1: no caption in .txt or .json",
        "left out 00000/2: no picture among txt",
        "left out 00000/4: no caption in .txt or .json",
        "left out 00000/5: no caption in .txt or .json",
    ]
    assert data.batch([0, 1])["caption"] == ["three", "three"]
    with pytest.raises(BadInput, match="4 of 6 pictures are broken"):
        shards(str(shard), Preparation(8, broken=0.5))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no captioned pictures"),
        ([("a.png", b""), ("a.png", b"")], r"the member a.png occurs twice"),
        ([("a.png", b""), ("b.png", b""), ("a.txt", b"a")], "the sample a occurs twice"),
        ([("a.txt", b"a")], r"1 of 1 pictures are broken \(00000/a: no picture"),
    ],
)
def test_bad_members_are_one_error(tmp_path, files, message):
    with pytest.raises(BadInput, match=message):
        shards(str(members(tmp_path / "a.tar", *files)), HOW)


def test_bad_shards_are_named(two):
    whole = (two / "000.tar").read_bytes()
    (two / "cut.tar").write_bytes(whole[: len(whole) // 2 - 300])
    (two / "text.tar").write_bytes(b"<html>" * 500)
    (two / "empty.tar").write_bytes(b"")
    (two / "packed.tar").write_bytes(gzip.compress(whole))
    for name in ("cut", "text", "empty", "packed", "none"):
        with pytest.raises(BadInput, match=rf"cannot read the shard .*{name}\.tar .*: a whole tar file"):
            shards(f"{two}/{name}.tar", HOW)


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ([], "names a shard twice, or none"),
        ("", "names a shard twice, or none"),
        ("a.tar::a.tar", "names a shard twice"),
        ("{0..1.tar", "cannot expand"),
        ("${LACKING}/a.tar", "cannot expand"),
        ("s3://bucket/a.tar", "unknown scheme of the shard s3://bucket/a.tar.*allowed: file, .*https"),
        ("pipe:touch HERE", "unknown scheme"),
        ("http://127.0.0.1/a.tar", r"name the folder \(downloads\)"),
    ],
)
def test_bad_addresses_are_one_error(tmp_path, monkeypatch, urls, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=message):
        shards(urls, HOW)
    assert not list(tmp_path.iterdir())


def test_remote_shards_are_fetched_once(server, two, tmp_path_factory):
    root, asked = server
    downloads = tmp_path_factory.mktemp("shards") / "new"
    first = shards(root + "/{000..001}.tar?key=1", HOW, downloads)
    assert asked == ["/000.tar?key=1", "/001.tar?key=1"]
    assert [file.read_bytes() for file in sorted(downloads.iterdir(), key=lambda file: file.name[-7:])] == [
        (two / "000.tar").read_bytes(),
        (two / "001.tar").read_bytes(),
    ]
    again = shards(root + "/{000..001}.tar?key=1", HOW, downloads)
    assert len(asked) == 2
    assert again.fingerprint == first.fingerprint == shards(f"{two}/{{000..001}}.tar", HOW).fingerprint
    assert colours(again.batch([4])) == [40]


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.tar", "File not found"), ("cut.tar", "bytes to come"), ("page.tar", "what came is no tar file")],
)
def test_a_failed_download_leaves_nothing(server, two, tmp_path_factory, name, message):
    root, _ = server
    (two / "page.tar").write_text("<html>")
    downloads = tmp_path_factory.mktemp("shards")
    with pytest.raises(NotAttempted, match=rf"cannot fetch the shard {root}/{name} .*{message}.*check address"):
        shards(f"{root}/{name}", HOW, downloads)
    assert not list(downloads.iterdir())


def test_no_server_is_not_attempted(server, tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as unused:
        port = unused.server_port
    with pytest.raises(NotAttempted, match="refused"):
        shards(f"http://127.0.0.1:{port}/a.tar", HOW, tmp_path / "d")


def test_other_schemes_go_through_webdataset(two, tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    script = tools / "gsutil"
    script.write_text(f'#!/bin/sh\n[ "$1" = cat ] || exit 3\nexec /bin/cat {two}/"${{2##*/}}"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))  # no real gsutil, which would go to the network
    assert len(shards("gs://bucket/000.tar", HOW, tmp_path / "d")) == 3
    with pytest.raises(NotAttempted, match=r"gs://bucket/none\.tar .*exit 1"):
        shards("gs://bucket/none.tar", HOW, tmp_path / "d")
    script.unlink()
    with pytest.raises(NotAttempted, match="gsutil"):
        shards("gs://bucket/001.tar", HOW, tmp_path / "d")
    assert len(list((tmp_path / "d").iterdir())) == 1


def damaged(whole: bytes) -> dict[str, bytes]:
    """A shard of six members, a header and a block of content each, damaged in ways that tarfile takes for its end."""
    block = tarfile.BLOCKSIZE
    header = 4 * block  # of the third member
    turned = bytearray(whole)
    turned[header + 3] ^= 1
    return {
        "one byte of a header": bytes(turned),
        "a lost header": whole[:header] + whole[header + block :],
        "a lost block of content": whole[: header + block] + whole[header + 2 * block :],
        "a header of zeros": whole[:header] + bytes(block) + whole[header + block :],
        "cut between members": whole[:header],
        "cut in the last mark": whole[: 12 * block + 100],
        "two joined": whole + whole,
    }


@pytest.mark.parametrize("fault", damaged(bytes(12 * 512)))
def test_a_shard_that_tarfile_reads_a_part_of_is_refused(tmp_path, fault):
    files = [
        (f"{i}.{kind}", encoded(10 * i) if kind == "png" else b"a star") for i in range(3) for kind in ("png", "txt")
    ]
    whole = members(tmp_path / "a.tar", *files).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [member.offset for member in tar] == [1024 * i for i in range(6)]
    assert len(shards(str(tmp_path / "a.tar"), HOW)) == 3
    (tmp_path / "a.tar").write_bytes(damaged(whole)[fault])
    with pytest.raises(BadInput, match=r"cannot read the shard .*a\.tar .*: a whole tar file"):
        shards(str(tmp_path / "a.tar"), HOW)
