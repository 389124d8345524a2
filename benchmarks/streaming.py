"""Training on pictures that are read when they are needed: what reading costs, how long it is waited for, memory.

    python -m benchmarks.streaming [--pictures 300] [--steps 8] [--rounds 2] [--parts cost,waits,memory]

Makes its own JPEG files of 500x375. `waits` trains a pre-activation ResNet-18 on squares of 224, 16 to a step, from
shorter sides of 256 to 480, with each number of threads in turn; the share of a step's time (by the clock) in which the
network waits for its pictures, without the first step of an epoch, before which nothing can have been read.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advex.data import Streaming, open_dataset, open_streamed
from advex.data.images import decode
from advex.data.images.streamed import Streamed
from advex.recipes import recipe_from
from advex.training import train
from advex.training.run import Run
from benchmarks.loading import pictures

NETWORK = "preact_resnet:depth=18,widths=64-128-256-512,stem=imagenet,activation=relu"
RULE = Streaming((256, 480), 224)


def anonymous() -> float:
    """MiB of memory that is not of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def processor() -> float:
    """Seconds that all threads have worked."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def opened(folder: Path, rule: Streaming = RULE, size: int | None = None) -> Streamed:
    """The pictures, none of them held."""
    data = open_streamed(folder, rule, size=size)
    assert data is not None
    return data


def cost(folder: Path, count: int, rounds: int) -> None:
    """Processor milliseconds a picture."""
    print("| | ms a picture |\n|---|--:|")
    few = {"its head alone": 0.0, "decoded in memory, at 224": 0.0, "streamed, at 224": 0.0, "streamed, drawn": 0.0}
    for _ in range(rounds):
        drawn, files = opened(folder), list(folder.glob("*/*.jpg"))
        began = processor()
        for path in files:
            decode.header(path)
        few["its head alone"] += processor() - began
        began = processor()
        open_dataset(folder, size=224)
        few["decoded in memory, at 224"] += processor() - began
        for name, data in (("streamed, at 224", opened(folder, Streaming(), 224)), ("streamed, drawn", drawn)):
            began = processor()
            with decode.quiet():
                for rows in torch.randperm(count, generator=torch.Generator().manual_seed(0)).split(16):
                    data.pixels(rows, seed=0, epoch=1)
            few[name] += processor() - began
    for name, seconds in few.items():
        print(f"| {name} | {1000 * seconds / rounds / count:.2f} |")


@contextlib.contextmanager
def watched(waits: list[float]) -> Iterator[None]:
    """Inside, the seconds that runs wait for their pictures are kept."""
    reading = Run.reading

    @contextlib.contextmanager
    def timed(run: Run, *arguments: Any, **options: Any) -> Iterator[Iterator[Tensor]]:
        def each(read: Iterator[Tensor]) -> Iterator[Tensor]:
            while True:
                began = time.perf_counter()
                pixels = next(read, None)
                waits.append(time.perf_counter() - began)
                if pixels is None:
                    return
                yield pixels

        with reading(run, *arguments, **options) as read:
            yield each(read)

    Run.reading = timed  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        Run.reading = reading


def waits(folder: Path, steps: int, rounds: int) -> None:
    """Share of the time of a step in which it waits."""
    settings = {"network": NETWORK, "resize": {"shorter": [256, 480]}, "crop": 224, "batch_size": 16, "epochs": 1}
    recipe = recipe_from({**settings, "flip": True, "robust_every": 0})
    data = open_streamed(folder, RULE, max_samples=16 * steps)
    assert data is not None
    print("| round | threads | seconds a step | waiting, seconds a step | share |\n|--:|--:|--:|--:|--:|")
    for number in range(1, rounds + 1):
        for threads in (0, 1, 2):
            waited: list[float] = []
            rates: list[float] = []
            with watched(waited):
                train(recipe, data, None, threads=threads, report=lambda line: rates.append(line["rate"]))  # noqa: B023
            took = [16 / rate for rate in rates[1:steps]]
            mean, wait = sum(took) / len(took), sum(waited[2 : steps + 1]) / (steps - 1)  # the first two: a rehearsal
            print(f"| {number} | {threads} | {mean:.2f} | {wait:.4f} | {wait / mean:.2%} |", flush=True)


def memory(folder: Path, count: int) -> None:
    """Anonymous memory in the course of four epochs of a small network."""
    settings = {"network": "small_cnn:widths=4-8-8", "resize": {"shorter": [256, 480]}, "crop": 224, "epochs": 4}
    recipe = recipe_from({**settings, "batch_size": 16, "robust_every": 0})
    data, seen = opened(folder), list[float]()
    train(recipe, data, None, threads=2, report=lambda line: seen.append(anonymous()) if "epoch" not in line else None)
    steps = len(seen) // 4
    largest = [max(seen[start : start + steps]) for start in range(0, len(seen), steps)]
    print(f"anonymous MiB, largest of each epoch ({count} pictures): {', '.join(f'{each:.0f}' for each in largest)}")


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--parts", default="cost,waits,memory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        pictures(Path(place), options.pictures)
        if "cost" in options.parts:
            cost(Path(place), options.pictures, options.rounds)
        if "waits" in options.parts:
            waits(Path(place), options.steps, options.rounds)
        if "memory" in options.parts:
            memory(Path(place), options.pictures)


if __name__ == "__main__":
    main()
