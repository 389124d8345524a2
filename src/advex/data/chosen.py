"""Examples as they are chosen: by a number, by several, or by a mask."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from advex.errors import SpecError


def number_of(place: Any) -> int | None:
    """A whole number of any library; None for all else."""
    try:
        return None if getattr(place, "ndim", 0) else operator.index(place)
    except TypeError:
        return None


def seed_of(seed: int, below: int = 2**63) -> int:
    """The seed itself. Raises SpecError for a number that cannot be one."""
    if not 0 <= seed < below:
        raise SpecError(f"seed={seed} is not valid: a seed is a whole number from 0 to {below - 1}.")
    return seed


def rows_of(places: Any, count: int, name: str) -> Tensor:
    """[k] int64, from 0 to count - 1: the rows of so many that are chosen.

    places: whole numbers (negative ones count from the end) or a mask [count] bool, as a list, an array or a tensor.
    name: of the data. Raises SpecError for anything else.
    """
    if (number := number_of(places)) is not None:
        raise SpecError(
            f"{name}: several examples are chosen here: [{number}] is one, slice(0, {number}) the first ones."
        )
    try:
        rows = torch.as_tensor(places).cpu()
    except (TypeError, ValueError, RuntimeError):
        rows = torch.tensor(torch.nan)
    if rows.dtype == torch.bool and rows.shape == (count,):
        return rows.nonzero()[:, 0]
    if rows.dtype == torch.bool and rows.ndim == 1:
        raise SpecError(f"{name} has {count} examples, but the mask has {len(rows)}: it needs one value for each.")
    if rows.ndim != 1 or (len(rows) and (rows.is_floating_point() or rows.is_complex())):
        said = repr(places) if isinstance(places, str | float | None) else f"a {type(places).__name__} of other things"
        ways = f"a whole number, a list of these, a slice or a mask [{count}]"
        raise SpecError(f"Examples of {name} are chosen by {ways}, not {said}.")
    rows = rows.to(torch.int64)
    if outside := rows[(rows < -count) | (rows >= count)].tolist():
        raise SpecError(f"{name} has {count} examples, 0 to {count - 1}, not {outside[0]}.")
    return rows % max(count, 1)
