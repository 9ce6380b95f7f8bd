"""Rows that differ in their network or decoder alone: same captions, noise, steps and guidance, compared in pairs."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mdrepro.data.shapes import Scene
from mdrepro.metrics import bootstrap, frechet
from mdrepro.metrics.statistics import Statistics
from mdrepro.reproduce.rows import Row
from mdrepro.reproduce.tables import quality
from mdrepro.reproduce.tables.quality import Found, Scorers
from mdrepro.sampling import generate


def measure(
    pipelines: Mapping[str, Any],
    words: Mapping[str, str],
    scored_by: Scorers,
    scenes: Sequence[Scene],
    *,
    steps: int,
    guidance: float,
    seed: int,
    batch: int = 50,
) -> dict[str, Found]:
    """Images of the scenes' captions by every pipeline, and the scenes' own renders (row ``real``).

    Args:
        pipelines: by row.
        words: what each row's network is.
        scored_by: the scorers.
        scenes: of the test split.
        steps: of DDIM.
        guidance: w.
        seed: of the noise.
        batch: images at once.
    """
    texts, done = quality.prompts(scenes), {}
    for row, pipeline in pipelines.items():
        began = time.perf_counter()
        images = generate.images(
            pipeline, texts, steps=steps, guidance=guidance, sampler="ddim", seed=seed, batch=batch
        )
        print(f"{row}: {time.perf_counter() - began:.0f} s for {len(texts)} images", flush=True)
        how = f"{words[row]}, {steps} steps of ddim, guidance {guidance:g}, seed {seed}"
        done[row] = quality.found(how, images, scenes, scored_by)
    done["real"] = quality.renders(scenes, scored_by)
    return done


def rows(measured: Mapping[str, Found], real: Statistics, scored_by: str, *, against: str) -> list[Row]:
    """Quality of every row, and how far it is from that of one of them, drawn in pairs.

    Args:
        measured: by row; image i of each is of the same caption and noise.
        real: from `quality.reference`.
        scored_by: what scored, in words.
        against: the row compared with. The columns are ``fid_shapes_minus_...`` and ``clip_shapes_minus_...`` of its
            name.
    """
    cells: list[Row] = []
    for row, ours in measured.items():
        cells += quality.rows(row, ours, real, scored_by)
        if row not in (against, "real"):
            cells.append(distance(row, f"fid_shapes_minus_{against}", measured, against, real))
            both = [list(one.similarity[:, None]) for one in (ours, measured[against])]
            clip = bootstrap.paired_interval(*both, resamples=quality.RESAMPLES)
            how = f"mean difference of the cosines; {_paired(ours, against)}; {quality.SPREAD}"
            cells.append(quality.cell(row, f"clip_shapes_minus_{against}", clip, how))
    return cells


def distance(row: str, column: str, measured: Mapping[str, Found], against: str, real: Statistics) -> Row:
    """FID[shapes] of one row less that of another; the same images of both are drawn.

    Args:
        row, column: of the cell.
        measured: by row.
        against: the other row.
        real: from `quality.reference`.
    """
    ours, other = measured[row], measured[against]
    fid = frechet.paired_distance_interval(real, ours.features, other.features, resamples=quality.RESAMPLES)
    return quality.cell(row, column, fid, quality.against(real, _paired(ours, against)))


def _paired(ours: Found, against: str) -> str:
    return f"paired with row {against}; {ours.how}; {len(ours.images)} captions of the test split"
