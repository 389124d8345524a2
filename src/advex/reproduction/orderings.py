"""Which orders of a paper's rows hold here: every pair of explainers that a column puts in order, tested in pairs.

Rows are of one network. The p values of a column's pairs are adjusted together (Holm).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import torch

from advex.measures.paired_tests import holm, sign_flips
from advex.papers import Column, Paper, Row
from advex.record.reproduction import ClaimEntry, OrderingEntry
from advex.reproduction.paired import Values


def orderings(paper: Paper, values: Mapping[str, Values], rows: set[str], seed: int) -> Iterator[OrderingEntry]:
    """Of every column the pairs of rows whose published values differ. values: by network. rows: that were run."""
    for name, table in paper.tables.items():
        chosen = [row for row in table.rows if row.explainer and row.id in rows and row.same_as in values]
        for key, column in table.columns.items():
            pairs = [] if column.paired or column.measure is None else list(_pairs(chosen, key, column))
            yield from _tested(name, key, column, pairs, values, seed)


def _pairs(rows: list[Row], key: str, column: Column) -> Iterator[tuple[Row, Row]]:
    """(the better as published, the other)."""
    sign = {"high": 1, "low": -1, "neither": 0}[column.better]
    known = [row for row in rows if key in row.published and row.measure(column.measure)]
    for first, second in itertools.combinations(known, 2):
        lead = sign * (first.published[key] - second.published[key])
        if lead and first.same_as == second.same_as:
            yield (first, second) if lead > 0 else (second, first)


def _tested(
    table: str, key: str, column: Column, pairs: list[tuple[Row, Row]], values: Mapping[str, Values], seed: int
) -> Iterator[OrderingEntry]:
    sign, nothing = {"high": 1, "low": -1}.get(column.better, 1), torch.nan
    examples = dict.fromkeys(each for network in values.values() for known in network.values() for each in known)
    changes = []
    for first, second in pairs:
        network = values[first.same_as or ""]
        mine, theirs = (network.get(row.measure(column.measure) or "", {}) for row in (first, second))
        changes.append([column.factor * (mine.get(each, nothing) - theirs.get(each, nothing)) for each in examples])
    if not changes or not examples:
        return
    every = torch.tensor(changes, dtype=torch.float64).T
    counts = (~every.isnan()).sum(dim=0).tolist()
    adjusted = holm(sign_flips(every, seed).tolist())
    for place, (first, second) in enumerate(pairs):
        yield OrderingEntry(
            table=table, column=key, first=first.id, second=second.id, n=counts[place],
            lead=sign * every[:, place].nanmean().item(), p=adjusted[place],
        )  # fmt: skip


def claims(paper: Paper, tables: set[str]) -> list[ClaimEntry]:
    """What the paper says in words of rows of these tables."""
    return [
        ClaimEntry(
            text=claim.text, table=claim.table, column=claim.column, first=claim.first, others=list(claim.others)
        )
        for claim in paper.claims
        if claim.table in tables
    ]
