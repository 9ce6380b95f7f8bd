"""Full-size networks measured on this machine, and images composed of them; what both tables of latencies share.

An image costs ``branches`` runs of the text encoder, ``steps`` times ``branches`` evaluations of the denoiser and one
run of the decoder, as in `mdrepro.models.systems`. Every part is measured alone; an image's time is the sum.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mdrepro.core.errors import NotAttempted, select_all
from mdrepro.core.paths import runs as runs_folder
from mdrepro.evaluation.rows import Row
from mdrepro.latency import host, records
from mdrepro.latency.file_metadata import FileMetadata
from mdrepro.latency.records import Record
from mdrepro.metrics.cost.measure import calculate
from mdrepro.metrics.cost.quantities import Cost
from mdrepro.metrics.jackknife import Interval
from mdrepro.models import presets, systems
from mdrepro.reproduce.workflow import exported
from mdrepro.reproduce.workflow.exported import Kept, Piece
from mdrepro.reproduce.workflow.folders import changed, key
from mdrepro.reproduce.workflow.record import job


@dataclass(frozen=True)
class Measured:
    """One network's latency here.

    Args:
        piece, cost: which network, at which batch; its cost at batch 1.
        record, state: the latency, and how the machine was; see `mdrepro.latency.host.record`.
        times_ms: each run that counts.
        kept, rounds: the file that ran, in so many processes one after the other.
    """

    piece: Piece
    cost: Cost
    record: Record
    times_ms: tuple[float, ...]
    state: Mapping[str, float]
    kept: Kept
    rounds: int

    @property
    def ms(self) -> float:
        """The median."""
        return float(np.median(self.times_ms))

    @property
    def gmacs(self) -> float:
        """10^9 multiply-accumulates of one run, all branches."""
        return self.piece.branches * self.cost.macs / 1e9

    @property
    def protocol(self) -> str:
        """How it was measured, in a sentence."""
        one, state = self.record, self.state
        preset = presets.get(self.piece.network)
        size = f", {one.resolution} px" if preset.kind != "text encoder" else f", {preset.context_tokens} tokens"
        batch = f", batch {one.batch}" if preset.kind == "denoiser" else ""
        share = f"{state['gmacs']:.1f} GMAC/s, {state['share']:.0%} of a matrix product's in the same run"
        return (
            f"{preset.network} ({self.piece.network}), full size, random weights{size}{batch}; {one.runtime}, XNNPACK, "
            f"{one.precision} weights, {exported.ARITHMETIC[one.precision]}, pinned to {one.threads} "
            f"core{'s' * (one.threads != 1)} of {one.device.name}; median of {len(self.times_ms)} runs in "
            f"{self.rounds} processes, each after {host.WARM_UP} to warm up; load {state['load_before']:.1f} before, "
            f"{state['load_after']:.1f} after; {share}; file {one.model_sha256[:12]}, "
            f"{self.kept.psnr_db:.1f} dB from torch"
        )


Measurements = Mapping[Piece, Measured]
Terms = Sequence[tuple[float, Measured]]
"""Networks, each with how often it runs."""


def select(wanted: Sequence[str], among: Iterable[str] | None = None) -> list[str]:
    """Networks by preset, ``all`` standing for every one of ``among``; in their order, each once. Raises BadInput."""
    return select_all("network to export", wanted, systems.exports() if among is None else among)


def pieces(networks: Iterable[str], branches: int = 1) -> list[Piece]:
    """Networks as they are exported, denoisers at a batch of so many branches."""
    known = systems.exports()
    return [Piece(name, branches if known[name][1] == "unet" else 1) for name in networks]


def measure(
    wanted: Sequence[Piece],
    *,
    precision: str,
    resolution: int,
    threads: int,
    runs: int,
    seconds: float,
    most: float | None,
    rounds: int,
) -> dict[Piece, Measured]:
    """Export what is not kept yet, then measure all networks one after the other, so many times over.

    Args:
        precision, resolution: of the weights, one of `exported.ARITHMETIC`; of the image, px.
        threads: and cores that each process is pinned to.
        runs, seconds, most: of one network in one round, as for `mdrepro.latency.host.run`.
        rounds: what slows the machine for minutes meets not one network alone.

    Raises:
        BadInput: more threads than cores, a resolution that a network cannot take, or one that cannot be exported.
        NotAttempted: a package is missing.
        RuntimeError: the export of one broke.
    """
    host.cores(threads)
    costs = {piece: calculate(piece.network, resolution) for piece in wanted}
    kept = {}
    for piece in wanted:
        there = exported.find(piece, precision, resolution)
        try:
            kept[piece] = there or exported.get(piece, precision, resolution)
        except NotAttempted:
            raise
        except RuntimeError as error:
            raise RuntimeError(f"{error}; to measure without it, name the others in `networks`") from error
        report = kept[piece].report
        how = "kept" if there else f"{sum(report['seconds'].values()):.0f} s to export"
        print(f"{piece.title}: {report['bytes'] / 1e6:.0f} MB, {kept[piece].psnr_db:.1f} dB, {how}", flush=True)
    reports: dict[Piece, list[host.ProcessReport]] = {piece: [] for piece in wanted}
    for number in range(1, rounds + 1):
        for piece in wanted:
            print(f"round {number}: timing {piece.title}; no other line until it ends", flush=True)
            now = host.run(kept[piece].file, threads, runs=runs, seconds=seconds, most=most)
            reports[piece].append(now)
            middle = 1000 * float(np.median(now["seconds"]))
            print(f"round {number}: {piece.title}: {middle:.4g} ms, {len(now['seconds'])} runs", flush=True)
    found = {}
    for piece, cost in costs.items():
        file, of_rounds = kept[piece], reports[piece]
        record, state = record_of(piece, cost, of_rounds, threads, file=file.file, precision=precision)
        times = tuple(1000 * each for one in of_rounds for each in one["seconds"])
        found[piece] = Measured(piece, cost, record, times, state, file, rounds)
    return found


def record_of(
    piece: Piece, cost: Cost, reports: Sequence[host.ProcessReport], threads: int, *, precision: str, **options: Any
) -> tuple[Record, dict[str, float]]:
    """The record of a network's runs, and how the machine was; ``options`` as for `mdrepro.latency.host.record`."""
    component: Any = piece.component
    network = FileMetadata(piece.model, component, precision, piece.branches, cost.resolution)
    return host.record(reports, threads, network, macs=piece.branches * cost.macs, **options)


def keep(table: str, measurements: Measurements) -> None:
    """Write the records to ``papermill_runs/latency/<table>.json``, for ``--set records=FILE`` and others to read.

    Those of a run with other parameters than its tier's defaults go to ``<table>-<key>.json``.
    """
    values = job().get("parameters", {})
    other = values and changed(values["tier"], table, values)
    name = f"{table}-{key(values)}" if other else table
    records.save(runs_folder() / "latency" / f"{name}.json", [one.record for one in measurements.values()])


@dataclass(frozen=True)
class Image:
    """How an image is made, by networks' presets.

    ``branches``: 2 with guidance, which also runs the text encoder twice; 1 without.
    """

    title: str
    text_encoder: str
    unet: str
    decoder: str
    steps: int
    branches: int

    def counts(self) -> dict[str, int]:
        """How often each network runs, a denoiser's evaluations being of one branch."""
        return {self.text_encoder: self.branches, self.unet: self.steps * self.branches, self.decoder: 1}

    @classmethod
    def of_system(cls, name: str, steps: int, *, full_decoder: bool = False) -> Self:
        """A published system's image at one of its schedules; ``full_decoder`` for that of its own autoencoder."""
        system = systems.get(name)
        encoder, unet, decoder = system.parts
        title = f"{system.title}, {steps} step{'s' * (steps > 1)}"
        if full_decoder:
            assert system.autoencoder is not None
            decoder, title = system.autoencoder.decoder, title.replace(",", ", full decoder,")
        return cls(title, encoder, unet, decoder, steps, system.schedule(steps).branches)

    @property
    def schedule(self) -> str:
        """Steps and branches."""
        return f"{self.steps} step{'s' * (self.steps > 1)}{' with guidance' if self.branches == 2 else ''}"


def combine(terms: Terms) -> Interval:
    """A sum of medians with factors, and its interval from resampling each network's runs."""
    return _interval(_sum(terms), _resampled(terms), terms)


def quotient(above: Terms, below: Terms) -> Interval:
    """The ratio of two sums as `combine` makes them, of networks that were measured apart."""
    return _interval(_sum(above) / _sum(below), _resampled(above) / _resampled(below, 100), [*above, *below])


def _sum(terms: Terms) -> float:
    return sum(factor * one.ms for factor, one in terms)


def _resampled(terms: Terms, seed: int = 0) -> NDArray[np.float64]:
    drawn = [factor * host.medians(one.times_ms, number) for number, (factor, one) in enumerate(terms, seed)]
    return np.sum(drawn, axis=0)


def _interval(value: float, drawn: NDArray[np.float64], terms: Terms) -> Interval:
    return around(value, *host.interval(drawn), min(len(one.times_ms) for _, one in terms))


def around(value: float, low: float, high: float, runs: int) -> Interval:
    """A value of so many runs with the interval that holds it."""
    return Interval(value, min(low, value), max(high, value), runs)


def parts(image: Image, measurements: Measurements) -> list[tuple[float, Measured]] | None:
    """An image's networks with how often each runs, both branches at once half as often; None where one is missing."""
    found = [(count, measured(network, measurements, image.branches)) for network, count in image.counts().items()]
    terms = [(count / one.piece.branches, one) for count, one in found if one]
    return terms if len(terms) == len(found) else None


def measured(network: str, measurements: Measurements, branches: int = 1) -> Measured | None:
    """A network as measured, a guided denoiser with both branches at once where that was measured."""
    known = [piece for piece in measurements if piece.network == network and piece.branches <= branches]
    return measurements[max(known)] if known else None


def absent(row: str, column: str, needed: Iterable[str], measurements: Measurements) -> Row:
    """A row that says which of the networks that it needs were not measured."""
    there = {piece.network for piece in measurements}
    missing = ", ".join(name for name in needed if name not in there)
    return Row.absent(row, column, f"not among `networks`: {missing}")


def sum_protocol(image: Image, terms: Terms) -> str:
    """How an image's time was composed, in a sentence."""
    counted = " + ".join(f"{factor:g} x {one.piece.title} ({one.ms:.4g} ms)" for factor, one in terms)
    return (
        f"composed of measured parts, {image.schedule}: {counted}; sampler and copies left out; {terms[0][1].protocol}"
    )


def summary(measurements: Measurements) -> pd.DataFrame:
    """All networks that were measured, for people."""
    lines = [
        {
            "network": piece.title,
            "ms": one.ms,
            "95 %": f"{one.record.times.low_ms:.4g} to {one.record.times.high_ms:.4g}",
            "p90": one.record.times.p90_ms,
            "runs": one.record.times.runs,
            "first, ms": one.record.times.first_ms,
            "load, ms": one.record.times.load_ms,
            "GMAC": one.gmacs,
            "GMAC/s": one.state["gmacs"],
            "of a product's": one.state["share"],
            "memory, MB": one.record.memory_mb,
            "while loading, MB": one.state["loading_mb"],
            "file, MB": one.kept.report["bytes"] / 1e6,
            "dB from torch": one.kept.psnr_db,
        }
        for piece, one in measurements.items()
    ]
    return pd.DataFrame(lines).set_index("network") if lines else pd.DataFrame()


def at_steps(images: Iterable[Image], measurements: Measurements) -> pd.DataFrame:
    """Seconds for one image of each system at 50 and 8 guided steps and at one step without guidance."""
    lines: dict[str, dict[str, float]] = {}
    for image in images:
        for steps, branches in ((50, 2), (8, 2), (1, 1)):
            now = replace(image, steps=steps, branches=branches)
            if terms := parts(now, measurements):
                line = lines.setdefault(f"{image.unet} with {image.decoder}", {})
                line[f"{now.schedule}, s"] = combine(terms).value / 1000
    return pd.DataFrame(lines).T
