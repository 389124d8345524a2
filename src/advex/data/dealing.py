"""Data without a part to test on, dealt into one to learn from and one that is held out."""

from __future__ import annotations

import re

import numpy as np

LEARN, TEST = "train", "test"
ALL = "all"  # as a split: data that have none, undealt
SHARE = 0.2  # of each class, held out
_SEED = 0
_GROUP = re.compile(r"(group|patient|subject|participant|person)s?([\s_.-]?(id|nr|no|number|key))?", re.I)
_LEAST_GROUPS = 10


def names_groups(name: str) -> bool:
    """Whether a column is called as one that says which rows belong together: `patient_id`, `Group`, `subject nr`."""
    return bool(_GROUP.fullmatch(name.strip()))


def are_groups(values: int, rows: int) -> bool:
    """Whether so many different values part rows into groups that can be dealt: at least 10, and some repeated."""
    return _LEAST_GROUPS <= values < rows


def dealt(labels: np.ndarray, groups: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Rows of `train` and of `test`, ascending: always the same ones, a fifth of each class held out.

    labels: [n] int. groups: [n] int; rows of one group are never parted. The groups are gone through in random order,
    and one is held out where that brings the classes held out nearer to their fifth (in sum of absolute differences).
    """
    n, shuffled = len(labels), np.random.default_rng(_SEED).permutation(len(labels))
    held = np.zeros(n, bool)
    if groups is None:
        order = shuffled[np.argsort(labels[shuffled], kind="stable")]
        classes, first, count = np.unique(labels[order], return_index=True, return_counts=True)
        rank = np.arange(n) - np.repeat(first, count)
        held[order] = rank < np.repeat(np.rint(SHARE * count), count)
    else:
        _, label = np.unique(labels, return_inverse=True)
        _, group = np.unique(groups, return_inverse=True)
        lacking = SHARE * np.bincount(label)
        members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
        seen = np.unique(group[shuffled], return_index=True)[1]
        for rows in (members[each] for each in np.argsort(seen)):
            left = lacking - np.bincount(label[rows], minlength=len(lacking))
            if np.abs(left).sum() < np.abs(lacking).sum():
                held[rows], lacking = True, left
    if n > 1 and not held.any():  # a few examples of each class
        held[shuffled[0] if groups is None else groups == groups[shuffled[0]]] = True
    return {LEARN: np.flatnonzero(~held), TEST: np.flatnonzero(held)}


def held_out(split: str, kind: str, group: str = "") -> str:
    """What is said of a part that is held out. kind: of its examples, e.g. "rows"; group: what keeps them together."""
    together = f", with those of one {group} kept together" if group else ""
    return f"'{split}' is a random fifth of the {kind} of each class{together} (seed {_SEED})"


def described(kind: str, group: str = "") -> str:
    """What is said of data without a part to test on. kind, group: as of `held_out`."""
    return f"{held_out(TEST, kind, group)}; '{ALL}' is all of them"
