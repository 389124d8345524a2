"""Whether a map lies along the input that it explains."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from advex.distances.channels import Channels, per_pixel
from advex.distances.cosine import one_minus_cosine
from advex.measures.case import Case, Need, Of, measure


@measure("along_input", cites="singh2020 Fig. 6", examples=("anchor=raw,channels=sum",))
class AlongInput:
    """cos(x, map): 1 if the map is a positive multiple of the input, 0 if they have nothing in common.

    Of a gradient it is what the training of Singh et al. raises where all channels have one deviation: theirs is by
    the elements that the network sees. Where all elements of x are positive, so is most of
    it for a map that is nearly constant. anchor: x as the network sees it (`normalised`), or `raw`; the map stays as it
    is. channels: of both (see `distances.channels`).
    """

    anchor: Literal["normalised", "raw"] = "normalised"
    channels: Channels = "none"

    title: ClassVar[str] = "Cosine of input and map"
    better: ClassVar[Literal["neither"]] = "neither"
    of: ClassVar[Of] = "shape"
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    scale_free: ClassVar[bool] = True

    def __call__(self, case: Case) -> Tensor:
        x = case.classifier.normalised(case.x) if self.anchor == "normalised" else case.x
        maps, anchor = (
            per_pixel(each.detach().double(), self.channels).flatten(1) for each in (case.explanation.map, x)
        )
        apart = 1 - one_minus_cosine(maps, anchor)  # NaN where the map is zero
        return torch.where((anchor == 0).all(dim=1), torch.nan, apart)
