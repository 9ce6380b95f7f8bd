"""The loop in processes of its own: killed at random and resumed; two of them against one."""

import json
import os
import random
import re
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
TOYS = ("plain", "gan", "consistency", "skipper")
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node=2", "--master-port"],
    "accelerate launch --use_fsdp": [
        *("accelerate.commands.launch", "--num_processes=2", "--num_machines=1", "--mixed_precision=no"),
        *("--dynamo_backend=no", "--use_fsdp", "--fsdp_version=2", "--main_process_port"),
    ],
}


def job(toy: str, folder: Path, **settings: int) -> dict:
    return {"toy": toy, "folder": str(folder), "config": settings}


def start(launcher: list[str], *jobs: dict) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "tests.training.toys", json.dumps(jobs)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> list[dict]:
    """What the jobs told, from all processes."""
    told, _ = process.communicate(timeout=900)
    assert process.returncode == 0, told
    return [json.loads(found) for found in re.findall(r'{"steps".*?}', told)]  # lines of two processes may run together


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


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
    settings = {"steps": 4000, "checkpoint_every": 20, "log_every": 10}
    finish(start([], job("denoiser", tmp_path / "whole", **settings)))
    chance = random.Random(os.getpid())
    reached = [0]
    for _ in range(5):
        process = start([], job("denoiser", tmp_path / "parts", **settings))
        further = reached[-1] + chance.randint(1, 700)
        while logged(tmp_path / "parts") < further:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        reached.append(logged(tmp_path / "parts"))
    assert reached[-1] < 4000
    (told,) = finish(start([], job("denoiser", tmp_path / "parts", **settings)))
    assert told["steps"] == 4000
    whole, parts = tensors(tmp_path / "whole", 4000), tensors(tmp_path / "parts", 4000)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert {name.partition("/")[0] for name in whole} == {"unet", "unet.ema", "unet.optimiser"}
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    assert not list((tmp_path / "parts/checkpoints").glob(".*"))


def logged(folder: Path) -> int:
    """The last step in the curve."""
    file = folder / "losses.jsonl"
    rows = file.read_text().split("\n")[:-1] if file.exists() else []
    return json.loads(rows[-1])["step"] if rows else 0


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_do_what_one_does(tmp_path, launcher):
    """Curves to 1e-4, as are weights, averages and optimisers; and either goes on where the other stopped."""
    for toy in TOYS:
        run(toy, tmp_path / toy / "one", **SETTINGS)
        run(toy, tmp_path / toy / "one, two", **SETTINGS | {"steps": 4, "accumulation": 4})
    told = finish(
        start(
            ["-m", *LAUNCHERS[launcher], free_port()],
            *(job(toy, tmp_path / toy / "two", **SETTINGS) for toy in TOYS),
            *(job(toy, tmp_path / toy / "two, one", **SETTINGS | {"steps": 4}) for toy in TOYS),
            *(job(toy, tmp_path / toy / "one, two", **SETTINGS) for toy in TOYS),
        )
    )
    assert len(told) == 24
    sums = sorted(one["sum"] for one in told)
    assert sums[::2] == sums[1::2]  # both processes end with the same networks
    for toy in TOYS:
        run(toy, tmp_path / toy / "two, one", **SETTINGS | {"accumulation": 1})
        for way in ("two", "two, one", "one, two"):
            close(tmp_path / toy / "one", tmp_path / toy / way)


def close(one: Path, two: Path) -> None:
    for a, b in zip(curve(one), curve(two), strict=True):
        assert a == pytest.approx(b, abs=1e-4), two
    a, b = tensors(one, 12), tensors(two, 12)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name], b[name], atol=1e-4), f"{two}: {name}"
