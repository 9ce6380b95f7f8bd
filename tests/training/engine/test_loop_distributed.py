"""The loop in processes of its own: killed at random and resumed; two of them against one."""

import contextlib
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.launchers import LAUNCHERS, free_port
from tests.support.toys import run
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]
SETTINGS = {"steps": 12, "batch": 8, "checkpoint_every": 4, "accumulation": 2}
TOYS = ("plain", "gan", "consistency", "skipper")


def job(toy: str, folder: Path, **settings: int) -> dict:
    return {"toy": toy, "folder": str(folder), "config": settings}


def start(launcher: list[str], *jobs: dict) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "tests.support.toys", json.dumps(jobs)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> list[dict]:
    """The reports of the jobs, from all processes."""
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    # lines of two processes may run together
    return [json.loads(found) for found in re.findall(r'{"steps".*?}', output)]


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


class Copied:
    """A job in a copy of a process that has done the imports and nothing else.

    Not of this one: autograd, once it has threads, does not work in a copy.
    """

    def __init__(self, work: dict) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.support.toys"])
        self.process = context.Process(target=self._run, args=(work,))
        self.process.start()

    @staticmethod
    def _run(work: dict) -> None:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            run(work["toy"], Path(work["folder"]), wait_at=work.get("wait_at"), **work["config"])

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def finish(self) -> None:
        self.process.join()
        assert self.process.exitcode == 0

    def running(self) -> bool:
        return self.process.is_alive()


class Fresh:
    """A job in an interpreter of its own."""

    def __init__(self, work: dict) -> None:
        self.process = start([], work)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def finish(self) -> None:
        finish(self.process)

    def running(self) -> bool:
        return self.process.poll() is None


@pytest.mark.parametrize(
    ("job_in", "times", "steps"), [(Copied, 2, 39), pytest.param(Fresh, 5, 90, marks=pytest.mark.slow)]
)
def test_killed_again_and_again(tmp_path, job_in, times, steps):
    settings = {"steps": steps, "checkpoint_every": 3, "log_every": 1}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run("denoiser", whole, **settings)
    rng = random.Random(os.getpid())
    reached = 0
    for _ in range(times):
        further = reached + rng.randint(1, 12)
        process = job_in(job("denoiser", parts, **settings) | {"wait_at": further + 5})  # killed by then, however late
        wait_until(lambda: logged(parts) >= further, process.running)  # noqa: B023
        process.kill()
        reached = logged(parts)
    assert times <= reached < steps
    job_in(job("denoiser", parts, **settings)).finish()
    same(whole, parts, steps)
    assert {name.partition("/")[0] for name in tensors(whole, steps)} == {"unet", "unet.ema", "unet.optimiser"}
    assert not list((parts / "checkpoints").glob(".*"))


def logged(folder: Path) -> int:
    """The last step in the curve."""
    file = folder / "losses.jsonl"
    rows = file.read_text().split("\n")[:-1] if file.exists() else []
    return json.loads(rows[-1])["step"] if rows else 0


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_do_what_one_does(tmp_path, launcher):
    """Curves to 1e-4, as are weights, averages and optimisers; and either goes on where the other stopped.

    Two that go on where two stopped give the same bits.
    """
    for toy in TOYS:
        run(toy, tmp_path / toy / "one", **SETTINGS)
        run(toy, tmp_path / toy / "one, two", **SETTINGS | {"steps": 4, "accumulation": 4})
    told = finish(
        start(
            ["-m", *LAUNCHERS[launcher], free_port()],
            *(job(toy, tmp_path / toy / "two", **SETTINGS) for toy in TOYS),
            *(job(toy, tmp_path / toy / "two, one", **SETTINGS | {"steps": 4}) for toy in TOYS),
            *(job(toy, tmp_path / toy / "one, two", **SETTINGS) for toy in TOYS),
            *(job(toy, tmp_path / toy / "two, two", **SETTINGS | {"steps": 4}) for toy in TOYS),
            *(job(toy, tmp_path / toy / "two, two", **SETTINGS) for toy in TOYS),
        )
    )
    assert len(told) == 40
    sums = sorted(one["sum"] for one in told)
    assert sums[::2] == sums[1::2]  # both processes end with the same networks
    for toy in TOYS:
        run(toy, tmp_path / toy / "two, one", **SETTINGS | {"accumulation": 1})
        for way in ("two", "two, one", "one, two"):
            close(tmp_path / toy / "one", tmp_path / toy / way)
        same(tmp_path / toy / "two", tmp_path / toy / "two, two", 12)


def same(one: Path, two: Path, step: int) -> None:
    a, b = tensors(one, step), tensors(two, step)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert curve(one) == curve(two)


def close(one: Path, two: Path) -> None:
    for a, b in zip(curve(one), curve(two), strict=True):
        assert a == pytest.approx(b, abs=1e-4), two
    a, b = tensors(one, 12), tensors(two, 12)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name], b[name], atol=1e-4), f"{two}: {name}"
