"""The loop in processes of its own: killed at random and resumed; two of them against one."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.toys import run

ROOT = Path(__file__).parents[2]
SETTINGS = {"steps": 12, "batch": 8, "checkpoint_every": 4, "accumulation": 2}


def start(command: list[str], toy: str, folder: Path, settings: dict, **environment: str) -> subprocess.Popen[str]:
    told = json.dumps({"toy": toy, "folder": str(folder), "config": settings})
    return subprocess.Popen(
        [*command, "-m", "tests.training.toys", told],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    told, _ = process.communicate(timeout=400)
    assert process.returncode == 0, told
    return told


def two_processes(toy: str, folder: Path, settings: dict, **environment: str) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    return finish(start(command, toy, folder, settings, **environment))


def tensors(folder: Path, step: int) -> dict[str, torch.Tensor]:
    place = folder / "checkpoints" / f"step-{step:08}"
    return {
        f"{file.stem}/{name}": value
        for file in sorted(place.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def curve(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


@pytest.mark.slow
def test_killed_five_times(tmp_path):
    settings = {"steps": 4000, "batch": 8, "checkpoint_every": 20, "log_every": 10}
    finish(start([sys.executable], "denoiser", tmp_path / "whole", settings))
    chance = random.Random(os.getpid())
    reached = []
    for _ in range(5):
        process = start([sys.executable], "denoiser", tmp_path / "parts", settings)
        further = (reached[-1] if reached else 0) + chance.randint(1, 700)
        while not (rows := written(tmp_path / "parts")) or rows[-1] < further:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        reached.append(written(tmp_path / "parts")[-1])
    assert reached[-1] < 4000
    told = finish(start([sys.executable], "denoiser", tmp_path / "parts", settings))
    assert "done 4000" in told
    whole, parts = tensors(tmp_path / "whole", 4000), tensors(tmp_path / "parts", 4000)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert {name.partition("/")[0] for name in whole} == {"unet", "unet.ema", "unet.optimiser"}
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    assert not list((tmp_path / "parts/checkpoints").glob(".*"))


def written(folder: Path) -> list[int]:
    file = folder / "losses.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().split("\n")[:-1]] if file.exists() else []


SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, SHARDED], ids=["ddp", "fsdp"])
@pytest.mark.parametrize("toy", ["plain", "gan", "consistency", "skipper"])
def test_two_processes_do_what_one_does(tmp_path, toy, environment):
    """Curves to 1e-4, as are weights, averages and optimisers; and one process goes on where two stopped."""
    if toy == "skipper" and environment:
        pytest.skip("FSDP has no word for parameters that are left out")
    one, two, both = (tmp_path / name for name in ("one", "two", "both"))
    run(toy, one, **SETTINGS)
    two_processes(toy, two, SETTINGS, **environment)
    close(one, two)
    two_processes(toy, both, SETTINGS | {"steps": 4}, **environment)
    run(toy, both, **SETTINGS | {"accumulation": 1})
    close(one, both)


def close(one: Path, two: Path) -> None:
    for a, b in zip(curve(one), curve(two), strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    a, b = tensors(one, 12), tensors(two, 12)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name], b[name], atol=1e-4), name
