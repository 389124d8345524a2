"""Which orders of a paper hold here, by one reproduction or by several, each of which is of a network of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from advex.drawing.numbers import count
from advex.record.reproduction import ClaimEntry, OrderingEntry, Reproduction, RowEntry, TableEntry, Verdict

# What several networks say: `disagree` where one has the paper's order and another the reverse.
Joint = Verdict | str
DISAGREE, NONE = "networks disagree", "no values"
SIGNS = {"holds": "✓", "reversed": "✗", "not separable": "·", DISAGREE: "≠", NONE: "–"}
Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Claimed:
    """A sentence of the paper and what becomes of it. each: by network, how many of its pairs have which verdict."""

    claim: ClaimEntry
    verdict: str
    each: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """A column's pairs: rows from the best as published on, and the verdict of each of them against those before it."""

    table: TableEntry
    title: str
    summary: str
    rows: tuple[tuple[RowEntry, tuple[tuple[str, str], ...]], ...]


@dataclass(frozen=True)
class Orderings:
    """What the page shows. networks: by their seeds."""

    networks: tuple[str, ...]
    claims: tuple[Claimed, ...]
    matrices: tuple[Matrix, ...]


def of(reproductions: Sequence[Reproduction]) -> Orderings | None:
    """Of reproductions of one paper at one scale, each by a seed of its own; None where nothing was put in order."""
    every = [{_key(each): each for each in reproduction.orderings} for reproduction in reproductions]
    if not any(every):
        return None
    keys = dict.fromkeys(key for known in every for key in known)
    joint = {key: together([known[key].verdict if key in known else NONE for known in every]) for key in keys}
    claims = tuple(_claimed(claim, joint, every) for claim in reproductions[0].claims)
    matrices = tuple(
        matrix
        for table in reproductions[0].tables
        for column in table.columns
        if (matrix := _matrix(table, column.key, column.title, joint, every)) is not None
    )
    return Orderings(tuple(f"seed {each.seed}" for each in reproductions), claims, matrices)


def _key(entry: OrderingEntry) -> Key:
    return entry.table, entry.column, entry.first, entry.second


def together(verdicts: Sequence[Joint]) -> Joint:
    """What all networks carry: an order holds, or is reversed, where it is so on every one."""
    kinds = set(verdicts)
    if len(kinds) == 1:
        return verdicts[0]
    return DISAGREE if {"holds", "reversed"} <= kinds else "not separable"


def _claimed(claim: ClaimEntry, joint: Mapping[Key, Joint], every: Sequence[Mapping[Key, OrderingEntry]]) -> Claimed:
    keys = [(claim.table, claim.column, claim.first, other) for other in claim.others]
    known = [joint.get(key, NONE) for key in keys]
    each = tuple(_counted([network[key].verdict for key in keys if key in network]) for network in every)
    if "reversed" in known:
        verdict = "does not hold"
    elif DISAGREE in known:
        verdict = DISAGREE
    elif set(known) == {"holds"}:
        verdict = "holds"
    elif NONE in known:
        verdict = "not measured" if set(known) <= {NONE} else "not measured in full"
    else:
        verdict = "not separable"
    return Claimed(claim, verdict, each)


def _counted(verdicts: Sequence[Joint]) -> str:
    counts = Counter(verdicts)
    return ", ".join(f"{verdict} {counts[verdict]}" for verdict in SIGNS if counts[verdict]) or "–"


def _matrix(
    table: TableEntry, key: str, title: str, joint: Mapping[Key, Joint], every: Sequence[Mapping[Key, OrderingEntry]]
) -> Matrix | None:
    pairs = {
        (first, second): verdict
        for (of, column, first, second), verdict in joint.items()
        if (of, column) == (table.id, key)
    }
    if not set(pairs.values()) - {NONE}:
        return None
    sign = -1 if next(column.better for column in table.columns if column.key == key) == "high" else 1
    known = {name for pair in pairs for name in pair}
    rows = sorted((row for row in table.rows if row.id in known), key=lambda row: sign * row.published[key])
    lines = tuple(
        (row, tuple(_cell(row, other, pairs, table.id, key, every) for other in rows[:place]))
        for place, row in enumerate(rows)
    )
    summary = f"Of {count(len(pairs), 'pair')} that the paper ranks: {_counted(list(pairs.values()))}."
    return Matrix(table, title, summary, lines)


def _cell(
    row: RowEntry, better: RowEntry, pairs: Mapping[tuple[str, str], Joint], table: str, key: str,
    every: Sequence[Mapping[Key, OrderingEntry]],
) -> tuple[str, str]:  # fmt: skip
    """A sign, and the figures behind it in words."""
    verdict = pairs.get((better.id, row.id))
    if verdict is None:
        return "", f"{better.label} and {row.label} are equal in the paper"
    entries = [
        network[table, key, better.id, row.id] for network in every if (table, key, better.id, row.id) in network
    ]
    figures = "; ".join(f"lead {entry.lead:.3f}, p {entry.p:.2g}, n {entry.n}" for entry in entries)
    return SIGNS[verdict], f"{better.label} better than {row.label}: {verdict} ({figures})"


def sentences(orderings: Orderings) -> list[str]:
    """The paper's claims and what becomes of them, for a terminal."""
    return [f"{each.claim.text}: {each.verdict} ({'; '.join(each.each)})." for each in orderings.claims]
