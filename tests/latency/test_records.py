"""Latency records: what they allow, that they survive a file, and reports of other programs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdrepro.core.errors import BadInput
from mdrepro.latency import host, imports, records
from mdrepro.latency.records import Record
from tests.support import dialogue
from tests.support.reports import ABOUT, AI_HUB, MLPERF, PLAIN


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    first = records.record(PLAIN | {"delegated": [3, 4], "notes": ["hot"]}, "x")
    records.save(tmp_path / "a.json", [first, records.record(PLAIN, "x")])
    assert records.load(tmp_path / "a.json") == [first, records.record(PLAIN, "x")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"times": {"runs": 10}}, "neither a mean nor a median"),
        ({"times": {"runs": 0, "mean_ms": 1}}, r"times\.runs"),
        ({"times": {"runs": 3, "mean_ms": 1, "min_ms": 2}}, "below the minimum"),
        ({"times": {"runs": 3, "median_ms": 3, "max_ms": 2}}, "above the maximum"),
        ({"origin": "guessed"}, "origin"),
        ({"delegated": [5, 4]}, "more nodes than there are"),
        ({"model_sha256": "abc"}, "model_sha256"),
        ({"date": "2999-01-01"}, "is in the future"),
        ({"colour": "red"}, "colour"),
        ({"model": ""}, "model"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(change: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        records.record(PLAIN | change, "file: record 1")


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    for content in ("", "[]", '{"format": 2, "records": []}', '{"format": 1}'):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(BadInput, match="latency records"):
            records.load(tmp_path / "a.json")


def test_measured_and_imported_are_kept_apart() -> None:
    ours, theirs = records.record(PLAIN, "x"), records.record(PLAIN | {"origin": "imported"}, "x")
    assert records.split([theirs, ours, theirs]) == {"measured": [ours], "imported": [theirs, theirs]}
    assert records.split([]) == {"measured": [], "imported": []}


def test_the_summary_is_numpys_and_its_interval_holds_the_median() -> None:
    rng = np.random.default_rng(0)
    times = rng.lognormal(3, 0.2, 40)
    told = host.summary(times.tolist(), first_ms=99.0)
    assert told.median_ms == pytest.approx(np.median(times))
    assert told.p90_ms == pytest.approx(np.quantile(times, 0.9))
    assert told.low_ms is not None
    assert told.high_ms is not None
    assert told.low_ms < np.median(times) < told.high_ms
    held = 0
    for _ in range(100):
        some = host.summary(rng.lognormal(3, 0.2, 25).tolist())
        assert some.low_ms is not None
        assert some.high_ms is not None
        held += some.low_ms <= np.exp(3) <= some.high_ms
    assert held >= 88


def imported(kind: str, content: str, tmp_path: Path, about: dict[str, Any]) -> list[Record]:
    (tmp_path / "report").write_text(content)
    return imports.read(kind, tmp_path / "report", about)


def test_a_profile_of_ai_hub(tmp_path: Path) -> None:
    (one,) = imported("ai-hub", json.dumps(AI_HUB), tmp_path, ABOUT)
    assert (one.times.median_ms, one.times.mean_ms, one.times.runs) == (190.5, 191.25, 4)
    assert (one.times.load_ms, one.memory_mb, one.delegated) == (1200, 250, (7, 8))
    assert (one.origin, one.accelerator) == ("imported", "NPU (7), CPU (1)")
    assert "SHA-256" in one.source
    summary = {"estimated_inference_time": 189000}
    (one,) = imported("ai-hub", json.dumps({"execution_summary": summary}), tmp_path, ABOUT)
    assert (one.times.ms, one.times.runs) == (189, 1)
    assert one.notes


def test_a_result_of_mlperf_mobile(tmp_path: Path) -> None:
    (one,) = imported("mlperf-mobile", json.dumps(MLPERF), tmp_path, {})  # the offline one is no latency
    assert (one.model, one.component, one.times.ms, one.times.runs) == ("stable_diffusion", "image", 4000, 8)
    assert (one.device.name, one.device.chip, one.date) == ("Galaxy S24", "SM8650", "2024-12-26")
    assert one.notes == ("the app marks this run as not valid",)


def test_a_form_of_xcodes_report(tmp_path: Path) -> None:
    form = "model: unet\ncomponent: unet\ndevice: iPhone 15 Pro\nprediction_ms: 142.5\nload_ms: 900\n"
    form += "neural_engine: 310\ncpu: 4\n"
    (one,) = imported("xcode", form, tmp_path, {})
    assert (one.times.ms, one.times.load_ms, one.delegated) == (142.5, 900, (310, 314))
    assert one.notes
    with pytest.raises(BadInput, match="lacks device, prediction_ms"):
        imported("xcode", "model: unet\n", tmp_path, {})


def test_what_benchmark_model_printed(tmp_path: Path) -> None:
    (one,) = imported("benchmark-model", dialogue.GPU, tmp_path, ABOUT)
    assert (one.origin, one.accelerator, one.times.ms) == ("imported", "GPU delegate", 141.253)


@pytest.mark.parametrize("kind", imports.KINDS)
@pytest.mark.parametrize("content", ["", "{}", "[1]", "\x00\x01", '{"execution_summary": {}, "results": 3}'])
def test_other_files_are_refused_by_name(kind: str, content: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="report"):
        imported(kind, content, tmp_path, ABOUT)


def test_unknown_kinds_and_what_is_not_told_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean xcode"):
        imported("xcod", "", tmp_path, {})
    with pytest.raises(BadInput, match="record 1: model: Field required"):
        imported("benchmark-model", dialogue.CPU, tmp_path, {})


HEAD = "INFO: Loaded model /data/local/tmp/{name}.tflite\n"
TAIL = """INFO: count=3 first=41000 curr=40100 min=40000 max=41000 avg=40400 std=400
INFO: count=25 first=40100 curr=40200 min=39000 max=42000 avg=40200 std=500 p5=39100 median=40150 p95=41800
INFO: Inference timings in us: Init: 1800000, First inference: 41000, Warmup (avg): 40400, Inference (avg): 40200
INFO: Memory footprint delta from the start of the tool (MB): init=100.5 overall=150.25
"""
XNNPACK = "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nVERBOSE: Replacing {} node(s) with delegate "
XNNPACK += "(TfLiteXNNPackDelegate) node, yielding 12 partitions for subgraph 0.\n"
ON_GPU = "VERBOSE: Replacing 30 out of 300 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 3 partitions for "
ON_GPU += "subgraph 0.\n"
PARTLY = "INFO: Explicitly applied GPU delegate, and the model graph will be partially executed by the delegate w/ 1 "
PARTLY += "delegate kernels.\n"
IGNORED = "INFO: Though {} is explicitly applied, the model graph will not be executed by the delegate.\n"
SECOND_SUBGRAPH = ON_GPU.replace("30 out of 300", "4 out of 10").replace("subgraph 0", "subgraph 1")


@pytest.mark.parametrize(
    ("delegates", "accelerator", "delegated"),
    [
        (ON_GPU + PARTLY + XNNPACK.format("250 out of 271"), "GPU delegate", (30, 300)),
        (PARTLY + XNNPACK.format("250 out of 271"), "GPU delegate", None),
        (ON_GPU + SECOND_SUBGRAPH + PARTLY, "GPU delegate", (34, 310)),
        (IGNORED.format("GPU delegate") + XNNPACK.format("290 out of 300"), "CPU", None),
        (IGNORED.format("x") + XNNPACK.format("290 out of 300"), "CPU", None),
        (ON_GPU + IGNORED.format("GPU delegate") + XNNPACK.format("290 out of 300"), "CPU", None),
        (ON_GPU.replace("30 out", "0 out") + XNNPACK.format("290 out of 300"), "CPU", None),
        (PARTLY.replace("GPU", "XNNPACK") + XNNPACK.format("290 out of 300"), "CPU", None),
        (ON_GPU.replace("GpuDelegateV2", "HexagonDelegate"), "Hexagon delegate", (30, 300)),
        ("", "CPU", None),
    ],
)
def test_each_line_counts_for_the_delegate_that_it_names(
    delegates: str, accelerator: str, delegated: tuple[int, int] | None, tmp_path: Path
) -> None:
    """As TFLite's benchmark tool prints them; "Gpu" in the network's name counts for nothing."""
    (one,) = imported("benchmark-model", HEAD.format(name="unetGpuFriendly") + delegates + TAIL, tmp_path, ABOUT)
    assert (one.accelerator, one.delegated) == (accelerator, delegated)


def test_each_run_in_a_file_of_several_is_a_record_with_its_own_statistics(tmp_path: Path) -> None:
    (first,) = imported("benchmark-model", dialogue.CPU, tmp_path, ABOUT)
    (second,) = imported("benchmark-model", HEAD.format(name="b") + ON_GPU + TAIL, tmp_path, ABOUT)
    for later in (HEAD.format(name="b") + ON_GPU + TAIL, "=== b\nSTARTING!\n" + HEAD.format(name="b") + ON_GPU + TAIL):
        pair = imported("benchmark-model", dialogue.CPU + later, tmp_path, ABOUT)
        assert [one.times for one in pair] == [first.times, second.times]
        assert [one.memory_mb for one in pair] == [51.2, 150.25]
        assert [one.accelerator for one in pair] == ["CPU", "GPU delegate"]
        assert [one.notes[-1] for one in pair] == [
            "run 1 of 2 in the file, of unet.tflite",
            "run 2 of 2 in the file, of b.tflite",
        ]
    failed = "STARTING!\nERROR: Could not open 'x.tflite'.\n"
    with pytest.raises(BadInput, match=r"run 2 of 3: .*Could not open"):
        imported("benchmark-model", dialogue.CPU + failed + dialogue.CPU, tmp_path, ABOUT)


@pytest.mark.parametrize("largest", [33150, 33700])
def test_the_profilers_sums_are_not_the_runs(largest: int, tmp_path: Path) -> None:
    profile = f"Timings (microseconds): count=50 first=32600 curr=33700 min=32300 max={largest} avg=32900 std=440\n"
    before, _, after = dialogue.CPU.partition("Inference timings")
    for content in (dialogue.CPU + profile, f"{before}{profile}Inference timings{after}"):
        (one,) = imported("benchmark-model", content, tmp_path, ABOUT)
        assert one.times == imported("benchmark-model", dialogue.CPU, tmp_path, ABOUT)[0].times
