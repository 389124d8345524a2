"""What the columns of a table are: their ranges, steps and categories, and how a row becomes a tensor and back.

A row is encoded as one number per numeric column, `(raw - center) / scale`, and as one element per category
of the others, 1 for the row's category and 0 for the rest (one-hot).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advex.errors import DataError, InputError, did_you_mean
from advex.features.feature import Feature as Feature
from advex.geometry import Box

__all__ = ["Feature", "FeatureSpec"]

_MOST_COLUMNS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """The columns of a table in order, and the name of the column that is predicted (not one of them).

    Raises DataError for no columns, or two of one name.
    """

    features: tuple[Feature, ...]
    target: str = "target"

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        if not names or self.width > _MOST_COLUMNS:
            raise DataError(f"A table needs 1 to {_MOST_COLUMNS:,} columns, not {self.width:,}.")
        twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
        if twice is not None or self.target in names:
            raise DataError(f"Two columns are called '{twice if twice is not None else self.target}'.")

    @cached_property
    def width(self) -> int:
        """d, the length of an encoded row."""
        return sum(feature.width for feature in self.features)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where each feature is in an encoded row: one element, or one for each category."""
        ends = np.cumsum([feature.width for feature in self.features]).tolist()
        return tuple(slice(end - feature.width, end) for feature, end in zip(self.features, ends, strict=True))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """[d] what each element of an encoded row is: `income`, `sex=female`."""
        return tuple(
            f"{feature.name}={value}" if feature.kind == "category" else feature.name
            for feature in self.features
            for value in feature.values or ("",)
        )

    # -- rows and tensors --------------------------------------------------------------------------------

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """Rows as typed (column -> value) -> [n, d] float32. Columns that are not of the spec are passed over.

        Raises DataError, naming row (from 0) and column, for values that are missing, unknown, or impossible.
        """
        x = np.zeros((len(rows), self.width), dtype=np.float32)
        for number, row in enumerate(rows):
            for feature, where in zip(self.features, self.slices, strict=True):
                value = row.get(feature.name)
                try:
                    if feature.kind == "category":
                        x[number, where.start + feature.category(value)] = 1
                    else:
                        x[number, where] = feature.encoded(np.array([feature.raw(value)]))
                except DataError as error:
                    raise DataError(f"Row {number}: {error}") from None
        return torch.from_numpy(x)

    def decode(self, x: Tensor) -> list[dict[str, float | str]]:
        """The valid rows nearest to x [n, d], as a user would type them; encoded again they are `nearest(x)`."""
        rows = self.nearest(x).detach().cpu().to(torch.float32).numpy()
        return [
            {
                feature.name: feature.values[int(row[where].argmax())]
                if feature.kind == "category"
                else feature.tidy(float(row[where.start]))
                for feature, where in zip(self.features, self.slices, strict=True)
            }
            for row in rows
        ]

    def nearest(self, x: Tensor, clean: Tensor | None = None) -> Tensor:
        """[n, d] the encoded valid rows nearest to x: numbers in range and on their steps, groups one-hot.

        clean: [n, d], the valid rows that x was changed from. Columns that may not change then keep their values, and
        those that may change in one direction alone do not go in the other. Valid rows stay as they are, bit for bit.
        Raises InputError.
        """
        self._check(x)
        if clean is not None:
            x = clean + self._box.to(x).confine(clean, x - clean)
        result = self._numbers(x)
        for feature, where in zip(self.features, self.slices, strict=True):
            if feature.kind == "category":
                result[:, where] = _one_hot(x[:, where], feature, None if clean is None else clean[:, where])
        if clean is not None and (held := self._held) is not None:
            result = torch.where(held.to(x.device), clean, result)
        return result

    def _numbers(self, x: Tensor) -> Tensor:
        """x with its numeric columns in range and on their steps, computed in float64 and rounded to float32."""
        result = x.detach().clone()
        if self._numeric is None:
            return result
        at, low, high, step, most, center, scale = (part.to(x.device) for part in self._numeric)
        raw = (center + scale * result[:, at].double()).clamp(low, high)
        stepped = low + step * ((raw - low) / step).round().minimum(most)
        raw = torch.where(step > 0, stepped, raw)
        result[:, at] = ((raw - center) / scale).float().to(x.dtype)
        return result

    @cached_property
    def _held(self) -> Tensor | None:
        """[d] bool: the elements that never change; None where all may."""
        rises, falls = self._box.rises, self._box.falls
        return None if rises is None or falls is None else ~rises & ~falls

    @cached_property
    def _numeric(self) -> tuple[Tensor, ...] | None:
        """Of the numeric columns: where they are, low, high, step (0: none), most steps, center, scale."""
        both = [(f, s.start) for f, s in zip(self.features, self.slices, strict=True) if f.kind == "number"]
        if not both:
            return None
        rows = [
            (*f.range, f.step or 0.0, math.floor((f.range[1] - f.range[0]) / f.step + 1e-6) if f.step else 0.0,
             f.center, f.scale)
            for f, _ in both
        ]  # fmt: skip
        return (torch.tensor([at for _, at in both]), *torch.tensor(rows, dtype=torch.float64).T)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != self.width or not x.is_floating_point():
            raise InputError(f"Rows of this table must be float [n, {self.width}], not {x.dtype} {tuple(x.shape)}.")

    def inward(self, x: Tensor, clean: Tensor) -> Tensor:
        """[n, d] valid rows on the way from `clean` to x: no element is farther from `clean` than that of x.

        Where `nearest` would go farther, a number takes one step less and a category stays as it was. Raises
        InputError.
        """
        result = self.nearest(x, clean)
        owner, stride = self.owner.to(x.device), self._strides.to(x)
        longer = (result - clean).abs() > (x - clean).abs() * (1 + 1e-5)
        back = torch.where(longer, result - (result - clean).sign() * stride, result)
        return self._numbers(torch.where(self._any(longer, owner) & stride.isnan(), clean, back))

    def whole(self, mask: Tensor) -> Tensor:
        """mask [..., d] bool without the columns of which it has only some elements: a category changes as a whole."""
        return ~self._any(~mask, self.owner.to(mask.device))

    def _any(self, flags: Tensor, owner: Tensor) -> Tensor:
        """[..., d] bool: of any element of the same column."""
        count = torch.zeros((*flags.shape[:-1], len(self.features)), device=flags.device)
        return count.index_add_(-1, owner, flags.to(count.dtype))[..., owner] > 0

    @cached_property
    def owner(self) -> Tensor:
        """[d] int64: the number of the column that an element belongs to."""
        widths = torch.tensor([feature.width for feature in self.features])
        return torch.arange(len(self.features)).repeat_interleave(widths)

    @cached_property
    def _strides(self) -> Tensor:
        """[d] float64: length of an element's steps; 0: it has none, NaN: it is a category."""
        steps = [math.nan if f.kind == "category" else (f.step or 0.0) / f.scale for f in self.features]
        return torch.tensor(steps, dtype=torch.float64)[self.owner]

    @cached_property
    def _box(self) -> Box:
        return self.box()

    def box(self) -> Box:
        """Where encoded rows may be, [d] float32, and which elements may rise and fall (None: all)."""
        ends: list[tuple[float, float]] = []
        for f in self.features:
            ends += [(0.0, 1.0)] * f.width if f.kind == "category" else [tuple(f.encoded(np.array(f.range)).tolist())]
        lower, upper = torch.tensor(ends, dtype=torch.float32).T.contiguous()
        if all(f.change == "free" for f in self.features):
            return Box(lower, upper)
        # The element of one category rises as that of another falls.
        rises = [f.change in ("free", "up") or (f.kind == "category" and f.change == "down") for f in self.features]
        falls = [f.change in ("free", "down") or (f.kind == "category" and f.change == "up") for f in self.features]
        return Box(lower, upper, torch.tensor(rises)[self.owner], torch.tensor(falls)[self.owner])

    # -- files -------------------------------------------------------------------------------------------

    def plain(self) -> dict[str, Any]:
        """Plain JSON values; `from_plain` makes exactly this spec of them."""
        defaults = {field.name: field.default for field in dataclasses.fields(Feature)}
        features = [
            {name: list(value) if isinstance(value, tuple) else value
             for name, value in vars(feature).items() if name in defaults and value != defaults[name]}
            for feature in self.features
        ]  # fmt: skip
        return {"target": self.target, "features": features}

    @classmethod
    def from_plain(cls, plain: object) -> FeatureSpec:
        """The spec that `plain` described. Raises DataError for anything else."""
        features = plain.get("features") if isinstance(plain, dict) else None
        if not isinstance(plain, dict) or not isinstance(features, list) or not isinstance(plain.get("target"), str):
            raise DataError("A feature spec must have a 'target' and a list of 'features'.")
        return cls(features=tuple(map(_from_plain, features)), target=plain["target"])


def _from_plain(plain: object) -> Feature:
    if not isinstance(plain, dict) or not isinstance(plain.get("name"), str):
        raise DataError(f"A column of a feature spec needs a 'name': {str(plain)[:80]!r} has none.")
    kinds: dict[str, type | tuple[type, ...]] = {
        **dict.fromkeys(("name", "kind", "change", "unit"), str),
        **dict.fromkeys(("low", "high", "step", "center", "scale"), (int, float)),
        "values": list,
    }
    for key, value in plain.items():
        if key not in kinds:
            raise DataError(f"Column '{plain['name']}': unknown key '{key}': {did_you_mean(str(key), kinds)}")
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise DataError(f"Column '{plain['name']}': {key} cannot be {value!r:.80}.")
    values = tuple(plain.get("values", ()))
    if not all(isinstance(value, str) for value in values):
        raise DataError(f"Column '{plain['name']}': values must be strings.")
    return Feature(**{**plain, "values": values})


def _one_hot(x: Tensor, feature: Feature, clean: Tensor | None) -> Tensor:
    """[n, categories] one-hot: the largest element of each row; of equal ones that of `clean`, else the first."""
    if clean is None:
        best = x.argmax(dim=1)
    else:
        held = clean.argmax(dim=1)
        place = torch.arange(len(feature.values), device=x.device)
        barred = (place < held[:, None]) & (feature.change == "up") | (place > held[:, None]) & (
            feature.change == "down"
        )
        allowed = x.masked_fill(barred, -math.inf)
        largest, best = allowed.max(dim=1)
        best = torch.where(allowed.gather(1, held[:, None])[:, 0] >= largest, held, best)
    return torch.nn.functional.one_hot(best, len(feature.values)).to(x.dtype)
