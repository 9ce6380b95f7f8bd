"""Images composed of parts against sums by hand, claims, phones' records, figures and notebook."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.latency import host, host_torch, records
from mdrepro.latency.records import Record
from mdrepro.models import systems
from mdrepro.papers import ledger
from mdrepro.reproduce.tables import device_latency, host_figures, host_latency, phones
from mdrepro.reproduce.tables.device_latency import IMAGES, TABLE
from mdrepro.reproduce.tables.host_latency import Image
from mdrepro.reproduce.workflow import exported, folders
from mdrepro.reproduce.workflow.exported import Piece
from mdrepro.reproduce.workflow.record import RUN, complete
from tests.support.latencies import PEAK, by_work, claims, constant, measured, of_a_phone, stubbed, told, values
from tests.support.notebooks import recorded

TEN = constant(
    text_encoder=10, mobilediffusion=100, mobilediffusion_decoder_lite=30, mobilediffusion_decoder=50, sd15=300
) | constant(snapfusion=200, sd_decoder=70, snapfusion_decoder=20)


def test_images_are_sums_of_their_parts_by_hand() -> None:
    found = values(device_latency.rows(TEN))
    assert found["host-mobilediffusion-1", "total_ms"] == pytest.approx(10 + 100 + 30)
    assert found["host-mobilediffusion-8", "total_ms"] == pytest.approx(2 * 10 + 8 * 2 * 100 + 30)
    assert found["host-mobilediffusion-full-decoder-1", "total_ms"] == pytest.approx(10 + 100 + 50)
    assert found["host-snapfusion-8", "total_ms"] == pytest.approx(2 * 10 + 8 * 2 * 200 + 20)
    assert found["host-sd15-50", "total_ms"] == pytest.approx(2 * 10 + 50 * 2 * 300 + 70)
    assert found["host-sd15-50", "unet_ms_per_step"] == 300  # of one branch
    assert found["host-sd15-50", "text_encoder_ms"] == 10
    assert found["host-mobilediffusion-full-decoder-1", "decoder_ms"] == 50
    assert [found[row, "steps"] for row in IMAGES] == [1, 8, 1, 8, 50]


def test_records_of_other_parameters_do_not_replace_those_of_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_latency, "runs_folder", lambda: tmp_path)
    usual = folders.defaults("quick", TABLE)
    for run in ({"parameters": usual}, {"parameters": usual | {"threads": 1}}, {}):
        monkeypatch.setenv(RUN, json.dumps(run))
        host_latency.keep(TABLE, TEN)
    other = folders.key(usual | {"threads": 1})
    assert {file.name for file in (tmp_path / "latency").iterdir()} == {f"{TABLE}.json", f"{TABLE}-{other}.json"}


def test_both_branches_at_once_are_counted_once() -> None:
    image = Image("x", "text-encoder", "snapfusion", "snapfusion-decoder", 8, 2)
    apart = host_latency.parts(image, TEN)
    at_once = host_latency.parts(image, TEN | measured("snapfusion", [350.0] * 5, branches=2))
    assert apart
    assert at_once
    assert host_latency.combine(apart).value == pytest.approx(20 + 16 * 200 + 20)
    assert host_latency.combine(at_once).value == pytest.approx(20 + 8 * 350 + 20)


def test_the_interval_of_a_sum_by_an_independent_way() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.normal(100, 10, 400), rng.normal(50, 4, 400)
    one, other = (
        next(iter(measured(name, times.tolist()).values()))
        for name, times in (("text-encoder", first), ("sd-decoder", second))
    )
    found = host_latency.combine([(2, one), (3, other)])
    assert found.value == pytest.approx(2 * np.median(first) + 3 * np.median(second))
    deviation = 1.2533 * np.hypot(2 * 10, 3 * 4) / np.sqrt(400)  # of the median of a normal distribution
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * deviation, rel=0.3)
    assert found.n == 400
    ratio = host_latency.quotient([(2, one)], [(1, other)])
    assert ratio.value == pytest.approx(2 * np.median(first) / np.median(second))
    assert ratio.low < ratio.value < ratio.high


def test_claims_follow_the_ratios() -> None:
    verdicts = claims(device_latency.rows(TEN))
    assert verdicts["lite-decoder-halves-latency"] == "holds"  # 30 <= 0.6 x 50, the bound itself
    assert verdicts["unet-half-the-time-of-sd15"] == "holds"
    assert verdicts["one-step-hundred-times-faster-than-sd15"] == "holds"  # 30090 >= 100 x 140
    assert verdicts["one-step-faster-than-eight"] == "holds"
    assert verdicts["half-a-second-on-phones"] == "not attempted"
    slow = TEN | constant(mobilediffusion=151, mobilediffusion_decoder_lite=31)
    verdicts = claims(device_latency.rows(slow))
    assert verdicts["lite-decoder-halves-latency"] == "does not hold"
    assert verdicts["unet-half-the-time-of-sd15"] == "does not hold"
    quarter = TEN | constant(mobilediffusion_decoder_lite=13)
    assert claims(device_latency.rows(quarter))["lite-decoder-halves-latency"] == "does not hold"  # "nearly half"
    noisy = TEN | measured("mobilediffusion", [100.0, 200.0] * 10)
    assert claims(device_latency.rows(noisy))["unet-half-the-time-of-sd15"] == "within noise"


def test_rows_are_declared_and_missing_networks_are_named() -> None:
    spec = ledger.find(TABLE)
    complete(spec, device_latency.rows(TEN))
    some = device_latency.rows(constant(text_encoder=1, mobilediffusion_decoder=3))
    complete(spec, some)
    reasons = {(row.row, row.column): row.reason for row in some}
    assert reasons["host-mobilediffusion-1", "total_ms"].endswith(": mobilediffusion, mobilediffusion-decoder-lite")
    assert reasons["host-mobilediffusion-full-decoder-1", "decoder_ms"] == ""
    assert "sd15" in reasons["host-sd15-50", "unet_ms_per_step"]


def test_protocol_says_what_ran_where_and_how_busy_it_was() -> None:
    protocol = next(row.protocol for row in device_latency.rows(TEN) if row.column == "unet_ms_per_step")
    for words in (
        "one guidance branch",
        "LiteRT 0",
        "XNNPACK",
        "fp16 weights",
        "512 px",
        "batch 1",
        "pinned to 1 core of",
    ):
        assert words in protocol
    for words in ("a processor", "load 0.1 before, 1.9 after", "75.0 dB from torch", "GMAC/s", "5 runs in 1 processes"):
        assert words in protocol


def test_torch_rows_are_of_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}
    integers = exported.Kept(tmp_path / "integers.tflite", {"parity": {"psnr_db": 47.5}})

    def alternate(ways: Sequence[host_torch.RuntimeSetup], threads: int, **named: Any) -> dict[str, host.ProcessReport]:
        asked.update(named, ways=[way.name for way in ways], threads=threads)
        theirs = told([200.0, 400.0, 200.0]) | {"runtime": "torch 9, eager"}
        ours = [told([100.0, 200.0, 100.0]), told([40.0, 240.0, 140.0])]
        return dict(zip(asked["ways"], [*ours, theirs], strict=True))  # type: ignore[arg-type]

    def get(piece: Piece, precision: str, resolution: int) -> exported.Kept:
        assert (piece, precision, resolution) == (Piece("mobilediffusion"), "int8-dynamic", 512)
        return integers

    monkeypatch.setattr(exported, "get", get)
    monkeypatch.setattr(host_torch, "alternate", alternate)
    monkeypatch.setattr(
        host_torch, "litert", lambda file, precision: host_torch.RuntimeSetup(f"LiteRT, {precision}", "m", {})
    )
    monkeypatch.setattr("mdrepro.latency.host.sha256", lambda file: "0" * 64)
    compared = device_latency.against_torch(TEN, ways=["eager"], resolution=512, threads=1, runs=3, most=9)
    ways = ["LiteRT, fp16", "LiteRT, int8-dynamic", "eager torch"]
    assert asked == {"runs": 3, "most": 9, "ways": ways, "threads": 1}
    rows = device_latency.torch_rows(compared)
    found = values(rows)
    assert found["host-mobilediffusion-1", "share_of_eager"] == pytest.approx(0.5)
    assert found["host-mobilediffusion-1", "integer_share_of_eager"] == pytest.approx(0.6)
    assert found["host-mobilediffusion-eager", "unet_ms_per_step"] == pytest.approx(200)
    assert len(rows) == len(found) == 3
    complete(ledger.find(TABLE), rows)
    assert claims(rows)["litert-faster-than-eager-torch"] == "holds"
    assert claims(rows)["litert-integers-faster-than-eager-torch"] == "within noise"  # 0.2 to 0.7
    protocols = {row.column: row.protocol for row in rows}
    assert "torch 9, eager" in protocols["unet_ms_per_step"]
    for words in ("int8-dynamic weights, 8-bit products", "47.5 dB from torch"):
        assert words in protocols["integer_share_of_eager"]
    assert "fp16 weights, float32 arithmetic" in protocols["share_of_eager"]
    assert all("3 in turn, 3 rounds" in row.protocol for row in rows)
    for ways, there in (("none", TEN), ("eager", constant(sd15=3))):
        assert device_latency.against_torch(there, ways=[ways], resolution=512, threads=1, runs=3, most=9) == []


def test_what_torch_is_compared_with_is_exported_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(exported, "get", lambda *what: asked.append(what))
    device_latency.prepare([Piece("sd15")], ["eager"], 512)
    device_latency.prepare([Piece("mobilediffusion")], ["none"], 512)
    assert not asked
    device_latency.prepare([Piece("sd15"), Piece("mobilediffusion")], ["compiled"], 128)
    assert asked == [(Piece("mobilediffusion"), "int8-dynamic", 128)]


def test_a_table_of_integers_compares_them_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = TEN[Piece("mobilediffusion")]
    found = {Piece("mobilediffusion"): replace(one, record=one.record.model_copy(update={"precision": "int8-dynamic"}))}
    monkeypatch.setattr(exported, "get", lambda *_: one.kept)
    monkeypatch.setattr(
        host_torch, "litert", lambda file, precision: host_torch.RuntimeSetup(f"LiteRT, {precision}", "m", {})
    )
    monkeypatch.setattr(host_torch, "alternate", lambda ways, *_, **__: {way.name: told([9.0] * 3) for way in ways})
    monkeypatch.setattr("mdrepro.latency.host.sha256", lambda file: "0" * 64)
    compared = device_latency.against_torch(found, ways=["eager"], resolution=512, threads=1, runs=3, most=9)
    columns = [row.column for row in device_latency.torch_rows(compared)]
    assert columns == ["unet_ms_per_step", "integer_share_of_eager"]


PHONE = [
    of_a_phone("text-encoder", 4),
    of_a_phone("unet", 142),
    of_a_phone("decoder", 92, model="mobilediffusion-lite"),
]


def test_measured_records_fill_the_row_of_their_phone_alone() -> None:
    rows = device_latency.phone_rows(PHONE)
    found = values(rows)
    assert found["iphone15pro-mobilediffusion-1", "total_ms"] == 4 + 142 + 92
    assert found["iphone15pro-mobilediffusion-1", "unet_ms_per_step"] == 142
    assert {row for row, _ in found} == {"iphone15pro-mobilediffusion-1"}
    assert claims(rows)["half-a-second-on-phones"] == "holds"
    assert all(row.protocol.count("measured on iPhone 15 Pro") for row in rows)


def test_imported_records_fill_nothing_and_are_shown_apart() -> None:
    imported = [record.model_copy(update={"origin": "imported"}) for record in PHONE]
    assert device_latency.phone_rows(imported) == []
    found = values(device_latency.phone_rows([*PHONE[:2], imported[2]]))
    assert ("iphone15pro-mobilediffusion-1", "total_ms") not in found  # never a sum of both
    assert list(phones.table([*PHONE[:2], imported[2]], "imported")["origin"]) == ["imported"]
    assert len(phones.table([*PHONE[:2], imported[2]], "measured")) == 2
    assert phones.table(PHONE, "imported").values.tolist() == [["none that were imported"]]


def test_other_phones_models_and_batches_fill_nothing() -> None:
    others = [
        of_a_phone("unet", 1, device="iPhone 15"),
        of_a_phone("unet", 2, model="sd15"),
        of_a_phone("unet", 3, batch=2),
        of_a_phone("decoder", 4),  # the full one
    ]
    assert device_latency.phone_rows(others) == []
    found = values(device_latency.phone_rows([of_a_phone("unet", 9, device="Samsung Galaxy S24")]))
    assert found == {("galaxy-s24", "unet_ms_per_step"): 9}


def test_a_row_is_of_one_accelerator_and_one_precision_and_of_its_own_networks() -> None:
    def all_of(ms: float, **way: Any) -> list[Record]:
        return [one.model_copy(update={"times": records.Times(runs=9, median_ms=ms)} | way) for one in PHONE]

    def total(brought: list[Record]) -> float | None:
        return values(device_latency.phone_rows(brought)).get(("iphone15pro-mobilediffusion-1", "total_ms"))

    cpu, gpu = all_of(100, accelerator="CPU", precision="fp16"), all_of(10, accelerator="GPU", precision="fp16")
    assert total(cpu + gpu) == 30
    assert total(gpu + cpu) == 300  # of several the last
    assert total(cpu + gpu[:2]) == 300  # where most parts are
    assert total(cpu[:2] + gpu[2:]) is None  # never a sum of both
    other = cpu[0].model_copy(update={"model": "shapes-1", "times": records.Times(runs=9, median_ms=1)})
    small = [one.model_copy(update={"resolution": 128}) for one in all_of(2, accelerator="CPU", precision="fp16")]
    assert total([*cpu, other, *small[1:]]) == 300
    rows = device_latency.phone_rows([one.model_copy(update={"resolution": 512}) for one in cpu])
    assert all("512 px" in row.protocol for row in rows)


def test_records_of_a_file_or_a_folder(tmp_path: Path) -> None:
    assert phones.load("none") == []
    records.save(tmp_path / "a.json", PHONE[:1])
    records.save(tmp_path / "b.json", PHONE[1:])
    assert phones.load(str(tmp_path)) == PHONE
    assert phones.load(str(tmp_path / "b.json")) == PHONE[1:]
    assert phones.files(str(tmp_path)) == []  # no path of one machine in a result
    (tmp_path / "none").mkdir()
    with pytest.raises(BadInput, match="expected a file of latency records, or a folder"):
        phones.load(str(tmp_path / "none"))


def test_what_is_not_allowed_is_named() -> None:
    assert host_latency.select(["all"]) == list(systems.exports())
    assert host_latency.select(["sd15", "text-encoder"]) == ["text-encoder", "sd15"]
    with pytest.raises(BadInput, match="allowed: text-encoder, sd15, snapfusion,"):
        host_latency.select(["sdxl"])
    bounds: dict[str, Any] = {"runs": 1, "seconds": 0, "most": None, "rounds": 1}
    with pytest.raises(BadInput, match="must be 1 to"):
        host_latency.measure([], precision="fp16", resolution=64, threads=10_000, **bounds)


def test_networks_are_measured_in_rounds_from_kept_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "x.tflite").write_bytes(b"x")
    kept = exported.Kept(tmp_path / "x.tflite", {"bytes": 1, "parity": {"psnr_db": 70.0}, "seconds": {"a": 1.0}})
    calls: list[tuple[Path, int, float | None]] = []

    def run(file: Path, threads: int, *, runs: int, seconds: float, most: float | None) -> host.ProcessReport:
        calls.append((file, runs, most))
        return told([len(calls) * 10.0] * runs)

    monkeypatch.setattr(exported, "find", lambda *_: kept)
    monkeypatch.setattr(host, "run", run)
    wanted = host_latency.pieces(["text-encoder", "sd15"], branches=2)
    assert wanted == [Piece("text-encoder"), Piece("sd15", 2)]
    found = host_latency.measure(
        wanted, precision="fp16", resolution=128, threads=1, runs=3, seconds=0, most=7, rounds=2
    )
    assert len(calls) == 4
    assert calls[0][1:] == (3, 7)
    assert found[Piece("text-encoder")].times_ms == (10, 10, 10, 30, 30, 30)  # the other one between its rounds
    one = found[Piece("sd15", 2)]
    assert (one.ms, one.record.batch, one.record.resolution, one.rounds) == (30, 2, 128, 2)
    assert one.record.macs == 2 * one.cost.macs
    assert one.state["share"] == pytest.approx(one.gmacs / 0.03 / PEAK)


def test_a_broken_export_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the export of sd15 unet was killed by signal 9")

    monkeypatch.setattr(exported, "find", lambda *_: None)
    monkeypatch.setattr(exported, "get", broken)
    bounds: dict[str, Any] = {"threads": 1, "runs": 1, "seconds": 0, "most": None, "rounds": 1}
    with pytest.raises(RuntimeError, match="signal 9; to measure without it, name the others in `networks`"):
        host_latency.measure([Piece("sd15")], precision="fp16", resolution=128, **bounds)

    def missing(*_: Any) -> None:
        raise NotAttempted("export needs litert_torch")

    monkeypatch.setattr(exported, "get", missing)
    with pytest.raises(NotAttempted, match=r"litert_torch$"):
        host_latency.measure([Piece("sd15")], precision="fp16", resolution=128, **bounds)


def test_figures_show_every_network_and_every_image() -> None:
    found = by_work(host_latency.pieces(systems.exports()))
    work = host_figures.against_work(found)
    texts = {text.get_text() for text in work.axes[0].texts}
    assert {"SD-1.5", "MobileDiffusion", "CLIP ViT-L/14"} <= texts
    assert len(work.axes[0].texts) == len(found)
    line = next(line for line in work.axes[0].lines if line.get_label() == f"a matrix product's {PEAK:.0f} GMAC/s")
    gmacs, ms = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    assert gmacs / ms * 1000 == pytest.approx([PEAK, PEAK])
    whole = host_figures.of_an_image(IMAGES, found)
    left, right = whole.axes
    assert {text.get_text() for text in left.get_yticklabels()} == {image.title for image in IMAGES.values()}
    assert sum(bar.get_width() for bar in left.patches if bar.get_height() > 0.5) == pytest.approx(500)
    assert len([text for text in right.texts if text.get_text().endswith(" s")]) == 5
    host_figures.of_an_image(IMAGES, {})  # nothing is shown, and nothing breaks
    host_figures.against_work(by_work([Piece("sd-decoder")]))


def test_images_at_50_8_and_1_steps() -> None:
    frame = host_latency.at_steps(IMAGES.values(), TEN)
    assert frame.loc["sd15 with sd-decoder", "1 step, s"] == pytest.approx(0.38)
    assert frame.loc["mobilediffusion with mobilediffusion-decoder-lite", "50 steps with guidance, s"] == 10.05


def test_notebook_runs_to_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_latency, "measure", stubbed)
    monkeypatch.setattr(host_latency, "keep", lambda *_: None)
    monkeypatch.setattr(device_latency, "prepare", lambda *_: None)
    monkeypatch.setattr(device_latency, "against_torch", lambda found, **named: [])
    rows, figures = recorded(TABLE, monkeypatch, resolution=128)
    complete(ledger.find(TABLE), rows)
    assert {row.row for row in rows} == set(IMAGES)
    assert figures == ["work", "image"]
    assert claims(rows)["lite-decoder-halves-latency"] == "does not hold"  # by the work alone it takes a quarter
