"""Table ``snapfusion-latency-breakdown``: SnapFusion and SD-1.5 part by part on this machine; rows."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mdrepro.evaluation.rows import Row
from mdrepro.latency.records import Record
from mdrepro.metrics.bootstrap import Interval
from mdrepro.reproduce.tables import host_latency, phones
from mdrepro.reproduce.tables.host_latency import Image, Measured, Measurements, absent
from mdrepro.reproduce.workflow.exported import Piece

TABLE = "snapfusion-latency-breakdown"
IMAGES: Mapping[str, Image] = MappingProxyType(
    {"host-sd15-image": Image.of_system("sd15", 50), "host-ours-image": Image.of_system("snapfusion", 8)}
)
NETWORKS = tuple(dict.fromkeys(network for image in IMAGES.values() for network in image.counts()))
"""What the table rests on."""
_OURS, _SD15 = IMAGES["host-ours-image"], IMAGES["host-sd15-image"]
UNETS: Mapping[str, Image] = MappingProxyType({"host-sd15-unet": _SD15, "host-ours-unet": _OURS})
"""Rows of the denoisers, each with the image that it is part of."""
ONCE: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        "host-text-encoder": (_OURS.text_encoder, _OURS.branches),
        "host-sd15-decoder": (_SD15.decoder, 1),
        "host-ours-decoder": (_OURS.decoder, 1),
    }
)
"""Rows of the other networks: which, and how often one image runs it."""
_NOTE = "a step covers both guidance branches"
PHONES: Mapping[str, phones.Place] = MappingProxyType(
    {
        f"{phone}-ours-image": phones.Place((phone,), _OURS, _NOTE, batch=2)
        for phone in ("iphone14pro", "iphone13promax", "iphone12promax")
    }
)
"""Rows of phones that measured records can fill."""


def rows(measurements: Measurements) -> list[Row]:
    """Parameters, latency, runs and memory of each network, and the whole images."""
    cells = []
    for row, (network, count) in ONCE.items():
        cells += _network(row, network, count, measurements.get(Piece(network)), 1, measurements)
    for row, image in UNETS.items():
        one = host_latency.measured(image.unet, measurements, image.branches)
        cells += _network(row, image.unet, image.steps, one, image.branches, measurements)
        if one:
            memory = one.record.memory_mb
            protocol = f"peak resident memory of the process while it ran, after loading; {one.protocol}"
            cells += [
                Row(row, "batch", one.piece.branches, one.protocol),
                Row(row, "memory_mb", memory, protocol),
            ]
    images = [one for row, image in IMAGES.items() for one in _image(row, image, measurements)]
    return cells + _against(measurements) + images


def _network(
    row: str, network: str, count: int, one: Measured | None, branches: int, measurements: Measurements
) -> list[Row]:
    """Rows of one network: its size, one run, and all that an image takes.

    Args:
        row, network: which.
        count: runs an image, a run of a denoiser being a step.
        one: as measured.
        branches: that a run stands for, all in one evaluation or one after the other.
        measurements: all that was measured.
    """
    if one is None:
        return [absent(row, column, [network], measurements) for column in ("latency_ms", "params")]
    times = branches / one.piece.branches
    both = "both branches in one evaluation" if times == 1 else f"one branch, counted {times:g} times"
    what = f"a step: {both}; " if branches > 1 else ""
    params = f"all parameters of {network}, by its closed form"
    return [
        Row(row, "params", one.cost.params / 1e6, params),
        Row.measured(row, "latency_ms", host_latency.combine([(times, one)]), what + one.protocol),
        Row(row, "runs", count, "SnapFusion, Table 1"),
        Row.measured(
            row, "total_ms", host_latency.combine([(count * times, one)]), f"{count} runs; {what}{one.protocol}"
        ),
    ]


def _against(measurements: Measurements) -> list[Row]:
    """How many times faster ours are, and the memory that the denoiser saves."""
    cells = []
    decoders = measurements.get(Piece(_SD15.decoder)), measurements.get(Piece(_OURS.decoder))
    if decoders[0] and decoders[1]:
        ratio = host_latency.quotient([(1, decoders[0])], [(1, decoders[1])])
        protocol = f"time of SD's decoder over that of the half-width one; {decoders[1].protocol}"
        cells.append(Row.measured("host-ours-decoder", "speedup", ratio, protocol))
    theirs, ours = (host_latency.measured(image.unet, measurements, image.branches) for image in (_SD15, _OURS))
    if theirs and ours:
        steps = [
            [(image.steps * image.branches / one.piece.branches, one)]
            for image, one in ((_SD15, theirs), (_OURS, ours))
        ]
        protocol = f"{_SD15.steps} steps of SD-1.5's denoiser over {_OURS.steps} of SnapFusion's; {ours.protocol}"
        cells.append(Row.measured("host-ours-unet", "speedup", host_latency.quotient(steps[0], steps[1]), protocol))
        assert theirs.record.memory_mb is not None
        assert ours.record.memory_mb is not None
        saved = 100 * (1 - ours.record.memory_mb / theirs.record.memory_mb)
        protocol = f"1 - memory of SnapFusion's denoiser over that of SD-1.5's, each while it ran; {ours.protocol}"
        cells.append(Row("host-ours-unet", "memory_saving", saved, protocol))
    return cells


def _image(row: str, image: Image, measurements: Measurements) -> list[Row]:
    """The three parts of a whole image, and its seconds."""
    terms = host_latency.parts(image, measurements)
    if terms is None:
        return [absent(row, "image_s", image.counts(), measurements)]
    protocol = host_latency.sum_protocol(image, terms)
    (_, text), (evaluations, unet), (_, decoder) = terms
    whole = host_latency.combine(terms)
    seconds = Interval(whole.value / 1000, whole.low / 1000, whole.high / 1000, whole.n)
    step = host_latency.combine([(evaluations / image.steps, unet)])
    return [
        Row.measured(row, "text_encoder_ms", host_latency.combine([(1, text)]), text.protocol),
        Row.measured(row, "unet_ms", step, f"a step, both branches; {unet.protocol}"),
        Row.measured(row, "decoder_ms", host_latency.combine([(1, decoder)]), decoder.protocol),
        Row.measured(row, "image_s", seconds, protocol),
    ]


def phone_rows(brought: Sequence[Record]) -> list[Row]:
    """What records measured on phones say of their rows."""
    return phones.rows(brought, PHONES, ("text_encoder_ms", "unet_ms", "decoder_ms"), "image_s")
