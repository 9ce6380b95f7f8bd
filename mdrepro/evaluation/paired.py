"""Rows that differ in their network or decoder alone: same captions, noise, steps and guidance, compared in pairs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mdrepro.evaluation import scenes
from mdrepro.evaluation.protocol import Evaluation, Images
from mdrepro.evaluation.rows import Row
from mdrepro.metrics import bootstrap


def measure(
    pipelines: Mapping[str, Any],
    words: Mapping[str, str],
    scored: Evaluation,
    *,
    steps: int,
    guidance: float,
    seed: int,
) -> dict[str, Any]:
    """Images of the captions by every pipeline, and what no model made (on scenes row ``real``).

    Args:
        pipelines: by row.
        words: what each row's network is.
        scored: the captions, and what scores.
        steps: of DDIM.
        guidance: w.
        seed: of the noise.
    """
    done: dict[str, Any] = {}
    for row, pipeline in pipelines.items():
        how = f"{words[row]}, {steps} steps of ddim, guidance {guidance:g}, seed {seed}"
        made: Any = scored.images(pipeline, how, steps=steps, guidance=guidance, sampler="ddim", seed=seed)
        print(f"{row}: {made.seconds or 0:.0f} s for {len(scored.captions)} images", flush=True)
        done[row] = replace(made, seconds=None)
    return done | dict(scored.best())


def rows(measured: Mapping[str, Any], scored: Evaluation, *, against: str) -> list[Row]:
    """Quality of every row, and how far it is from that of one of them, drawn in pairs.

    Args:
        measured: by row; image i of each is of the same caption and noise.
        scored: what scored.
        against: the row compared with. The columns are, on scenes, ``fid_shapes_minus_...`` and
            ``clip_shapes_minus_...`` of its name.
    """
    cells: list[Row] = []
    for row, ours in measured.items():
        cells += scored.rows(row, ours)
        if row not in (against, "real"):
            cells.append(distance(row, f"fid_shapes_minus_{against}", measured, against, scored))
            both = [list(one.similarity[:, None]) for one in (ours, measured[against])]
            clip = bootstrap.paired_interval(*both, resamples=scenes.RESAMPLES)
            how = f"mean difference of the cosines; {_paired(ours, against, scored)}; {scenes.SPREAD}"
            cells.append(Row.measured(row, scored.column(f"clip_shapes_minus_{against}"), clip, how))
    return cells


def distance(row: str, column: str, measured: Mapping[str, Any], against: str, scored: Evaluation) -> Row:
    """FID of one row less that of another; the same images of both are drawn.

    Args:
        row, column: of the cell, named as on scenes.
        measured: by row.
        against: the other row.
        scored: what scored.
    """
    ours, other = measured[row], measured[against]
    return scored.difference(row, column, ours.features[None], other.features[None], _paired(ours, against, scored))


def _paired(ours: Images, against: str, scored: Evaluation) -> str:
    return f"paired with row {against}; {ours.how}; {len(ours.similarity)} {scored.of}"
