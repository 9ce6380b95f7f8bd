"""Table ``snapfusion-latency-breakdown``: SnapFusion and SD-1.5 part by part on this machine; rows."""

from collections.abc import Mapping, Sequence

from mdrepro.evaluation.rows import Row
from mdrepro.latency.records import Record
from mdrepro.metrics.jackknife import Interval
from mdrepro.reproduce.tables import host_latency, phones
from mdrepro.reproduce.tables.host_latency import Image, Measured, Measurements, absent, combine, measured, quotient
from mdrepro.reproduce.workflow.exported import Piece

TABLE = "snapfusion-latency-breakdown"
_SD15, _OURS = Image.of_system("sd15", 50), Image.of_system("snapfusion", 8)
IMAGES: Mapping[str, Image] = {"host-sd15-image": _SD15, "host-ours-image": _OURS}
NETWORKS = tuple(dict.fromkeys(network for image in IMAGES.values() for network in image.counts()))
"""What the table rests on."""
UNETS: Mapping[str, Image] = {"host-sd15-unet": _SD15, "host-ours-unet": _OURS}
"""Rows of the denoisers, each with the image that it is part of."""
ONCE: Mapping[str, tuple[str, int]] = {
    "host-text-encoder": (_OURS.text_encoder, _OURS.branches),
    "host-sd15-decoder": (_SD15.decoder, 1),
    "host-ours-decoder": (_OURS.decoder, 1),
}
"""Rows of the other networks: which, and how often one image runs it."""
PHONES: Mapping[str, phones.Place] = {
    f"{phone}-ours-image": phones.Place((phone,), _OURS, "a step covers both guidance branches", batch=2)
    for phone in ("iphone14pro", "iphone13promax", "iphone12promax")
}
"""Rows of phones that measured records can fill."""


def rows(measurements: Measurements) -> list[Row]:
    """Parameters, latency, runs and memory of each network, and the whole images."""
    cells = []
    for row, (network, count) in ONCE.items():
        one = measurements.get(Piece(network))
        cells += _network(row, count, one, 1) if one else _absent(row, network, measurements)
    for row, image in UNETS.items():
        one = measured(image.unet, measurements, image.branches)
        cells += _network(row, image.steps, one, image.branches) if one else _absent(row, image.unet, measurements)
        if one:
            protocol = f"peak resident memory of the process while it ran, after loading; {one.protocol}"
            cells.append(Row(row, "batch", one.piece.branches, one.protocol))
            cells.append(Row(row, "memory_mb", one.record.memory_mb, protocol))
    cells += _against(measurements)
    for row, image in IMAGES.items():
        cells += _image(row, image, measurements)
    return cells


def _absent(row: str, network: str, measurements: Measurements) -> list[Row]:
    return [absent(row, column, [network], measurements) for column in ("latency_ms", "params")]


def _network(row: str, count: int, one: Measured, branches: int) -> list[Row]:
    """Rows of one network: its size, one run, and the ``count`` runs that an image takes.

    A run stands for so many ``branches``, all in one evaluation or one after the other.
    """
    times = branches / one.piece.branches
    both = "both branches in one evaluation" if times == 1 else f"one branch, counted {times:g} times"
    protocol = f"a step: {both}; {one.protocol}" if branches > 1 else one.protocol
    return [
        Row(row, "params", one.cost.params / 1e6, f"all parameters of {one.piece.network}, by its closed form"),
        Row.measured(row, "latency_ms", combine([(times, one)]), protocol),
        Row(row, "runs", count, "SnapFusion, Table 1"),
        Row.measured(row, "total_ms", combine([(count * times, one)]), f"{count} runs; {protocol}"),
    ]


def _against(measurements: Measurements) -> list[Row]:
    """How many times faster ours are, and the memory that the denoiser saves."""
    cells = []
    theirs, ours = (measurements.get(Piece(image.decoder)) for image in (_SD15, _OURS))
    if theirs and ours:
        protocol = f"time of SD's decoder over that of the half-width one; {ours.protocol}"
        cells.append(Row.measured("host-ours-decoder", "speedup", quotient([(1, theirs)], [(1, ours)]), protocol))
    theirs, ours = (measured(image.unet, measurements, image.branches) for image in (_SD15, _OURS))
    if theirs and ours:
        above, below = (
            [(image.steps * image.branches / one.piece.branches, one)]
            for image, one in ((_SD15, theirs), (_OURS, ours))
        )
        protocol = f"{_SD15.steps} steps of SD-1.5's denoiser over {_OURS.steps} of SnapFusion's; {ours.protocol}"
        cells.append(Row.measured("host-ours-unet", "speedup", quotient(above, below), protocol))
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
    (_, text), (evaluations, unet), (_, decoder) = terms
    whole, step = combine(terms), combine([(evaluations / image.steps, unet)])
    seconds = Interval(whole.value / 1000, whole.low / 1000, whole.high / 1000, whole.n)
    return [
        Row.measured(row, "text_encoder_ms", combine([(1, text)]), text.protocol),
        Row.measured(row, "unet_ms", step, f"a step, both branches; {unet.protocol}"),
        Row.measured(row, "decoder_ms", combine([(1, decoder)]), decoder.protocol),
        Row.measured(row, "image_s", seconds, host_latency.sum_protocol(image, terms)),
    ]


def phone_rows(brought: Sequence[Record]) -> list[Row]:
    """What records measured on phones say of their rows."""
    return phones.rows(brought, PHONES, ("text_encoder_ms", "unet_ms", "decoder_ms"), "image_s")
