"""Files of weights: hashes, what is never unpickled, downloads by the usual way."""

import hashlib
import pickle
import urllib.error
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.files import sha256
from mdrepro.metrics.image import encoders, weights
from mdrepro.metrics.image.catalogue import ENCODERS, INCEPTION, INCEPTION_SCRIPT, TORCHVISION, WeightsFile

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}


def published(path):
    return WeightsFile(("weights.pth", "other.pth"), "https://example.org/weights.pth", sha256(path))


def test_urls_and_hashes_are_the_packages_own():
    import torchvision
    from cleanfid.downloads_helper import inception_url
    from cleanfid.inception_pytorch import FID_WEIGHTS_URL
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert INCEPTION.url == URL_INCEPTION_V3
    assert [URL_INCEPTION_V3.rpartition("/")[2], FID_WEIGHTS_URL.rpartition("/")[2]] == list(INCEPTION.names)
    assert all(name.removesuffix(".pth").endswith(INCEPTION.sha256[:8]) for name in INCEPTION.names)
    assert inception_url == INCEPTION_SCRIPT.url
    assert torchvision.models.Inception_V3_Weights.IMAGENET1K_V1.url == TORCHVISION.url
    assert TORCHVISION.sha256 in TORCHVISION.names[0]


def test_a_file_is_taken_by_the_published_hash_or_the_one_that_is_named(tmp_path, cache):
    path, other = tmp_path / "w.pth", tmp_path / "other.pth"
    torch.save(TENSORS, path)
    torch.save({"a": torch.zeros(1)}, other)
    row = published(path)
    found = weights.find(row, path)
    assert (found.sha256, found.published, found.name) == (sha256(path), True, "w.pth")
    with pytest.raises(BadInput, match=rf"has SHA-256 {sha256(other)}, and the published file {row.sha256}.*--sha256"):
        weights.find(row, other)
    named = weights.find(row, other, sha256=sha256(other).upper())
    assert named.published is False
    with pytest.raises(BadInput, match=f"not {'0' * 64}: expected the file of that hash"):
        weights.find(row, path, sha256="0" * 64)
    with pytest.raises(BadInput, match="64 hexadecimal digits"):
        weights.find(row, path, sha256="abc")
    with pytest.raises(BadInput, match="is no file of weights"):
        weights.find(row, tmp_path / "nowhere.pth")


def test_the_cache_of_either_package_is_looked_into(tmp_path, cache):
    path = tmp_path / "w.pth"
    torch.save(TENSORS, path)
    row = published(path)
    with pytest.raises(
        NotAttempted, match=r"weights.pth or other.pth are not in .*checkpoints; get it with --download"
    ):
        weights.find(row, None)
    cache.mkdir(parents=True)
    (cache / "other.pth").write_bytes(path.read_bytes())
    assert weights.find(row, None).path == cache / "other.pth"
    (cache / "other.pth").write_bytes(b"cut short")
    with pytest.raises(BadInput, match="the published file"):
        weights.find(row, None)


def test_downloads_go_the_usual_way_and_are_checked(tmp_path, cache, monkeypatch):
    path = tmp_path / "w.pth"
    torch.save(TENSORS, path)
    row = published(path)
    asked = []

    def fetch(url, target, hash_prefix, progress):
        asked.append((url, target, hash_prefix))
        with open(target, "wb") as file:
            file.write(path.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    assert weights.find(row, None, download=True).published
    assert asked == [(row.url, str(cache / "weights.pth"), row.sha256)]

    def fail(*_, **__):
        raise urllib.error.URLError("no route")

    (cache / "weights.pth").unlink()
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(NotAttempted, match=r"could not be downloaded \(.*no route.*; get it with"):
        weights.find(row, None, download=True)


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


def script(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/constants.pkl", pickle.dumps(Evil()))
        archive.writestr("net/data.pkl", pickle.dumps(Evil()))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["pickle", "torch", "script", "empty", "text", "list", "numbers", "safetensors"])
def test_nothing_but_tensors_is_read(tmp_path, capsys, kind):
    path = tmp_path / f"w{'.safetensors' if kind == 'safetensors' else '.pth'}"
    if kind in ("torch", "list", "numbers"):
        torch.save({"torch": {"a": Evil()}, "list": [1], "numbers": {"a": 1}}[kind], path)
    elif kind == "script":
        script(path)
    else:
        path.write_bytes({"pickle": pickle.dumps(Evil()), "text": b"not weights"}.get(kind, b""))
    with pytest.raises(BadInput, match=r"cannot be read as weights .*; expected a state dict"):
        weights.state_dict(path)
    assert "unpickled" not in capsys.readouterr().out


def test_a_script_is_not_opened_before_its_hash_is_known(tmp_path, monkeypatch):
    path = tmp_path / "inception-2015-12-05.pt"
    script(path)
    assert weights.is_script(path)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(BadInput, match="f58cb9b6"):
        encoders.load("clean", str(path))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_state_dicts_of_both_formats_are_equal(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    save_file(TENSORS, path) if suffix == ".safetensors" else torch.save({"state_dict": TENSORS}, path)
    found = weights.state_dict(path)
    assert found.keys() == TENSORS.keys()
    assert all((found[name] == value).all() for name, value in TENSORS.items())


def test_folders_from_the_hub_are_held_to_the_hash_that_they_carry(tmp_path):
    folder, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    folder.mkdir(), blobs.mkdir()
    save_file(TENSORS, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    (folder / "model.safetensors").symlink_to(blobs / digest)
    found = weights.network(folder, None, "org/name")
    assert (found.sha256, found.name, found.published) == (digest, "org/name", None)
    with pytest.raises(BadInput, match="expected the file of that hash"):
        weights.network(folder, "1" * 64, "org/name")
    (blobs / digest).write_bytes(content[:-1] + b"x")
    with pytest.raises(BadInput, match="is damaged: its SHA-256 is"):
        weights.network(folder, None, "org/name")
    with pytest.raises(BadInput, match="is damaged: its SHA-256 is"):
        weights.check(folder / "model.safetensors", "", None)
    with pytest.raises(BadInput, match=r"holds no weights: expected a folder with model.safetensors"):
        weights.network(blobs, None, "blobs")


def test_one_hash_stands_for_all_parts_of_a_network(tmp_path):
    for name in ("model-1-of-2", "model-2-of-2"):
        save_file({"a": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    before = weights.network(tmp_path, None, "x").sha256
    for name in ("model.fp16", "open_clip_model"):  # a variant, and another package's
        save_file({"a": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    assert weights.network(tmp_path, None, "x").sha256 == before
    save_file({"a": torch.zeros(2)}, tmp_path / "model-2-of-2.safetensors")
    assert weights.network(tmp_path, None, "x").sha256 != before


def test_every_row_says_where_its_weights_come_from():
    for name, row in ENCODERS.items():
        assert (row.name, bool(row.what), bool(row.source)) == (name, True, True)
    with pytest.raises(BadInput, match="did you mean torchmetrics"):
        encoders.row("torchmetric")
    with pytest.raises(BadInput, match="expected a file that ends in"):
        encoders.load("tf-exact", "weights.zip")
