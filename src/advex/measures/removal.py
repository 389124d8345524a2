"""What the answer loses while an input's pixels or columns are taken away, and gains while they come back."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from advex.distances.channels import Channels
from advex.errors import SpecError
from advex.explainers.filling import Fill, filled
from advex.explainers.outputs import Rising as Output
from advex.measures.case import Better, Case, Measured, Need, Of, measure
from advex.measures.pixels import outputs, over, places, ranks
from advex.options import Count, with_options


@with_options
class _Removal:
    steps: Count = 32
    output: Output = "probability"
    channels: Channels = "max_abs"
    published: bool = False

    of: ClassVar[Of] = "faithful"
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    scale_free: ClassVar[bool] = True
    traces: ClassVar[bool] = True

    def __post_init__(self) -> None:
        named = [name for name, default in self._usual.items() if getattr(self, name) != default]
        if self.published and named:
            raise SpecError(f"published=true already sets {' and '.join(named)}: omit them.")

    @property
    def _usual(self) -> dict[str, object]:
        """What `published` says itself, at its default."""
        fill = type(self).fill  # pyright: ignore[reportAttributeAccessIssue]
        return {"steps": _Removal.steps, "output": _Removal.output, "channels": _Removal.channels, "fill": fill}

    def curve(self, case: Case, fill: Fill, *, back: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The output [n, steps + 1] after each step, what share of the pixels had their turn, and what is undefined.

        back: pixels come back, else they go.
        """
        values, undefined = places(case, self.channels)
        rank = ranks(case, values)
        size = values[0].numel() if len(values) else 1
        steps = case.x.shape[2] if self.published and case.x.ndim == 4 else min(self.steps, size)
        cuts = torch.tensor([round(k * size / steps) for k in range(steps + 1)], device=rank.device)
        empty = filled(case.classifier, case.x, fill)

        def points(i: Tensor, k: Tensor) -> Tensor:
            first = over(case, rank[i] < cuts[k].reshape(-1, *[1] * (rank.ndim - 1)))
            return torch.where(first == back, case.x[i], empty[i])

        return outputs(case, points, steps + 1, self.output), cuts.double() / size, undefined

    def check(self, case: Case) -> None:
        """Raise SpecError for what cannot stand in the place of a table's columns."""
        filled(case.classifier, case.x, self.fill)  # pyright: ignore[reportAttributeAccessIssue]

    def area(self, case: Case, fill: Fill, *, back: bool) -> Measured:
        """The area under that curve by the trapezoid rule, over the share of pixels from 0 to 1."""
        curve, shares, undefined = self.curve(case, fill, back=back)
        trace = {f"{share:.4g}": curve[:, k] for k, share in enumerate(shares.tolist())}
        return Measured(value=torch.trapezoid(curve, shares, dim=1), undefined=undefined, trace=trace)


@measure(
    "deletion", cites="petsiuk2018 (RISE), deletion", examples=("fill=grey,steps=4,output=logit", "published=true")
)
class Deletion(_Removal):
    """Area under the curve of the output as pixels are removed, strongest first: low if these pixels matter.

    Of rows the columns, with fill=mean alone; in as many steps as there are columns, if these are fewer.
    steps: in which equal shares of the pixels go. fill: what stands in their place: the colour that the network is
    normalised by (mean; what RISE's code does), grey, or the blurred picture. output: probability or logit.
    channels: how those of a pixel become one value. Equal pixels go in an order by chance. published: as RISE's code
    has it, as many pixels a step as a row of the picture has: at 224 x 224 pixels 224 steps.
    """

    fill: Fill = "mean"

    title: ClassVar[str] = "Deletion"
    better: ClassVar[Better] = "low"

    def __call__(self, case: Case) -> Measured:
        return self.area(case, self.fill, back=False)


@measure(
    "insertion", cites="petsiuk2018 (RISE), insertion", examples=("fill=mean,steps=4,output=logit", "published=true")
)
class Insertion(_Removal):
    """Area under the curve of the output as pixels are put back, strongest first: high if these pixels matter.

    Of rows the columns, with fill=mean alone; in as many steps as there are columns, if these are fewer.
    steps: in which equal shares of the pixels come. fill: what the picture begins as: blurred (what RISE's code does),
    grey, or the colour that the network is normalised by (mean). output: probability or logit. channels: how
    those of a pixel become one value. Equal pixels come in an order by chance. published: as RISE's code has it, as
    many pixels a step as a row of the picture has: at 224 x 224 pixels 224 steps.
    """

    fill: Fill = "blur"

    title: ClassVar[str] = "Insertion"
    better: ClassVar[Better] = "high"

    def __call__(self, case: Case) -> Measured:
        return self.area(case, self.fill, back=True)
