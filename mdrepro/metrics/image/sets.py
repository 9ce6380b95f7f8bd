"""Metrics of a set of generated images: against real ones on an encoder's features, and against captions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdrepro.core.errors import BadInput, unknown
from mdrepro.metrics.image import features, frechet, images, kernel, manifold
from mdrepro.metrics.image.clip_score import SCALES, clip_score, cosines
from mdrepro.metrics.image.encoders import Encoder
from mdrepro.metrics.image.features import FeatureSet
from mdrepro.metrics.image.scores import Score
from mdrepro.metrics.image.statistics import Statistics

METRICS = ("fid", "kid", "fd-infinity", "precision", "recall", "clip-score")
SINGLE = ("kid", "fd-infinity", "precision", "recall")
"""Metrics that need each generated image's features; those of the reference need all of them but FD-infinity."""


@dataclass(frozen=True)
class Options:
    """How to measure.

    Args:
        few: take sets that are too small, and mark the numbers.
        resamples: of the bootstrap of FID; 0 for no interval, as 2,048 features take a second each.
        seed: of all draws.
        scale: of the CLIP score, a row of `SCALES`.
        batch, readers: as `mdrepro.metrics.image.features.extract`.
    """

    few: bool = False
    resamples: int = 0
    seed: int = 0
    scale: str = "cosine"
    batch: int = features.BATCH
    readers: int = images.READERS


def evaluate(
    real: Path | None,
    generated: Path,
    metrics: Sequence[str],
    *,
    encoder: Encoder | None = None,
    clip: Encoder | None = None,
    captions: Sequence[str] | None = None,
    options: Options | None = None,
) -> list[Score]:
    """Scores of a folder of generated images, which is read once.

    Args:
        real: a folder, or a file of statistics (`Statistics.save`), which serves FID and FD-infinity alone; None where
            only the CLIP score is wanted.
        generated: the folder.
        metrics: of `METRICS`.
        encoder: whose features all metrics but the CLIP score compare.
        clip: whose features the CLIP score compares; a CLIP.
        captions: one for each generated image, in the order of the files' names.
        options: how to measure.

    Raises:
        BadInput: an unknown metric, images that cannot be taken, too few images (the message states the least number),
            another number of captions than images, or statistics of another convention.
    """
    how, wanted = options or Options(), list(dict.fromkeys(metrics))
    for name in wanted:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    compared = [name for name in wanted if name != "clip-score"]
    files = images.files(generated)
    encoders: dict[str, Encoder] = {}
    if "clip-score" in wanted:
        captions, clip = check_captions(captions, clip, len(files), generated)
        encoders["clip"] = clip
    reference = None
    if compared:
        if encoder is None or real is None:
            raise BadInput(f"{', '.join(compared)}: an encoder and real images are needed")
        encoders["clip" if encoder is clip else "compared"] = encoder
        reference = _reference(real, encoder, compared, len(files), how)
    single = [name for name in encoders if name == "clip" or how.resamples or set(compared) & set(SINGLE)]
    extracted = features.extract(files, encoders, keep=single, batch=how.batch, readers=how.readers)
    scores: dict[str, Score] = {}
    if encoder is not None and reference is not None:
        ours = extracted.get("compared", extracted.get("clip"))
        assert ours is not None
        scores = {name: MEASURES[name](encoder, reference, ours, how) for name in compared}
    if "clip" in encoders and captions is not None and "clip-score" in wanted:
        scores["clip-score"] = clip_scores(encoders["clip"], extracted["clip"], captions, [how.scale], how.seed)[
            how.scale
        ]
    return [scores[name] for name in wanted]


def clip_scores(
    clip: Encoder, images: FeatureSet, captions: Sequence[str], scales: Sequence[str], seed: int = 0
) -> dict[str, Score]:
    """The CLIP score of images' kept features under several scales."""
    assert clip.network.texts is not None
    texts = clip.network.texts(captions)
    values = cosines(images.array(), texts.features)
    scores = {}
    for scale in scales:
        interval = clip_score(values, scale, seed=seed)
        cut = f"; {texts.cut} captions cut to {texts.tokens} tokens, end token kept" if texts.cut else ""
        details = f"{SCALES[scale].what}; {protocol(clip)}{cut}"
        scores[scale] = Score(
            "clip-score",
            f"CLIP score ({scale})",
            interval.value,
            interval.n,
            details,
            None,
            interval.low,
            interval.high,
        )
    return scores


def _reference(real: Path, encoder: Encoder, metrics: Sequence[str], n: int, how: Options) -> FeatureSet:
    """The real images' features, or their statistics from a file, once there are enough images of both kinds."""
    whole = [name for name in metrics if name in SINGLE and name != "fd-infinity"]
    if not real.is_file():
        files = images.files(real)
        check_numbers(metrics, encoder, len(files), n, how)
        keep = ["real"] if whole else []
        return features.extract(files, {"real": encoder}, keep=keep, batch=how.batch, readers=how.readers)["real"]
    if whole:
        raise BadInput(f"{', '.join(whole)}: the real images themselves are needed, not statistics of them")
    known = Statistics.load(real)
    known.convention.agree(encoder.convention)
    check_numbers(metrics, encoder, known.n, n, how)
    return FeatureSet(known)


def check_numbers(metrics: Sequence[str], encoder: Encoder, n_real: int, n: int, how: Options) -> None:
    """Before hours of work: whether the sets are large enough. Raises BadInput that states the least number."""
    width = encoder.network.width
    least = {
        "fid": 2 if how.few else width + 1,
        "kid": 2 if how.few else kernel.SUBSET_SIZE,
        "precision": manifold.NEIGHBOUR + 1,
        "recall": manifold.NEIGHBOUR + 1,
        "fd-infinity": 2 * (width + 1),
    }
    for name in metrics:
        small = n if name == "fd-infinity" else min(n_real, n)
        if small < least[name]:
            override = "; --few takes fewer, and marks the number" if name in ("fid", "kid") and not how.few else ""
            raise BadInput(
                f"{name} of {width} features needs at least {least[name]} images"
                f"{'' if name == 'fd-infinity' else ' in each set'}, got {n_real} real and {n} generated{override}"
            )
    if "fd-infinity" in metrics and n_real < width + 1:
        raise BadInput(f"fd-infinity needs at least {width + 1} real images, got {n_real}")


def check_captions(
    captions: Sequence[str] | None, clip: Encoder | None, n: int, folder: Path
) -> tuple[Sequence[str], Encoder]:
    """Captions and encoder of a CLIP score, once they are there. Raises BadInput where they are not, or do not fit."""
    if clip is None or clip.network.texts is None:
        raise BadInput("clip-score: a CLIP encoder is needed: expected clip and open-clip")
    if captions is None:
        raise BadInput("clip-score: captions are needed, one for each generated image")
    if len(captions) != n:
        raise BadInput(f"{folder} holds {n} images, and there are {len(captions)} captions: one for each is needed")
    return captions, clip


def protocol(encoder: Encoder) -> str:
    """All that features depend on, for people."""
    checked = encoder.network.weights
    doubt = ", which is NOT the published file" if checked.published is False else ""
    return f"{encoder.network.what}, {encoder.preparation}, weights {checked.name} with SHA-256 {checked.sha256}{doubt}"


def _fid(encoder: Encoder, reference: FeatureSet, generated: FeatureSet, how: Options) -> Score:
    distance = frechet.distance(reference.statistics, generated.statistics, few=how.few)
    low = high = None
    if how.resamples:
        interval = frechet.distance_interval(
            reference.statistics, generated.array(), few=how.few, seed=how.seed, resamples=how.resamples
        )
        low, high = interval.low, interval.high
    sizes = distance.n, protocol(encoder), distance.n_reference
    return Score("fid", encoder.row.label, distance.value, *sizes, low, high, biased=distance.biased)


def _bracket(name: str, encoder: Encoder) -> str:
    return name if encoder.row.label == "FID" else f"{name} ({encoder.row.name})"


def _kid(encoder: Encoder, reference: FeatureSet, generated: FeatureSet, how: Options) -> Score:
    x, y = reference.array(), generated.array()
    small = min(len(x), len(y)) < kernel.SUBSET_SIZE
    if small:
        value, draw = kernel.kernel_distance(x, y), "all pairs, as there are fewer images than a subset has"
    else:
        blocks = kernel.block_kernel_distance(x, y)
        value, draw = blocks.mean, f"{blocks.subsets} subsets of {blocks.size}, standard deviation {blocks.std:.4g}"
    name, details = _bracket("KID", encoder), f"{draw}; {protocol(encoder)}"
    return Score("kid", name, value, len(y), details, len(x), biased=small)


def _infinity(encoder: Encoder, reference: FeatureSet, generated: FeatureSet, how: Options) -> Score:
    line = frechet.infinity(reference.statistics, generated.array(), seed=how.seed)
    details = f"line through {len(line.sizes)} sizes from {line.sizes[0]} on; {protocol(encoder)}"
    name = f"{encoder.row.label}∞" if encoder.row.label == "FID" else f"{encoder.row.label} at infinity"
    return Score("fd-infinity", name, line.value, generated.statistics.n, details, reference.statistics.n)


def _manifold(which: str) -> Callable[[Encoder, FeatureSet, FeatureSet, Options], Score]:
    def measure(encoder: Encoder, reference: FeatureSet, generated: FeatureSet, how: Options) -> Score:
        x, y = reference.array(), generated.array()
        both = manifold.precision_recall(x, y)
        name, details = f"{which} ({encoder.row.name})", f"k = {both.k}; {protocol(encoder)}"
        return Score(which, name, getattr(both, which), both.n, details, both.n_real)

    return measure


MEASURES: Mapping[str, Callable[[Encoder, FeatureSet, FeatureSet, Options], Score]] = {
    "fid": _fid,
    "kid": _kid,
    "fd-infinity": _infinity,
    "precision": _manifold("precision"),
    "recall": _manifold("recall"),
}
