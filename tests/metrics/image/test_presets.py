"""Published protocols as data, and conventions ranked by a published number, against the packages' own resizing."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.fid import fid_from_feats
from cleanfid.resize import make_resizer
from PIL import Image
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchvision.transforms import functional as vision

from mdrepro.core.errors import BadInput
from mdrepro.metrics.image import encoders, images, presets, protocols, sets
from mdrepro.metrics.image.networks import Network, Texts
from mdrepro.metrics.image.presets import CROPPED, PRESETS, SQUASHED
from mdrepro.metrics.image.scores import Score
from mdrepro.metrics.image.statistics import Statistics
from mdrepro.metrics.image.weights import Checked
from tests.support import weight_files as makers

SIDE, WIDTH, NUMBER = 40, 6, 9
CONVENTIONS = ("tf-exact", "clean", "legacy-pytorch", "torchmetrics", "bk-sdm, snapfusion", "dmd2, gigagan")
CONVENTIONS = (*CONVENTIONS, "text2image-benchmark")
TAGS = re.compile(r"(ViT-g/14 )?(read-P|inferred|not found)\b")


@pytest.fixture(scope="module")
def network():
    """Random convolutions in the place of Inception, on images of 40 px."""
    rng = torch.Generator().manual_seed(0)
    kernels = torch.randn(WIDTH, 3, 5, 5, generator=rng)

    def features(x):
        return torch.nn.functional.conv2d(x, kernels, stride=2).relu().mean(dim=(2, 3))

    def texts(lines):
        said.extend(lines)
        return Texts(torch.ones(len(lines), WIDTH), 0, 77)

    said = []
    one = Network("small", Checked(Path("small"), "a" * 64, True, "small"), SIDE, WIDTH, features, None, texts)
    return replace(one, prepare=(lambda x: vision.resize(x.float(), [SIDE, SIDE]) / 255, "own")), said


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of odd and even sizes, wide and high."""
    sizes = [(64, 97), (131, 100), (90, 101)]
    return makers.photos(tmp_path_factory.mktemp("photos"), n=NUMBER, sizes=sizes)


def packages():
    """What each convention does to a Pillow image, by the packages and the authors' own steps."""

    def channels(resizer, norm):
        return lambda picture: norm(torch.from_numpy(resizer(np.asarray(picture)).copy()).permute(2, 0, 1))

    def tensorflow(picture):
        x = vision.pil_to_tensor(picture)[None].float()
        return to_128(interpolate_bilinear_2d_like_tensorflow1x(x, (SIDE, SIDE), align_corners=False)[0])

    def antialiased(picture):
        x = vision.pil_to_tensor(picture)[None].float()
        return to_128(torch.nn.functional.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)[0])

    def to_128(x):
        return (x - 128) / 128

    def to_one(x):
        return x / 127.5 - 1

    clean = channels(make_resizer("PIL", False, "bicubic", (SIDE, SIDE)), to_128)
    legacy = channels(make_resizer("PyTorch", False, "bilinear", (SIDE, SIDE)), to_one)

    def square(picture):
        pixels = np.asarray(picture)
        side = min(pixels.shape[:2])
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        return Image.fromarray(pixels[top : top + side, left : left + side])

    def lanczos(picture):
        return vision.center_crop(picture, min(picture.size)).resize((256, 256), Image.Resampling.LANCZOS)

    return {
        "tf-exact": tensorflow,
        "clean": clean,
        "legacy-pytorch": legacy,
        "torchmetrics": antialiased,
        "bk-sdm, snapfusion": lambda picture: legacy(picture.resize((256, 256))),
        "dmd2, gigagan": lambda picture: clean(lanczos(picture)),
        "text2image-benchmark": lambda picture: legacy(square(picture).resize((299, 299), Image.Resampling.BICUBIC)),
    }


@pytest.fixture(scope="module")
def published(network, folders):
    """The FID that each convention's package gives, the distance by clean-fid."""
    numbers = {}
    for name, prepare in packages().items():
        sides = []
        for folder in folders:
            pictures = [prepare(Image.open(file).convert("RGB")) for file in images.files(folder)]
            sides.append(network[0].features(torch.stack(pictures)).double().numpy())
        numbers[name] = float(fid_from_feats(*sides))
    return numbers


def matrix(network, folders):
    how = sets.Options(interval=True, batch=4)
    return protocols.matrix(*folders, {"inception": network[0]}, options=how)


def test_the_right_convention_is_ranked_first_by_each_package_s_number(network, folders, published):
    variants = matrix(network, folders)
    assert [one.convention for one in variants] == list(CONVENTIONS) == list(published)
    for name, number in published.items():
        first, *others = protocols.ranked(variants, float(f"{number:.5g}"))
        assert first.convention == name
        assert first.score.value == pytest.approx(number, rel=1e-4)
        assert len(others) == len(published) - 1
        assert sorted(others, key=lambda row: abs(row.difference)) == others
        assert first.inside
        assert first.score.low < number < first.score.high
    far = protocols.ranked(variants, 1e6)
    assert not any(row.inside for row in far)
    assert far[0].score.value == max(row.score.value for row in far)


def test_published_numbers_that_are_none_are_refused(network, folders):
    row = protocols.Variant("FID", "clean", Score("fid", "FID", 1.0, 2, ""), 0.0, 0.0)
    for number in (-1.0, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="expected an FID"):
            protocols.ranked([row], number)
    with pytest.raises(BadInput, match="whose network is not there"):
        protocols.ranked([replace(row, group="CLIP-FID")], 1.0)
    (only,) = protocols.ranked([row], 1.5)
    assert (only.difference, only.inside) == (-0.5, False)


def test_the_command_ranks_and_prints_the_interval(cli_run, network, folders, published, monkeypatch):
    monkeypatch.setattr(encoders, "network", lambda *_, **__: network[0])
    given = ["evaluate", "protocols", *folders, "--published", f"{published['clean']:.6g}"]
    code, out, error = cli_run(*given, "--json")
    assert code == 0, error
    ranks = json.loads(out)["ranked"]
    assert (ranks[0]["convention"], len(ranks)) == ("clean", len(CONVENTIONS))
    out = cli_run(*given)[1]
    lines = out.splitlines()
    assert lines[1].split()[0] == "clean"
    assert lines[1].endswith("published is in the interval")
    assert re.search(r"\[[\d.]+, [\d.]+\]", lines[1])


@pytest.mark.parametrize("name", PRESETS)
def test_every_field_has_a_source_and_changes_the_text(name):
    preset = PRESETS[name]
    said = [one.name for one in fields(preset) if one.name not in ("name", "sources")]
    assert list(preset.sources) == said
    assert all(TAGS.match(source) for source in preset.sources.values())
    other = Score("fid", "FID", 1.0, preset.n, "p", preset.n_references)
    for field in said:
        value = getattr(preset, field)
        if isinstance(value, int):
            changed = [value + 1]
        elif isinstance(value, str):
            changed = [value + "x"]
        elif value is None:
            changed = [7] if field == "n_references" else [SQUASHED, CROPPED]
        else:
            changed = [replace(value, size=255), replace(value, filter="box"), replace(value, crop="other")]
        for one in changed:
            altered = replace(preset, **{field: one})
            assert altered.text != preset.text, field
            assert altered.described(other).protocol != preset.described(other).protocol, field
        cited = replace(preset, sources={**preset.sources, field: "elsewhere"})
        assert cited.text != preset.text
    assert "HERE" not in preset.described(other).protocol
    few = preset.described(replace(other, n=7, n_reference=8)).protocol
    assert "HERE 7 images in place of 30,000" in few
    assert ("8 references in place of 40,504" in few) == (preset.n_references is not None)


@pytest.mark.parametrize("name", PRESETS)
def test_a_protocol_by_name_is_its_row(name, cli_run, network, folders, published, monkeypatch, tmp_path):
    def load(which, source=None, **_):
        asked.append((which, source))
        return encoders.Encoder(encoders.row(which), network[0], encoders.CPU)

    asked: list[tuple[str, str | None]] = []
    monkeypatch.setattr(encoders, "load", load)
    network[1].clear()
    (tmp_path / "captions.txt").write_text("\n".join(f"picture {i}" for i in range(NUMBER)))
    options = ["--protocol", name, "--captions", tmp_path / "captions.txt", "--json"]
    code, out, error = cli_run("evaluate", "images", *folders, *options)
    assert code == 0, error
    preset, record = PRESETS[name], json.loads(out)
    assert asked == [(preset.encoder, None), ("open-clip", preset.clip)]
    number = next(value for convention, value in published.items() if name in convention.split(", "))
    fid, score = record["metrics"]
    assert fid["value"] == pytest.approx(number, rel=1e-4)
    assert record["protocol"] == preset.text
    assert all(preset.text in one["protocol"] for one in (fid, score))
    assert f"HERE {NUMBER} images in place of 30,000" in fid["protocol"]
    assert network[1] == [f"{preset.prefix}picture {i}" for i in range(NUMBER)]
    before = preset.clip_reduction.what if preset.clip_reduction else "own"
    assert record["clip"]["preparation"].startswith(before)


def test_statistics_of_another_package_stand_for_the_references(cli_run, network, folders, monkeypatch, tmp_path):
    """BK-SDM's users pass real_im256.npz around: pytorch-fid's statistics of the reduced images."""
    monkeypatch.setattr(
        encoders, "load", lambda which, *_, **__: encoders.Encoder(encoders.row(which), network[0], encoders.CPU)
    )
    prepare = packages()["bk-sdm, snapfusion"]
    real = torch.stack([prepare(Image.open(file).convert("RGB")) for file in images.files(folders[0])])
    x = network[0].features(real).double().numpy()
    np.savez(tmp_path / "real_im256.npz", mu=x.mean(axis=0), sigma=np.cov(x, rowvar=False))
    given = ["--protocol", "bk-sdm", "--metrics", "fid", "--json"]
    foreign, own = (
        json.loads(cli_run("evaluate", "images", side, folders[1], *given)[1])["metrics"][0]
        for side in (tmp_path / "real_im256.npz", folders[0])
    )
    assert foreign["value"] == pytest.approx(own["value"], rel=1e-4)
    assert (foreign["n_reference"], own["n_reference"]) == (None, NUMBER)
    assert "does not say their network and preparation and number" in foreign["protocol"]
    assert not Statistics.load(tmp_path / "real_im256.npz").counted
    out = tmp_path / "ours.npz"  # made by the protocol, as BK-SDM's src/get_stat_mscoco_val2014.py does
    code, _, error = cli_run("evaluate", "statistics", folders[0], "--protocol", "bk-sdm", "--out", out)
    assert code == 0, error
    with np.load(out) as file:
        np.testing.assert_allclose(file["sigma"], np.cov(x, rowvar=False), rtol=1e-4, atol=1e-6)
    known = json.loads(cli_run("evaluate", "images", out, folders[1], *given)[1])["metrics"][0]
    assert known["value"] == pytest.approx(own["value"], rel=1e-9)
    assert "does not say" not in known["protocol"]
    assert cli_run("evaluate", "images", out, folders[1], "--metrics", "fid", "--few")[0] == 2  # another convention


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--encoder", "clean"], "--protocol sets --encoder"),
        (["--metrics", "fid,kid"], "for the metrics fid and clip-score"),
        (["--scale", "hessel"], "--protocol sets --encoder"),
        (["--clip-weights", "ViT-B-32=x.pt"], "bk-sdm takes ViT-g-14/laion2b_s34b_b88k: expected ViT-g-14=FILE"),
        (["--protocol", "bksdm"], "did you mean bk-sdm"),
    ],
)
def test_protocols_with_other_choices_are_refused(cli_run, folders, options, says):
    code, out, error = cli_run("evaluate", "images", *folders, "--protocol", "bk-sdm", *options)
    assert (code, out) == (2, "")
    assert says in error


def test_what_comes_before_a_network_is_presets_alone():
    assert presets.SQUASHED.what == "256 x 256 px by Pillow's bicubic on 8 bits, squashed"
    x = torch.zeros(3, 256, 256, dtype=torch.uint8)
    assert SQUASHED(x) is x
