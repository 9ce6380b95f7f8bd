"""Rows that differ in their network or decoder alone: same captions, noise, steps and guidance, compared in pairs."""

from collections.abc import Mapping

from mdrepro.evaluation.intervals import RESAMPLES, SPREAD
from mdrepro.evaluation.protocol import Evaluation, Scored, caption_count
from mdrepro.evaluation.rows import Row
from mdrepro.metrics import bootstrap


def rows(measured: Mapping[str, Scored], scored: Evaluation[Scored], *, against: str) -> list[Row]:
    """Quality of every row, and its difference from that of the row ``against``, drawn in pairs.

    Image i of each row is of the same caption and noise. On scenes the columns of differences are
    ``fid_shapes_minus_...`` and ``clip_shapes_minus_...`` of that row's name.
    """
    cells = [cell for row, images in measured.items() for cell in scored.rows(row, images)]
    others = [row for row in measured if row not in (against, *scored.best())]
    compared = {f"{row}/{score}_shapes_minus_{against}": against for row in others for score in ("fid", "clip")}
    return cells + to_controls(measured, scored, compared)


def to_controls(measured: Mapping[str, Scored], scored: Evaluation[Scored], controls: Mapping[str, str]) -> list[Row]:
    """Differences of FID and CLIP score from each row's own control; ``controls`` as `Table.controls` has them."""
    cells = []
    for key, control in controls.items():
        row, _, column = key.partition("/")
        if row in measured and control in measured:
            difference = cosine if column.startswith("clip") else distance
            cells.append(difference(row, column, measured, control, scored))
    return cells


def cosine(row: str, column: str, measured: Mapping[str, Scored], against: str, scored: Evaluation[Scored]) -> Row:
    """Mean CLIP score of one row less that of another. The column is named as on scenes."""
    both = [list(measured[one].similarity[:, None]) for one in (row, against)]
    clip = bootstrap.paired_interval(*both, resamples=RESAMPLES)
    protocol = f"mean difference of the cosines; {_pair(measured[row], against, scored)}; {SPREAD}"
    return Row.measured(row, scored.column(column), clip, protocol)


def distance(row: str, column: str, measured: Mapping[str, Scored], against: str, scored: Evaluation[Scored]) -> Row:
    """FID of one row less that of another; the same images of both are drawn. The column is named as on scenes."""
    first, second = measured[row], measured[against]
    pair = first.features[None], second.features[None]
    return scored.difference(row, column, *pair, _pair(first, against, scored))


def _pair(images: Scored, against: str, scored: Evaluation[Scored]) -> str:
    return f"paired with row {against}; {caption_count(images, scored)}"
