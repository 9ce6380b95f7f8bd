"""The overview's frames against the published files that they are read from."""

import json

import pytest

from mdrepro.core.errors import BadInput
from mdrepro.papers import ledger
from mdrepro.reproduce.report import overview
from mdrepro.reproduce.report.views import RunView
from tests.support.checkout import REPOSITORY

PUBLISHED = {path.stem: json.loads(path.read_text()) for path in (REPOSITORY / "results" / "quick").glob("*.json")}


@pytest.fixture(scope="module")
def seen() -> dict[str, RunView]:
    return overview.runs("quick")


def test_every_published_table_is_there_with_its_verdicts(seen: dict[str, RunView]) -> None:
    frame = overview.tables(seen)
    assert set(PUBLISHED) <= set(frame.index)
    for name in PUBLISHED:
        if seen[name].origin == "published":
            verdicts = [row["verdict"] for row in PUBLISHED[name]["rows"]]
            assert {verdict: frame.loc[name, verdict] for verdict in set(verdicts)} == {
                verdict: verdicts.count(verdict) for verdict in set(verdicts)
            }
    assert set(frame.index) | set(overview.unmade(seen).index) == set(ledger.tables(planned=True))
    assert not set(frame.index) & set(overview.unmade(seen).index)


def test_every_claim_of_a_table_with_a_result_is_listed_once(seen: dict[str, RunView]) -> None:
    frame = overview.claims(seen)
    wanted = [(name, claim.statement) for name in seen for claim in ledger.find(name).claims]
    assert list(zip(frame["table"], frame["claim"], strict=True)) == wanted
    assert frame["numbers"].str.len().min() > 0


def test_bars_have_the_number_of_claims(seen: dict[str, RunView]) -> None:
    (axis,) = overview.claims_figure(seen).axes
    widths = [bar.get_width() for container in axis.containers for bar in container]
    assert sum(widths) == len(overview.claims(seen))


def test_the_trade_needs_its_table(seen: dict[str, RunView]) -> None:
    with pytest.raises(BadInput, match="mdrepro reproduce mobilediffusion-steps"):
        overview.trade_figure({})
    with pytest.raises(BadInput, match="quick"):
        overview.runs("fast")


def test_full_size_networks_are_not_called_small(seen: dict[str, RunView]) -> None:
    small = {name for name, view in seen.items() if view.stamp.startswith("small networks; ")}
    assert {"mobilediffusion-steps", *(name for name in seen if ledger.find(name).networks("quick"))} <= small
    assert not {name for name in seen if "latency" in name} & small
    assert seen["mobilediffusion-device-latency"].stamp.startswith("not the paper's protocol. ")
