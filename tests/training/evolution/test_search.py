"""Algorithm 1 on a network whose blocks have a known worth and latency: the right actions are known beforehand."""

import copy
import json
import random
import re
from pathlib import Path

import pytest
import torch

from mdrepro.core.errors import BadInput
from mdrepro.models.snapfusion.evolvable import EvolvableUNet
from mdrepro.training.engine import checkpoint, loop
from mdrepro.training.evolution import action_log, search
from mdrepro.training.evolution.action_log import read_log
from mdrepro.training.evolution.search import evolve, rank
from tests.support.tiny_evolution import Known, families, ran, table, tiny, worth_of

torch.set_num_threads(1)

BLOCKS = {  # worth, ms, and score = worth / ms saved; those with a shortcut leave 1 or 2 ms
    "down-1 resnet 0": (6, 3, 2.0),
    "down-1 cross-attention 0": (1, 10, 0.1),
    "down-2 resnet 0": (9, 5, 2.25),
    "mid resnet 0": (3, 2, 1.5),
    "mid cross-attention 0": (5, 2, 2.5),
    "mid resnet 1": (1, 2, 0.5),
    "up-0 resnet 0": (3, 4, 1.0),
    "up-0 resnet 1": (2.1, 4, 0.7),
    "up-1 resnet 0": (12, 6, 3.0),
    "up-1 cross-attention 0": (2, 10, 0.2),
    "up-1 resnet 1": (8.8, 5, 2.2),
    "up-1 cross-attention 1": (3, 10, 0.3),
}
WORTH = {name: worth for name, (worth, _, _) in BLOCKS.items()}
MS = {name: ms for name, (_, ms, _) in BLOCKS.items()}
WIDENING = ("down-2 resnet 0", "up-1 resnet 0")
MERGING = ("up-0 resnet 0", "up-0 resnet 1", "up-1 resnet 1")
STAYS = dict.fromkeys((*WIDENING, *MERGING), 1.0) | {"up-1 resnet 0": 2.0}
ALIKE = {  # same shape in the same stage: a copy takes as long as they do on average
    kind: [f"{kind} 0", f"{kind} 1"] for kind in ("mid resnet", "up-1 cross-attention")
}
FIXED = 5.0  # in all 68 ms
TABLE = table(MS, STAYS, FIXED)
TARGET = 45.0
BY_HAND = [  # and the latency afterwards
    ("remove down-1 cross-attention 0", 58),
    ("remove up-1 cross-attention 0", 48),
    ("remove up-1 cross-attention 1", 38),  # meets the target, so now the best is copied:
    ("duplicate mid cross-attention 0", 40),  # not up-1 resnet 0, which changes the width
    ("duplicate up-1 resnet 1", 45),  # 45 is not above 45
    ("duplicate down-1 resnet 0", 48),
    ("remove down-1 resnet 0", 45),  # a copy makes either worth 6 * 0.24 / 3 ms = 0.48, below mid resnet 1's 0.5
]  # as many of each as two rounds before: full circle


def untrained(unet: EvolvableUNet, number: int, folder: Path, left: float | None) -> EvolvableUNet:
    return unet


def trained(unet: EvolvableUNet, number: int, folder: Path, left: float | None) -> EvolvableUNet:
    """Moves every weight by what depends on the round."""
    draw = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=draw))
    return unet.train()


def weights(unet: EvolvableUNet) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in unet.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run(folder: Path, **changes):
    settings = {"unet": tiny(), "train_round": untrained, "quality": Known(WORTH), "table": TABLE, "target": TARGET}
    return evolve(**settings | {"folder": folder, "rounds": 50} | changes)


# Which actions.


def test_scores_are_quality_lost_by_latency_saved():
    unet, quality = tiny(), Known(WORTH)
    without = {name: worth_of([n for n in BLOCKS if n != name], {}, WORTH) for name in BLOCKS}
    ranked = rank(unet.layout, sum(WORTH.values()), without, TABLE)
    assert [c.block for c in ranked] == sorted(BLOCKS, key=lambda name: BLOCKS[name][2])
    for candidate in ranked:
        worth, ms, score = BLOCKS[candidate.block]
        assert candidate.quality_lost == pytest.approx(worth)
        assert candidate.saved_ms == ms - STAYS.get(candidate.block, 0)
        assert candidate.score == pytest.approx(score)
    assert quality.calls == 0


def test_the_actions_are_those_worked_out_by_hand(tmp_path):
    found = run(tmp_path)
    assert [(*entry.actions, entry.latency_after_ms) for entry in found.log] == BY_HAND
    assert found.finished
    assert found.latency_ms == TARGET
    assert [entry.latency_before_ms for entry in found.log] == [68, *(ms for _, ms in BY_HAND[:-1])]
    assert found.actions == list(found.unet.config.actions)


def test_a_group_acts_at_once_until_the_target_is_crossed(tmp_path):
    found = run(tmp_path, group=2, rounds=4)
    assert [entry.actions for entry in found.log] == [
        ("remove down-1 cross-attention 0", "remove up-1 cross-attention 0"),
        ("remove up-1 cross-attention 1",),
        ("duplicate mid cross-attention 0", "duplicate up-1 resnet 1"),
        ("duplicate down-1 resnet 0",),
        ("remove down-1 resnet 0",),  # the fifth of four, since the fourth left the target behind
    ]


def test_below_the_target_from_the_start_the_best_are_copied(tmp_path):
    found = run(tmp_path, target=71.0, rounds=2)
    assert found.actions == [
        "duplicate mid cross-attention 0",
        "duplicate up-1 resnet 1",
        "remove down-1 cross-attention 0",
    ]


def test_a_start_that_meets_the_target_counts_when_looking_for_circles(tmp_path):
    worth = {name: ms - STAYS.get(name, 0) for name, ms in MS.items()}  # a score of 1 for all
    found = run(tmp_path, quality=Known(worth | {"mid cross-attention 0": 4}), target=68.0)
    assert found.actions == ["duplicate mid cross-attention 0", "remove mid cross-attention 0"]  # 2, then 0.48


def simulated(worth, ms, target: float, rounds: int, group: int) -> list[list[str]]:
    """Algorithm 1 once more, on names alone."""
    names, actions, log, met, gone = list(BLOCKS), [], [], [], []
    next_index = {"down-1 resnet": 1, "down-1 cross-attention": 1, "mid resnet": 2, "mid cross-attention": 1}
    next_index |= {"up-0 resnet": 2, "up-1 resnet": 2, "up-1 cross-attention": 2}

    def takes(name: str) -> float:
        alike = ALIKE.get(name.rpartition(" ")[0], [families(actions).get(name, name)])
        return ms[name] if name in ms else sum(ms[other] for other in alike) / len(alike)

    def stays(name: str) -> float:
        return STAYS.get(families(actions).get(name, name), 0)

    def latency() -> float:
        return FIXED + sum(map(stays, gone)) + sum(map(takes, names))

    def score(name: str) -> float:
        family = families(actions)
        rest = [other for other in names if other != name]
        lost = worth_of(names, family, worth) - worth_of(rest, family, worth)
        return lost / (takes(name) - stays(name))

    def kinds() -> list[str]:
        return sorted(name.rpartition(" ")[0] for name in names)

    while latency() > target or not (len(log) >= rounds or kinds() in met):
        if latency() <= target:
            met.append(kinds())
        scores = {name: score(name) for name in names}
        slow, done = latency() > target, []
        can = [name for name in names if slow or name not in WIDENING]
        for name in sorted(can, key=lambda name: scores[name] if slow else -scores[name])[:group]:
            if (latency() > target) != slow:
                break
            done.append(("remove " if slow else "duplicate ") + name)
            actions.append(done[-1])
            if slow:
                names.remove(name)
                gone.append(name)
            else:
                kind = name.rpartition(" ")[0]
                names.insert(names.index(name) + 1, f"{kind} {next_index[kind]}")
                next_index[kind] += 1
        log.append(done)
    return log


@pytest.mark.parametrize("seed", range(4))
def test_the_actions_are_those_of_a_simulation_on_random_tables(tmp_path, seed):
    draw = random.Random(seed)
    worth = {name: draw.uniform(-1, 10) for name in BLOCKS}
    ms = {name: draw.uniform(3, 12) for name in BLOCKS}
    target, group = draw.uniform(30, 90), 1 + seed % 2
    expected = simulated(worth, ms, target, 8, group)
    found = run(tmp_path, quality=Known(worth), table=table(ms, STAYS, FIXED), target=target, group=group, rounds=8)
    assert [list(entry.actions) for entry in found.log] == expected
    assert found.latency_ms <= target
    assert len(expected) >= 3


def test_a_block_that_saves_no_time_is_left_alone(tmp_path):
    """down-2 resnet 0 is worth nothing, and by this table its shortcut takes as long as it does."""
    quality = Known(WORTH | {"down-2 resnet 0": 0})
    found = run(
        tmp_path, quality=quality, table=table(MS | {"down-2 resnet 0": 1}, STAYS, FIXED), target=20.0, rounds=1
    )
    last = found.log[0].candidates[-1]
    assert (last.block, last.saved_ms, last.score) == ("down-2 resnet 0", 0, None)
    assert "remove down-2 resnet 0" not in found.actions
    assert found.latency_ms <= 20
    assert json.loads((tmp_path / action_log.LOG).read_text().splitlines()[0])["candidates"][-1]["score"] is None


def test_when_nothing_can_be_copied_it_ends(tmp_path):
    """All removed but the two that change the width, which the target lets stay."""
    unet = tiny().replay(f"remove {name}" for name in BLOCKS if name not in WIDENING)
    found = run(tmp_path, unet=unet, target=20.0)
    assert [entry.actions for entry in found.log] == [()]
    assert run(tmp_path, unet=copy.deepcopy(unet), target=20.0).log == found.log


# What it leaves.


@torch.no_grad()
def test_the_log_says_all_and_replays_to_the_same_network(tmp_path):
    found = run(tmp_path)
    log = read_log(tmp_path)
    assert tuple(log) == found.log
    again = tiny().replay(action for entry in log for action in entry.actions)
    assert same(weights(again), weights(found.unet))
    assert ran(again) == ran(found.unet)
    for number, entry in enumerate(log, 1):
        before, after = (tiny().replay(found.actions[:n]) for n in (number - 1, number))
        assert (entry.round, entry.target_ms) == (number, TARGET)
        assert entry.latency_before_ms == TABLE.total(before.layout)
        assert entry.latency_after_ms == TABLE.total(after.layout)
        assert entry.quality_before == Known(WORTH)(before)
        assert entry.quality_after == Known(WORTH)(after)
        assert {c.block: c.quality for c in entry.candidates} == {
            block.name: Known(WORTH)(copy.deepcopy(before).replay([f"remove {block.name}"]))
            for block in before.blocks()
        }
        assert sum(entry.blocks.values()) == len(after.blocks())
    assert log[-1].blocks["mid cross-attention"] == 2
    assert log[-1].blocks["down-1 resnet"] == 1
    assert "down-1 cross-attention" not in log[-1].blocks


def test_evaluating_changes_nothing(tmp_path):
    unet = tiny()
    before, config, seen = weights(unet), dict(unet.config), []

    def stops(unet: EvolvableUNet) -> float:
        seen.append(ran(unet))
        if len(seen) == 13:
            raise RuntimeError("the last block")
        return float(len(seen[-1]))

    with pytest.raises(RuntimeError, match="the last block"):
        run(tmp_path, unet=unet, quality=stops)
    assert seen[0] == list(BLOCKS)
    assert seen[1:] == [[name for name in BLOCKS if name != left_out] for left_out in BLOCKS]
    assert ran(unet) == list(BLOCKS)
    assert same(weights(unet), before)
    assert dict(unet.config) == config
    assert not (tmp_path / action_log.LOG).exists()


def test_each_round_trains_what_the_one_before_made_in_a_folder_of_its_own(tmp_path):
    seen = []

    def watched(unet, number, folder, left):
        seen.append((number, folder.relative_to(tmp_path).as_posix(), left, len(unet.blocks())))
        return trained(unet, number, folder, left)

    found = run(tmp_path, train_round=watched, rounds=2, target=48.0)
    assert seen == [(1, "round-001", None, 12), (2, "round-002", None, 11)]
    expected = trained(trained(tiny(), 1, tmp_path, None).replay(found.actions[:1]), 2, tmp_path, None)
    assert same(weights(found.unet), weights(expected.replay(found.actions[1:])))
    assert not found.unet.training


# Stopped and gone on with.


class Killed(BaseException):
    pass


class Mortal(Known):
    """Dies at a given call."""

    def __init__(self, last: int) -> None:
        super().__init__(WORTH)
        self.last = last

    def __call__(self, unet: EvolvableUNet) -> float:
        if self.calls == self.last:
            raise Killed
        return super().__call__(unet)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder, quality = tmp_path_factory.mktemp("undisturbed"), Known(WORTH)
    found = run(folder, train_round=trained, quality=quality)
    return (folder / action_log.LOG).read_bytes(), weights(found.unet), found.actions, quality.calls


def test_killed_again_and_again_it_comes_to_the_same_end(tmp_path, undisturbed):
    """Killed at its 4th, 27th (the one after the actions) and 30th evaluation; little of what was known is lost."""
    log, expected, actions, calls = undisturbed
    spent = 0
    for last in (4, 22, 4, 0):
        quality = Mortal(last)
        with pytest.raises(Killed):
            run(tmp_path, train_round=trained, quality=quality)
        spent += quality.calls
    quality = Known(WORTH)
    found = run(tmp_path, train_round=trained, quality=quality)
    assert (tmp_path / action_log.LOG).read_bytes() == log
    assert same(weights(found.unet), expected)
    assert found.actions == actions == list(found.unet.config.actions)
    assert calls <= spent + quality.calls <= calls + 1  # the one after the actions is made again
    assert not found.unet.training


@pytest.mark.parametrize("dies", ["before the checkpoint", "after the checkpoint"])
def test_killed_while_it_writes_it_comes_to_the_same_end(tmp_path, undisturbed, monkeypatch, dies):
    save, log = checkpoint.save, undisturbed[0].splitlines()

    def dead(*arguments):
        if dies == "after the checkpoint":
            save(*arguments)
        raise Killed

    run(tmp_path, train_round=trained, rounds=3)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", dead)
        with pytest.raises(Killed):
            run(tmp_path, train_round=trained, rounds=4)
    assert (tmp_path / action_log.LOG).read_bytes().splitlines() == log[:3]
    found = run(tmp_path, train_round=trained, rounds=4)
    assert (tmp_path / action_log.LOG).read_bytes().splitlines() == log[:4]
    assert found.actions == undisturbed[2][:4]


def test_when_time_runs_out_it_can_go_on(tmp_path, undisturbed, monkeypatch):
    log, expected, _, calls = undisturbed
    now = [0.0]
    monkeypatch.setattr(search.time, "monotonic", lambda: now[0])
    quality, lefts = Known(WORTH), []

    def ticking(unet: EvolvableUNet) -> float:
        now[0] += 1
        return quality(unet)

    def watched(unet, number, folder, left):
        lefts.append(left)
        now[0] += 3
        return trained(unet, number, folder, left) if left > 3 else None

    stopped = run(tmp_path, train_round=watched, quality=ticking, max_seconds=10)
    assert (stopped.finished, stopped.log, lefts) == (False, (), [10])
    assert quality.calls == 7  # 3 s of training
    stopped = run(tmp_path, train_round=watched, quality=ticking, max_seconds=12)
    assert (stopped.finished, len(stopped.log), lefts) == (False, 1, [10, 12, 2])
    found = run(tmp_path, train_round=trained, quality=quality)
    assert found.finished
    assert quality.calls == calls
    assert (tmp_path / action_log.LOG).read_bytes() == log
    assert same(weights(found.unet), expected)


def test_a_finished_run_is_not_run_again_and_more_rounds_go_on(tmp_path):
    quality = Known(WORTH)
    first = run(tmp_path, quality=quality, rounds=4)
    before = quality.calls
    again = run(tmp_path, quality=quality, rounds=4)
    assert quality.calls == before
    assert again.log == first.log
    assert same(weights(again.unet), weights(first.unet))
    more = run(tmp_path, quality=quality)
    assert more.actions == [action for action, _ in BY_HAND]


# Input.


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"target": 46.0}, "target is 46.0"),
        ({"group": 2}, "group is 2"),
        ({"table": table(MS | {"mid resnet 0": 2.5}, STAYS, FIXED)}, "table is "),
        ({"unet": tiny(seed=1)}, "network is "),
    ],
)
def test_a_folder_of_another_evolution_is_refused(tmp_path, change, named):
    run(tmp_path, rounds=1)
    log = (tmp_path / action_log.LOG).read_bytes()
    with pytest.raises(BadInput, match=f"{re.escape(named)}.*set it back, or take another folder"):
        run(tmp_path, **change)
    assert (tmp_path / action_log.LOG).read_bytes() == log


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 11.0}, r"more than 11 ms, which is left with every block removed \(now 68 ms\)"),
        ({"target": float("nan")}, "more than 11 ms"),
        ({"rounds": 0}, "rounds is 0"),
        ({"group": 0}, "group is 0"),
    ],
)
def test_impossible_settings(tmp_path, change, message):
    with pytest.raises(BadInput, match=message):
        run(tmp_path, **change)


def test_a_quality_that_is_no_number_stops_it(tmp_path):
    def quality(unet: EvolvableUNet) -> float:
        return 1.0 if "mid resnet 1" in ran(unet) else float("nan")

    with pytest.raises(loop.Diverged, match=r"round 1: the quality is nan without \['mid resnet 1'\]"):
        run(tmp_path, quality=quality)


@pytest.mark.parametrize("text", ["{", '{"round": 1}', "[]"])
def test_a_damaged_log(tmp_path, text):
    (tmp_path / action_log.LOG).write_text(text)
    with pytest.raises(BadInput, match=rf"{action_log.LOG}, (line|round) 1"):
        read_log(tmp_path)
    with pytest.raises(BadInput, match=f"{action_log.LOG} is no file here"):
        read_log(tmp_path / "none")
