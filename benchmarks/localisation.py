"""CPU milliseconds for the boxes of one map at all 250 thresholds: `python -m benchmarks.localisation`."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
from scipy import ndimage

from advex.measures.localisation import Localisation, overlaps


def main(side: int = 64, rounds: int = 50) -> None:
    """Prints the least and the median of some rounds for maps that are smooth, noise, or few peaks."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((side, side))
    maps = {"smooth": ndimage.gaussian_filter(noise, 3), "noise": np.abs(noise), "peaks": np.abs(noise) ** 3}
    truth = np.array([[10, 10, 40, 30]])
    for name, values in maps.items():
        for components in ("largest", "all"):
            measure, seconds = Localisation(rule="best", components=components), []
            for _ in range(rounds):
                start = time.process_time()
                unit = measure._unit(values)
                assert unit is not None
                overlaps(unit, measure._thresholds(unit), truth, every=components == "all")
                seconds.append(time.process_time() - start)
            print(f"{name}, {components}: {1000 * min(seconds):.1f} ms at least, {1000 * median(seconds):.1f} median")


if __name__ == "__main__":
    main()
