"""Metrics of a set of generated images: against real ones on an encoder's features, and against captions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mdrepro.core.errors import BadInput, check
from mdrepro.metrics.image import features, frechet, images, kernel, manifold
from mdrepro.metrics.image.clip_score import SCALES, clip_score, cosines
from mdrepro.metrics.image.encoders import Encoder
from mdrepro.metrics.image.features import FeatureSet
from mdrepro.metrics.image.scores import Score
from mdrepro.metrics.image.statistics import Array, Convention, Statistics
from mdrepro.metrics.jackknife import Estimate

METRICS = ("fid", "kid", "fd-infinity", "precision", "recall", "clip-score", "hps")
TEXTS = ("clip-score", "hps")
"""Metrics of images and their captions."""
SINGLE = ("kid", "fd-infinity", "precision", "recall")
"""Metrics that need each generated image's features; all of them but FD-infinity need each real image's too."""


@dataclass(frozen=True)
class Options:
    """How to measure; ``batch``, ``readers`` and ``spread`` as for `mdrepro.metrics.image.features.extract`."""

    few: bool = False  # take sets that are too small, and mark the numbers
    interval: bool = False  # of FID over images: 51 distances in place of one, seconds each at 2,048 features
    seed: int = 0  # of FD-infinity's subsets
    scale: str = "cosine"  # of the CLIP score, a row of `SCALES`
    batch: int = features.BATCH
    readers: int = images.READERS
    spread: bool = False

    @property
    def reading(self) -> dict[str, Any]:
        """What `mdrepro.metrics.image.features.extract` takes of it."""
        return {"batch": self.batch, "readers": self.readers, "spread": self.spread}


def evaluate(
    real: Path | None,
    generated: Path,
    metrics: Sequence[str],
    *,
    encoder: Encoder | None = None,
    clip: Encoder | None = None,
    hps: Encoder | None = None,
    captions: Sequence[str] | None = None,
    options: Options | None = None,
) -> list[Score]:
    """Scores of a folder of generated images, which is read once.

    Args:
        real: a folder, or a file of statistics (`Statistics.save`), which serves FID and FD-infinity alone; None where
            only metrics of `TEXTS` are wanted.
        metrics: of `METRICS`.
        encoder: whose features all metrics but those of `TEXTS` compare; the CLIP score compares those of ``clip``, the
            Human Preference Score those of ``hps``.
        captions: one for each generated image, in the order of the files' names.

    Raises BadInput for an unknown metric, images that cannot be taken, too few images (the message states the least
    number), another number of captions than images, or statistics of another convention.
    """
    how, wanted = options or Options(), list(dict.fromkeys(metrics))
    for name in wanted:
        check("metric", name, METRICS)
    compared = [name for name in wanted if name not in TEXTS]
    files = images.files(generated)
    encoders: dict[str, Encoder] = {}
    for name, judge in (("clip-score", clip), ("hps", hps)):
        if name in wanted:
            captions, encoders[name] = check_captions(captions, judge, len(files), generated, name)
    reference, main = None, "clip-score" if encoder is encoders.get("clip-score") else "compared"
    if compared:
        if encoder is None or real is None:
            raise BadInput(f"{', '.join(compared)}: an encoder and real images are needed")
        encoders[main] = encoder
        reference = _reference(real, encoder, compared, len(files), how)
    single = [name for name in encoders if name in TEXTS or how.interval or set(compared) & set(SINGLE)]
    extracted = features.extract(files, encoders, keep=single, **how.reading)
    scores: dict[str, Score] = {}
    if reference is not None:
        scores = {name: MEASURES[name](encoders[main], reference, extracted[main], how) for name in compared}
    if "clip-score" in wanted:
        by_scale = clip_scores(encoders["clip-score"], extracted["clip-score"], captions or (), [how.scale])
        scores["clip-score"] = by_scale[how.scale]
    if "hps" in wanted:
        scores["hps"] = preference_score(encoders["hps"], extracted["hps"], captions or ())
    return [scores[name] for name in wanted]


def clip_scores(clip: Encoder, images: FeatureSet, captions: Sequence[str], scales: Sequence[str]) -> dict[str, Score]:
    """The CLIP score of images' kept features under several scales."""
    values, cut = _cosines(clip, images, captions)
    scores = {}
    for scale in scales:
        one = clip_score(values, scale)
        details, name = f"{SCALES[scale].what}; {protocol(clip)}{cut}", f"CLIP score ({scale})"
        scores[scale] = Score("clip-score", name, one.value, one.n, details, low=one.low, high=one.high)
    return scores


def preference_score(hps: Encoder, images: FeatureSet, captions: Sequence[str]) -> Score:
    """The Human Preference Score v2.1 of images' kept features: 100 cos, as hpsv2's benchmark prints it."""
    values, cut = _cosines(hps, images, captions)
    one = clip_score(100 * values)
    details = f"100 times the mean cosine; {protocol(hps)}{cut}"
    return Score("hps", "HPS v2.1", one.value, one.n, details, low=one.low, high=one.high)


def _cosines(encoder: Encoder, images: FeatureSet, captions: Sequence[str]) -> tuple[Array, str]:
    """Of images and their captions, (n,), and what to say of captions that were cut."""
    assert encoder.network.texts is not None
    texts = encoder.network.texts(captions)
    cut = f"; {texts.cut} captions cut to {texts.tokens} tokens, end token kept" if texts.cut else ""
    return cosines(images.array(), texts.features), cut


def _reference(real: Path, encoder: Encoder, metrics: Sequence[str], n: int, how: Options) -> FeatureSet:
    """The real images' features, or their statistics from a file, once there are enough images of both kinds."""
    whole = [name for name in metrics if name in SINGLE and name != "fd-infinity"]
    if not real.is_file():
        files = images.files(real)
        check_numbers(metrics, encoder, len(files), n, how)
        keep = ["real"] if whole else []
        return features.extract(files, {"real": encoder}, keep=keep, **how.reading)["real"]
    if whole:
        raise BadInput(f"{', '.join(whole)}: the real images themselves are needed, not statistics of them")
    known = Statistics.load(real)
    if known.convention != Convention():  # a foreign file says nothing: the score's protocol does
        known.convention.agree(encoder.convention)
    check_numbers(metrics, encoder, known.n, n, how)
    return FeatureSet(known)


def check_numbers(metrics: Sequence[str], encoder: Encoder, n_real: int, n: int, how: Options) -> None:
    """Before hours of work: whether the sets are large enough. Raises BadInput that states the least number."""
    width, few = encoder.network.width, "; --few takes fewer, and marks the number"
    least = {"fid": width + 1, "kid": kernel.SUBSET_SIZE, "fd-infinity": 2 * (width + 1)}
    for name in metrics:
        marked = name in ("fid", "kid")
        needed = 2 if marked and how.few else least.get(name, manifold.NEIGHBOUR + 1)
        sets, small = ("", n) if name == "fd-infinity" else (" in each set", min(n_real, n))
        if small < needed:
            raise BadInput(
                f"{name} of {width} features needs at least {needed} images{sets}, got {n_real} real and {n} generated"
                f"{few if marked and not how.few else ''}"
            )
    if "fd-infinity" in metrics and n_real < width + 1:
        raise BadInput(f"fd-infinity needs at least {width + 1} real images, got {n_real}")


def check_captions(
    captions: Sequence[str] | None, clip: Encoder | None, n: int, folder: Path, metric: str = "clip-score"
) -> tuple[Sequence[str], Encoder]:
    """Captions and encoder of a metric of `TEXTS`, if they are there. Raises BadInput if not, or if they do not fit."""
    if clip is None or clip.network.texts is None:
        raise BadInput(f"{metric}: a CLIP encoder is needed: expected clip and open-clip")
    if captions is None:
        raise BadInput(f"{metric}: captions are needed, one for each generated image")
    if len(captions) != n:
        raise BadInput(f"{folder} holds {n} images, and there are {len(captions)} captions: one for each is needed")
    return captions, clip


def protocol(encoder: Encoder) -> str:
    """All that features depend on, for people."""
    checked = encoder.network.weights
    doubt = ", which is NOT the published file" if checked.published is False else ""
    return f"{encoder.network.what}, {encoder.preparation}, weights {checked.name} with SHA-256 {checked.sha256}{doubt}"


def _doubt(reference: Statistics) -> str:
    """What a foreign file of the real images' statistics leaves open, for a protocol."""
    missing = [] if reference.convention != Convention() else ["network and preparation"]
    missing += [] if reference.counted else ["number"]
    return f"; the file of the real images' statistics does not say their {' and '.join(missing)}" if missing else ""


def _fid(encoder: Encoder, reference: FeatureSet, generated: FeatureSet, how: Options) -> Score:
    distance = frechet.distance(reference.statistics, generated.statistics, few=how.few)
    low = high = None
    if how.interval:
        without = frechet.distances_without(reference.statistics, generated.array())
        found = Estimate.of([without], distance.n).distance()
        low, high = found.low, found.high
    n_reference = distance.n_reference if reference.statistics.counted else None
    sizes = distance.n, protocol(encoder) + _doubt(reference.statistics), n_reference
    return Score("fid", encoder.row.label, distance.value, *sizes, low, high, biased=distance.biased)


def _kid(encoder: Encoder, reference: FeatureSet, generated: FeatureSet, how: Options) -> Score:
    x, y = reference.array(), generated.array()
    small = min(len(x), len(y)) < kernel.SUBSET_SIZE
    if small:
        value, draw = kernel.kernel_distance(x, y), "all pairs, as there are fewer images than a subset has"
    else:
        blocks = kernel.block_kernel_distance(x, y)
        value, draw = blocks.mean, f"{blocks.subsets} subsets of {blocks.size}, standard deviation {blocks.std:.4g}"
    name = "KID" if encoder.row.label == "FID" else f"KID ({encoder.row.name})"
    return Score("kid", name, value, len(y), f"{draw}; {protocol(encoder)}", len(x), biased=small)


def _infinity(encoder: Encoder, reference: FeatureSet, generated: FeatureSet, how: Options) -> Score:
    line = frechet.infinity(reference.statistics, generated.array(), seed=how.seed)
    details = f"line through {len(line.sizes)} sizes from {line.sizes[0]} on; {protocol(encoder)}"
    details += _doubt(reference.statistics)
    name = f"{encoder.row.label}∞" if encoder.row.label == "FID" else f"{encoder.row.label} at infinity"
    n_reference = reference.statistics.n if reference.statistics.counted else None
    return Score("fd-infinity", name, line.value, generated.statistics.n, details, n_reference)


def _manifold(which: str, encoder: Encoder, reference: FeatureSet, generated: FeatureSet, how: Options) -> Score:
    both = manifold.precision_recall(reference.array(), generated.array())
    name, details = f"{which} ({encoder.row.name})", f"k = {both.k}; {protocol(encoder)}"
    return Score(which, name, getattr(both, which), both.n, details, both.n_real)


MEASURES: Mapping[str, Callable[[Encoder, FeatureSet, FeatureSet, Options], Score]] = {
    "fid": _fid,
    "kid": _kid,
    "fd-infinity": _infinity,
    "precision": partial(_manifold, "precision"),
    "recall": partial(_manifold, "recall"),
}
