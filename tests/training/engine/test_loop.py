"""The training loop against loops written by hand, closed forms, and itself stopped and resumed."""

import json
import math
import pickle
import random
import re
import threading
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mdrepro.core import console
from mdrepro.core.errors import BadInput
from mdrepro.training.engine import checkpoint, processes
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.feed import Order, feed, permutation
from mdrepro.training.engine.loop import Diverged, train
from mdrepro.training.engine.meter import Meter
from mdrepro.training.engine.objective import Phase
from tests.support.toys import TOYS, Denoiser, Gan, Numbers, Toy, config, run, weights


class Straight(Toy):
    """A loss that is linear in the weight: its gradient is the same in every step."""

    phases = (Phase("line", ("line",)),)

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__(line=torch.nn.Linear(1, 1, bias=False))
        torch.nn.init.ones_(self.networks["line"].weight)
        self.slope, self.seen = slope, []

    def losses(self, phase, batch, draws):
        self.seen.append(self.networks["line"].weight.item())
        return {"loss": self.slope * self.networks["line"](torch.ones(len(batch["latent"]), 1)).mean()}


def by_hand(objective, settings, examples):
    """A loop for one network, one process, AdamW, no accumulation, without averages: what all others come down to."""
    (phase,) = objective.phases
    net = objective.networks[phase.name].train()
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=settings.weight_decay, betas=settings.betas)
    row, losses = Order(settings.seed, len(examples)), []
    for step in range(settings.steps):
        batch = examples.batch(row.indices(range(step * settings.batch, (step + 1) * settings.batch)))
        draws = Draws(settings.seed, step, 0, settings.batch, stream=phase.name)
        loss = objective.losses(phase.name, batch, draws)["loss"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), settings.clip)
        optimiser.param_groups[0]["lr"] = settings.learning_rate
        optimiser.step()
        losses.append(loss.item())
    return losses


def close(a, b, tolerance=1e-5):
    return torch.allclose(weights(a), weights(b), atol=tolerance, rtol=0)


def test_equals_a_loop_written_by_hand(tmp_path):
    settings = config(ema=0.0, steps=10)
    mine, hand = Denoiser(dropout=0.0), Denoiser(dropout=0.0)
    outcome = train(mine, Numbers(), settings, tmp_path)
    losses = by_hand(hand, settings, Numbers())
    assert [row["unet/loss"] for row in outcome.losses] == pytest.approx(losses, abs=1e-6)
    assert close(outcome.networks, hand.networks)
    assert max(row["unet/norm"] for row in outcome.losses) > settings.clip  # it does clip


def test_steps_have_the_size_of_the_stated_rates(tmp_path):
    """With a constant gradient and no decay AdamW moves by the rate itself: the schedule in closed form."""
    for decay, share in (
        ("constant", lambda u: 1.0),
        ("linear", lambda u: 1 - u),
        ("cosine", lambda u: math.cos(math.pi * u / 2) ** 2),
    ):
        toy = Straight()
        settings = config(steps=12, warmup=4, decay=decay, learning_rate=0.01, weight_decay=0.0, ema=0.0)
        outcome = train(toy, Numbers(), settings, tmp_path / decay)
        seen = [*toy.seen, outcome.networks["line"].weight.item()]
        rates = [0.01 * (k + 1) / 4 for k in range(4)] + [0.01 * share(k / 8) for k in range(8)]
        assert [a - b for a, b in pairwise(seen)] == pytest.approx(rates, abs=1e-6)
        assert [row["line/rate"] for row in outcome.losses] == pytest.approx(rates)


def test_average_in_closed_form(tmp_path):
    toy = Straight()
    outcome = train(toy, Numbers(), config(steps=12, ema=0.5, weight_decay=0.0), tmp_path)
    raw = [*toy.seen, toy.networks["line"].weight.item()]
    decays = [min(0.5, (1 + n) / (10 + n)) for n in range(12)]
    assert decays[0] == 0.1
    assert decays[-1] == 0.5
    shares = [math.prod(decays)] + [(1 - decays[n]) * math.prod(decays[n + 1 :]) for n in range(12)]
    assert sum(shares) == pytest.approx(1)
    expected = sum(share * weight for share, weight in zip(shares, raw, strict=True))
    assert outcome.networks["line"].weight.item() == pytest.approx(expected, abs=3e-7)
    assert toy.ema["line"] is outcome.networks["line"]
    assert abs(expected - raw[-1]) > 1e-3


def test_averages_take_buffers_and_stay_in_eval_mode(tmp_path):
    class Statistics(Denoiser):
        def __init__(self):
            super().__init__()
            self.networks["unet"].append(torch.nn.BatchNorm2d(2))

        def losses(self, phase, batch, draws):
            assert self.networks["unet"].training
            assert not self.ema["unet"].training
            assert not any(p.requires_grad for p in self.ema["unet"].parameters())
            return super().losses(phase, batch, draws)

    toy = Statistics()
    outcome = train(toy, Numbers(), config(), tmp_path)
    assert torch.equal(outcome.networks["unet"][-1].running_mean, toy.networks["unet"][-1].running_mean)
    assert outcome.networks["unet"][-1].running_mean.abs().sum() > 0


def test_accumulation_changes_nothing_but_rounding(tmp_path):
    one, four = (train(Denoiser(dropout=0.0), Numbers(), config(accumulation=k), tmp_path / str(k)) for k in (1, 4))
    assert [r["unet/loss"] for r in one.losses] == pytest.approx([r["unet/loss"] for r in four.losses], abs=1e-6)
    assert [r["unet/norm"] for r in one.losses] == pytest.approx([r["unet/norm"] for r in four.losses], abs=1e-6)
    assert close(one.networks, four.networks)


def test_phases_train_their_own_networks_when_it_is_their_turn(tmp_path):
    changes = []

    class Watched(Gan):
        def losses(self, phase, batch, draws):
            now = {name: weights({name: net}) for name, net in self.networks.items()}
            changes.append((phase, draws.step, now))
            learning = {name for name, net in self.networks.items() if all(p.requires_grad for p in net.parameters())}
            assert learning == {"generator": {"generator", "scale"}, "discriminator": {"discriminator"}}[phase]
            return super().losses(phase, batch, draws)

    settings = config(learning_rates={"discriminator": 1e-3}, phase_betas={"discriminator": (0.5, 0.9)}, clip=0.0)
    toy = Watched()
    train(toy, Numbers(), settings, tmp_path)
    assert [(phase, step) for phase, step, _ in changes] == [
        (phase, step) for step in range(8) for phase in ("discriminator", "generator")
        if phase == "generator" or step % 2 == 0
    ]  # fmt: skip
    for (phase, _, before), (_, _, after) in pairwise(changes):
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved == {"generator": {"generator", "scale"}, "discriminator": {"discriminator"}}[phase]
    (_, _, before), (_, _, after) = changes[:2]
    step = (after["discriminator"] - before["discriminator"]).abs().max().item()
    assert step == pytest.approx(1e-3, rel=0.05)  # AdamW's first step: the rate
    assert all(p.requires_grad for net in toy.networks.values() for p in net.parameters())


def test_betas_of_a_phase(tmp_path):
    settings = config(ema=0.0, clip=1e9, phase_betas={"unet": (0.3, 0.5)})
    mine, hand = Denoiser(dropout=0.0), Denoiser(dropout=0.0)
    train(mine, Numbers(), settings, tmp_path)
    by_hand(hand, config(ema=0.0, clip=1e9, betas=(0.3, 0.5)), Numbers())
    assert close(mine.networks, hand.networks)


def test_frozen_networks_stay(tmp_path):
    class Taught(Denoiser):
        def __init__(self):
            super().__init__()
            self.frozen["teacher"] = torch.nn.Conv2d(2, 2, 1)

        def losses(self, phase, batch, draws):
            target = self.frozen["teacher"](batch["latent"])
            assert not target.requires_grad
            assert not self.frozen["teacher"].training
            return {"loss": (self.networks["unet"](batch["latent"]) - target).square().mean()}

    toy = Taught()
    before = weights(toy.frozen)
    train(toy, Numbers(), config(), tmp_path)
    assert torch.equal(weights(toy.frozen), before)


def test_bf16_is_autocast_of_fp32_weights(tmp_path):
    seen = []

    class Precise(Denoiser):
        def losses(self, phase, batch, draws):
            seen.append(self.networks["unet"](batch["latent"]).dtype)
            return super().losses(phase, batch, draws)

    half = train(Precise(dropout=0.0), Numbers(), config(precision="bf16"), tmp_path / "bf16")
    full = train(Precise(dropout=0.0), Numbers(), config(), tmp_path / "fp32")
    assert seen == [torch.bfloat16] * 8 + [torch.float32] * 8
    assert half.networks["unet"][0].weight.dtype == torch.float32
    assert not torch.equal(weights(half.networks), weights(full.networks))
    for a, b in zip(half.losses, full.losses, strict=True):
        assert a["unet/loss"] == pytest.approx(b["unet/loss"], rel=0.02)


def stopped_at(step):
    def stop(objective, now):
        if now == step:
            raise KeyboardInterrupt

    return stop


SETTINGS = {
    "denoiser": {},
    "muon": {"optimiser": "muon"},
    "bf16": {"precision": "bf16", "accumulation": 2},
    "schedule": {"decay": "cosine", "warmup": 3, "log_every": 2},
    "gan": {},
    "skipper": {},
    "consistency": {},
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_stopped_and_resumed_gives_the_same_bits(tmp_path, kind):
    toy, settings = kind if kind in TOYS else "denoiser", SETTINGS[kind]
    whole = run(toy, tmp_path / "whole", **settings)
    for attempt in range(20):  # one step a time, and every checkpoint is taken up again
        torch.manual_seed(attempt)
        part = run(toy, tmp_path / "parts", max_seconds=0, **settings)
        assert part.finished == (part.steps == 8)
        if part.finished:
            break
    assert attempt == 7
    assert torch.equal(weights(whole.networks), weights(part.networks))
    for name in ("steps", "finished"):
        assert getattr(whole, name) == getattr(part, name)
    assert timeless(whole.losses) == timeless(part.losses)
    folders = [tmp_path / name / "checkpoints" / "step-00000008" for name in ("whole", "parts")]
    files = [sorted(path.name for path in folder.glob("*.safetensors")) for folder in folders]
    assert files[0] == files[1]
    for name in files[0]:  # weights, averages, and optimisers with their counts
        a, b = (load_file(folder / name) for folder in folders)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name


def test_means_go_on_from_a_checkpoint_in_the_same_bits():
    accelerator = processes.start()
    rows = [{str(name): value for name, value in enumerate(torch.rand(100))} for _ in range(6)]
    for count in range(1, 6):
        whole, before = Meter(accelerator), Meter(accelerator)
        for number, row in enumerate(rows):
            whole.add("unet", row)
            if number < count:
                before.add("unet", row)
        after = Meter(accelerator, json.loads(json.dumps(before.saved())))
        for row in rows[count:]:
            after.add("unet", row)
        assert after.row() == whole.row()


def timeless(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def test_interrupted_between_checkpoints(tmp_path):
    whole = run("denoiser", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(Denoiser(at_step=stopped_at(5)), Numbers(), config(), tmp_path / "parts")
    assert len((tmp_path / "parts/losses.jsonl").read_text().splitlines()) == 5
    with open(tmp_path / "parts/losses.jsonl", "a") as file:
        file.write('{"step": 6, "unet/lo')  # a kill in the middle of a line
    asked = Numbers()
    part = train(Denoiser(), asked, config(), tmp_path / "parts")
    assert torch.equal(weights(whole.networks), weights(part.networks))
    assert timeless(whole.losses) == timeless(part.losses)
    rows = [json.loads(line) for line in (tmp_path / "parts/losses.jsonl").read_text().splitlines()]
    assert rows == part.losses
    assert asked.asked == [Order(0, 37).indices(range(8 * s, 8 * s + 8)) for s in range(3, 8)]


def test_without_resume_all_begins_anew(tmp_path):
    run("denoiser", tmp_path)
    outcome = train(Denoiser(), Numbers(), config(steps=2), tmp_path, resume=False)
    assert outcome.steps == 2
    assert len(outcome.losses) == 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_finished_run_is_only_loaded_and_can_be_made_longer(tmp_path):
    first = run("denoiser", tmp_path)
    asked = Numbers()
    again = train(Denoiser(), asked, config(), tmp_path)
    assert not asked.asked
    assert torch.equal(weights(first.networks), weights(again.networks))
    assert again.losses == first.losses
    longer = run("denoiser", tmp_path, steps=10)
    assert torch.equal(weights(longer.networks), weights(run("denoiser", tmp_path / "at-once", steps=10).networks))


def test_dropout_and_generators_do_not_depend_on_the_caller(tmp_path):
    class Global(Denoiser):
        def losses(self, phase, batch, draws):
            drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
            return super().losses(phase, batch, draws)

    found = []
    for number in range(2):
        drawn = []
        torch.manual_seed(3 + number)
        np.random.seed(3 + number)
        random.seed(3 + number)
        expected = torch.rand(1), np.random.rand(), random.random()
        torch.manual_seed(3 + number)
        np.random.seed(3 + number)
        random.seed(3 + number)
        toy = Global()
        torch.manual_seed(3 + number)
        outcome = train(toy, Numbers(), config(accumulation=2), tmp_path / str(number))
        assert (torch.rand(1), np.random.rand(), random.random()) == expected
        found.append((drawn, weights(outcome.networks)))
        assert len(set(drawn)) == 16
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    other = train(Denoiser(), Numbers(), config(accumulation=2, seed=1), tmp_path / "seed")
    assert not torch.equal(weights(other.networks), found[0][1])


def test_nan_stops_and_the_last_good_checkpoint_stays(tmp_path):
    def poison(objective, step):
        if step == 5:
            objective.networks["unet"][0].weight.data.fill_(float("nan"))

    with pytest.raises(Diverged, match=r"phase unet is not finite at step 6; .*step-00000003, is kept.*learning_rate"):
        train(Denoiser(at_step=poison), Numbers(), config(steps=20, log_every=4, checkpoint_every=3), tmp_path)
    assert isinstance(Diverged(""), FloatingPointError)
    good = checkpoint.latest(tmp_path / "checkpoints")
    assert good.step == 3
    assert all(value.isfinite().all() for value in good.tensors("unet").values())
    assert train(Denoiser(), Numbers(), config(steps=20), tmp_path).finished


def test_a_weight_that_is_not_finite_is_never_saved(tmp_path):
    """The loss of step 6 is still a number; its gradient is not, and the checkpoint comes before the next loss."""

    class Sharp(Denoiser):
        def losses(self, phase, batch, draws):
            loss = super().losses(phase, batch, draws)["loss"]
            corner = self.networks["unet"][0].bias[0] * 0 if draws.step == 5 else torch.tensor(0.0)
            return {"loss": loss + corner.sqrt()}

    with pytest.raises(Diverged, match=r"unet(\.\w+)? is not finite after step 6; .*step-00000003, is kept"):
        train(Sharp(), Numbers(), config(), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


def test_divergence_before_any_checkpoint(tmp_path):
    with pytest.raises(Diverged, match=r"step 2; no checkpoint was written before\. .*learning_rate \(1e\+30 here\)"):
        train(Denoiser(), Numbers(), config(learning_rate=1e30, clip=0.0), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp16"}, "unknown precision 'fp16'.*fp32, bf16"),
        ({"decay": "cosin"}, "did you mean cosine"),
        ({"optimiser": "sgd"}, "adamw, muon"),
        ({"steps": 0}, "steps 0: it must be a number from 1"),
        ({"warmup": -1}, "warmup -1: it must be a number from 0"),
        ({"learning_rates": {"unet": 0.0}}, "learning rate 0.0: it must be a positive"),
        ({"ema": 1.0}, "ema 1.0: it must be a decay from 0"),
        ({"clip": float("nan")}, "clip nan: it must be a number from 0"),
        ({"betas": (1.0, 0.9)}, r"betas \(1.0, 0.9\): they must be numbers from 0 to below 1"),
        ({"phase_betas": {"unet": (0.9, -0.1)}}, r"betas \(0.9, -0.1\): they must be"),
        ({"batch": 9, "accumulation": 2}, "batch 9 in 2 micro-batches on 1 process.*multiple of 2"),
        ({"learning_rates": {"vae": 1e-3}}, "unknown phase 'vae'.*unet"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        train(Denoiser(), Numbers(), config(**changes), tmp_path)


def test_no_examples(tmp_path):
    with pytest.raises(BadInput, match="no examples"):
        train(Denoiser(), Numbers(0), config(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 4}, "batch is 4, and .*step-00000008 was trained with 8"),
        ({"seed": 1}, "seed is 1"),
        ({"optimiser": "muon"}, "optimiser is muon"),
        ({"ema": 0.0}, "averages is False"),
        ({"steps": 7}, "steps 7: .* is further; it must be a number from 8"),
    ],
)
def test_what_cannot_change_in_a_run(tmp_path, changes, message):
    run("denoiser", tmp_path)
    with pytest.raises(BadInput, match=message):
        run("denoiser", tmp_path, **changes)


def test_other_data_and_other_networks_are_refused(tmp_path):
    run("denoiser", tmp_path)
    other = Numbers()
    other.fingerprint = "others"
    with pytest.raises(BadInput, match="examples is others"):
        train(Denoiser(), other, config(), tmp_path)
    toy = Denoiser()
    toy.networks["unet"][0] = torch.nn.Conv2d(2, 6, 1)
    with pytest.raises(BadInput, match=r"unet\.safetensors is of another network: 0\.weight is \(6, 2, 3, 3\) there"):
        train(toy, Numbers(), config(), tmp_path)


def test_what_can_change_is_recorded(tmp_path):
    run("denoiser", tmp_path, steps=3)
    run("denoiser", tmp_path, steps=6, learning_rate=1e-3)
    state = checkpoint.latest(tmp_path / "checkpoints").state
    assert state["changes"] == [{"step": 3, "steps": [3, 6], "learning_rate": [0.01, 0.001]}]


def test_order_of_the_data(tmp_path):
    row = Order(0, 10)
    seen = row.indices(range(40))
    passes = [seen[k : k + 10] for k in range(0, 40, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4
    assert Order(0, 10).indices(range(17, 23)) == seen[17:23]
    assert row.indices(range(3, 5)) == seen[3:5]  # back again
    assert Order(1, 10).indices(range(40)) != seen
    firsts = np.bincount([permutation(0, epoch, 4)[0] for epoch in range(400)])
    assert firsts.min() > 60


def test_feed_gives_batches_in_turn_and_passes_errors_on():
    class Broken(Numbers):
        def batch(self, indices):
            if len(self.asked) == 5:
                raise BadInput("image 7 is broken")
            return super().batch(indices)

    steps = feed(Broken(), Order(0, 37), range(3, 20), 8, [range(4, 6), range(6, 8)])
    found = [next(steps), next(steps)]
    assert [step for step, _ in found] == [3, 4]
    for step, batches in found:
        places = [b["index"] for b in batches]
        assert places == [Order(0, 37).indices(range(8 * step + k, 8 * step + k + 2)) for k in (4, 6)]
    with pytest.raises(BadInput, match="image 7"):
        list(steps)


class Stepping(Numbers):
    """In odd steps each index stands for two samples, of half the area."""

    def __init__(self, step: int = 0) -> None:
        super().__init__()
        self.step = step

    def of_step(self, step):
        return Stepping(step)

    def batch(self, indices):
        latent = super().batch(indices)["latent"]
        if self.step % 2:
            latent = torch.cat([latent[..., :2], latent[..., 2:]], dim=1).reshape(-1, *latent.shape[1:3], 2)
        return {"latent": latent}


class Watching(Denoiser):
    """Keeps each step's samples and the noise that is drawn for them."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.seen = []

    def losses(self, phase, batch, draws):
        self.seen.append((draws.step, batch["latent"].shape, draws.uniform()))
        x = batch["latent"]
        return {"loss": (self.networks["unet"](x) - draws.normal(*x.shape[1:])).square().mean()}


def test_examples_of_each_step_with_a_draw_for_every_sample(tmp_path):
    one, two = Watching(), Watching()
    outcomes = [
        train(toy, Stepping(), config(accumulation=k, steps=4), tmp_path / str(k)) for k, toy in ((1, one), (2, two))
    ]
    assert [(step, shape[0], shape[-1]) for step, shape, _ in one.seen] == [
        (step, 8 * (1 + step % 2), 4 // (1 + step % 2)) for step in range(4)
    ]
    assert all(len(values.unique()) == shape[0] == len(values) for _, shape, values in one.seen)
    for step in range(4):
        parts = [values for at, _, values in two.seen if at == step]
        assert torch.equal(torch.cat(parts), one.seen[step][2])
    assert close(*(outcome.networks for outcome in outcomes))
    again = Watching()
    for _ in range(4):
        outcome = train(again, Stepping(), config(steps=4), tmp_path / "parts", max_seconds=0)
    assert [step for step, _, _ in again.seen] == [0, 1, 2, 3]
    assert torch.equal(weights(outcome.networks), weights(outcomes[0].networks))


def test_the_next_batch_is_made_while_this_one_is_trained_on(tmp_path):
    class Waited(Numbers):
        def __init__(self):
            super().__init__()
            self.made = [threading.Event() for _ in range(8)]

        def batch(self, indices):
            found = super().batch(indices)
            self.made[len(self.asked) - 1].set()
            return found

    def wait(objective, step):
        assert step == 7 or examples.made[step + 1].wait(60)

    examples = Waited()
    assert train(Denoiser(at_step=wait), examples, config(), tmp_path).finished


def test_curve_in_rows_and_in_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    every = run("denoiser", tmp_path / "every", ema=0.0)
    outcome = run("denoiser", tmp_path / "some", ema=0.0, log_every=3)
    assert [row["step"] for row in outcome.losses] == [3, 6, 8]
    for row, part in zip(outcome.losses, (slice(0, 3), slice(3, 6), slice(6, 8)), strict=True):
        for name in ("unet/loss", "unet/error", "unet/norm"):
            assert row[name] == pytest.approx(np.mean([r[name] for r in every.losses[part]]), rel=1e-6)
    events = EventAccumulator(str(tmp_path / "some/tensorboard")).Reload()
    for name in ("unet/loss", "unet/rate", "images_per_second"):
        scalars = [(event.step, event.value) for event in events.Scalars(name)]
        assert scalars == [(row["step"], pytest.approx(row[name])) for row in outcome.losses]
    assert outcome.images_per_second == pytest.approx(64 / outcome.seconds, abs=1e-3)


def test_time_of_all_runs_is_added_up(tmp_path):
    first = run("denoiser", tmp_path, steps=3)
    second = run("denoiser", tmp_path, steps=6)
    seconds = [row["seconds"] for row in second.losses]
    assert seconds == sorted(seconds)
    assert seconds[2] <= first.seconds
    assert second.seconds >= seconds[-1]


def test_progress_shows_images_per_second_and_losses(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    run("denoiser", tmp_path)
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"training: 64 of 64, [\d.e+]+ images/s, 0:00:00 left, step \d+, \S+ [\d.e+-]+", last)


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("pickle")

    for place, names in (
        (torch, ("save", "load")),
        (pickle, ("dump", "dumps", "load", "loads", "Pickler", "Unpickler")),
    ):
        for name in names:
            monkeypatch.setattr(place, name, refuse)
    run("gan", tmp_path, steps=3)
    run("gan", tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files if path.parent.name != "tensorboard"}
    assert kinds == {".safetensors", ".json", ".jsonl"}
    assert all(path.name.startswith("events.") for path in files if path.parent.name == "tensorboard")
