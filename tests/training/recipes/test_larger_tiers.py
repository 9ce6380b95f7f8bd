"""The rows of the tiers proxy and paper, shrunk: they train end to end on small files in the formats users bring."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mdrepro.cli.app import main
from mdrepro.core import paths
from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.data import folders, sources
from mdrepro.diffusion.levels import SD_NOISE
from mdrepro.models import latents, text
from mdrepro.models.snapfusion.evolvable import EvolvableUNet
from mdrepro.training.engine.draws import Draws
from mdrepro.training.objectives import synthetic
from mdrepro.training.objectives.inputs import Encoders, Inputs
from mdrepro.training.recipes import paper, proxy, registry
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import pipelines, scratch, store
from mdrepro.training.runs.model_folders import Pretrained
from mdrepro.training.runs.settings import changed
from tests.support import foreign_files as foreign
from tests.support.recipe_rows import put
from tests.support.weight_files import no_package

TIERS = {"proxy": proxy.PROXY, "paper": paper.PAPER}
SHORT = ["loop.steps=2", "loop.batch=2", "loop.accumulation=1", "loop.threads=1", f"data.size={foreign.SIDE}"]
SMALLER = {
    "autoencoder": ["network.width=8", "options.perceptual=0", "options.patch_width=8", "options.start=1"],
    "decoder": ["network.width=8", "options.perceptual=0", "options.patch_width=8", "options.start=1"],
    "evolution": ["options.rounds=1", "options.validation=2", "options.share=0.99"],
    "synthetic": ["options.steps=2"],
}
UNET = [
    *(f"network.sample_size={foreign.SIDE // 8}", f"network.cross_attention_dim={foreign.WIDTH}"),
    *("network.block_out_channels=[16, 16, 16]", "network.mid_transformer_blocks=1"),
    *("network.attention_head_dim=16", "network.norm_num_groups=8"),
]


def shrunk(row: Recipe) -> Recipe:
    """The row with settings that anyone could give by ``--set``."""
    from_nothing = row.kind == "diffusion" and "unet" not in (*row.parents, *row.pretrained)
    made = changed(row, [*SHORT, *SMALLER.get(row.kind, []), *(UNET if from_nothing else [])])
    return changed(made, ["options.seconds=0"]) if row.kind == "evolution" else made


@pytest.fixture
def home(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``data/`` of a checkout, with weights in it and no pictures yet."""
    monkeypatch.setenv(scratch.VARIABLE, "")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    foreign.clip(workspace / "data/weights/clip-vit-large-patch14")
    foreign.stable_diffusion(workspace / "data/weights/stable-diffusion-v1-5")
    return workspace / "data"


def command(*arguments: str) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


@pytest.mark.parametrize("tier", TIERS)
def test_each_row_says_what_it_comes_to_and_what_it_costs(tier: str) -> None:
    """In a comment before it; and what it takes is one set of weights and one folder of pictures."""
    source = Path(proxy.__file__ if tier == "proxy" else paper.__file__).read_text()
    comments = re.findall(r"((?:^    # .*\n)+)^    (?:MD|MD_VAE|SF)\.\w+\(", source, flags=re.MULTILINE)
    for comment, row in zip(comments, TIERS[tier], strict=True):
        assert ("wanted: " if tier == "proxy" else "paper: ") in comment, row.name
        assert "cost: " in comment, row.name
        assert "measured" not in comment, row.name
        assert row.tier == tier
        assert row.data["source"] == "captions"
        assert set(row.pretrained.values()) <= {paper.CLIP, paper.SD15}
    assert {row.kind for row in TIERS[tier]} == {
        *("autoencoder", "decoder", "diffusion", "relu", "steps", "gan", "robust", "evolution", "synthetic")
    }


@pytest.mark.parametrize("tier", ["proxy", pytest.param("paper", marks=pytest.mark.slow)])
def test_every_row_trains_from_its_parents(tier: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign.shards(home / "captions")
    rows = put([shrunk(row) for row in TIERS[tier]], monkeypatch)
    made = {name: store.load_or_train(name) for name in rows}
    for name, row in rows.items():
        record = made[name].record
        assert record["steps"] == (2 if row.kind != "evolution" else 2 * len(made[name].load("unet").config.actions))
        assert record["parents"] == {role: store.key(rows[parent]) for role, parent in row.parents.items()}
        assert set(record["pretrained"]) == set(row.pretrained)
        assert all(len(digest) == 64 for digest in record["pretrained"].values())
        assert str(home) not in json.dumps(record)
    last, decoder = ("proxy-snap-8", "proxy-decoder") if tier == "proxy" else ("sf-8", "sf-decoder")
    images = pipelines.load(last, vae=decoder)(["a red star"], output_type="pt").images
    assert images.shape == (1, 3, foreign.SIDE, foreign.SIDE)
    assert images.isfinite().all()
    with pytest.raises(BadInput, match="kind synthetic"):
        pipelines.load(decoder)
    with pytest.raises(BadInput, match="decodes other latents"):
        pipelines.load(last, vae="proxy-vae-lite" if tier == "proxy" else "md-vae-lite")


@pytest.mark.parametrize("cached", [True, False])
def test_a_row_shrunk_on_the_command_line_trains(cached: bool, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With COCO, weights in a folder of the user's, and both ways of encoding."""
    foreign.coco(home / "mine")
    (home / "weights/stable-diffusion-v1-5").rename(home / "sd")
    weights = [f"pretrained.{role}={home / 'sd'}" for role in ("vae", "unet")]
    given = [*SHORT, *weights, f"data.path={home / 'mine'}", f"data.cache={json.dumps(cached)}"]
    assert command("train", "proxy-sd", "--json", *(word for one in given for word in ("--set", one))) == 0
    record = json.loads(capsys.readouterr().out.split("\n", 2)[2])
    assert (record["finished"], record["steps"]) == (True, 2)
    assert record["row"]["pretrained"] == {"vae": "sd", "unet": "sd", "text": "clip-vit-large-patch14"}
    assert (paths.runs() / "proxy/latents").exists() == cached
    before = load_file(home / "sd/unet/diffusion_pytorch_model.safetensors")
    after = load_file(paths.root() / record["folder"] / "unet/diffusion_pytorch_model.safetensors")
    assert before.keys() == after.keys(), "SD's network, under its own keys"
    moved = max(float((before[name] - after[name]).abs().max()) for name in before)
    assert 0 < moved < 1e-3


def _without_pictures(home: Path) -> str:
    return "data/captions holds none"


def _without_weights(home: Path) -> str:
    foreign.folder(home / "captions")
    (home / "weights/stable-diffusion-v1-5").rename(home / "elsewhere")
    return "--local-dir data/weights/stable-diffusion-v1-5"


def _with_half_of_the_weights(home: Path) -> str:
    foreign.folder(home / "captions")
    next((home / "weights/stable-diffusion-v1-5/unet").glob("*.safetensors")).unlink()
    return "holds no unet"


def _with_pickles(home: Path) -> str:
    foreign.folder(home / "captions")
    file = next((home / "weights/stable-diffusion-v1-5/vae").glob("*.safetensors"))
    file.rename(file.with_suffix(".bin"))
    return "pickled weights"


@pytest.mark.parametrize("lack", [_without_pictures, _without_weights, _with_half_of_the_weights, _with_pickles])
def test_what_is_missing_is_one_error_before_anything_is_written(
    lack: Callable[[Path], str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says = lack(home)
    for row in ("proxy-sd", "sf-decoder"):
        assert command("train", row) == 2
        captured = capsys.readouterr()
        assert says in captured.err
        assert captured.err.startswith("error: ")
        assert len(captured.err.splitlines()) == 1
        assert captured.out == ""
    assert not paths.runs().exists()


def test_a_backbone_that_is_missing_leaves_nothing_behind(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    no_package(monkeypatch, tmp_path)
    foreign.folder(home / "captions")
    assert command("train", "proxy-vae", "--set", "network.width=8") == 2
    assert "LPIPS (vgg) needs" in capsys.readouterr().err
    assert [path for path in paths.runs().rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    assert list((paths.runs() / "proxy/checkpoints").glob("[!.]*")) == []


def test_all_of_a_tier_without_pictures_is_one_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("train", "--all", "--tier", "proxy") == 2
    assert "data/captions holds none" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "samples"), [("coco", 12), ("folder", 6), ("shards", 6)])
def test_pictures_are_found_whatever_kind_they_are(kind: str, samples: int, home: Path) -> None:
    data = {"source": "captions", "size": foreign.SIDE}
    with pytest.raises(NotAttempted, match="data/captions holds none"):
        sources.examples(data)
    getattr(foreign, kind)(home / "captions")
    found = sources.examples(data)
    assert len(found) == samples
    assert found.batch([0])["caption"] == ["a red star"]
    assert found.batch([0])["pixels"].shape == (1, 3, foreign.SIDE, foreign.SIDE)
    (home / "captions").rename(home / "moved")
    elsewhere = sources.examples({**data, "path": str(home / "moved")})
    assert elsewhere.fingerprint == found.fingerprint


def test_weights_are_known_by_the_bytes_of_their_role(home: Path) -> None:
    here = Pretrained(paper.SD15)
    folder = folders.weights(paper.SD15)
    assert here.folder() == folder
    before = {role: here.digest(role) for role in ("vae", "unet", "teacher")}
    assert len(set(before.values())) == 3
    assert Pretrained(str(folder)).digest("vae") == before["vae"]
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_in.bias"] += 1
    save_file(weights, file)
    after = {role: here.digest(role) for role in before}
    assert after["vae"] == before["vae"]
    assert after["unet"] != before["unet"]
    file.unlink()
    assert here.digest("vae") == before["vae"]


def test_sd_s_network_becomes_evolvable_and_says_the_same(home: Path) -> None:
    parents = {"unet": Pretrained(paper.SD15)}
    row = registry.get("sf-sd")
    ours, theirs = Inputs(row, parents, Path()).denoiser(), parents["unet"].load("unet")
    assert isinstance(ours, EvolvableUNet)
    given = (torch.randn(2, 4, 4, 4), torch.tensor([3, 900]), torch.randn(2, 10, foreign.WIDTH))
    with torch.no_grad():
        torch.testing.assert_close(ours(*given).sample, theirs(*given).sample)
    with pytest.raises(BadInput, match=r"begins with a UNet2DConditionModel: network\.class must be"):
        Inputs(changed(row, ["network.class=MobileDiffusionUNet"]), parents, Path()).denoiser()


@pytest.fixture
def decoding(home: Path) -> tuple[synthetic.SyntheticLatents, dict[str, Any]]:
    """The objective with the small Stable Diffusion, and a batch."""
    from diffusers import DDIMScheduler

    foreign.folder(home / "captions")
    weights = Pretrained(paper.SD15)
    tokenizer, encoder = text.load(home / "weights/clip-vit-large-patch14")
    teacher = weights.load("vae")
    objective = synthetic.SyntheticLatents(
        synthetic.pruned(teacher, share=0.5),
        Encoders(teacher, tokenizer, encoder),
        weights.load("unet"),
        DDIMScheduler(**SD_NOISE),
        steps=4,
        guidance=4.0,
    )
    return objective, sources.examples({"source": "captions", "size": foreign.SIDE}).batch([0, 1])


def test_synthetic_latents_are_what_the_pipeline_samples(
    decoding: tuple[synthetic.SyntheticLatents, dict[str, Any]],
) -> None:
    """By diffusers' own scheduler, from the same noise; of the data's pixels the size alone counts."""
    from diffusers import DDIMScheduler

    objective, batch = decoding
    with torch.no_grad():
        made = objective.sample(batch, Draws(0, 5, 0, 2, stream="decoder"))
        x = Draws(0, 5, 0, 2, stream="decoder").normal(4, 4, 4)
        scheduler, unet = DDIMScheduler(**SD_NOISE), objective.frozen["unet"]
        scheduler.set_timesteps(4)
        prompts = text.encode(
            objective.encoders.tokenizer, objective.frozen["text_encoder"], [*batch["caption"], "", ""]
        )
        for t in scheduler.timesteps:
            conditional, null = unet(torch.cat([x, x]), t, prompts).sample.chunk(2)
            x = scheduler.step(null + 4.0 * (conditional - null), t, x).prev_sample
    torch.testing.assert_close(made, x, atol=1e-4, rtol=1e-4)
    other = {**batch, "pixels": torch.zeros_like(batch["pixels"])}
    assert torch.equal(objective.sample(other, Draws(0, 5, 0, 2, stream="decoder")), made)


def test_the_pruned_decoder_learns_its_teacher_s_image(
    decoding: tuple[synthetic.SyntheticLatents, dict[str, Any]],
) -> None:
    objective, batch = decoding
    assert objective.model.config.decoder_block_out_channels == (4, 4, 4, 4)
    trained = [name for name, p in objective.model.named_parameters() if p.requires_grad]
    assert all(name.startswith(("decoder", "post_quant_conv")) for name in trained)
    draws = Draws(0, 5, 0, 2, stream="decoder")
    loss = objective.losses("decoder", batch, draws)["loss"]
    with torch.no_grad():
        z = latents.unscale(objective.model, objective.sample(batch, Draws(0, 5, 0, 2, stream="decoder")))
        images = [net(z) for net in (objective.networks["decoder"], objective.frozen["teacher"])]
    torch.testing.assert_close(loss.detach(), (images[0] - images[1]).square().mean())
    loss.backward()
    assert all(p.grad is None for net in objective.frozen.values() for p in net.parameters())
