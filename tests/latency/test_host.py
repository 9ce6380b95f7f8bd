"""LiteRT on this machine: a process of its own, pinned, with the peak of a matrix product beside it."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mdrepro.core.errors import BadInput
from mdrepro.latency import host, host_child
from mdrepro.latency.file_metadata import FileMetadata
from tests.support.latencies import PEAK, told

MAKE = """
import sys, torch, litert_torch
side, file = int(sys.argv[1]), sys.argv[2]
layer = torch.nn.Linear(side, side, bias=False).eval()
litert_torch.convert(layer, (torch.zeros(side, side),)).export(file)
"""


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that is one product of two 768 x 768 matrices."""
    file = tmp_path_factory.mktemp("networks") / "product.tflite"
    subprocess.run([sys.executable, "-c", MAKE, "768", str(file)], check=True, capture_output=True)
    return file


@pytest.mark.slow
def test_a_matrix_product_is_set_beside_the_peak_of_this_machine(product: Path) -> None:
    record, state = host.measure(product, 1, macs=768**3, runs=15, seconds=0.5)
    assert record.times.runs >= 15
    assert record.times.min_ms is not None
    assert record.times.max_ms is not None
    assert 768**3 / record.times.max_ms <= state["gmacs"] * 1e6 <= 768**3 / record.times.min_ms
    assert state["peak_gmacs"] > 0
    assert record.memory_mb is not None
    assert record.memory_mb > 768**2 * 4 / 1e6
    assert record.accelerator == "CPU, XNNPACK"


def test_the_rate_and_its_share_of_the_peak_by_hand() -> None:
    """A thousandth of a second for 30 million multiply-accumulates are 30 GMAC/s, half of the matrix product's 60."""
    record, state = host.record([told([0.9, 1.0, 1.3])], 1, FileMetadata("m"), macs=30_000_000)
    assert PEAK == 60
    assert (record.times.ms, record.macs) == (1.0, 30_000_000)
    assert (state["gmacs"], state["share"]) == pytest.approx((30.0, 0.5))


def test_the_peak_is_the_best_rate_of_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_child.time, "perf_counter", itertools.count(step=0.5).__next__)
    assert host_child._peak(8) == 8**3 / 0.5 / 1e9
    times = itertools.accumulate([0, 3, 0, 0.25, 0, 2, 0, 5, 0, 4])
    monkeypatch.setattr(host_child.time, "perf_counter", times.__next__)
    assert host_child._peak(8) == 8**3 / 0.25 / 1e9


class Counted(float):
    """Seconds that count how often they are added up."""

    added = 0

    def __add__(self, other: float) -> float:
        Counted.added += 1
        return Counted(float(self) + float(other))

    __radd__ = __add__


def test_a_tiny_network_is_timed_for_so_many_runs_that_are_added_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_child, "timed", lambda run: Counted(1e-6))
    monkeypatch.setattr(Counted, "added", 0)
    assert len(host_child.repeated(lambda: None, runs=10, seconds=1e-3)) in (1000, 1001)
    assert Counted.added <= 1001
    assert len(host_child.repeated(lambda: None, runs=10, seconds=5.0)) == host_child.ENOUGH
    assert len(host_child.repeated(lambda: None, runs=20_000, seconds=5.0)) == 20_000
    assert len(host_child.repeated(lambda: None, runs=10, seconds=5.0, most=1e-5)) in (10, 11)


@pytest.mark.slow
def test_both_the_runs_and_the_seconds_are_reached(product: Path) -> None:
    record, _ = host.measure(product, 1, runs=1, seconds=1.0)
    assert record.times.mean_ms is not None
    assert record.times.runs * record.times.mean_ms >= 1000


def test_the_process_imports_no_torch() -> None:
    program = "import sys, mdrepro.latency.host_child; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"import json; {program}"], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "transformers"} & set(json.loads(done.stdout))


def test_files_that_litert_cannot_run_end_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(b"no network")
    with pytest.raises(BadInput, match=r"LiteRT cannot run .*a\.tflite: ValueError"):
        host.measure(tmp_path / "a.tflite")
    with pytest.raises(BadInput, match="no such file"):
        host.measure(tmp_path / "b.tflite")
    with pytest.raises(BadInput, match="must be 1 to"):
        host.measure(tmp_path / "a.tflite", (os.cpu_count() or 1) + 1)
