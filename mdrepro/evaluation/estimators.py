"""Cells of tables of quality: what the images of each row show, and in pairs what rows differ by.

Rows are of the same captions and noises, and replica s of one row is paired with replica s of another: both descend
from base seed s. Intervals are those of `mdrepro.metrics.jackknife`, over training seeds and captions together.
"""

from collections.abc import Mapping
from dataclasses import replace

from mdrepro.evaluation.protocol import REFERENCES, Evaluation, Measure, Replicas, Scored, caption_count
from mdrepro.evaluation.rows import Row
from mdrepro.metrics import jackknife
from mdrepro.metrics.jackknife import Estimate, Interval
from mdrepro.papers.schema import Derived, Table


def estimate(measure: Measure[Scored], replicas: Replicas[Scored]) -> Estimate:
    """What is measured of each replica's images."""
    return Estimate.of([measure.without(images) for images in replicas], measure.n)


def interval(kind: str, estimate: Estimate) -> Interval:
    """The interval of a kind of measure."""
    return {"mean": estimate.mean, "share": estimate.share, "distance": estimate.distance}[kind]()


def over(seeds: int) -> str:
    """What an interval is over, for protocols; no training seed: no network was trained for the row."""
    named = {0: "captions", 1: "captions, one training seed"}
    return f"95 % interval over {named.get(seeds, f'{seeds} training seeds and captions')}"


def fewer_seeds(counts: Mapping[str, int]) -> dict[str, str]:
    """What follows the names in figures, by row: of how many training seeds, where others rest on more; else "".

    ``counts``: training seeds by row; 0 where no network was trained.
    """
    most = max(counts.values(), default=0)
    return {row: f" ({n} training seed{'s' * (n > 1)})" if 0 < n < most else "" for row, n in counts.items()}


def rows(table: Table, measured: Mapping[str, Replicas[Scored]], scored: Evaluation[Scored]) -> list[Row]:
    """All cells of a table that follow from images alone: of each row, and derived ones of two rows.

    A derived column is of the row that it names or that the table's controls name, and has a cell for each other row.
    """
    measures = {name: one for name, one in scored.measures.items() if name in table.columns}
    found: dict[tuple[str, str], Estimate] = {}
    cells = []
    for row, replicas in measured.items():
        protocol = f"{caption_count(replicas[0], scored)}; {scored.scoring}"
        for column, one in measures.items():
            if one.reason:
                cells.append(Row.absent(row, column, one.reason))
            elif row not in one.not_of:
                found[row, column] = estimate(one, replicas)
                value = interval(one.kind, found[row, column])
                value = replace(value, by_seed=()) if row in REFERENCES else value
                cells.append(cell(row, column, value, f"{one.protocol}; {protocol}"))
        if "seconds_per_image" in table.columns:
            cells += seconds(row, replicas, protocol, scored)
    for column, spec in table.columns.items():
        for row in measured:
            other = table.compared(row, column)
            if spec.derived is None or spec.derived.of is None or row == other or row in REFERENCES:
                continue
            pair = found.get((row, spec.derived.of)), found.get((other or "", spec.derived.of))
            if pair[0] is not None and pair[1] is not None:
                how = f"{measures[spec.derived.of].protocol}; {caption_count(measured[row][0], scored)}"
                cells.append(derived(row, column, spec.derived, (pair[0], pair[1]), str(other), how))
    return cells


def derived(row: str, column: str, how: Derived, pair: tuple[Estimate, Estimate], other: str, protocol: str) -> Row:
    """The difference or ratio of a row's estimate and another's."""
    if how.by == "difference":
        return cell(row, column, (pair[0] - pair[1]).mean(), f"less that of row {other}, in pairs; {protocol}")
    if (found := jackknife.ratio(*pair)) is None:
        return Row.absent(row, column, f"there is no ratio: its own value or that of row {other} is not above 0")
    return cell(row, column, found, f"over that of row {other}, in pairs; {protocol}")


def cell(row: str, column: str, found: Interval, protocol: str) -> Row:
    """A cell with its interval; its protocol says over what that is."""
    return Row.measured(row, column, found, f"{protocol}; {over(len(found.by_seed))}")


def seconds(row: str, replicas: Replicas[Scored], protocol: str, scored: Evaluation[Scored]) -> list[Row]:
    """Time per image, the mean over replicas; none where it is not known of all images."""
    taken = [images.seconds for images in replicas if images.seconds is not None]
    if len(taken) < len(replicas):
        return []
    each = sum(taken) / sum(len(images.similarity) for images in replicas)
    return [Row(row, "seconds_per_image", each, f"{protocol}; {scored.timing}, decoder and text encoder included")]
