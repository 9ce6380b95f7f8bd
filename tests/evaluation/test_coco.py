"""Quality on COCO: which captions, scores against independent ones, what is kept, what is missing, whole notebooks."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg
from torch.nn import functional

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.files import sha256
from mdrepro.data import coco
from mdrepro.evaluation import coco as pictures
from mdrepro.evaluation import curves, estimators
from mdrepro.evaluation import experiment as declared
from mdrepro.evaluation import networks as larger
from mdrepro.evaluation.coco import Coco, CocoImages
from mdrepro.evaluation.curves import Curve
from mdrepro.evaluation.experiment import no_recipe
from mdrepro.evaluation.protocol import Setup
from mdrepro.metrics.image import encoders, features, networks, weights
from mdrepro.metrics.image.encoders import Encoder
from mdrepro.metrics.image.presets import SQUASHED
from mdrepro.models.latents import factor
from mdrepro.papers import ledger
from mdrepro.papers.schema import PUBLISHED
from mdrepro.reproduce import doctor
from mdrepro.reproduce.tables import decoder, evolution, step_distillation
from mdrepro.reproduce.workflow.record import complete
from mdrepro.sampling import generate as sampling
from mdrepro.sampling.manifest import Manifest
from tests.support import foreign_files as foreign
from tests.support import tiny_pipeline as tiny
from tests.support import weight_files as makers
from tests.support.experiments import execute, experiment, trained

N, PICTURES = 10, 12
WORDS = ("star", "circle", "red star", "blue circle", "red circle", "blue star")
torch.set_num_threads(1)


def said(number: int) -> list[str]:
    """Captions that no other picture has: words as often as the picture's number."""
    return [" ".join([f"a {WORDS[number % 6]}", *["red"] * (number // 6), *["left"] * place]) for place in range(3)]


def name(number: int, year: int) -> str:
    return f"{'COCO_val2014_' if year == 2014 else ''}{number:012}.jpg"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both validation sets of COCO in small, as they are unpacked."""
    place = tmp_path_factory.mktemp("coco")
    (place / "annotations").mkdir()
    for year in (2014, 2017):
        folder = place / f"val{year}"
        folder.mkdir()
        rng = np.random.default_rng(year)
        for number in range(PICTURES):
            low = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(low).resize((40 + number, 64), Image.Resampling.BICUBIC).save(folder / name(number, year))
        images = [{"id": 100 + number, "file_name": name(number, year)} for number in range(PICTURES)]
        captions = [
            {"image_id": 100 + number, "caption": f"{text}\n"} for number in range(PICTURES) for text in said(number)
        ]
        told = json.dumps({"images": images, "annotations": captions})
        (place / f"annotations/captions_val{year}.json").write_text(told)
    return place


@pytest.fixture
def home(workspace: Path, files: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout on a machine with COCO, a small CLIP, and in place of Inception the mean colour of images."""
    monkeypatch.setenv(coco.ROOT, str(files))

    def encoder(which: str, on: torch.device) -> Encoder:
        if which == pictures.FID:
            found = weights.Checked(files, "f" * 64, True, "colours")
            network = networks.Network("mean colour", found, 16, 3, lambda x: x.mean(dim=(2, 3)))
            return Encoder(encoders.row(which), network, on, SQUASHED)
        loaded = encoders.load("clip", str(clip_folder), on=on)
        return replace(loaded, reduction=SQUASHED)

    monkeypatch.setattr(pictures, "encoder", encoder)
    return workspace


@pytest.fixture
def on_coco(home: Path) -> Coco:
    return pictures.load("coco-2014-30k", N, tier="proxy")


def fid_of(scored: Coco, made: CocoImages) -> float:
    return float(scored.measures["fid"].without(made)[0])


def bright(pipeline: Any, value: float) -> Any:
    """A pipeline whose images differ from another's."""
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.bias.fill_(value)
    return pipeline


SEED = 5
SHORT: dict[str, Any] = {"steps": 2, "guidance": 2.0, "sampler": "ddim", "seed": SEED}
SETUP = Setup("tiny", steps=2, sampler="ddim", guidance=2.0)


# ------------------------------------------------------------------------------------------------ which captions
def test_the_draw_is_fixed_and_pairs_a_picture_with_its_own_caption(files: Path, home: Path) -> None:
    chosen = coco.choose("coco-2014-30k", N)
    numbers = [int(file.stem[-12:]) for file in chosen.files]
    assert numbers == [11, 4, 0, 5, 3, 1, 7, 6, 10, 8]
    assert all(text in said(number) for text, number in zip(chosen.captions, numbers, strict=True))
    assert {len(text.split()) for text in chosen.captions} > {3}, "not always the first caption"
    assert len(set(numbers)) == N
    assert chosen.whole == tuple(sorted((files / "val2014").iterdir()))
    assert coco.choose("coco-2014-30k", 4).captions == chosen.captions[:4]
    assert coco.choose("coco-2014-2k", 4).captions == chosen.captions[:4]
    listed = [(name(number, 2014), tuple(said(number))) for number in range(PICTURES)]
    assert coco.drawn("picture", listed[::-1])[:N] == [
        (file.name, text) for file, text in zip(chosen.files, chosen.captions, strict=True)
    ]
    pairs = coco.drawn("pair", listed)
    assert sorted(pairs) == sorted((file, text) for file, texts in listed for text in texts)
    assert len({file for file, _ in pairs[:N]}) < N, "pairs of one picture may both be drawn"
    assert coco.drawn("pair", listed, seed=1) != pairs
    with pytest.raises(BadInput, match=r"13 captions of coco-2014-30k: must be 1 to 12"):
        coco.choose("coco-2014-30k", 13)


def test_a_file_of_prompts_stands_for_the_draw(home: Path, tmp_path: Path) -> None:
    (tmp_path / "bk.txt").write_text("a star\na circle\n")
    chosen = coco.choose("coco-2014-30k", 2, tmp_path / "bk.txt")
    assert (chosen.captions, chosen.files, len(chosen.whole)) == (("a star", "a circle"), (), PICTURES)
    assert "captions of bk.txt (SHA-256 " in chosen.description


def test_what_is_missing_of_coco_is_named(home: Path, files: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv(coco.ROOT, str(tmp_path / "nothing"))
    with pytest.raises(NotAttempted) as caught:
        coco.choose("coco-2017-5k")
    for part in ("annotations/captions_val2017.json and val2017 of COCO", "zips/val2017.zip", "COCO_ROOT"):
        assert part in str(caught.value)
    found = {finding.name: finding for finding in doctor.findings()}
    assert not found["coco-2017"].found
    assert found["coco-2017"].remedy in str(caught.value)
    (tmp_path / "some/val2014").mkdir(parents=True)
    (tmp_path / "some/annotations").symlink_to(files / "annotations")
    monkeypatch.setenv(coco.ROOT, str(tmp_path / "some"))
    with pytest.raises(NotAttempted, match=r"12 of the 12 pictures .* first COCO_val2014_000000000000.jpg: unpack"):
        coco.choose("coco-2014-6k")
    with pytest.raises(BadInput, match="unknown set of COCO 'coco'"):
        pictures.load("coco", 5, tier="proxy")


# ---------------------------------------------------------------------------------------------------- weights
def test_missing_weights_are_named_and_others_refused(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(workspace / "cache"))
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(
        NotAttempted, match=r"Inception of FID: put weights-inception.*\.pth into data/weights \(https://"
    ):
        pictures.encoder(pictures.FID, torch.device("cpu"))
    with pytest.raises(
        NotAttempted, match=r"CLIP ViT-g/14: put open_clip_model.*hf download laion[^)]*\). .*open_clip_torch"
    ):
        pictures.encoder(pictures.CLIP, torch.device("cpu"))
    (workspace / "data/weights").mkdir(parents=True)
    (workspace / "data/weights/weights-inception-2015-12-05-6726825d.pth").write_bytes(b"another file")
    with pytest.raises(BadInput, match="expected the published file"):
        pictures.encoder(pictures.FID, torch.device("cpu"))


# ----------------------------------------------------------------------------------------------------- scores
def independent(file: Path, network: Any) -> Any:
    """Features as pytorch-fid makes them, of an image that Pillow brought to 256 px."""
    with Image.open(file) as picture:
        small = np.array(picture.convert("RGB").resize((256, 256), Image.Resampling.BICUBIC))
    x = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
    x = functional.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        features_1n11 = network(x)[0]  # of values from 0 to 1, which it scales itself
    return features_1n11.flatten().double().numpy()


def frechet(one: Any, two: Any) -> float:
    gap = np.square(one.mean(0) - two.mean(0)).sum()
    a, b = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    return float(gap + np.trace(a + b) - 2 * np.trace(np.real(linalg.sqrtm(a @ b))))


def test_fid_is_pytorch_fids_of_images_of_256_px(
    home: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights in the published format; against another Inception with scipy, and against `mdrepro evaluate images`."""
    import cleanfid.inception_pytorch as theirs

    from mdrepro.cli.app import main

    state, place = makers.inception_weights(), tmp_path / "inception.pth"
    torch.save(state, place)
    loaded = encoders.load(pictures.FID, str(place), sha256=sha256(place))
    chosen = coco.choose("coco-2014-30k", 3)
    chosen = replace(chosen, whole=chosen.whole[:3])
    fid, clip = replace(loaded, reduction=SQUASHED), pictures.encoder("clip", torch.device("cpu"))
    reference = pictures.statistics(chosen, fid)
    assert clip.network.texts is not None
    scored = Coco(chosen, reference, fid, clip, clip.network.texts(chosen.captions), home / "images", few=True)
    made = scored.images(tiny.pipeline(), SETUP, SEED)
    network = makers.legacy_inception(state, theirs)
    real, ours = (np.stack([independent(file, network) for file in part]) for part in (chosen.whole, made.files))
    np.testing.assert_allclose(made.features, ours, atol=2e-3)
    value = fid_of(scored, made)
    # the few images span as many directions: the same distance in their space is the textbook's
    basis = np.linalg.svd(np.concatenate([real - real.mean(0), ours - real.mean(0)]), full_matrices=False)[2]
    assert value == pytest.approx(frechet(real @ basis.T, ours @ basis.T), rel=2e-3)
    for folder, part in (("real", chosen.whole), ("made", made.files)):
        (tmp_path / folder).mkdir()
        for file in part:
            with Image.open(file) as picture:
                picture.resize((256, 256)).save(tmp_path / folder / f"{file.stem}.png")
    given = ["--encoder", "legacy-pytorch", "--weights", str(place), "--sha256", sha256(place)]
    folders = [str(tmp_path / "real"), str(tmp_path / "made")]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["evaluate", "images", *folders, *given, "--few", "--metrics", "fid", "--device", "cpu", "--json"])
    assert value == pytest.approx(json.loads(capsys.readouterr().out)["metrics"][0]["value"], rel=1e-6)
    assert "BIASED" in scored.measures["fid"].protocol
    assert "256 x 256 px by Pillow's bicubic" in scored.scoring


def test_too_few_images_give_a_reason_in_place_of_fid(on_coco: Coco) -> None:
    fid = on_coco.fid
    wide = networks.Network("wide", fid.network.weights, 16, 10, fid.network.features)
    few = replace(on_coco, fid=replace(fid, network=wide))
    made = on_coco.images(tiny.pipeline(), SETUP, SEED)
    table = ledger.find("mobilediffusion-steps")
    cells = {cell.column: cell for cell in estimators.rows(table, {"50": (made,)}, few)}
    assert cells["fid"].reason == "FID of 10 features needs at least 11 images, got 10"
    assert cells["clip"].value == pytest.approx(made.similarity.mean())
    with pytest.raises(BadInput, match="needs at least 11 images"):
        curves.levels({"50": Curve("", (1.0, 2.0), ((made,), (made,)))}, few)


def test_images_are_scored_with_their_own_captions(on_coco: Coco, home: Path) -> None:
    made = on_coco.images(tiny.pipeline(), SETUP, SEED)
    folder = made.files[0].parent
    assert [entry.prompt for entry in Manifest.read(folder).images] == list(on_coco.captions)
    net = on_coco.clip.network
    for index in (0, N - 1):
        with Image.open(made.files[index]) as picture:
            small = torch.from_numpy(np.asarray(picture.resize((256, 256)))).permute(2, 0, 1)
        assert net.prepare is not None
        assert net.texts is not None
        image = net.features(net.prepare[0](small)[None])[0]
        text = net.texts([on_coco.captions[index]]).features[0]
        cosine = functional.cosine_similarity(image, text, dim=0).item()
        assert made.similarity[index] == pytest.approx(cosine, abs=1e-5)
    other = pictures.load("coco-2017-5k", N, tier="proxy")
    changed = Coco(other.chosen, other.reference, other.fid, other.clip, other.texts, other.folder)
    if list(changed.captions) != list(on_coco.captions):
        with pytest.raises(BadInput, match="images of other captions"):
            changed.score("x", Manifest.read(folder))


# ------------------------------------------------------------------------------------------- what is kept on disk
def test_an_interrupted_set_goes_on_and_is_the_same(on_coco: Coco, tmp_path: Path, monkeypatch: Any) -> None:
    slow = replace(on_coco, batch=2, folder=tmp_path / "one")
    store, stored = sampling._store, []

    def breaks(path: Path, pixels: Any) -> None:
        if len(stored) == 5:
            raise KeyboardInterrupt
        stored.append(path)
        store(path, pixels)

    monkeypatch.setattr(sampling, "_store", breaks)
    with pytest.raises(KeyboardInterrupt):
        slow.images(tiny.pipeline(), SETUP, SEED)
    monkeypatch.setattr(sampling, "_store", store)
    (folder,) = (tmp_path / "one").iterdir()
    before = {file: file.stat().st_mtime_ns for file in sorted(folder.glob("*.png"))}
    assert len(before) == 5
    gone_on = slow.images(tiny.pipeline(), SETUP, SEED)
    assert all(file.stat().st_mtime_ns == time for file, time in list(before.items())[:4])
    whole = replace(slow, folder=tmp_path / "two").images(tiny.pipeline(), SETUP, SEED)
    manifests = [(made.files[0].parent / "manifest.json").read_bytes() for made in (gone_on, whole)]
    assert manifests[0] == manifests[1]
    assert gone_on.seconds is None
    assert whole.seconds is not None
    np.testing.assert_array_equal(gone_on.features, whole.features)


def test_nothing_is_made_or_read_twice_and_other_weights_have_their_own(on_coco: Coco, monkeypatch: Any) -> None:
    first = on_coco.images(tiny.pipeline(), SETUP, SEED)
    other = on_coco.images(bright(tiny.pipeline(), 0.5), SETUP, SEED)
    assert first.files[0].parent != other.files[0].parent

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("made or read again")

    monkeypatch.setattr(features, "extract", refuse)
    monkeypatch.setattr(sampling, "_make", refuse)
    again = on_coco.images(tiny.pipeline(), SETUP, SEED)
    np.testing.assert_array_equal(again.features, first.features)
    assert pictures.load("coco-2014-30k", N, tier="proxy").reference.n == PICTURES
    assert fid_of(on_coco, first) != fid_of(on_coco, other)


# ------------------------------------------------------------------------------------------------- whole tables
def tiny_for(recipe: str) -> Any:
    """Pipelines that differ, by recipe."""
    return bright(tiny.pipeline(), 0.01 * (sum(map(ord, recipe)) % 50))


def run(table: str, home: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    """The result of a notebook's cells at the proxy tier."""
    trained(monkeypatch, home / "papermill_runs/proxy/checkpoints", tiny_for)
    return execute(table, "proxy", home / "papermill_runs/proxy" / table, monkeypatch, **changes)


def test_the_notebook_of_steps_runs_at_the_proxy_tier(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = declared.guidance_scales
    monkeypatch.setattr(declared, "guidance_scales", lambda texts: every(texts)[:2])  # of the sweeps
    result = run("mobilediffusion-steps", home, monkeypatch, images=N, guidance=2.0)
    cells = {(row["row"], row["column"]): row for row in result["rows"] if row["value"] is not None}
    rows = ("50", "8", "1", "8-ddim", "8-dpm++", "1-ddim")
    assert {row for row, _ in cells} == set(rows)
    assert {column for row, column in cells if row == "8"} == {
        *("fid", "clip", "fid_over_50", "clip_over_50", "fid_over_ddim", "fid_over_dpm"),
        *("seconds_per_image", "gmacs_per_image"),
    }
    scored = pictures.load("coco-2014-30k", N, tier="proxy")
    by_row = {
        row: json.loads((folder / "settings.json").read_text())
        for folder in (home / "papermill_runs/proxy/images").iterdir()
        if (folder / "settings.json").is_file()
        for row in [folder.name]
    }
    swept = {row: len(one.scales) for row, one in experiment("mobilediffusion-steps", "proxy").setups.items()}
    assert len(by_row) == sum(max(scales, 1) for scales in swept.values())
    assert {told["images"] for told in by_row.values()} == {N}
    found = {
        name: fid_of(scored, scored.score("", Manifest.read(home / "papermill_runs/proxy/images" / name)))
        for name in by_row
    }
    of_50 = [found[name] for name, told in by_row.items() if told["steps"] == 50]
    assert len(of_50) == swept["50"] == swept["8-ddim"]
    assert cells["50", "fid"]["value"] == pytest.approx(min(of_50)), "the best of the sweep over guidance"
    for row in rows[1:]:
        assert pytest.approx(cells[row, "fid"]["value"]) in list(found.values())
    pair = cells["8", "fid"]["value"] / cells["8-ddim", "fid"]["value"]
    assert cells["8", "fid_over_ddim"]["value"] == pytest.approx(pair)
    assert cells["8", "fid"]["n"] == N
    assert cells["50", "fid"]["verdict"] == "not comparable"
    for part in ("proxy-relu, 50 steps of ddim", f"all {PICTURES} pictures of val2014", "mean colour", "over captions"):
        assert part in cells["50", "fid"]["protocol"]
    claims = {claim["id"]: claim for claim in result["claims"]}
    assert "1/fid_over_50 <= 1.35" in claims["one-step-near-50-steps"]["numbers"]
    assert "attribute_accuracy" not in claims["one-step-beats-undistilled"]["numbers"]
    assert all(claim["verdict"] != "not attempted" for claim in claims.values())


@pytest.mark.slow
def test_the_notebook_of_step_distillation_runs_at_the_proxy_tier(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scales = ["2", "2.5"]
    changes = {"images": N, "scales": scales, "guidance": 2.0}
    result = run("snapfusion-step-distillation", home, monkeypatch, **changes)
    cells = {(row["row"], row["column"]): row for row in result["rows"]}
    for row, said in (("table2-ours", "val2017"), ("ddim-50", "val2017"), ("fig4-sd15-cfg-2.5", "val2014")):
        assert f"pictures of {said}" in cells[row, "fid"]["protocol"]
    assert cells["table2-meng", "fid"]["reason"] == "mdrepro train has no recipe of its network at tier proxy"
    assert cells["fig4-ours-cfg-2.5", "fid"]["value"] >= cells["curve-ours", "best_fid"]["value"]
    assert cells["table2-dpm", "fid_ratio"]["value"] == pytest.approx(
        cells["table2-dpm", "fid"]["value"] / cells["table2-ours", "fid"]["value"]
    )
    claims = {claim["id"]: claim["verdict"] for claim in result["claims"]}
    assert claims["eight-steps-beat-fifty"] != "not attempted"
    assert claims["cfg-aware-beats-conditioned-progressive"] == "not attempted"


def test_the_notebook_of_the_decoder_runs_at_the_proxy_tier(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By two training seeds of the network that makes the latents."""
    changes = {"images": N, "steps": 2, "guidance": 2.0, "others": ["2.5"], "seeds": 2}
    result = run("snapfusion-decoder", home, monkeypatch, **changes)
    cells = {(row["row"], row["column"]): row for row in result["rows"] if row["value"] is not None}
    assert {column for row, column in cells if row == "half-width"} == {
        *("fid", "clip", "fid_minus_original", "clip_minus_original", "psnr_to_original", "params", "latency_ms")
    }
    for column in ("fid", "clip", "fid_minus_original", "psnr_to_original"):
        one = cells["half-width", column]
        assert one["seeds"] == len(one["by_seed"]) == 2
        assert one["value"] == pytest.approx(np.mean(one["by_seed"]))
    assert len(set(cells["original", "fid"]["by_seed"])) == 2
    assert {"proxy-sd", "proxy-sd-seed1", "proxy-decoder"} <= set(result["provenance"]["checkpoints"])
    assert all(claim["verdict"] != "not attempted" for claim in result["claims"])


@pytest.mark.parametrize("tier", ["proxy", "paper"])
def test_evolution_says_which_rows_a_tier_lacks(
    tier: str, on_coco: Coco, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained(monkeypatch, tmp_path)
    spec, made = ledger.find("snapfusion-evolution"), experiment("snapfusion-evolution", tier)
    monkeypatch.setattr(evolution, "costs", lambda _: [])
    features = np.random.default_rng(0).normal(size=(N, 3))
    images = dict.fromkeys(made.setups, (CocoImages("", (), features, features[:, 0]),))
    cells = {(cell.row, cell.column): cell for cell in complete(spec, evolution.rows(made, images, on_coco))}
    assert cells["evolved-without-robust", "fid"].reason == no_recipe(tier)
    assert cells["evolved", "fid"].value is not None
    assert cells["robust-recipe", "skip_probability"].value == 0.1
    assert "held-out samples" in cells["action", "captions"].protocol
    to_controls = ("fid_minus_control", "fid_minus_without_robust")
    paired = {(row, column) for row, column in cells if column in to_controls}
    expected = {("evolved", to_controls[0]), ("robust-without-down-cross-attention", to_controls[1])}
    assert paired == expected, "no pair of a row that is not there"


def test_stable_diffusion_as_published_is_a_pipeline(workspace: Path) -> None:
    foreign.clip(workspace / "data/weights/clip-vit-large-patch14")
    foreign.stable_diffusion(workspace / "data/weights/stable-diffusion-v1-5")
    pipeline = larger.pipeline(PUBLISHED)
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    assert pipeline.scheduler.config.beta_end == 0.012
    made = sampling.images(pipeline, ["a red star"], **SHORT)
    assert made.shape == (1, 3, foreign.SIDE, foreign.SIDE)


def test_larger_tiers_take_networks_of_their_own() -> None:
    paper, proxy = experiment("snapfusion-step-distillation", "paper"), experiment("snapfusion-evolution", "proxy")
    assert paper.setups["curve-sd15"].recipe == PUBLISHED
    assert paper.setups["ddim-50"].steps == 50
    assert step_distillation.panels(paper) == {"Fig. 4 left": ("curve-ours", "curve-sd15")}
    quick = ledger.find("snapfusion-evolution").networks("quick")
    assert list(proxy.setups) == [row for row in quick if not row.startswith("evolved-without-robust")]
    for table in ledger.tables().values():
        for tier in table.tiers:
            if tier != "quick" and table.recipes(tier):
                assert table.by_name_only(tier)


def test_larger_networks_make_images_of_the_size_they_were_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(larger.pipelines, "load", lambda _: tiny.pipeline())
    made = {name: larger.pipeline(name) for name in ("proxy-sd", "md-8", "shapes-base")}
    sizes = {name: pipeline.unet.config.sample_size * factor(pipeline.vae) for name, pipeline in made.items()}
    assert sizes == {"proxy-sd": 256, "md-8": 512, "shapes-base": 8 * factor(made["shapes-base"].vae)}


def test_two_decoders_on_coco_differ_by_their_decoder_alone(
    on_coco: Coco, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained(monkeypatch, tmp_path, lambda _: bright(tiny.pipeline(), 0.2))  # the other decoder's is dark
    made = experiment("snapfusion-decoder", "proxy")
    measured = decoder.measure(made, on_coco, [2.0], seed=3)[2.0]
    ms = {"original": 2.0, "half-width": 1.0}
    cells = complete(ledger.find("snapfusion-decoder"), decoder.rows(made, measured, ms, on_coco))
    of = {(cell.row, cell.column): cell for cell in cells}
    folders = [measured[row][0].files[0].parent for row in made.setups]
    one, two = (np.stack([np.asarray(Image.open(file), float) for file in sorted(f.glob("*.png"))]) for f in folders)
    psnr = (10 * np.log10(255**2 / np.square(one - two).mean(axis=(1, 2, 3)))).mean()
    assert of["half-width", "psnr_to_original"].value == pytest.approx(psnr, rel=1e-5)
    assert of["half-width", "fid_minus_original"].value == pytest.approx(
        fid_of(on_coco, measured["half-width"][0]) - fid_of(on_coco, measured["original"][0])
    )
    assert "proxy-decoder, latents of proxy-sd" in of["half-width", "fid"].protocol
    assert decoder.curves({2.0: measured}, on_coco)["original"][0][2] == pytest.approx(of["original", "fid"].value)
