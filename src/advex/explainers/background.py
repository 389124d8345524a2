"""Baselines of explainers that take a mean over many of them: rows of the data, where there are data."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
from torch import Tensor

from advex.data.dataset import Dataset
from advex.errors import AdvexWarning, InputError


def with_background(explainer: Any, data: Dataset | None, seed: int = 0) -> Any:
    """The explainer with rows of the data in place of the baseline that it was not given; any other as it is.

    So many rows as its option `background` says are drawn at random by the seed, whatever is explained.
    """
    wanted = getattr(explainer, "background", None)
    if data is None or wanted is None or explainer.baseline is not None:
        return explainer
    return dataclasses.replace(explainer, baseline=data.sample(wanted, seed).batch(slice(None)).x)


def background_rows(baseline: float | Tensor | None, x: Tensor, copied: str) -> Tensor:
    """Background rows [rows, *shape] in x's type; one of zeros where there is no baseline.

    Warns where they are but one row, and nobody has named that: the maps are those of the explainer `copied`. Raises
    InputError where they do not fit x.
    """
    if isinstance(baseline, int | float):
        return torch.full_like(x[:1], baseline)
    rows = torch.zeros_like(x[:1]) if baseline is None else baseline if baseline.ndim == x.ndim else baseline[None]
    if rows.shape[1:] != x.shape[1:] or not len(rows):
        wanted = f"[rows, {', '.join(map(str, x.shape[1:]))}]"
        raise InputError(f"Background rows must have the shape {wanted}, not {tuple(rows.shape)}.")
    if (rows == rows[:1]).all():
        warnings.warn(
            f"The background is a single row{' of zeros' * (not rows.any())}: in expectation, these maps are "
            f"those of {copied}. Give rows of data (--data on the command line, baseline=x[:100] in Python), "
            "or set the number explicitly (baseline=0).",
            AdvexWarning,
            stacklevel=7,
        )
    return rows.to(x)
