"""Columns that tell nothing about a row but which one it is: counters, keys, names."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from advex.data.dealing import are_groups, names_groups
from advex.data.tables.columns import Column

LEAST = 10  # rows, of fewer it cannot be told by their values
_MEASURED = 3000  # consecutive whole numbers up to here may be years, or ages that happen to differ
_KEY = re.compile(
    r"^$|(^|[\s_.-])(id|ids|uid|uuid|guid|index|idx|row|rowid|nr|no|num|number|key|#)$|^unnamed: \d+$", re.I
)
_CAMEL = re.compile(r"[a-z]I[dD]$")


def what_names_rows(name: str, columns: Sequence[Column]) -> str:
    """Why a column only counts or names the rows, or groups of them, all splits together; empty where it does not."""
    return _what_names(name, columns) or ("" if name else "it has no name")


def _what_names(name: str, columns: Sequence[Column]) -> str:
    total = sum(len(column.missing) for column in columns)
    if names_groups(name) and are_groups(len(set().union(*(column.used for column in columns))), total):
        return "it groups rows that belong together"
    if any(column.missing.any() for column in columns) or not total:
        return ""
    if any(column.texts is not None for column in columns):
        used = [column.used for column in columns if total >= LEAST]
        return "it identifies the rows" if sum(map(len, used)) == total == len(set().union(*used)) else ""
    numbers = np.concatenate([column.numbers for column in columns])
    low, high = numbers.min(), numbers.max()
    if high - low + 1 < total or (numbers % 1 != 0).any() or len(np.unique(numbers)) < total:
        return ""
    counts = total >= LEAST and high - low + 1 == total and (low in (0, 1) or low > _MEASURED)
    return "it numbers the rows" if counts or _KEY.search(name) or _CAMEL.search(name) else ""
