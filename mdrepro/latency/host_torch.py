"""LiteRT against torch on this machine: one network, each runtime in a process of its own, run by run in turn.

What slows the machine for a while slows all equally. All processes are loaded and warmed up first; then a round has one
run of each, in every order in turn, so that none always comes after the same other. A ratio is the median over rounds.
"""

import itertools
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from mdrepro.core.errors import BadInput
from mdrepro.latency import host, host_child
from mdrepro.latency.host import ProcessReport


@dataclass(frozen=True)
class RuntimeSetup:
    """A runtime of one network: the request to its process, and the module that this runs."""

    name: str
    request: Mapping[str, Any]
    module: str = host_child.__name__


def litert(file: Path, precision: str = "") -> RuntimeSetup:
    """A ``.tflite`` file on LiteRT, named after its precision too. Raises BadInput where there is none."""
    if not file.is_file():
        raise BadInput(f"{file}: no such file")
    return RuntimeSetup(f"LiteRT, {precision}" if precision else "LiteRT", {"file": str(file)})


def torch(
    model: str, component: str, *, branches: int | None = None, resolution: int | None = None, compiled: bool = False
) -> RuntimeSetup:
    """A component of a model as for `mdrepro export`, in torch, float32.

    ``compiled``: by torch.compile; the C++ compiler that it needs takes minutes over a large network.
    """
    network = {"model": model, "component": component, "branches": branches, "resolution": resolution}
    return RuntimeSetup("torch.compile" if compiled else "eager torch", network | {"compiled": compiled})


def alternate(
    setups: Sequence[RuntimeSetup],
    threads: int = 1,
    *,
    runs: int = host.RUNS,
    seconds: float = 0.0,
    most: float | None = None,
) -> dict[str, ProcessReport]:
    """Run setups of one network in turn; each process's report by its setup's name, ``seconds`` having one per round.

    ``threads``: of each, and cores that all are pinned to. ``runs``, ``seconds``: lower bounds of rounds, and of their
    seconds together. ``most``: seconds after which no round begins, once there are `host_child.LEAST`; None for no
    upper bound. Raises BadInput for more threads than cores, or a setup that cannot run.
    """
    with ExitStack() as stack:
        request = host.shared(threads) | {"served": True}
        servers = []
        for setup in setups:
            servers.append(server := _Server(setup, request))
            stack.callback(server.close)
            server.until("ready")
        rounds, began, orders = 0, time.perf_counter(), list(itertools.permutations(servers))
        while not host_child.enough(rounds, time.perf_counter() - began, runs, seconds, most):
            for server in orders[rounds % len(orders)]:
                server.run()
            rounds += 1
        return {server.setup.name: server.end() for server in servers}


def ratio(above: ProcessReport, below: ProcessReport) -> tuple[float, float, float]:
    """Median over rounds of the time of one runtime over that of another, and its 95 % interval."""
    each = np.asarray(above["seconds"]) / np.asarray(below["seconds"])
    low, high = host.interval(host.medians(each.tolist()))
    return float(np.median(each)), low, high


class _Server:
    """A process that makes one run at each request."""

    def __init__(self, setup: RuntimeSetup, request: Mapping[str, Any]) -> None:
        self.setup = setup
        command, env = host.process(setup.module, {**setup.request, **request})
        self._errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True, errors="replace", env=env
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def close(self) -> None:
        """End the process, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._input, self._output, self._errors):
            stream.close()

    def run(self) -> None:
        """One run."""
        try:
            self._input.write("\n")
            self._input.flush()
        except BrokenPipeError:
            self._report("")
        self.until("seconds")

    def end(self) -> ProcessReport:
        """Its report, after its end."""
        self._input.close()
        return self._report(self._output.read())

    def until(self, key: str) -> None:
        """Wait for its answer. Raises BadInput where the process ends without."""
        for line in self._output:  # a library may print, too
            try:
                if key in json.loads(line):
                    return
            except (ValueError, TypeError):
                continue
        self._report("")

    def _report(self, output: str) -> ProcessReport:
        code = self._process.wait()
        self._errors.seek(0)
        return host.answer(f"{self.setup.name} cannot run it", code, output, self._errors.read())
