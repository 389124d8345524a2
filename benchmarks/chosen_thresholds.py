"""How often an interval claims a difference between two equal explainers, where a threshold is chosen on the pictures.

    python -m benchmarks.chosen_thresholds --pictures 40 --tables 400

Two explainers' tables of IoUs, by picture and threshold (rule `mean`), drawn alike: each picture's rises to a peak
near a best threshold of its own, and falls. Of the hits, with thresholds chosen on the other half, the shares of
tables whose paired 95 % interval excludes zero: with thresholds kept as they were chosen, and chosen anew on every
resample; and whose test of sign flips has p < 0.05.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from advex.measures.boxes import NO_BOX, SIDES
from advex.measures.intervals import bootstrap, percentiles
from advex.measures.localisation import Localisation
from advex.measures.paired_tests import sign_flips

GRID = torch.arange(1, 211) / 20  # of the rule `mean`


def overlaps(n: int, rng: torch.Generator) -> Tensor:
    """[n, 210] IoUs, NO_BOX where no pixel is strong enough."""
    peak = 1.5 + 1.2 * torch.randn(n, 1, generator=rng).abs()
    height = 0.2 + 0.7 * torch.rand(n, 1, generator=rng)
    width = 0.3 + 0.8 * torch.rand(n, 1, generator=rng)
    made = height * torch.exp(-0.5 * ((GRID - peak) / (width * peak)) ** 2)
    made = (made + 0.08 * torch.randn(n, len(GRID), generator=rng)).clamp(0, 1).double()
    return made.masked_fill(GRID.expand(n, -1) > 4 * peak, NO_BOX)


def excludes_zero(estimates: Tensor) -> bool:
    low, high = percentiles(estimates)
    return low > 0 or high < 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--tables", type=int, default=400)
    options = parser.parse_args()
    n, measure = options.pictures, Localisation(rule="mean")
    rng = torch.Generator().manual_seed(n)
    counts = torch.zeros(3)
    for table in range(options.tables):
        draw = torch.rand(n, 1, generator=rng).double()  # which half a picture is in
        known = [draw, torch.ones(n, 1).double(), torch.zeros(n, len(SIDES)).double()]
        first, second = (torch.cat([*known, overlaps(n, rng)], dim=1) for _ in range(2))
        change = measure.settle(first).values[""] - measure.settle(second).values[""]

        def anew(c: Tensor, first: Tensor = first, second: Tensor = second) -> Tensor:
            return measure.resampled(first, c)[""] - measure.resampled(second, c)[""]

        kept = bootstrap(n, lambda c, change=change: c @ change / n, 0)
        p = float(sign_flips(change[:, None], table)[0])
        counts += torch.tensor([excludes_zero(kept), excludes_zero(bootstrap(n, anew, 0)), p < 0.05])
    kept, anew_share, test = (counts / options.tables).tolist()
    print(
        f"{n} pictures, {options.tables} tables: kept {kept:.1%}, chosen anew {anew_share:.1%}, sign flips {test:.1%}"
    )


if __name__ == "__main__":
    main()
