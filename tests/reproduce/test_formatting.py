"""Claims as sentences with units, and the order of what ``show`` prints; against hand-made texts and exact numbers."""

import random
import re

import pytest

from mdrepro.core import console
from mdrepro.core.console import MINUS
from mdrepro.papers import ledger
from mdrepro.papers.claims import ClaimVerdict, Condition
from mdrepro.papers.ledger import Judged
from mdrepro.papers.schema import Column, Table, Tolerance
from mdrepro.reproduce import formatting
from mdrepro.reproduce.workflow import results
from tests.support.checkout import REPOSITORY

PUBLISHED = sorted(path.stem for path in (REPOSITORY / "results" / "quick").glob("*.json"))


def column(title: str, unit: str = "") -> Column:
    return Column(title=title, unit=unit, tolerance=Tolerance(relative=0.01), rerun=Tolerance(relative=0.01))


TABLE = Table(
    id="mobilediffusion-x",
    title="x",
    published_as="x",
    protocol="x",
    rows={
        "slow": "SD-1.5, UNet",
        "fast": "SnapFusion, UNet: many words that go on beyond the limit of a title (and on)",
    },
    columns={
        "ms": column("All runs", "ms"),
        "mb": column("Memory", "MB"),
        "params": column("Parameters", "M"),
        "gain": column("PSNR above SD", "dB"),
        "fid": column("FID"),
    },
)


def words(
    condition: Condition, left: tuple[float, ...], right: tuple[float, ...] | None = None
) -> formatting.Inequality:
    bound = condition.right
    other = right or ((bound,) * 3 if isinstance(bound, float) else None)
    ends = tuple((side * 3)[:3] if side and len(side) == 1 else side for side in (left, other))
    return formatting.inequality(TABLE, Judged(condition, "", ClaimVerdict.HOLDS, *ends))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("condition", "left", "right", "numbers"),
    [
        (("slow/ms", ">=", "fast/ms", 8), 721_634.2, 89_940.7, "722 s against 89.9 s, at least 8 times"),
        (("slow/ms", ">=", "fast/ms", 8), 7_216.3, 899.4, "7,216 ms against 899 ms, at least 8 times"),
        (("fast/mb", "<=", "slow/mb", 0.594), 1_520.0, 3_100.0, "1.52 GB against 3.10 GB, at most 59.4 % of it"),
        (("fast/params", "<", "slow/params", 1), 385.1, 859.5, "385 M against 860 M, less"),
        (("fast/params", "<=", 525.2, 1), 524.9, None, "524.9 M, at most 525.2 M"),
        (("fast/ms", "<", 2000, 1), 1_840.0, None, "1.84 s, below 2 s"),
        (("fast/gain", ">=", 0, 1, -0.5), -0.1234, None, f"{MINUS}0.123 dB, at least {MINUS}0.5 dB"),
        (("fast/fid", ">=", "slow/fid", -0.02), -0.01, 2.5, f"{MINUS}0.0100 against 2.50, at least {MINUS}2 % of it"),
        (("fast/fid", ">", "slow/fid", 1), 1.0004, 1.0001, "1.0004 against 1.0001, more"),
        (("fast/fid", "<=", "slow/fid", 1, 0.5), 3.1, 2.9, "3.10 against 2.90, at most it + 0.5"),
    ],
)
def test_an_inequality_is_read_with_its_units(
    condition: tuple[str | float, ...], left: float, right: float | None, numbers: str
) -> None:
    names = ("left", "op", "right", "factor", "margin")
    given = Condition.model_validate(dict(zip(names, condition, strict=False)))
    assert words(given, (left,), None if right is None else (right,)).numbers == numbers


def test_what_is_compared_is_named_by_titles_and_long_ones_are_cut() -> None:
    same = Condition(left="slow/ms", op=">=", right="fast/ms", factor=8)
    shown = words(same, (8.5, 9.0, 9.5), (1.0, 1.1, 1.2))
    assert shown.what == "All runs, SD-1.5, UNet against SnapFusion, UNet"
    assert shown.intervals == "95 %: [8.50, 9.50] against [1, 1.20]"
    assert words(same, (8.5, 9.0, 9.5), (1.0,)).intervals == "95 %: [8.50, 9.50] against exact"
    other = Condition(left="fast/gain", op="<=", right="slow/fid", factor=0.1)
    assert words(other, (1.0,), (20.0,)).what == "PSNR above SD, SnapFusion, UNet, against FID, SD-1.5, UNet"
    absent = formatting.inequality(TABLE, Judged(same, "", ClaimVerdict.NOT_ATTEMPTED, (1.0, 1.0, 1.0), None))
    assert (absent.numbers, absent.missing) == ("", "not measured: All runs of SnapFusion, UNet")


def test_rounded_numbers_say_what_the_exact_ones_do() -> None:
    """Of a thousand drawn pairs near their bound, the printed numbers decide the inequality as the exact ones do."""
    draw, close = random.Random(0), 0
    for _ in range(1000):
        op, factor = draw.choice(["<", "<=", ">", ">="]), draw.choice([1.0, 0.1, 1.35, 8.0])
        right = draw.uniform(0.5, 900)
        left = right * factor * (1 + draw.choice([-1, 1]) * 10 ** draw.uniform(-4, -0.5))
        condition = Condition(left="fast/fid", op=op, right="slow/fid", factor=factor)  # type: ignore[arg-type]
        shown = words(condition, (left,), (right,)).numbers.replace(",", "")
        ours, theirs = map(float, re.findall(r"[\d.]+", shown)[:2])
        compare = {"<": float.__lt__, "<=": float.__le__, ">": float.__gt__, ">=": float.__ge__}[op]
        assert compare(ours, theirs * factor) == compare(left, right * factor), shown
        close += abs(left / (right * factor) - 1) < 0.005
    assert close > 300


@pytest.mark.parametrize("name", PUBLISHED)
def test_claims_come_first_then_measured_cells_then_what_has_no_number(name: str) -> None:
    table, result = ledger.find(name), results.published_result("quick", name)
    assert result is not None
    lines = formatting.verdicts(table, result, None, whole=True).split("\n")
    claims = [index for index, line in enumerate(lines) if line.startswith("  claim ")]
    (head,) = (index for index, line in enumerate(lines) if re.match(r"  row +column +ours", line))
    rest = [index for index, line in enumerate(lines) if line.startswith("  not attempted: ")]
    measured = [row for row in result["rows"] if row["value"] is not None]
    assert len(claims) == len(result["claims"])
    assert claims == sorted(claims)
    assert max(claims, default=0) < head
    assert head + len(measured) < min(rest, default=len(lines))
    body = lines[head + 1 : head + 1 + len(measured)]
    assert [line.split()[0] for line in body] == [row["row"] for row in measured]
    assert "agrees" not in "".join(body)
    unconfirmed = sum("as written it" in claim["numbers"] for claim in result["claims"])
    assert sum(bool(re.search(r"^  claim unconfirmed \(\w+; as written it ", line)) for line in lines) == unconfirmed
    assert not re.search(r"(?<![\w-])-\d", "\n".join(lines))


def test_conditions_in_words_have_the_numbers_of_the_recorded_ones() -> None:
    """The recorded words of each claim, cell by cell with four digits, and what is printed with three or more."""
    seen = 0
    for name in PUBLISHED:
        table, result = ledger.find(name), results.published_result("quick", name)
        assert result is not None
        rows = results.with_seeds(table, result["rows"])
        for claim, recorded in zip(table.claims, result["claims"], strict=True):
            judged = ledger.judge_conditions(claim, rows, table.on_pictures)
            assert all(str(one) in recorded["numbers"] for one in judged)
            for one in judged:
                if one.left is None or one.right is None:
                    continue
                shown = formatting.inequality(table, one).numbers.replace(",", "").replace(MINUS, "-")
                value = float(re.findall(r"-?[\d.]+(?:e-?\d+)?", shown)[0])
                scale = 1000 if re.search(r"\d (s|GB)\b", shown) and abs(value) < abs(one.left[1]) / 100 else 1
                assert value * scale == pytest.approx(one.left[1], rel=0.006, abs=1e-9), shown
                seen += 1
    assert seen > 30


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("wide", [80, 120])
def test_a_terminal_is_not_overrun_and_breaks_no_inequality(
    name: str, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "width", lambda: wide)
    table, result = ledger.find(name), results.published_result("quick", name)
    assert result is not None
    text = formatting.verdicts(table, result, None, whole=True)
    assert max(map(len, text.split("\n"))) <= wide
    assert "\xa0" not in text
    rows = results.with_seeds(table, result["rows"])
    for claim in table.claims:
        for judged in ledger.judge_conditions(claim, rows, table.on_pictures):
            assert formatting.inequality(table, judged).numbers in text
