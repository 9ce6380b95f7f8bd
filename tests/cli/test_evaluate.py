"""``mdrepro evaluate``: JSON and text, shards, captions, and one message with exit code 2 for what cannot be taken."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mdrepro.core.files import sha256
from mdrepro.metrics.image import encoders, images
from mdrepro.metrics.image.features import extract
from mdrepro.metrics.image.statistics import Statistics
from mdrepro.sampling import manifest
from tests.support import weight_files as makers
from tests.support.checkout import REPOSITORY
from tests.support.launchers import LAUNCHERS, free_port

NUMBER = 7


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A small scene reader: the encoder that takes the least time."""
    import torch

    from mdrepro.models.scenes.reader import SceneReader

    folder = tmp_path_factory.mktemp("reader")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SceneReader(width=4, depth=1).save_pretrained(folder)
    return folder


@pytest.fixture
def folders(tmp_path):
    return makers.photos(tmp_path / "photos", n=NUMBER, size=64)


@pytest.fixture
def evaluate(cli_run, folders, reader):
    def run(*options, real=None, generated=None, encoder=("--encoder", "shapes", "--weights")):
        weights = [*encoder, reader] if encoder else []
        return cli_run("evaluate", "images", real or folders[0], generated or folders[1], *weights, *options)

    return run


def test_json_has_every_number_with_its_protocol(evaluate, reader):
    code, out, error = evaluate("--metrics", "fid,kid,precision,recall", "--few", "--json")
    assert code == 0, error
    told = json.loads(out)
    assert [score["metric"] for score in told["metrics"]] == ["fid", "kid", "precision", "recall"]
    assert told["metrics"][0]["name"] == "FID[shapes]"
    assert told["metrics"][1]["name"] == "KID (shapes)"
    assert told["encoder"]["weights_sha256"] == sha256(next(reader.glob("*.safetensors")))
    assert told["encoder"]["features"] == 4
    assert all((score["n"], score["n_reference"]) == (NUMBER, NUMBER) for score in told["metrics"])
    assert all(told["encoder"]["weights_sha256"] in score["protocol"] for score in told["metrics"])


def test_text_has_a_line_a_number(evaluate):
    code, out, _ = evaluate("--metrics", "fid", "--interval")
    assert code == 0
    assert f"{NUMBER} and {NUMBER} images" in out
    assert "[" in out.splitlines()[1]
    assert "BIASED" not in out


def test_shards_combine_to_the_statistics_of_the_whole(cli_run, folders, reader, tmp_path, evaluate):
    encoder = ("--encoder", "shapes", "--weights", reader)
    parts = []
    for i in range(3):
        parts.append(tmp_path / f"{i}.safetensors")
        assert cli_run("evaluate", "statistics", folders[0], *encoder, "--shard", f"{i}/3", "--out", parts[-1])[0] == 0
    code, out, _ = cli_run("evaluate", "combine", *parts, "--out", tmp_path / "all.safetensors")
    assert (code, out.startswith(f"{NUMBER} images, 4 features")) == (0, True)
    merged = Statistics.load(tmp_path / "all.safetensors")
    whole = extract(images.files(folders[0]), {"x": encoders.load("shapes", str(reader))})["x"].statistics
    assert merged.convention == whole.convention
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-10)
    np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-10)
    from_parts = evaluate("--metrics", "fid", "--json", real=tmp_path / "all.safetensors")[1]
    from_folder = evaluate("--metrics", "fid", "--json")[1]
    one, two = (json.loads(out)["metrics"][0]["value"] for out in (from_parts, from_folder))
    assert one == pytest.approx(two, rel=1e-10)
    assert cli_run("evaluate", "combine", parts[0], parts[0], "--out", tmp_path / "x.safetensors")[0] == 2
    for wrong in ("3/3", "x"):
        options = ["--shard", wrong, "--out", tmp_path / "x.safetensors"]
        assert cli_run("evaluate", "statistics", folders[0], *encoder, *options)[0] == 2
    code, _, error = cli_run("evaluate", "statistics", folders[0], *encoder, "--out", tmp_path / "x.pt")
    assert (code, "ends in .safetensors" in error) == (2, True)


def test_captions_by_line_by_name_and_from_the_manifest_are_one_score(cli_run, folders, clip_folder, tmp_path):
    said = [f"picture number {i}" for i in range(NUMBER)]
    names = [file.name for file in images.files(folders[1])]
    lines, named = tmp_path / "captions.txt", tmp_path / "captions.jsonl"
    lines.write_text("\n".join(said))
    rows = [{"file_name": name, "text": text} for name, text in zip(names, said, strict=True)]
    named.write_text("\n".join(map(json.dumps, rows[::-1])))
    base = ["evaluate", "images", *folders, "--metrics", "clip-score", "--clip", "clip", "--clip-weights", clip_folder]
    found = [json.loads(cli_run(*base, "--captions", file, "--json")[1]) for file in (lines, named)]
    code, out, error = cli_run(*base, "--json")
    assert (code, "captions are needed" in error) == (2, True)
    entries = [{"index": i, "prompt": said[i], "seed": i, "file": names[i], "sha256": "0"} for i in range(NUMBER)]
    (folders[1] / manifest.MANIFEST).write_text(json.dumps({"settings": {"images": NUMBER}, "images": entries}))
    found.append(json.loads(cli_run(*base, "--json")[1]))
    values = {each["metrics"][0]["value"] for each in found}
    assert len(values) == 1
    assert found[0]["encoder"] is None
    assert found[0]["clip"]["encoder"] == "clip"
    scores = {}
    for scale in ("cosine", "torchmetrics"):
        out = cli_run(*base, "--scale", scale, "--json")[1]
        scores[scale] = json.loads(out)["metrics"][0]["value"]
    assert scores["torchmetrics"] == pytest.approx(max(100 * scores["cosine"], 0))
    (folders[1] / "extra.png").write_bytes((folders[1] / names[0]).read_bytes())
    for options, says in (
        ([], "manifest.json has no caption for extra.png"),
        (["--captions", lines], f"{NUMBER + 1} images, and {lines} {NUMBER} captions"),
        (["--captions", named], "captions.jsonl has no caption for extra.png"),
        (["--captions", tmp_path / "nowhere.txt"], "is no file here"),
    ):
        code, _, error = cli_run(*base, *options)
        assert (code, says in error, error.count("\n")) == (2, True, 1), error


@pytest.mark.parametrize("text", ["{", '{"file_name": "0000.png"}', '{"file_name": 1, "text": "a"}'])
def test_files_of_captions_that_make_no_sense_are_refused(cli_run, folders, clip_folder, tmp_path, text):
    (tmp_path / "c.jsonl").write_text(text)
    options = ["--metrics", "clip-score", "--clip", "clip", "--clip-weights", clip_folder]
    code, _, error = cli_run("evaluate", "images", *folders, "--captions", tmp_path / "c.jsonl", *options)
    assert code == 2
    assert "c.jsonl" in error


def test_the_matrix_of_clip_conventions(cli_run, folders, clip_folder, tmp_path):
    (tmp_path / "captions.txt").write_text("\n".join(f"picture {i}" for i in range(NUMBER)))
    clip = ["--clip", "clip", "--clip-weights", clip_folder, "--captions", tmp_path / "captions.txt"]
    code, out, error = cli_run("evaluate", "protocols", *folders, *clip, "--few", "--json")
    assert code == 0, error
    told = json.loads(out)
    assert list(told["not_attempted"]) == ["inception"]
    rows = {row["convention"]: row for row in told["rows"]}
    assert list(rows) == [
        "clip",
        "clip-clean",
        "clip-torch-fidelity",
        "clip, cosine",
        "clip, hessel",
        "clip, torchmetrics",
        "clip-clean, cosine",
        "clip-torch-fidelity, cosine",
    ]
    distances = [rows[name]["score"]["value"] for name in ("clip", "clip-clean", "clip-torch-fidelity")]
    assert [rows[name]["difference"] for name in ("clip", "clip-clean", "clip-torch-fidelity")] == pytest.approx(
        [value - distances[0] for value in distances]
    )
    plain, hundred = rows["clip, cosine"], rows["clip, torchmetrics"]
    assert hundred["score"]["value"] == pytest.approx(max(100 * plain["score"]["value"], 0))
    assert hundred["difference"] == pytest.approx(hundred["score"]["value"] / 100 - plain["score"]["value"], abs=1e-12)
    other = rows["clip-torch-fidelity, cosine"]
    assert other["difference"] == pytest.approx(other["score"]["value"] - plain["score"]["value"])
    assert {row["group"].partition(",")[0] for row in rows.values()} == {"CLIP-FID", "CLIP score"}
    code, out, _ = cli_run("evaluate", "protocols", *folders, *clip, "--few")
    assert code == 0
    assert "not attempted: inception: the weights" in out
    assert "BIASED" in out
    code, _, error = cli_run("evaluate", "protocols", *folders, "--few")
    assert (code, error.startswith("not attempted: ")) == (1, True)


def spoil(folder, fault):
    path = sorted(folder.glob("*.png"))[2]
    pixels = np.asarray(Image.open(path))
    if fault == "corrupt":
        path.write_bytes(path.read_bytes()[:100])
    elif fault == "16-bit":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)
    elif fault == "alpha":
        Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(path)
    elif fault == "size":
        Image.fromarray(pixels[:40]).save(path)
    elif fault == "empty":
        for file in folder.iterdir():
            file.unlink()
    elif fault == "grey":
        Image.fromarray(pixels[..., 0]).save(path)
    elif fault == "palette":
        Image.fromarray(pixels).quantize(32).save(path)
    elif fault == "opaque":
        Image.fromarray(np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])).save(path)
    return path.name


@pytest.mark.parametrize("fault", ["corrupt", "16-bit", "alpha", "size", "empty"])
def test_bad_images_are_one_message_with_exit_code_2(evaluate, folders, fault):
    name = spoil(folders[1], fault)
    code, out, error = evaluate("--metrics", "fid", "--few")
    assert (code, out) == (2, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert ("takes 64 x 64 alone" if fault == "size" else "expected PNG, JPEG and WebP") in error
    assert fault == "empty" or name in error


@pytest.mark.parametrize("kind", ["grey", "palette", "opaque"])
def test_images_of_other_kinds_become_rgb(evaluate, folders, kind):
    spoil(folders[1], kind)
    assert evaluate("--metrics", "fid", "--few")[0] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--metrics", "fid,fod"], "unknown metric 'fod' (did you mean fid?); allowed: fid, kid"),
        (["--encoder", "tfexact"], "did you mean tf-exact?"),
        (["--metrics", "fd-infinity"], "fd-infinity of 4 features needs at least 10 images, got 7 real"),
        (["--metrics", "kid"], "at least 1000 images in each set, got 7 real and 7 generated; --few takes fewer"),
        (["--metrics", "clip-score"], "name the backbone, with --clip clip or --clip open-clip"),
        (["--scale", "percent"], "allowed: cosine, hessel, torchmetrics"),
        (["--device", "tpu"], "allowed: auto, cpu, cuda"),
        (["--sha256", "0" * 64], "expected the file of that hash"),
        (["--metrics", ","], "--metrics is empty"),
    ],
)
def test_options_that_cannot_be_are_refused(evaluate, options, says):
    code, out, error = evaluate(*options)
    assert (code, out) == (2, "")
    assert says in error


def test_weights_that_are_not_here_end_with_how_to_get_them(cli_run, folders, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    code, out, error = cli_run("evaluate", "images", *folders)
    assert (code, out) == (1, "")
    assert error.startswith("not attempted: the weights weights-inception-2015-12-05-6726825d.pth or pt_inception")
    assert "--download" in error


def test_encoders_are_listed(cli_run):
    code, out, _ = cli_run("evaluate", "encoders")
    assert code == 0
    assert "clean-fid's mode clean" in out
    rows = json.loads(cli_run("evaluate", "encoders", "--json")[1])
    assert {"tf-exact", "clean", "legacy-pytorch", "torchmetrics", "clip", "open-clip"} <= {row["name"] for row in rows}


def test_captions_are_read_only_where_they_are_needed(evaluate, folders, tmp_path):
    assert evaluate("--metrics", "fid", "--few", "--captions", tmp_path / "nowhere.txt")[0] == 0
    (folders[1] / manifest.MANIFEST).write_text("no JSON")
    assert evaluate("--metrics", "fid", "--few")[0] == 0


def test_statistics_of_another_package_stand_for_real_images_and_the_protocol_says_what_they_leave_open(
    cli_run, folders, reader, tmp_path, evaluate
):
    npz = tmp_path / "real.npz"
    encoder = ("--encoder", "shapes", "--weights", reader)
    assert cli_run("evaluate", "statistics", folders[0], *encoder, "--out", npz)[0] == 0
    ours = json.loads(evaluate("--metrics", "fid", "--json", real=npz)[1])["metrics"][0]
    with np.load(npz) as file:
        np.savez(tmp_path / "foreign.npz", mu=file["mu"], sigma=file["sigma"])
    code, out, error = evaluate("--metrics", "fid", "--few", "--json", real=tmp_path / "foreign.npz")
    assert code == 0, error
    foreign = json.loads(out)["metrics"][0]
    assert foreign["value"] == pytest.approx(ours["value"], rel=1e-10)
    doubt = "; the file of the real images' statistics does not say their network and preparation and number"
    assert foreign["protocol"] == ours["protocol"] + doubt
    code, _, error = evaluate("--metrics", "kid", real=npz)
    assert (code, "not statistics of them" in error) == (2, True)


@pytest.mark.slow
def test_two_processes_of_torchrun_print_and_write_what_one_does(folders, reader, tmp_path, cli_run):
    def by(program, *command):
        arguments = [
            sys.executable,
            "-m",
            *program,
            *map(str, command),
            "--encoder",
            "shapes",
            "--weights",
            str(reader),
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=240)

    launcher = [*LAUNCHERS["torchrun"], free_port(), "-m", "mdrepro"]
    command = ["evaluate", "images", *folders, "--metrics", "fid,kid,recall", "--few", "--batch", "2", "--json"]
    alone, both = json.loads(by(["mdrepro"], *command).stdout), json.loads(by(launcher, *command).stdout)
    for one, other in zip(alone.pop("metrics"), both.pop("metrics"), strict=True):
        assert one.pop("value") == pytest.approx(other.pop("value"), rel=1e-9)
        assert one == other
    assert alone == both
    command = ["evaluate", "statistics", folders[0], "--batch", "2", "--out"]
    for program, name in ((["mdrepro"], "one"), (launcher, "two")):
        printed = by(program, *command, tmp_path / f"{name}.safetensors").stdout
        assert printed.count("images, 4 features") == 1
    one, two = (Statistics.load(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    np.testing.assert_allclose(one.covariance, two.covariance, rtol=1e-10)
    assert one.n == two.n == NUMBER
