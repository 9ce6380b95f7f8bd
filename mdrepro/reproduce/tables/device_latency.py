"""Table ``mobilediffusion-device-latency``: images on this machine beside the paper's on phones; rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mdrepro.evaluation.rows import Row
from mdrepro.latency import host_torch
from mdrepro.latency.records import Record
from mdrepro.reproduce.tables import host_latency, phones
from mdrepro.reproduce.tables.host_latency import Image, Measurements, absent, around, combine, record_of
from mdrepro.reproduce.workflow import exported
from mdrepro.reproduce.workflow.exported import Kept, Piece

TABLE = "mobilediffusion-device-latency"
IMAGES: Mapping[str, Image] = {
    "host-mobilediffusion-1": Image.of_system("mobilediffusion", 1),
    "host-mobilediffusion-8": Image.of_system("mobilediffusion", 8),
    "host-mobilediffusion-full-decoder-1": Image.of_system("mobilediffusion", 1, full_decoder=True),
    "host-snapfusion-8": Image.of_system("snapfusion", 8),
    "host-sd15-50": Image.of_system("sd15", 50),
}
"""Rows of this machine: how each makes an image."""
ONE_STEP, EAGER = "host-mobilediffusion-1", "host-mobilediffusion-eager"
COMPARED = Piece("mobilediffusion")  # the network that torch runs too
INTEGER = "int8-dynamic"
"""The precision in which LiteRT runs it beside torch, in addition to the table's own."""
_GALAXIES = ("galaxys24", "galaxys23", "samsunggalaxys24", "samsunggalaxys23", "samsungs24", "samsungs23")
PHONES: Mapping[str, phones.Place] = {
    row: phones.Place(devices, IMAGES[ONE_STEP], "one step, no guidance")
    for row, devices in {"iphone15pro-mobilediffusion-1": ("iphone15pro",), "galaxy-s24": _GALAXIES}.items()
}
"""Rows of phones that measured records can fill."""


def rows(measurements: Measurements) -> list[Row]:
    """Each image's parts and whole on this machine."""
    cells = []
    for row, image in IMAGES.items():
        for column, network, what in (
            ("text_encoder_ms", image.text_encoder, "one run"),
            ("decoder_ms", image.decoder, "one run"),
            ("unet_ms_per_step", image.unet, "one evaluation of one guidance branch, of which a guided step takes two"),
        ):
            if one := measurements.get(Piece(network)):
                cells.append(Row.measured(row, column, combine([(1, one)]), f"{what}; {one.protocol}"))
            else:
                cells.append(absent(row, column, [network], measurements))
        cells.append(Row(row, "steps", image.steps, image.schedule))
        if terms := host_latency.parts(image, measurements):
            cells.append(Row.measured(row, "total_ms", combine(terms), host_latency.sum_protocol(image, terms)))
        else:
            cells.append(absent(row, "total_ms", image.counts(), measurements))
    return cells


@dataclass(frozen=True)
class Torch:
    """MobileDiffusion's UNet on LiteRT and in torch, run by run in turn.

    Args:
        litert, torch, states: records of both, and how the machine was; see `mdrepro.latency.host.record`.
        ratio: time of LiteRT over torch's, with its 95 % interval.
        way, kept: of torch, in words; the file that LiteRT ran.
        processes: that took turns, these two among them.
    """

    litert: Record
    torch: Record
    states: tuple[Mapping[str, float], Mapping[str, float]]
    ratio: tuple[float, float, float]
    way: str
    kept: Kept
    processes: int

    @property
    def protocol(self) -> str:
        """How it was measured, in a sentence."""
        (left, right), precision = self.states, self.litert.precision
        return (
            f"UNet of MobileDiffusion, full size, random weights, {self.torch.resolution} px, batch 1, "
            f"{self.torch.threads} threads each; {self.torch.runtime}, float32, and {self.litert.runtime}, XNNPACK, "
            f"{precision} weights, {exported.ARITHMETIC[precision]}, {self.kept.psnr_db:.1f} dB from torch, in a "
            f"process each, {self.processes} in turn, {self.torch.times.runs} rounds; load "
            f"{left['load_before']:.1f} before, {right['load_after']:.1f} after; "
            f"{right['gmacs']:.1f} GMAC/s in torch, {left['gmacs']:.1f} on LiteRT, "
            f"{max(left['peak_gmacs'], right['peak_gmacs']):.1f} in a matrix product"
        )


def against_torch(
    measurements: Measurements, *, ways: Sequence[str], resolution: int, threads: int, runs: int, most: float | None
) -> list[Torch]:
    """Time MobileDiffusion's UNet in torch and on LiteRT in turn; nothing where it was not measured.

    Each way of torch is timed beside LiteRT in the precision that was measured and in `INTEGER`.

    ``measurements``, ``resolution``, ``threads``: as of `host_latency.measure`. ``ways``: ``eager``, ``compiled`` or
    ``none``. ``runs``, ``most``: as for `host_torch.alternate`. Raises BadInput for a way that
    cannot run, and NotAttempted or RuntimeError as `prepare`.
    """
    one, wanted = measurements.get(COMPARED), _wanted(ways)
    if one is None or not wanted:
        return []
    files = {one.record.precision: one.kept, INTEGER: exported.get(COMPARED, INTEGER, resolution)}
    compared = []
    for way in wanted:
        ours = {precision: host_torch.litert(kept.file, precision) for precision, kept in files.items()}
        theirs = host_torch.torch(
            COMPARED.model, COMPARED.component, branches=1, resolution=resolution, compiled=way == "compiled"
        )
        reports = host_torch.alternate([*ours.values(), theirs], threads, runs=runs, most=most)
        of_torch, named = reports[theirs.name], {"accelerator": f"CPU, {theirs.name}", "precision": "fp32"}
        for precision, kept in files.items():
            report = reports[ours[precision].name]
            ran, state = record_of(COMPARED, one.cost, [report], threads, file=kept.file, precision=precision)
            again, other = record_of(COMPARED, one.cost, [of_torch], threads, **named)
            ratio = host_torch.ratio(report, of_torch)
            compared.append(Torch(ran, again, (state, other), ratio, theirs.name, kept, len(reports)))
    return compared


def prepare(chosen: Iterable[Piece], ways: Sequence[str], resolution: int) -> None:
    """Export what `against_torch` needs beside the table's own networks, so that it fails before anything is measured.

    Raises BadInput, NotAttempted or RuntimeError as `exported.get`; ``torch=none`` goes on without it.
    """
    if COMPARED in chosen and _wanted(ways):
        exported.get(COMPARED, INTEGER, resolution)


def _wanted(ways: Sequence[str]) -> list[str]:
    return [way for way in ("eager", "compiled") if way in ways]


def torch_rows(compared: Sequence[Torch]) -> list[Row]:
    """Torch's own time, and LiteRT's as a part of it, in floating point and in integers; of eager torch."""
    cells: list[Row] = []
    for one in (one for one in compared if one.way == "eager torch"):
        times = one.torch.times
        assert times.low_ms is not None
        assert times.high_ms is not None
        if not cells:
            took = around(times.ms, times.low_ms, times.high_ms, times.runs)
            cells.append(Row.measured(EAGER, "unet_ms_per_step", took, one.protocol))
        column = "integer_share_of_eager" if one.litert.precision == INTEGER else "share_of_eager"
        protocol = f"median over rounds of LiteRT's time over eager torch's of the same round; {one.protocol}"
        cells.append(Row.measured(ONE_STEP, column, around(*one.ratio, times.runs), protocol))
    return cells


def phone_rows(brought: Sequence[Record]) -> list[Row]:
    """What records measured on phones say of their rows."""
    return phones.rows(brought, PHONES, ("text_encoder_ms", "unet_ms_per_step", "decoder_ms"), "total_ms")
