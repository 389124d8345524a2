"""Corruptions: a sheet of all of them to look at, and pictures per second beside the outside oracle's.

python -m benchmarks.corruptions --sheet docs/images/corruptions.png
python -m benchmarks.corruptions --speed [--side 32] [--n 256]

The sheet shows two bundled pictures at severities 1 to 5, a row for each corruption. The speed is that of severity 3,
in seconds of a processor: ours in one batch, with everything that is drawn; the oracle's picture after picture, by the
functions of imagecorruptions-imaug with its own parameters, which are those for pictures of 224 pixels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from advex import registry
from advex.data import open_dataset

MARGIN, NAMES, GAP = 4, 130, 2  # pixels of the sheet
SEVERITIES = range(1, 6)


def sheet(path: Path, rows: tuple[int, ...] = (0, 8)) -> None:
    """Bundled pictures at all severities of all corruptions. rows: of the data set."""
    x, scale = open_dataset("cifar10-sample").batch(list(rows)).x, 2
    names = list(registry.entries("corruption"))
    side = 32 * scale + GAP
    columns = (len(SEVERITIES) + 1) * len(rows)
    image = Image.new("RGB", (NAMES + columns * side + MARGIN, len(names) * side + 2 * MARGIN + 14), "white")
    draw = ImageDraw.Draw(image)
    for column in range(columns):
        severity = column % (len(SEVERITIES) + 1)
        draw.text((NAMES + column * side + 2, MARGIN), str(severity) if severity else "as it is", fill="black")
    for line, name in enumerate(names):
        top = MARGIN + 14 + line * side
        made = [x, *(registry.make("corruption", name, severity=each)(x) for each in SEVERITIES)]
        draw.text((MARGIN, top + side // 2 - 6), registry.make("corruption", name).title, fill="black")
        for picture in range(len(rows)):
            for severity, pictures in enumerate(made):
                tile = Image.fromarray((255 * pictures[picture]).round().byte().permute(1, 2, 0).numpy())
                left = NAMES + (picture * len(made) + severity) * side
                image.paste(tile.resize((32 * scale, 32 * scale), Image.Resampling.NEAREST), (left, top))
    image.save(path, optimize=True)


def seconds(call: Callable[[], Any]) -> float:
    """Of a processor: the least of three, after one that is not counted."""
    call()
    times = []
    for _ in range(3):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)


def by_oracle(name: str, x: Tensor) -> Callable[[], Any]:
    """The oracle's corruption of pictures one by one."""
    from imagecorruptions import corruptions as oracle

    arrays = [(255 * each).round().byte().permute(1, 2, 0).numpy() for each in x]
    pictures: list[Any] = (
        [Image.fromarray(each) for each in arrays] if name in ("pixelate", "jpeg_compression") else arrays
    )
    function = getattr(oracle, name)
    return lambda: [np.asarray(function(each, 3)) for each in pictures]


def speed(side: int, n: int) -> None:
    """A line for each corruption."""
    x = open_dataset("cifar10-sample", size=side).batch(slice(None)).x
    x = x.repeat(-(-n // len(x)), 1, 1, 1)[:n]
    print(f"side {side}, {n} pictures, {torch.get_num_threads()} thread(s)")
    print("corruption, pictures per second of one core, the oracle's, ratio")
    for name in registry.entries("corruption"):
        corruption = registry.make("corruption", name, severity=3)
        ours = n / seconds(lambda corruption=corruption: corruption(x))
        theirs = n / seconds(by_oracle(name, x))
        print(f"{name}, {ours:,.0f}, {theirs:,.0f}, {ours / theirs:.1f}", flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--n", type=int, default=256)
    given = parser.parse_args()
    if given.sheet:
        sheet(given.sheet)
    if given.speed:
        speed(given.side, given.n)


if __name__ == "__main__":
    main()
