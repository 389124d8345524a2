"""Opening pictures with and without a cache: seconds, anonymous memory, and batches from either.

    python -m benchmarks.loading [--pictures 3000,12000] [--side 224]

Makes its own JPEG files of 500x375. Each opening is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

OPEN = """
import json, sys, time
import torch
import advex
from advex.data.dataset import content
def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) / 1024
before, began = anonymous(), time.perf_counter()
data = advex.open_dataset(sys.argv[1], size=int(sys.argv[2]))
opened, memory = time.perf_counter() - began, anonymous() - before
began = time.perf_counter()
digest = content(data)
digested = time.perf_counter() - began
order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
rates = []
for _ in range(2):  # the second with its pages in memory
    began = time.perf_counter()
    for rows in order.split(48):
        data.batch(rows)
    rates.append(len(data) / (time.perf_counter() - began))
said = {"seconds": opened, "MiB": memory, "digest": digest, "digest seconds": digested, "images/s": rates[1]}
print(json.dumps(said))
"""


def pictures(folder: Path, count: int) -> None:
    """JPEG files of two classes, of smooth noise."""
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)


def opened(folder: Path, side: int, cache: Path | None) -> dict[str, float | str]:
    """What one process measures."""
    environment = {name: value for name, value in os.environ.items() if name != "ADVEX_CACHE"}
    environment |= {} if cache is None else {"ADVEX_CACHE": str(cache)}
    command = [sys.executable, "-c", OPEN, str(folder), str(side)]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", default="3000,12000")
    parser.add_argument("--side", type=int, default=224)
    options = parser.parse_args()
    print("| pictures | opened | seconds | anonymous MiB | digest seconds | images/s |\n|---|---|---|---|---|---|")
    for count in map(int, options.pictures.split(",")):
        with tempfile.TemporaryDirectory() as place:
            folder, cache = Path(place) / "photos", Path(place) / "cache"
            pictures(folder, count)
            runs = {"in memory": opened(folder, options.side, None)}
            runs["into the cache"] = opened(folder, options.side, cache)
            runs["from the cache"] = opened(folder, options.side, cache)
            assert len({run["digest"] for run in runs.values()}) == 1
            for name, run in runs.items():
                print(
                    f"| {count:,} | {name} | {run['seconds']:.2f} | {run['MiB']:.0f} | {run['digest seconds']:.2f} | "
                    f"{run['images/s']:,.0f} |"
                )


if __name__ == "__main__":
    main()
