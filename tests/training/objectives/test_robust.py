"""Robust training: what is skipped, when, and that a stopped run goes on to the same bits."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

from mdrepro.core.errors import BadInput
from mdrepro.metrics.cost import block_latency
from mdrepro.training.engine import loop, processes
from mdrepro.training.engine.draws import Draws
from mdrepro.training.evolution import action_log, search
from mdrepro.training.evolution.search import evolve
from mdrepro.training.objectives import kinds
from mdrepro.training.objectives.diffusion import Diffusion
from mdrepro.training.objectives.inputs import Inputs
from mdrepro.training.objectives.robust import negative_loss, robust_rounds
from mdrepro.training.recipes import registry
from tests.support import tiny_pipeline
from tests.support.launchers import LAUNCHERS, free_port
from tests.support.tiny_evolution import CONFIG, UNTOUCHED, Latents, evolved, module, robust, table, tiny
from tests.support.waiting import wait_until

torch.set_num_threads(1)

NAMES = [block.name for block in UNTOUCHED]
ROOT = Path(__file__).parents[3]


def draws(step: int = 0, first: int = 0, count: int = 4) -> Draws:
    return Draws(0, step, first, count, stream="unet")


class Watch:
    """Names of the blocks that ran, pass by pass."""

    def __init__(self, unet) -> None:
        self.passes: list[set[str]] = []
        unet.conv_in.register_forward_hook(lambda *_: self.passes.append(set()))
        for block in unet.blocks():
            module(unet, block).register_forward_hook(lambda *_, name=block.name: self.passes[-1].add(name))


# What is skipped.


@torch.no_grad()
def test_each_block_is_skipped_as_often_as_asked_and_none_in_eval_mode():
    unet, steps, p = tiny().train(), 400, 0.3
    objective, watch, batch = robust(unet, p), Watch(unet), Latents().batch([0])
    for step in range(steps):
        objective.losses("unet", batch, draws(step, count=1))
    assert len(watch.passes) == steps
    deviation = (p * (1 - p) / steps) ** 0.5
    for name in NAMES:
        skipped = sum(name not in ran for ran in watch.passes) / steps
        assert skipped == pytest.approx(p, abs=4.5 * deviation)
    together = [
        sum(a not in ran and b not in ran for ran in watch.passes) / steps for a in NAMES for b in NAMES if a < b
    ]
    assert sum(together) / len(together) == pytest.approx(p * p, abs=0.02)  # blocks apart from each other
    watch.passes.clear()
    unet.eval()
    for step in range(20):
        objective.losses("unet", batch, draws(step, count=1))
    assert watch.passes == [set(NAMES)] * 20


@torch.no_grad()
def test_a_step_skips_the_same_in_all_its_micro_batches_and_other_steps_others():
    unet = tiny().train()
    objective, watch, data = robust(unet), Watch(unet), Latents()
    whole = objective.losses("unet", data.batch(range(4)), draws(7))["loss"]
    halves = [objective.losses("unet", data.batch([k, k + 1]), draws(7, k, 2))["loss"] for k in (0, 2)]
    assert watch.passes[0] == watch.passes[1] == watch.passes[2]
    assert whole == pytest.approx(float(sum(halves)) / 2, rel=1e-5)
    for step in range(8):
        objective.losses("unet", data.batch(range(4)), draws(step))
    assert len({frozenset(ran) for ran in watch.passes[3:]}) > 4
    assert watch.passes[3 + 7] == watch.passes[0]


@torch.no_grad()
@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_loss_is_that_of_diffusion_on_the_network_without_them(probability):
    batch, same = Latents().batch(range(4)), draws(3)
    found = robust(tiny().train(), probability, min_snr=5.0).losses("unet", batch, draws(3))["loss"]
    left = tiny().replay(f"remove {name}" for name in NAMES) if probability else tiny()
    same.seed()
    expected = Diffusion(left, DDIMScheduler(), torch.zeros(3, 6), min_snr=5.0).losses("unet", batch, same)["loss"]
    assert torch.equal(found, expected)
    assert not torch.equal(found, robust(tiny().train(), 0.5).losses("unet", batch, draws(3))["loss"])


def test_what_is_skipped_gets_no_gradient():
    unet = tiny().train()
    watch = Watch(unet)
    robust(unet).losses("unet", Latents().batch(range(4)), draws(1))["loss"].backward()
    assert 0 < len(watch.passes[0]) < len(NAMES)
    for block in unet.blocks():
        used = [p.grad is not None for name, p in module(unet, block).named_parameters() if "conv_shortcut" not in name]
        assert set(used) == {block.name in watch.passes[0]}


# What it leaves.


def test_the_network_skips_only_while_its_loss_is_computed(tmp_path):
    unet = tiny().train()
    objective, seen = robust(unet, 0.3), []
    unet.conv_in.register_forward_hook(lambda *_: seen.append(unet.config.skip_probability))
    objective.losses("unet", Latents().batch([0, 1]), draws(count=2))
    assert seen == [0.3]
    assert unet.config.skip_probability == 0
    with pytest.raises(KeyError):
        objective.losses("unet", {"latent": torch.zeros(1, 4, 4, 4)}, draws(count=1))
    assert unet.config.skip_probability == 0
    trained = loop.train(objective, Latents(), CONFIG, tmp_path / "run").networks["unet"]
    trained.save_pretrained(tmp_path / "unet")
    assert json.loads((tmp_path / "unet/config.json").read_text())["skip_probability"] == 0
    watch = Watch(trained.train())
    Diffusion(trained, DDIMScheduler(), torch.zeros(3, 6)).losses("unet", Latents().batch([0]), draws(count=1))
    assert watch.passes == [set(NAMES)]


def test_a_wrapped_network_skips_too():
    class Wrapper(nn.Module):
        def __init__(self, inner) -> None:
            super().__init__()
            self.module = inner

        def forward(self, *arguments, **named):
            return self.module(*arguments, **named)

    unet = tiny().train()
    objective, watch = robust(unet, 1.0), Watch(unet)
    objective.networks["unet"] = Wrapper(unet)
    objective.losses("unet", Latents().batch([0]), draws(count=1))
    assert watch.passes == [set()]


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_impossible_probability(probability):
    with pytest.raises(BadInput, match="0 to 1"):
        robust(tiny(), probability)


@pytest.mark.parametrize("name", ["sf-robust", "shapes-evolved"])
def test_a_network_whose_blocks_cannot_be_skipped(name, tmp_path):
    """It is found before anything is trained or encoded."""
    row = replace(registry.get(name), network={})
    inputs = Inputs(row, {"unet": SimpleNamespace(load=lambda part: tiny_pipeline.unet())}, tmp_path)
    with pytest.raises(BadInput, match=f"{name} begins with a MobileDiffusionUNet: it must be an EvolvableUNet"):
        kinds.kind_of(row).build(inputs).run(row.loop, tmp_path, resume=True, max_seconds=None)
    assert list(tmp_path.iterdir()) == []


# On the loop.


def same(one: nn.Module, other: nn.Module) -> bool:
    pair = one.state_dict(), other.state_dict()
    return pair[0].keys() == pair[1].keys() and all(torch.equal(pair[0][name], pair[1][name]) for name in pair[0])


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    config = {"batch": 4, "accumulation": 2, "learning_rate": 1e-2, "log_every": 1}
    whole = loop.train(robust(tiny()), Latents(), loop.LoopConfig(steps=6, **config), tmp_path / "whole")
    stopped = robust(tiny())
    loop.train(stopped, Latents(), loop.LoopConfig(steps=6, **config), tmp_path / "parts", max_seconds=0)
    stopped.networks["unet"].robust_training(0.0, 5)  # whatever state its generator is in
    parts = loop.train(robust(tiny(seed=1)), Latents(), loop.LoopConfig(steps=6, **config), tmp_path / "parts")
    assert same(whole.networks["unet"], parts.networks["unet"])
    assert [row["unet/loss"] for row in whole.losses] == [row["unet/loss"] for row in parts.losses]
    assert len(parts.losses) == 6
    assert not same(whole.networks["unet"], tiny())


def test_rounds_train_a_network_after_surgery_from_a_new_optimiser(tmp_path):
    examples, unet = Latents(), tiny()
    train_round = robust_rounds(robust, examples, CONFIG)
    first = train_round(unet, 1, tmp_path / "round-001", None)
    again = train_round(tiny(), 1, tmp_path / "again" / "round-001", None)
    assert same(first, again)
    assert (tmp_path / "round-001/checkpoints").is_dir()
    first.replay(["remove up-1 cross-attention 0", "duplicate mid resnet 0"])
    before = {name: value.clone() for name, value in first.state_dict().items()}
    second = train_round(first, 2, tmp_path / "round-002", None)
    moved = {name for name, value in second.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("mid_block.resnets.2.") for name in moved)
    assert len(moved) > 0.9 * len(before)
    assert not (tmp_path / "round-001/checkpoints").exists()
    assert (tmp_path / "round-001/losses.jsonl").is_file()
    seeds = [json.loads((tmp_path / f"round-00{n}/losses.jsonl").read_text().splitlines()[0]) for n in (1, 2)]
    assert seeds[0]["unet/loss"] != seeds[1]["unet/loss"]


def test_a_round_for_which_time_does_not_suffice(tmp_path):
    train_round = robust_rounds(robust, Latents(), CONFIG)
    assert train_round(tiny(), 1, tmp_path / "round-001", 0.0) is None
    rest = train_round(tiny(), 1, tmp_path / "round-001", None)
    assert same(rest, train_round(tiny(), 1, tmp_path / "other", None))


def test_another_process_neither_measures_latencies_nor_clears_the_folder(tmp_path, monkeypatch):
    """Another one waits for its table, so that all aim at the same target."""
    left, known = tmp_path / search.EVALUATIONS, table(dict.fromkeys(NAMES, 2.0), dict.fromkeys(NAMES, 0.5), 4.0)
    left.write_text("{}")
    other = SimpleNamespace(is_main_process=False, wait_for_everyone=lambda: known.save(tmp_path / action_log.LATENCY))
    monkeypatch.setattr(processes, "start", lambda: other)
    monkeypatch.setattr(block_latency, "measure", lambda *_, **__: pytest.fail("measured"))
    given = []
    monkeypatch.setattr(search, "evolve", lambda *arguments, **_: given.extend(arguments) or 1 / 0)
    data = {"latents": Latents(), "encoded": lambda *_: Latents(4), "cache": tmp_path / "cache"}
    network = {"denoiser": tiny, "scheduler": DDIMScheduler(), "null_text": torch.zeros(3, 6)}
    inputs = SimpleNamespace(recipe=registry.get("shapes-evolved"), options={"share": 0.5}, **data, **network)
    with pytest.raises(ZeroDivisionError):
        kinds.get("evolution").build(inputs).run(CONFIG, tmp_path, resume=False, max_seconds=None)
    assert left.exists()
    assert given[3] == known
    assert given[4] == 0.5 * known.total(tiny().layout)


def test_an_evolution_killed_in_a_round_comes_to_the_same_network(tmp_path, monkeypatch):
    whole = evolved(tmp_path / "whole")
    assert whole.actions == [f"remove {name}" for name in NAMES[:3]]
    losses = loop._Run._row
    calls = []

    def dies(run):
        calls.append(run.step)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return losses(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_row", dies)
        with pytest.raises(KeyboardInterrupt):
            evolved(tmp_path / "parts")
    assert calls == [1, 2, 3, 1, 2]
    parts = evolved(tmp_path / "parts")
    assert parts.log == whole.log
    assert same(parts.unet, whole.unet)
    assert (tmp_path / "parts" / action_log.LOG).read_bytes() == (tmp_path / "whole" / action_log.LOG).read_bytes()


# Quality.


@torch.no_grad()
def test_negative_loss_is_the_mean_over_the_data_whatever_the_batch():
    unet, data = tiny(), Latents(10)
    objective = Diffusion(unet, DDIMScheduler(), torch.zeros(3, 6), drop=0.0)
    numbers = Draws(3, 0, 0, 10, stream="validation")
    t_b, noise = numbers.integers(0, 1000), numbers.normal(4, 4, 4)
    noisy = DDIMScheduler().add_noise(data.latent, noise, t_b)
    expected = -(unet(noisy, t_b, data.text).sample - noise).square().mean()
    for batch in (10, 4, 1):
        quality = negative_loss(lambda unet: objective, data, batch=batch, seed=3)
        assert quality(unet) == pytest.approx(float(expected), rel=1e-4)
        assert quality(unet) == quality(unet)


@torch.no_grad()
def test_the_loss_finds_the_block_that_matters(tmp_path):
    """All blocks but one give x back, so that leaving them out loses nothing."""
    unet, matters = tiny(), "up-1 cross-attention 0"
    for block in unet.blocks():
        layers = dict(module(unet, block).named_modules())
        if block.name != matters:
            for parameter in layers["conv2" if block.kind == "resnet" else "proj_out"].parameters():
                parameter.zero_()
        if layers.get("conv_shortcut"):
            layers["conv_shortcut"].bias.zero_()
            layers["conv_shortcut"].weight.copy_(torch.eye(*layers["conv_shortcut"].weight.shape[:2])[..., None, None])
    known = table(dict.fromkeys(NAMES, 2.0), dict.fromkeys(NAMES, 0.5), 4.0)
    quality = negative_loss(lambda unet: robust(unet, 0.9), Latents())
    found = evolve(unet, lambda unet, *_: unet, quality, known, 26.0, tmp_path, rounds=1)
    lost = {c.block: abs(c.quality_lost) for c in found.log[0].candidates}
    assert lost.pop(matters) > 1e-4
    assert max(lost.values()) < 1e-6


# In processes of its own.


def start(*launcher: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "tests.support.tiny_evolution", str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output


@pytest.mark.slow
def test_killed_for_good(tmp_path):
    """SIGKILL in each round, at another place of it."""
    whole = evolved(tmp_path / "whole")
    folder = tmp_path / "parts"
    marks = [folder / "round-001/losses.jsonl", folder / search.EVALUATIONS, folder / "round-003/losses.jsonl"]
    for mark in marks:
        process = start(folder=folder)
        wait_until(mark.exists, lambda: process.poll() is None)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(start(folder=folder))
    assert (folder / action_log.LOG).read_bytes() == (tmp_path / "whole" / action_log.LOG).read_bytes()
    assert same(evolved(folder).unet, whole.unet)


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path):
    whole = evolved(tmp_path / "one")
    finish(start("-m", *LAUNCHERS["torchrun"], free_port(), folder=tmp_path / "two"))
    assert (tmp_path / "two" / action_log.LOG).read_bytes() == (tmp_path / "one" / action_log.LOG).read_bytes()
    assert len(whole.log) == 3
    for number in (1, 2, 3):
        curves = [
            [
                json.loads(line)
                for line in (tmp_path / many / f"round-{number:03}/losses.jsonl").read_text().splitlines()
            ]
            for many in ("one", "two")
        ]
        for one, two in zip(*curves, strict=True):
            assert two["unet/loss"] == pytest.approx(one["unet/loss"], rel=1e-3)
            assert two["unet/norm"] == pytest.approx(one["unet/norm"], rel=1e-2)
