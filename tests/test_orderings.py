"""Which orders of a paper hold: paired tests of every two rows, on one network and on several."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from advex import papers
from advex.errors import ArtifactError
from advex.measures.paired_tests import holm, sign_flips
from advex.papers import Paper
from advex.record.reproduction import (
    ClaimEntry,
    ColumnEntry,
    OrderingEntry,
    Reproduction,
    RowEntry,
    TableEntry,
    write_reproduction,
)
from advex.report import write_report
from advex.report.pages import orderings as page
from advex.reproduction.orderings import claims, orderings


def test_flips_of_signs_are_the_share_of_all_signs_as_far_from_nothing() -> None:
    """Beside an enumeration of all 2^9 signs; of hits that is McNemar's exact test."""
    changes = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).double()
    changes += torch.tensor([0.0, 0.4, 0.8, 2.0])
    every = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=9)), dtype=torch.float64)
    exact = ((every @ changes).abs() >= changes.sum(dim=0).abs() - 1e-9).double().mean(dim=0)
    assert sign_flips(changes, seed=1).numpy() == pytest.approx(exact.numpy(), abs=0.012)
    hits = torch.tensor([1.0] * 9 + [-1.0] * 2 + [0.0] * 20)[:, None]
    assert float(sign_flips(hits, seed=0)[0]) == pytest.approx(stats.binomtest(2, 11).pvalue, abs=0.006)


def test_undefined_and_equal_values_say_nothing() -> None:
    known = torch.tensor([[0.3], [0.5], [-0.1]])
    more = torch.cat([known, torch.full((4, 1), torch.nan)])
    assert abs(float(sign_flips(known, seed=0)) - float(sign_flips(more, seed=0))) < 0.02
    assert sign_flips(torch.zeros(5, 2), seed=0).tolist() == [1, 1]
    assert max(holm(sign_flips(torch.ones(40, 1100).double(), seed=0).tolist())) < 0.01  # of many, too


def step_down(values: np.ndarray, risk: float) -> set[int]:
    """Holm in words: the smallest is tested at risk / k, the next at risk / (k - 1), until one is not refused."""
    refused: set[int] = set()
    for rank, place in enumerate(values.argsort()):
        if values[place] > risk / (len(values) - rank):
            break
        refused.add(int(place))
    return refused


@pytest.mark.parametrize("seed", range(4))
def test_no_p_is_below_the_share_of_all_signs(seed: int) -> None:
    """14 examples, all 2^14 signs, also of changes that are all of one sign, of which draws can tell nothing."""
    rng = np.random.default_rng(seed)
    changes = rng.normal(1.5 * seed, 1, (14, 6))
    signs = np.array(list(itertools.product((-1, 1), repeat=14)))
    exact = (abs(signs @ changes) >= abs(changes.sum(axis=0)) - 1e-9).mean(axis=0)
    made = sign_flips(torch.from_numpy(changes), seed).numpy()
    assert (made >= exact - 4 * np.sqrt(exact / 20_000)).all()


def test_of_very_many_questions_the_draws_are_no_more_than_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """And yet a clear answer survives Holm: 3,000 questions, 60 changes of one sign each."""
    drawn: list[int] = []
    draw = torch.randint
    monkeypatch.setattr(torch, "randint", lambda high, size, **how: drawn.append(size[0]) or draw(high, size, **how))
    changes = torch.cat([torch.ones(60, 3000), torch.ones(60, 1).cumsum(0).remainder(2) - 0.5], dim=1).double()
    adjusted = holm(sign_flips(changes, seed=0).tolist())
    assert sum(drawn) == 50_000
    assert max(adjusted[:-1]) < 0.01
    assert adjusted[-1] == 1


def test_holm_refuses_what_the_procedure_step_by_step_refuses() -> None:
    values = np.random.default_rng(0).uniform(0, 0.2, 30) ** 2
    adjusted = holm(values.tolist())
    for risk in np.geomspace(1e-5, 0.9, 60):
        assert {place for place, value in enumerate(adjusted) if value <= risk} == step_down(values, risk), risk


def test_of_equal_rows_hardly_ever_an_order_is_claimed() -> None:
    """200 columns of six equal rows on 40 examples: a pair is claimed falsely in at most 5 % of them."""
    rng, false = torch.Generator().manual_seed(0), 0
    for seed in range(200):
        values = torch.randn(40, 6, generator=rng)
        pairs = torch.stack([values[:, i] - values[:, j] for i, j in itertools.combinations(range(6), 2)], dim=1)
        false += min(holm(sign_flips(pairs, seed).tolist())) < 0.05
    assert false <= 18, "5 % and three standard deviations"


COLUMNS = {
    "error": {"title": "Error", "digits": 2, "better": "low", "measure": "{}_hit", "factor": -1, "offset": 1},
    "score": {"title": "Score", "digits": 2, "measure": "{}_score"},
    "less": {"title": "Less", "digits": 2, "measure": "{}_hit", "paired": True},
}
ROWS = {"a": {"error": 0.1, "score": 0.5}, "b": {"error": 0.3, "score": 0.9}, "c": {"error": 0.3, "score": 0.7}}


def paper_of(**more: Any) -> Paper:
    rows = [{"id": name, "label": name.upper(), "published": values, "same_as": "net", "explainer": name}
            for name, values in ROWS.items()]  # fmt: skip
    network = {"id": "net", "label": "net", "published": {}, "recipe": "digits-ordinary"}
    table = {"title": "T", "data": "digits", "columns": COLUMNS, "sections": [{"rows": [network, *rows]}]}
    values = {"title": "P", "authors": "A", "year": 2020, "venue": "V", "tables": {"1": table},
              "scales": {"full": {"summary": "All."}}, **more}  # fmt: skip
    return Paper.model_validate(values)


def test_pairs_are_those_that_a_column_puts_in_order_and_leads_are_in_its_direction() -> None:
    """a hits 60 % and b 20 %: of errors a leads by 0.4, as published. By score b is published above a, and is below."""
    n = 40
    values = {
        "a_hit": {f"{i}": float(i % 5 < 3) for i in range(n)}, "b_hit": {f"{i}": float(i % 5 == 0) for i in range(n)},
        "c_hit": {f"{i}": float(i % 5 < 3) for i in range(n)},
        "a_score": {f"{i}": 1.0 + i / n for i in range(n)}, "b_score": {f"{i}": i / n for i in range(n)},
        "c_score": {f"{i}": i / n for i in range(n) if i > 9},
    }  # fmt: skip
    made = {(each.column, each.first, each.second): each for each in orderings(paper_of(), {"net": values}, {*ROWS}, 0)}
    assert set(made) == {
        ("error", "a", "b"), ("error", "a", "c"), ("score", "b", "a"), ("score", "b", "c"), ("score", "c", "a"),
    }  # fmt: skip
    assert (made["error", "a", "b"].lead, made["error", "a", "b"].verdict) == (pytest.approx(0.4), "holds")
    assert (made["error", "a", "c"].lead, made["error", "a", "c"].verdict) == (0, "not separable")
    assert (made["score", "b", "a"].lead, made["score", "b", "a"].verdict) == (pytest.approx(-1), "reversed")
    assert made["score", "c", "a"].n == 30
    assert [each.verdict for each in orderings(paper_of(), {"net": {}}, {*ROWS}, 0)] == []
    assert not list(orderings(paper_of(), {}, {*ROWS}, 0))


@pytest.mark.parametrize(
    ("verdicts", "joint"),
    [
        (["holds"], "holds"),
        (["holds", "holds"], "holds"),
        (["reversed", "reversed"], "reversed"),
        (["holds", "not separable"], "not separable"),
        (["holds", "reversed"], page.DISAGREE),
        (["holds", "no values"], "not separable"),
        (["no values", "no values"], "no values"),
    ],
)
def test_what_one_network_does_not_confirm_is_no_finding(verdicts: list[Any], joint: str) -> None:
    assert page.together(verdicts) == joint


def reproduction(seed: int, leads: dict[tuple[str, str], float], **fields: Any) -> Reproduction:
    """Of the column error, with p 0.01 where there is a lead."""
    entries = [
        OrderingEntry(table="1", column="error", first=first, second=second, n=40, lead=lead, p=0.01 if lead else 0.6)
        for (first, second), lead in leads.items()
    ]
    rows = [
        RowEntry(id=name, label=name, network="net", published={"error": place / 10}, state="measured")
        for place, name in enumerate("abc")
    ]
    columns = [ColumnEntry(key="error", title="Error", digits=2, better="low")]
    said = [ClaimEntry(text="A is best", table="1", column="error", first="a", others=["b", "c"])]
    said += [ClaimEntry(text="B beats C", table="1", column="error", first="b", others=["c"])]
    values = {
        "advex": "0", "created": "2026-01-01T00:00:00+00:00", "command": "c", "paper": "p", "title": "t",
        "citation": "c", "scale": "s", "summary": "s", "seed": seed, "orderings": entries, "claims": said,
        "tables": [TableEntry(id="1", title="T", data="d", columns=columns, rows=rows)],
    }  # fmt: skip
    return Reproduction(**{**values, **fields})


def test_the_page_joins_networks_and_says_what_holds_on_all(tmp_path: Path) -> None:
    first = reproduction(0, {("a", "b"): 0.2, ("a", "c"): 0.3, ("b", "c"): -0.1})
    second = reproduction(1, {("a", "b"): 0.1, ("a", "c"): 0.2, ("b", "c"): 0.1})
    alone, both = page.of([first]), page.of([first, second])
    assert alone
    assert both
    assert [each.verdict for each in alone.claims] == ["holds", "does not hold"]
    assert [each.verdict for each in both.claims] == ["holds", page.DISAGREE]
    (matrix,) = both.matrices
    assert [[sign for sign, _ in cells] for _, cells in matrix.rows] == [[], ["✓"], ["✓", "≠"]]
    assert matrix.summary == "Of 3 pairs that the paper ranks: holds 2, networks disagree 1."
    for folder, made in (("a", first), ("b", second)):
        (tmp_path / folder).mkdir()
        write_reproduction(tmp_path / folder, made)
    html = write_report([tmp_path / "a", tmp_path / "b"]).read_text(encoding="utf-8")
    assert "On 2 networks (seed 0, seed 1)" in html
    assert html.count('data-claim="holds"') == 1
    assert "On one network (seed 0)" in write_report(tmp_path / "a").read_text(encoding="utf-8")
    for other in (reproduction(0, {}), reproduction(2, {}, scale="other")):
        write_reproduction(tmp_path / "b", other)
        with pytest.raises(ArtifactError, match="its own seed"):
            write_report([tmp_path / "a", tmp_path / "b"])


def test_a_network_without_values_confirms_nothing() -> None:
    whole = reproduction(0, {("a", "b"): 0.2, ("a", "c"): 0.3, ("b", "c"): 0.2})
    for others in ({}, {("b", "c"): 0.1}):
        for pair in ([whole, reproduction(1, others)], [reproduction(1, others), whole]):
            both = page.of(pair)
            assert both
            assert both.claims[0].verdict == "not separable"
            assert len(both.matrices[0].rows) == 3  # pairs that one of them lacks are shown
    part = page.of([reproduction(0, {("a", "b"): 0.2})])
    assert part
    assert [each.verdict for each in part.claims] == ["not measured in full", "not measured"]


def test_a_claim_is_of_rows_with_values() -> None:
    claim = {"text": "A wins", "table": "1", "column": "error", "first": "a", "others": ["b"]}
    assert claims(paper_of(claims=[claim]), {"1"})[0].others == ["b"]
    assert claims(paper_of(claims=[claim]), {"2"}) == []
    for wrong in ({"column": "eror"}, {"table": "9"}, {"first": "z"}, {"others": ["net"]}):
        with pytest.raises(ValueError, match="A wins"):
            paper_of(claims=[claim | wrong])


def test_claims_are_what_the_printed_tables_say() -> None:
    """Every row that a claim calls better has the better published value."""
    for name in ("elliott2021",):
        paper = papers.read(name)
        assert paper.claims
        for claim in paper.claims:
            column = paper.tables[claim.table].columns[claim.column]
            sign = 1 if column.better == "high" else -1
            for other in claim.others:
                first, second = (paper.rows[row].published[claim.column] for row in (claim.first, other))
                assert sign * (first - second) > 0, (claim.text, other)
